# See LICENSE for details.
"""
The catalogue of what happens, and how those who want to know are told.

An event is one JSON object. The names and fields here are stable and stand in
C{docs/events.rst}; a field without a value is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from zope.interface import implementer

from twisted.logger import Logger, LogLevel

from pcapdaemon.interfaces import IEventObserver

#: Those fields of a request that all of its events have, too.
ABOUT = ("request_id", "alertid", "customer", "tags")

#: Fields of every event.
COMMON = ("event", "time", "node", "id", *ABOUT)

#: Fields that an event may have only where a publisher has sent it.
ON_BUS = ("missed",)

#: Further fields of each event, in the order in which they are written.
CATALOGUE: dict[str, tuple[str, ...]] = {
    # A request was taken: one event for each device.
    "accepted": (
        "bus",
        "interface",
        "alias",
        "filter",
        "direction",
        "snaplength",
        "limits",
        "ignored",
        "missing",
    ),
    # A request was refused whole.
    "rejected": ("bus", "reason", "detail"),
    # The device is open: packets are recorded from here on.
    "armed": ("interface", "alias", "link", "ring"),
    # It runs: once in a while, where somebody wants to know.
    "progress": (
        "interface",
        "alias",
        "elapsed",
        "packets",
        "bytes",
        "dropped",
        "rate",
    ),
    # The capture has ended and its file is complete, in memory.
    "completed": (
        "interface",
        "alias",
        "link",
        "started",
        "finished",
        "packets",
        "bytes",
        "dropped",
        "stop",
        "sha256",
        "filename",
        "sinks",
    ),
    # One sink has the file.
    "stored": ("sink", "url", "filename"),
    # Something went wrong: the capture could not begin or go on (stage "capture"),
    # a packet could not be decoded and --panic is on (stage "decode"), or one
    # sink does not have the file (stage "store"): it is lost, or waits in the spool.
    "failed": (
        "stage",
        "interface",
        "alias",
        "sink",
        "filename",
        "reason",
        "attempts",
        "lost",
    ),
}


def isEvent(fields: Mapping[str, Any]) -> bool:
    """
    Whether a message is an event, which has all that makes a request, too.
    """
    kind = fields.get("event")
    known = isinstance(kind, str) and kind in CATALOGUE
    return known and "time" in fields and "id" in fields


def timestamp(seconds: float) -> str:
    """
    A time in UTC as RFC 3339 has it, with microseconds.

    @param seconds: Since the epoch.
    """
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


class Events:
    """
    Tells every observer of every event.
    """

    _log = Logger()

    def __init__(self, node: str, clock: Callable[[], float]) -> None:
        """
        @param node: The host name that stands in every event.
        @param clock: Seconds since the epoch.
        """
        self._node = node
        self._clock = clock
        self._observers: list[IEventObserver] = []

    def add(self, observer: IEventObserver) -> None:
        """Tell C{observer} of all events from now on."""
        self._observers.append(observer)

    def remove(self, observer: IEventObserver) -> None:
        """Tell C{observer} no more."""
        self._observers.remove(observer)

    def emit(
        self, event: str, id: str, about: Mapping[str, Any], **fields: Any
    ) -> None:
        """
        Something has happened.

        @param event: A key of L{CATALOGUE}.
        @param id: The capture, or for C{rejected} the request.
        @param about: Where those of L{ABOUT} are found.
        @param fields: Those of the catalogue; empty ones are left out.
        @raise ValueError: A field is not in the catalogue.
        """
        unknown = fields.keys() - set(CATALOGUE[event])
        if unknown:
            raise ValueError(f"{event}: {sorted(unknown)} not in the catalogue")
        told: dict[str, Any] = {
            "event": event,
            "time": timestamp(self._clock()),
            "node": self._node,
            "id": id,
        }
        for name in ABOUT:
            if about.get(name) not in (None, ""):
                told[name] = about[name]
        for name in CATALOGUE[event]:
            if fields.get(name) not in (None, "", (), []):
                told[name] = fields[name]
        for observer in tuple(self._observers):
            try:
                observer.observe(told)
            except Exception:
                self._log.failure(
                    "{observer!r} failed on event {event} of {id}",
                    observer=observer,
                    event=event,
                    id=id,
                )


class _Line(dict[str, Any]):
    """
    An event that is JSON where it is formatted, and a dictionary elsewhere.
    """

    def __str__(self) -> str:
        return json.dumps(self, separators=(",", ":"))


@implementer(IEventObserver)
class LogObserver:
    """
    Writes every event but C{progress} to the log: as one line of JSON, and as
    the field C{pcapdaemon} of the log event for structured logs.
    """

    _levels: Mapping[str, Any] = {"rejected": LogLevel.warn, "failed": LogLevel.error}

    def __init__(self, log: Logger | None = None) -> None:
        self._log = log or Logger("pcapdaemon.events")

    def observe(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "progress":
            return
        self._log.emit(
            self._levels.get(event["event"], LogLevel.info),
            "{pcapdaemon}",
            pcapdaemon=_Line(event),
        )
