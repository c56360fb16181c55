# SPDX-License-Identifier: MIT
"""The ground: two file systems of our own, one for each copy, the same for all contestants."""

import os
import shutil

from .system import flush, run, unmount

MIB = 1 << 20


class Ground:
    """Two freshly made file systems in loop mounted images.

    `ram`: ext4 on a tmpfs; `xfs`: XFS on a tmpfs; `disk`: ext4 on whatever holds `work`.
    `one_fs`: both copies on the first of them.
    """

    def __init__(self, kind, work, images, mib, inodes, one_fs):
        self.kind, self.work, self.images = kind, work, images
        self.mib, self.inodes, self.one_fs = mib, inodes, one_fs
        self.places = []

    def __enter__(self):
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for place in reversed(self.places):
            unmount(place)
            if os.path.exists(f"{place}.img"):
                os.unlink(f"{place}.img")
        self.places = []
        if self.in_ram:
            unmount(self.images)

    @property
    def in_ram(self):
        return self.kind != "disk"

    @property
    def filesystem(self):
        return "xfs" if self.kind == "xfs" else "ext4"

    def describe(self):
        on = "RAM (tmpfs)" if self.in_ram else "the disk (loop with direct I/O where it can)"
        made = f"{self.filesystem} with journal in loop mounted images of {self.mib} MiB on {on}"
        return made + (", both copies on one of them" if self.one_fs
                       else ", each copy on its own")

    def _make(self):
        os.makedirs(self.images, exist_ok=True)
        if self.in_ram:
            size = (2 * self.mib + 64) * MIB
            run("mount", "-t", "tmpfs", "-o", f"size={size}", "mirrorfs-bench", self.images)
        for name in ("one",) if self.one_fs else ("one", "two"):
            place = os.path.join(self.images, name)
            image = f"{place}.img"
            os.mkdir(place)
            self.places.append(place)
            self._fill(image)
            if self.filesystem == "xfs":
                run("mkfs.xfs", "-q", "-f", image)
            else:
                # All tables written now: no kernel thread goes on writing them later.
                inodes = ["-N", str(self.inodes)] if self.inodes else ["-i", "4096"]
                run("mkfs.ext4", "-q", "-F", *inodes,
                    "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", image)
            options = ["-o", "noatime"]
            if self.in_ram:
                run("mount", *options, "-o", "loop", image, place)
            else:
                device = run("losetup", "--find", "--show", "--direct-io=on", image).strip()
                try:
                    run("mount", *options, device, place)
                finally:
                    # Goes away with the mount.
                    run("losetup", "-d", device)

    def _fill(self, image):
        """Every block is there from the start: the first contestant must not pay for them all."""
        with open(image, "wb") as file:
            if self.in_ram:
                os.posix_fallocate(file.fileno(), 0, self.mib * MIB)
                return
            block = bytes(4 * MIB)
            for _ in range(self.mib // 4):
                file.write(block)
            os.fsync(file.fileno())

    def trees(self, name):
        """Fresh directories for one contestant: primary and replica."""
        trees = [os.path.join(self.places[0], name), os.path.join(self.places[-1], name)]
        if self.one_fs:
            trees[1] += "-replica"
        for tree in trees:
            shutil.rmtree(tree, ignore_errors=True)
            os.mkdir(tree)
        return trees

    def drop(self, trees):
        for tree in trees:
            run("rm", "-rf", "--one-file-system", tree)
        self.flush()

    def flush(self):
        flush(*self.places)
