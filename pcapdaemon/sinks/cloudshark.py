# See LICENSE for details.
"""
CloudShark.

Its interface knows no way to ask whether an upload has arrived. One that fails
after the last byte, because the reply is lost, counts as transient, and doing it
again may leave two captures there. One that is answered by C{200} and something
that is no capture counts as permanent for that reason.
"""

from __future__ import annotations

import json
import re
import zlib
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

import idna
import treq
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from service_identity import VerificationError
from zope.interface import implementer

from twisted.application.service import Service
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.error import TimeoutError as ConnectTimeoutError
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IStreamClientEndpoint,
)
from twisted.internet.ssl import (
    Certificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import Agent, ProxyAgent
from twisted.web.http_headers import Headers

from pcapdaemon.capture.recording import Recording
from pcapdaemon.interfaces import ISink, StartError, StoreError
from pcapdaemon.request import CaptureRequest
from pcapdaemon.sinks._upload import Form, Tunnel, Unverified, Watch, isTransient

#: Seconds to wait for a connection.
CONNECT = 30.0

#: Seconds after which an upload is given up in which nothing moves: the server
#: takes nothing more of it, or has it all and does not answer.
IDLE = 300.0

#: The most bytes of a reply, packed and unpacked.
LONGEST = 64 << 10

#: The most characters of the server's own words in an error.
_WORDS = 500

#: What is in the text of an error of TLS that time does not heal.
_MISTAKES = ("certificate verify failed", "wrong version number")

_PORTS = {"http": 80, "https": 443}


@implementer(ISink)
class CloudsharkSink(Service):
    """
    Uploads recordings to CloudShark, each over a connection of its own.
    """

    name = "cloudshark"
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        *,
        host: str,
        scheme: str = "https",
        port: int = 443,
        token: str,
        timeout: float = 0,
        cafile: str = "",
        verify: bool = True,
        proxy: str = "",
    ) -> None:
        """
        @param reactor: The clock, the connections and the resolver.
        @param scheme: C{http} or C{https}.
        @param token: What the server knows us by; it is shown to nobody else.
        @param timeout: Seconds from the first attempt to connect to the last
            byte of the reply; 0 for any number, as long as something moves.
        @param cafile: A PEM file of trusted authorities; empty for those of the
            system.
        @param verify: Whether to look at the server's certificate.
        @param proxy: C{http://HOST:PORT}; empty for none.
        @raise StartError: A value is wrong; the text says which.
        """
        try:
            self._host = _encoded(host)
        except UnicodeError:
            raise StartError(f"[cloudshark] host: {host!r} is no host name") from None
        self._reactor = reactor
        self._port = port
        self._secure = scheme == "https"
        self._timeout = timeout
        self._cafile = cafile
        self._verify = verify
        self._proxy = _address(proxy)
        self._tls: IOpenSSLClientConnectionCreator | None = None
        self._netloc = f"[{host}]" if ":" in host else self._host
        self._url = f"{scheme}://{self._netloc}"
        if port != _PORTS[scheme]:
            self._url += f":{port}"
        quoted = quote(token, safe="")
        self._target = f"{self._url}/api/v1/{quoted}/upload".encode()
        # The longest first, for one may contain another.
        forms = {token, quoted, quote(token), quote_plus(token)} - {""}
        self._secret = re.compile(
            "|".join(map(re.escape, sorted(forms, key=len, reverse=True))) or r"(?!)",
            re.IGNORECASE,
        )

    def startService(self) -> None:
        """
        @raise StartError: C{cafile} is none.
        """
        if self._secure:
            self._tls = self._options()
        super().startService()

    def _options(self) -> IOpenSSLClientConnectionCreator:
        """
        How to make connections secure.
        """
        if not self._verify:
            self._log.warn(
                "[cloudshark] verify = false: whoever stands between here and"
                " {server} can read the token and the captures",
                server=self._url,
            )
            address = isIPAddress(self._host) or isIPv6Address(self._host)
            return Unverified("" if address else self._host)
        trustRoot = None  # What the system trusts.
        if self._cafile:
            try:
                with open(self._cafile, "rb") as pem:
                    found = x509.load_pem_x509_certificates(pem.read())
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or "no certificates in it"
                raise StartError(
                    f"[cloudshark] cafile: {self._cafile}: {why}"
                ) from None
            trustRoot = trustRootFromCertificates(
                [Certificate.loadPEM(c.public_bytes(Encoding.PEM)) for c in found]
            )
        options: IOpenSSLClientConnectionCreator = optionsForClientTLS(
            self._host, trustRoot=trustRoot
        )
        return options

    def _endpoint(self) -> IStreamClientEndpoint:
        """
        The way to the server, or, without TLS, to the proxy.
        """
        host, port = self._proxy or (self._host, self._port)
        endpoint: IStreamClientEndpoint = HostnameEndpoint(
            self._reactor, host, port, timeout=CONNECT
        )
        if self._tls is None:
            return endpoint
        if self._proxy:
            endpoint = Tunnel(
                self._reactor, endpoint, self._netloc, self._port, CONNECT
            )
        return wrapClientTLS(self._tls, endpoint, self._reactor)

    def examine(self, request: CaptureRequest) -> None:
        """
        A request has no say in where it goes here.
        """

    def store(self, recording: Recording) -> Deferred[str]:
        """
        One attempt.

        @return: Cancelled, it ends the connection and fails with
            L{CancelledError}.
        """
        watch = Watch(self._reactor, self._endpoint(), LONGEST, IDLE)
        sending = Deferred.fromCoroutine(self._send(watch, recording))
        if self._timeout:
            sending.addTimeout(
                self._timeout,
                self._reactor,
                lambda _result, _seconds: Failure(DeferredTimeoutError()),
            )
        # Only words of ours leave here: any of the errors beneath could hold
        # the address, or be printed with what does.
        return sending.addErrback(self._failed, watch)

    async def _send(self, watch: Watch, recording: Recording) -> str:
        with recording.open() as file:
            form = Form(
                {"additional_tags": recording.plan.tags},
                "file",
                recording.filename,
                "application/vnd.tcpdump.pcap",
                file,
                recording.size,
            )
            headers = Headers(
                {
                    "Accept": ["application/json"],
                    "Accept-Encoding": ["identity"],
                    "Content-Type": [form.contentType],
                    "User-Agent": ["pcapdaemon"],
                }
            )
            agent: Any = (
                ProxyAgent(watch, self._reactor)
                if self._proxy and self._tls is None
                else Agent.usingEndpointFactory(self._reactor, watch)
            )
            try:
                response = await agent.request(b"POST", self._target, headers, form)
                pieces: list[bytes] = []
                await treq.collect(response, pieces.append)
            finally:
                form.stopProducing()
                watch.abort()
        reply = _parsed(b"".join(pieces), response.headers)
        if response.code != 200:
            raise self._refusal(response.code, reply, response.headers)
        if not form.complete:
            raise StoreError("answered 200 before it had all", transient=False)
        return self._capture(reply)

    def _capture(self, reply: Any) -> str:
        """
        The address of the capture that a reply tells of.
        """
        id = reply.get("id") if isinstance(reply, dict) else None
        text = str(id) if type(id) in (str, int) else ""
        if not text.strip(".") or len(text) > 200:
            raise StoreError(
                "answered 200, but not as CloudShark does; whether it has the"
                " capture is unknown",
                transient=False,
            )
        return (
            f"{self._url}/captures/{quote(self._scrubbed(text), '', None, 'replace')}"
        )

    def _refusal(
        self, status: int, reply: Any = None, headers: Headers | None = None
    ) -> StoreError:
        """
        The error that an answer stands for.
        """
        if 300 <= status <= 399:
            return StoreError(
                f"answered {status}, a redirect, which is not followed: scheme, host"
                " and port must be those that it leads to",
                transient=False,
            )
        words = reply.get("exceptions") if isinstance(reply, dict) else None
        if isinstance(words, list) and words:
            text = self._scrubbed("; ".join(map(str, words)))[:_WORDS]
        else:
            text = "no reason given"
        transient = isTransient(status)
        delay = self._delay(headers) if transient and headers else None
        return StoreError(f"answered {status}: {text}", transient, delay)

    def _delay(self, headers: Headers) -> float | None:
        """
        Seconds that an answer asks to wait, if it does.
        """
        [value] = headers.getRawHeaders("Retry-After", [""])[-1:]
        if re.fullmatch(r"[0-9]{1,9}", value):
            return float(value)
        [now] = headers.getRawHeaders("Date", [""])[-1:]
        try:
            wait = parsedate_to_datetime(value) - parsedate_to_datetime(now)
        except (TypeError, ValueError, OverflowError):
            return None
        return max(0.0, wait.total_seconds())

    def _scrubbed(self, text: str) -> str:
        """
        Words from outside without the token, in one line.
        """
        text = self._secret.sub("***", text)
        return "".join(c if c.isprintable() else " " for c in text)

    def _failed(self, failure: Failure, watch: Watch) -> Failure:
        """
        What a failure means. What the server has said counts more than how the
        connection ended, which it may cut as soon as it has refused.
        """
        error = failure.value
        while reasons := getattr(error, "reasons", None):
            error = reasons[0].value
        if isinstance(error, StoreError):
            # Anew, for the old one refers to what was being handled.
            return Failure(StoreError(str(error), error.transient, error.delay))
        if isinstance(error, CancelledError | ConnectingCancelledError):
            return Failure(CancelledError())
        if watch.status not in (0, 200):
            return Failure(self._refusal(watch.status))
        if watch.why is not None:
            return Failure(watch.why)
        return Failure(self._explained(error))

    def _explained(self, error: BaseException | None) -> StoreError:
        """
        What an error that is no answer means.
        """
        if isinstance(error, DeferredTimeoutError):
            text = f"not done within {self._timeout:g} s"
        elif isinstance(error, ConnectTimeoutError):
            text = f"no connection within {CONNECT:g} s"
        elif isinstance(error, VerificationError):
            text = f"the certificate is not one of {self._host}"
        elif isinstance(error, SSL.Error) and not isinstance(error, SSL.SysCallError):
            [errors] = error.args or [[]]
            text = "TLS: " + "; ".join(reason for *_, reason in errors)
        else:
            text = str(error) or type(error).__name__
        permanent = isinstance(error, VerificationError) or (
            isinstance(error, SSL.Error) and any(word in text for word in _MISTAKES)
        )
        return StoreError(self._scrubbed(text)[:_WORDS], transient=not permanent)


def _encoded(host: str) -> str:
    """
    A host name as it goes over the wire, or an address as it is.

    @raise UnicodeError: It is none; Twisted cannot connect to such.
    """
    return host if isIPv6Address(host) else idna.encode(host).decode()


def _address(proxy: str) -> tuple[str, int] | None:
    """
    @param proxy: Its URL, or empty.
    @raise StartError: It is none; the text does not repeat it, for people put
        passwords there.
    """
    if not proxy:
        return None
    try:
        parts = urlsplit(proxy)
        host, port = _encoded(parts.hostname or ""), parts.port
    except ValueError:
        host, port = "", None
    plain = re.fullmatch(r"http://[^/?#@]+/?", proxy)
    if not (host and port and plain):
        raise StartError("[cloudshark] proxy: must be http://HOST:PORT")
    return host, port


def _parsed(body: bytes, headers: Headers) -> Any:
    """
    The JSON in a reply, or L{None}. It can be packed although that was not asked
    for.
    """
    [encoding] = headers.getRawHeaders("Content-Encoding", [""])[-1:]
    try:
        if encoding.strip().lower() in ("gzip", "x-gzip"):
            body = zlib.decompressobj(31).decompress(body, LONGEST)
        return json.loads(body)
    except (ValueError, RecursionError, zlib.error):
        return None
