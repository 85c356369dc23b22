# See LICENSE for details.
"""
Requests from a Redis pub/sub channel.

Redis keeps nothing for a subscriber that is away: what is published then never
arrives, and nothing ever arrives twice.
"""

from __future__ import annotations

from collections.abc import Callable
from random import random
from typing import Any

from txredisapi import ConnectionError as RedisConnectionError
from txredisapi import ResponseError, SubscriberProtocol
from zope.interface import implementer

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pcapdaemon.interfaces import IListener, IMessageReceiver
from pcapdaemon.listeners._backlog import Backlog
from pcapdaemon.listeners._redislink import FIRST, LAST, PING, connector, serverWords

#: Seconds to wait until the subscription is confirmed.
SUBSCRIBE = 5.0
#: Seconds after which a server that is still away is mentioned again.
REMIND = 60.0

#: Bytes of one message that are put up with before the link is cut. It is the
#: size at which Redis, as it is delivered, cuts off every subscriber itself.
LONGEST = 32 * 1024 * 1024


class _Subscriber(SubscriberProtocol):  # type: ignore[misc]
    """
    One connection: authenticates, subscribes, then pings.

    @ivar why: Why this side gave the connection up, or empty.
    @ivar partial: How many bytes of an unfinished message the parser holds.
    """

    def __init__(self, listener: RedisListener) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self.listener = listener
        self.why = ""
        self.partial = 0
        self._silent = False
        self._pings = LoopingCall(self._ping)
        self._pings.clock = listener.reactor

    def connectionMade(self) -> None:
        super().connectionMade()
        self.listener.made(self)
        subscribing: Deferred[None] = Deferred.fromCoroutine(self._subscribe())
        subscribing.addTimeout(SUBSCRIBE, self.listener.reactor)
        subscribing.addErrback(self._unsubscribed)

    async def _subscribe(self) -> None:
        listener = self.listener
        if listener.password or listener.username:
            await self.auth(listener.password, listener.username)
        await self.subscribe(listener.channel)
        # What follows the confirmation in the same piece is a message already.
        listener.subscribed()
        self._pings.start(listener.ping, now=False)

    def _unsubscribed(self, failure: Failure) -> None:
        if failure.check(RedisConnectionError):
            return  # Lost meanwhile, which connectionLost reports.
        if failure.check(ResponseError):
            self.listener.refused(failure.getErrorMessage())
            self.abort("refused")
        else:
            self.abort("no answer")

    def _ping(self) -> None:
        """
        Give up a server that has been silent since the last ping, else ping.

        Anything counts as a sign of life, since an answer may have to queue
        behind megabytes of messages.
        """
        if self._silent:
            self.abort("no answer to a ping")
            return
        # With messages waiting here it may be this side that does not read.
        self._silent = not self.listener.backlog.waiting
        # Unanswered pings fail when the connection is lost: no news then.
        self.execute_command("PING", apply_timeout=False).addErrback(lambda _: None)

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        self._silent = False
        if unpause:  # The parser in pure Python going on with what it has.
            super().dataReceived(data, unpause)
        else:
            self.listener.backlog.add(self, data)

    def parse(self, piece: bytes) -> None:
        """
        Take one piece of the stream.
        """
        if self.why:
            return
        self.partial += len(piece)
        try:
            super().dataReceived(piece)
        except Exception as e:
            self.abort(f"not the Redis protocol: {e}")
        if self.partial > LONGEST:
            self.listener.receiver.oversized(self.partial, self.listener.name)
            self.abort(f"a message of more than {LONGEST} bytes")

    def replyReceived(self, reply: Any) -> None:
        self.partial = 0
        super().replyReceived(reply)

    def messageReceived(self, pattern: None, channel: bytes, message: bytes) -> None:
        self.listener.deliver(message)

    def abort(self, why: str) -> None:
        """
        Give the connection up. A polite end could wait for a dead server.
        """
        self.why = self.why or why
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:
        if self._pings.running:
            self._pings.stop()
        super().connectionLost(reason)
        self.listener.lost(self, self.why or reason.getErrorMessage())


class _SubscriberFactory(Factory):
    """
    Builds a L{_Subscriber} for each connection.
    """

    noisy = False

    def __init__(self, listener: RedisListener) -> None:
        self._listener = listener

    def buildProtocol(self, addr: object) -> Any:
        return _Subscriber(self._listener)


@implementer(IListener)
class RedisListener(Service):
    """
    Subscribes to one channel, and does so again for ever.

    @ivar backlog: What has been read and not yet parsed.
    """

    name = "redis"
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        receiver: IMessageReceiver,
        *,
        host: str = "127.0.0.1",
        port: int = 6379,
        channel: str = "capture",
        username: str = "",
        password: str = "",
        tls: bool = False,
        cafile: str = "",
        jitter: Callable[[], float] = random,
        ping: float = PING,
    ) -> None:
        """
        @param reactor: The clock, the connections and the resolver.
        @param receiver: What every message is handed to.
        @param username: With a password, the user of an access control list.
        @param password: Empty to not authenticate.
        @param cafile: With C{tls}, a PEM file with the certificates to trust
            instead of the system's.
        @param jitter: Numbers from 0 to 1, so that a fleet does not come back
            to a server at the same moment.
        @param ping: Seconds between pings.
        @raise OSError: C{cafile} cannot be read.
        @raise ValueError: C{cafile} holds no certificate.
        """
        self.reactor = reactor
        self.receiver = receiver
        self.channel = channel
        self.username = username
        self.password = password
        self.ping = ping
        self.backlog = Backlog(reactor)
        self._server = f"{host}:{port}"
        self._jitter = jitter
        self._failures = 0
        self._said = ("", 0.0)
        self._current: _Subscriber | None = None
        self._connected = False
        self._client = connector(
            reactor,
            host,
            port,
            tls,
            cafile,
            _SubscriberFactory(self),
            self._unreachable,
            self._delay,
        )

    @property
    def connected(self) -> bool:
        """
        Whether a message published now would arrive.
        """
        return self._connected

    def startService(self) -> None:
        """
        Connect and subscribe, in the background.
        """
        super().startService()
        self._client.startService()

    def stopService(self) -> Deferred[None]:
        """
        Hand over nothing from now on, and close the connection.
        """
        super().stopService()
        self.backlog.clear()
        stopped = self._client.stopService()
        if self._current is not None:
            self._current.abort("stopped")
        return stopped

    def made(self, subscriber: _Subscriber) -> None:
        """
        Take note of a new connection.
        """
        self._current = subscriber

    def subscribed(self) -> None:
        """
        Take note of a confirmed subscription.
        """
        self._connected = True
        self._failures = 0
        self._said = ("", 0.0)
        self._log.info(
            "subscribed to {channel} of Redis at {server}",
            channel=self.channel,
            server=self._server,
        )

    def refused(self, text: str) -> None:
        """
        Say that the server wants other credentials or rights.

        @param text: The server's words.
        """
        self._log.error(
            "Redis at {server} does not let us subscribe to {channel}: {text}",
            server=self._server,
            channel=self.channel,
            text=serverWords(text),
        )

    def lost(self, subscriber: _Subscriber, why: str) -> None:
        """
        Take note of the end of a connection. What was read of it is still good.
        """
        wasConnected, self._connected, self._current = self._connected, False, None
        self.backlog.forget(subscriber)
        if not self.running:
            return
        if wasConnected:
            self._log.warn(
                "lost Redis at {server}: {why}", server=self._server, why=why
            )
        elif why != "refused":
            self._away(why)

    def _unreachable(self, failure: Failure) -> Failure:
        if self.running:
            self._away(failure.getErrorMessage())
        return failure

    def _away(self, why: str) -> None:
        """
        Say why there is no subscription, once, and again now and then.
        """
        now = self.reactor.seconds()
        said, when = self._said
        if why == said and now - when < REMIND:
            return
        self._said = (why, now)
        self._log.warn(
            "cannot subscribe to Redis at {server}, trying on: {why}",
            server=self._server,
            why=why,
        )

    def _delay(self, attempt: int) -> float:
        """
        How long to wait before the next attempt. C{attempt} begins anew with
        every connection, also one that is then refused: it is of no use.
        """
        delay: float = min(LAST, FIRST * 2 ** min(self._failures, 8))
        self._failures += 1
        return delay * (1 + self._jitter()) / 2

    def deliver(self, message: bytes) -> None:
        """
        Hand one message over.
        """
        if not self.running:
            return
        try:
            self.receiver.receive(message, self.name).addErrback(self._failed)
        except Exception:
            self._failed(Failure())

    def _failed(self, failure: Failure) -> None:
        self._log.failure("a message was lost", failure)
