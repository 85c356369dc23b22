# See LICENSE for details.
"""
How a request is shown while it is followed: as a table that moves, as lines, or
as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pcapdaemon.cli.text import clean, plural, size, span
from pcapdaemon.cli.tracker import Capture, Tracker

_STATES = {"accepted": "waiting", "armed": "capturing", "completed": "storing"}
_COLOURS = {
    "waiting": "yellow",
    "capturing": "cyan",
    "storing": "blue",
    "done": "green",
    "failed": "red",
    "refused": "red",
}


def word(capture: Capture) -> str:
    """
    The state of a capture in a word.
    """
    if capture.over:
        return "done" if capture.good else "failed"
    return _STATES[capture.state]


def device(capture: Capture) -> str:
    """
    Its device, with the alias by which it was reached.
    """
    alias = f" ({clean(capture.alias, 40)})" if capture.alias else ""
    return f"{clean(capture.interface, 40)}{alias}"


def result(capture: Capture) -> str:
    """
    In a sentence, what a capture that has ended came to.
    """
    told = [plural(capture.packets, "packet"), size(capture.bytes)]
    if capture.lasted:
        told.append(span(capture.lasted))
    if capture.stop:
        told.append(f"ended by {clean(capture.stop, 40)}")
    if capture.dropped:
        told.append(f"{capture.dropped:,} dropped")
    return ", ".join(told)


class View:
    """
    What all views have. This one shows nothing but what cannot be left out.
    """

    def __init__(self, tracker: Tracker, output: TextIO, errors: TextIO) -> None:
        self._tracker = tracker
        self._output = output
        self._errors = Console(file=errors, highlight=False, soft_wrap=True)
        self.console = Console(file=output, highlight=False)
        self._warned: set[str] = set()

    def __enter__(self) -> View:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def note(self, text: str) -> None:
        """
        Show a sentence that belongs to no capture.
        """
        self._errors.print(Text(f"pcapdaemon: {clean(text)}", "yellow"))

    def event(self, event: Mapping[str, Any], capture: Capture | None) -> None:
        """
        Show what has happened.

        @param capture: The one that it happened to; L{None} for a refusal.
        """

    def refresh(self) -> None:
        """
        Show how it is now; called several times a second.
        """

    def pause(self) -> None:
        """
        Let somebody else have the terminal.
        """

    def resume(self) -> None:
        """
        Take it again.
        """

    def summary(self, sentences: list[str]) -> None:
        """
        Show what came of it all.

        @param sentences: What is in no row.
        """

    def _attention(self, capture: Capture) -> list[str]:
        """
        What somebody may have got wrong in the request.
        """
        told = []
        for what, names in (
            ("has no", capture.missing),
            ("ignores", capture.ignored),
        ):
            if names:
                listed = ", ".join(clean(name, 40) for name in names[:20])
                told.append(f"{clean(capture.node, 80)} {what} {listed}")
        return [text for text in told if text not in self._warned]


class JsonView(View):
    """
    Every event as a line of JSON, and nothing else on standard output.
    """

    def event(self, event: Mapping[str, Any], capture: Capture | None) -> None:
        """
        As it came.
        """
        self._output.write(json.dumps(event, separators=(",", ":")) + "\n")
        self._output.flush()

    def summary(self, sentences: list[str]) -> None:
        """
        On standard error.
        """
        for sentence in sentences:
            self.note(sentence)


class PlainView(View):
    """
    A line for each step, for a pipe or a file, and the summary.
    """

    def __init__(self, tracker: Tracker, output: TextIO, errors: TextIO) -> None:
        super().__init__(tracker, output, errors)
        # Lines are cut by nobody where nobody sees them.
        self.console = Console(file=output, highlight=False, soft_wrap=True)

    def event(self, event: Mapping[str, Any], capture: Capture | None) -> None:
        """
        In a line, unless it is only progress.
        """
        kind, node = event["event"], clean(event["node"], 80)
        if capture is None:
            reason, detail = self._tracker.refusals[event["node"]]
            self._line(f"{node}: refused ({clean(reason)}): {clean(detail)}")
            return
        for text in self._attention(capture):
            self._warned.add(text)
            self._line(text)
        place = f"{node} {device(capture)}"
        if kind == "completed":
            self._line(f"{place}: {kind}: {result(capture)}")
        elif kind == "stored":
            sink = str(event.get("sink", ""))
            where = clean(capture.places.get(sink, ""), 2000)
            self._line(f"{place}: {kind}: {clean(sink, 40)}: {where}")
        elif kind == "failed" and capture.reasons:
            self._line(f"{place}: {kind}: {clean(capture.reasons[-1])}")
        elif kind in ("accepted", "armed"):
            self._line(f"{place}: {kind}")

    def _line(self, text: str) -> None:
        self.console.print(Text(text))

    def summary(self, sentences: list[str]) -> None:
        """
        Counts; the lines have said the rest.
        """
        captures = self._tracker.captures.values()
        good = sum(capture.good for capture in captures)
        refused = len(self._tracker.refusals)
        told = [plural(len(captures), "capture"), f"{good} done"]
        if len(captures) > good:
            told.append(f"{len(captures) - good} not")
        if refused:
            told.append(f"{refused} refused")
        self._line(", ".join(told))
        for sentence in sentences:
            self._line(clean(sentence))


class LiveView(View):
    """
    A table on a terminal, a row for each capture and refusal.
    """

    def __init__(self, tracker: Tracker, output: TextIO, errors: TextIO) -> None:
        super().__init__(tracker, output, errors)
        self._live = self._made()

    def _made(self) -> Live:
        return Live(
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )

    def __enter__(self) -> View:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def pause(self) -> None:
        """
        Leave the table on the screen.
        """
        self._live.stop()
        self.console.print(self.table())

    def resume(self) -> None:
        """
        Begin a new one below it.
        """
        self._live = self._made()
        self._live.start()

    def note(self, text: str) -> None:
        """
        Above the table.
        """
        self.console.print(Text(clean(text), "yellow"))

    def event(self, event: Mapping[str, Any], capture: Capture | None) -> None:
        """
        Only what would not be in the table.
        """
        if capture is not None:
            for text in self._attention(capture):
                self._warned.add(text)
                self.note(text)

    def refresh(self) -> None:
        """
        Draw it.
        """
        self._live.update(self.table(), refresh=True)

    def table(self) -> Group:
        """
        How it is now.
        """
        captures = list(self._tracker.captures.values())
        refusals = list(self._tracker.refusals.items())
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        # There must be room for the terminal's own ^C, or it moves everything.
        table.width = max(60, self.console.width - 3)
        node = max([4, *(len(each.node) for each in captures)])
        node = min(24, max([node, *(len(each) for each, _ in refusals)]))
        place = min(24, max([6, *(len(device(each)) for each in captures)]))
        # What is left beside state, bar, limit, packets and what is between them.
        left = table.width - 9 - 12 - 15 - 7 - 2 * 5
        sized = left >= node + place + 8
        wide = left >= node + place + 8 + 20
        node = min(node, max(left - place, left // 2))
        for name, width in ("node", node), ("device", min(place, left - node)):
            table.add_column(name, no_wrap=True, overflow="ellipsis", width=width)
        table.add_column("state", no_wrap=True, width=9)
        table.add_column("", ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column("until", no_wrap=True, overflow="ellipsis", width=15)
        for name, shown in (
            ("packets", True),
            ("size", sized),
            ("packets/s", wide),
            ("dropped", wide),
        ):
            if shown:
                width = max(6, len(name))
                table.add_column(name, justify="right", no_wrap=True, width=width)
        room = max(3, self.console.height - 4)
        total = len(captures) + len(refusals)
        if total > room:
            # What runs is what one waits for.
            captures.sort(key=lambda each: (each.over, each.good))
        for capture in captures[:room]:
            self._row(table, capture)
        for name, (reason, _detail) in refusals[: max(0, room - len(captures))]:
            table.add_row(
                Text(clean(name, 80)),
                "",
                Text("refused", _COLOURS["refused"]),
                Text(clean(reason), _COLOURS["refused"]),
            )
        if total and total <= room:
            return Group(table)
        text = "waiting for answers"
        if total:
            over = len(captures) - len(self._tracker.running)
            text = f"{total} in all, {over} over, {len(refusals)} refused"
        return Group(table, Text(text, "dim"))

    def _row(self, table: Table, capture: Capture) -> None:
        now = self._tracker.clock()
        state = word(capture)
        colour = _COLOURS[state]
        limit, share = capture.nearest(now)
        until = self._until(capture, limit, now)
        bar = ProgressBar(
            total=1.0,
            completed=share,
            pulse=state in ("waiting", "storing"),
            animation_time=now,
            complete_style=colour,
            finished_style=colour,
            pulse_style=colour,
        )
        cells: list[Any] = [
            Text(clean(capture.node, 80)),
            Text(device(capture)),
            Text(state, colour),
            bar,
            Text(until, "dim"),
            f"{capture.packets:,}",
            size(capture.bytes),
            f"{capture.rate:,.0f}" if state == "capturing" else "",
            Text(f"{capture.dropped:,}", "red" if capture.dropped else ""),
        ]
        table.add_row(*cells[: len(table.columns)])

    @staticmethod
    def _until(capture: Capture, limit: str, now: float) -> str:
        """
        What will end it, or has.
        """
        most = capture.limits.get(limit, 0)
        if limit == "packets":
            return f"{int(most):,} packets"
        if limit == "bytes":
            return size(most)
        if limit == "duration" and capture.armed is not None:
            return f"{span(most - (now - capture.armed))} left"
        if limit == "timeout":
            return f"idle {span(most - (now - capture.moved))} left"
        return clean(capture.stop, 20)

    def summary(self, sentences: list[str]) -> None:
        """
        What came of each, with its addresses, which are too long for a table.
        """
        for capture in self._tracker.captures.values():
            state = word(capture)
            mark = {"done": "✓", "failed": "✗"}.get(state, "…")
            line = self._marked(mark, _COLOURS[state], clean(capture.node, 80))
            line.append(f" {device(capture)}", "bold")
            said = result(capture) if capture.state == "completed" else state
            line.append(f"  {said}")
            self._print(line)
            for sink, came in capture.sinks.items():
                url = capture.places.get(sink, "")
                if came == "stored":
                    where = (f"    {clean(sink, 40)}  ", "dim")
                    self._print(Text.assemble(where, clean(url, 2000)))
            for reason in capture.reasons:
                self._print(Text(f"    {clean(reason)}", "red"))
        for node, (reason, detail) in self._tracker.refusals.items():
            line = self._marked("✗", "red", clean(node, 80))
            line.append(f"  refused ({clean(reason)}): {clean(detail)}")
            self._print(line)
        for sentence in sentences:
            self._print(Text(clean(sentence), "yellow"))

    def _print(self, text: Text) -> None:
        # An address is one word, to be copied whole.
        self.console.print(text, soft_wrap=True)

    def _marked(self, mark: str, colour: str, node: str) -> Text:
        if not self.console.encoding.lower().startswith("utf"):
            mark = {"✓": "+", "✗": "!"}.get(mark, ".")
        return Text.assemble((mark, colour), " ", (node, "bold"))


def makeView(tracker: Tracker, output: TextIO, errors: TextIO, asJson: bool) -> View:
    """
    The view that fits where the output goes.
    """
    if asJson:
        return JsonView(tracker, output, errors)
    if output.isatty():
        return LiveView(tracker, output, errors)
    return PlainView(tracker, output, errors)
