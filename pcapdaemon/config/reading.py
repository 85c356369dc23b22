# See LICENSE for details.
"""
From a file and options to L{Settings}, with every mistake named at once.

No message shows the value of a secret, nor a value that stands where none
belongs: it may be a secret under a misspelled name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from pcapdaemon.config.comparing import Mistakes, compare, show
from pcapdaemon.config.document import ConfigError
from pcapdaemon.config.document import tables as parseTables
from pcapdaemon.config.rules import Rule
from pcapdaemon.config.sections import (
    SECTIONS,
    TABLES,
    Settings,
)
from pcapdaemon.config.triggers import TriggerSettings
from pcapdaemon.config.triggers import make as makeTrigger

#: What holds where no file is named.
_WITHOUT_FILE: dict[str, Any] = {
    "general": {"writelocal": True, "localdir": "./captures"},
    "http": {"listen": True},
}


def load(path: str | None, overrides: Mapping[tuple[str, str], Any]) -> Settings:
    """
    Read a configuration file.

    @param path: Its name; L{None} for what holds without one.
    @param overrides: Values from the command line, by section and key: text
        for a key of any type, or a value of the right type.
    @raise ConfigError: It cannot be read, or something in it is wrong.
    """
    if path is None:
        return _settings(_WITHOUT_FILE, "without a file", overrides)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}, line {line}: not UTF-8"]) from None
    return parse(text, path, overrides)


def parse(text: str, source: str, overrides: Mapping[tuple[str, str], Any]) -> Settings:
    """
    Read a configuration from text.

    @param source: Where it is from, for messages.
    @param overrides: As for L{load}.
    @raise ConfigError: Something in it is wrong.
    """
    return _settings(parseTables(text, source), source, overrides)


def _settings(
    tables: Mapping[str, Any], source: str, overrides: Mapping[tuple[str, str], Any]
) -> Settings:
    """
    Check everything and make settings of it.
    """
    reader = _Reader(source, overrides)
    settings = reader.read(reader.merged(tables))
    compare(reader, settings)
    if reader.mistakes:
        raise ConfigError(reader.mistakes)
    return settings


def _suggest(name: str, known: Iterable[str]) -> str:
    """
    Say what may have been meant.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"


@attrs.define
class _Reader(Mistakes):
    """
    One reading of one configuration.
    """

    def merged(self, tables: Mapping[str, Any]) -> dict[str, Any]:
        """
        Put the command line over a file.
        """
        merged = {
            name: dict(table) if isinstance(table, dict) else table
            for name, table in tables.items()
        }
        for (section, key), value in self.overrides.items():
            table = merged.setdefault(section, {})
            if isinstance(table, dict):
                table[key] = value
                if section == "redis":
                    # Who says where Redis is wants it to be used.
                    table.setdefault("listen", True)
        return merged

    def read(self, tables: Mapping[str, Any]) -> Settings:
        """
        Read all sections, each key for itself.
        """
        values: dict[str, Any] = {}
        for name, table in tables.items():
            if name in TABLES:
                values[f"{name}s"] = self.several(TABLES[name], name, table)
            elif name not in SECTIONS:
                what = "section" if isinstance(table, (dict, list)) else "key"
                said = _suggest(name, [*SECTIONS, *TABLES])
                self.mistakes.append(
                    f"{self.source}: {show(name)}: unknown {what}; {said}"
                )
            elif not isinstance(table, dict):
                self.mistakes.append(
                    f"{self.source}: {name}: must be one section, [{name}]"
                )
                self.wrong |= {(name, key.name) for key in attrs.fields(SECTIONS[name])}
            else:
                values[name] = self.section(SECTIONS[name], name, table)
        return Settings(**values)

    def section(self, kind: type[Any], section: str, table: Mapping[str, Any]) -> Any:
        """
        Read one section.

        @param kind: The class of its settings.
        """
        fields = {
            field.metadata["toml"] or field.name: field for field in attrs.fields(kind)
        }
        values = {}
        for key, value in table.items():
            if key not in fields:
                self.mistake(
                    section, show(key), f"unknown key; {_suggest(key, fields)}"
                )
                continue
            field = fields[key]
            rule: Rule = field.metadata["rule"]
            try:
                if (section, key) in self.overrides and isinstance(value, str):
                    value = rule.fromText(value)
                values[field.name] = rule.accept(value)
            except (ValueError, OverflowError):
                shown = [value] if field.repr else []
                self.mistake(section, key, f"must be {rule.allowed}", *shown)
        return kind(**values)

    def several(self, kind: type[Any], name: str, tables: Any) -> tuple[Any, ...]:
        """
        Read every C{[[interface]]} or the like.

        @param kind: The class of its settings, which have a C{name} each.
        """
        if not isinstance(tables, list) or not all(
            isinstance(table, dict) for table in tables
        ):
            self.mistakes.append(f"{self.source}: {name}: must be written [[{name}]]")
            return ()
        found: list[Any] = []
        for number, table in enumerate(tables, 1):
            heading = f"[[{name}]] number {number}:"
            one = self.section(kind, heading, table)
            if "name" not in table:
                self.mistake(heading, "name", "must be given")
            elif one.name and one.name in [other.name for other in found]:
                self.mistake(heading, "name", f"stands in another [[{name}]]", one.name)
            if kind is TriggerSettings:
                self.tryTrigger(heading, one, table)
            found.append(one)
        return tuple(found)

    def tryTrigger(
        self, heading: str, trigger: TriggerSettings, table: Mapping[str, Any]
    ) -> None:
        """
        Make what a C{[[trigger]]} is about, to see whether that can be done.
        """
        if "request" not in table:
            self.mistake(heading, "request", "must be given, as [trigger.request]")
        if not trigger.request:
            return
        _, mistakes = makeTrigger(trigger)
        for mistake in mistakes:
            self.mistake(heading, mistake.key, mistake.said, *mistake.value)
