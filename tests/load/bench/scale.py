# SPDX-License-Identifier: MIT
"""What an operation costs, and what memory the daemon holds, as the number of files grows."""

import os
import time

from . import verify
from .peers import NotOffered
from .system import Trouble, note
from .workloads import Fleet

COUNTS = {
    "tiny": (1_000, 10_000),
    "normal": (10_000, 100_000, 1_000_000),
    "full": (10_000, 100_000, 1_000_000),
}

# Each works on 2,000 names spread over the whole tree; the last two on names of their own.
PICK = 2_000
OPERATIONS = [
    ("create", "create files={pick} from={count} bytes=0"),
    ("stat", "stat files={count} pick={pick} warm=0"),
    ("chmod", "chmod files={count} pick={pick}"),
    ("rename", "rename files={count} pick={pick}"),
    ("unlink", "unlink files={pick} from={count}"),
]


def ground(counts):
    """MiB and inodes that the largest tree needs."""
    most = max(counts)
    return 512 + most // 600, most + most // 200 + 50_000


class Scale:
    """For each number of files: a fresh tree filled through the mount, mounted again, walked (so
    that the kernel knows every inode), and worked in."""

    def __init__(self, contestants, ground, counts, program, work, rounds):
        self.contestants, self.ground, self.counts = list(contestants), ground, counts
        self.program, self.work, self.rounds = program, work, rounds
        self.samples, self.memory, self.failures, self.missing = [], [], [], {}

    def run(self):
        for number in range(self.rounds):
            for count in self.counts:
                for contestant in list(self.contestants):
                    began = time.monotonic()
                    try:
                        contestant.check()
                        self._one(number, contestant, count)
                    except NotOffered as why:
                        self.missing[contestant.name] = str(why)
                        self.contestants.remove(contestant)
                    except Exception as trouble:
                        note(f"FAILED: {contestant.name}, {count} files: {trouble}")
                        self.failures.append({"round": number, "contestant": contestant.name,
                                              "row": f"{count} files", "why": str(trouble)})
                    note(f"round {number + 1} of {self.rounds}: {contestant.name}, {count:,} "
                         f"files: {time.monotonic() - began:.1f} s")

    def _one(self, number, contestant, count):
        trees = self.ground.trees(contestant.name.replace("/", "_"))
        mountpoint = os.path.join(self.work, "mnt")
        os.makedirs(mountpoint, exist_ok=True)
        try:
            self._mounted(contestant, trees, mountpoint,
                          lambda top: self._fill(contestant, top, trees, count))
            self._mounted(contestant, trees, mountpoint,
                          lambda top: self._work(number, contestant, top, trees, count))
            if contestant.copies == 2 and not contestant.dual:
                first, second = (verify.manifest(tree, contents=False) for tree in trees)
                said = verify.differences(first, second)
                if said:
                    raise Trouble(f"the copies differ: {said[0]}")
        finally:
            self.ground.drop(trees)

    @staticmethod
    def _mounted(contestant, trees, mountpoint, work):
        top = contestant.mount(*trees, mountpoint)
        try:
            work(top)
        finally:
            contestant.unmount(mountpoint)

    def _fleet(self, contestant, top, trees):
        return Fleet(self.program, 1, [top, trees[1]] if contestant.dual else [top])

    def _fill(self, contestant, top, trees, count):
        fleet = self._fleet(contestant, top, trees)
        try:
            fleet.prepare(f"create files={count} bytes=0")
            fleet.go()
        finally:
            fleet.close()

    def _work(self, number, contestant, top, trees, count):
        fleet = self._fleet(contestant, top, trees)
        try:
            at_rest = contestant.resident_kib()
            # Every name and attribute is asked for: the kernel knows every inode from now on.
            fleet.prepare(f"stat files={count} warm=0")
            walk = fleet.go()[0]
            if contestant.pids:
                self.memory.append({
                    "round": number, "contestant": contestant.name, "files": count,
                    "at_rest_kib": at_rest, "peak_kib": contestant.peak_kib(),
                    "resident_kib": contestant.resident_kib()})
            self._sample(number, contestant, count, "first stat of all", walk, 0.0)
            for name, words in OPERATIONS:
                fleet.prepare(words.format(count=count, pick=min(PICK, count)))
                self.ground.flush()
                daemon = contestant.cpu()
                answer = fleet.go()[0]
                self._sample(number, contestant, count, name, answer, contestant.cpu() - daemon)
        finally:
            fleet.close()

    def _sample(self, number, contestant, count, name, answer, daemon_cpu):
        self.samples.append({
            "round": number, "contestant": contestant.name, "row": name, "files": count,
            "seconds": (answer["ended_ns"] - answer["began_ns"]) / 1e9, "ops": answer["ops"],
            "client_cpu": answer["cpu_ns"] / 1e9, "daemon_cpu": daemon_cpu, "bytes": 0})

    def result(self):
        return {"scale": list(self.counts),
                "contestants": [{"name": c.name, "copies": c.copies, "about": c.about}
                                for c in self.contestants],
                "samples": self.samples, "memory": self.memory, "missing": self.missing,
                "failures": self.failures}
