# SPDX-License-Identifier: MIT
"""The contestants: how each is mounted, which processes it is, how it is unmounted."""

import json
import os
import resource
import subprocess

from .system import (Trouble, cpu_seconds, end_pid, end_process, have, memory_kib, mounted, run,
                     unmount, wait_until)


class NotOffered(Exception):
    """This contestant cannot take part; the message says why."""


class Contestant:
    """One way of keeping files. `copies` says how many copies it keeps.

    `mount` makes `mountpoint` show `primary` (and keep `replica`), and returns where to work.
    """

    copies = 1
    dual = False  # our own programs write both copies, there is no mount
    drains = 2.0  # how long work may trail behind the last answer, at most
    patience = 1  # divides the number of operations, for the very slow
    about = ""
    only = ()  # the only rows it does
    root_only = False  # other users cannot work in it
    below = ""  # where in the replica's directory its copy is

    def __init__(self, name):
        self.name = name
        self.pids = []

    def check(self):
        """Raises NotOffered when a program is missing."""

    def mount(self, primary, replica, mountpoint):
        raise NotImplementedError

    def unmount(self, mountpoint):
        unmount(mountpoint)

    def settle(self, mountpoint):
        """Forgets what is under way, if it keeps account of that."""

    def cpu(self):
        return sum(cpu_seconds(pid) for pid in self.pids)

    def peak_kib(self):
        return sum(memory_kib(pid, "VmHWM") for pid in self.pids)

    def resident_kib(self):
        return sum(memory_kib(pid, "VmRSS") for pid in self.pids)


class Native(Contestant):
    about = "no FUSE, one copy"

    def mount(self, primary, replica, mountpoint):
        return primary

    def unmount(self, mountpoint):
        pass


class Dual(Native):
    about = "no FUSE: the program itself does everything on one tree, then on the other"
    copies = 2
    dual = True


class Mirror(Contestant):
    copies = 2

    def __init__(self, name, binary, options, about):
        super().__init__(name)
        self.binary, self.options = binary, options
        self.about = about + "".join(f" -o {option}" for option in options)
        if "mode=async" in options:
            self.drains = 60.0

    def check(self):
        if not os.access(self.binary, os.X_OK):
            raise NotOffered(f"no program at {self.binary}")

    def mount(self, primary, replica, mountpoint):
        words = [self.binary, "mount", primary, mountpoint, "--replica", replica]
        for option in self.options:
            words += ["-o", option]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            said = done.stderr.strip()
            # 1 is the exit code for words it does not know or cannot do yet.
            if done.returncode == 1 and self.options:
                raise NotOffered(said.splitlines()[0] if said else "refused")
            raise Trouble(f"mount: exit code {done.returncode}: {said}")
        self.pids = [int(self.status(mountpoint)["pid"])]
        return mountpoint

    def status(self, mountpoint):
        done = subprocess.run([self.binary, "status", "--json", mountpoint], capture_output=True,
                              text=True, timeout=60)
        return json.loads(done.stdout)

    def settle(self, mountpoint):
        # An older mirrorfs has no log, and no such verb.
        subprocess.run([self.binary, "sync", mountpoint], capture_output=True, timeout=120)

    def unmount(self, mountpoint):
        if not mounted(mountpoint):
            return
        try:
            state = self.status(mountpoint).get("state")
        except (ValueError, subprocess.SubprocessError):
            state = "unknown"
        run(self.binary, "umount", mountpoint)
        for pid in self.pids:
            wait_until("the daemon's end", lambda: not os.path.exists(f"/proc/{pid}"), 30)
        if state not in ("in-sync", "behind"):
            raise Trouble(f"the mirror was {state} before umount")


def many_descriptors():
    """libfuse's examples hold a descriptor for every inode the kernel knows."""
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))
    except (OSError, ValueError):
        pass


class Child(Contestant):
    """A FUSE daemon in the foreground, our own child."""

    def __init__(self, name, words, about, root_only=False):
        super().__init__(name)
        self.words, self.about, self.root_only = words, about, root_only
        self.process = None

    def check(self):
        if not have(self.words[0]):
            raise NotOffered(f"{os.path.basename(self.words[0])} is not installed")

    def mount(self, primary, replica, mountpoint):
        places = {"{primary}": primary, "{replica}": replica, "{mountpoint}": mountpoint}
        words = []
        for word in self.words:
            for place, path in places.items():
                word = word.replace(place, path)
            words.append(word)
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                        text=True, start_new_session=True,
                                        preexec_fn=many_descriptors)
        self.pids = [self.process.pid]

        def ready():
            if self.process.poll() is not None:
                said = self.process.stderr.read().strip()
                raise Trouble(f"{self.name} did not mount: {said[-300:]}")
            return self._is_ready(primary, replica, mountpoint)

        try:
            wait_until(f"{self.name}: mount", ready)
        except Trouble:
            self.unmount(mountpoint)
            raise
        return mountpoint

    def _is_ready(self, primary, replica, mountpoint):
        return mounted(mountpoint)

    def unmount(self, mountpoint):
        unmount(mountpoint)
        if self.process is not None:
            end_process(self.process)
            self.process.stderr.close()
            self.process = None
        for pid in self.pids:
            end_pid(pid, 1.0)


class Lsyncd(Child):
    """No mount: a daemon that is told of changes and has rsync copy them."""

    copies = 2
    only = ("lag",)

    def __init__(self, name):
        super().__init__(name, ["lsyncd", "-nodaemon", "-delay", "1", "-rsync", "{primary}",
                                "{replica}"], "lsyncd with rsync, delay 1 s, as packaged by Debian")

    def _is_ready(self, primary, replica, mountpoint):
        # It copies all there is when it begins.
        return os.path.exists(f"{replica}/begun")

    def mount(self, primary, replica, mountpoint):
        os.mkdir(f"{primary}/begun")
        super().mount(primary, replica, mountpoint)
        return primary

    def unmount(self, mountpoint):
        if self.process is not None:
            self.process.terminate()
        super().unmount(mountpoint)


DEFAULT = ["native", "dual", "mirrorfs", "mirrorfs-async", "mirrorfs-wb", "passthrough_hp",
           "passthrough_hp-nopt", "passthrough_ll", "bindfs", "mergerfs"]

# What the writeback cache is for, and all it is asked unless it is named.
WRITEBACK_ROWS = ("seqwrite-4K", "append", "overwrite-4K", "randwrite-4K")

# Those the issue compares with: FUSE, one copy, no writeback cache.
PEERS = ["passthrough_hp", "passthrough_hp-nopt", "passthrough_ll", "bindfs", "mergerfs"]

WORDS = {
    "mirrorfs-async": ["mode=async"],
    "mirrorfs-wb": ["cache=writeback"],
    "mirrorfs-async-wb": ["mode=async", "cache=writeback"],
}


def contestant(name, binary, against, libfuse):
    """A contestant by name. `mirrorfs+OPTION+OPTION` and `against+OPTION` take mount options."""
    base, *options = name.split("+")
    if base in ("mirrorfs", "against") or base in WORDS:
        if base == "against" and against is None:
            raise Trouble("the contestant `against` needs --against BINARY")
        which = against if base == "against" else binary
        about = "two copies" if base != "against" else f"two copies, {against}"
        return Mirror(name, which, WORDS.get(base, []) + options, about)
    hp, ll = (os.path.join(libfuse, p) for p in ("passthrough_hp", "passthrough_ll"))
    known = {
        "native": lambda: Native("native"),
        "dual": lambda: Dual("dual"),
        "passthrough_hp": lambda: Child(
            name, [hp, "--foreground", "-o", "allow_other", "{primary}", "{mountpoint}"],
            "libfuse's example, kernel passthrough, one copy", root_only=True),
        "passthrough_hp-nopt": lambda: Child(
            name, [hp, "--foreground", "--nopassthrough", "-o", "allow_other", "{primary}",
                   "{mountpoint}"],
            "the same without kernel passthrough (takes the writeback cache then)",
            root_only=True),
        "passthrough_ll": lambda: Child(
            name, [ll, "-f", "-o", "source={primary},allow_other", "{mountpoint}"],
            "libfuse's example, one copy"),
        "passthrough_ll-checks": lambda: Child(
            name, [ll, "-f", "-o", "source={primary},allow_other,default_permissions",
                   "{mountpoint}"],
            "the same with permissions checked, without which anybody may do anything in it"),
        "passthrough_ll-wb": lambda: Child(
            name, [ll, "-f", "-o", "source={primary},allow_other,writeback,cache=always",
                   "{mountpoint}"],
            "the same with the writeback cache and cache=always"),
        "bindfs": lambda: Child(name, ["bindfs", "-f", "{primary}", "{mountpoint}"],
                                "one copy, as packaged by Debian"),
        "mergerfs": lambda: Child(
            name, ["mergerfs", "-f", "-o", "allow_other,use_ino,minfreespace=0", "{primary}",
                   "{mountpoint}"], "one branch, as packaged by Debian"),
        "lsyncd": lambda: Lsyncd(name),
    }
    if base in known and not options:
        return known[base]()
    raise Trouble(f"no contestant is called {name}; known: mirrorfs+OPTION, against+OPTION, "
                  f"{', '.join([*WORDS, *known, 'gluster'])}")
