# See LICENSE for details.
"""
What this daemon's captures are doing and have done lately.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from zope.interface import implementer

from pcapdaemon.capture.service import CaptureService
from pcapdaemon.interfaces import ICaptureControl, IEventObserver

#: Fields that only say something of the event they stand in.
_PASSING = ("event", "stage", "reason", "sink", "url", "attempts", "lost")


@implementer(ICaptureControl, IEventObserver)
class History:
    """
    Puts the events of each capture together: a summary has the fields of all
    of them, C{state}, and the lists C{stored} and C{failed}.
    """

    def __init__(self, captures: CaptureService, keep: int) -> None:
        """
        @param keep: How many captures that are over are remembered, and how
            many refusals.
        """
        self._captures = captures
        self.keep = keep
        self._summaries: dict[str, dict[str, Any]] = {}
        #: The captures that are over, in the order in which they ended.
        self._over: deque[str] = deque()
        self._refusals: deque[Mapping[str, Any]] = deque()

    def observe(self, event: Mapping[str, Any]) -> None:
        kind, id = event["event"], event["id"]
        if kind == "rejected":
            self._refusals.append(event)
            while len(self._refusals) > self.keep:
                self._refusals.popleft()
            return
        if kind == "progress":
            return  # the summary of a running capture has it anyway
        if kind == "accepted":
            self._summaries[id] = {"id": id, "state": kind}
        summary = self._summaries.get(id)
        if summary is None:
            return  # a refused request, or one long forgotten
        # What is given up after it was completed is over only once.
        over = kind == "completed" or (
            event.get("stage") == "capture" and "stop" not in summary
        )
        summary["state"] = kind
        if kind in ("stored", "failed"):
            told = {key: event[key] for key in _PASSING[1:] if key in event}
            summary.setdefault(kind, []).append(told)
        for key, value in event.items():
            if key not in _PASSING:
                summary[key] = value
        if over:
            self._over.append(id)
            while len(self._over) > self.keep:
                del self._summaries[self._over.popleft()]

    def summaries(self) -> list[dict[str, Any]]:
        progress = self._captures.progress()
        return [
            {**summary, **progress.get(id, {})}
            for id, summary in self._summaries.items()
        ]

    def summary(self, id: str) -> dict[str, Any] | None:
        summary = self._summaries.get(id)
        if summary is None:
            return None
        return {**summary, **self._captures.progress().get(id, {})}

    def refusals(self) -> list[Mapping[str, Any]]:
        return list(self._refusals)

    def cancel(self, id: str) -> bool:
        return self._captures.cancel(id)
