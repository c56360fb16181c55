# SPDX-License-Identifier: MIT
"""`scripts/bench`: mirrorfs beside its peers, measured in turns on the same ground."""

import argparse
import contextlib
import json
import os
import signal
import sys

from . import report, rows, scale, seeding
from .compete import Competition
from .gluster import Gluster
from .ground import Ground
from .peers import DEFAULT, WRITEBACK_ROWS, contestant
from .source import Sources
from .system import Trouble, machine, note, read, touch_memory

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))))


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    comma = lambda text: [word for word in text.split(",") if word]
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--only", type=comma, default=[], metavar="ROW,...",
                        help="rows or groups: " + ", ".join(
                            dict.fromkeys(row.group for row in rows.ROWS)) +
                             "; of --seeding: warm, cold")
    parser.add_argument("--contestants", type=comma, default=[], metavar="NAME,...",
                        help="default: " + ",".join(DEFAULT) + "; mirrorfs+OPTION+OPTION takes "
                             "mount options")
    parser.add_argument("--peers", type=comma, default=[], metavar="NAME,...",
                        help="besides the default ones: gluster, lsyncd, passthrough_ll-wb, ...")
    parser.add_argument("--ground", choices=("ram", "disk", "xfs"), default="ram")
    parser.add_argument("--one-fs", action="store_true",
                        help="both copies on one file system")
    parser.add_argument("--size", choices=tuple(rows.SIZES), default="normal")
    parser.add_argument("--scale", action="store_true",
                        help="instead of the rows: the cost of an operation in trees of ten "
                             "thousand, a hundred thousand and a million files")
    parser.add_argument("--seeding", action="store_true",
                        help="instead of the rows: filling a replica beside cp -a and rsync "
                             "(contestants: " + ",".join(seeding.DEFAULT) + "), with --ground "
                             "disk also cold")
    parser.add_argument("--full", action="store_true", help="with pgbench and dbench")
    parser.add_argument("--binary", metavar="PATH", default=os.environ.get("BENCH_BINARY"))
    parser.add_argument("--against", metavar="BINARY2",
                        help="another mirrorfs, the contestant `against`")
    parser.add_argument("--json", metavar="FILE", help="keep what was measured")
    parser.add_argument("--render", nargs="+", metavar="FILE",
                        help="measure nothing; render what --json kept, one section for each, of all "
                             "or of --contestants")
    parser.add_argument("--write", action="store_true", help="write docs/PERFORMANCE.md")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--libfuse", help=argparse.SUPPRESS)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    options = parser.parse_args()
    # scripts/bench went to the repository; paths are meant from where it was called.
    start = os.environ.get("BENCH_FROM", os.getcwd())
    for name in ("binary", "against", "json"):
        if getattr(options, name):
            setattr(options, name, os.path.join(start, getattr(options, name)))
    options.render = [os.path.join(start, name) for name in options.render or []]
    return options


def of_seeding(options):
    """MiB and inodes that --seeding needs of its ground, and what begins it there."""
    sizes = seeding.SIZES[options.size]
    names = options.contestants or list(seeding.DEFAULT)
    if options.against and not any(name.startswith("against") for name in names):
        names += ["against", "against-live"]
    # The logs lie where the images do: in memory, or on the disk.
    state = os.path.join(options.work, "images", "state")
    mountpoint = os.path.join(options.work, "mnt")
    ways = [seeding.way(name, options, state, mountpoint) for name in names]
    temperatures = seeding.temperatures(options)
    # XFS wants 300 at least.
    image = max(sizes["image"], 320) if options.ground == "xfs" else sizes["image"]
    return (image, seeding.inodes(sizes),
            lambda ground, _: seeding.Seeding(ways, ground, sizes, state, options.rounds,
                                              temperatures))


def of_mounts(options):
    """The same for --scale, and for the rows."""
    names = options.contestants or (["native", "mirrorfs"] if options.scale else list(DEFAULT))
    if options.against and not any(name.startswith("against") for name in names):
        at = names.index("mirrorfs") + 1 if "mirrorfs" in names else len(names)
        names.insert(at, "against")
    names += [name for name in options.peers if name not in names]
    contestants = [Gluster(name, options.work) if name == "gluster" else
                   contestant(name, options.binary, options.against, options.libfuse)
                   for name in names]
    if not options.contestants:
        for one in contestants:
            if one.name == "mirrorfs-wb":
                one.only = WRITEBACK_ROWS
    if options.scale:
        counts = scale.COUNTS[options.size]
        return (*scale.ground(counts),
                lambda ground, _: scale.Scale(contestants, ground, counts, options.load,
                                              options.work, options.rounds))
    chosen = rows.chosen(options.only, options.full)
    if not chosen:
        raise Trouble(f"--only {','.join(options.only)}: no such row")
    sizes = rows.SIZES[options.size]

    def begin(ground, stack):
        sources = stack.enter_context(Sources(os.path.join(options.work, "sources"),
                                              sizes["tree"], sizes["program"]))
        return Competition(contestants, chosen, sizes, ground, sources, options.load,
                           options.work, options.rounds)

    return sizes["image"], 0, begin


def measure(options):
    mib, inodes, begin = of_seeding(options) if options.seeding else of_mounts(options)
    result = {"schema": 1, "machine": machine(REPOSITORY), "size": options.size,
              "rounds": options.rounds}
    images = os.path.join(options.work, "images")
    if options.size != "tiny":
        touch_memory()
    ground = Ground(options.ground, options.work, images, mib, inodes, options.one_fs)
    with contextlib.ExitStack() as stack:
        stack.enter_context(ground)
        result["ground"] = ground.describe()
        result["ground_kind"] = options.ground
        note(ground.describe())
        competition = begin(ground, stack)
        try:
            competition.run()
        finally:
            result.update(competition.result())
            result["machine"]["load_after"] = read("/proc/loadavg")
            if options.json:
                with open(options.json, "w", encoding="utf-8") as file:
                    json.dump(result, file, indent=1)
    return result


def only_of(result, names):
    """What is to be rendered: all that was measured, or these contestants."""
    if not names:
        return result
    for kind in ("contestants", "samples", "memory", "failures"):
        key = "name" if kind == "contestants" else "contestant"
        result[kind] = [one for one in result[kind] if one[key] in names]
    return result


def main():
    options = arguments()
    # As for ^C: the ground is left clean.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.render:
        results = []
        for name in options.render:
            with open(name, encoding="utf-8") as file:
                results.append(only_of(json.load(file), options.contestants))
    else:
        results = [measure(options)]
    text = report.render(results)
    if options.write:
        with open(os.path.join(REPOSITORY, "docs", "PERFORMANCE.md"), "w",
                  encoding="utf-8") as file:
            file.write(text)
        note("wrote docs/PERFORMANCE.md")
    else:
        print(text, end="")
    failures = [failure for result in results for failure in result["failures"]]
    for failure in failures:
        note(f"failed: {failure['contestant']} {failure['row']}: {failure['why']}")
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Trouble as trouble:
        print(f"bench: {trouble}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
