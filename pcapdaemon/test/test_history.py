# See LICENSE for details.
"""
Tests for L{pcapdaemon.history}.
"""

from __future__ import annotations

import json
from typing import Any

from zope.interface.verify import verifyObject

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.history import History
from pcapdaemon.interfaces import CaptureError, ICaptureControl, IEventObserver
from pcapdaemon.test.fixtures import RECORD, makeBench


class HistoryTests(SynchronousTestCase):
    """
    Tests for L{History}.
    """

    def setUp(self) -> None:
        self.bench = makeBench(self)
        self.history = History(self.bench.captures, keep=2)
        self.bench.events.add(self.history)
        self._accepted = 0

    def emit(self, event: str, id: str, **fields: Any) -> None:
        """Let something happen to a capture."""
        self.bench.events.emit(event, id, {"alertid": 7}, **fields)

    def accept(self, **fields: Any) -> str:
        """Let a capture in, as an intake does it."""
        self._accepted += 1
        id = f"capture{self._accepted}"
        self.emit("accepted", id, bus="http", interface="eth0", filter="udp")
        self.assertEqual(self.bench.start(**fields).id, id)
        return id

    def summary(self, id: str) -> dict[str, Any]:
        """The summary of a capture that is known."""
        summary = self.history.summary(id)
        assert summary is not None
        return summary

    def known(self) -> list[str]:
        """The captures that can be asked about, in order."""
        return [summary["id"] for summary in self.history.summaries()]

    def test_interfaces(self) -> None:
        """It shows and ends captures, and learns of them by events."""
        verifyObject(ICaptureControl, self.history)
        verifyObject(IEventObserver, self.history)

    def test_states(self) -> None:
        """A summary has the state of its capture, and what is known so far."""
        self.bench.opening.held = True
        id = self.accept(packets=10)
        nothing = {"packets": 0, "bytes": 0}
        expected = {"id": id, "state": "accepted", "alertid": 7, "bus": "http"}
        self.assertLessEqual((expected | nothing).items(), self.summary(id).items())
        self.bench.opening.release()
        self.assertEqual(self.summary(id)["state"], "armed")
        self.bench.receive(0, 4)
        running = self.summary(id)
        self.assertEqual((running["state"], running["packets"]), ("armed", 4))
        self.bench.receive(4, 10)
        completed = self.summary(id)
        self.assertEqual(completed["state"], "completed")
        self.assertEqual(completed["bytes"], 24 + 10 * RECORD)
        self.assertEqual(completed["filter"], "udp")
        for passing in ("event", "stage", "reason", "sink", "url"):
            self.assertNotIn(passing, completed)
        self.assertEqual(self.history.summaries(), [completed])
        json.dumps(completed)

    def test_sinks(self) -> None:
        """What each sink did stands in lists, with where or why."""
        id = self.accept(packets=1)
        self.bench.receive(0, 1)
        self.emit("stored", id, sink="local", url="file:///a", filename="a")
        self.assertEqual(self.summary(id)["state"], "stored")
        self.emit("stored", id, sink="s3", url="s3://a", filename="a")
        self.emit("failed", id, stage="store", sink="shark", reason="refused")
        summary = self.summary(id)
        self.assertEqual(
            summary["stored"],
            [{"sink": "local", "url": "file:///a"}, {"sink": "s3", "url": "s3://a"}],
        )
        self.assertEqual(
            summary["failed"],
            [{"stage": "store", "reason": "refused", "sink": "shark"}],
        )
        self.assertEqual(summary["state"], "failed")

    def test_failed(self) -> None:
        """A capture that could not begin says why."""
        self.bench.system.failures["eth0"] = CaptureError("eth0: down")
        summary = self.summary(self.accept())
        self.assertEqual(summary["state"], "failed")
        failures = [{"stage": "capture", "reason": "eth0: down"}]
        self.assertEqual(summary["failed"], failures)
        self.assertNotIn("packets", summary)

    def test_rejected(self) -> None:
        """A refused request is no capture."""
        self.emit("rejected", "abc", bus="http", reason="busy")
        self.assertEqual(self.history.summaries(), [])
        self.assertIsNone(self.history.summary("abc"))

    def test_refusals(self) -> None:
        """The last refusals are remembered, as the events they were."""
        for number in range(3):
            self.emit("rejected", f"abc{number}", bus="http", reason="busy")
        refusals = self.history.refusals()
        self.assertEqual([event["id"] for event in refusals], ["abc1", "abc2"])
        self.assertEqual(refusals, self.bench.observed.events[1:])
        json.dumps(refusals)

    def test_progress(self) -> None:
        """That a capture is watched does not change its state."""
        id = self.accept()
        self.emit("progress", id, packets=1, rate=1.0)
        self.assertEqual(self.summary(id)["state"], "armed")
        self.assertNotIn("rate", self.summary(id))

    def test_bounded(self) -> None:
        """Of those that are over the last ones are remembered."""
        for number in range(5):
            self.accept(packets=1)
            self.bench.receive(number, number + 1)
            self.assertLessEqual(len(self.known()), 3)
        self.assertEqual(self.known(), ["capture4", "capture5"])
        self.assertIsNone(self.history.summary("capture3"))

    def test_late(self) -> None:
        """What happens to one that is forgotten is too."""
        for number in range(5):
            self.accept(packets=1)
            self.bench.receive(number, number + 1)
        self.emit("stored", "capture1", sink="local")
        self.assertNotIn("capture1", self.known())

    def test_givenUp(self) -> None:
        """One that is given up after it was completed is over only once."""
        for number in range(2):
            self.accept(packets=1)
            self.bench.receive(number, number + 1)
        for id in ("capture1", "capture2"):
            self.emit("failed", id, stage="capture", reason="no time")
        self.assertEqual(self.known(), ["capture1", "capture2"])

    def test_runningStay(self) -> None:
        """One that runs is never forgotten, however old, nor one that waits."""
        self.history.keep = 0
        first = self.accept()
        for number in range(3):
            self.accept(packets=1)
            self.bench.receive(number, number + 1)
        self.bench.opening.held = True
        waiting = self.accept()
        last = self.accept()
        self.assertEqual(self.known(), [first, waiting, last])
        self.bench.opening.release()

    def test_copies(self) -> None:
        """Who changes a summary changes nothing but that."""
        id = self.accept()
        self.summary(id)["state"] = "mine"
        self.history.summaries()[0]["state"] = "mine"
        self.assertEqual(self.summary(id)["state"], "armed")

    def test_cancel(self) -> None:
        """A running capture can be ended, and only such a one."""
        id = self.accept()
        self.bench.receive(0, 1)
        self.assertFalse(self.history.cancel("unknown"))
        self.assertTrue(self.history.cancel(id))
        self.bench.settle()
        self.assertEqual(self.summary(id)["stop"], "cancelled")
        self.assertFalse(self.history.cancel(id))
