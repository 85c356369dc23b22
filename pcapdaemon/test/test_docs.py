# See LICENSE for details.
"""
What the code has stands in the documentation, and the reverse.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from unittest import SkipTest

import attrs
import click
import toml
import yaml

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon import request
from pcapdaemon.cli.main import main as command
from pcapdaemon.cli.tracker import DONE, FAILED, LEFT, NOBODY, USAGE
from pcapdaemon.config import SECTIONS, TABLES, Settings
from pcapdaemon.daemon import CaptureDaemon
from pcapdaemon.events import CATALOGUE, COMMON, ON_BUS
from pcapdaemon.interfaces import Reason, Stop
from pcapdaemon.listeners.http.openapi import paths
from pcapdaemon.listeners.http.reply import STATUSES
from pcapdaemon.tap import Options
from pcapdaemon.testing import MemoryCaptureSystem

ROOT = Path(__file__).resolve().parent.parent.parent


def words(kind: type) -> set[str]:
    """The stable words that a class like L{Reason} holds."""
    return {value for name, value in vars(kind).items() if name.isupper()}


class Page:
    """
    A page of the documentation, as its tables have it.
    """

    def __init__(self, name: str) -> None:
        path = ROOT / name
        if not path.exists():
            raise SkipTest(f"no {name} here: this is not a checkout")
        self.text = path.read_text("utf-8")

    def sections(self) -> dict[str, str]:
        """
        @return: Heading, without its quotes, to what stands below it.
        """
        parts = re.split(r"^(\S.*)\n(?:-{3,}|={3,})$", self.text, flags=re.M)
        headings = (heading.strip("`") for heading in parts[1::2])
        return dict(zip(headings, parts[2::2], strict=True))


def rows(section: str) -> list[list[str]]:
    """
    @return: The cells of all list tables in a section, literals without their
        quotes, but for their header rows.
    """
    found = []
    for table in section.split(".. list-table::")[1:]:
        _, _header, *lines = re.split(r"^   \* - ", table, flags=re.M)
        for line in lines:
            cells = re.split(r"^     - ", line.partition("\n\n")[0], flags=re.M)
            found.append([re.sub(r"^``(.*)``$", r"\1", cell.strip()) for cell in cells])
    return found


def names(section: str) -> list[str]:
    """The first cell of each row, without C{--}."""
    return [row[0].removeprefix("--") for row in rows(section)]


#: The sections of the configuration that have a page for themselves.
PAGES = {
    "http": "buses/http",
    "redis": "buses/redis",
    "kafka": "buses/kafka",
    "sqs": "buses/sqs",
    "webhook": "buses/webhook",
    "cloudshark": "sinks/cloudshark",
    "s3": "sinks/s3",
    "spool": "delivery",
    "trigger": "triggers",
}


class ConfigurationTests(SynchronousTestCase):
    """
    C{docs/configuration.rst} and the pages of L{PAGES}.
    """

    def test_keys(self) -> None:
        """
        Every section, key and default is there as the code has it, in its
        order and on its page, and nothing else is.
        """
        wanted = {
            (PAGES.get(name, "configuration"), heading): [
                (key.metadata["toml"] or key.name, key.default)
                for key in attrs.fields(settings)
            ]
            for name, heading, settings in [
                *((name, f"[{name}]", section) for name, section in SECTIONS.items()),
                *((name, f"[[{name}]]", table) for name, table in TABLES.items()),
            ]
        }
        found = {
            (page, heading): [
                (name, self.value(default)) for name, default, _ in rows(section)
            ]
            for page in ["configuration", *PAGES.values()]
            for heading, section in Page(f"docs/{page}.rst").sections().items()
            if heading.startswith("[")
        }
        self.assertEqual(wanted, found)

    @staticmethod
    def value(text: str) -> object:
        """What a default of the page means."""
        value = toml.loads(f"value = {text}")["value"]
        return tuple(value) if isinstance(value, list) else value

    def test_readme(self) -> None:
        """
        Every section stands in the README's table.
        """
        text = Page("README.rst").text
        found = set(re.findall(r"^``\[+(\w+)\]+`` ", text, flags=re.M))
        self.assertEqual({*SECTIONS, *TABLES}, found)


class OptionTests(SynchronousTestCase):
    """
    The options of the command line.
    """

    def setUp(self) -> None:
        self.options = {long.rstrip("=") for long in Options().longOpt}

    def test_readme(self) -> None:
        """
        Every option, and no other, stands in the README's table.
        """
        text = Page("README.rst").text
        found = re.findall(r"^``--([a-z]+)(?: [A-Z]+)?`` ", text, flags=re.M)
        self.assertEqual(self.options, set(found))

    def test_operation(self) -> None:
        """
        Every option, and no other, stands in C{docs/operation.rst}.
        """
        found = names(Page("docs/operation.rst").sections()["Run"])
        self.assertEqual(self.options, set(found))


class CommandTests(SynchronousTestCase):
    """
    C{docs/command.rst}.
    """

    def test_options(self) -> None:
        """
        Every command and option, and no other, stands there.
        """
        context = click.Context(command)
        sections = Page("docs/command.rst").sections()
        for name in command.list_commands(context):
            one = command.get_command(context, name)
            assert one is not None
            options = {
                option.removeprefix("--")
                for parameter in one.params
                for option in parameter.opts
                if option.startswith("--")
            }
            # What follows it may have tables of its own.
            table = sections[name].partition("\nFollowing\n")[0]
            self.assertEqual(options, set(names(table)), name)
        text = Page("docs/command.rst").text
        for status in DONE, FAILED, USAGE, NOBODY, LEFT:
            self.assertIn(f"   * - ``{status}``\n", text)

    def test_readme(self) -> None:
        """
        Every command stands in the README's table.
        """
        section = Page("README.rst").sections()["The command"]
        found = re.findall(r"^``(\w+)`` ", section, flags=re.M)
        self.assertEqual(command.list_commands(click.Context(command)), found)


class EventTests(SynchronousTestCase):
    """
    C{docs/events.rst}.
    """

    def test_fields(self) -> None:
        """
        Every event and field is there in the order of the catalogue, and
        nothing else is.
        """
        sections = Page("docs/events.rst").sections()
        found = {
            heading: tuple(names(section))
            for heading, section in sections.items()
            if heading != "Events"
        }
        self.assertEqual(
            {"Every event": COMMON, "On a bus": ON_BUS, **CATALOGUE}, found
        )

    def test_schema(self) -> None:
        """
        The schema of the events has them in the same order, and their words.
        """
        schema = json.loads(Page("docs/events.schema.json").text)
        kinds = schema["$defs"]
        self.assertEqual((*COMMON, *ON_BUS), tuple(schema["properties"]))
        self.assertEqual(list(CATALOGUE), schema["properties"]["event"]["enum"])
        branches = [f"#/$defs/{kind}" for kind in CATALOGUE]
        self.assertEqual(branches, [each["$ref"] for each in schema["oneOf"]])
        for kind, fields in CATALOGUE.items():
            properties = kinds[kind]["properties"]
            self.assertEqual(("event", *fields), tuple(properties), kind)
            self.assertEqual({"const": kind}, properties["event"])
            self.assertLessEqual(set(kinds[kind]["required"]), set(properties))
        reason = kinds["rejected"]["properties"]["reason"]
        self.assertEqual(words(Reason), set(reason["enum"]))
        stop = kinds["completed"]["properties"]["stop"]
        self.assertEqual(words(Stop), set(stop["enum"]))


class RouteTests(SynchronousTestCase):
    """
    C{docs/buses/http.rst} and the README: the routes.
    """

    def test_routes(self) -> None:
        """
        Every method of every path, and no other, stands in both.
        """
        routes = {
            f"{method.upper()} " + re.sub(r"{(\w+)}", lambda m: m[1].upper(), path)
            for path, methods in paths().items()
            for method in methods
            if not path.startswith("/page/")  # which only "/" asks for
        }
        text = Page("docs/buses/http.rst").text
        found = re.findall(r"^``([A-Z]+ /.*?)``$", text, flags=re.M)
        self.assertEqual(sorted(routes), sorted(found))
        text = Page("README.rst").sections()["HTTP"]
        found = re.findall(r"^``([A-Z]+ /.*?)`` ", text, flags=re.M)
        self.assertEqual(sorted(routes), sorted(found))


class MetricsTests(SynchronousTestCase):
    """
    C{docs/metrics.rst}, and the rules that go by it.
    """

    def setUp(self) -> None:
        system = MemoryCaptureSystem()
        daemon = CaptureDaemon(MemoryReactorClock(), Settings(), system)
        self.metrics = {
            metric.name + "_total" * (metric.type == "counter"): metric
            for metric in daemon.metrics.registry.collect()
            if metric.name.startswith("pcapdaemon_")
        }

    def test_metrics(self) -> None:
        """
        Every metric, and no other, stands there; histograms are called that.
        """
        found = rows(Page("docs/metrics.rst").sections()["What there is"])
        self.assertEqual(set(self.metrics), {name for name, *_ in found})
        histograms = {n for n, each in self.metrics.items() if each.type == "histogram"}
        self.assertEqual(
            histograms, {n for n, _, text in found if text.startswith("Histogram: ")}
        )

    def test_rules(self) -> None:
        """
        The alerts are about metrics that there are.
        """
        text = Page("etc/prometheus-rules.yml").text
        [group] = yaml.safe_load(text)["groups"]
        expressions = [rule["expr"] for rule in group["rules"]]
        names = set(re.findall(r"pcapdaemon_\w+", " ".join(expressions)))
        self.assertEqual(names - set(self.metrics), set())
        self.assertGreater(len(names), 5)


class RequestTests(SynchronousTestCase):
    """
    C{docs/requests.rst}.
    """

    def test_keys(self) -> None:
        """
        Every key of a request stands there and in the README, and no other.
        """
        keys = list(request._RULES)
        found = names(Page("docs/requests.rst").sections()["Keys"])
        self.assertEqual(keys, found)
        readme = Page("README.rst").sections()["Message format"]
        self.assertEqual(keys, re.findall(r"^``(\w+)`` ", readme, flags=re.M))

    def test_reasons(self) -> None:
        """
        Every reason stands there with its HTTP status, and no other.
        """
        found = rows(Page("docs/requests.rst").sections()["Refusals"])
        self.assertEqual(
            {reason: STATUSES[reason].value for reason in words(Reason)},
            {reason: int(status) for reason, status, _ in found},
        )

    def test_stops(self) -> None:
        """
        Every reason to stop stands there, and no other.
        """
        found = names(Page("docs/requests.rst").sections()["Captures"])
        self.assertEqual(words(Stop), set(found))
