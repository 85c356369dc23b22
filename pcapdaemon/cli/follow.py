# See LICENSE for details.
"""
Following a request until all that it began is over.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from time import monotonic, time
from typing import Any

import attrs

from pcapdaemon.cli.bus import BusError, Note, Receipt, Sender, Source
from pcapdaemon.cli.display import View
from pcapdaemon.cli.tracker import FAILED, Tracker
from pcapdaemon.events import timestamp

#: Seconds between two looks at the clock, and between two pictures.
TICK = 0.125
#: Seconds that uploads may take when nobody has said how long to wait in all.
SLACK = 300.0
#: Seconds for the event of what a server has refused already.
EVENT = 1.0
#: The most events that are taken before the next picture.
_MANY = 2_000


@attrs.frozen
class Patience:
    """
    How long to follow.

    @ivar wait: Seconds in which nodes may answer.
    @ivar expect: How many will; 0 where nobody knows.
    @ivar limit: Seconds in all; L{None} for those of the captures and L{SLACK}.
    """

    wait: float
    expect: int = 0
    limit: float | None = None


class Follow:
    """
    One request on its way.
    """

    def __init__(
        self,
        tracker: Tracker,
        view: View,
        inbox: queue.Queue[Any],
        patience: Patience,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._tracker = tracker
        self._view = view
        self._inbox = inbox
        self._patience = patience
        self._clock = clock
        self._began = clock()
        #: Whether every daemon that was asked has answered directly.
        self._direct = True
        self._unsent: list[str] = []
        self._late = False
        #: What was refused directly, until the event of it comes.
        self._untold: dict[str, dict[str, Any]] = {}
        self._seen: set[tuple[Any, ...]] = set()
        #: The servers that can end captures, with those that they began.
        self._taken: list[tuple[Sender, tuple[str, ...]]] = []

    # Sending.

    def send(self, senders: Iterable[Sender], message: bytes) -> None:
        """
        Publish a request; what does not work is a part of what came of it.
        """
        for sender in senders:
            try:
                receipt = sender.publish(message)
            except BusError as error:
                self._unsent.append(str(error))
                self._view.note(str(error))
                continue
            self._receive(sender, receipt)
        self._began = self._clock()

    def _receive(self, sender: Sender, receipt: Receipt) -> None:
        node = receipt.node or sender.address.label
        if receipt.foreign:
            self._tracker.foreign.append(node)
        elif receipt.reason:
            self._tracker.refused(node, receipt.reason, receipt.detail)
            self._untold[node] = {
                "event": "rejected",
                "time": timestamp(time()),
                "node": node,
                "id": "",
                "request_id": self._tracker.requestId,
                "reason": receipt.reason,
                "detail": receipt.detail,
            }
        else:
            if not receipt.ids:
                self._direct = False
            if receipt.heard == 0:
                self._view.note(f"{sender.address.label}: nobody is subscribed")
            self._tracker.began(node, receipt.ids)
            self._taken.append((sender, receipt.ids))

    def cancel(self) -> None:
        """
        Ask for the end of all captures.
        """
        for sender, ids in self._taken:
            try:
                sender.cancel(self._tracker.requestId, ids)
            except BusError as error:
                self._view.note(str(error))

    # Following.

    def run(self) -> None:
        """
        Follow until all is over, or time is.
        """
        while not self._over():
            self._take()
            self._view.refresh()
        for event in list(self._untold.values()):
            self._tell(event)

    def _over(self) -> bool:
        elapsed = self._clock() - self._began
        if elapsed > self._most():
            self._late = not self._tracker.over
            return True
        if self._untold and elapsed < EVENT:
            return False
        return self._gathered(elapsed) and self._tracker.over

    def _gathered(self, elapsed: float) -> bool:
        """
        Whether no further node is waited for.
        """
        patience = self._patience
        if patience.expect and len(self._tracker.answered) >= patience.expect:
            return True
        if self._direct and not patience.expect:
            return True
        return elapsed >= patience.wait

    def _most(self) -> float:
        patience = self._patience
        if patience.limit is not None:
            return patience.limit
        captures = self._tracker.captures.values()
        longest = max((each.limits.get("duration", 0) for each in captures), default=0)
        return patience.wait + longest + SLACK if captures else patience.wait + 10

    def _take(self) -> None:
        """
        Take what there is, and wait a little where there is nothing.
        """
        end = self._clock() + TICK
        for _ in range(_MANY):
            try:
                item = self._inbox.get(timeout=max(0.0, end - self._clock()))
            except queue.Empty:
                return
            if isinstance(item, Note):
                self._view.note(item.text)
            elif item.get("request_id") == self._tracker.requestId:
                self._tell(item)

    def _tell(self, event: dict[str, Any]) -> None:
        """
        Take an event, which may have come by another way already.
        """
        key = (
            event["event"],
            event["node"],
            *(str(event.get(name)) for name in ("time", "id", "sink")),
        )
        if event["event"] == "rejected":
            key = ("rejected", event["node"])
            self._untold.pop(event["node"], None)
        if event["event"] != "progress":
            if key in self._seen:
                return
            if len(self._seen) < 100_000:
                self._seen.add(key)
        if "missed" in event:
            self._view.note(
                f"{event['node']} dropped events before this one: {event['missed']}"
            )
        capture = self._tracker.take(event)
        if capture is not None or event["event"] == "rejected":
            self._view.event(event, capture)

    # The end.

    def outcome(self) -> tuple[int, list[str]]:
        """
        @return: The exit status, and sentences for what is in no row.
        """
        status, said = self._tracker.outcome(self._patience.expect)
        said = [*self._unsent, *said]
        if self._late:
            running = self._tracker.running
            said += [
                f"{each.node} {each.interface}: no end of capture {each.id} was told "
                f"within {self._most():g} s"
                for each in running[:20]
            ]
        if self._unsent and status == 0:
            status = FAILED
        return status, said


def openAll(sources: Iterable[Source], requestId: str, progress: bool) -> list[Source]:
    """
    Begin to read all sources, or none.

    @raise BusError: One of them cannot be read.
    """
    opened: list[Source] = []
    try:
        for source in sources:
            source.open(requestId, progress)
            opened.append(source)
    except BaseException:
        closeAll(opened)
        raise
    return opened


def closeAll(sources: Iterable[Source]) -> None:
    """
    Read no more.
    """
    for source in sources:
        source.close()
