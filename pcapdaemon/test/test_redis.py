# See LICENSE for details.
"""
Tests for L{pcapdaemon.listeners.redis} against a clock and memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zope.interface import implementer
from zope.interface.verify import verifyObject

from twisted.application.service import IService
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.interfaces import Answer, IListener, IMessageReceiver, Verdict
from pcapdaemon.listeners import redis
from pcapdaemon.listeners.redis import RedisListener


@implementer(IMessageReceiver)
class Messages:
    """
    A receiver that keeps what it gets.

    @ivar react: What to do with a message before it is answered.
    """

    maxmessage = 65536

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.sizes: list[int] = []
        self.react: Callable[[bytes], Deferred[Answer] | None] = lambda message: None

    def receive(self, message: bytes, bus: str) -> Deferred[Answer]:
        self.received.append(message)
        return self.react(message) or succeed(Answer(Verdict.NOT_OURS))

    def oversized(self, size: int, bus: str) -> Answer:
        self.sizes.append(size)
        return Answer(Verdict.REFUSED)

    def unauthorized(self, bus: str) -> Answer:
        return Answer(Verdict.REFUSED)


def collectLog(case: SynchronousTestCase) -> Callable[..., list[str]]:
    """
    @return: A callable that says what has been logged since, at the given
        levels.
    """
    events: list[Mapping[str, Any]] = []
    observer: Any = events.append
    globalLogPublisher.addObserver(observer)
    case.addCleanup(globalLogPublisher.removeObserver, observer)

    def logged(*levels: LogLevel) -> list[str]:
        return [
            formatEvent(dict(event))
            for event in events
            if event.get("log_level") in levels and not event.get("log_trace")
        ]

    return logged


WARN, ERROR = LogLevel.warn, LogLevel.error
EVERYTHING = tuple(LogLevel.iterconstants())

#: What a server sends to confirm the subscription.
CONFIRMED = b"*3\r\n$9\r\nsubscribe\r\n$7\r\ncapture\r\n:1\r\n"
PONG = b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"


def published(message: bytes) -> bytes:
    """
    @return: What a server sends to a subscriber for one message.
    """
    return b"*3\r\n$7\r\nmessage\r\n$7\r\ncapture\r\n$%d\r\n%s\r\n" % (
        len(message),
        message,
    )


def refuse(clock: MemoryReactorClock) -> None:
    """
    Let the latest attempt to connect fail.
    """
    factory: Any = clock.tcpClients[-1][2]
    factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))
    # So long the endpoint waits whether the name has another address.
    clock.advance(HostnameEndpoint._DEFAULT_ATTEMPT_DELAY)


class Transport(StringTransport):
    """
    A transport that knows when it was aborted, and loses its connection then.
    """

    aborted = False
    protocol: Any

    def abortConnection(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.protocol.connectionLost(Failure(ConnectionRefusedError("aborted")))

    loseConnection = abortConnection


class MemoryTests(SynchronousTestCase):
    """
    The listener against a clock and a connection in memory.
    """

    def setUp(self) -> None:
        """
        Start a listener whose jitter is always the greatest.
        """
        self.clock = MemoryReactorClock()
        self.messages = Messages()
        self.logged = collectLog(self)
        self.listener = RedisListener(
            self.clock, self.messages, jitter=lambda: 1.0, ping=4.0
        )
        self.listener.startService()
        self.addCleanup(self.listener.stopService)

    def connect(self) -> Transport:
        """
        Let the latest attempt succeed.
        """
        transport = Transport()
        transport.protocol = self.clock.tcpClients[-1][2].buildProtocol(None)
        transport.protocol.makeConnection(transport)
        return transport

    def subscribe(self) -> Transport:
        """
        Let the latest attempt succeed, and the server confirm.
        """
        transport = self.connect()
        transport.protocol.dataReceived(CONFIRMED)
        self.assertTrue(self.listener.connected)
        transport.clear()
        return transport

    def refuse(self) -> None:
        """
        Let the latest attempt fail.
        """
        refuse(self.clock)

    def test_interfaces(self) -> None:
        """
        It is a listener and a service, and takes its messages to a receiver.
        """
        verifyObject(IListener, self.listener)
        verifyObject(IService, self.listener)
        verifyObject(IMessageReceiver, self.messages)
        self.assertEqual(self.listener.name, "redis")

    def test_nothingBeforeStart(self) -> None:
        """
        The constructor does not connect.
        """
        clock = MemoryReactorClock()
        RedisListener(clock, self.messages)
        self.assertEqual(clock.tcpClients, [])
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_connectedWhenConfirmed(self) -> None:
        """
        A connection is not a subscription.
        """
        transport = self.connect()
        self.assertIn(b"SUBSCRIBE\r\n$7\r\ncapture\r\n", transport.value())
        self.assertFalse(self.listener.connected)
        transport.protocol.dataReceived(CONFIRMED + published(b"first"))
        self.assertTrue(self.listener.connected)
        self.assertEqual(self.messages.received, [b"first"])

    def test_noConfirmation(self) -> None:
        """
        A server that accepts and says nothing is given up after five seconds.
        """
        transport = self.connect()
        self.clock.advance(redis.SUBSCRIBE - 0.1)
        self.assertFalse(transport.aborted)
        self.clock.advance(0.1)
        self.assertTrue(transport.aborted)

    def test_delays(self) -> None:
        """
        Attempts come ever later, up to one second, and quickly again once
        there has been a subscription.
        """
        for delay in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0):
            attempts = len(self.clock.tcpClients)
            self.refuse()
            self.clock.advance(delay - 0.01)
            self.assertEqual(len(self.clock.tcpClients), attempts)
            self.clock.advance(0.02)
            self.assertEqual(len(self.clock.tcpClients), attempts + 1)
        self.subscribe().abortConnection()
        self.clock.advance(0.11)
        self.assertEqual(len(self.clock.tcpClients), attempts + 2)

    def test_jitter(self) -> None:
        """
        With the least jitter the delay is half of that with the greatest.
        """
        clock = MemoryReactorClock()
        listener = RedisListener(clock, self.messages, jitter=lambda: 0.0)
        listener.startService()
        self.addCleanup(listener.stopService)
        refuse(clock)
        [retry] = clock.getDelayedCalls()
        self.assertAlmostEqual(retry.getTime() - clock.seconds(), 0.05)

    def test_quiet(self) -> None:
        """
        A server that is away is mentioned at once and then each minute; its
        coming back and going are one line each.
        """
        while self.clock.seconds() < 90:
            self.refuse()
            self.clock.advance(1)
        warnings = self.logged(*EVERYTHING)
        self.assertEqual(len(warnings), 2, warnings)
        self.assertIn("127.0.0.1:6379", warnings[0])
        self.subscribe().abortConnection()
        lines = self.logged(*EVERYTHING)[2:]
        self.assertEqual(len(lines), 2, lines)
        self.assertIn("subscribed to capture", lines[0])
        self.assertIn("lost Redis", lines[1])

    def test_ping(self) -> None:
        """
        A server that answers pings is kept.
        """
        transport = self.subscribe()
        for _ in range(10):
            self.clock.advance(4)
            self.assertEqual(transport.value(), b"*1\r\n$4\r\nPING\r\n")
            transport.clear()
            transport.protocol.dataReceived(PONG)
        self.assertFalse(transport.aborted)

    def test_silence(self) -> None:
        """
        A server that does not answer a ping is given up within ten seconds.
        """
        transport = self.subscribe()
        self.clock.advance(4)
        transport.protocol.dataReceived(PONG)
        self.clock.pump([4.0, 3.9])
        self.assertFalse(transport.aborted)
        self.clock.advance(0.1)
        self.assertTrue(transport.aborted)
        self.assertFalse(self.listener.connected)
        self.assertIn("no answer to a ping", self.logged(WARN)[-1])

    def test_messagesAreSignsOfLife(self) -> None:
        """
        A pong that queues behind messages does not end the connection.
        """
        transport = self.subscribe()
        for _ in range(5):
            self.clock.advance(4)
            transport.protocol.dataReceived(published(b"x"))
        self.assertFalse(transport.aborted)

    def test_receiverFails(self) -> None:
        """
        A receiver that raises, or whose Deferred fails, gets the next message.
        """

        def react(message: bytes) -> Deferred[Answer] | None:
            if message == b"raise":
                raise ZeroDivisionError
            return fail(ZeroDivisionError()) if message == b"fail" else None

        self.messages.react = react
        self.subscribe().protocol.dataReceived(
            published(b"raise") + published(b"fail") + published(b"good")
        )
        self.assertEqual(self.messages.received, [b"raise", b"fail", b"good"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_stopInReceiver(self) -> None:
        """
        What follows the message at which the service was stopped is dropped,
        be it in the same read or behind it.
        """
        transport = self.subscribe()

        def react(message: bytes) -> None:
            self.listener.stopService()

        self.messages.react = react
        transport.protocol.dataReceived(published(b"x") * 2000)
        self.assertEqual(self.messages.received, [b"x"])
        self.assertTrue(transport.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopWhileAway(self) -> None:
        """
        A stop between two attempts leaves nothing behind, and nothing is said.
        """
        self.refuse()
        before = self.logged(*EVERYTHING)
        self.successResultOf(self.listener.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.logged(*EVERYTHING), before)

    def test_notRedis(self) -> None:
        """
        Another kind of server is no traceback, but a reason in the log.
        """
        transport = self.connect()
        transport.protocol.dataReceived(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.assertTrue(transport.aborted)
        self.assertIn("not the Redis protocol", self.logged(WARN)[-1])

    def test_passwordEchoed(self) -> None:
        """
        A server that repeats the password in its error does not bring it into
        the log.
        """
        self.listener.password = "hunter2"
        transport = self.connect()
        transport.protocol.dataReceived(
            b"-ERR unknown command 'AUTH', with args beginning with: 'hunter2' \r\n"
        )
        self.assertIn("unknown command 'AUTH'", self.logged(ERROR)[-1])
        self.assertNotIn("hunter2", " ".join(self.logged(*EVERYTHING)))

    def test_endless(self) -> None:
        """
        A message of more than any server sends by default is cut off, said,
        and the link made anew.
        """
        self.patch(redis, "LONGEST", 100_000)
        transport = self.subscribe()
        wire = published(bytes(1_000_000))
        for start in range(0, 300_000, 50_000):
            transport.protocol.dataReceived(wire[start : start + 50_000])
            self.clock.advance(0)
        self.assertTrue(transport.aborted)
        [size] = self.messages.sizes
        self.assertTrue(100_000 < size <= 100_000 + 4096)
        self.assertEqual(self.messages.received, [])
        self.clock.advance(1)
        self.subscribe().protocol.dataReceived(published(b"next"))
        self.assertEqual(self.messages.received, [b"next"])

    def test_pongsAreNoMessage(self) -> None:
        """
        A channel without messages is not taken for one endless message.
        """
        self.patch(redis, "LONGEST", 5 * len(PONG))
        transport = self.subscribe()
        for _ in range(20):
            self.clock.advance(4)
            transport.protocol.dataReceived(PONG)
        self.assertFalse(transport.aborted)
