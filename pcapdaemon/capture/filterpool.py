# See LICENSE for details.
"""
The child processes that compile filters: kept warm, asked one question at a
time each, killed when they are stuck and replaced when they are gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import deque
from contextlib import suppress
from typing import Any

import attrs

from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import (
    IDelayedCall,
    IProcessTransport,
    IReactorProcess,
    IReactorTime,
)
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from pcapdaemon.capture import filterchild
from pcapdaemon.interfaces import Reason, Refused

#: Seconds for a child to get ready.
_START = 10.0
#: Seconds between attempts to start children that do not get ready.
_FIRST, _LAST = 0.1, 30.0
#: The most bytes of an answer, and of complaints that are kept.
_ANSWER, _WORDS = 65_536, 1_024
#: The ways to die of too much CPU, and of a fault in libpcap.
_SPENT = {signal.SIGPROF, signal.SIGXCPU}
_CRASHED = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}


@attrs.frozen
class Answer:
    """
    What became of a question.

    @ivar reason: Empty where the filter is sound and cheap, else one of the
        words of L{Reason}.
    @ivar words: Why.
    @ivar lasting: Whether the same question would have the same answer later.
    """

    reason: str
    words: str
    lasting: bool = True


@attrs.define(eq=False)
class _Question:
    """
    A filter on its way through a child.

    @ivar line: What the child reads.
    @ivar answer: Fires with the answer; never fails.
    @ivar tried: Whether a child has died with it already.
    """

    line: bytes
    answer: Deferred[Answer] = attrs.field(factory=Deferred)
    tried: bool = False


class _Child(ProcessProtocol):
    """
    One child, as its pool sees it.

    @ivar question: What it is busy with.
    @ivar ready: Whether it has said that it can be asked.
    @ivar timer: What ends it if it says nothing.
    @ivar words: The last of its complaints.
    @ivar ended: Fires when it has been reaped.
    """

    transport: IProcessTransport

    def __init__(self, pool: FilterPool) -> None:
        self._pool = pool
        self._heard = b""
        self.question: _Question | None = None
        self.ready = False
        self.timer: IDelayedCall | None = None
        self.words = b""
        self.ended: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        """
        Hand on a whole line; there is never more than one at a time.
        """
        self._heard += data
        if data.endswith(b"\n") or len(self._heard) > _ANSWER:
            line, self._heard = self._heard, b""
            self._pool.heard(self, line)

    def errReceived(self, data: bytes) -> None:
        """
        Keep the last of it for the log.
        """
        self.words = (self.words + data)[-_WORDS:]

    def processEnded(self, reason: Failure) -> None:
        """
        Tell the pool.
        """
        self._pool.lost(self, reason)
        self.ended.callback(None)


class FilterPool:
    """
    A few children, and the questions that wait for them.

    @ivar kills: How many children a filter has cost.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        children: int,
        *,
        cheap: float,
        most: float,
        wall: float,
        memory: int,
    ) -> None:
        """
        @param reactor: An C{IReactorProcess} and C{IReactorTime}.
        @param children: How many there are to be. The rest is as with
            L{pcapdaemon.capture.filters.FilterChecker}.
        """
        self._processes: IReactorProcess = reactor
        self._clock: IReactorTime = reactor
        self._wanted = children
        self._options = {"cheap": cheap, "most": most, "memory": memory}
        self._wall = wall
        self._running = False
        self._children: list[_Child] = []
        self._idle: deque[_Child] = deque()
        self._dying: set[_Child] = set()
        self._queue: deque[_Question] = deque()
        self._failures = 0
        self._trouble = ""
        self._retry: IDelayedCall | None = None
        self._awaiting: list[Deferred[None]] = []
        self.kills = 0

    def start(self) -> None:
        """
        Start the children.
        """
        self._running = True
        self._fill()

    def stop(self) -> Deferred[None]:
        """
        Forget the questions and kill the children.

        @return: A Deferred that fires when all are reaped.
        """
        self._running = False
        self._queue.clear()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        for child in list(self._children):
            self._discard(child)
        awaiting, self._awaiting = self._awaiting, []
        for one in awaiting:
            one.errback(Refused(Reason.CLOSING, "filters are no longer checked"))
        return gatherResults([child.ended for child in self._dying]).addCallback(
            lambda _: None
        )

    def whenReady(self) -> Deferred[None]:
        """
        @return: A Deferred that fires when every child can be asked.
        """
        if self._complete():
            return succeed(None)
        awaiting: Deferred[None] = Deferred()
        self._awaiting.append(awaiting)
        return awaiting

    def pids(self) -> list[int]:
        """
        The process identifiers of the children.
        """
        return [child.transport.pid for child in self._children]

    def ask(self, filter: str, linkType: int, snaplength: int) -> Deferred[Answer]:
        """
        Have a filter compiled.

        @return: A Deferred of the answer; it does not fail.
        """
        line = json.dumps((filter, linkType, snaplength)).encode("ascii") + b"\n"
        question = _Question(line)
        self._queue.append(question)
        self._pump()
        return question.answer

    def heard(self, child: _Child, line: bytes) -> None:
        """
        Take what a child says.
        """
        if child not in self._children:
            return
        question, answer = child.question, _parsed(line)
        first = not child.ready and line == filterchild.READY
        if not first and (question is None or answer is None):
            child.words = b"unexpected: " + line[:_WORDS]
            self._kill(child)
            return
        if first:
            child.ready = True
            self._failures = 0
        self._still(child)
        child.question = None
        self._idle.append(child)
        self._pump()
        if self._complete():
            awaiting, self._awaiting = self._awaiting, []
            for one in awaiting:
                one.callback(None)
        if question is not None and answer is not None:
            question.answer.callback(answer)

    def lost(self, child: _Child, reason: Failure) -> None:
        """
        Take note that a child has been reaped.
        """
        if child in self._dying:
            self._dying.remove(child)
            return
        self._remove(child)
        number = getattr(reason.value, "signal", None)
        question, child.question = child.question, None
        answer = None
        if question is not None and number in _SPENT:
            self.kills += 1
            answer = Answer(
                Reason.TOO_COMPLEX,
                f"compiling it takes more than {self._options['most']:g} s of CPU time",
            )
        else:
            words = child.words.decode("utf-8", "replace").strip()
            self._trouble = words or reason.getErrorMessage()
            self._log.error(
                "A child that checks filters has died: {words}", words=self._trouble
            )
            if question is not None and not question.tried:
                question.tried = True
                self._queue.appendleft(question)
            elif number in _CRASHED:
                answer = Answer(Reason.TOO_COMPLEX, "libpcap does not survive it")
            else:
                answer = Answer(
                    Reason.BUSY, "two children have died while they checked it"
                )
        self._replace(child)
        if question is not None and answer is not None:
            question.answer.callback(answer)

    def _complete(self) -> bool:
        ready = sum(child.ready for child in self._children)
        return self._running and ready == self._wanted

    def _fill(self) -> None:
        """
        Start what is missing, unless that was tried a moment ago.
        """
        while (
            self._running and self._retry is None and len(self._children) < self._wanted
        ):
            child = _Child(self)
            options = {
                "path": [os.path.abspath(one) for one in sys.path],
                **self._options,
            }
            # Isolated, lest a module beside the program shadow one of Python's.
            program = [sys.executable, "-I", filterchild.__file__, json.dumps(options)]
            try:
                self._processes.spawnProcess(
                    child, sys.executable, program, env=_environment()
                )
            except OSError as error:
                self._trouble = str(error)
                self._log.error(
                    "No child to check filters can be started: {error}", error=error
                )
                self._postpone()
                return
            child.timer = self._clock.callLater(_START, self._kill, child)
            self._children.append(child)

    def _postpone(self) -> None:
        delay = min(_FIRST * 2.0**self._failures, _LAST)
        self._failures = min(self._failures + 1, 32)
        if self._retry is None:
            self._retry = self._clock.callLater(delay, self._again)

    def _again(self) -> None:
        self._retry = None
        self._fill()

    def _replace(self, child: _Child) -> None:
        """
        Start another child in the place of one, later if it was never ready.
        """
        if self._running and not child.ready:
            self._postpone()
        self._fill()
        self._pump()

    def _pump(self) -> None:
        """
        Hand waiting questions to idle children. Without any child to hope for,
        refuse them.
        """
        while self._queue and self._idle:
            child, question = self._idle.popleft(), self._queue.popleft()
            child.question = question
            child.timer = self._clock.callLater(self._wall, self._late, child)
            child.transport.write(question.line)
        if self._queue and not self._children:
            refused, self._queue = self._queue, deque()
            words = f"no process that checks filters can be started: {self._trouble}"
            for question in refused:
                question.answer.callback(Answer(Reason.BUSY, words))

    def _late(self, child: _Child) -> None:
        # The answer may wait in the pipe, unread by a reactor that was busy.
        child.timer = self._clock.callLater(0, self._stuck, child)

    def _stuck(self, child: _Child) -> None:
        question, child.question = child.question, None
        self.kills += 1
        self._discard(child)
        self._fill()
        self._pump()
        if question is not None:
            words = f"compiling it takes more than {self._wall:g} s"
            # A busy machine may have been to blame.
            question.answer.callback(Answer(Reason.TOO_COMPLEX, words, lasting=False))

    def _kill(self, child: _Child) -> None:
        """
        End a child that does not behave; its death is dealt with as any other.
        """
        self._still(child)
        with suppress(ProcessExitedAlready):
            child.transport.signalProcess("KILL")

    def _discard(self, child: _Child) -> None:
        """
        End a child that nothing more is wanted of.
        """
        self._remove(child)
        self._dying.add(child)
        self._kill(child)

    def _remove(self, child: _Child) -> None:
        self._still(child)
        self._children.remove(child)
        if child in self._idle:
            self._idle.remove(child)

    def _still(self, child: _Child) -> None:
        if child.timer is not None and child.timer.active():
            child.timer.cancel()
        child.timer = None


def _environment() -> dict[str, str]:
    """
    Nothing, but for what a Python in a folder of its own needs to find its
    library.
    """
    path = os.environ.get("LD_LIBRARY_PATH")
    return {} if path is None else {"LD_LIBRARY_PATH": path}


def _parsed(line: bytes) -> Answer | None:
    """
    The answer of a child, if it is one.
    """
    try:
        reason, words = json.loads(line)
    except (ValueError, TypeError):
        return None
    if reason not in ("", Reason.BAD_FILTER, Reason.TOO_COMPLEX):
        return None
    return Answer(reason, words) if isinstance(words, str) else None
