# See LICENSE for details.
"""
Tests for L{pcapdaemon.log}.
"""

from __future__ import annotations

import json
import syslog
from io import StringIO
from typing import Any

from zope.interface.verify import verifyObject

from twisted.application.service import IService
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.log import SyslogObserver, SyslogService, jsonObserver


class Awkward:
    """
    An object that cannot even be shown.
    """

    def __repr__(self) -> str:
        raise RuntimeError("no")


class FullDisk(StringIO):
    """
    A stream that takes nothing.
    """

    def write(self, text: str, /) -> int:
        """
        Fail.
        """
        raise OSError(28, "No space left on device")


class JSONTests(SynchronousTestCase):
    """
    Tests for L{jsonObserver}.
    """

    def setUp(self) -> None:
        """
        Log to a string.
        """
        self.stream = StringIO()
        self.observer = jsonObserver(self.stream)
        self.log = Logger("here", observer=self.observer)

    def line(self) -> dict[str, Any]:
        """
        Return the one line that was written.
        """
        text = self.stream.getvalue()
        self.assertEqual(text.count("\n"), 1)
        self.assertTrue(text.endswith("\n"))

        def refuse(constant: str) -> None:
            self.fail(f"{constant} is no JSON")

        parsed: dict[str, Any] = json.loads(text, parse_constant=refuse)
        return parsed

    def test_interface(self) -> None:
        """
        The observer is one to Twisted.
        """
        self.assertTrue(ILogObserver.providedBy(self.observer))

    def test_event(self) -> None:
        """
        An event has a time in UTC, its level, its namespace, its text and its
        own fields, and nothing that is only for loggers.
        """
        self.observer(
            {
                "log_time": 1700000000.25,
                "log_level": LogLevel.warn,
                "log_namespace": "here",
                "log_format": "{a}\n{b[c]}",
                "a": "\u00e9\udc80",
                "b": {"c": [1, None, True]},
                "isError": 0,
                "system": "-",
            }
        )
        self.assertEqual(
            self.line(),
            {
                "time": "2023-11-14T22:13:20.250000Z",
                "level": "warn",
                "namespace": "here",
                "message": "\u00e9\udc80\n[1, None, True]",
                "a": "\u00e9\udc80",
                "b": {"c": [1, None, True]},
            },
        )

    def test_taken(self) -> None:
        """
        A field cannot take the name of what every line has.
        """
        taken = {"message": 1, "level": 2, "time": 3, "namespace": 4}
        self.observer({"log_level": LogLevel.info, "log_format": "text", **taken})
        self.assertEqual(
            self.line(),
            {"time": None, "level": "info", "namespace": None, "message": "text"},
        )

    def test_notJSON(self) -> None:
        """
        A field that JSON does not have becomes text; the others stay.
        """
        circular: list[Any] = []
        circular.append(circular)
        self.log.info(
            "said",
            data=b"\xff",
            nan=float("nan"),
            circular=circular,
            keys={(1, 2): 3},
            awkward=Awkward(),
            good=[1.5],
        )
        line = self.line()
        self.assertEqual(line["message"], "said")
        self.assertEqual(line["data"], "b'\\xff'")
        self.assertEqual(line["nan"], "nan")
        self.assertEqual(line["circular"], "[[...]]")
        self.assertEqual(line["keys"], "{(1, 2): 3}")
        self.assertIn("Awkward", line["awkward"])
        self.assertEqual(line["good"], [1.5])

    def test_failure(self) -> None:
        """
        A failure comes with its traceback, in the one line.
        """
        self.log.failure("it broke", Failure(ValueError("because")))
        line = self.line()
        self.assertEqual(line["level"], "critical")
        self.assertEqual(line["message"], "it broke")
        self.assertTrue(line["traceback"].startswith("Traceback"), line["traceback"])
        self.assertIn("ValueError: because", line["traceback"])

    def test_bare(self) -> None:
        """
        An event of which nothing is known is a line too.
        """
        self.observer({})
        self.assertEqual(
            self.line(),
            {"time": None, "level": None, "namespace": None, "message": ""},
        )

    def test_broken(self) -> None:
        """
        A format that does not fit and a stream that is full or closed hurt
        nobody.
        """
        self.log.info("{missing}")
        self.assertIn("missing", self.line()["message"])
        jsonObserver(FullDisk())({})
        self.stream.close()
        self.log.info("lost")


class RecordedLog:
    """
    A system log that remembers.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def openlog(self, ident: str, logoption: int, facility: int) -> None:
        """
        Remember the name.
        """
        self.calls.append(("open", ident, logoption, facility))

    def syslog(self, priority: int, message: str, /) -> None:
        """
        Remember a line, if C{syslog} would take it.
        """
        assert "\0" not in message
        message.encode()
        self.calls.append((priority, message))

    def closelog(self) -> None:
        """
        Remember the end.
        """
        self.calls.append(("close",))


class SyslogTests(SynchronousTestCase):
    """
    Tests for L{SyslogObserver} and L{SyslogService}.
    """

    def setUp(self) -> None:
        """
        Log to a recorder.
        """
        self.system = RecordedLog()

    def observer(self, priority: int) -> SyslogObserver:
        """
        Make an observer of this priority.
        """
        return SyslogObserver(priority, "the tag", self.system)

    def priorities(self, configured: int) -> list[int]:
        """
        Log one line of each level, the least first, and return the priorities.
        """
        log = Logger("here", observer=self.observer(configured))
        for level in LogLevel.iterconstants():
            log.emit(level, "text")
        return [priority for priority, _ in self.system.calls]

    def test_interfaces(self) -> None:
        """
        The observer is one to Twisted, and the service is a service.
        """
        observer = self.observer(25)
        verifyObject(ILogObserver, observer)
        verifyObject(IService, SyslogService(observer, LogPublisher()))

    def test_severe(self) -> None:
        """
        No line is less severe than is configured, and none is for debugging.
        """
        alert = syslog.LOG_DAEMON | syslog.LOG_ALERT
        self.assertEqual(alert, 25)
        self.assertEqual(self.priorities(alert), [alert] * 4)

    def test_levels(self) -> None:
        """
        A line that is more severe than is configured goes out as severe as it is.
        """
        facility = syslog.LOG_LOCAL7
        self.assertEqual(
            self.priorities(facility | syslog.LOG_DEBUG),
            [
                facility | syslog.LOG_INFO,
                facility | syslog.LOG_WARNING,
                facility | syslog.LOG_ERR,
                facility | syslog.LOG_CRIT,
            ],
        )

    def test_lines(self) -> None:
        """
        Text of several lines is sent as such, a traceback included, without
        anything that C would stumble over.
        """
        log = Logger("here", observer=self.observer(30))
        log.info("one\n\ntwo \u00e9\0\udc80")
        self.assertEqual(self.system.calls, [(30, "one"), (30, "two \u00e9\\0\\udc80")])
        del self.system.calls[:]
        log.failure("it broke", Failure(ValueError("because")))
        lines = [line for _, line in self.system.calls]
        self.assertEqual(lines[0], "it broke")
        self.assertIn("because", lines[-1])

    def test_service(self) -> None:
        """
        The log is sent while the service runs, under its name.
        """
        publisher = LogPublisher()
        log = Logger("here", observer=publisher)
        service = SyslogService(self.observer(25), publisher)
        log.info("before")
        service.startService()
        log.info("during")
        service.stopService()
        log.info("after")
        self.assertEqual(
            self.system.calls,
            [
                ("open", "the tag", syslog.LOG_PID, syslog.LOG_DAEMON),
                (25, "during"),
                ("close",),
            ],
        )
