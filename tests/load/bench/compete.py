# SPDX-License-Identifier: MIT
"""The competition: rounds of all contestants, one after the other, on the same ground."""

import os
import time

from . import verify
from .peers import NotOffered
from .source import warm_programs
from .system import Trouble, forget, note
from .workloads import Site


class Competition:
    """Runs rounds and keeps what was measured (see `result`)."""

    def __init__(self, contestants, rows, sizes, ground, sources, program, work, rounds):
        self.contestants, self.rows, self.sizes = list(contestants), rows, sizes
        self.ground, self.sources, self.program = ground, sources, program
        self.work, self.rounds = work, rounds
        self.samples, self.memory, self.failures, self.missing = [], [], [], {}
        self.reference = None

    def run(self):
        for contestant in list(self.contestants):
            try:
                contestant.check()
            except NotOffered as why:
                self._leave_out(contestant, why)
        for number in range(self.rounds):
            # A B C, then B C A: nobody is always the first or after the same neighbour.
            turn = number % max(1, len(self.contestants))
            for contestant in self.contestants[turn:] + self.contestants[:turn]:
                began = time.monotonic()
                try:
                    self._one(number, contestant)
                except NotOffered as why:
                    self._leave_out(contestant, why)
                except Trouble as trouble:
                    self._failed(number, contestant, "", trouble)
                note(f"round {number + 1} of {self.rounds}: {contestant.name}: "
                     f"{time.monotonic() - began:.1f} s")

    def _leave_out(self, contestant, why):
        note(f"{contestant.name}: left out: {why}")
        self.missing[contestant.name] = str(why)
        if contestant in self.contestants:
            self.contestants.remove(contestant)

    def _failed(self, number, contestant, row, trouble):
        note(f"FAILED: {contestant.name} {row}: {trouble}")
        self.failures.append({"round": number, "contestant": contestant.name, "row": row,
                              "why": str(trouble)})

    def _one(self, number, contestant):
        """One contestant's turn: fresh trees, mount, every row, umount, compare, remove."""
        trees = self.ground.trees(contestant.name.replace("/", "_"))
        mountpoint = os.path.join(self.work, "mnt")
        os.makedirs(mountpoint, exist_ok=True)
        try:
            top = contestant.mount(*trees, mountpoint)
            try:
                self._rows(number, contestant, top, trees)
            finally:
                contestant.unmount(mountpoint)
            said, self.reference = verify.check(contestant, trees, self.reference)
            for complaint in said[:5]:
                self._failed(number, contestant, "kept", complaint)
        finally:
            self.ground.drop(trees)

    def _rows(self, number, contestant, top, trees):
        site = Site(contestant, top, trees, self.ground, self.sources, self.sizes, self.program,
                    self.work)
        at_rest = contestant.resident_kib()
        try:
            group = None
            for row in self.rows:
                if row.group != group:
                    # The examples of libfuse hold a descriptor for every inode that the kernel
                    # knows; groups start alike, and no tree is larger than they can hold.
                    forget(*self.ground.places)
                    warm_programs()
                    group = row.group
                if not self._takes_part(contestant, row):
                    continue
                try:
                    sample = min((site.measure(row) for _ in range(row.times)),
                                 key=lambda sample: sample["seconds"])
                except NotOffered as why:
                    self.missing.setdefault(f"{contestant.name}: {row.name}", str(why))
                    continue
                except Exception as trouble:  # a contestant may break anything; the others go on
                    self._failed(number, contestant, row.name, trouble)
                    continue
                sample.update(round=number, contestant=contestant.name, row=row.name)
                self.samples.append(sample)
        finally:
            site.close()
            if contestant.pids:
                self.memory.append({"round": number, "contestant": contestant.name,
                                    "at_rest_kib": at_rest, "peak_kib": contestant.peak_kib()})

    @staticmethod
    def _takes_part(contestant, row):
        if contestant.only:
            return row.name in contestant.only
        if contestant.dual:
            return not (row.once or row.mirrors)
        return contestant.copies == 2 or not row.mirrors

    def result(self):
        return {"contestants": [{"name": c.name, "copies": c.copies, "about": c.about}
                                for c in self.contestants],
                "samples": self.samples, "memory": self.memory, "missing": self.missing,
                "failures": self.failures}
