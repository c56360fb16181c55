# SPDX-License-Identifier: MIT
"""Were the files kept? A fast contestant that lost them is no contestant."""

import os
import stat
import zlib

SAMPLE = 1 << 20


def content(path, size):
    """A checksum: of all bytes, or of eight stretches of a large file."""
    crc = 0
    with open(path, "rb") as file:
        if size <= 16 * SAMPLE:
            return zlib.crc32(file.read())
        for i in range(8):
            file.seek((size - SAMPLE) * i // 7)
            crc = zlib.crc32(file.read(SAMPLE), crc)
    return crc


def manifest(top, leave_out=(), contents=True):
    """name -> (kind, mode, owner, links, size, mtime, content or target)."""
    found, todo = {}, [""]
    while todo:
        directory = todo.pop()
        with os.scandir(os.path.join(top, directory)) as entries:
            for entry in entries:
                name = os.path.join(directory, entry.name)
                if name in leave_out:
                    continue
                s = entry.stat(follow_symlinks=False)
                what = None
                if stat.S_ISDIR(s.st_mode):
                    todo.append(name)
                elif stat.S_ISLNK(s.st_mode):
                    what = os.readlink(entry.path)
                elif contents:
                    what = content(entry.path, s.st_size)
                is_dir = stat.S_ISDIR(s.st_mode)
                found[name] = (stat.S_IFMT(s.st_mode), stat.S_IMODE(s.st_mode),
                               (s.st_uid, s.st_gid), 0 if is_dir else s.st_nlink,
                               0 if is_dir else s.st_size, s.st_mtime_ns, what)
    return found


FIELDS = ("kind", "mode", "owner", "links", "size", "mtime", "content")


def differences(one, two, fields=FIELDS):
    """Complaints, the first few."""
    said = []
    for name in sorted(one.keys() | two.keys()):
        if name not in one or name not in two:
            said.append(f"{name}: in the {'first' if name in one else 'second'} only")
            continue
        wrong = [field for i, field in enumerate(FIELDS)
                 if field in fields and one[name][i] != two[name][i]]
        if wrong:
            said.append(f"{name}: {', '.join(wrong)} differ")
    return said


def reproducible(found):
    """What every contestant must have in common: not databases, objects and git's own files, nor
    what only mirrors make (`rewrite`, `randwrite-huge`)."""
    return {name: entry for name, entry in found.items()
            if name.split("/")[0] == "tree" or
            (name.split("/")[0] == "clone" and "/.git" not in name) or
            (name.startswith("w") and name[1:2].isdigit() and
             name.split("/")[1:2] not in (["again"], ["sparse"]))}


def part_of(name):
    """What a row makes: a tree, a clone, a file or directory of one worker."""
    words = name.split("/")
    return tuple(words[:1] if words[0] in ("tree", "clone") else words[:2])


def check(contestant, trees, reference):
    """Complaints about one contestant after its umount; and the reference for those to come."""
    # Where gluster keeps its own.
    own = (".glusterfs", "brick/.glusterfs")
    first = manifest(trees[0], own)
    said = []
    if contestant.copies == 2:
        second = manifest(trees[1], own)
        fields = FIELDS
        if contestant.only == ("lag",):
            # It is measured while it is behind, and ended so.
            return said, reference
        if contestant.dual:
            # Done at other times; and what a program made was copied to another name.
            fields = ("kind", "mode", "owner", "size", "content")
            first_part, second_part = (
                {name: entry for name, entry in reproducible(found).items()
                 if not name.startswith("clone")} for found in (first, second))
        elif contestant.name == "gluster":
            # Its bricks differ in the fractions of times, and it hard links each file to its own.
            fields = ("kind", "mode", "owner", "size", "content")
            first_part, second_part = first, second
        else:
            first_part, second_part = first, second
        said += [f"copies: {line}" for line in differences(first_part, second_part, fields)]
    common = reproducible(first)
    if contestant.patience != 1:
        return said, reference
    if reference is None:
        return said, common
    if contestant.dual or contestant.only:
        # It leaves out rows, and so what they would have made.
        there = {part_of(name) for name in common}
        reference_here = {n: entry for n, entry in reference.items() if part_of(n) in there}
    else:
        reference_here = reference
    lost = differences(reference_here, common, ("kind", "mode", "size", "content"))
    return said + [f"against the first contestant: {line}" for line in lost], reference
