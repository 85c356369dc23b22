# See LICENSE for details.
"""
How the sinks have fared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from zope.interface import implementer

from pcapdaemon.interfaces import IEventObserver


@attrs.define
class _Outcome:
    stored: int = 0
    failed: int = 0
    state: str = "unused"


@implementer(IEventObserver)
class Outcomes:
    """
    Counts what each sink has stored and what it has not.
    """

    def __init__(self) -> None:
        self._sinks: dict[str, _Outcome] = {}

    def observe(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind not in ("stored", "failed") or "sink" not in event:
            return
        outcome = self._sinks.setdefault(event["sink"], _Outcome())
        if kind == "stored":
            outcome.stored += 1
            outcome.state = "ok"
        else:
            outcome.failed += 1
            outcome.state = "failing"

    def summary(self, sinks: Iterable[str]) -> dict[str, dict[str, Any]]:
        """
        @param sinks: The names of those that are wanted.
        @return: For each of them C{stored} and C{failed}, which count, and
            C{state}: C{ok} or C{failing}, by what happened last, or C{unused}.
        """
        return {name: attrs.asdict(self._sinks.get(name, _Outcome())) for name in sinks}
