# See LICENSE for details.
"""
The report of the benchmarks, and what is said of them. They themselves are run by
C{make bench}.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from subprocess import DEVNULL
from threading import Event
from unittest import SkipTest
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.pools import _DaemonThread
from pcapdaemon.test.test_docs import Page, names

if importlib.util.find_spec("benchmarks") is None:
    raise SkipTest("no benchmarks here: this is not a checkout")

from benchmarks import report
from benchmarks.__main__ import NAMES, REPORT, ROOT, Program, perform
from benchmarks.plot import plot
from benchmarks.publish import PAGE, PLOT, RESULTS, page, publish, read
from benchmarks.results import Bar, Chart, Figure, Result, Table
from benchmarks.usage import Usage

_SVG = "{http://www.w3.org/2000/svg}"


def sample(program: str = "storm") -> Result:
    """A result that has something of all."""
    return Result(
        program,
        "--repeat 2",
        "2026-01-02T03:04:05Z",
        0.25,
        61.0,
        {"processor": "A|B", "cores": "2"},
        figures=[
            Figure("held", "1 s", "at most 2 s", True),
            Figure("missed", "3 s", "at most 2 s", False),
        ],
        tables=[Table("What came out", ["", "kept"], [["a|b", "yes"], ["c", "NO"]])],
        charts=[
            Chart(
                "Times < 2 s",
                [Bar("own", [1, 0.5], True), Bar("other", [3]), Bar("nil", [0])],
                ["this", "that"],
            ),
            Chart("Empty", [Bar("said", [2], cited=True)]),
        ],
    )


class ReportTests(SynchronousTestCase):
    """
    L{benchmarks.publish} and L{benchmarks.plot}.
    """

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())

    def test_result(self) -> None:
        """
        A result that is written is the same when it is read.
        """
        path = self.directory / RESULTS / "storm.json"
        sample().save(path)
        self.assertEqual(Result.read(path), sample())

    def test_page(self) -> None:
        """
        The page has machine, command, tables and figures, those first that are
        missed.
        """
        text = page([sample()], ["storm"])
        self.assertIn("| processor | A\\|B |", text)
        self.assertIn("`python -m benchmarks.storm --repeat 2`", text)
        self.assertIn("Of 2 figures that were asked for, 1 are kept.", text)
        self.assertIn("| a\\|b | yes |\n| c | **NO** |\n", text)
        self.assertEqual(
            re.findall(r"^\| (held|missed) .* (yes|\*\*no\*\*) \|", text, re.MULTILINE),
            [("missed", "**no**"), ("held", "yes")],
        )

    def test_load(self) -> None:
        """
        The page says so when the machine was not calm.
        """
        busy = sample("idle")
        busy.load = 3.0
        words = "its load was up to 3.0"
        self.assertNotIn(words, page([sample()], ["storm"]))
        self.assertIn(words, page([sample(), busy], ["storm", "idle"]))

    def test_failed(self) -> None:
        """
        What failed, and what there is no result of, is said, and the rest is there.
        """
        failed = sample()
        failed.error = "Failed: no ip"
        text = page([failed, sample("idle")], ["storm", "idle", "limits"])
        self.assertIn("**It did not come to its end:** Failed: no ip", text)
        self.assertIn("There is no result of `limits`.", text)
        self.assertIn("## idle", text)

    def test_plot(self) -> None:
        """
        The plot has a bar for each part, as long as it should be.
        """
        root = ElementTree.fromstring(plot(sample().charts))
        found = [
            (rect.get("class"), float(rect.get("width", "")))
            for rect in root.iter(f"{_SVG}rect")
        ]
        kinds = [kind for kind, _ in found]
        self.assertEqual(kinds, ["page", "own0", "own1", "other", "other", "cited"])
        _, first, second, other, nil, _ = (width for _, width in found)
        self.assertEqual([2 * second, 3 * first, 0.0], [first, other, nil])
        texts = [text.text for text in root.iter(f"{_SVG}text")]
        self.assertIn("Times < 2 s", texts)
        self.assertIn("2 (cited)", texts)

    def test_publish(self) -> None:
        """
        A file that is no result keeps the others from nothing.
        """
        results = self.directory / RESULTS
        sample("idle").save(results / "idle.json")
        (results / "storm.json").write_text("{}")
        self.assertEqual(publish(self.directory, ["storm", "idle"]), [sample("idle")])
        self.assertIn("## idle", (self.directory / PAGE).read_text())
        self.assertIn("<svg", (self.directory / PLOT).read_text())

    def test_asked(self) -> None:
        """
        What was asked for is kept with its unit, and judged by its bound.
        """
        recorder = report._Recorder()
        self.patch(report, "_recorder", recorder)
        words = [
            report.asked("most", 2.0, 2, "s"),
            report.asked("more", 2.5, 2),
            report.asked("least", 0.5, 0.8, least=True),
        ]
        self.assertEqual(words, ["yes", "NO", "NO"])
        self.assertEqual(
            [(f.measured, f.bound, f.kept) for f in recorder.result.figures],
            [
                ("2 s", "at most 2 s", True),
                ("2.5", "at most 2", False),
                ("0.5", "at least 0.8", False),
            ],
        )

    def test_committed(self) -> None:
        """
        The report of the documentation is what is made of the results beside it.
        """
        results = read(REPORT, NAMES)
        if not results:
            raise SkipTest("no results here: this is not a checkout")
        self.assertEqual((REPORT / PAGE).read_text("utf-8"), page(results, NAMES))
        charts = (chart for result in results for chart in result.charts)
        self.assertEqual((REPORT / PLOT).read_text("utf-8"), plot(charts))


class RunTests(SynchronousTestCase):
    """
    L{benchmarks.__main__.perform}.
    """

    def test_failing(self) -> None:
        """
        A program that fails leaves a result that says so.
        """
        directory = Path(self.mktemp()).absolute()
        program = Program("storm", "--requests none", "")
        self.assertFalse(perform(program, program.options, directory, DEVNULL))
        result = Result.read(directory / RESULTS / "storm.json")
        self.assertEqual(result.program, "storm")
        self.assertEqual(result.options, "--requests none")
        self.assertEqual(result.error, "ended with 2")

    def test_pools(self) -> None:
        """
        The time of a pool's threads is found by its name.
        """
        begun, over = Event(), Event()

        def busy() -> None:
            begun.set()
            over.wait()

        thread = _DaemonThread(target=busy, name="PoolThread-pcapdaemon.work-3")
        thread.start()
        try:
            begun.wait()
            used = Usage(os.getpid()).byPool()
        finally:
            over.set()
            thread.join()
        self.assertIn("work", used)
        self.assertIn("reactor", used)


class NameTests(SynchronousTestCase):
    """
    All speak of the same programs.
    """

    def test_modules(self) -> None:
        """
        Every module that runs by itself is one of the programs, and the reverse.
        """
        main = re.compile(r"^    run(WithReactor)?\(main\)$", re.MULTILINE)
        found = {
            path.stem
            for path in (ROOT / "benchmarks").glob("*.py")
            if main.search(path.read_text("utf-8"))
        }
        self.assertEqual(found, set(NAMES))

    def test_readme(self) -> None:
        """
        C{benchmarks/README.rst} names them in their order.
        """
        text = Page("benchmarks/README.rst").text
        self.assertEqual(re.findall(r"-m benchmarks\.(\w+)", text), NAMES)

    def test_documentation(self) -> None:
        """
        So does C{docs/benchmarks.rst}.
        """
        section = Page("docs/benchmarks.rst").sections()["What is measured"]
        self.assertEqual(names(section), NAMES)

    def test_makefile(self) -> None:
        """
        C{make bench} runs them all.
        """
        self.assertIn("python -m benchmarks $(", Page("Makefile").text)
