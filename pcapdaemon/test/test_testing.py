# See LICENSE for details.
"""
Tests for those parts of L{pcapdaemon.testing} that have no contract tests.
"""

from __future__ import annotations

import io
from typing import BinaryIO, cast

import attrs
from zope.interface.verify import verifyObject

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.capture.recording import Recording
from pcapdaemon.interfaces import (
    IEventObserver,
    IFilterChecker,
    ISink,
    Reason,
    Refused,
    StoreError,
)
from pcapdaemon.testing import EventList, MemoryFilterChecker, MemorySink


@attrs.frozen
class Pcap:
    """As much of a recording as a sink needs."""

    filename: str
    content: bytes

    def open(self) -> BinaryIO:
        """The content from its beginning."""
        return io.BytesIO(self.content)


RECORDING = cast(Recording, Pcap("a.pcap", b"content"))


class MemoryFilterCheckerTests(SynchronousTestCase):
    """
    Tests for L{MemoryFilterChecker}.
    """

    def test_verdicts(self) -> None:
        """Filters are sound but for those that the test has a verdict on."""
        checker = MemoryFilterChecker()
        verifyObject(IFilterChecker, checker)
        later: Deferred[str] = Deferred()
        refusal = Refused(Reason.BAD_FILTER, "bpf: no")
        checker.verdicts = {"host x": "host 1.2.3.4", "((": refusal, "slow": later}
        self.assertEqual(self.successResultOf(checker.check("udp", 1, 64)), "udp")
        used = self.successResultOf(checker.check("host x", 113, 65))
        self.assertEqual(used, "host 1.2.3.4")
        failure = self.failureResultOf(checker.check("((", 1, 64), Refused)
        self.assertIs(failure.value, refusal)
        waiting = checker.check("slow", 1, 64)
        self.assertNoResult(waiting)
        later.callback("slow")
        self.assertEqual(self.successResultOf(waiting), "slow")
        self.assertEqual(checker.checked[:2], [("udp", 1, 64), ("host x", 113, 65)])


class EventListTests(SynchronousTestCase):
    """
    Tests for L{EventList}.
    """

    def test_events(self) -> None:
        """Events are kept in order, and found by their name."""
        events = EventList()
        verifyObject(IEventObserver, events)
        first, second = {"event": "armed"}, {"event": "stored"}
        events.observe(first)
        events.observe(second)
        self.assertEqual(events.events, [first, second])
        self.assertEqual(events.named("stored"), [second])


class MemorySinkTests(SynchronousTestCase):
    """
    Tests for L{MemorySink}.
    """

    def test_store(self) -> None:
        """The bytes are kept by file name."""
        sink = MemorySink()
        verifyObject(ISink, sink)
        url = self.successResultOf(sink.store(RECORDING))
        self.assertEqual(url, "memory:a.pcap")
        self.assertEqual(sink.files, {"a.pcap": b"content"})

    def test_failures(self) -> None:
        """Each attempt takes one of the failures that were prepared."""
        sink = MemorySink()
        sink.failures.extend([StoreError("a", True), StoreError("b", False)])
        for text in "ab":
            failure = self.failureResultOf(sink.store(RECORDING), StoreError)
            self.assertEqual(str(failure.value), text)
        self.successResultOf(sink.store(RECORDING))

    def test_failure(self) -> None:
        """Every attempt fails as long as a failure is set."""
        sink = MemorySink()
        sink.failure = OSError("full")
        for _ in range(2):
            self.failureResultOf(sink.store(RECORDING), OSError)
        self.assertEqual(sink.files, {})
        sink.failure = None
        self.successResultOf(sink.store(RECORDING))
        self.assertEqual(sink.attempts, ["a.pcap"] * 3)

    def test_gates(self) -> None:
        """An attempt waits for its gate and shares its fate."""
        sink = MemorySink()
        gate: Deferred[None] = Deferred()
        sink.gates.extend([gate, fail(OSError("reset"))])
        waiting = sink.store(RECORDING)
        self.failureResultOf(sink.store(RECORDING), OSError)
        self.assertNoResult(waiting)
        self.assertEqual(sink.files, {})
        gate.callback(None)
        self.successResultOf(waiting)
        self.assertEqual(sink.files, {"a.pcap": b"content"})
