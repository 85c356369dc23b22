# See LICENSE for details.
"""
What this daemon's captures are doing and have done lately.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from zope.interface import implementer

from pcapdaemon.capture.service import CaptureService
from pcapdaemon.interfaces import ICaptureControl, IEventObserver

#: Fields that only say something of the event they stand in.
_PASSING = ("event", "stage", "reason", "sink", "url")


@implementer(ICaptureControl, IEventObserver)
class History:
    """
    Puts the events of each capture together: a summary has the fields of all
    of them, C{state}, and the lists C{stored} and C{failed}.
    """

    def __init__(self, captures: CaptureService, keep: int) -> None:
        """
        @param keep: How many captures that are over are remembered.
        """
        self._captures = captures
        self.keep = keep
        self._summaries: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def observe(self, event: Mapping[str, Any]) -> None:
        kind, id = event["event"], event["id"]
        if kind == "accepted":
            self._summaries[id] = {"id": id, "state": kind}
            self._forget()
        summary = self._summaries.get(id)
        if summary is None:
            return  # a refused request, or one long forgotten
        summary["state"] = kind
        if kind in ("stored", "failed"):
            told = {key: event[key] for key in _PASSING[1:] if key in event}
            summary.setdefault(kind, []).append(told)
        for key, value in event.items():
            if key not in _PASSING:
                summary[key] = value

    def _forget(self) -> None:
        running = self._captures.progress()
        over = [id for id in self._summaries if id not in running]
        # The newest has been accepted and does not run yet.
        for id in over[: max(0, len(over) - 1 - self.keep)]:
            del self._summaries[id]

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

    def cancel(self, id: str) -> bool:
        return self._captures.cancel(id)
