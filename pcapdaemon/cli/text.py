# See LICENSE for details.
"""
Values as people read them, and texts from outside as a terminal may have them.
"""

from __future__ import annotations


def clean(text: str, most: int = 400) -> str:
    """
    A text that others made, in one line and without anything that a terminal
    would obey.
    """
    shown = "".join(
        each if each.isprintable() else repr(each)[1:-1] for each in text[:most]
    )
    return shown + ("…" if len(text) > most else "")


def size(count: float) -> str:
    """
    Bytes, in decimal units.
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    digits = 1 if unit != "B" and count < 9.95 else 0
    return f"{count:.{digits}f} {unit}"


def span(seconds: float) -> str:
    """
    A length of time.
    """
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def plural(count: int, what: str) -> str:
    """
    So many of something.
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"
