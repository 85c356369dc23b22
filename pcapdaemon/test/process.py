# See LICENSE for details.
"""
The daemon as an operator runs it: a real twistd process with a configuration
file, for tests that look at it from outside alone.

Everything here blocks, and every wait ends with what the process says, or
fails loudly after L{PATIENCE} or when the process ends.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import TestCase
from urllib.parse import unquote, urlsplit

import attrs
import toml

from pcapdaemon.test.eventschema import SCHEMA, mistake
from pcapdaemon.test.network import environment

#: Seconds after which what was waited for will not come any more.
PATIENCE = 30.0

#: twistd, as its script starts it.
_TWISTD = "from twisted.scripts.twistd import run; run()"


@attrs.frozen
class Usage:
    """
    What a process holds.

    @ivar descriptors: Open descriptors.
    @ivar threads: Threads.
    @ivar resident: Bytes of memory in use.
    """

    descriptors: int
    threads: int
    resident: int


class Daemon:
    """
    One daemon process after the other, with one directory and configuration.
    It is killed when the test ends, and with the test run if that is killed.

    @ivar directory: Removed with the test.
    @ivar captures: Where captures go; made by the daemon.
    @ivar host: Where it can be reached.
    @ivar port: Where HTTP listens, once L{start} has returned.
    @ivar environment: What is added to the environment of the process.
    @ivar lines: The log so far, each line parsed.
    @ivar events: The events in it, in their order.
    @ivar garbage: What was printed that is no log line.
    """

    def __init__(self, case: TestCase, **sections: Mapping[str, Any]) -> None:
        """
        @param sections: As with L{configure}.
        """
        self.directory = Path(tempfile.mkdtemp(prefix="pcapdaemon-"))
        case.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        case.addCleanup(self.kill)
        self.directory.chmod(0o755)
        self.captures = self.directory / "captures"
        self.file = self.directory / "pcapdaemon.toml"
        self.configuration: dict[str, Any] = {
            "general": {
                "node": "node-a",
                "writelocal": True,
                "localdir": str(self.captures),
            },
            "http": {"listen": True, "port": 0},
        }
        self.configure(**sections)
        self.host = "127.0.0.1"
        self.port = 0
        self.environment: dict[str, str] = {}
        self.lines: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.garbage: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._heard = threading.Condition()
        self._ended = False

    def configure(self, **sections: Any) -> None:
        """
        Write the configuration file.

        @param sections: What to change: keys of sections, or the whole list of
            C{interface}.
        """
        for name, section in sections.items():
            if isinstance(section, Mapping):
                self.configuration.setdefault(name, {}).update(section)
            else:
                self.configuration[name] = section
        self.file.write_text(toml.dumps(self.configuration))

    # Its life.

    def launch(
        self,
        options: Sequence[str] = (),
        wrapper: Sequence[str] = (),
        log: Sequence[str] = ("--jsonlog",),
    ) -> None:
        """
        Start the process.

        @param options: More options of C{twistd pcapdaemon}.
        @param wrapper: A command that the process is started by and becomes.
        @param log: The option for the form of the log. Any other than this is
            C{garbage} to us.
        """
        twistd = ["-c", _TWISTD, "-n", "--pidfile=", "pcapdaemon", *log]
        argv = [*wrapper, sys.executable, *twistd, "--config", str(self.file), *options]
        setpriv = shutil.which("setpriv")
        if setpriv is not None:
            # A test run that is killed cannot clean up: the kernel does.
            argv = [setpriv, "--pdeathsig", "KILL", "--", *argv]
        with open(self.directory / "stderr", "w") as errors:
            process = self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**environment(), **self.environment},
                cwd=self.directory,
            )
        self.lines, self.events, self.garbage = [], [], []
        self._ended = False
        self._reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._reader.start()

    def start(self, options: Sequence[str] = (), wrapper: Sequence[str] = ()) -> None:
        """
        Start the process, and wait until it takes requests and signals.

        @param options: As with L{launch}, C{wrapper} too.
        """
        self.launch(options, wrapper)
        self.started()

    def started(self) -> None:
        """
        Wait until a process that was launched takes requests and signals.
        """
        self.waitForLine("pcapdaemon ")
        listening = {
            name
            for name in ("http", "redis", "kafka", "sqs")
            if self.configuration.get(name, {}).get("listen")
        }
        if self.configuration.get("redis", {}).get("events"):
            self.waitForLine("publishing events to channel ")
        if self.configuration.get("kafka", {}).get("events"):
            self.waitForLine("publishing events to topic ")
        if "http" in listening:
            self.port = self.waitForLine("Listening for HTTP")["port"]
            self.http("GET", "/healthz")
        if "redis" in listening:
            self.waitForLine("subscribed to ")
        if "kafka" in listening:
            self.waitForLine("reading topic ")
        if "sqs" in listening:
            self.waitForLine("reading from SQS ")

    def _read(self, process: subprocess.Popen[str]) -> None:
        """
        In a thread: take what the process prints.
        """
        assert process.stdout is not None
        for text in process.stdout:
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            with self._heard:
                if isinstance(line, dict):
                    self.lines.append(line)
                    if "pcapdaemon" in line:
                        self.events.append(line["pcapdaemon"])
                else:
                    self.garbage.append(text)
                self._heard.notify_all()
        with self._heard:
            self._ended = True
            self._heard.notify_all()

    @property
    def pid(self) -> int:
        """
        The process.
        """
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """
        Send a signal.
        """
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """
        Wait until the process has ended by itself, and all it said is here.

        @param seconds: After how long to give up.
        @return: The exit status; negative if it was a signal.
        """
        assert self._process is not None and self._reader is not None
        status = self._process.wait(seconds)
        self._reader.join(PATIENCE)
        return status

    def stop(self) -> int:
        """
        End the daemon as a service manager does.

        @return: The exit status.
        """
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """
        End it the hard way, if it runs.
        """
        if self._process is None or self._reader is None:
            return
        self._process.kill()
        self.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    # What it says.

    @property
    def errors(self) -> str:
        """
        What is on its standard error.
        """
        return (self.directory / "stderr").read_text()

    def complaints(self) -> list[str]:
        """
        Everything that it should never say.
        """
        found = [
            line.get("traceback") or line["message"]
            for line in list(self.lines)
            if "traceback" in line or "Unhandled" in line["message"]
        ]
        # In a test of the package as it is installed there is no schema.
        wrong = [mistake(event) for event in self.events] if SCHEMA.exists() else []
        found += [text for text in wrong if text is not None]
        return found + self.garbage + self.errors.splitlines()

    def waitFor(
        self, holds: Callable[[], Any], what: str, seconds: float = PATIENCE
    ) -> Any:
        """
        Wait until something holds of what it has said.

        @param what: What is waited for, for the message of the failure.
        @return: What C{holds} returned.
        """

        def found() -> Any:
            return holds() or self._ended

        with self._heard:
            self._heard.wait_for(found, seconds)
            result = holds()
            if result:
                return result
        last = "\n".join(str(line.get("message")) for line in self.lines[-20:])
        why = "it has ended" if self._ended else f"not within {seconds} s"
        raise AssertionError(f"{what}: {why}\n{last}\n{self.errors}")

    def waitForLine(self, text: str, count: int = 1) -> dict[str, Any]:
        """
        Wait for a line of the log.

        @param text: How it begins.
        @param count: How many such lines to wait for.
        @return: The last of them.
        """

        def found() -> list[dict[str, Any]]:
            those = [x for x in self.lines if str(x["message"]).startswith(text)]
            return those if len(those) >= count else []

        lines: list[dict[str, Any]] = self.waitFor(found, f"{count} times {text!r}")
        return lines[-1]

    def told(self, kind: str, id: str | None = None) -> list[dict[str, Any]]:
        """
        The events so far of one kind, of all captures or of one.
        """
        return [
            event
            for event in list(self.events)
            if event["event"] == kind and id in (None, event["id"])
        ]

    def waitForEvents(
        self, kind: str, ids: Iterable[str], seconds: float = PATIENCE
    ) -> dict[str, dict[str, Any]]:
        """
        Wait for an event of each of some captures.

        @return: The first such event of each, by identifier.
        """
        wanted = set(ids)

        def found() -> dict[str, dict[str, Any]]:
            them = {event["id"]: event for event in reversed(self.told(kind))}
            return {id: them[id] for id in wanted} if wanted <= them.keys() else {}

        if not wanted:
            return {}
        events: dict[str, dict[str, Any]] = self.waitFor(
            found, f"{kind} of {len(wanted)} captures", seconds
        )
        return events

    def waitForEvent(self, kind: str, id: str) -> dict[str, Any]:
        """
        Wait for an event of one capture.
        """
        return self.waitForEvents(kind, [id])[id]

    def waitForCount(self, kind: str, count: int) -> list[dict[str, Any]]:
        """
        Wait for so many events of one kind, and return all that are there.
        """
        self.waitFor(lambda: len(self.told(kind)) >= count, f"{count} times {kind}")
        return self.told(kind)

    def stored(self, id: str) -> Path:
        """
        Wait until a capture is in the local directory, and return its file.
        """
        return path(self.waitForEvent("stored", id))

    # What is asked of it.

    def http(
        self, method: str, where: str, body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        """
        Make one HTTP request.

        @param body: Bytes, or what becomes JSON.
        @return: The status, and what was answered.
        """
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
            if not isinstance(body, bytes):
                body = json.dumps(body).encode()
        link = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        try:
            link.request(method, where, body, headers)
            answer = link.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            link.close()

    def ask(self, **request: Any) -> list[str]:
        """
        Ask for captures on any node by HTTP, and see that they are let in.

        @return: Their identifiers.
        """
        status, answer = self.http("POST", "/captures", {"node": "any", **request})
        if status != 202:
            raise AssertionError(f"{request}: {status} {answer}")
        ids: list[str] = answer["ids"]
        return ids

    def arm(self, **request: Any) -> str:
        """
        Ask for one capture, and wait until it takes packets.
        """
        (id,) = self.ask(**request)
        self.waitForEvent("armed", id)
        return id

    # What it holds.

    def children(self) -> set[int]:
        """
        The processes that it has started.
        """
        tasks = Path("/proc", str(self.pid), "task").glob("*/children")
        return {int(pid) for task in tasks for pid in task.read_text().split()}

    def waitForDescriptors(self, most: int) -> None:
        """
        Wait until it has no more open descriptors than that: devices are closed
        when their captures have long been told to be over.
        """
        end = time.monotonic() + PATIENCE
        while self.usage().descriptors > most and time.monotonic() < end:
            time.sleep(0.02)

    def usage(self) -> Usage:
        """
        What it holds now.
        """
        proc = Path("/proc", str(self.pid))
        status = dict(
            line.split(":", 1) for line in (proc / "status").read_text().splitlines()
        )
        return Usage(
            len(os.listdir(proc / "fd")),
            int(status["Threads"]),
            int(status["VmRSS"].split()[0]) * 1024,
        )


def path(stored: Mapping[str, Any]) -> Path:
    """
    The file that a C{stored} event of the local sink means.
    """
    return Path(unquote(urlsplit(stored["url"]).path))
