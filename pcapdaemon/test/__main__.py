# See LICENSE for details.
"""
Run trial and close with one plain line that programs can read::

    python -m pcapdaemon.test [TRIAL OPTION | MODULE]...

The line is C{N passed, N failed, N skipped}; the exit status is trial's. A run
without a single test fails, and one that trial did not finish has no line.
"""

from __future__ import annotations

import re
import subprocess
import sys

_SUMMARY = re.compile(r"(?:PASSED|FAILED)(?: \((.*)\))?$")


def count(summary: str) -> tuple[int, int, int] | None:
    """
    Read a line of trial's output.

    @return: How many passed, failed and were skipped, or L{None} where the line
        is not trial's summary. A test marked as "todo" counts as skipped.
    """
    match = _SUMMARY.match(summary)
    if match is None:
        return None
    pairs = (pair.split("=") for pair in (match[1] or "").split(", ") if pair)
    n = {name: int(number) for name, number in pairs}
    return (
        n.get("successes", 0),
        n.get("failures", 0) + n.get("errors", 0) + n.get("unexpectedSuccesses", 0),
        n.get("skips", 0) + n.get("expectedFailures", 0),
    )


def main(arguments: list[str]) -> int:
    """
    @param arguments: What trial gets.
    @return: The exit status.
    """
    counts = None
    trial = subprocess.Popen(
        [sys.executable, "-m", "twisted.trial", *arguments],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        errors="replace",
    )
    with trial:
        assert trial.stdout is not None
        for line in trial.stdout:
            print(line, end="", flush=True)
            counts = count(line.rstrip("\n")) or counts
    if counts is None:
        print(f"\ntrial ended without a summary: status {trial.returncode}")
        return trial.returncode if trial.returncode > 0 else 1
    passed, failed, skipped = counts
    if not passed + failed + skipped:
        print("no test was found")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    if trial.returncode:
        return trial.returncode if trial.returncode > 0 else 1
    return 0 if passed + skipped and not failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
