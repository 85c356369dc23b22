# See LICENSE for details.
"""
Amazon S3, and what speaks its language.

boto3 blocks, so it works in threads of a pool of its own. A thread cannot be
interrupted: one that is cancelled ends with the next block that it would send,
or else when the server answers or L{_CONNECT} or L{_READ} is over. Until then
it holds its place in the pool, but not the recording; what it says is ignored.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Sequence
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import Any, BinaryIO
from urllib.parse import quote

import attrs
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    SSLError,
)
from zope.interface import implementer

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pcapdaemon.capture.recording import Recording
from pcapdaemon.interfaces import ISink, Refused, StartError, StoreError
from pcapdaemon.request import CaptureRequest
from pcapdaemon.sinks._destination import (
    OVERRIDES,
    Destination,
    Overrides,
    makeOverrides,
    metadata,
)

__all__ = ["OVERRIDES", "THREADS", "Overrides", "S3Sink", "makeOverrides"]

#: How many uploads run at once: the size that the pool should have.
THREADS = 4

#: Seconds to wait for a connection, or for one to take more of an upload; and
#: for an answer to a whole one.
_CONNECT, _READ = 10, 60

#: Seconds after which a client that nobody needs is closed.
_IDLE = 300

#: The most clients that are kept though nobody needs them now.
_KEPT = 8

#: What servers say, with various statuses, when the same may succeed later.
_LATER = frozenset(
    {
        "BandwidthLimitExceeded",
        "InternalError",
        "OperationAborted",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequests",
        "TooManyRequestsException",
    }
)


@attrs.define(eq=False)
class _Client:
    """
    A client of one region and endpoint.

    @ivar api: boto3's; made when first needed, in a worker thread.
    @ivar uses: By how many calls it is needed.
    @ivar closing: The call that closes it, while nobody needs it.
    """

    api: Any = None
    uses: int = 0
    closing: IDelayedCall | None = None


@implementer(ISink)
class S3Sink(Service):
    """
    Uploads recordings, each by one C{PutObject}.

    @ivar overrides: What is configured, and what a request may change of it.
    """

    name = "s3"
    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        work: Callable[..., Deferred[Any]],
        *,
        bucket: str = "",
        folder: str = "",
        region: str = "",
        endpoint: str = "",
        accessid: str = "",
        accesskey: str = "",
        acl: str = "",
        encryption: bool = False,
        allow: Collection[str] = OVERRIDES,
        endpoints: Sequence[str] = (),
        cafile: str = "",
        session: Callable[..., Any] = Session,
    ) -> None:
        """
        @param work: Calls a function in one of L{THREADS} threads.
        @param bucket: As with C{folder}, C{region}, C{endpoint}, C{acl} and
            C{encryption}, what is done where a request is silent.
        @param endpoint: With or without a scheme; empty for that of AWS.
        @param accessid: With C{accesskey}; empty for the credential chain of AWS.
        @param allow: Which of L{OVERRIDES} requests may use.
        @param endpoints: Endpoints other than C{endpoint} that they may name.
        @param cafile: A PEM file of trusted authorities; empty for those that
            come with botocore.
        @param session: Makes a boto3 session.
        @raise StartError: A value is wrong; the text says which.
        """
        self.overrides = makeOverrides(
            bucket=bucket,
            folder=folder,
            region=region,
            endpoint=endpoint,
            acl=acl,
            encryption=encryption,
            allow=allow,
            endpoints=endpoints,
        )
        if bool(accessid) != bool(accesskey):
            raise StartError("[s3] accessid, accesskey: one is there without the other")
        self._clock = clock
        self._work = work
        self._accessid = accessid
        self._accesskey = accesskey
        self._cafile = cafile
        self._makeSession = session
        self._session: Any = None
        #: boto3 makes one client of a session at a time.
        self._making = Lock()
        #: By region and endpoint, the one that was needed longest ago first.
        self._clients: dict[tuple[str, str], _Client] = {}
        self._stopping: Deferred[None] | None = None

    # Life.

    def startService(self) -> None:
        """
        @raise StartError: C{cafile} is none.
        """
        if self._cafile:
            try:
                ssl.create_default_context(cafile=self._cafile)
            except OSError as error:
                raise StartError(f"[s3] cafile: {self._cafile}: {error}") from None
        super().startService()
        # The first client takes a tenth of a second of processor time, which the
        # first recording need not wait for.
        self._call(self.overrides.configured, self._api).addErrback(self._unprepared)

    def _unprepared(self, failure: Failure) -> None:
        self._log.error("S3: {error}", error=self._explained(failure.value))

    def stopService(self) -> Deferred[None]:
        """
        Close what nobody needs. What is under way goes on, and what is stored
        later, too, is closed after it.

        @return: Fires when nothing is under way.
        """
        super().stopService()
        for where in [w for w, client in self._clients.items() if not client.uses]:
            self._close(where)
        if not self._clients:
            return succeed(None)
        if self._stopping is None:
            self._stopping = Deferred()
        stopped: Deferred[None] = Deferred()
        self._stopping.addCallback(lambda _: stopped.callback(None))
        return stopped

    # Clients.

    def _call(
        self, there: Destination, function: Callable[..., Any], *arguments: Any
    ) -> Deferred[Any]:
        """
        Call a function in a thread, with a client and a destination first.
        """
        where = (there.region, there.endpoint)
        client = self._clients.pop(where, None)
        if client is None:
            client = _Client()
        self._clients[where] = client
        client.uses += 1
        if client.closing is not None:
            client.closing.cancel()
            client.closing = None

        def over(result: Any) -> Any:
            client.uses -= 1
            if not client.uses:
                self._unneeded(where, client)
            return result

        return self._work(function, client, there, *arguments).addBoth(over)

    def _unneeded(self, where: tuple[str, str], client: _Client) -> None:
        if self.running:
            client.closing = self._clock.callLater(_IDLE, self._close, where)
            idle = [w for w, each in self._clients.items() if not each.uses]
            for each in idle[:-_KEPT]:
                self._close(each)
            return
        self._close(where)
        if not self._clients and self._stopping is not None:
            stopping, self._stopping = self._stopping, None
            stopping.callback(None)

    def _close(self, where: tuple[str, str]) -> None:
        client = self._clients.pop(where)
        if client.closing is not None and client.closing.active():
            client.closing.cancel()
        if client.api is not None:
            client.api.close()

    # In a worker thread.

    def _api(self, client: _Client, there: Destination) -> Any:
        """
        The client of boto3, made if need be.
        """
        with self._making:
            if self._session is None:
                self._session = self._makeSession(
                    aws_access_key_id=self._accessid or None,
                    aws_secret_access_key=self._accesskey or None,
                )
            if client.api is None:
                client.api = self._session.client(
                    "s3",
                    # Servers other than Amazon's need any, for the signature.
                    region_name=there.region
                    or self._session.region_name
                    or "us-east-1",
                    endpoint_url=there.endpoint or None,
                    verify=self._cafile or None,
                    config=Config(
                        connect_timeout=_CONNECT,
                        read_timeout=_READ,
                        tcp_keepalive=True,
                        # Trying again is the business of delivery.
                        retries={"total_max_attempts": 1, "mode": "standard"},
                        s3={"addressing_style": "path"},
                        # Not every server knows the newer ones.
                        request_checksum_calculation="when_required",
                        response_checksum_validation="when_required",
                    ),
                )
                client.api.meta.events.register("before-call.s3.HeadBucket", _unasked)
            return client.api

    def _put(
        self, client: _Client, there: Destination, recording: Recording, body: BinaryIO
    ) -> str:
        """
        Upload a recording.

        @param body: The file, at its beginning.
        @return: The URL of the object.
        """
        key = there.key(recording.filename)
        arguments: dict[str, Any] = {
            "Bucket": there.bucket,
            "Key": key,
            "Body": body,
            "ContentLength": recording.size,
            "ContentType": "application/vnd.tcpdump.pcap",
            "Metadata": {"tags": metadata(recording.plan.tags)},
        }
        if there.acl:
            arguments["ACL"] = there.acl
        if there.encryption:
            arguments["ServerSideEncryption"] = "AES256"
        api = self._api(client, there)
        api.put_object(**arguments)
        return f"{api.meta.endpoint_url}/{there.bucket}/{quote(key)}"

    # Storing.

    def examine(self, request: CaptureRequest) -> Destination:
        """
        Find out where the recording of a request is to go.

        @raise Refused: There it must not.
        """
        return self.overrides.destination(request)

    def store(self, recording: Recording) -> Deferred[str]:
        """
        One attempt. Cancelled late, it may be stored all the same: under the
        same key, so that a further attempt does not make a second object of it.
        """
        try:
            there = self.overrides.destination(recording.plan.request)
        except Refused as refused:
            return fail(StoreError(refused.detail, transient=False))
        try:
            body = recording.open()
        except OSError as error:
            return fail(StoreError(f"the recording: {error}", transient=True))
        # Without its file a thread cannot go on sending.
        stored: Deferred[str] = Deferred(lambda _: body.close())

        def over(result: Any) -> None:
            body.close()
            if stored.called:
                return  # cancelled
            if isinstance(result, Failure):
                key = there.key(recording.filename)
                where = ascii(f"{there.bucket}/{key}")[1:-1]
                stored.errback(self._explained(result.value, f"{where}: "))
            else:
                stored.callback(result)

        self._call(there, self._put, recording, body).addBoth(over)
        return stored

    def _explained(self, error: BaseException | None, where: str = "") -> StoreError:
        """
        What an error of boto3 means. Its text may be the server's, which may
        show anything.
        """
        delay = None
        if isinstance(error, ClientError):
            answer = error.response.get("ResponseMetadata", {})
            said = error.response.get("Error", {})
            code, status = str(said.get("Code", "")), answer.get("HTTPStatusCode", 0)
            transient = status in (408, 429) or status >= 500 or code in _LATER
            if transient:
                delay = _delay(answer.get("HTTPHeaders", {}))
            text = f"{code} ({status}): {said.get('Message', '')}"
        else:
            transient = _isTransient(error)
            text = str(error) or type(error).__name__
        for secret in (self._accesskey, self._accessid):
            if secret:
                text = text.replace(secret, "***")
        text = ascii(text)[1:-1][:500]
        return StoreError(where + text, transient, delay)


def _unasked(**_: Any) -> None:
    """
    Keep boto3 from asking where a bucket is. It follows a redirect within AWS
    when the answer names the region; when not, it asks, and asks again when that
    is redirected, some hundred times.
    """
    raise ClientError({"ResponseMetadata": {"HTTPHeaders": {}}}, "HeadBucket")


def _isTransient(error: BaseException | None) -> bool:
    """
    Whether an error that is no answer may be over later.
    """
    if isinstance(error, SSLError):
        # Among the errors of TLS only a connection that broke off.
        cause: BaseException | None = error.kwargs.get("error")
        while cause is not None:
            if isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
                return True
            cause = cause.__cause__ or cause.__context__
        return False
    return isinstance(
        error,
        (
            HTTPClientError,
            ConnectionError,
            CredentialRetrievalError,
            MetadataRetrievalError,
        ),
    )


def _delay(headers: dict[str, str]) -> float | None:
    """
    Seconds that an answer asks to wait, if it does.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers["date"])
    except (KeyError, TypeError, ValueError):
        return None
    return max(0.0, wait.total_seconds())
