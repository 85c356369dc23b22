# See LICENSE for details.
"""
Tests for L{pcapdaemon.events}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from zope.interface import implementer
from zope.interface.verify import verifyObject

from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.events import CATALOGUE, COMMON, Events, LogObserver, timestamp
from pcapdaemon.interfaces import IEventObserver
from pcapdaemon.testing import EventList

NOW = 1_700_000_000.25


@implementer(IEventObserver)
class Broken:
    """
    An observer that cannot cope.
    """

    def observe(self, event: Mapping[str, Any]) -> None:
        raise RuntimeError("broken")


class TimestampTests(SynchronousTestCase):
    """
    Tests for L{timestamp}.
    """

    def test_format(self) -> None:
        """A time is RFC 3339 in UTC, always with microseconds."""
        self.assertEqual(timestamp(NOW), "2023-11-14T22:13:20.250000Z")
        self.assertEqual(timestamp(0), "1970-01-01T00:00:00.000000Z")

    def test_read(self) -> None:
        """It is what standard readers make the same time of."""
        moment = datetime.fromisoformat(timestamp(NOW))
        self.assertEqual(moment, datetime.fromtimestamp(NOW, UTC))


class EventsTests(SynchronousTestCase):
    """
    Tests for L{Events}.
    """

    def setUp(self) -> None:
        self.events = Events("web1", lambda: NOW)
        self.observed = EventList()
        self.events.add(self.observed)

    def test_common(self) -> None:
        """Every event says what, when, where, which, and whose."""
        about = {
            "request_id": "r1",
            "alertid": 7,
            "customer": "c",
            "tags": "a,b",
            "folder": "f",
        }
        for name in CATALOGUE:
            self.events.emit(name, "abc", about)
        for event, name in zip(self.observed.events, CATALOGUE, strict=True):
            self.assertEqual(
                event,
                {
                    "event": name,
                    "time": timestamp(NOW),
                    "node": "web1",
                    "id": "abc",
                    "request_id": "r1",
                    "alertid": 7,
                    "customer": "c",
                    "tags": "a,b",
                },
            )
            self.assertEqual(tuple(event), COMMON)

    def test_order(self) -> None:
        """Fields come in the order of the catalogue, whatever it was called with."""
        self.events.emit("rejected", "abc", {}, detail="d", reason="r", bus="b")
        fields = ["event", "time", "node", "id", *CATALOGUE["rejected"]]
        self.assertEqual(list(self.observed.events[0]), fields)

    def test_unknown(self) -> None:
        """An event or field that is not in the catalogue is an error."""
        with self.assertRaises(ValueError) as raised:
            self.events.emit("armed", "abc", {}, link=1, url="x")
        self.assertIn("url", str(raised.exception))
        self.assertRaises(KeyError, self.events.emit, "exploded", "abc", {})
        self.assertEqual(self.observed.events, [])

    def test_empty(self) -> None:
        """Empty fields are left out; zero and false are no such."""
        about = {"alertid": None, "customer": "", "tags": ""}
        self.events.emit(
            "accepted", "abc", about, alias="", filter=None, ignored=(), missing=[]
        )
        self.events.emit("completed", "abc", {"alertid": 0}, packets=0, bytes=False)
        first, second = self.observed.events
        self.assertEqual(list(first), ["event", "time", "node", "id"])
        self.assertEqual(second["alertid"], 0)
        self.assertEqual((second["packets"], second["bytes"]), (0, False))

    def test_isolated(self) -> None:
        """An observer that fails is logged, and hurts nobody else."""
        last = EventList()
        self.events.add(Broken())
        self.events.add(last)
        self.events.emit("armed", "abc", {})
        self.assertEqual(last.events, self.observed.events)
        self.assertEqual(len(last.events), 1)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_remove(self) -> None:
        """One that was removed, by itself while it observes too, sees no more."""
        events = self.events
        last = EventList()

        @implementer(IEventObserver)
        class Once:
            """An observer of one event."""

            def observe(self, event: Mapping[str, Any]) -> None:
                events.remove(self)

        events.add(Once())
        events.add(last)
        events.emit("armed", "abc", {})
        events.emit("armed", "def", {})
        self.assertEqual([event["id"] for event in last.events], ["abc", "def"])


class LogObserverTests(SynchronousTestCase):
    """
    Tests for L{LogObserver}.
    """

    def setUp(self) -> None:
        self.logged: list[LogEvent] = []
        keep = cast(ILogObserver, self.logged.append)
        log = Logger("events", observer=keep)
        self.observer = LogObserver(log)

    def test_interface(self) -> None:
        """It is an observer."""
        verifyObject(IEventObserver, self.observer)
        verifyObject(IEventObserver, LogObserver())

    def test_line(self) -> None:
        """Each event is one line of JSON, whatever is in it."""
        event = {"event": "accepted", "id": "abc", "tags": 'a\n{b} "\u2028\x1b'}
        self.observer.observe(event)
        [logged] = self.logged
        line = formatEvent(logged)
        self.assertEqual(json.loads(line), event)
        self.assertEqual(line.splitlines(), [line])
        self.assertTrue(line.isascii() and line.isprintable())
        self.assertEqual(logged["pcapdaemon"], event)

    def test_levels(self) -> None:
        """
        Refusals are warnings, failures errors, all else information; progress is
        nothing for a log.
        """
        for name in CATALOGUE:
            self.observer.observe({"event": name})
        logged = [name for name in CATALOGUE if name != "progress"]
        levels = dict(zip(logged, [e["log_level"] for e in self.logged], strict=True))
        self.assertEqual(levels.pop("rejected"), LogLevel.warn)
        self.assertEqual(levels.pop("failed"), LogLevel.error)
        self.assertEqual(set(levels.values()), {LogLevel.info})
