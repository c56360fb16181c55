# SPDX-License-Identifier: MIT
"""What was measured beside what is required."""

from . import rows
from .markdown import table
from .peers import PEERS

# The contestants that rows are required of: the number before is how they are told in the table.
MIRROR = "mirrorfs"
KERNEL = "passthrough_hp"


def verdict(ratio, needed, most=False):
    if ratio is None:
        return None
    good = ratio <= needed if most else ratio >= needed
    sign = "<=" if most else ">="
    return f"{ratio:.2f} ({sign} {needed:g}) {'ok' if good else '**MISSED**'}"


def best_peer(results, row, need):
    """The verdict against the fastest peer, and where let off, against kernel passthrough."""
    cells = []
    ordinary = [p for p in PEERS if p in results.names and
                (p != KERNEL or need.kernel_passthrough == -1)]
    ratios = [(ratio, peer) for peer in ordinary
              if (ratio := results.ratio(row, MIRROR, peer)) is not None]
    if ratios:
        ratio, peer = min(ratios)
        cells.append(f"{verdict(ratio, need.peer)}, {peer}")
    if need.kernel_passthrough > 0:
        ratio = results.ratio(row, MIRROR, KERNEL)
        if told := verdict(ratio, need.kernel_passthrough):
            cells.append(f"{told}, {KERNEL}")
    return "; ".join(cells) or "-"


def against_native(results, row, need):
    cells = []
    for base, needed, who in (("dual", need.dual, MIRROR), ("native", need.native, MIRROR),
                              ("dual", need.dual_async, "mirrorfs-async"),
                              ("dual", need.dual_writeback, "mirrorfs-wb")):
        if needed and (told := verdict(results.ratio(row, who, base), needed)):
            cells.append(told + f", {base}" + ("" if who == MIRROR else f", {who}"))
    return "; ".join(cells) or "-"


def processor(results, row, peers, needed):
    """CPU per operation against the most frugal of `peers`."""
    mine = results.cpu(row, MIRROR)
    theirs = [(cpu, p) for p in peers if (cpu := results.cpu(row, p))]
    if not mine or not theirs:
        return "-"
    cpu, peer = min(theirs)
    return f"{verdict(mine / cpu, needed, most=True)}, {peer}"


def accepted(results):
    """A Markdown table: required ratio, measured ratio, ok or MISSED. Empty without mirrorfs."""
    if MIRROR not in results.names:
        return ""
    lines = []
    for need in rows.NEEDED:
        for name in need.rows:
            row = rows.BY_NAME[name]
            if results.median(row, MIRROR) is None:
                continue
            title = f"`{name}`"
            if need.only_disk and results.result["ground_kind"] != "disk":
                title += " (required on a disk only)"
            lines.append([
                title, best_peer(results, row, need), against_native(results, row, need),
                verdict(results.ratio(row, MIRROR, "gluster"), need.gluster) or "-",
                processor(results, row, PEERS, rows.CPU_PEER),
                processor(results, row, ["gluster"], rows.CPU_GLUSTER)])
    if not lines:
        return ""
    heads = ["mirrorfs, speed against", "the best peer", "native", "gluster",
             "CPU, most frugal peer", "CPU, gluster"]
    missed = sum(cell.count("MISSED") for line in lines if "on a disk only" not in line[0]
                 for cell in line)
    return table(heads, lines) + f"\n{missed} missed.\n"
