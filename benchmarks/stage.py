# See LICENSE for details.
"""
Where a benchmark runs: a pair of namespaces, a directory in memory, and the
daemon and Redis in namespace C{b}, reachable there on loopback alone.
"""

from __future__ import annotations

import http.client
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs
import hiredis
import toml

from benchmarks.report import recording
from benchmarks.usage import Usage
from pcapdaemon.test.network import Pair, skipReason
from pcapdaemon.test.servers import packed

HTTP_PORT, REDIS_PORT, CHANNEL = 8477, 6379, "capture"
#: The daemon's name for requests.
NODE = "bench"

Event = dict[str, Any]


class Failed(Exception):
    """
    It cannot be measured; the text says why.
    """


def until(what: str, seconds: float, holds: Callable[[], object]) -> None:
    """
    Ask again and again until something holds.

    @raise Failed: It did not in time.
    """
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise Failed(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)


@attrs.frozen
class Stage:
    """
    @ivar pair: The namespaces.
    @ivar directory: An empty directory, in memory as far as the machine has that.
    """

    pair: Pair
    directory: Path

    @property
    def captures(self) -> Path:
        """Where the daemon's local sink writes."""
        return self.directory / "captures"


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def warm(size: int = 1 << 30) -> None:
    """
    Touch memory and free it again.

    A virtual machine may get memory from its host at the first touch only, and
    give it back two seconds after it was freed; a page costs 20 times as much
    then, whoever is first. That is not what is to be measured.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    mmap.mmap(-1, size, flags=flags).close()


def leftovers(pid: int | None = None) -> str:
    """
    @return: How the names of the directories of a process begin.
    """
    return f"pcapdaemon-{os.getpid() if pid is None else pid}-"


@contextmanager
def stage() -> Iterator[Stage]:
    """
    Make the stage, and remove it with every process on it, however this ends.
    """
    reason = skipReason()
    if reason is not None:
        raise Failed(reason)
    signal.signal(signal.SIGTERM, _terminated)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix=leftovers(), dir=memory) as directory,
        Pair() as pair,
    ):
        yield Stage(pair, Path(directory))


def run(main: Callable[[], None]) -> None:
    """
    Run a program; what prevents it is one line and status 1.
    """
    try:
        with recording():
            main()
    except Failed as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


class Daemon:
    """
    C{twistd pcapdaemon}, and what it says.

    @ivar usage: What it uses.
    @ivar events: All events so far.
    @ivar levels: How many log lines there were of each level, events included.
    @ivar tracebacks: How many of them had a traceback, or were no JSON.
    """

    def __init__(
        self,
        stage: Stage,
        redis: bool = False,
        status: str = "ok",
        port: int = HTTP_PORT,
        **sections: Mapping[str, object],
    ) -> None:
        """
        Start it, and wait until it answers.

        @param redis: Whether it subscribes to a L{Redis} that runs already.
        @param status: What it is to say of itself: C{ok}, or C{degraded}.
        @param port: Of its HTTP server.
        @param sections: Tables of the configuration, beyond the node's name, the
            local sink and the listeners.
        """
        general = {"node": NODE, "writelocal": True, "localdir": str(stage.captures)}
        settings: dict[str, dict[str, object]] = {
            **{name: dict(section) for name, section in sections.items()},
            "general": {**general, **sections.get("general", {})},
            "http": {"listen": True, "port": port},
            "redis": {"listen": redis, "port": REDIS_PORT, "channel": CHANNEL},
        }
        file = stage.directory / f"pcapdaemon-{port}.toml"
        file.write_text(toml.dumps(settings))
        self._pair = stage.pair
        self._port = port
        self.events: list[Event] = []
        self.levels: Counter[str] = Counter()
        self.tracebacks = 0
        self._last: deque[str] = deque(maxlen=20)
        self._news = threading.Condition()
        # The twistd of this very interpreter, whatever PATH says.
        twistd = "from twisted.scripts.twistd import run; run()"
        command = [sys.executable, "-c", twistd, "--nodaemon", "--pidfile="]
        self.process = stage.pair.spawn(
            "b",
            [*command, "pcapdaemon", "--jsonlog", "--config", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=stage.directory,
        )
        self.usage = Usage(self.process.pid)
        self._status = status
        threading.Thread(target=self._listen, daemon=True).start()
        until("the daemon is ready", 30, self._ready)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            try:
                line = json.loads(text)
            except ValueError:
                line = {"level": "none", "traceback": text}
            with self._news:
                self._last.append(text)
                self.levels[line["level"]] += 1
                self.tracebacks += "traceback" in line
                if "pcapdaemon" in line:
                    self.events.append(line["pcapdaemon"])
                    self._news.notify_all()

    def _failed(self, what: str) -> Failed:
        return Failed(f"{what}; the end of its log:\n{''.join(self._last)}")

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            raise self._failed(f"the daemon ended with {self.process.returncode}")
        try:
            status: str = self.ask("GET", "/healthz")["status"]
        except OSError:
            return False
        return status == self._status

    def wait(
        self,
        name: str,
        count: int = 1,
        since: int = 0,
        seconds: float = 60,
        **fields: object,
    ) -> list[Event]:
        """
        Wait for events.

        @param name: Which.
        @param count: How many of them.
        @param since: How many events to leave out, from the first one ever.
        @param fields: What they have in common.
        @return: Those events.
        @raise Failed: They did not come.
        """
        found: list[Event] = []
        position = since

        def look() -> bool:
            nonlocal position
            for event in self.events[position:]:
                if event["event"] == name and fields.items() <= event.items():
                    found.append(event)
            position = len(self.events)
            return len(found) >= count

        with self._news:
            if not self._news.wait_for(look, seconds):
                raise self._failed(
                    f"{len(found)} of {count} events {name} within {seconds:g} s"
                )
        return found

    def connect(self) -> http.client.HTTPConnection:
        """
        @return: A connection to its HTTP server.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        with self._pair.enter("b"):
            connection.connect()
        return connection

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """
        One exchange by HTTP.

        @return: The answer, whatever its status.
        """
        connection = self.connect()
        try:
            connection.request(
                method,
                path,
                None if body is None else json.dumps(body),
                {"Content-Type": "application/json"},
            )
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def stop(self) -> None:
        """
        End it, and wait until it has.
        """
        self.process.terminate()
        self.process.wait(30)


class Watch:
    """
    Asks a daemon for its health all the time, while in a C{with} statement.

    @ivar milliseconds: How long each answer took.
    """

    def __init__(self, daemon: Daemon, interval: float) -> None:
        self._connection = daemon.connect()
        self._interval = interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self.milliseconds: list[float] = []

    def _poll(self) -> None:
        while not self._over.wait(self._interval):
            started = time.perf_counter()
            self._connection.request("GET", "/healthz")
            self._connection.getresponse().read()
            self.milliseconds.append((time.perf_counter() - started) * 1000)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._connection.close()


class Redis:
    """
    A redis-server without persistence, and a connection to it.
    """

    def __init__(self, stage: Stage) -> None:
        options = f"--bind 127.0.0.1 --port {REDIS_PORT} --appendonly no".split()
        self._pair = stage.pair
        self.process = stage.pair.spawn(
            "b",
            ["redis-server", *options, "--save", ""],
            stdout=subprocess.DEVNULL,
            cwd=stage.directory,
        )
        self._replies = hiredis.Reader()
        until("redis-server accepts", 10, self._connect)
        # A burst is to be taken at the subscriber's pace, not cut off.
        self.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0")

    def _connect(self) -> bool:
        try:
            with self._pair.enter("b"):
                self._link = socket.create_connection(("127.0.0.1", REDIS_PORT), 30)
        except ConnectionRefusedError:
            return False
        return True

    def _reply(self) -> Any:
        while (reply := self._replies.gets()) is False:
            data = self._link.recv(65536)
            if not data:
                raise Failed("redis-server closed the connection")
            self._replies.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            raise Failed(f"redis-server: {reply}")
        return reply

    def command(self, *words: str | bytes) -> Any:
        """
        @return: The reply to one command.
        """
        self._link.sendall(packed(*words))
        return self._reply()

    def publish(
        self, messages: Sequence[bytes], channel: str = CHANNEL, chunk: int = 500
    ) -> None:
        """
        Publish messages, many at once.

        @param chunk: How many go out before their replies are read.
        @raise Failed: Not all had exactly one subscriber.
        """
        for start in range(0, len(messages), chunk):
            piece = messages[start : start + chunk]
            self._link.sendall(b"".join(packed("PUBLISH", channel, m) for m in piece))
            if any(self._reply() != 1 for _ in piece):
                raise Failed(f"{channel} has not one subscriber")


class BareCapture:
    """
    A process of L{benchmarks.bare_capture}.
    """

    def __init__(self, stage: Stage) -> None:
        self._process = stage.pair.spawn(
            "b",
            [sys.executable, "-m", "benchmarks.bare_capture"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, *task: object) -> Any:
        """
        @param task: The name of a function, and its arguments.
        @return: What it returned.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise Failed("the plain library failed")
        return json.loads(answer)
