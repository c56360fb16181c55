# SPDX-License-Identifier: MIT
"""What was measured, as Markdown: docs/PERFORMANCE.md."""

import statistics

from . import rows, scaled, seeded
from .accept import accepted
from .markdown import number, table

INTRODUCTION = """\
<!-- Written by scripts/bench; what is changed here by hand is lost. -->
# Performance

Measured by `scripts/bench`: every contestant in turn, in rounds (A B C, B C A, ...), each time on
fresh trees of the same two file systems. A number is the median of its rounds; **bold** is the
ratio to `native`, in speed: 2 is twice as fast, 0.5 half as fast. In brackets: the spread,
(max - min) / median. `native` keeps one copy without FUSE; `dual` is the same program doing
everything on one tree and then on the other, the floor of every synchronous mirror; the peers keep
one copy, mirrorfs two. Each contestant's files were compared after its turn: the two copies with
each other, and with what the first contestant kept.

Warm means seen before, more than a second ago: the peers' kernels keep attributes and names for a
second by default (passthrough_hp's for a day), mirrorfs's until they change. A row with `dual`
where something is made rather than written (`git-clone`, `build`) makes it once and copies it.
Sequential writes are done three times in a row, and the fastest counts: this virtual machine gives
memory back that is free for a while, and the first use of it costs more than what is measured.
"""


def value(row, sample):
    """A sample in the row's unit."""
    seconds = max(sample["seconds"], 1e-9)
    if row.unit == "op/s":
        return sample["ops"] / seconds
    if row.unit == "MiB/s":
        return sample["bytes"] / seconds / (1 << 20)
    if row.unit == "ms":
        return seconds / max(1, sample["ops"]) * 1000
    return seconds


class Results:
    """Medians and spreads of one run."""

    def __init__(self, result):
        self.result = result
        self.names = [c["name"] for c in result["contestants"]]
        self.by = {}
        for sample in result["samples"]:
            self.by.setdefault((sample["row"], sample["contestant"]), []).append(sample)
        measured = {row for row, _ in self.by}
        self.rows = [row for row in rows.ROWS if row.name in measured]

    def median(self, row, name):
        samples = self.by.get((row.name, name))
        return statistics.median(value(row, s) for s in samples) if samples else None

    def spread(self, row, name):
        values = [value(row, s) for s in self.by[(row.name, name)]]
        return (max(values) - min(values)) / statistics.median(values)

    def ratio(self, row, name, base):
        """How many times as fast as `base`."""
        one, other = self.median(row, name), self.median(row, base)
        if not one or not other:
            return None
        return other / one if row.unit in ("s", "ms") else one / other

    def paired(self, row, name, base):
        """That ratio in each round which has both."""
        rounds = {}
        for who in (name, base):
            for sample in self.by.get((row.name, who), []):
                rounds.setdefault(sample["round"], {})[who] = value(row, sample)
        pairs = [pair for pair in rounds.values() if len(pair) == 2 and all(pair.values())]
        return [pair[base] / pair[name] if row.unit in ("s", "ms") else pair[name] / pair[base]
                for pair in pairs]

    def cpu(self, row, name):
        """Microseconds of CPU of one operation: client and daemon."""
        samples = self.by.get((row.name, name))
        if not samples:
            return None
        return statistics.median(
            (s["client_cpu"] + s["daemon_cpu"]) / max(1, s["ops"]) * 1e6 for s in samples)


def speeds(results):
    def cell(row, name):
        median = results.median(row, name)
        if median is None:
            return "-"
        text = number(median)
        if name != "native" and (ratio := results.ratio(row, name, "native")) is not None:
            text += f" **{ratio:.2f}**"
        return f"{text} ({results.spread(row, name) * 100:.0f} %)"

    lines = [[f"{row.title} (`{row.name}`)", row.unit, *(cell(row, n) for n in results.names)]
             for row in results.rows]
    return table(["workload", "unit", *results.names], lines)


def builds(results):
    """Builds and options of mirrorfs beside each other: the ratio of each round, as the two ran
    within the same minutes."""
    others = [n for n in results.names
              if n != "mirrorfs" and (n.startswith("against") or n.startswith("mirrorfs"))]
    if "mirrorfs" not in results.names or not others:
        return ""

    def cell(row, other):
        pairs = results.paired(row, "mirrorfs", other)
        if not pairs:
            return "-"
        cpu = results.cpu(row, "mirrorfs") / max(1e-9, results.cpu(row, other))
        return (f"**{statistics.median(pairs):.2f}** ({min(pairs):.2f} to {max(pairs):.2f}), "
                f"CPU {cpu:.2f}")

    lines = [[f"`{row.name}`", *(cell(row, other) for other in others)] for row in results.rows
             if results.median(row, "mirrorfs") is not None]
    return table(["mirrorfs, speed against", *others], lines)


def processor(results):
    lines = [[f"`{row.name}`", *(number(results.cpu(row, name)) for name in results.names)]
             for row in results.rows]
    return table(["us of CPU per operation", *results.names], lines)


def memory(results):
    def of(name, field):
        values = [m[field] / 1024 for m in results.result["memory"] if m["contestant"] == name]
        return f"{statistics.median(values):.1f}" if values else None

    names = [name for name in results.names if of(name, "peak_kib")]
    if not names:
        return ""
    return table(["MiB of memory", *names],
                 [["after mount", *(of(n, "at_rest_kib") for n in names)],
                  ["peak", *(of(n, "peak_kib") for n in names)]])


def section(result):
    machine = result["machine"]
    fuse = ", ".join(f"{k}={v}" for k, v in machine["fuse"].items())
    title = result["ground"][0].upper() + result["ground"][1:]
    poll = machine["halt_poll_ns"]
    if poll.isdigit() and int(poll):
        title += f"; guest_halt_poll_ns={poll}"
    if "scale" in result:
        title += "; as the tree grows"
    lines = [
        f"## {title}\n",
        f"- {machine['date']}, mirrorfs {machine['commit']}, size `{result['size']}`, "
        f"{result['rounds']} rounds",
        f"- {machine['cores']} CPUs, {machine['cpu']}; {machine['memory_gib']} GiB; "
        f"Linux {machine['kernel']}; guest_halt_poll_ns={machine['halt_poll_ns']}; fuse: {fuse}",
        f"- load average before: {' '.join(machine['load_before'].split()[:3])}, after: "
        f"{' '.join(machine['load_after'].split()[:3])}\n",
    ]
    lines += [f"- `{c['name']}`: {c['about']}" for c in result["contestants"]]
    lines += [f"- `{name}`: not measured: {why}" for name, why in result["missing"].items()]
    lines += [f"- FAILED: `{f['contestant']}` {f['row']}: {f['why'].splitlines()[0][:200]}"
              for f in result["failures"]]
    text = "\n".join(lines) + "\n"
    if "scale" in result:
        return text + scaled.tables(result)
    if "seeding" in result:
        return text + seeded.tables(result)
    results = Results(result)
    if results.rows:
        text += "\n### Speed\n\n" + speeds(results)
        if told := builds(results):
            text += "\n### Builds and modes\n\n" + told
        text += "\n### CPU time, client and daemon\n\n" + processor(results)
        if told := memory(results):
            text += "\n### Memory of the daemon\n\n" + told
        if told := accepted(results):
            text += "\n### What is required\n\n" + told
    return text


def render(results):
    return INTRODUCTION + "".join("\n" + section(result) for result in results)
