# See LICENSE for details.
"""
A program that spools and delivers, and is killed while it does; see
L{pcapdaemon.test.test_spool_kill}.

It reads commands, one a line, and answers each with C{killed} or C{done}. What a
command does happens in a child process, which is forked so that a kill costs no
start of an interpreter.

C{step DIRECTORY N}: deliver a recording that two sinks do not take at first, and
kill the process before it opens, renames or removes a file for the Nth time.

C{time DIRECTORY SECONDS}: with a real reactor and threads, deliver one after the
other, beside what an earlier process has left, and kill the process after a while.

C{recover DIRECTORY}: deliver what is there to its end.

Sinks are directories below that one, as is the spool; what has been told to be in
the spool stands in the file C{told}: sink and file name.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zope.interface import implementer

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.interfaces import IReactorTime
from twisted.internet.main import installReactor
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from pcapdaemon.capture.recording import MemoryFile, Recording, digest
from pcapdaemon.delivery import Delivery
from pcapdaemon.events import Events
from pcapdaemon.interfaces import Drops, IEventObserver, StoreError
from pcapdaemon.plan import makePlan, newId
from pcapdaemon.request import CaptureRequest
from pcapdaemon.sinks.local import LocalSink
from pcapdaemon.spool import Spool
from pcapdaemon.test.fixtures import LIMITS

SINKS = ("one", "two")
#: What counts as a step.
_STEPS = ("open", "os.rename", "os.remove")


def content(filename: str) -> bytes:
    """
    What is in a file of that name.
    """
    return filename.encode() * 5000


def makeRecording() -> Recording:
    """
    A recording that is like no other.
    """
    request = CaptureRequest(node="any", interfaces=("eth0",), alertid=7)
    plan = makePlan(request, "eth0", "", "", LIMITS, "web1", newId(), time.time())
    file = MemoryFile(plan.filename)
    data = content(plan.filename)
    os.pwrite(file.fileno(), data, 0)
    sha256 = digest(file)
    return Recording(plan, 1, 0.0, 1.0, 1, len(data), Drops(), "packets", sha256, file)


class Reluctant(LocalSink):
    """
    A directory that does not take what is captured now, but what was.

    @ivar now: What that is.
    """

    now: frozenset[str] | set[str] = frozenset()

    def store(self, recording: Recording) -> Deferred[str]:
        if recording.filename in self.now:
            return fail(StoreError("not yet", False))
        return super().store(recording)


@implementer(IEventObserver)
class _Witness:
    """
    Writes down what was told to be in the spool.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def observe(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "failed" and not event["lost"]:
            os.write(self._file, f"{event['sink']} {event['filename']}\n".encode())


class Scene:
    """
    A delivery with its spool and its sinks.
    """

    def __init__(
        self, directory: Path, reactor: IReactorTime, work: Callable[..., Deferred[Any]]
    ) -> None:
        self.directory = directory
        events = Events("web1", time.time)
        events.add(_Witness(directory / "told"))
        self.now: set[str] = set()
        self.sinks = []
        for name in SINKS:
            sink = Reluctant(str(directory / name), "web1", work)
            sink.name, sink.now = name, self.now
            self.sinks.append(sink)
        spool = str(directory / "spool")
        self.spool = Spool(spool, 1 << 30, 86400, events, work, reactor)
        self.delivery = Delivery(self.sinks, events, reactor, spool=self.spool)

    def start(self) -> None:
        """Start everything."""
        for sink in self.sinks:
            sink.startService()
        self.spool.sinks = self.sinks
        self.spool.startService()

    def deliver(self) -> Deferred[None]:
        """Let there be one more recording."""
        recording = makeRecording()
        self.now.add(recording.filename)
        delivered = self.delivery.deliver(recording)
        return delivered.addCallback(lambda _: recording.close())


def byHand(directory: Path, recordings: int) -> None:
    """
    Do everything in one thread, to its end.
    """
    clock = Clock()
    scene = Scene(directory, clock, maybeDeferred)
    scene.start()
    for _ in range(recordings):
        scene.deliver()
    scene.now.clear()
    while scene.spool.waiting:
        clock.advance(60)
    scene.spool.stopService()


def step(directory: Path, number: int) -> None:
    """
    Do one, and be killed at a certain step.
    """
    left = number

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in _STEPS and str(arguments[0]).startswith(str(directory)):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    byHand(directory, 1)


def forever(directory: Path, ready: Callable[[], None]) -> None:
    """
    Do one after the other, as the daemon does it.
    """
    reactor = EPollReactor()
    installReactor(reactor)
    scene = Scene(directory, reactor, deferToThread)

    def next(_: object) -> None:
        scene.deliver().addCallback(next)

    def begin() -> None:
        scene.start()
        next(None)
        next(None)
        ready()

    reactor.callWhenRunning(begin)
    reactor.run()


def kill(directory: Path, seconds: float) -> None:
    """
    Let L{forever} run for so long.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _leave(lambda: forever(directory, lambda: os.close(writer)))
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _leave(work: Callable[[], None]) -> None:
    """
    Work, and do not come back.
    """
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def inChild(work: Callable[[], None]) -> str:
    """
    Work in a child.

    @return: C{killed}, C{done}, or what else became of it.
    """
    child = os.fork()
    if not child:
        _leave(work)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {-signal.SIGKILL: "killed", 0: "done"}.get(status, f"status {status}")


def main() -> None:
    """
    Do as told.
    """
    for line in sys.stdin:
        command, path, *arguments = line.split()
        directory = Path(path)
        directory.mkdir(exist_ok=True)
        if command == "step":
            number = int(arguments[0])
            said = inChild(lambda d=directory, n=number: step(d, n))  # type: ignore[misc]
        elif command == "time":
            kill(directory, float(arguments[0]))
            said = "killed"
        else:
            said = inChild(lambda d=directory: byHand(d, 0))  # type: ignore[misc]
        print(said, flush=True)


if __name__ == "__main__":
    main()
