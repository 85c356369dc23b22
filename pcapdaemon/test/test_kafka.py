# See LICENSE for details.
"""
Tests for L{pcapdaemon.listeners.kafka} without a broker and without threads.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from zope.interface.verify import verifyObject

from twisted.internet.defer import fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.interfaces import IListener
from pcapdaemon.listeners._kafka_records import Damage
from pcapdaemon.listeners.kafka import REASONS, REMIND, KafkaListener
from pcapdaemon.test.test_redis import ERROR, EVERYTHING, WARN, Messages, collectLog


class _Reactor(Clock):
    """
    A clock that calls from threads at once.
    """

    def callFromThread(self, function: Callable[..., Any], *args: Any) -> None:
        function(*args)


class _Reader:
    """
    A reader that does nothing.
    """

    def __init__(self) -> None:
        self.proceed = threading.Event()
        self.stopped = False

    def start(self) -> None:
        pass

    def stop(self) -> None:
        self.stopped = True


class ListenerTests(SynchronousTestCase):
    """
    The listener, as a reader sees it.
    """

    def setUp(self) -> None:
        """
        Start a listener without a reader's thread.
        """
        self.clock = _Reactor()
        self.messages = Messages()
        self.logged = collectLog(self)
        self.readers: list[_Reader] = []

        def reader(*_: Any) -> _Reader:
            self.readers.append(_Reader())
            return self.readers[-1]

        self.patch(sys.modules[KafkaListener.__module__], "Reader", reader)
        self.listener = KafkaListener(
            self.clock, self.messages, servers=["a:1", "b:2"], password="hunter2"
        )
        self.listener.startService()
        assert self.listener.report is not None
        self.report = self.listener.report

    def test_interface(self) -> None:
        """
        It is a listener.
        """
        verifyObject(IListener, self.listener)

    def test_connected(self) -> None:
        """
        It is connected while it reads.
        """
        self.assertFalse(self.listener.connected)
        self.report.reading(6)
        self.assertTrue(self.listener.connected)
        self.report.away("x", False)
        self.assertFalse(self.listener.connected)

    def test_messages(self) -> None:
        """
        Messages go to the receiver in order, sizes too, and then the reader may
        go on.
        """
        self.report.take([b"a", 70000, b"b"])
        self.clock.pump([0] * 3)
        self.assertEqual(self.messages.received, [b"a", b"b"])
        self.assertEqual(self.messages.sizes, [70000])
        self.assertTrue(self.readers[0].proceed.is_set())

    def test_slices(self) -> None:
        """
        Messages that take long leave turns to others, and the reader waits.
        """

        def slow(message: bytes) -> None:
            self.clock.rightNow += 1

        self.messages.react = slow
        self.report.take([b"a", b"b"])
        self.assertEqual(self.messages.received, [b"a"])
        self.assertFalse(self.readers[0].proceed.is_set())
        self.clock.advance(0)
        self.assertEqual(self.messages.received, [b"a", b"b"])
        self.assertTrue(self.readers[0].proceed.is_set())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_raising(self) -> None:
        """
        A message that the receiver fails on does not hurt the next one.
        """

        def react(message: bytes) -> None:
            if message == b"a":
                raise RuntimeError("a")

        self.messages.react = react
        self.report.take([b"a", b"b"])
        self.clock.advance(0)
        self.assertEqual(self.messages.received, [b"a", b"b"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_stop(self) -> None:
        """
        After a stop nothing is handed over, not even what waits, and no word of
        the old reader counts.
        """

        def slow(message: bytes) -> None:
            self.clock.rightNow += 1

        self.messages.react = slow
        self.report.reading(1)
        self.report.take([b"a", b"b"])
        stopped = self.listener.stopService()
        self.assertTrue(self.readers[0].stopped)
        self.assertFalse(self.listener.connected)
        self.report.take([b"c"])
        self.report.reading(1)
        self.report.ended()
        self.successResultOf(stopped)
        self.listener.startService()
        self.report.reading(1)
        self.assertFalse(self.listener.connected)
        self.assertEqual(self.messages.received, [b"a"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopHanging(self) -> None:
        """
        A stop does not wait for ever for a thread that hangs.
        """
        stopped = self.listener.stopService()
        self.assertNoResult(stopped)
        self.clock.advance(2)
        self.successResultOf(stopped)
        self.report.ended()

    def test_notStarted(self) -> None:
        """
        A listener that was never started stops at once.
        """
        listener = KafkaListener(self.clock, self.messages)
        self.successResultOf(listener.stopService())

    def test_said(self) -> None:
        """
        Each reason is told once, and again after a while, and never the
        password.
        """
        for _ in range(3):
            self.report.away("refused", False)
            self.report.away("reset by hunter2", False)
        self.assertEqual(
            self.logged(WARN),
            [
                "cannot read capture of Kafka at a:1, b:2, trying on: refused",
                "cannot read capture of Kafka at a:1, b:2, trying on: reset by ***",
            ],
        )
        self.clock.advance(REMIND)
        self.report.away("refused", False)
        self.assertEqual(len(self.logged(WARN)), 3)
        self.report.reading(1)
        self.report.away("refused", False)
        self.assertIn("lost Kafka at a:1, b:2: refused", self.logged(WARN))

    def test_manyReasons(self) -> None:
        """
        Reasons that are always new do not fill the log.
        """
        for n in range(100):
            self.report.away(f"reason {n}", False)
        self.assertEqual(len(self.logged(WARN)), REASONS)

    def test_refused(self) -> None:
        """
        What somebody must change is an error.
        """
        self.report.away("wrong password", True)
        self.assertEqual(
            self.logged(ERROR),
            ["Kafka at a:1, b:2 does not let us read capture: wrong password"],
        )

    def test_damage(self) -> None:
        """
        Damage is told once, and later how often.
        """
        self.report.take([Damage(2, "x")] * 10)
        self.clock.pump([0] * 10)
        self.clock.advance(REMIND)
        self.report.take([Damage(3, "y")])
        first, second = self.logged(WARN)
        self.assertIn("partition 2 of topic capture, 1 times", first)
        self.assertIn("partition 3 of topic capture, 10 times", second)

    def test_lateFailure(self) -> None:
        """
        An answer that fails is logged.
        """
        self.messages.react = lambda message: fail(RuntimeError("late"))
        self.report.take([b"a"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_settings(self) -> None:
        """
        Security settings reach the library, and a wrong C{cafile} is told at
        once.
        """
        listener = KafkaListener(
            self.clock,
            self.messages,
            security="SASL_SSL",
            username="joe",
            password="hunter2",
            mechanism="SCRAM-SHA-512",
        )
        settings, most = listener._connect.args
        context = settings.pop("ssl_context")
        self.assertTrue(context.check_hostname)
        self.assertEqual(
            settings,
            {
                "bootstrap_servers": ["127.0.0.1:9092"],
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "SCRAM-SHA-512",
                "sasl_plain_username": "joe",
                "sasl_plain_password": "hunter2",
            },
        )
        self.assertEqual(most(), 65536)
        self.messages.maxmessage = 1024
        self.assertEqual(most(), 1024)
        for wrong in ("/nonexistent", __file__):
            self.assertRaises(
                OSError,
                KafkaListener,
                self.clock,
                self.messages,
                security="SSL",
                cafile=wrong,
            )
        self.assertNotIn("hunter2", " ".join(self.logged(*EVERYTHING)))
