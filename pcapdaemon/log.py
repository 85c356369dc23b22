# See LICENSE for details.
# mypy: allow-untyped-calls
"""
The log in two more shapes: JSON lines, and the system log.
"""

from __future__ import annotations

import json
import sys
import syslog as systemLog
from collections.abc import Mapping
from typing import Any, Protocol, cast

import attrs
from zope.interface import directlyProvides, implementer

from twisted.application.service import Service
from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    LogPublisher,
    eventAsText,
    formatEvent,
)
from twisted.python.logfile import LogFile
from twisted.python.reflect import safe_repr

from pcapdaemon.events import timestamp

#: What old-style observers leave in events for their own use.
_LEGACY = {"format", "isError", "system"}

#: Severities of syslog.h; what is not here is not sent.
_SEVERITIES = {
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}


class TextStream(Protocol):
    """
    What lines can be written to: a file, or twistd's rotated log file.
    """

    def write(self, text: str, /) -> object:
        """
        Write text.
        """

    def flush(self) -> object:
        """
        Let it go.
        """


class SystemLog(Protocol):
    """
    What is used of the standard library's C{syslog}.
    """

    def openlog(self, ident: str, logoption: int, facility: int) -> object:
        """
        Say who logs.
        """

    def syslog(self, priority: int, message: str, /) -> object:
        """
        Log one line.
        """

    def closelog(self) -> object:
        """
        Forget who logs.
        """


def jsonObserver(stream: TextStream) -> ILogObserver:
    """
    Make an observer that writes one JSON object a line: C{time}, C{level},
    C{namespace}, C{message}, C{traceback} where there is one, and the event's
    own fields, as far as their names are free.
    """

    def observe(event: LogEvent) -> None:
        try:
            stream.write(_asJSON(event) + "\n")
            stream.flush()
        except (OSError, ValueError):
            # A full disk or closed pipe: there is nowhere left to say so.
            pass

    directlyProvides(observe, ILogObserver)
    return cast(ILogObserver, observe)


def _asJSON(event: LogEvent) -> str:
    time, level = event.get("log_time"), event.get("log_level")
    line: dict[str, Any] = {
        "time": None if time is None else timestamp(time),
        "level": None if level is None else level.name,
        "namespace": event.get("log_namespace"),
        "message": formatEvent(event),
    }
    if "log_failure" in event:
        line["traceback"] = eventAsText(
            {**event, "log_format": ""}, includeTimestamp=False, includeSystem=False
        ).strip()
    for name, value in event.items():
        if name not in line and name not in _LEGACY and not name.startswith("log_"):
            line[name] = value
    try:
        return _dumps(line)
    except (ValueError, TypeError, RecursionError):
        return _dumps({name: _plain(value) for name, value in line.items()})


def _dumps(value: Any) -> str:
    # NaN would be no JSON.
    return json.dumps(value, default=safe_repr, allow_nan=False)


def _plain(value: Any) -> Any:
    """
    Return a value that can certainly be written.
    """
    try:
        _dumps(value)
    except (ValueError, TypeError, RecursionError):
        return safe_repr(value)
    return value


def jsonLogger(options: Mapping[str, Any]) -> ILogObserver:
    """
    Make an observer for the place that twistd itself would log to.

    @param options: Those of twistd.
    """
    name = options["logfile"]
    if name == "-" and not options["nodaemon"]:
        raise SystemExit("Daemons cannot log to stdout, exiting!")
    if name == "-" or (options["nodaemon"] and not name):
        return jsonObserver(sys.stdout)
    return jsonObserver(LogFile.fromFullPath(name or "twistd.log"))


@implementer(ILogObserver)
@attrs.define
class SyslogObserver:
    """
    Sends what is not for debugging to the system log, line by line.

    @ivar priority: Facility and severity: every line goes out at that facility,
        and at that severity unless its own level is more severe.
    @ivar tag: The program name.
    """

    priority: int
    tag: str
    _syslog: SystemLog = systemLog

    def open(self) -> None:
        """
        Name this program to the system log.
        """
        self._syslog.openlog(self.tag, systemLog.LOG_PID, self.priority & ~7)

    def close(self) -> None:
        """
        Let the system log go.
        """
        self._syslog.closelog()

    def __call__(self, event: LogEvent) -> None:
        """
        Send one event.
        """
        severity = _SEVERITIES.get(event.get("log_level", LogLevel.info))
        if severity is None:
            return
        priority = self.priority & ~7 | min(self.priority & 7, severity)
        text = eventAsText(event, includeTimestamp=False, includeSystem=False)
        for line in text.splitlines():
            if line.strip():
                # The C function takes neither lone surrogates nor zeros.
                encodable = line.encode("utf-8", "backslashreplace").decode()
                self._syslog.syslog(priority, encodable.replace("\0", "\\0"))


class SyslogService(Service):
    """
    Sends the log to the system log while it runs.
    """

    name = "syslog"

    def __init__(self, observer: SyslogObserver, publisher: LogPublisher) -> None:
        """
        @param publisher: Usually C{twisted.logger.globalLogPublisher}.
        """
        self._observer = observer
        self._publisher = publisher

    def startService(self) -> None:
        """
        Begin to send.
        """
        super().startService()
        self._observer.open()
        self._publisher.addObserver(self._observer)

    def stopService(self) -> None:
        """
        Send no more.
        """
        self._publisher.removeObserver(self._observer)
        self._observer.close()
        super().stopService()
