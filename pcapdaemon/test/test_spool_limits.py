# See LICENSE for details.
"""
Tests for L{pcapdaemon.spool}: limits, damage, starts and stops.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs

from pcapdaemon.interfaces import StartError, StoreError
from pcapdaemon.test.spooling import DAY, DOWN, SpoolTestCase, makeSealed


class LimitTests(SpoolTestCase):
    """
    What does not fit, is too old, or damaged.
    """

    def test_full(self) -> None:
        """What does not fit is refused with the limit, and nothing else is lost."""
        self.restart(maxsize=2 * 4096)
        self.add("a")
        added = self.spool.add(makeSealed(self, "b"), "one", DOWN)
        error = self.failureResultOf(added, StoreError).value
        self.assertIn("maxsize = 8192", str(error))
        self.clock.advance(1)
        self.assertEqual(self.stored(), [("a", "one")])
        self.add("b")

    def test_age(self) -> None:
        """
        What is too old is dropped, and said to be lost, with the last reason;
        what is not stays.
        """
        self.restart(maxage=DAY)
        self.one.failure = StoreError("refused", True)
        self.add("a", alertid=7)
        self.clock.pump([600] * 72)
        self.add("b")
        self.clock.pump([600] * 71)
        self.assertEqual(self.observed.events, [])
        self.clock.pump([600])
        [event] = self.observed.events
        self.assertEqual(
            {**event, "time": ""},
            {
                "event": "failed",
                "time": "",
                "node": "web1",
                "id": "a",
                "alertid": 7,
                "stage": "store",
                "interface": "eth0",
                "alias": "main",
                "sink": "one",
                "filename": "web1-eth0-1700000000-a.pcap",
                "reason": "not stored within maxage = 86400.0 s: refused",
                "lost": True,
            },
        )
        self.assertEqual(self.spool.waiting, {"one": 1})
        self.assertEqual(len(self.names()), 2)

    def test_ageAtStart(self) -> None:
        """What has become too old meanwhile is not sent any more."""
        self.add("a")
        self.end(self.spool)
        self.clock.advance(8 * DAY)
        self.spool = self.started()
        self.assertEqual(self.one.attempts, [])
        self.assertEqual(self.stored("failed"), [("a", "one")])
        self.assertEqual(self.names(), [])

    def test_ageOfOneSink(self) -> None:
        """
        What a sink is getting just now is not dropped, only that which waits for
        others.
        """
        self.add("a", "one")
        self.successResultOf(self.spool.add(makeSealed(self, "a"), "two", DOWN))
        gate: Deferred[None] = Deferred()
        self.one.gates.append(gate)
        self.two.failure = StoreError("refused", True)
        self.clock.advance(1)
        self.clock.advance(7 * DAY)
        self.assertEqual(self.stored("failed"), [("a", "two")])
        gate.callback(None)
        self.assertEqual(self.stored(), [("a", "one")])
        self.assertEqual(self.names(), [])

    def test_damaged(self) -> None:
        """
        What is damaged is set aside, said to be lost as far as it is known, and
        in nobody's way.
        """
        names = [self.add(id).filename for id in "abcd"]
        self.successResultOf(self.spool.add(makeSealed(self, "b"), "two", DOWN))
        (self.directory / f"{names[0]}.json").write_bytes(b"?")
        (self.directory / f"{names[1]}.spool").write_bytes(b"?")
        (self.directory / f"{names[2]}.spool").unlink()
        with capturedLogs() as logged:
            self.clock.advance(1)
        errors = [e["name"] for e in logged if e["log_level"] is LogLevel.error]
        self.assertEqual(sorted(errors), names[:3])
        self.assertEqual(self.stored(), [("d", "one")])
        self.assertEqual(
            sorted(self.stored("failed")), [("b", "one"), ("b", "two"), ("c", "one")]
        )
        for event in self.observed.named("failed"):
            self.assertTrue(event["lost"])
            self.assertIn("damaged", event["reason"])
        self.assertEqual(self.spool.waiting, {})
        kept = self.names()
        self.assertEqual(len(kept), 5)
        self.assertTrue(all(name.endswith(".damaged") for name in kept))
        self.restart()
        self.assertEqual(self.names(), kept)
        self.assertEqual(self.spool.used, 5 * 4096)

    def test_damagedAtStart(self) -> None:
        """So is what is found damaged at a start."""
        name = self.add("a").filename
        self.add("b")
        self.end(self.spool)
        (self.directory / f"{name}.json").write_bytes(b"?")
        self.spool = self.started()
        self.assertEqual(self.stored(), [("b", "one")])
        self.assertEqual(len(self.names()), 2)

    def test_removed(self) -> None:
        """What somebody has removed by hand is forgotten."""
        name = self.add("a").filename
        self.add("b")
        for suffix in ("json", "spool"):
            (self.directory / f"{name}.{suffix}").unlink()
        self.clock.advance(1)
        self.assertEqual(self.stored(), [("b", "one")])
        self.assertEqual(self.spool.waiting, {})


class LifeTests(SpoolTestCase):
    """
    Starts and stops.
    """

    def test_shared(self) -> None:
        """Two daemons do not share a directory."""
        other = self.makeSpool()
        self.assertRaises(StartError, other.startService)
        self.assertFalse(other.running)
        self.end(self.spool)
        other.startService()
        self.end(other)

    def test_again(self) -> None:
        """A spool that was stopped can be started again."""
        self.add("a")
        self.end(self.spool)
        self.spool.startService()
        self.assertEqual(self.stored(), [("a", "one")])

    def test_closed(self) -> None:
        """Before and after that it takes nothing."""
        self.end(self.spool)
        added = self.spool.add(makeSealed(self), "one", DOWN)
        self.failureResultOf(added, StoreError)
        self.assertEqual(self.names(), [])

    def test_stopWaits(self) -> None:
        """
        The directory is not free before everything that is under way is done.
        """
        self.work.held = True
        added = self.spool.add(makeSealed(self), "one", DOWN)
        stopped = self.spool.stopService()
        self.assertNoResult(stopped)
        self.assertRaises(StartError, self.makeSpool().startService)
        self.work.release()
        self.successResultOf(added)
        self.successResultOf(stopped)
        self.assertEqual(len(self.names()), 2)
        self.restart()
        self.assertEqual(self.stored(), [("abc", "one")])

    def test_stopCuts(self) -> None:
        """
        An attempt that is under way may go on for a moment; if it does not end
        in time the recording stays.
        """
        self.add("a")
        self.add("b")
        gates: list[Deferred[None]] = [Deferred(), Deferred()]
        self.one.gates.extend(gates)
        self.clock.advance(1)
        stopped = self.spool.stopService()
        self.clock.advance(1)
        gates[0].callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.stored(), [("a", "one")])
        self.spool = self.started()
        stopped = self.spool.stopService()
        self.clock.advance(1)
        self.assertNoResult(stopped)
        self.clock.advance(1)
        self.successResultOf(stopped)
        self.assertEqual(self.spool.waiting, {"one": 1})
        self.assertEqual(len(self.names()), 2)

    def test_startNotRead(self) -> None:
        """Additions wait until the directory has been read."""
        self.add("a")
        self.end(self.spool)
        self.work.held = True
        self.spool = self.started()
        added = self.spool.add(makeSealed(self, "b"), "one", DOWN)
        self.assertNoResult(added)
        self.work.release()
        self.successResultOf(added)
        self.clock.advance(1)
        self.assertEqual(self.stored(), [("a", "one"), ("b", "one")])
