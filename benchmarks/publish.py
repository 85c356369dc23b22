# See LICENSE for details.
"""
The report: a page of Markdown and a plot, of the results of the programs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.plot import plot
from benchmarks.results import Figure, Result, Table

#: The names of what is written.
PAGE, PLOT, RESULTS = "report.md", "report.svg", "results"
#: The most load that programs before one can have left.
_CALM = 2.0


def read(directory: Path, programs: Sequence[str]) -> list[Result]:
    """
    @param programs: In the order of the report; results of others are left out.
    @return: The results that there are; what is none is said and left out.
    """
    found = []
    for program in programs:
        path = directory / RESULTS / f"{program}.json"
        try:
            found.append(Result.read(path))
        except FileNotFoundError:
            continue
        except ValueError as error:
            print(error, file=sys.stderr)
    return found


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ") or " "


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(map(_cell, cells))} |"

    yield line(columns)
    yield line(["---", *["---:"] * (len(columns) - 1)])
    yield from map(line, rows)
    yield ""


def _word(kept: bool) -> str:
    return "yes" if kept else "**no**"


def figures(results: Iterable[Result]) -> list[tuple[Result, Figure]]:
    """
    @return: All figures that were asked for; missed ones come first.
    """
    pairs = [(result, figure) for result in results for figure in result.figures]
    return sorted(pairs, key=lambda pair: pair[1].kept)


def _machines(results: Sequence[Result]) -> Iterator[str]:
    machines: list[dict[str, str]] = []
    for result in results:
        if result.machine not in machines:
            machines.append(result.machine)
    for machine in machines:
        on = [each.program for each in results if each.machine == machine]
        rows = [
            *machine.items(),
            ("programs", ", ".join(on)),
        ]
        yield from _table(("machine", ""), rows)


def _load(results: Sequence[Result]) -> Iterator[str]:
    # What runs before counts too, for a minute, and takes a core and a half.
    most = max((result.load for result in results), default=0)
    if most > _CALM:
        yield (
            f"**The machine had other work to do:** its load was up to {most:.1f} when "
            "a program began. Losses and times are those of a busy machine."
        )
        yield ""


def _missing(results: Sequence[Result], programs: Sequence[str]) -> Iterator[str]:
    there = {result.program for result in results}
    for program in programs:
        if program not in there:
            yield f"There is no result of `{program}`."
            yield ""


def _marked(table: Table) -> list[list[str]]:
    """
    @return: The rows, with what is not as asked in bold.
    """
    return [["**NO**" if c == "NO" else c for c in row] for row in table.rows]


def _program(result: Result) -> Iterator[str]:
    yield f"## {result.program}"
    yield ""
    command = f"python -m benchmarks.{result.program} {result.options}".strip()
    yield (
        f"`{command}`; {result.begun}, took {result.seconds:.0f} s, load at start "
        f"{result.load:.2f}."
    )
    yield ""
    if result.error:
        yield f"**It did not come to its end:** {_cell(result.error)}"
        yield ""
    for table in result.tables:
        yield f"{table.title}."
        yield ""
        yield from _table(table.columns, _marked(table))


def page(results: Sequence[Result], programs: Sequence[str]) -> str:
    """
    @param programs: All that there could be results of.
    @return: The report in Markdown.
    """
    all = figures(results)
    held = sum(figure.kept for _, figure in all)
    took = sum(result.seconds for result in results)
    lines = [
        "# Report",
        "",
        "Written by `make bench`; {doc}`../benchmarks` says how to read it.",
        "",
        *_machines(results),
        *_load(results),
        f"Of {len(all)} figures that were asked for, {held} are kept. All programs "
        f"together took {took / 60:.1f} minutes.",
        "",
        f"![Charts of what follows]({PLOT})",
        "",
        "## Figures that were asked for",
        "",
        *_table(
            ("figure", "measured", "asked", "kept", "program"),
            [
                (f.what, f.measured, f.bound, _word(f.kept), result.program)
                for result, f in all
            ],
        ),
        *_missing(results, programs),
    ]
    for result in results:
        lines += _program(result)
    return "\n".join(lines).rstrip() + "\n"


def publish(directory: Path, programs: Sequence[str]) -> list[Result]:
    """
    Write the report of the results in a directory, into that.

    @return: The results.
    """
    results = read(directory, programs)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / PAGE).write_text(page(results, programs), "utf-8")
    charts = (chart for result in results for chart in result.charts)
    (directory / PLOT).write_text(plot(charts), "utf-8")
    return results
