# See LICENSE for details.
"""
A filter's cost, found out as the daemon does: by a process with limits.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs

from pcapdaemon.capture.filters import FilterChecker, _families, _substituted
from pcapdaemon.interfaces import Reason

#: The C{DLT_} numbers that a request's filter is tried for, with their names: it
#: is sound where it is so for one of them.
LINKS = {1: "Ethernet", 113: "Linux cooked", 12: "raw IP"}

#: Seconds for a process to start.
_START = 10.0
#: In place of host names, which are not looked up: RFC 5737 and RFC 3849.
_ADDRESSES = ["192.0.2.1", "2001:db8::1"]
_NAMES = 8
#: What the daemon's child says of C{vlan} where it may not capture.
_UNCHECKED = "vlan cannot be checked"

_unknownHost = re.compile(r"unknown host '(.*)'", re.DOTALL)


@attrs.frozen
class Cost:
    """
    What there is to say of a filter.

    @ivar reason: Why a daemon refuses it: C{bad-filter} or
        C{filter-too-complex}; empty where it does not.
    @ivar words: With C{reason}; without one, why it could not be checked here.
    @ivar seconds: CPU seconds that compiling takes.
    @ivar instructions: BPF instructions.
    @ivar names: The host names in it.
    @ivar link: What it was compiled for: a key of L{LINKS}.
    """

    reason: str
    words: str
    seconds: float = 0
    instructions: int = 0
    names: tuple[str, ...] = ()
    link: int = 1


def cost(filter: str, snaplength: int) -> Cost:
    """
    Find out what a filter costs, for Ethernet if it can be.
    """
    found = [_costFor(filter, link, snaplength) for link in (1,)]
    if found[0].reason == Reason.BAD_FILTER:
        found += [_costFor(filter, link, snaplength) for link in LINKS if link != 1]
    return next((each for each in found if not each.reason), found[0])


def _costFor(filter: str, link: int, snaplength: int) -> Cost:
    """
    The same for one link type, with addresses in place of host names.
    """
    names: list[str] = []
    text = filter
    while True:
        reason, words, seconds, instructions = _ask(text, link, snaplength)
        unknown = _unknownHost.fullmatch(words)
        if reason != Reason.BAD_FILTER or unknown is None:
            break
        name = unknown[1]
        if name in names or len(names) >= _NAMES:
            break
        names.append(name)
        for addresses in _families(_ADDRESSES):
            candidate = _substituted(text, name, addresses)
            reason, words, seconds, instructions = _ask(candidate, link, snaplength)
            if reason != Reason.BAD_FILTER or _unknownHost.fullmatch(words):
                break
        text = candidate
        if reason != Reason.BAD_FILTER:
            break
    if words.startswith(_UNCHECKED):
        reason = ""
    return Cost(reason, words, seconds, instructions, tuple(names), link)


def _ask(filter: str, link: int, snaplength: int) -> tuple[str, str, float, int]:
    """
    Have one process compile it.
    """
    bounds: dict[str, Any] = FilterChecker.__init__.__kwdefaults__ or {}
    options = {key: bounds[key] for key in ("cheap", "most", "memory")}
    options["path"] = [str(Path(each).absolute()) for each in sys.path]
    argv = [sys.executable, "-I", str(Path(__file__).with_name("filtercost.py"))]
    question = json.dumps([filter, link, snaplength])
    try:
        done = subprocess.run(
            [*argv, json.dumps(options)],
            input=f"{question}\n",
            capture_output=True,
            text=True,
            timeout=_START + bounds["wall"],
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Reason.TOO_COMPLEX, "compiling it does not come to an end", 0, 0
    if done.returncode in (-signal.SIGPROF, -signal.SIGXCPU):
        words = f"compiling it takes more than {bounds['most']:g} s of CPU time"
        return Reason.TOO_COMPLEX, words, 0, 0
    if done.returncode < 0:
        words = f"libpcap does not survive it ({signal.Signals(-done.returncode).name})"
        return Reason.TOO_COMPLEX, words, 0, 0
    if done.returncode:
        # A fault of this installation, not of the filter.
        raise OSError(done.stderr.strip().rpartition("\n")[2] or "no answer")
    reason, words, seconds, instructions = json.loads(done.stdout)
    return reason, words, seconds, instructions
