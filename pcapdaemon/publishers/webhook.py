# See LICENSE for details.
"""
Events to a web server: each is the body of one C{POST}.

The headers are those of https://www.standardwebhooks.com, for which there are
libraries in many languages.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from OpenSSL import SSL
from service_identity import VerificationError
from zope.interface import implementer

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer

from pcapdaemon.events import Events
from pcapdaemon.publishers._publisher import Item, Publisher, PublishError
from pcapdaemon.tls import trustRoot

#: The most bytes of an answer that are put up with.
LONGEST = 64 << 10

#: Answers that are about one event, and not about all of them.
UNWANTED = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)
#: Answers that say that it may be better later.
BUSY = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
)


def signingKey(secret: str) -> bytes:
    """
    @param secret: C{whsec_} and bytes in base64, or any other text.
    """
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret[6:], validate=True)
        except binascii.Error:
            pass
    return secret.encode()


def signature(key: bytes, id: str, timestamp: int, body: bytes) -> str:
    """
    What proves to who has the key, too, that an event is ours, and when it was
    sent.

    @param timestamp: Seconds since the epoch.
    """
    signed = f"{id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


@implementer(IBodyProducer)
class _Body:
    """
    Some bytes to send.
    """

    def __init__(self, body: bytes) -> None:
        self.length = len(body)
        self._body = body

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Nothing is left to hold back."""

    resumeProducing = stopProducing = pauseProducing


class _Answer(Protocol):
    """
    Looks at the length of an answer, and at nothing else of it.
    """

    def __init__(self) -> None:
        #: Cancelled it leaves no connection behind.
        self.over: Deferred[None] = Deferred(lambda _: self._cut())
        self._size = 0

    def _cut(self) -> None:
        # Not C{loseConnection}: with TLS the other side would have to agree.
        if self.transport is not None:
            IPushProducer(self.transport).stopProducing()

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > LONGEST:
            self._cut()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.over.called:
            self.over.callback(None)


class _Factory(HTTPConnectionPool._factory):  # type: ignore[misc,valid-type]
    # It would log every connection.
    noisy = False


class WebhookPublisher(Publisher):
    """
    Posts to one URL, over a connection that is kept.
    """

    name = "webhook"
    most = 1
    patient = True

    def __init__(
        self,
        reactor: Any,
        events: Events,
        url: str,
        *,
        secret: str = "",
        timeout: float = 10.0,
        cafile: str = "",
        clock: Callable[[], float] = time.time,
        **common: Any,
    ) -> None:
        """
        @param url: Where to post; only its host is ever shown.
        @param secret: What events are signed with; empty to not sign them.
        @param timeout: Seconds from the attempt to connect to the end of the
            answer.
        @param cafile: A PEM file of trusted authorities; empty for the system's.
        @param clock: Seconds since the epoch.
        @param common: As with L{Publisher}.
        @raise OSError: C{cafile} cannot be read.
        @raise ValueError: C{cafile} holds no certificate.
        """
        parts = urlsplit(url)
        super().__init__(
            reactor, events, f"webhook {parts.scheme}://{parts.netloc}", **common
        )
        self._url = url.encode("ascii")
        self._key = signingKey(secret)
        self._timeout = timeout
        self._clock = clock
        self._policy = BrowserLikePolicyForHTTPS(trustRoot(cafile))
        hidden = [parts.path, parts.query, secret]
        self._hidden = [each for each in hidden if len(each) > 1]
        self._pool: HTTPConnectionPool | None = None

    def connect(self) -> None:
        """
        Connections are made when there is something to send.
        """
        self._pool = HTTPConnectionPool(self.reactor)
        self._pool._factory = _Factory
        # Not even once without a pause, and never without a word.
        self._pool.retryAutomatically = False
        self._pool.maxPersistentPerHost = 1

    def disconnect(self) -> Deferred[None] | None:
        """
        Close the connection.
        """
        pool, self._pool = self._pool, None
        if pool is None:
            return None
        closing: Deferred[None] = pool.closeCachedConnections()
        return closing

    async def send(self, batch: Sequence[Item]) -> None:
        for item in batch:
            posting = Deferred.fromCoroutine(self._post(item))
            posting.addTimeout(
                self._timeout,
                self.reactor,
                lambda _result, _seconds: Failure(DeferredTimeoutError()),
            )
            # Only words of ours leave here: an error could hold the address.
            posting.addErrback(self._explained)
            await posting

    async def _post(self, item: Item) -> None:
        body = item.data
        timestamp = int(self._clock())
        headers = Headers(
            {
                "Content-Type": ["application/json"],
                "User-Agent": ["pcapdaemon"],
                "webhook-id": [item.key],
                "webhook-timestamp": [str(timestamp)],
            }
        )
        if self._key:
            signed = signature(self._key, item.key, timestamp, body)
            headers.addRawHeader("webhook-signature", signed)
        agent = Agent(
            self.reactor, self._policy, connectTimeout=self._timeout, pool=self._pool
        )
        response = await agent.request(b"POST", self._url, headers, _Body(body))
        answer = _Answer()
        response.deliverBody(answer)
        await answer.over
        code = response.code
        if 200 <= code <= 299:
            item.done = True
        elif code in UNWANTED:
            item.refusal = f"answered {code}"
        else:
            busy = code in BUSY or code >= 500
            redirect = ", a redirect, which is not followed" if code < 400 else ""
            [asked] = response.headers.getRawHeaders("Retry-After", [""])[-1:]
            delay = float(asked) if re.fullmatch("[0-9]{1,9}", asked) else None
            raise PublishError(f"answered {code}{redirect}", not busy, delay)

    def _explained(self, failure: Failure) -> Failure:
        error = failure.value
        while reasons := getattr(error, "reasons", None):
            error = reasons[0].value
        if isinstance(error, PublishError):
            return Failure(PublishError(str(error), error.refused, error.delay))
        if isinstance(error, (CancelledError, ConnectingCancelledError)):
            return Failure(CancelledError())
        refused = isinstance(error, VerificationError)
        if isinstance(error, DeferredTimeoutError):
            text = f"no answer within {self._timeout:g} s"
        elif isinstance(error, VerificationError):
            text = "the certificate is not one of this host"
        elif isinstance(error, SSL.Error) and not isinstance(error, SSL.SysCallError):
            [errors] = error.args or [[]]
            text = "TLS: " + "; ".join(reason for *_, reason in errors)
            refused = "certificate verify failed" in text
        else:
            text = str(error) or type(error).__name__
        for each in self._hidden:
            text = text.replace(each, "***")
        return Failure(PublishError(text[:500], refused))
