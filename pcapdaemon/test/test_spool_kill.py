# See LICENSE for details.
"""
Tests for what L{pcapdaemon.spool} promises should the process be killed.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import rmtree

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.test.spoolkill import SINKS, content

#: How often the process is killed at any moment, and the longest that it runs.
KILLS, SECONDS = 30, 0.1


class KillTests(SynchronousTestCase):
    """
    C{kill -9}.
    """

    def setUp(self) -> None:
        # In memory where that can be had: it does not matter for a process that is
        # killed, and thousands of fsyncs take no time.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.directory = Path(tempfile.mkdtemp(prefix="pcapdaemon-", dir=memory))
        self.addCleanup(rmtree, self.directory)
        self.program = subprocess.Popen(
            [sys.executable, "-m", "pcapdaemon.test.spoolkill"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.addCleanup(self.program.communicate)

    def tell(self, command: str, directory: Path, *arguments: object) -> str:
        """Have the program do something, and return its answer."""
        assert self.program.stdin is not None and self.program.stdout is not None
        print(command, directory, *arguments, file=self.program.stdin, flush=True)
        return self.program.stdout.readline().strip()

    def assertNothingLost(self, directory: Path) -> int:
        """
        Assert that after a restart each sink has everything that was told to be
        in the spool, whole, once, and nothing else; and that the spool is empty.

        @return: How much that was.
        """
        self.assertEqual(self.tell("recover", directory), "done")
        told = directory / "told"
        lines = told.read_text().splitlines() if told.exists() else []
        found = []
        for sink in SINKS:
            for path in (directory / sink).iterdir():
                self.assertFalse(path.name.startswith("."), path.name)
                self.assertEqual(path.read_bytes(), content(path.name))
                found.append(f"{sink} {path.name}")
        self.assertLessEqual(set(lines), set(found))
        self.assertEqual(os.listdir(directory / "spool"), ["lock"])
        return len(set(lines))

    def test_everyStep(self) -> None:
        """
        Whatever the next thing is that would be done with a file, a process that
        does not get to it loses nothing and doubles nothing.
        """
        number, told = 0, 0
        while True:
            number += 1
            directory = self.directory / str(number)
            said = self.tell("step", directory, number)
            if said == "done":
                break
            self.assertEqual(said, "killed")
            told += self.assertNothingLost(directory)
            # A recording has one name.
            names = {
                path.name for sink in SINKS for path in (directory / sink).iterdir()
            }
            self.assertLessEqual(len(names), 1)
        self.assertGreater(number, 30)
        self.assertGreater(told, number // 2)

    def test_anyMoment(self) -> None:
        """
        So it is at any moment of a busy daemon, one restart after the other.
        """
        seed = random.randrange(1 << 32)
        chance = random.Random(seed)
        for _ in range(KILLS):
            pause = chance.random() * SECONDS
            self.assertEqual(self.tell("time", self.directory / "x", pause), "killed")
        told = self.assertNothingLost(self.directory / "x")
        self.assertGreater(told, KILLS, f"seed {seed}")
