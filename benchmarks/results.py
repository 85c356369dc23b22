# See LICENSE for details.
"""
What a benchmark found, as a value and as a file of JSON: the common form of
which the report is made, so that any single program can be run again and its
result be put in place of the former one.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import attrs

#: A moment, in a result.
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@attrs.frozen
class Figure:
    """
    A figure that was asked for.

    @ivar what: What was measured.
    @ivar measured: What came out, with its unit.
    @ivar bound: What was asked, with its unit and C{at most} or C{at least}.
    @ivar kept: Whether it is.
    """

    what: str
    measured: str
    bound: str
    kept: bool


@attrs.frozen
class Table:
    """
    @ivar title: What it shows.
    @ivar columns: The heads of the columns.
    @ivar rows: The cells.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]


@attrs.frozen
class Bar:
    """
    @ivar label: What stands before it.
    @ivar parts: What it is put together from; their sum is its length.
    @ivar own: Whether it is the daemon's, and not what it is compared with.
    @ivar cited: Whether it was not measured in this run.
    """

    label: str
    parts: list[float]
    own: bool = False
    cited: bool = False


@attrs.frozen
class Chart:
    """
    @ivar title: What it shows, with its unit.
    @ivar bars: From above to below.
    @ivar parts: What the parts of the bars are, if they have several.
    """

    title: str
    bars: list[Bar]
    parts: list[str] = attrs.Factory(list)


@attrs.define
class Result:
    """
    What one program found.

    @ivar program: Its name.
    @ivar options: Its command line, without the program.
    @ivar begun: When, in UTC.
    @ivar load: Load of the machine then, over one minute.
    @ivar seconds: How long it took.
    @ivar machine: What it ran on.
    @ivar error: Why it did not come to its end; empty if it did.
    """

    program: str
    options: str
    begun: str = ""
    load: float = 0.0
    seconds: float = 0.0
    machine: dict[str, str] = attrs.Factory(dict)
    error: str = ""
    figures: list[Figure] = attrs.Factory(list)
    tables: list[Table] = attrs.Factory(list)
    charts: list[Chart] = attrs.Factory(list)

    @classmethod
    def begin(cls, program: str, options: str) -> Self:
        """
        @return: A result of a program that begins now, on this machine.
        """
        begun = time.strftime(_TIME, time.gmtime())
        load = round(os.getloadavg()[0], 2)
        return cls(program, options, begun, load, machine=machine())

    def save(self, path: Path) -> None:
        """
        Write it, whole or not at all.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(attrs.asdict(self), indent=1) + "\n", "utf-8")
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """
        @raise ValueError: This is no result.
        """
        try:
            return cls._of(json.loads(path.read_text("utf-8")))
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"{path.name} is not a result: {error}") from None

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> Self:
        figures = [Figure(**each) for each in fields.pop("figures")]
        tables = [Table(**each) for each in fields.pop("tables")]
        charts = [
            Chart(**{**each, "bars": [Bar(**bar) for bar in each["bars"]]})
            for each in fields.pop("charts")
        ]
        return cls(**fields, figures=figures, tables=tables, charts=charts)


def _said(pattern: str, *command: str) -> str:
    """
    @return: What a program says of itself, as far as it matches.
    """
    if shutil.which(command[0]) is None:
        return "not installed"
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else "unknown"


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found[1] if found else platform.machine()


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return ""


def _libpcap() -> str:
    from pcapdaemon.capture.engines import AUTO, makeSystem

    return makeSystem(AUTO).name


def machine() -> dict[str, str]:
    """
    @return: What the figures depend on, in words.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "engine": _libpcap(),
        "tcpdump": _said(r"version (\S+)", "tcpdump", "--version"),
        "dumpcap": _said(r"Dumpcap.*?(\d\S+\d)", "dumpcap", "--version"),
        "redis-server": _said(r"v=(\S+)", "redis-server", "--version"),
    }
