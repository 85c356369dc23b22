# See LICENSE for details.
"""
Real servers for tests: each on a free port of the loopback interface, in a
directory of its own, ended with the test, and with the test run if that is
killed.
"""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from pcapdaemon.test.network import environment


def missing(*programs: str) -> str | None:
    """
    @return: Why a test that needs these programs must be skipped, or L{None}
        if it can run: a value for C{skip}.
    """
    absent = [program for program in programs if shutil.which(program) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def freePort() -> int:
    """
    @return: A TCP port that nobody has on the loopback interface.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until(
    reactor: Any, holds: Callable[[], object], what: str, seconds: float = 20.0
) -> None:
    """
    Wait while the reactor runs until something holds.

    @param what: What is waited for, for the message of the failure.
    @param seconds: After how long to give up.
    """
    end = reactor.seconds() + seconds
    while not holds():
        if reactor.seconds() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        await deferLater(reactor, 0.01)


class _Process(ProcessProtocol):
    """
    A server's process, with the end of what it printed.
    """

    transport: IProcessTransport | None

    def __init__(self) -> None:
        self.printed = b""
        self.exited = False
        self.ended: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.printed = (self.printed + data)[-4096:]

    errReceived = outReceived

    def processExited(self, reason: Failure) -> None:
        self.exited = True

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(None)


class Server:
    """
    One server program. Subclasses say how it is called.

    @ivar program: The name of the program.
    @ivar host: The address that it has.
    @ivar port: Where it listens, from L{start} on.
    @ivar directory: Its working directory, removed with the test.
    """

    program: str
    host = "127.0.0.1"
    port: int

    def __init__(self, case: TestCase, reactor: Any) -> None:
        """
        @param case: The test that this server must not outlive.
        """
        self._reactor = reactor
        self._process: _Process | None = None
        self.directory = tempfile.mkdtemp(prefix=f"{self.program}-")
        case.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        case.addCleanup(self.kill)

    def commandLine(self) -> Sequence[str]:
        """
        @return: The arguments to the program.
        """
        raise NotImplementedError

    def _launch(self) -> Deferred[None]:
        """
        Spawn the program.

        @return: A Deferred that fires when it accepts connections.
        """
        arguments = [self.program, *self.commandLine()]
        setpriv = shutil.which("setpriv")
        if setpriv is not None:
            # A test run that is killed cannot clean up: the kernel does.
            arguments = [setpriv, "--pdeathsig", "KILL", "--", *arguments]
        process = self._process = _Process()
        self._reactor.spawnProcess(
            process,
            shutil.which(arguments[0]),
            arguments,
            env=environment(),
            path=self.directory,
        )
        return ensureDeferred(self._accepting(process))

    async def _accepting(self, process: _Process) -> None:
        await until(
            self._reactor,
            lambda: process.exited or self._accepts(),
            f"{self.program} on port {self.port}",
        )
        if process.exited:
            printed = process.printed.decode(errors="replace")
            raise AssertionError(f"{self.program} ended at its start:\n{printed}")

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0

    def _signal(self, name: str) -> None:
        if self._process is None or self._process.transport is None:
            return
        try:
            self._process.transport.signalProcess(getattr(signal, f"SIG{name}"))
        except ProcessExitedAlready:
            pass

    async def _end(self, name: str) -> None:
        self._signal(name)
        if self._process is not None:
            process, self._process = self._process, None
            await process.ended

    def stop(self) -> Deferred[None]:
        """
        Ask the server to end.

        @return: A Deferred that fires when it has.
        """
        return ensureDeferred(self._end("TERM"))

    def kill(self) -> Deferred[None]:
        """
        End the server the hard way. Nothing happens if it does not run.
        """
        return ensureDeferred(self._end("KILL"))

    def restart(self) -> Deferred[None]:
        """
        Kill the server if it runs, and start it again on the same port.
        """
        return self.kill().addCallback(lambda _: self._launch())

    def pause(self) -> None:
        """
        Freeze the server: its sockets stay open and say nothing.
        """
        self._signal("STOP")

    def resume(self) -> None:
        """
        Let a paused server go on.
        """
        self._signal("CONT")


def packed(*words: str | bytes) -> bytes:
    """
    @return: A command as it goes to Redis.
    """
    # The type that hiredis declares allows no more than one word.
    words_: Any = words
    command: bytes = hiredis.pack_command(words_)
    return command


class RedisServer(Server):
    """
    A redis-server without persistence.

    @ivar password: What L{command} authenticates with.
    """

    program = "redis-server"

    def start(
        self,
        port: int | None = None,
        password: str = "",
        args: Sequence[str] = (),
    ) -> Deferred[None]:
        """
        Start the server.

        @param args: More options of redis-server.
        @return: A Deferred that fires when it accepts connections.
        """
        self.port = port or freePort()
        self.password = password
        self._args = list(args)
        if password:
            self._args += ["--requirepass", password]
        return self._launch()

    def commandLine(self) -> Sequence[str]:
        options = f"--bind {self.host} --port {self.port} --appendonly no".split()
        return [*options, "--save", "", *self._args]

    def command(self, *words: str | bytes) -> Any:
        """
        Run one command over a connection of its own, and wait for its reply.

        @return: The reply; text as bytes.
        @raise hiredis.ReplyError: The server refused.
        """
        reader = hiredis.Reader()
        reply: Any = False
        with socket.create_connection((self.host, self.port), 10) as link:
            if self.password:
                link.sendall(packed("AUTH", self.password))
                link.recv(1024)
            link.sendall(packed(*words))
            while reply is False:
                data = link.recv(65536)
                if not data:
                    raise AssertionError("redis-server closed the connection")
                reader.feed(data)
                reply = reader.gets()
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def publish(self, channel: str, message: bytes) -> int:
        """
        Publish a message.

        @return: How many subscribers it was sent to.
        """
        subscribers: int = self.command("PUBLISH", channel, message)
        return subscribers

    def subscribers(self) -> int:
        """
        @return: How many connections of clients there are, but for this one.
        """
        return len(self.command("CLIENT", "LIST").splitlines()) - 1
