# SPDX-License-Identifier: MIT
"""What trees are made of: a source tree, its tar and its git repository, a program to build.

Made the same every time, from a seeded generator; nothing is downloaded.
"""

import os
import random

from .system import run

WORDS = ("return static struct const void int char unsigned long size while for if else break "
         "switch case default sizeof buffer length offset index count next previous node list "
         "table entry lock wait queue read write open close error value result").split()


def text(rng, size):
    lines, length = [], 0
    while length < size:
        line = "    " + " ".join(rng.choices(WORDS, k=rng.randint(2, 10))) + ";\n"
        lines.append(line)
        length += len(line)
    return "".join(lines)[:size]


def make_tree(top, files, seed=7):
    """`files` files in directories of about 14, three deep, 7 KiB on average, some symlinks."""
    rng = random.Random(seed)
    pool = text(rng, 1 << 20)
    os.mkdir(top)
    made = 0
    while made < files:
        directory = os.path.join(top, f"part{made % 11}", f"section{rng.randrange(9)}",
                                 f"unit{made}")
        os.makedirs(directory)
        for i in range(min(rng.randint(4, 24), files - made)):
            name = os.path.join(directory, f"file_{made}_{i}.c")
            if i % 50 == 49:
                os.symlink(f"file_{made}_0.c", name)
                continue
            size = max(60, min(120_000, int(rng.lognormvariate(8.2, 1.2))))
            at = rng.randrange(len(pool) - size)
            with open(name, "w", encoding="ascii") as file:
                file.write(pool[at:at + size])
        made += i + 1


def make_program(top, files):
    """A C program of `files` files and a Makefile; a second or two of compiling."""
    rng = random.Random(11)
    os.mkdir(top)
    with open(f"{top}/all.h", "w", encoding="ascii") as header:
        header.write("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n")
        for i in range(files):
            header.write(f"int part{i}(int);\n")
    for i in range(files):
        with open(f"{top}/part{i}.c", "w", encoding="ascii") as file:
            file.write('#include "all.h"\n')
            for f in range(25):
                file.write(f"static int step{f}(int a) {{\n    char b[{rng.randint(8, 64)}];\n"
                           f"    for (int i = 0; i < {rng.randint(3, 60)}; i++)\n"
                           f"        a = a * {rng.randint(3, 99)} + (i ^ {rng.randint(1, 999)});\n"
                           f"    snprintf(b, sizeof b, \"%d\", a);\n"
                           f"    return a + (int)strlen(b);\n}}\n")
            calls = " + ".join(f"step{f}(a)" for f in range(25))
            file.write(f"int part{i}(int a) {{ return {calls}; }}\n")
    with open(f"{top}/main.c", "w", encoding="ascii") as file:
        calls = " + ".join(f"part{i}(n)" for i in range(files))
        file.write(f'#include "all.h"\nint main(int n, char **v) {{ (void)v; return {calls}; }}\n')
    with open(f"{top}/Makefile", "w", encoding="ascii") as file:
        objects = " ".join(f"part{i}.o" for i in range(files)) + " main.o"
        file.write(f"CFLAGS = -O1 -g\nprogram: {objects}\n\t$(CC) -o $@ $^\n%.o: %.c all.h\n"
                   "\t$(CC) $(CFLAGS) -c -o $@ $<\n")


class Sources:
    """`tar`, `repository` and `program`, below `place` (in memory)."""

    def __init__(self, place, files, program_files):
        os.makedirs(place, exist_ok=True)
        self.files = files
        tree = os.path.join(place, "tree")
        self.tar = os.path.join(place, "tree.tar")
        self.repository = os.path.join(place, "repository")
        self.program = os.path.join(place, "program")
        make_tree(tree, files)
        run("tar", "--sort=name", "--mtime=2026-01-01 00:00Z", "-cf", self.tar, "-C", place,
            "tree")
        os.rename(tree, self.repository)
        environment = dict(os.environ, GIT_AUTHOR_DATE="2026-01-01T00:00Z",
                           GIT_COMMITTER_DATE="2026-01-01T00:00Z", GIT_CONFIG_GLOBAL="/dev/null")
        for words in (["init", "-q"], ["add", "-A"],
                      ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit",
                       "-q", "-m", "All of it"]):
            run("git", "-C", self.repository, *words, env=environment)
        run("git", "-C", self.repository, "gc", "-q", env=environment)
        make_program(self.program, program_files)
