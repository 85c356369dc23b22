# See LICENSE for details.
"""
Events to a Redis channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from txredisapi import ConnectionError as RedisConnectionError
from txredisapi import RedisProtocol, ResponseError

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from pcapdaemon.events import Events
from pcapdaemon.listeners._redislink import FIRST, LAST, PING, connector, serverWords
from pcapdaemon.publishers._publisher import Item, Publisher, PublishError

#: Seconds to wait until a new connection can be used.
GREET = 5.0


class _Link(RedisProtocol):  # type: ignore[misc]
    """
    One connection: authenticates, then pings.
    """

    def __init__(self, publisher: RedisPublisher) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self.publisher = publisher
        self.why = ""
        self._silent = False
        self._pings = LoopingCall(self._ping)
        self._pings.clock = publisher.reactor

    def connectionMade(self) -> None:
        super().connectionMade()
        self.publisher.made(self)
        greeting: Deferred[None] = Deferred.fromCoroutine(self._greet())
        greeting.addTimeout(GREET, self.publisher.reactor)
        greeting.addErrback(self._rejected)

    async def _greet(self) -> None:
        publisher = self.publisher
        if publisher.password or publisher.username:
            await self.auth(publisher.password, publisher.username)
        # Nothing else tells whether the server wants a password.
        await self.execute_command("PING", apply_timeout=False)
        self._pings.start(publisher.ping, now=False)
        publisher.greeted()

    def _rejected(self, failure: Failure) -> None:
        if failure.check(RedisConnectionError):
            return  # Lost meanwhile, which connectionLost reports.
        if failure.check(ResponseError):
            self.publisher.away(serverWords(failure.getErrorMessage()), True)
            self.abort("refused")
        else:
            self.abort("no answer")

    def _ping(self) -> None:
        """
        Give up a server that has been silent since the last ping, else ping.
        """
        if self._silent:
            self.abort("no answer to a ping")
            return
        self._silent = True
        self.execute_command("PING", apply_timeout=False).addErrback(lambda _: None)

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        self._silent = False
        try:
            super().dataReceived(data, unpause)
        except Exception as error:
            self.abort(f"not the Redis protocol: {error}")

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
        self.publisher.lost(self.why or reason.getErrorMessage())


class _LinkFactory(Factory):
    """
    Builds a L{_Link} for each connection.
    """

    noisy = False

    def __init__(self, publisher: RedisPublisher) -> None:
        self._publisher = publisher

    def buildProtocol(self, addr: object) -> Any:
        return _Link(self._publisher)


class RedisPublisher(Publisher):
    """
    Publishes on one channel, over a connection that is made again for ever.
    """

    name = "redis"
    most = 200
    ready = False

    def __init__(
        self,
        reactor: Any,
        events: Events,
        channel: str,
        *,
        host: str = "127.0.0.1",
        port: int = 6379,
        username: str = "",
        password: str = "",
        tls: bool = False,
        cafile: str = "",
        ping: float = PING,
        **common: Any,
    ) -> None:
        """
        @param channel: Where to publish.
        @param common: As with L{Publisher}.
        @raise OSError: C{cafile} cannot be read.
        @raise ValueError: C{cafile} holds no certificate.
        """
        where = f"channel {channel} of Redis at {host}:{port}"
        super().__init__(reactor, events, where, **common)
        self.username = username
        self.password = password
        self.ping = ping
        self._channel = channel
        self._link: _Link | None = None
        self._attempts = 0
        self._client = connector(
            *(reactor, host, port, tls, cafile, _LinkFactory(self)),
            *(self._unreachable, self._delay),
        )

    def connect(self) -> None:
        """
        Connect, in the background.
        """
        self._client.startService()

    def disconnect(self) -> Deferred[None]:
        """
        Close the connection.
        """
        stopped = self._client.stopService()
        if self._link is not None:
            self._link.abort("stopped")
        return stopped

    def made(self, link: _Link) -> None:
        """
        Take note of a new connection.
        """
        self._link = link

    def greeted(self) -> None:
        """
        Take note that it can be used.
        """
        self._attempts = 0
        self.ready = True
        self.reached()
        self.proceed(now=True)

    def lost(self, why: str) -> None:
        """
        Take note of the end of a connection.
        """
        self.ready, self._link = False, None
        if why not in ("refused", "stopped"):
            self.away(why, False)

    def _unreachable(self, failure: Failure) -> Failure:
        if self.running:
            self.away(failure.getErrorMessage(), False)
        return failure

    def _delay(self, attempt: int) -> float:
        # Also a connection that is then refused counts.
        delay: float = min(LAST, FIRST * 2 ** min(self._attempts, 8))
        self._attempts += 1
        return delay * (1 + self._jitter()) / 2

    async def send(self, batch: Sequence[Item]) -> None:
        if self._link is None:
            raise PublishError("no connection")
        replies = [self._link.publish(self._channel, item.data) for item in batch]
        results = await DeferredList(replies, consumeErrors=True)
        errors = []
        for item, (sound, result) in zip(batch, results, strict=True):
            if sound:
                item.done = True
            else:
                errors.append(result)
        if errors:
            refused = errors[0].check(ResponseError) is not None
            raise PublishError(serverWords(errors[0].getErrorMessage()), refused)
