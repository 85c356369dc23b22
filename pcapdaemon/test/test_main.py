# See LICENSE for details.
"""
Tests for the closing line of a test run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.test import __main__
from pcapdaemon.test.__main__ import count

MIXED = """
from twisted.trial.unittest import SkipTest, SynchronousTestCase

class Tests(SynchronousTestCase):
    def test_good(self): pass
    def test_bad(self): self.fail("bad")
    def test_skipped(self): raise SkipTest("no reason")
"""
GOOD = "\n".join(line for line in MIXED.splitlines() if "bad" not in line)


class CountTests(SynchronousTestCase):
    """
    L{count}.
    """

    def test_summaries(self) -> None:
        """
        Everything that is not a success or a skip has failed.
        """
        self.assertEqual((7, 0, 0), count("PASSED (successes=7)"))
        self.assertEqual((7, 0, 3), count("PASSED (skips=3, successes=7)"))
        self.assertEqual(
            (7, 6, 5),
            count(
                "FAILED (skips=3, expectedFailures=2, failures=1, errors=2, "
                "unexpectedSuccesses=3, successes=7)"
            ),
        )
        self.assertEqual((0, 0, 0), count("PASSED"))

    def test_others(self) -> None:
        """
        Other lines are not taken for the summary.
        """
        for line in ("", "Ran 7 tests in 0.1s", "  PASSED", "PASSED it on"):
            self.assertIsNone(count(line))


class RunTests(SynchronousTestCase):
    """
    C{python -m pcapdaemon.test}.
    """

    def runTests(self, source: str) -> tuple[int, str]:
        """
        Run a file of tests.

        @return: The exit status and the last line.
        """
        file = Path(self.mktemp() + ".py").resolve()
        file.write_text(source)
        temporary = f"--temp-directory={self.mktemp()}"
        done = subprocess.run(
            [sys.executable, __main__.__file__, temporary, str(file)],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout.splitlines()[-1]

    def test_good(self) -> None:
        """
        Without a failure the status is 0.
        """
        self.assertEqual((0, "1 passed, 0 failed, 1 skipped"), self.runTests(GOOD))

    def test_bad(self) -> None:
        """
        A failure is counted, and the status is that of trial.
        """
        self.assertEqual((1, "1 passed, 1 failed, 1 skipped"), self.runTests(MIXED))

    def test_none(self) -> None:
        """
        A run without a test fails.
        """
        self.assertEqual((1, "0 passed, 0 failed, 0 skipped"), self.runTests(""))

    def test_crash(self) -> None:
        """
        A run that does not come to its end has no closing line.
        """
        crash = GOOD.replace("pass", "__import__('os').abort()")
        status, line = self.runTests(crash)
        self.assertNotEqual(0, status)
        self.assertIn("without a summary", line)
