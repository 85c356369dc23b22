# See LICENSE for details.
"""
Tests of L{pcapdaemon.capture.filterpool}, and of what
L{pcapdaemon.capture.filters} remembers, with a child that the test plays.
"""

from __future__ import annotations

import json
import signal
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.capture.filters import FilterChecker
from pcapdaemon.interfaces import Reason, Refused

_ETHERNET = 1


class _Process:
    """
    A child that the test plays.
    """

    def __init__(self, protocol: Any, pid: int) -> None:
        self.protocol, self.pid = protocol, pid
        self.asked: list[Any] = []
        self.signals: list[str] = []

    def write(self, line: bytes) -> None:
        """Take a question."""
        self.asked.append(json.loads(line)[0])

    def signalProcess(self, name: str) -> None:
        """Take note of a signal."""
        self.signals.append(name)

    def say(self, line: bytes) -> None:
        """Say something."""
        self.protocol.outReceived(line)

    def end(self, number: int | None = signal.SIGKILL) -> None:
        """Be reaped."""
        error = ProcessDone(0) if number is None else ProcessTerminated(signal=number)
        self.protocol.processEnded(Failure(error))


class _Played(Clock):
    """
    Processes that the test plays, and a time that it makes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[_Process] = []
        self.error: OSError | None = None

    def spawnProcess(self, protocol: Any, *args: Any, **kwargs: Any) -> _Process:
        """Make one."""
        if self.error is not None:
            raise self.error
        process = _Process(protocol, len(self.processes))
        self.processes.append(process)
        protocol.makeConnection(process)
        return process


class PoolTests(SynchronousTestCase):
    """
    One child, played by the test, that misbehaves in all ways.
    """

    def setUp(self) -> None:
        """Start a checker with one child, which is ready."""
        self.played = _Played()
        self.checker = self.make()
        self.last.say(b"ready\n")

    def make(self, **limits: Any) -> FilterChecker:
        """Start a checker."""
        checker = FilterChecker(self.played, children=1, **limits)
        checker.startService()
        return checker

    @property
    def last(self) -> _Process:
        """The child that was started last."""
        return self.played.processes[-1]

    def ask(self, filter: str = "tcp") -> Deferred[str]:
        """Ask for a filter."""
        return self.checker.check(filter, _ETHERNET, 65535)

    def reason(self, check: Deferred[str]) -> str:
        """The reason of a refusal."""
        reason: str = self.failureResultOf(check, Refused).value.reason
        return reason

    def test_order(self) -> None:
        """
        Questions are asked one at a time, in order, the same one but once, and
        what is known is answered at once.
        """
        checks = [self.ask(filter) for filter in ("tcp", "udp", "tcp", "tcp")]
        for filter in ("tcp", "udp"):
            self.assertEqual(self.last.asked[-1], filter)
            self.last.say(b'["", ""]\n')
        self.assertEqual(self.last.asked, ["tcp", "udp"])
        got = [self.successResultOf(check) for check in checks]
        self.assertEqual(got, ["tcp", "udp", "tcp", "tcp"])
        self.assertEqual(self.successResultOf(self.ask("udp")), "udp")
        self.assertEqual((self.checker.checks, self.checker.hits), (5, 1))

    def test_memory(self) -> None:
        """
        Refusals are remembered too, and the verdict that was wanted least
        lately is forgotten first.
        """
        self.checker = self.make(cachesize=2)
        self.last.say(b"ready\n")
        for filter, asked in (("a", 1), ("b", 2), ("a", 2), ("c", 3), ("a", 3)):
            check = self.ask(filter)
            self.assertEqual(len(self.last.asked), asked)
            if not check.called:
                self.last.say(b'["bad-filter", "no"]\n')
            self.assertEqual(self.reason(check), Reason.BAD_FILTER)
        self.ask("b")
        self.assertEqual(len(self.last.asked), 4)

    def test_full(self) -> None:
        """
        Only so many questions wait.
        """
        self.checker = self.make(maxwaiting=2)
        checks = [self.ask(), self.ask("udp")]
        self.assertEqual(self.reason(self.ask()), Reason.BUSY)
        self.last.say(b"ready\n")
        self.last.say(b'["", ""]\n')
        self.assertEqual(self.successResultOf(checks[0]), "tcp")
        self.assertNoResult(self.ask("icmp"))

    def test_unread(self) -> None:
        """
        An answer that a busy reactor has not read in time counts, if it reads
        it next.
        """
        check = self.ask()
        self.played.callLater(0.5, self.last.say, b'["", ""]\n')
        self.played.advance(5)
        self.assertEqual(self.successResultOf(check), "tcp")
        self.assertEqual(self.last.signals, [])

    def test_late(self) -> None:
        """
        A refusal for lateness is not kept for ever: the machine may have been
        busy.
        """
        check = self.ask()
        self.played.advance(0.5)
        self.assertEqual(self.reason(check), Reason.TOO_COMPLEX)
        self.assertEqual(self.played.processes[0].signals, ["KILL"])
        self.last.say(b"ready\n")
        self.assertEqual(self.reason(self.ask()), Reason.TOO_COMPLEX)
        self.played.advance(30)
        self.assertNoResult(self.ask())

    def test_rubbish(self) -> None:
        """
        A child that talks rubbish is killed, and its filter tried on another.
        """
        for rubbish in (b"what?\n", b'["", 1]\n', b"[1]\n", b"ready\n", b"x" * 70_000):
            check = self.ask(repr(rubbish))
            child = self.last
            child.say(rubbish)
            self.assertEqual(child.signals, ["KILL"])
            child.end()
            self.last.say(b"ready\n")
            self.last.say(b'["", ""]\n')
            self.assertEqual(self.successResultOf(check), repr(rubbish))

    def test_deaths(self) -> None:
        """
        Too much CPU is the filter's fault at once, a crash at its second time;
        other deaths are not.
        """
        for number, tries, reason in (
            (signal.SIGPROF, 1, Reason.TOO_COMPLEX),
            (signal.SIGSEGV, 2, Reason.TOO_COMPLEX),
            (None, 2, Reason.BUSY),
        ):
            check = self.ask(f"port {number}")
            for _ in range(tries):
                self.assertNoResult(check)
                self.last.end(number)
                self.last.say(b"ready\n")
            self.assertEqual(self.reason(check), reason)

    def test_neverReady(self) -> None:
        """
        Children that die at their start are tried again later and later;
        meanwhile filters are refused with the child's last words.
        """
        check = self.ask()
        self.last.end()
        for delay in (0.1, 0.2, 0.4):
            self.last.protocol.errReceived(b"no such module\n")
            self.last.end()
            refused = self.failureResultOf(check, Refused).value
            self.assertEqual(refused.reason, Reason.BUSY)
            self.assertIn("no such module", refused.detail)
            self.assertEqual(self.reason(self.ask()), Reason.BUSY)
            count = len(self.played.processes)
            self.played.advance(delay * 0.99)
            self.assertEqual(len(self.played.processes), count)
            self.played.advance(delay * 0.02)
            self.assertEqual(len(self.played.processes), count + 1)
            check = self.ask()
        self.last.say(b"ready\n")
        self.last.say(b'["", ""]\n')
        self.assertEqual(self.successResultOf(check), "tcp")

    def test_silentStart(self) -> None:
        """
        A child that does not get ready is killed.
        """
        self.checker = self.make()
        self.played.advance(10)
        self.assertEqual(self.last.signals, ["KILL"])

    def test_noProcess(self) -> None:
        """
        A system that cannot start a process is asked again, and stopping ends
        that.
        """
        self.played.error = OSError("too many processes")
        self.last.end()
        refused = self.failureResultOf(self.ask(), Refused).value
        self.assertIn("too many processes", refused.detail)
        self.successResultOf(self.checker.stopService())
        self.assertEqual(self.played.getDelayedCalls(), [])
