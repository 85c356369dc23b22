# See LICENSE for details.
"""
How to get to a Redis server, and to keep trying.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zope.interface import implementer

from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.ssl import optionsForClientTLS
from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure

from pcapdaemon.tls import trustRoot

#: Seconds between pings. A server that says nothing between two of them is
#: gone, so the link is given up after at most twice as long.
PING = 4.0
#: Seconds to wait for a TCP connection. Short, for a lost SYN is repeated ever
#: later, and a server that comes back must not wait for that.
CONNECT = 2.0
#: Seconds between two attempts to connect: the first and the last.
FIRST, LAST = 0.1, 1.0


@implementer(IStreamClientEndpoint)
class Watched:
    """
    An endpoint that tells why a connection attempt failed, which
    L{ClientService} does not.
    """

    def __init__(
        self, endpoint: IStreamClientEndpoint, failed: Callable[[Failure], Failure]
    ) -> None:
        self._endpoint = endpoint
        self._failed = failed

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return self._endpoint.connect(protocolFactory).addErrback(self._failed)


class QuietClientService(ClientService):
    """
    A L{ClientService} without a log line for each attempt.
    """

    _log = Logger(observer=LogPublisher())


def connector(
    reactor: Any,
    host: str,
    port: int,
    tls: bool,
    cafile: str,
    factory: IProtocolFactory,
    failed: Callable[[Failure], Failure],
    delay: Callable[[int], float],
) -> ClientService:
    """
    Make what keeps a connection to a server, once it is started.

    @param factory: Makes the protocol of each connection.
    @param failed: Is told why an attempt to connect failed.
    @param delay: Says how long to wait after so many.
    @raise OSError: C{cafile} cannot be read.
    @raise ValueError: C{cafile} holds no certificate.
    """
    endpoint: IStreamClientEndpoint = HostnameEndpoint(
        reactor, host, port, timeout=CONNECT
    )
    if tls:
        options = optionsForClientTLS(host, trustRoot=trustRoot(cafile))
        endpoint = wrapClientTLS(options, endpoint)
    return QuietClientService(
        Watched(endpoint, failed), factory, retryPolicy=delay, clock=reactor
    )


def serverWords(text: str) -> str:
    """
    What a server says of a refusal. One that does not know a command repeats what
    was sent, a password included.
    """
    return text.partition(", with args")[0]
