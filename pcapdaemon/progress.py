# See LICENSE for details.
"""
Has every running capture say how far it is, while somebody wants to know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from pcapdaemon.capture.service import CaptureService

#: Seconds between two C{progress} events of a capture that is watched.
WATCHED = 1.0


class Progress(Service):
    """
    Emits C{progress} every so many seconds, once a second while somebody watches.
    """

    _log = Logger()

    def __init__(self, clock: Any, captures: CaptureService) -> None:
        """
        @param clock: C{IReactorTime}.
        """
        self._call = LoopingCall(captures.tell)
        self._call.clock = clock
        self._watchers = 0
        self._every = 0.0

    @property
    def every(self) -> float:
        """
        Seconds between two events when nobody watches; 0 for none.
        """
        return self._every

    @every.setter
    def every(self, seconds: float) -> None:
        self._every = seconds
        self._adjust()

    def watch(self) -> Callable[[], None]:
        """
        Have it once a second.

        @return: To be called, once, when it is no longer wanted.
        """
        self._watchers += 1
        self._adjust()
        watching = True

        def leave() -> None:
            nonlocal watching
            if watching:
                watching = False
                self._watchers -= 1
                self._adjust()

        return leave

    def startService(self) -> None:
        super().startService()
        self._adjust()

    def stopService(self) -> None:
        super().stopService()
        self._adjust()

    def _adjust(self) -> None:
        interval = WATCHED if self._watchers else self._every
        if self._call.running:
            if self.running and interval == self._call.interval:
                return
            self._call.stop()
        if self.running and interval:
            self._call.start(interval, now=False).addErrback(
                lambda failure: self._log.failure("no progress", failure=failure)
            )
