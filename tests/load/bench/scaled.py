# SPDX-License-Identifier: MIT
"""The tables of --scale."""

import statistics

from .markdown import number, table

# Beyond these the issue calls it missed.
GROWTH = 1.2
BYTES_PER_INODE = 200
MIB_OF_ITS_OWN = 64


def costs(result):
    """Wall-clock of an operation in trees of each size, and what the largest costs more."""
    counts = result["scale"]
    heads = ["us per operation", "contestant", *(f"{count:,} files" for count in counts),
             "largest / smallest"]
    lines = []
    for row in dict.fromkeys(s["row"] for s in result["samples"]):
        grown = {}
        for contestant in sorted(result["contestants"], key=lambda c: c["name"] != "native"):
            name = contestant["name"]
            medians, spreads = [], []
            for count in counts:
                values = [s["seconds"] / s["ops"] * 1e6 for s in result["samples"]
                          if (s["row"], s["contestant"], s["files"]) == (row, name, count)]
                if values:
                    medians.append(statistics.median(values))
                    spreads.append((max(values) - min(values)) / medians[-1] * 100)
            if len(medians) < len(counts):
                continue
            growth = grown[name] = medians[-1] / medians[0]
            told = f"{growth:.2f}"
            if name.startswith("mirrorfs") and row != "first stat of all":
                told += f" (<= {GROWTH:g}) {'ok' if growth <= GROWTH else '**MISSED**'}"
                if growth > GROWTH and grown.get("native", 0) > GROWTH:
                    told += f", native {grown['native']:.2f}"
            lines.append([row, f"`{name}`",
                          *(f"{number(m)} ({s:.0f} %)" for m, s in zip(medians, spreads)), told])
    return table(heads, lines)


def inodes(result):
    """What the daemon holds when the kernel knows every inode."""
    lines = []
    for contestant in result["contestants"]:
        for count in result["scale"]:
            held = [m for m in result["memory"]
                    if (m["contestant"], m["files"]) == (contestant["name"], count)]
            if not held:
                continue
            rest, resident, peak = (statistics.median(m[f"{field}_kib"] for m in held)
                                    for field in ("at_rest", "resident", "peak"))
            allowed = MIB_OF_ITS_OWN * 1024 + BYTES_PER_INODE * count / 1024
            lines.append([f"`{contestant['name']}`", f"{count:,}", f"{rest / 1024:.1f}",
                          f"{resident / 1024:.1f}", f"{peak / 1024:.1f}",
                          number((resident - rest) * 1024 / count),
                          f"{allowed / 1024:.0f} {'ok' if peak <= allowed else '**MISSED**'}"])
    if not lines:
        return ""
    return table(["daemon", "inodes the kernel knows", "MiB after mount", "MiB then", "peak MiB",
                  "bytes for each inode", "allowed MiB, without buffers and cache"], lines)


def tables(result):
    text = "\n### Cost of an operation as the tree grows\n\n" + costs(result)
    if told := inodes(result):
        text += "\n### Memory of the daemon\n\n" + told
    return text
