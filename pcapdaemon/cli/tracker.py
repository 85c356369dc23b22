# See LICENSE for details.
"""
What has become of one request, as its events tell it. Nothing here knows where
they come from or how they are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from pcapdaemon.events import CATALOGUE

#: The most captures that are followed at once.
MOST = 10_000

#: What C{pcapdaemon send} exits with.
DONE, FAILED, USAGE, NOBODY, LEFT = 0, 1, 2, 3, 130


def _number(value: object) -> float:
    """
    A number of an event, which anybody may have made.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0
    return value if abs(value) < 2**63 else 0


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> list[str]:
    return [_text(each) for each in value] if isinstance(value, list) else []


@attrs.define(eq=False)
class Capture:
    """
    One capture of a request.

    @ivar state: C{accepted}, C{armed}, C{completed} or C{failed}.
    @ivar limits: What ends it, by the names of the event.
    @ivar armed: When it began, by the clock of the tracker; L{None} before.
    @ivar moved: When the last packet was seen, by the same.
    @ivar lasted: Seconds that it took, once it is over.
    @ivar sinks: Where its file goes, to what came of it: C{""} for nothing yet,
        C{stored}, C{spooled}, C{failed}.
    @ivar places: Sink to the URL at which the file is.
    @ivar reasons: Why it failed, or a sink did.
    """

    node: str
    id: str
    interface: str = ""
    alias: str = ""
    state: str = "accepted"
    limits: dict[str, float] = attrs.field(factory=dict)
    armed: float | None = None
    moved: float = 0
    lasted: float = 0
    packets: int = 0
    bytes: int = 0
    dropped: int = 0
    rate: float = 0
    stop: str = ""
    sha256: str = ""
    filename: str = ""
    sinks: dict[str, str] = attrs.field(factory=dict)
    places: dict[str, str] = attrs.field(factory=dict)
    reasons: list[str] = attrs.field(factory=list)
    missing: list[str] = attrs.field(factory=list)
    ignored: list[str] = attrs.field(factory=list)

    @property
    def over(self) -> bool:
        """
        Whether nothing more will be told of it.
        """
        if self.state == "failed":
            return True
        return self.state == "completed" and all(self.sinks.values())

    @property
    def good(self) -> bool:
        """
        Whether it is over, and its file where it should be.
        """
        return (
            self.over
            and self.state == "completed"
            and all(came == "stored" for came in self.sinks.values())
        )

    def nearest(self, now: float) -> tuple[str, float]:
        """
        The limit that will end it first, and how near it is, from 0 to 1.

        @param now: By the clock of the tracker.
        """
        if self.armed is None or self.state != "armed":
            return "", float(self.state == "completed")
        reached = {
            "packets": self.packets,
            "bytes": self.bytes,
            "duration": now - self.armed,
            "timeout": now - self.moved,
        }
        shares = {
            name: min(1.0, max(0.0, reached[name] / limit))
            for name, limit in self.limits.items()
            if limit > 0
        }
        if not shares:
            return "", 0
        name = max(shares, key=lambda each: shares[each])
        return name, shares[name]


@attrs.define
class Tracker:
    """
    All that is known of one request.

    @ivar captures: By identifier, in the order in which they were heard of.
    @ivar refusals: Node to reason and detail.
    @ivar foreign: The nodes that said the request is for another one.
    @ivar expected: The captures of which a daemon has said that they begin.
    @ivar untold: How many captures are too many to follow.
    """

    requestId: str
    clock: Callable[[], float]
    captures: dict[str, Capture] = attrs.field(factory=dict)
    refusals: dict[str, tuple[str, str]] = attrs.field(factory=dict)
    foreign: list[str] = attrs.field(factory=list)
    expected: dict[str, str] = attrs.field(factory=dict)
    untold: int = 0

    # What happens.

    def take(self, event: Mapping[str, Any]) -> Capture | None:
        """
        Take an event; it may be anybody's, and have come before.

        @return: The capture that it was news of.
        """
        kind = event["event"]
        if event.get("request_id") != self.requestId or kind not in CATALOGUE:
            return None
        node, id = event["node"], event["id"]
        if kind == "rejected":
            self.refused(node, _text(event.get("reason")), _text(event.get("detail")))
            return None
        capture = self.captures.get(id)
        if capture is None:
            if len(self.captures) >= MOST:
                self.untold += kind == "accepted"
                return None
            capture = self.captures[id] = Capture(node, id)
        for name in ("interface", "alias", "filename"):
            if _text(event.get(name)):
                setattr(capture, name, event[name])
        getattr(self, f"_{kind}")(capture, event)
        return capture

    def refused(self, node: str, reason: str, detail: str) -> None:
        """
        A node has refused the request.
        """
        if len(self.refusals) < MOST:
            self.refusals[node] = (reason, detail)

    def _accepted(self, capture: Capture, event: Mapping[str, Any]) -> None:
        limits = event.get("limits")
        if isinstance(limits, dict):
            capture.limits = {
                name: _number(limits.get(name))
                for name in ("packets", "bytes", "timeout", "duration")
            }
        capture.missing = _texts(event.get("missing"))
        capture.ignored = _texts(event.get("ignored"))

    def _armed(self, capture: Capture, event: Mapping[str, Any]) -> None:
        if capture.state == "accepted":
            capture.state = "armed"
            capture.armed = capture.moved = self.clock()

    def _progress(self, capture: Capture, event: Mapping[str, Any]) -> None:
        if capture.state not in ("accepted", "armed"):
            return
        self._armed(capture, event)
        now = self.clock()
        capture.armed = now - _number(event.get("elapsed"))
        if int(_number(event.get("packets"))) != capture.packets:
            capture.moved = now
        self._counted(capture, event)
        capture.rate = _number(event.get("rate"))

    def _counted(self, capture: Capture, event: Mapping[str, Any]) -> None:
        capture.packets = int(_number(event.get("packets")))
        capture.bytes = int(_number(event.get("bytes")))
        dropped = event.get("dropped")
        if isinstance(dropped, dict):
            capture.dropped = int(sum(_number(each) for each in dropped.values()))

    def _completed(self, capture: Capture, event: Mapping[str, Any]) -> None:
        if capture.state == "failed":
            return
        if capture.armed is not None and capture.state != "completed":
            capture.lasted = self.clock() - capture.armed
        capture.state, capture.rate = "completed", 0
        self._counted(capture, event)
        capture.stop = _text(event.get("stop"))
        capture.sha256 = _text(event.get("sha256"))
        for sink in _texts(event.get("sinks")):
            capture.sinks.setdefault(sink, "")

    def _stored(self, capture: Capture, event: Mapping[str, Any]) -> None:
        sink = _text(event.get("sink"))
        capture.sinks[sink] = "stored"
        capture.places[sink] = _text(event.get("url"))

    def _failed(self, capture: Capture, event: Mapping[str, Any]) -> None:
        reason = _text(event.get("reason"))
        if event.get("stage") != "store":
            capture.state = "failed"
            self._because(capture, reason)
            return
        sink = _text(event.get("sink"))
        lost = event.get("lost") is True
        if capture.sinks.get(sink) != "stored":
            capture.sinks[sink] = "failed" if lost else "spooled"
            came = "lost" if lost else "not stored yet, waits in the spool"
            self._because(capture, f"{sink}: {came}: {reason}")

    def _because(self, capture: Capture, reason: str) -> None:
        if reason not in capture.reasons and len(capture.reasons) < 20:
            capture.reasons.append(reason)

    def began(self, node: str, ids: Iterable[str]) -> None:
        """
        A daemon has said that these captures begin.
        """
        self.expected.update(dict.fromkeys(ids, node))

    # What came of it.

    @property
    def answered(self) -> set[str]:
        """
        The nodes that took it or refused it.
        """
        return {
            *(capture.node for capture in self.captures.values()),
            *self.refusals,
            *self.expected.values(),
        }

    @property
    def running(self) -> list[Capture]:
        """
        The captures that are not over, those first that came first.
        """
        return [each for each in self.captures.values() if not each.over]

    @property
    def over(self) -> bool:
        """
        Whether all captures are over that somebody has told of.
        """
        return not self.running and self.expected.keys() <= self.captures.keys()

    def outcome(self, expect: int = 0) -> tuple[int, list[str]]:
        """
        @param expect: How many nodes should have answered; 0 where nobody knows.
        @return: The exit status, and a sentence for all that is not in its rows.
        """
        said = [f"{node}: the request is for another node" for node in self.foreign]
        if not self.answered:
            return NOBODY, [*said, "nobody answered"]
        status = DONE
        unheard = [id for id in self.expected if id not in self.captures]
        if self.refusals or unheard or self.untold:
            status = FAILED
        if not all(capture.good for capture in self.captures.values()):
            status = FAILED
        said += [
            f"{self.expected[id] or 'a daemon'}: nothing was heard of capture {id}"
            for id in unheard
        ]
        if self.untold:
            said.append(f"{self.untold} captures more than {MOST} were not followed")
        if len(self.answered) < expect:
            status = FAILED
            said.append(f"{len(self.answered)} of {expect} expected nodes answered")
        return status, said
