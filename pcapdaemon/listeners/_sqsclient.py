# See LICENSE for details.
"""
What the SQS listener needs of boto3: a client, threads to call it in, and what
its errors mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionError,
    HTTPClientError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from pcapdaemon.config.rules import isURL
from pcapdaemon.interfaces import StartError

#: Seconds to wait for a TCP connection, and for an answer that is overdue.
PATIENCE = 5

_AWS_HOST = re.compile(
    r"(?:^|\.)sqs(?:-fips)?\.([a-z0-9-]+)\.(?:vpce\.)?(?:amazonaws\.com|api\.aws)"
    # As it was until 2011; there is no certificate for such a name.
    r"|^(?:([a-z0-9-]+)\.)?queue\.amazonaws\.com"
)


def locate(
    url: str, region: str = "", endpoint: str = "", key: str = "url"
) -> tuple[str, str]:
    """
    Find out where a queue is.

    @param url: The queue.
    @param region: The configured region; empty to take it from the URL.
    @param endpoint: The configured service, with or without a scheme; empty for
        the server that the URL names.
    @param key: What names the queue in the configuration.
    @return: The region, empty where nothing says it, and the URL of the
        service, empty for the region's.
    @raise StartError: The URL or the endpoint is none.
    """
    if endpoint and "://" not in endpoint:
        endpoint = f"https://{endpoint}"
    for name, value in ((key, url), ("endpoint", endpoint or url)):
        if not isURL(value):
            raise StartError(f"[sqs] {name}: {value!r} is not an HTTP(S) URL")
    parts = urlsplit(url)
    aws = _AWS_HOST.search(parts.hostname or "")
    legacy = aws is not None and not aws[1]
    if aws is not None:
        region = region or aws[1] or aws[2] or "us-east-1"
    if not endpoint and not legacy:
        endpoint = f"{parts.scheme}://{parts.netloc}"
    return region, endpoint


def makeClient(
    region: str, endpoint: str, accessid: str, accesskey: str, waitseconds: float
) -> Any:
    """
    Make a client. May block: it looks for credentials, over the network too.

    @param region: Empty for that of the AWS configuration.
    @param endpoint: Empty for the region's.
    @param accessid: With C{accesskey}; empty for the credential chain of AWS.
    @param waitseconds: The longest poll.
    """
    given: dict[str, Any] = {}
    if accessid:
        given |= {"aws_access_key_id": accessid, "aws_secret_access_key": accesskey}
    session = Session(**given)
    where: dict[str, Any] = {"endpoint_url": endpoint} if endpoint else {}
    config = Config(
        connect_timeout=PATIENCE,
        read_timeout=waitseconds + PATIENCE,
        # Repeating is up to the listener, which waits in the reactor.
        retries={"total_max_attempts": 1, "mode": "standard"},
        tcp_keepalive=True,
    )
    # Servers other than Amazon's need any region, for the signature.
    region = region or session.region_name or "us-east-1"
    return session.client("sqs", region_name=region, config=config, **where)


def isAway(error: BaseException) -> bool:
    """
    @return: Whether the service could not be reached or has too much to do, as
        opposed to one that says no.
    """
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(error.response.get("Error", {}).get("Code", ""))
        return status == 429 or status >= 500 or "Throttl" in code
    if isinstance(error, SSLError):
        return False
    return isinstance(error, (HTTPClientError, ConnectionError, ResponseParserError))


def describe(error: BaseException, secrets: Sequence[str] = ()) -> str:
    """
    @return: What an error says, without what is nobody's business: AWS answers
        a wrong signature with all that was signed.
    """
    text = (str(error) or type(error).__name__).partition("\n")[0]
    text = text.partition("Authorization=")[0]
    for secret in secrets:
        text = text.replace(secret, "***")
    return text[:500]


class DaemonThreads:
    """
    Runs each call in a thread of its own that does not keep the process alive.

    A poll that is abandoned can thus not hold up what comes after it.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __call__(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """
        @return: A Deferred of what the function returns.
        """
        d: Deferred[Any] = Deferred()

        def run() -> None:
            try:
                result = function(*args)
            except BaseException:
                self._reactor.callFromThread(d.errback, Failure())
            else:
                self._reactor.callFromThread(d.callback, result)

        try:
            Thread(target=run, name="pcapdaemon.sqs", daemon=True).start()
        except RuntimeError:
            return fail()
        return d
