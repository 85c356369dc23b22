# See LICENSE for details.
"""
Runs all benchmarks, or those that are named, one after the other, and writes the
report of their results and of those that are there already. What one leaves behind
when it fails is removed, and the others run all the same.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import attrs

from benchmarks.publish import PAGE, RESULTS, figures, publish
from benchmarks.report import parser
from benchmarks.results import Result
from benchmarks.stage import leftovers
from pcapdaemon.test.network import removeLeftovers

ROOT = Path(__file__).parent.parent
#: Where the report goes that the documentation shows, and where a quick one does.
REPORT, QUICK = ROOT / "docs" / "benchmarks", ROOT / "build" / "benchmarks"
#: Seconds after which a program is ended, and that it then has for cleaning up.
_LONGEST, _CLEANING = 420, 15


@attrs.frozen
class Program:
    """
    @ivar name: The name of its module.
    @ivar options: Its options, for a report of all in ten minutes.
    @ivar quick: Its options where only its working is to be seen.
    """

    name: str
    options: str
    quick: str


#: All programs, in the order of the report.
PROGRAMS = (
    Program(
        "throughput",
        "--each 1",
        "--count 20000 --frames 20000 --seconds 0.02 --repeat 1 --others 1 --each 1",
    ),
    Program("busy", "", "--size 1000000 --count 20000 --repeat 1"),
    Program("watching", "--count 1000000 --repeat 3", "--count 20000 --repeat 1"),
    Program("arming", "--trials 20", "--trials 2"),
    Program("storm", "", "--requests 3 --repeat 1"),
    Program("idle", "--seconds 5", "--captures 20 --seconds 0.5"),
    Program("growth", "--captures 1000", "--captures 40 --together 5"),
    Program("requests", "--count 100000", "--count 1000 --bad 100 --repeat 1"),
    Program("latency", "", "--captures 5"),
    Program("limits", "", ""),
    Program("upload", "--rounds 3", "--size 1000000 --rounds 1"),
    Program("stopping", "--times 5 --seconds 10", "--times 1 --seconds 1"),
)
NAMES = [program.name for program in PROGRAMS]


def _end(process: subprocess.Popen[bytes]) -> None:
    """
    End a program and everything that it has started.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(_CLEANING)
        except subprocess.TimeoutExpired:
            continue


def perform(
    program: Program, options: str, directory: Path, output: int | None = None
) -> bool:
    """
    Run a program, and see to it that there is a result of it and nothing else.

    @param output: Where it writes to, if not where this process does.
    @return: Whether it came to its end.
    """
    path = directory / RESULTS / f"{program.name}.json"
    path.unlink(missing_ok=True)
    module = f"benchmarks.{program.name}"
    command = [sys.executable, "-m", module, *options.split(), "--json", str(path)]
    process = subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stdout=output, stderr=output
    )
    error = ""
    try:
        status = process.wait(_LONGEST)
        error = f"ended with {status}" if status else ""
    except subprocess.TimeoutExpired:
        error = f"not over after {_LONGEST} s"
    finally:
        _end(process)
        removeLeftovers()
        for place in {"/dev/shm", os.environ.get("TMPDIR", "/tmp")}:
            for left in Path(place).glob(f"{leftovers(process.pid)}*"):
                shutil.rmtree(left, ignore_errors=True)
    if error and not path.exists():
        Result.begin(program.name, options).save(path)
    if error:
        result = Result.read(path)
        result.error = result.error or error
        result.save(path)
    return not error


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "programs", nargs="*", metavar="PROGRAM", help=", ".join(NAMES)
    )
    options.add_argument(
        "--quick", action="store_true", help="hardly measure; see that all work"
    )
    options.add_argument(
        "--report", action="store_true", help="run none; only write the report anew"
    )
    options.add_argument(
        "--directory", type=Path, help="where results and report go, or are"
    )
    arguments = options.parse_args()
    unknown = set(arguments.programs) - set(NAMES)
    if unknown:
        options.error(f"no such program: {', '.join(sorted(unknown))}")
    directory = arguments.directory or (QUICK if arguments.quick else REPORT)
    # As by Ctrl-C: what runs is ended, and what it leaves is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started, failed = time.monotonic(), []
    for program in PROGRAMS:
        if program.name in (arguments.programs or NAMES) and not arguments.report:
            words = program.quick if arguments.quick else program.options
            print(f"==> {program.name} {words}".rstrip(), flush=True)
            if not perform(program, words, directory):
                failed.append(program.name)
    results = publish(directory, NAMES)
    for _, figure in figures(results):
        if not figure.kept:
            print(f"missed: {figure.what}: {figure.measured}, {figure.bound}")
    print(f"{directory / PAGE}: {time.monotonic() - started:.0f} s")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
