# SPDX-License-Identifier: MIT
"""Seeding: a replica filled from a tree, beside cp and rsync; and passes that find nothing to do."""

import errno
import os
import random
import select
import shutil
import struct
import subprocess
import time

from . import verify
from .peers import Mirror, NotOffered
from .system import Trouble, cpu_seconds, drop_caches, have, memory_kib, note, read, run, unmount

KIB, MIB = 1 << 10, 1 << 20

# files: small ones of 0 to 16 KiB; large: how many of large_mib; links: further names of small files;
# xattrs: small files that have some; sparse_mib: what one file pretends to be. image: MiB.
SIZES = {
    "tiny": dict(files=400, large=2, large_mib=20, links=20, xattrs=20, sparse_mib=64, image=128),
    "normal": dict(files=10_000, large=1, large_mib=1024, links=100, xattrs=100, sparse_mib=256,
                   image=1536),
    "full": dict(files=50_000, large=3, large_mib=1024, links=500, xattrs=500, sparse_mib=1024,
                 image=4352),
}
FAN = 50  # files in a directory
STRETCH, APART = 64 * KIB, 4 * MIB  # of the sparse file: what is written, and how far apart
SMALL_MAX = 16 * KIB
DEFAULT = ["mirrorfs", "mirrorfs-live", "cp", "rsync"]

STAMPS = ("trusted.mirrorfs.stamp", "user.mirrorfs.stamp")
STAMP_FILE = ".mirrorfs-stamp"
# How soon and how often it is looked at what memory a process has had at most, in seconds.
GLANCES = (0.001, 0.02)


def inodes(sizes):
    return sizes["files"] * 2 + 2000


# ------------------------------------------------------------------------------------- the tree

def acl(user):
    """An access ACL as Linux keeps it: rw for the owner and one more user, r for all others."""
    none = 0xffffffff
    entries = ((1, 6, none), (2, 6, user), (4, 4, none), (0x10, 6, none), (0x20, 4, none))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def make_tree(top, sizes, seed=5):
    """The same tree every time. Nothing in it is all zeros but the holes of `sparse`."""
    rng = random.Random(seed)
    pool = rng.randbytes(MIB)
    names = []
    for i in range(sizes["files"]):
        if i % FAN == 0:
            directory = os.path.join(top, f"part{i // FAN % 17}", f"unit{i // FAN}")
            os.makedirs(directory)
            os.symlink(f"file{i}", os.path.join(directory, "first"))
        name = os.path.join(directory, f"file{i}")
        size = rng.randint(0, SMALL_MAX)
        at = rng.randrange(MIB - SMALL_MAX)
        with open(name, "wb") as file:
            file.write(pool[at:at + size])
            os.fchmod(file.fileno(), rng.choice((0o644, 0o600, 0o755)))
            if i % 9 == 0:
                os.fchown(file.fileno(), 1000, 1000)
        names.append(name)
    for i, name in enumerate(rng.sample(names, sizes["xattrs"])):
        os.setxattr(name, "user.note", rng.randbytes(rng.randint(1, 400)))
        if i % 10 == 0:
            os.setxattr(name, "system.posix_acl_access", acl(1000))
    for i, name in enumerate(rng.sample(names, sizes["links"])):
        os.link(name, os.path.join(os.path.dirname(rng.choice(names)), f"link{i}"))
    for i in range(sizes["large"]):
        with open(os.path.join(top, f"large{i}"), "wb") as file:
            for _ in range(sizes["large_mib"]):
                at = rng.randrange(MIB)
                file.write(pool[at:] + pool[:at])
    with open(os.path.join(top, "sparse"), "wb") as file:
        for at in range(APART, sizes["sparse_mib"] * MIB, APART):
            file.seek(at)
            file.write(pool[:STRETCH])
        file.truncate(sizes["sparse_mib"] * MIB)
    for directory, _, files in os.walk(top, topdown=False):
        for name in (*(os.path.join(directory, file) for file in files), directory):
            second = rng.randrange(1_000_000_000, 1_700_000_000)
            when = second * 10**9 + rng.randrange(10**9)
            os.utime(name, ns=(when, when), follow_symlinks=False)


def take_stamps_away(top):
    """A tree that no mirror knows: otherwise it would not be seeded but continued."""
    for name in STAMPS:
        try:
            os.removexattr(top, name)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
    if os.path.exists(os.path.join(top, STAMP_FILE)):
        os.unlink(os.path.join(top, STAMP_FILE))


# ------------------------------------------------------------------------------- is it a copy?

class Kept:
    """What a tree holds: names, metadata, xattrs, which names are one file, what is not hole."""

    def __init__(self, top):
        self.top = top
        self.entries = verify.manifest(top, (STAMP_FILE,))
        self.xattrs, self.blocks, groups = {}, {}, {}
        for name in [*self.entries, ""]:
            path = os.path.join(top, name) if name else top
            found = os.listxattr(path, follow_symlinks=False)
            self.xattrs[name] = {x: os.getxattr(path, x, follow_symlinks=False)
                                 for x in found if x not in STAMPS}
            s = os.lstat(path)
            self.blocks[name] = s.st_blocks * 512
            if name and self.entries[name][3] > 1:
                groups.setdefault(s.st_ino, []).append(name)
        self.groups = sorted(sorted(names) for names in groups.values())
        s = os.stat(top)
        self.root = (s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns)

    def differences(self, other):
        """Complaints about `other`, which should be a copy of this one."""
        said = verify.differences(self.entries, other.entries)
        said += [f"{name or '/'}: xattrs differ" for name, held in self.xattrs.items()
                 if name in other.xattrs and other.xattrs[name] != held]
        if self.groups != other.groups:
            said.append("other names are one file")
        if self.root != other.root:
            said.append("the roots' attributes differ")
        for name, entry in self.entries.items():
            # Of those the manifest holds no whole checksum.
            if name not in other.entries or entry[4] <= 16 * verify.SAMPLE:
                continue
            here, there = (os.path.join(tree.top, name) for tree in (self, other))
            if subprocess.run(["cmp", "-s", here, there], check=False).returncode != 0:
                said.append(f"{name}: content differs")
            if other.blocks[name] > self.blocks[name] * 1.1 + MIB:
                said.append(f"{name}: holes were filled")
        return said


# ---------------------------------------------------------------------------------- measuring

def family(pid):
    """A process and all below it."""
    found = [pid]
    for one in found:
        tasks = f"/proc/{one}/task"
        try:
            threads = os.listdir(tasks)
        except OSError:
            continue
        for thread in threads:
            found += [int(word) for word in read(f"{tasks}/{thread}/children").split()]
    return found


class Cost:
    """What some commands took, one after the other: wall-clock and CPU seconds, the most memory of
    all processes of one of them together."""

    def __init__(self):
        self.began = time.monotonic()
        self.cpu, self.peak_kib = 0.0, 0

    def run(self, *words, silent=False, **options):
        """Runs a command that must succeed; `silent`: and say nothing."""
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, **options)
        seen, said, glance = {}, b"", GLANCES[0]
        # Reading ends when the last process that could say something has ended.
        while True:
            ready, _, _ = select.select([process.stdout], [], [], glance)
            if ready:
                more = os.read(process.stdout.fileno(), 1 << 16)
                if not more:
                    break
                said += more
                continue
            for pid in family(process.pid):
                seen[pid] = max(seen.get(pid, 0), memory_kib(pid, "VmHWM"))
            glance = min(2 * glance, GLANCES[1])
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        self.cpu += usage.ru_utime + usage.ru_stime
        self.peak_kib = max(self.peak_kib, sum(seen.values()))
        if process.returncode != 0 or (silent and said):
            text = said.decode(errors="replace").strip()
            raise Trouble(f"{' '.join(words[:4])}: exit code {process.returncode}: {text[-400:]}")

    def sample(self):
        return {"seconds": time.monotonic() - self.began, "cpu": self.cpu,
                "peak_kib": self.peak_kib}


class Way:
    """One way to a copy. Each verb returns what it took; nothing where it has no such verb."""

    again = None
    verify = None

    def __init__(self, name, about):
        self.name, self.about = name, about

    def check(self):
        """Raises NotOffered when a program is missing."""

    def programs(self):
        """Files that are in memory before anything is measured."""
        return [self.name, "sync"]

    def end(self):
        """Puts away what `seed` left running."""


class Cp(Way):
    def check(self):
        if not have("cp"):
            raise NotOffered("cp is not installed")

    def seed(self, primary, replica):
        cost = Cost()
        cost.run("cp", "-a", f"{primary}/.", replica)
        cost.run("sync", "-f", replica)
        return cost.sample()


class Rsync(Way):
    WORDS = ("rsync", "-aHAXS")

    def check(self):
        if not have("rsync"):
            raise NotOffered("rsync is not installed")

    def seed(self, primary, replica):
        cost = Cost()
        cost.run(*self.WORDS, f"{primary}/", f"{replica}/")
        cost.run("sync", "-f", replica)
        return cost.sample()

    def again(self, primary, replica):
        return self._finds_nothing(primary, replica)

    def verify(self, primary, replica):
        return self._finds_nothing(primary, replica, "--checksum", "--dry-run")

    def _finds_nothing(self, primary, replica, *words):
        cost = Cost()
        cost.run(*self.WORDS, "--itemize-changes", *words, f"{primary}/", f"{replica}/",
                 silent=True)
        return cost.sample()


class Offline(Way):
    """`mirrorfs sync --init`, which syncs both file systems before it calls them in-sync."""

    def __init__(self, name, binary, state, about):
        super().__init__(name, about)
        self.binary, self.state = binary, state
        self.environment = dict(os.environ, STATE_DIRECTORY=state)

    def check(self):
        if not os.access(self.binary, os.X_OK):
            raise NotOffered(f"no program at {self.binary}")

    def programs(self):
        return [self.binary]

    def seed(self, primary, replica):
        return self._run("sync", "--init", primary, replica)

    def again(self, primary, replica):
        return self._run("sync", primary, replica)

    def verify(self, primary, replica):
        return self._run("verify", primary, replica)

    def _run(self, *words):
        cost = Cost()
        cost.run(self.binary, *words, env=self.environment)
        return cost.sample()


class Live(Way):
    """A mount of an empty replica; the end is where `mirrorfs sync MOUNTPOINT` returns, when both
    copies are durable."""

    def __init__(self, name, binary, state, mountpoint, about):
        super().__init__(name, about)
        self.mirror = Mirror(name, binary, (), about)
        self.binary, self.state, self.mountpoint = binary, state, mountpoint

    def check(self):
        self.mirror.check()

    def programs(self):
        return [self.binary]

    def seed(self, primary, replica):
        os.makedirs(self.mountpoint, exist_ok=True)
        cost = Cost()
        cost.run(self.binary, "mount", primary, self.mountpoint, "--replica", replica,
                 "--state-dir", self.state)
        usable = time.monotonic() - cost.began
        cost.run(self.binary, "sync", self.mountpoint)
        sample = cost.sample()
        status = self.mirror.status(self.mountpoint)
        pid = int(status["pid"])
        self.mirror.pids = [pid]  # umount waits for its end
        if status["state"] != "in-sync":
            raise Trouble(f"the mirror is {status['state']} after sync")
        sample.update(cpu=cost.cpu + cpu_seconds(pid), peak_kib=memory_kib(pid, "VmHWM"),
                      usable=usable)
        return sample

    def end(self):
        self.mirror.unmount(self.mountpoint)
        unmount(self.mountpoint)


def temperatures(options):
    """Those that `--only` leaves of what the ground offers: there is no cold on a disk in memory."""
    offered = ["warm", "cold"] if options.ground == "disk" else ["warm"]
    if wrong := set(options.only) - set(offered):
        raise Trouble(f"--seeding --ground {options.ground} --only takes {' or '.join(offered)}, "
                      f"not {', '.join(sorted(wrong))}")
    return [one for one in offered if not options.only or one in options.only]


def way(name, options, state, mountpoint):
    base = name.removesuffix("-live")
    if base in ("mirrorfs", "against"):
        binary = options.binary if base == "mirrorfs" else options.against
        if binary is None:
            raise Trouble("the contestant `against` needs --against BINARY")
        other = "" if base == "mirrorfs" else f", {binary}"
        if base == name:
            about = "mirrorfs sync --init PRIMARY REPLICA, not mounted, syncs both file systems"
            return Offline(name, binary, state, about + other)
        about = ("mirrorfs mount of an empty replica, until mirrorfs sync MOUNTPOINT returns: "
                 "a checkpoint, both file systems synced")
        return Live(name, binary, state, mountpoint, about + other)
    known = {"cp": lambda: Cp(name, "cp -a, then sync -f of the copy"),
             "rsync": lambda: Rsync(name, "rsync -aHAXS, then sync -f of the copy")}
    if name not in known:
        raise Trouble(f"--seeding knows no contestant {name}; known: {', '.join(DEFAULT)}, "
                      "against, against-live")
    return known[name]()


class Disk:
    """The device of a file system of ours: what was read from it, and whether its image is cold."""

    def __init__(self, place):
        self.image = f"{place}.img"
        device = os.stat(place).st_dev
        self.counters = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat"

    def bytes_read(self):
        return int(read(self.counters).split()[2]) * 512

    def chill(self):
        """The image's own pages, where the loop device goes through the cache."""
        descriptor = os.open(self.image, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
        if not have("fincore"):
            raise Trouble("without fincore nobody knows whether the image is cold")
        held = int(run("fincore", "--bytes", "--noheadings", "--output", "RES", self.image))
        if held > os.path.getsize(self.image) // 100:
            raise Trouble(f"{self.image} is not cold: {held >> 20} MiB of it are in memory")


class Seeding:
    """One tree, made once; in each round every contestant copies it into a fresh directory."""

    def __init__(self, ways, ground, sizes, state, rounds, temperatures):
        self.ways, self.ground, self.sizes = list(ways), ground, sizes
        self.state, self.rounds, self.temperatures = state, rounds, temperatures
        self.samples, self.failures, self.missing, self.tree = [], [], {}, {}

    def run(self):
        for one in list(self.ways):
            try:
                one.check()
            except NotOffered as why:
                note(f"{one.name}: left out: {why}")
                self.missing[one.name] = str(why)
                self.ways.remove(one)
        self.primary = os.path.join(self.ground.places[0], "primary")
        os.mkdir(self.primary)
        make_tree(self.primary, self.sizes)
        self.ground.flush()
        self.disks = [Disk(place) for place in self.ground.places]
        self.kept = Kept(self.primary)
        self.tree = {"names": len(self.kept.entries),
                     "bytes": sum(size for name, size in self.kept.blocks.items())}
        for number in range(self.rounds):
            turn = number % max(1, len(self.ways))
            for one in self.ways[turn:] + self.ways[:turn]:
                for temperature in self.temperatures:
                    began = time.monotonic()
                    try:
                        self._one(number, one, temperature)
                    except Exception as trouble:  # the others go on
                        note(f"FAILED: {one.name}, {temperature}: {trouble}")
                        self.failures.append({"round": number, "contestant": one.name,
                                              "row": temperature, "why": str(trouble)})
                    note(f"round {number + 1} of {self.rounds}: {one.name}, {temperature}: "
                         f"{time.monotonic() - began:.1f} s")
        said = self.kept.differences(Kept(self.primary))
        if said:
            raise Trouble(f"the primary is not what it was: {said[0]}")

    def _one(self, number, one, temperature):
        replica = os.path.join(self.ground.places[-1], f"replica-{one.name}")
        os.makedirs(self.state, exist_ok=True)
        os.mkdir(replica)
        try:
            try:
                self._measure(number, one, f"seed-{temperature}", one.seed, replica)
            finally:
                one.end()
            said = self.kept.differences(Kept(replica))
            if said:
                raise Trouble(f"it is no copy: {said[0]}, and {len(said) - 1} more")
            for verb in ("again", "verify"):
                if act := getattr(one, verb):
                    self._measure(number, one, f"{verb}-{temperature}", act, replica)
        finally:
            run("rm", "-rf", "--one-file-system", replica, self.state)
            take_stamps_away(self.primary)
            self.ground.flush()

    def _measure(self, number, one, row, act, replica):
        if row.endswith("-cold"):
            drop_caches(*self.ground.places)
            for disk in self.disks:
                disk.chill()
        else:
            for tree in dict.fromkeys((self.primary, replica)):
                # The sparse file is left out: who copies it well does not read its holes.
                subprocess.run(["find", tree, "-type", "f", "-not", "-name", "sparse", "-exec",
                                "cat", "{}", "+"], stdout=subprocess.DEVNULL, check=True)
            self.ground.flush()
        for program in one.programs():
            with open(shutil.which(program), "rb") as file:
                file.read()
            run(program, "--version")
        before = [disk.bytes_read() for disk in self.disks]
        sample = act(self.primary, replica)
        now = [disk.bytes_read() for disk in self.disks]
        sample.update(round=number, contestant=one.name, row=row,
                      read_bytes=sum(now) - sum(before))
        self.samples.append(sample)

    def result(self):
        return {"seeding": self.sizes, "tree": self.tree,
                "contestants": [{"name": w.name, "copies": 2, "about": w.about}
                                for w in self.ways],
                "samples": self.samples, "memory": [], "missing": self.missing,
                "failures": self.failures}
