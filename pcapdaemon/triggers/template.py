# See LICENSE for details.
"""
Templates whose values come from outside: a sandbox of expressions alone.

Jinja2 offers far more than a value of a request needs. Here is neither a
statement nor a call nor an attribute of anything but a table of texts, so
that a template ends, stays small and reaches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from ipaddress import ip_address
from typing import Any

import attrs
import re2
from jinja2 import StrictUndefined, TemplateError, nodes
from jinja2.filters import FILTERS
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pcapdaemon.request import show

#: The most characters that a template, and what it becomes, may have.
MAXLENGTH = 4096

_AUTHORITY = re.compile(r"\[([^\]]*)\](?::([0-9]+))?|([^:]*):([0-9]+)")
_PORT = re.compile(r"[0-9]{1,5}")
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252})")


class BadTemplate(ValueError):
    """
    A template cannot be used, or not with these values; the text says why.
    """


# Filters.


def _split(value: object) -> tuple[str, str]:
    """
    Take C{HOST}, C{HOST:PORT} or C{[HOST]:PORT} apart, where an IPv6 address
    alone is a host.
    """
    text = str(value)
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return text, ""
    return match[1] or match[3] or "", match[2] or match[4] or ""


def host(value: object) -> str:
    """
    The IP address in C{ADDRESS}, C{ADDRESS:PORT} or C{[ADDRESS]:PORT}.
    """
    text = _split(value)[0]
    try:
        # With a zone, which may be any text, it would be none for libpcap.
        if "%" not in text:
            return str(ip_address(text))
    except ValueError:
        pass
    raise BadTemplate(f"host: {show(str(value))} has no IP address")


def port(value: object) -> str:
    """
    The port in C{PORT}, C{HOST:PORT} or C{[ADDRESS]:PORT}.
    """
    text = str(value)
    found = text if _PORT.fullmatch(text) else _split(text)[1]
    if _PORT.fullmatch(found) and 1 <= int(found) <= 65535:
        return str(int(found))
    raise BadTemplate(f"port: {show(text)} has no port from 1 to 65535")


def hostname(value: object) -> str:
    """
    The host name in C{NAME} or C{NAME:PORT}.
    """
    name = _split(value)[0]
    if _NAME.fullmatch(name):
        return name
    raise BadTemplate(f"hostname: {show(str(value))} has no host name")


def short(value: object) -> str:
    """
    A name up to its first dot.
    """
    return str(value).partition(".")[0]


def literal(value: object) -> str:
    """
    A text as a part of a RE2 expression that matches just this text.
    """
    text = str(value)
    _bound(len(text))
    escaped: str = re2.escape(text)
    return escaped


def replace(value: object, old: object, new: object) -> str:
    """
    A text with another one in it replaced, wherever it is. Jinja2's own would make
    gigabytes of two labels, or of a few dozen characters one after the other.
    """
    text, wanted, instead = str(value), str(old), str(new)
    more = text.count(wanted) * (len(instead) - len(wanted))
    if more > 0:
        _bound(len(text) + more)
    return text.replace(wanted, instead)


def _bound(length: int) -> None:
    if length > MAXLENGTH:
        raise BadTemplate(
            f"a part of it becomes {length} characters; allowed are {MAXLENGTH}"
        )


_OWN: dict[str, Callable[..., str]] = {
    "host": host,
    "port": port,
    "hostname": hostname,
    "short": short,
    "literal": literal,
    "replace": replace,
}
_BORROWED = ("default", "lower", "trim", "upper")

#: What the last filter of each value must be, in the keys where another one
#: could change what the rest means.
GUARDS: Mapping[str, tuple[str, ...]] = {
    "bpf": ("host", "port"),
    "nodere": ("literal",),
}


# The sandbox.

_ALLOWED: tuple[type[nodes.Node], ...] = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Const, nodes.Name),
    *(nodes.Getattr, nodes.Getitem, nodes.Filter, nodes.Test, nodes.CondExpr),
    *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Concat),
    *(nodes.List, nodes.Tuple, nodes.Keyword),
)


class _Environment(ImmutableSandboxedEnvironment):
    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return self.undefined(hint=f"the alert has no {show(attribute)}")

    def getitem(self, obj: Any, argument: Any) -> Any:
        return self.getattr(obj, str(argument))


def _text(value: object) -> object:
    # Undefined values are of a class of their own, and complain when printed.
    if isinstance(value, (Mapping, list, tuple, bool)) or value is None:
        raise BadTemplate(f"{show(value)} is no text")
    return value


@cache
def _environment() -> _Environment:
    environment = _Environment(
        undefined=StrictUndefined, finalize=_text, autoescape=False, cache_size=0
    )
    environment.filters = {**_OWN, **{name: FILTERS[name] for name in _BORROWED}}
    environment.tests = {"defined": environment.tests["defined"]}
    environment.globals = {}
    return environment


def _confine(tree: nodes.Template) -> None:
    """
    @raise BadTemplate: There is more in it than plain expressions.
    """
    for node in tree.find_all(nodes.Node):
        if not isinstance(node, _ALLOWED):
            what = type(node).__name__.lower()
            raise BadTemplate(f"a template of plain expressions (here is: {what})")


def _guarded(node: nodes.Node, guards: tuple[str, ...]) -> bool:
    """
    Whether what an expression becomes is of the template's author or has gone
    through a guard.
    """
    if isinstance(node, (nodes.TemplateData, nodes.Const)):
        return True
    if isinstance(node, nodes.Filter):
        return node.name in guards
    if isinstance(node, nodes.CondExpr):
        ways: Iterable[nodes.Node | None] = (node.expr1, node.expr2)
    elif isinstance(node, nodes.Concat):
        ways = node.nodes
    else:
        return False
    return all(way is None or _guarded(way, guards) for way in ways)


@attrs.frozen
class Template:
    """
    A text of a configuration, ready to be filled in.

    @ivar constant: Whether nothing in it varies.
    """

    constant: bool
    _render: Callable[..., str]

    def render(self, values: Mapping[str, Any]) -> str:
        """
        Fill it in.

        @raise BadTemplate: That is impossible with these values.
        """
        try:
            text = self._render(values)
        except BadTemplate:
            raise
        except Exception as error:
            # UndefinedError as a rule; but filters may raise anything.
            raise BadTemplate(str(error)) from None
        if len(text) > MAXLENGTH:
            raise BadTemplate(
                f"it becomes {len(text)} characters; allowed are {MAXLENGTH}"
            )
        return text


def compile(text: str, names: Iterable[str], guards: tuple[str, ...] = ()) -> Template:
    """
    Make a template, with all that can be wrong with it found now.

    @param names: What it may name.
    @param guards: Where given, the filters of which one must be the last for
        each value that is filled in.
    @raise BadTemplate: It is none.
    """
    if len(text) > MAXLENGTH:
        raise BadTemplate(f"at most {MAXLENGTH} characters")
    environment = _environment()
    try:
        tree = environment.parse(text)
        _confine(tree)
        compiled = environment.from_string(text)
    except TemplateError as error:
        raise BadTemplate(f"a template ({error.message})") from None
    except (RecursionError, SyntaxError):
        raise BadTemplate("a template that is nested less deeply") from None
    unknown = find_undeclared_variables(tree) - set(names)
    if unknown:
        known = ", ".join(names)
        raise BadTemplate(f"a template that names {known} (not {min(unknown)})")
    parts = [part for output in tree.find_all(nodes.Output) for part in output.nodes]
    if guards and not all(_guarded(part, guards) for part in parts):
        last = " or ".join(f"|{name}" for name in guards)
        raise BadTemplate(
            f"a template in which every value ends with {last}, so that no value "
            "can change what the rest means"
        )
    constant = all(isinstance(part, nodes.TemplateData) for part in parts)
    return Template(constant, compiled.render)
