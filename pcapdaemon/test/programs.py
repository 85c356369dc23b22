# See LICENSE for details.
"""
Programs of others, started by tests of what stands in C{etc/triggers}.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import SkipTest, TestCase

import pcapdaemon
from pcapdaemon.test.process import PATIENCE

#: The checkout.
ROOT = Path(pcapdaemon.__file__).parents[1]


def triggers() -> Path:
    """
    C{etc/triggers}.

    @raise SkipTest: This is an installation, which does not have it.
    """
    found = ROOT / "etc" / "triggers"
    if not found.exists():
        raise SkipTest("no etc/triggers here: this is not a checkout")
    return found


def find(*programs: str) -> str:
    """
    The path of the first of some programs that are all needed.

    @raise SkipTest: One is not installed.
    """
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    found = {program: shutil.which(program, path=path) for program in programs}
    absent = [program for program, where in found.items() if where is None]
    if absent:
        raise SkipTest(f"not installed: {', '.join(absent)}")
    return str(found[programs[0]])


def directory(case: TestCase, name: str) -> Path:
    """
    A directory for one test.
    """
    path = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    case.addCleanup(shutil.rmtree, path, ignore_errors=True)
    return path


class Program:
    """
    One program, which ends with the test, or with the test run if that is killed.

    @ivar output: The file with all that it says.
    """

    def __init__(
        self,
        case: TestCase,
        where: Path,
        *argv: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """
        @param where: Its working directory.
        @param environment: What is added to its environment.
        """
        self.output = where / f"{Path(argv[0]).name}.output"
        setpriv = shutil.which("setpriv")
        if setpriv is not None:
            argv = (setpriv, "--pdeathsig", "KILL", "--", *argv)
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                argv,
                cwd=where,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )
        case.addCleanup(self.end)

    def end(self) -> int:
        """
        End it, if it still runs, and return its status.
        """
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def waitFor(self, *words: str, file: Path | None = None) -> str:
        """
        Wait until it has said something, and return all that it has.

        @param file: Where it says it, if not on its output.
        """
        output = file or self.output
        end = time.monotonic() + PATIENCE
        while True:
            ended = self.process.poll() is not None
            said = output.read_text("utf-8", "replace") if output.exists() else ""
            if all(word in said for word in words):
                return said
            if ended or time.monotonic() > end:
                raise AssertionError(f"{words}: never said in: {said}")
            time.sleep(0.02)

    def waitForPort(self, port: int) -> None:
        """
        Wait until it listens on a TCP port of loopback.
        """
        end = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except ConnectionRefusedError:
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                said = self.output.read_text("utf-8", "replace")
                raise AssertionError(f"port {port}: not listening: {said}")
            time.sleep(0.02)


def run(*argv: str, **options: Mapping[str, str]) -> str:
    """
    Run a command to its end, which must be a good one.

    @param options: C{environment}, what is added to it.
    @return: What it printed.
    """
    done = subprocess.run(
        argv,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, **options.get("environment", {})},
    )
    if done.returncode:
        command: Sequence[str] = argv
        raise AssertionError(f"{command}: status {done.returncode}: {done.stdout}")
    return done.stdout
