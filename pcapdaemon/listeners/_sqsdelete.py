# See LICENSE for details.
"""
What the SQS listener repeats and remembers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

#: The most messages of one call, as SQS has it.
MOST = 10
#: Seconds between two attempts: the first, the last while the service is away,
#: and the last when it says no.
FIRST, LAST, LAST_REFUSED = 0.5, 5.0, 30.0
#: Seconds after which a service that is still away is mentioned again.
REMIND = 60.0
#: How many messages are remembered.
MEMORY = 10_000


class Trouble:
    """
    One kind of call that keeps failing: what the log says of it, and when to
    try again.
    """

    def __init__(
        self, clock: Any, jitter: Callable[[], float], log: Callable[[bool, str], None]
    ) -> None:
        """
        @param log: Called with whether it is worse than a warning, and why.
        """
        self._clock = clock
        self._jitter = jitter
        self._log = log
        self.over()

    def over(self) -> None:
        """
        Take note of a success.
        """
        self._failures = 0
        self._said: float | None = None

    def delay(self, away: bool, why: str) -> float:
        """
        Take note of a failure.

        @param away: Whether the service is away, as opposed to one that says no.
        @return: Seconds to wait.
        """
        now: float = self._clock.seconds()
        if not away:
            self._log(True, why)
        elif self._said is None or now - self._said >= REMIND:
            self._said = now
            self._log(False, why)
        last = LAST if away else LAST_REFUSED
        delay: float = min(last, FIRST * 2 ** min(self._failures, 8))
        self._failures += 1
        return delay * (1 + self._jitter()) / 2


class Memory:
    """
    The last L{MEMORY} messages of one kind, by their identifiers.
    """

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}

    def add(self, id: str) -> None:
        self._ids[id] = None
        if len(self._ids) > MEMORY:
            del self._ids[next(iter(self._ids))]

    def __contains__(self, id: str) -> bool:
        return id in self._ids


def _reason(failure: Failure) -> BaseException:
    assert failure.value is not None
    return failure.value


class Deletions:
    """
    Messages that must leave the queue: several with one call, one call at a
    time, again until it is done.
    """

    def __init__(
        self,
        clock: Any,
        delete: Callable[[list[dict[str, str]]], Deferred[dict[str, Any]]],
        failed: Callable[[BaseException], float],
        succeeded: Callable[[], None],
    ) -> None:
        """
        @param delete: Makes one call.
        @param failed: Called with why a call failed; says when to try again.
        @param succeeded: Called after a call that did not fail.
        """
        self._clock = clock
        self._delete = delete
        self._failed = failed
        self._succeeded = succeeded
        self._waiting: dict[str, str] = {}
        self._calling = False
        self._next: IDelayedCall | None = None
        self._persistent = True

    def add(self, id: str, receipt: str) -> None:
        """
        Have a message deleted soon.
        """
        self._waiting[id] = receipt
        if len(self._waiting) > MEMORY:
            # It will be delivered again, and be known.
            del self._waiting[next(iter(self._waiting))]
        if self._next is None and not self._calling:
            # Not at once: more may follow.
            self._next = self._clock.callLater(0, self.flush)

    @property
    def idle(self) -> bool:
        """
        Whether nothing is left to do.
        """
        return not self._waiting

    def resume(self) -> None:
        """
        Repeat calls that fail, as it is at first.
        """
        self._persistent = True
        self.flush()

    def abandon(self) -> None:
        """
        Repeat no call from now on.
        """
        self._persistent = False
        self._cancel()

    def _cancel(self) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None

    def flush(self) -> None:
        """
        Do not wait any longer.
        """
        self._cancel()
        if self._calling or not self._waiting:
            return
        self._calling = True
        chunk = list(self._waiting.items())[:MOST]
        entries = [
            {"Id": str(number), "ReceiptHandle": receipt}
            for number, (_, receipt) in enumerate(chunk)
        ]
        d = self._delete(entries).addCallback(self._deleted, chunk)
        d.addErrback(_reason).addCallback(self._finished)

    def _deleted(self, answer: dict[str, Any], chunk: list[tuple[str, str]]) -> Any:
        """
        @return: What is still wrong, or L{None}.
        """
        failed = {int(entry["Id"]): entry for entry in answer.get("Failed", ())}
        problem = None
        for number, (id, receipt) in enumerate(chunk):
            entry = failed.get(number)
            if entry is not None and not entry.get("SenderFault"):
                problem = RuntimeError(f"{entry.get('Code')}: {entry.get('Message')}")
            # One that is at fault itself is no better the next time; a message
            # that is still there comes again, with another receipt.
            elif self._waiting.get(id) == receipt:
                del self._waiting[id]
        return problem

    def _finished(self, problem: BaseException | None) -> None:
        self._calling = False
        delay = 0.0 if problem is None else self._failed(problem)
        if self._waiting and (problem is None or self._persistent):
            self._next = self._clock.callLater(delay, self.flush)
        if problem is None:
            self._succeeded()
