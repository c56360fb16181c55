# SPDX-License-Identifier: MIT
"""Tables and numbers as Markdown."""


def number(amount):
    """Three digits or so."""
    if amount is None:
        return "-"
    for limit, digits in ((100, 0), (10, 1), (1, 2)):
        if abs(amount) >= limit:
            return f"{amount:,.{digits}f}"
    return f"{amount:.3f}"


def table(heads, lines):
    out = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    out += ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join(out) + "\n"
