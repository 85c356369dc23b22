# See LICENSE for details.
# mypy: allow-untyped-calls
"""
The service that listens for HTTP.
"""

from __future__ import annotations

import resource

from zope.interface import implementer

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorTCP, IReactorTime
from twisted.logger import Logger

from pcapdaemon.interfaces import IListener, StartError
from pcapdaemon.listeners.http.guard import Guard, isLoopback
from pcapdaemon.listeners.http.routes import Served, makeRoot
from pcapdaemon.listeners.http.site import ApiSite


@implementer(IListener)
class HttpListener(Service):
    """
    Takes requests by HTTP, and shows and ends captures.

    @ivar grace: Seconds that requests under way get when it is stopped.
    @ivar maxConnections: How many may be open at once; never more than a quarter
        of the descriptors that the process may have.
    @ivar maxStreams: How many of them may be streams and downloads at once; never
        more than a quarter.
    @ivar requestTimeout: Seconds in which a whole request must have come, and
        for which a stream or download waits for its client to read.
    """

    name = "http"
    grace = 1.0
    maxConnections = 200
    maxStreams = 50
    requestTimeout = 60.0
    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTCP,
        host: str,
        port: int,
        token: str,
        served: Served,
    ) -> None:
        """
        @param reactor: It must provide L{IReactorTime}, too.
        @param host: The address to listen on.
        @param port: The port to listen on; 0 for any that is free.
        @param token: What a bearer must know; empty where everybody may.
        @param served: What the routes show and use.
        @raise ValueError: Others than this machine could connect, and there is no
            token.
        """
        loopback = isLoopback(host)
        if not loopback and not token:
            raise ValueError(f"[http] host {host!r}: other than loopback needs a token")
        self._reactor = reactor
        self._host = host
        self._wantedPort = port
        self._served = served
        self._root = makeRoot(served)
        self._guard = Guard(token.encode("utf-8"), loopback)
        self._site: ApiSite | None = None
        self._listening: IListeningPort | None = None

    @property
    def connected(self) -> bool:
        """
        Whether the port listens.
        """
        return self._listening is not None

    @property
    def streams(self) -> int:
        """
        How many streams and downloads are open.
        """
        return 0 if self._site is None else len(self._site.streams)

    @property
    def port(self) -> int:
        """
        The port that it listens on, or, if it does not, should.
        """
        if self._listening is None:
            return self._wantedPort
        return int(self._listening.getHost().port)  # type: ignore[attr-defined]

    def privilegedStartService(self) -> None:
        """
        Listen, as long as a port below 1024 can be had.

        @raise StartError: The address cannot be had.
        """
        self._listen()
        super().privilegedStartService()

    def startService(self) -> None:
        """
        Listen, unless it already does.

        @raise StartError: The address cannot be had.
        """
        if self._listening is None:
            self._listen()
        super().startService()
        self._served.feed.start()

    def _listen(self) -> None:
        # Where descriptors are few, captures need most of them.
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        connections = min(self.maxConnections, max(2, soft // 4))
        site = ApiSite(
            self._root,
            self._guard,
            lambda: self._served.receiver.maxmessage,
            connections,
            min(self.maxStreams, max(1, connections // 4)),
            self.requestTimeout,
            IReactorTime(self._reactor),
        )
        try:
            self._listening = self._reactor.listenTCP(
                self._wantedPort,
                site,  # type: ignore[arg-type]
                interface=self._host,
            )
        except CannotListenError as e:
            raise StartError(
                f"[http] host, port: cannot listen on {self._host} port"
                f" {self._wantedPort}: {e.socketError}"
            ) from e
        self._site = site
        self._log.info(
            "Listening for HTTP on {host} port {port}", host=self._host, port=self.port
        )

    def stopService(self) -> Deferred[None]:
        """
        Stop listening, and close all connections when the requests under way are
        answered, or after C{grace}.
        """
        super().stopService()
        self._served.feed.stop()
        listening, site = self._listening, self._site
        self._listening = self._site = None
        if listening is None or site is None:
            return succeed(None)
        stopped = maybeDeferred(listening.stopListening)
        return stopped.addCallback(lambda ignored: site.close(self.grace))
