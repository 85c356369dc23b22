# See LICENSE for details.
"""
How a benchmark shows what it found: it prints tables, and keeps them with the
figures that were asked for and with charts for L{benchmarks.publish}.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.results import Bar, Chart, Figure, Result, Table
from pcapdaemon.capture.engines import AUTO, ENGINES


class _Formatter(
    argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter
):
    pass


class _Recorder:
    """
    Keeps what this process finds.
    """

    def __init__(self) -> None:
        self.result = Result("", "")
        self.path: Path | None = None


_recorder = _Recorder()


class _Record(argparse.Action):
    """
    Remembers where the result is to go, so that no program needs to.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        _recorder.path = Path(values)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """
    A parser of options whose help begins with a module's text, as it stands.
    """
    made = argparse.ArgumentParser(description=doc, formatter_class=_Formatter)
    made.add_argument(
        "--json",
        metavar="FILE",
        action=_Record,
        default=argparse.SUPPRESS,
        help="where to put the result for the report",
    )
    return made


@contextmanager
def recording() -> Iterator[None]:
    """
    Keep what is found meanwhile, and write it in the end where C{--json} says,
    however this ends.
    """
    words = iter(sys.argv[1:])
    # Where a result goes is no part of how it came about.
    options = [w for w in words if w != "--json" or next(words, None) is None]
    # Else importing this module would run programs to ask for their versions.
    wanted = "--json" in sys.argv
    program = Path(sys.argv[0]).stem
    begin = Result.begin if wanted else Result
    result = _recorder.result = begin(program, " ".join(options))
    started = time.perf_counter()
    try:
        yield
    except BaseException as error:
        if not isinstance(error, SystemExit) or error.code:
            result.error = _said(error)
        raise
    finally:
        result.seconds = round(time.perf_counter() - started, 1)
        if _recorder.path is not None:
            result.save(_recorder.path)


def _said(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"ended with {error.code}"
    first = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first}"[:200]


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
    print(flush=True)
    kept = Table(title, list(columns), [list(line) for line in lines[1:]])
    _recorder.result.tables.append(kept)


def asked(
    what: str, value: float, limit: float, unit: str = "", least: bool = False
) -> str:
    """
    Keep a figure that was asked for.

    @param least: Whether C{limit} is the least that it may be, not the most.
    @return: Whether it is kept, in a word.
    """
    holds = value >= limit if least else value <= limit
    after = f" {unit}" if unit else ""
    bound = f"at {'least' if least else 'most'} {limit:g}{after}"
    shown = f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"
    if value >= 1000:
        shown = f"{value:.0f}"
    figure = Figure(what, shown + after, bound, holds)
    _recorder.result.figures.append(figure)
    return "yes" if holds else "NO"


def chart(title: str, bars: Iterable[Bar], parts: Iterable[str] = ()) -> None:
    """
    Keep a chart, which is not printed.

    @param parts: What the parts of the bars are.
    """
    _recorder.result.charts.append(Chart(title, list(bars), list(parts)))


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
