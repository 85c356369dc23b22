# See LICENSE for details.
"""
One recording, every sink.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pcapdaemon.capture.recording import Recording
from pcapdaemon.events import Events
from pcapdaemon.interfaces import ISink


class Delivery:
    """
    Hands recordings to all sinks at once. What happens at one sink neither
    stops nor delays another.

    @ivar sinks: Where the next recording goes; those of a recording that is
        under way stay what they were.
    """

    _log = Logger()

    def __init__(self, sinks: Sequence[ISink], events: Events) -> None:
        self.sinks = sinks
        self._events = events
        #: What is on its way, in the order in which it was sent: how to say that
        #: it is lost.
        self._pending: dict[object, Callable[[Failure], None]] = {}

    def deliver(self, recording: Recording) -> Deferred[None]:
        """
        @return: Fires when no sink needs the recording any more. It does not
            fail: what a sink does not have is told as C{failed}.
        """
        return DeferredList(
            [self._store(sink, recording) for sink in self.sinks]
        ).addCallback(lambda _: None)

    def _store(self, sink: ISink, recording: Recording) -> Deferred[None]:
        plan = recording.plan
        about = attrs.asdict(plan.request, recurse=False)

        def stored(url: str) -> None:
            self._events.emit(
                "stored",
                plan.id,
                about,
                sink=sink.name,
                url=url,
                filename=recording.filename,
            )

        def failed(failure: Failure) -> None:
            if not failure.check(OSError):
                self._log.failure("{sink} failed", failure=failure, sink=sink.name)
            self._events.emit(
                "failed",
                plan.id,
                about,
                stage="store",
                interface=plan.device,
                alias=plan.alias,
                sink=sink.name,
                filename=recording.filename,
                reason=failure.getErrorMessage(),
            )

        def arrived(result: str | Failure) -> None:
            if self._pending.pop(key, None) is None:
                return  # has been given up, and said to be lost
            if isinstance(result, Failure):
                failed(result)
            else:
                stored(result)

        key = object()
        self._pending[key] = failed
        return maybeDeferred(sink.store, recording).addBoth(arrived)

    def abandon(self, reason: str) -> None:
        """
        Nobody can wait any longer: say of everything that has not arrived that
        it is lost.
        """
        pending, self._pending = self._pending, {}
        for failed in pending.values():
            failed(Failure(OSError(reason)))
