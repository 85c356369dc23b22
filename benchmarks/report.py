# See LICENSE for details.
"""
How results are shown.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from pcapdaemon.capture.engines import AUTO, ENGINES


class _Formatter(
    argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter
):
    pass


def parser(doc: str | None) -> argparse.ArgumentParser:
    """
    A parser of options whose help begins with a module's text, as it stands.
    """
    return argparse.ArgumentParser(description=doc, formatter_class=_Formatter)


def addEngine(options: argparse.ArgumentParser) -> None:
    """
    Let the user choose what brings the daemon's packets.
    """
    options.add_argument(
        "--engine", choices=ENGINES, default=AUTO, help="what brings the packets"
    )


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """
    Print a table: the first column flush left, the others flush right.
    """
    lines = [tuple(columns), *(tuple(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"\n{title}\n")
    for number, (first, *rest) in enumerate(lines):
        cells = [first.ljust(widths[0])]
        cells += [c.rjust(w) for c, w in zip(rest, widths[1:], strict=True)]
        print("  ".join(cells).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))
    print()


def ratio(value: float, reference: float) -> str:
    """
    How many times the reference a value is.
    """
    return f"{value / reference:.2f}" if reference else "-"


def kept(value: float, limit: float) -> str:
    """
    Whether a value is within its limit.
    """
    return "yes" if value <= limit else "NO"


def mebibytes(size: float) -> str:
    """
    A size in MiB.
    """
    return f"{size / 2**20:.1f}"
