# SPDX-License-Identifier: MIT
"""The rows of the table: what each measures and how its number is shown; sizes; what is required.

No code that measures: that is workloads.py.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Row:
    """`unit`: `op/s`, `MiB/s` or `s`. `load`: the words for the load generator, if it does the
    work; {total}, {files}, ... are filled in from the size. `once`: not for the
    program that writes both copies, because nothing is changed or it cannot be done to two trees.
    `mirrors`: only for those that keep a replica. `rested`: everything was seen before,
    but more than a second ago, after which the peers' kernels ask again (their default).
    `times`: done so often, and the fastest counts: a virtual machine gives memory back that is
    free for a while, and using it again costs several times the writing of it."""

    name: str
    group: str
    title: str
    unit: str
    load: str = ""
    procs: int = 1
    once: bool = False
    mirrors: bool = False
    cold: bool = False
    rested: bool = False
    needs: tuple = ()  # rows whose files it works on: done before, if they were not
    full: bool = False  # only with --full
    times: int = 1
    settled: bool = False  # what came before is durable and forgotten by the write-intent log


SIZES = {
    # total: bytes written in sequence; ops: single writes; files: small files over all processes;
    # tree: files of the source tree. No group of rows has the kernel know 20,000 inodes at once:
    # libfuse's examples hold a descriptor for each, and the limit may be as low as that.
    "tiny": dict(total=32 << 20, random=16 << 20, ops=500, synced=50, files=320, tree=500,
                 program=6, transactions=50, image=1024, seconds=2,
                 lags=5, rewritten=300),
    "normal": dict(total=512 << 20, random=64 << 20, ops=20_000, synced=1000, files=4800,
                   tree=8_000, program=60, transactions=1000, image=4096, seconds=10,
                   lags=20, rewritten=20_000),
    "full": dict(total=1 << 30, random=256 << 20, ops=50_000, synced=4000, files=16_000,
                 tree=8_000, program=60, transactions=4000, image=7168, seconds=30,
                 lags=40, rewritten=20_000),
}

_SMALL = [
    ("create", "create+write 4 KiB+close", "create files={files}", False),
    ("newstat", "stat, the first after create", "stat files={files} warm=0", True),
    ("stat", "stat, warm", "stat files={files}", True),
    ("read", "open+read+close 4 KiB, warm", "read files={files}", True),
    ("chmod", "chmod", "chmod files={files} mode=384", False),
    ("rename", "rename", "rename files={files}", False),
    ("unlink", "unlink", "unlink files={most} renamed=1", False),
    ("mkdir", "mkdir", "mkdir files={files}", False),
    ("rmdir", "rmdir", "rmdir files={most}", False),
]

_NEEDS = {"stat": ["create"], "newstat": ["create"], "read": ["create"], "chmod": ["create"],
          "rename": ["create"], "unlink": ["create", "rename"], "rmdir": ["mkdir"]}


def _processes(count):
    return "1 process" if count == 1 else f"{count} processes"


_SEQ = ("seqwrite-1M",)

ROWS = [
    Row("seqwrite-1M", "seq", "write 1 MiB, extending", "MiB/s",
        "seqwrite bs=1048576 total={total}", times=3),
    Row("seqwrite-128K", "seq", "write 128 KiB, extending", "MiB/s",
        "seqwrite bs=131072 total={total}", times=3),
    Row("seqwrite-4K", "seq", "write 4 KiB, extending", "MiB/s",
        "seqwrite bs=4096 total={quarter}", times=3),
    Row("seqwrite-1M-fsync", "seq", "write 1 MiB, extending, then fsync", "MiB/s",
        "seqwrite bs=1048576 total={total} fsync=1", times=3),
    Row("seqread-1M", "seq", "read 1 MiB, warm", "MiB/s",
        "seqread bs=1048576 file=1048576 passes=4", once=True, needs=_SEQ),
    Row("seqread-128K", "seq", "read 128 KiB, warm", "MiB/s",
        "seqread bs=131072 file=1048576 passes=4", once=True, needs=_SEQ),
    Row("seqread-4K", "seq", "read 4 KiB, warm", "MiB/s",
        "seqread bs=4096 file=1048576 passes=1", once=True, needs=_SEQ),
    Row("append", "single", "append 100 B", "op/s", "append ops={ops}"),
    Row("overwrite-4K", "single", "overwrite 4 KiB, in order", "op/s",
        "overwrite ops={ops} total={random}"),
    Row("randwrite-4K", "single", "overwrite 4 KiB, random", "op/s",
        "overwrite ops={ops} total={random} random=1"),
    Row("randwrite-fsync", "sync", "overwrite 4 KiB, random, each with fsync", "op/s",
        "overwrite ops={synced} total={random} random=1 fsync=1"),
    *[Row(f"{verb}-{procs}", f"small{procs}", f"{title}, {_processes(procs)}", "op/s", words,
          procs=procs, once=once, rested=verb in ("stat", "read"),
          needs=tuple(f"{need}-{procs}" for need in _NEEDS.get(verb, ())))
      for procs in (1, 4, 16) for verb, title, words, once in _SMALL],
    Row("rewrite", "log", "rewrite 4 KiB files, ten in a directory", "op/s",
        "rewrite files={rewritten} fan=10", mirrors=True, settled=True),
    Row("randwrite-huge", "log", "overwrite 4 KiB, random, in 64 GiB that are nearly all hole",
        "op/s", "overwrite ops={ops} total=68719476736 random=1 sparse=1", mirrors=True,
        settled=True),
    Row("untar", "tree", "untar a source tree", "s"),
    Row("find", "tree", "find, warm", "s", once=True, rested=True),
    Row("ls-lR", "tree", "ls -lR, warm", "s", once=True, rested=True),
    Row("grep", "tree", "grep -r, warm", "s", once=True, rested=True),
    Row("cp-a", "tree", "cp -a of the tree, within", "s"),
    Row("rm-rf", "tree", "rm -rf of that copy", "s"),
    Row("git-clone", "git", "git clone into it", "s"),
    Row("git-status", "git", "git status, warm", "s", once=True, rested=True),
    Row("build", "build", "make -j2 of a C program", "s"),
    Row("sqlite-wal", "sync", "SQLite commit, WAL, synchronous=FULL", "op/s"),
    Row("sqlite-rollback", "sync", "SQLite commit, rollback journal, synchronous=FULL", "op/s"),
    Row("lag", "lag",
        "64 KiB overwritten and closed, until the replica has it", "ms", mirrors=True),
    Row("pgbench", "pg", "pgbench, 4 clients", "op/s", once=True, full=True),
    Row("dbench", "dbench", "dbench, 4 clients", "MiB/s", once=True, full=True),
    # Last, as they empty the caches of everything.
    Row("seqread-cold", "seq", "read 1 MiB, cold", "MiB/s",
        "seqread bs=1048576 file=1048576 warm=0", once=True, cold=True, needs=_SEQ),
    Row("ls-lR-cold", "tree", "ls -lR, cold", "s", once=True, cold=True),
    Row("grep-cold", "tree", "grep -r, cold", "s", once=True, cold=True),
]

BY_NAME = {row.name: row for row in ROWS}


def chosen(only, full):
    """The rows that `--only` names, by name, by group, or by the beginning of either."""
    if not only:
        return [row for row in ROWS if full or not row.full]
    found = [row for row in ROWS
             if any(word in (row.name, row.group) or row.name.startswith(word + "-") or
                    (word == "small" and row.group.startswith("small")) for word in only)]
    return found


@dataclasses.dataclass(frozen=True)
class Needed:
    """One line of the acceptance table, for some rows. Ratios of speed: above 1 is faster.

    `peer`: against the best peer; `hp`: where kernel passthrough is let off with less; `dual`
    and `native`: against native; `options`: what the second number is required with."""

    rows: tuple
    peer: float
    dual: float = 0.0
    native: float = 0.0
    gluster: float = 0.0
    kernel_passthrough: float = -1.0  # -1: as `peer`; 0: not compared with
    dual_async: float = 0.0
    dual_writeback: float = 0.0
    only_disk: bool = False


def _small(verbs, processes):
    return tuple(f"{verb}-{n}" for verb in verbs for n in processes)


NEEDED = [
    Needed(("seqwrite-1M",), 1.0, dual=0.8, gluster=3, kernel_passthrough=0.6),
    Needed(("seqwrite-128K",), 1.0, dual=0.75, gluster=3, kernel_passthrough=0.6),
    Needed(("seqwrite-4K",), 1.0, dual=0.4, dual_async=0.5, gluster=3),
    Needed(("append", "overwrite-4K"), 1.0, dual=0.1, dual_writeback=0.4, gluster=3),
    Needed(("randwrite-fsync", "sqlite-wal", "sqlite-rollback", "pgbench", "dbench"), 0.6,
           dual=0.9, gluster=2, only_disk=True),
    Needed(_small(["create"], (1, 4)), 1.0, dual=0.3, dual_async=0.4, gluster=10),
    Needed(_small(["unlink", "rename", "mkdir", "chmod"], (1, 4)), 1.0, dual=0.3, gluster=8),
    Needed(_small(["read"], (1, 4)), 2.0, native=0.6, gluster=3),
    Needed((*_small(["stat"], (1, 4)), "find", "ls-lR", "git-status"), 1.5, native=0.5,
           gluster=5),
    Needed(("seqread-1M", "seqread-128K"), 1.0, native=0.45, gluster=1.5, kernel_passthrough=0),
    Needed(("seqread-cold",), 1.0, native=0.6, gluster=1.5, kernel_passthrough=0),
    Needed(("untar", "rm-rf"), 1.0, dual=0.3, gluster=8),
    Needed(("git-clone", "cp-a"), 1.0, dual=0.5, gluster=8),
    Needed(("build",), 1.0, dual=0.9, gluster=8),
]

# CPU seconds per operation, against the best peer and against gluster: at most.
CPU_PEER, CPU_GLUSTER = 1.0, 0.2
