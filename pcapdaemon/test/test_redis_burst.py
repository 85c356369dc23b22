# See LICENSE for details.
"""
Tests for L{pcapdaemon.listeners._backlog}, as part of the Redis listener.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.listeners import _backlog
from pcapdaemon.listeners._redislink import PING
from pcapdaemon.listeners.redis import RedisListener
from pcapdaemon.test.test_redis import CONFIRMED, Messages, Transport, published


class BurstTests(SynchronousTestCase):
    """
    More messages at once than can be worked off in one turn of the reactor.
    """

    def setUp(self) -> None:
        """
        Subscribe, and let each message take half a slice.
        """
        self.clock = MemoryReactorClock()
        self.messages = Messages()
        self.listener = RedisListener(self.clock, self.messages)
        self.listener.startService()
        self.addCleanup(self.listener.stopService)
        self.transport = Transport()
        factory: Any = self.clock.tcpClients[-1][2]
        self.protocol = factory.buildProtocol(None)
        self.transport.protocol = self.protocol
        self.protocol.makeConnection(self.transport)
        self.protocol.dataReceived(CONFIRMED)

        def react(message: bytes) -> None:
            self.clock.rightNow += _backlog.SLICE / 2

        self.messages.react = react
        self.sent = [b"%04d" % n + bytes(_backlog.PIECE - 100) for n in range(100)]
        self.wire = b"".join(map(published, self.sent))

    def turns(self, look: Callable[[], None]) -> None:
        """
        Let everything be worked off, and have a look once in every turn.
        """

        def turn() -> None:
            look()
            if self.listener.backlog.waiting:
                self.clock.callLater(0, turn)

        turn()
        self.clock.advance(0)

    def test_inSlices(self) -> None:
        """
        A turn of the reactor works off a slice, or one piece when the socket
        has more, and in the end everything has come in order, once.
        """
        self.protocol.dataReceived(self.wire[: _backlog.FULL - 1])
        self.assertEqual(len(self.messages.received), 2)
        self.protocol.dataReceived(self.wire[_backlog.FULL - 1 :])
        counts: list[int] = []
        self.turns(lambda: counts.append(len(self.messages.received)))
        steps = {after - before for before, after in pairwise(counts)}
        self.assertTrue(steps <= {0, 1, 2, 3}, counts)
        self.assertEqual(self.messages.received, self.sent)

    def test_reading(self) -> None:
        """
        Reading stops when too much waits, and goes on when half is gone.
        """
        self.patch(_backlog, "LIMIT", len(self.wire) - 50_000)
        self.protocol.dataReceived(self.wire)
        states: list[tuple[bool, str]] = []
        self.turns(
            lambda: states.append(
                (
                    self.listener.backlog.waiting > _backlog.LIMIT // 2,
                    self.transport.producerState,
                )
            )
        )
        self.assertEqual(set(states), {(True, "paused"), (False, "producing")})

    def test_lostMeanwhile(self) -> None:
        """
        What had been read when the connection was lost is still taken.
        """
        self.protocol.dataReceived(self.wire)
        self.transport.abortConnection()
        self.turns(lambda: None)
        self.assertEqual(self.messages.received, self.sent)

    def test_busyIsNotSilent(self) -> None:
        """
        A server is not given up while it is this side that does not read.
        """
        self.protocol.dataReceived(self.wire)
        turn = PING / 10
        # The clock of a daemon that got hardly any time.
        self.messages.react = lambda message: setattr(
            self.clock, "rightNow", self.clock.rightNow + turn
        )
        self.turns(lambda: self.assertFalse(self.transport.aborted))
        self.assertTrue(self.clock.seconds() > 5 * PING)
