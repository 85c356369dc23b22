# See LICENSE for details.
"""
What a configuration value may be.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import attrs


@attrs.frozen
class Rule:
    """
    What is allowed for one key.

    @ivar allowed: The same in words: what follows "must be".
    @ivar accept: Takes a value from a file and returns the one to use.
        It raises L{ValueError} for what is not allowed.
    @ivar fromText: Makes such a value of a command line argument.
        It raises L{ValueError} where that is impossible.
    """

    allowed: str
    accept: Callable[[Any], Any]
    fromText: Callable[[str], Any] = str


def key(
    default: Any, rule: Rule, *, secret: bool = False, toml: str | None = None
) -> Any:
    """
    Declare one key of a section.

    @param default: The value where the file is silent.
    @param rule: What is allowed.
    @param secret: Whether to keep the value out of C{repr} and of messages.
    @param toml: The key in the file, if it is not the attribute's name.
    """
    metadata = {"rule": rule, "toml": toml}
    return attrs.field(default=default, repr=not secret, metadata=metadata)


def acceptFlag(value: Any) -> bool:
    """
    Accept only C{true} and C{false}.
    """
    if not isinstance(value, bool):
        raise ValueError
    return value


def integer(low: int, high: int = 2**63 - 1) -> Rule:
    """
    Allow whole numbers within bounds that are both allowed.
    """

    def accept(value: Any) -> int:
        # A bool is an int to Python, but not to an operator.
        if type(value) is not int or not low <= value <= high:
            raise ValueError
        return value

    bounds = f"from {low} to {high}" if high < 2**63 - 1 else f"of at least {low}"
    return Rule(f"an integer {bounds}", accept, int)


def seconds(*, zero: bool) -> Rule:
    """
    Allow a finite number of seconds.

    @param zero: Whether there may be none.
    """

    def accept(value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError
        if value < 0 or (value == 0 and not zero):
            raise ValueError
        return value  # type: ignore[no-any-return]

    bound = "a number of seconds, 0 or more" if zero else "a number of seconds above 0"
    return Rule(bound, accept, float)


def interval(least: float) -> Rule:
    """
    Allow a finite number of seconds that is not too short, or 0 for never.
    """

    def accept(value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError
        if value != 0 and value < least:
            raise ValueError
        return value  # type: ignore[no-any-return]

    return Rule(f"a number of seconds of at least {least:g}, or 0", accept, float)


def text(allowed: str, pattern: str) -> Rule:
    """
    Allow text that matches a pattern as a whole.
    """

    def accept(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError
        return value

    return Rule(allowed, accept)


def oneOf(*values: str) -> Rule:
    """
    Allow some texts.
    """
    quoted = [f'"{value}"' for value in values]
    allowed = f"{', '.join(quoted[:-1])} or {quoted[-1]}"
    return text(allowed, "|".join(map(re.escape, values)))


def texts(allowed: str, accept: Callable[[str], str]) -> Rule:
    """
    Allow an array of texts, of which a lone one may stand for an array of one.

    @param accept: Returns the element to use for one of the array, or raises
        L{ValueError}.
    """

    def acceptAll(value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list):
            raise ValueError
        if not all(isinstance(element, str) for element in value):
            raise ValueError
        return tuple(accept(element) for element in value)

    return Rule(allowed, acceptAll)


def acceptServer(value: str) -> str:
    """
    Accept one C{host:port}, an IPv6 address being in brackets.
    """
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:\[\]]+):([0-9]{1,5})", value)
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise ValueError
    return match[0]


def isURL(value: str) -> bool:
    """
    Say whether text is an HTTP(S) URL with a host.
    """
    try:
        parts = urlsplit(value)
        # Asking for the port raises where it is none.
        sound = parts.scheme in ("http", "https") and parts.port != 0
        return sound and bool(parts.hostname)
    except ValueError:
        return False


FLAG = Rule("true or false", acceptFlag)
NAME = text("text that is not empty", r"[^\x00-\x1f\x7f]+")
HOST = text("a host name or address", r"[^\s\x00-\x1f\x7f]+")
PORT = integer(1, 65535)
TEXT = text("one line of text", r"[^\x00-\x1f\x7f]*")
