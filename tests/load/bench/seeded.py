# SPDX-License-Identifier: MIT
"""The tables of --seeding."""

import statistics

from .markdown import number, table

MIB = 1 << 20

# Beyond these the issue calls it missed: speed against `cp -a` and rsync, MiB of memory.
SEEDING_SPEED, AGAIN_SPEED, MEMORY = 1.0, 1.0, 100

TITLES = {
    "seed-warm": "seeding, the tree in memory",
    "seed-cold": "seeding, nothing in memory",
    "again-warm": "a second pass that finds nothing to do, by size and time, all in memory",
    "again-cold": "the same, nothing in memory",
    "verify-warm": "all content of both copies compared, all in memory",
    "verify-cold": "the same, nothing in memory",
}

ABOUT = """\
Every contestant is done when the copy is durable: mirrorfs syncs both file systems before it calls
them in-sync; cp and rsync are followed by `sync -f` of the copy, within their time. (A second pass of
rsync is not: it wrote nothing. That of mirrorfs syncs all the same.) cp and rsync know nothing of a
mirror; mirrorfs also stamps both roots, and live it keeps a log of what may differ. After each
seeding the copy was compared with the tree: names, content, owners, modes, times to the nanosecond,
xattrs and ACLs, which names are one file, and that holes are holes.

CPU is that of the processes; what the kernel's own threads write back is nobody's. Memory is the
peak of all processes of a command together, looked at every 20 ms and at first sooner (-: it was
over before). The last column is what was read from the two loop devices: in a warm row what memory
did not hold after all.
"""

COLD = """\
Cold means: everything synced, caches dropped (`drop_caches` 3), the image files' own pages dropped
and counted (at most 1 % are left, or the round fails), the programs in memory. What the host or the
disk itself keeps is not in our hands.
"""

WARM_ONLY = "There is no cold on a disk in memory: the cold rows are those of `--ground disk`.\n"


def samples(result, row, name):
    return [s for s in result["samples"] if (s["row"], s["contestant"]) == (row, name)]


def median(result, row, name, field="seconds"):
    values = [s[field] for s in samples(result, row, name)]
    return statistics.median(values) if values else None


def paired(result, row, name, base):
    """How many times as fast as `base`, in each round that has both."""
    rounds = {}
    for who in (name, base):
        for sample in samples(result, row, who):
            rounds.setdefault(sample["round"], {})[who] = sample["seconds"]
    return [pair[base] / pair[name] for pair in rounds.values() if len(pair) == 2]


def costs(result):
    heads = ["", "contestant", "s (spread)", "CPU s", "peak MiB", "MiB read"]
    lines = []
    for row, title in TITLES.items():
        for contestant in result["contestants"]:
            name = contestant["name"]
            held = [s["seconds"] for s in samples(result, row, name)]
            if not held:
                continue
            middle = statistics.median(held)
            spread = (max(held) - min(held)) / middle * 100
            cells = [f"{title} (`{row}`)", f"`{name}`", f"{number(middle)} ({spread:.0f} %)",
                     number(median(result, row, name, "cpu")),
                     number(median(result, row, name, "peak_kib") / 1024 or None),
                     f"{median(result, row, name, 'read_bytes') / MIB:,.0f}"]
            lines.append(cells)
    return table(heads, lines)


def usable(result):
    """Live, who mounts does not wait for the end."""
    lines = []
    for name in dict.fromkeys(s["contestant"] for s in result["samples"] if "usable" in s):
        for row in ("seed-warm", "seed-cold"):
            held = [s["usable"] for s in samples(result, row, name)]
            if held:
                lines.append(f"`{name}`, `{row}`: the mount could be used after "
                             f"{number(statistics.median(held))} s.\n")
    return "\n".join(lines)


def required(result):
    """Speed against cp and rsync, and the memory of mirrorfs."""
    names = [c["name"] for c in result["contestants"]]
    mine = [n for n in names if n.startswith(("mirrorfs", "against"))]
    lines, missed = [], 0

    def told(good):
        nonlocal missed
        missed += not good
        return "ok" if good else "**MISSED**"

    for row in TITLES:
        base = "cp" if row.startswith("seed") else "rsync"
        least = SEEDING_SPEED if base == "cp" else AGAIN_SPEED
        for name in mine:
            if not samples(result, row, name):
                continue
            speed = "-"
            if ratios := paired(result, row, name, base):
                middle = statistics.median(ratios)
                speed = f"{middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                if not row.startswith("verify"):
                    speed += f", >= {least:g} {told(middle >= least)}"
                speed += f", {base}"
            peak = max(s["peak_kib"] for s in samples(result, row, name)) / 1024
            memory = f"{number(peak)} (<= {MEMORY}) {told(peak <= MEMORY)}" if peak else "-"
            lines.append([f"`{row}`", f"`{name}`", speed, memory])
    heads = ["", "contestant", "speed against, of each round the ratio", "most MiB of any round"]
    return table(heads, lines) + f"\n{missed} missed. `scripts/syscalls` counts system calls.\n"


def tables(result):
    sizes, tree = result["seeding"], result["tree"]
    text = (f"\n### Seeding\n\n{tree['names']:,} names, {tree['bytes'] / MIB:,.0f} MiB: "
            f"{sizes['files']:,} files of 0 to 16 KiB, {sizes['large']} of "
            f"{sizes['large_mib']:,} MiB, {sizes['links']} hard links, {sizes['xattrs']} files "
            f"with xattrs, a sparse file of {sizes['sparse_mib']:,} MiB with a 64th of it written.\n\n")
    cold = any(s["row"].endswith("-cold") for s in result["samples"])
    text += ABOUT + "\n" + (COLD if cold else WARM_ONLY) + "\n" + costs(result)
    if said := usable(result):
        text += "\n" + said
    if any(c["name"].startswith("mirrorfs") for c in result["contestants"]):
        text += "\n### What is required of seeding\n\n" + required(result)
    return text
