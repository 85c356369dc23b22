# See LICENSE for details.
"""
What the tests of L{pcapdaemon.sinks.s3} need when there is no server: boto3
itself, as far as what it would send.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import botocore.session
from boto3.session import Session
from botocore.awsrequest import AWSResponse
from botocore.loaders import Loader

from twisted.internet import reactor
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.capture.recording import MemoryFile, Recording
from pcapdaemon.interfaces import (
    Drops,
    Stop,
    StoreError,
)
from pcapdaemon.plan import makePlan
from pcapdaemon.request import CaptureRequest
from pcapdaemon.sinks.s3 import THREADS, S3Sink
from pcapdaemon.test.fixtures import LIMITS, Worker

ID, KEY = "AKIDINTESTS", "secret+key/in-tests"

#: The least of a configuration.
PLAIN: dict[str, Any] = {
    "bucket": "captures",
    "region": "us-east-1",
    "endpoint": "http://s3.example:9000",
    "accessid": ID,
    "accesskey": KEY,
}


def makeRecording(content: bytes, repeat: int = 1, **fields: Any) -> Recording:
    """
    A finished recording.

    @param repeat: How many times the content is in it.
    @param fields: Those of its request.
    """
    request = CaptureRequest(node="any", interfaces=("eth0",), **fields)
    plan = makePlan(request, "eth0", "", "", LIMITS, "web1", "abc", 1_700_000_000.0)
    file = MemoryFile("test")
    with open(f"/proc/self/fd/{file.fileno()}", "wb") as target:
        for _ in range(repeat):
            target.write(content)
    return Recording(plan, 1, 0.0, 1.0, 1, file.size, Drops(), Stop.PACKETS, "", file)


class _Reply:
    """
    The body of an answer, as urllib3 has it.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self) -> list[bytes]:
        return [self._content]


#: Most of what a client costs is reading what S3 is like, which is done once.
_LOADER = Loader()

#: Status, headers and content.
Answer = tuple[int, dict[str, str], bytes]


@attrs.frozen
class Sent:
    """
    What would have been sent.
    """

    url: str
    headers: dict[str, str]
    body: bytes


class Service:
    """
    What answers instead of a server: a maker of sessions whose clients send
    nothing.

    @ivar sent: All requests.
    @ivar made: How many clients were made of each region and endpoint.
    @ivar open: Those of them that are not closed.
    @ivar settings: Those of each client.
    @ivar answer: What is sent back, or raised.
    """

    region_name = None

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.made: Counter[tuple[str, str]] = Counter()
        self.open: Counter[tuple[str, str]] = Counter()
        self.settings: list[dict[str, Any]] = []
        self.answer: Callable[[], Answer] = lambda: (200, {}, b"")

    def __call__(self, **credentials: Any) -> Service:
        core = botocore.session.Session()
        core.register_component("data_loader", _LOADER)
        self._session: Any = Session(botocore_session=core, **credentials)
        return self

    def client(self, name: str, **settings: Any) -> Any:
        """
        As that of a session.
        """
        where = (settings["region_name"], settings["endpoint_url"])
        self.made[where] += 1
        self.open[where] += 1
        self.settings.append(settings)
        client = self._session.client(name, **settings)
        client.meta.events.register("before-send.s3", self._send)
        close = client.close

        def closed() -> None:
            self.open[where] -= 1
            close()

        client.close = closed
        return client

    def _send(self, request: Any, **_: Any) -> AWSResponse:
        headers = {
            name: value.decode() if isinstance(value, bytes) else value
            for name, value in request.headers.items()
        }
        # A file, or what boto3 asks of its own.
        content = request.body.read() if request.body else b""
        self.sent.append(Sent(request.url, headers, content))
        status, answered, reply = self.answer()
        return AWSResponse(request.url, status, answered, _Reply(reply))


class SinkCase(SynchronousTestCase):
    """
    What the tests of a sink need.
    """

    def setUp(self) -> None:
        """
        Make a place for what is sent.
        """
        self.clock = Clock()
        self.worker = Worker()
        self.service = Service()

    def sink(self, **settings: Any) -> S3Sink:
        """
        A sink that runs.
        """
        sink = S3Sink(
            self.clock, self.worker, session=self.service, **{**PLAIN, **settings}
        )
        sink.startService()
        self.addCleanup(lambda: sink.stopService() if sink.running else None)
        return sink

    def recording(self, content: bytes = b"pcap" * 1000, **fields: Any) -> Recording:
        """
        A recording that is closed with the test.
        """
        recording = makeRecording(content, **fields)
        self.addCleanup(recording.close)
        return recording

    def stored(self, sink: S3Sink, **fields: Any) -> Sent:
        """
        Store a recording of a request, and see what was sent.
        """
        self.successResultOf(sink.store(self.recording(**fields)))
        return self.service.sent[-1]

    def failed(self, sink: S3Sink, **fields: Any) -> StoreError:
        """
        Fail to store a recording.
        """
        failure = self.failureResultOf(sink.store(self.recording(**fields)), StoreError)
        assert isinstance(failure.value, StoreError)
        return failure.value


class _DaemonThread(threading.Thread):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, daemon=True)


class LiveSink:
    """
    What tests against a server need; to be mixed into a C{TestCase}.
    """

    def start(self: Any, **settings: Any) -> S3Sink:
        """
        A sink that runs in threads, until the end of the test.
        """
        pool = ThreadPool(0, THREADS)
        pool.threadFactory = _DaemonThread
        pool.start()
        work = partial(deferToThreadPool, IReactorFromThreads(reactor), pool)
        sink = S3Sink(IReactorTime(reactor), work, **settings)
        sink.startService()
        self.addCleanup(lambda: sink.stopService().addCallback(lambda _: pool.stop()))
        return sink

    def recording(self: Any, content: bytes, **fields: Any) -> Recording:
        """
        A recording that is closed with the test; the rest as with
        L{makeRecording}.
        """
        recording = makeRecording(content, **fields)
        self.addCleanup(recording.close)
        return recording

    async def failed(self: Any, sink: S3Sink, recording: Recording) -> StoreError:
        """
        Fail to store a recording.
        """
        try:
            await sink.store(recording)
        except StoreError as error:
            return error
        raise AssertionError("it is stored")

    def peak(self, reset: bool = False) -> int:
        """
        The most bytes of memory that this process had.

        @param reset: Whether to count from now on.
        """
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
