# SPDX-License-Identifier: MIT
"""What was measured beside what is required."""

from . import rows
from .markdown import table
from .peers import PEERS

# Whose rows these are, and the peer whose data does not pass through its daemon.
MIRROR = "mirrorfs"
KERNEL = "passthrough_hp"


def verdict(ratio, needed, most=False):
    if ratio is None:
        return None
    good = ratio <= needed if most else ratio >= needed
    sign = "<=" if most else ">="
    return f"{ratio:.2f} ({sign} {needed:g}) {'ok' if good else '**MISSED**'}"


def floor(row):
    """Who does what `row` asks for without FUSE: the least that a mirror has to do."""
    return "native" if row.once else "dual"


def beyond(ratio, reached, needed, base, most=False):
    """Said of what is missed: not even the program without FUSE gets there, but to `reached`."""
    if ratio is None or reached is None:
        return ""
    is_missed, is_beyond = ((ratio > needed, reached > needed) if most else
                            (ratio < needed, reached < needed))
    return f", out of reach: {base} {reached:.2f}" if is_missed and is_beyond else ""


def ordinary(need):
    """The peers that count in full; where kernel passthrough is let off, it does not."""
    return [peer for peer in PEERS if peer != KERNEL or need.kernel_passthrough == -1]


def best_peer(results, row, need):
    """The verdict against the fastest peer, and where let off, against kernel passthrough."""
    judged = []
    ratios = [(ratio, peer) for peer in ordinary(need)
              if (ratio := results.ratio(row, MIRROR, peer)) is not None]
    if ratios:
        ratio, peer = min(ratios)
        judged.append((ratio, peer, need.peer))
    if need.kernel_passthrough > 0:
        ratio = results.ratio(row, MIRROR, KERNEL)
        if ratio is not None:
            judged.append((ratio, KERNEL, need.kernel_passthrough))
    base = floor(row)
    cells = [f"{verdict(ratio, needed)}, {peer}"
             + beyond(ratio, results.ratio(row, base, peer), needed, base)
             for ratio, peer, needed in judged]
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
    base = floor(row)
    least = results.cpu(row, base)
    return (f"{verdict(mine / cpu, needed, most=True)}, {peer}"
            + beyond(mine / cpu, least and least / cpu, needed, base, most=True))


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
                processor(results, row, ordinary(need), rows.CPU_PEER),
                processor(results, row, ["gluster"], rows.CPU_GLUSTER)])
    if not lines:
        return ""
    heads = ["mirrorfs, speed against", "the best peer", "native", "gluster",
             "CPU, most frugal peer", "CPU, gluster"]
    counted = [cell for line in lines if "on a disk only" not in line[0] for cell in line]
    missed, beyond_all = (sum(cell.count(word) for cell in counted)
                          for word in ("MISSED", "out of reach"))
    return table(heads, lines) + (f"\n{missed} missed, {beyond_all} of them out of reach: not even "
                                  "the same program without FUSE gets there, which is named with "
                                  "how far it gets.\n")
