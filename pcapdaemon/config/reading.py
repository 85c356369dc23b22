# See LICENSE for details.
"""
From a file and options to L{Settings}, with every mistake named at once.

No message shows the value of a secret, nor a value that stands where none
belongs: it may be a secret under a misspelled name.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from pcapdaemon.capture.budget import LEAST_RING
from pcapdaemon.config.document import ConfigError
from pcapdaemon.config.document import tables as parseTables
from pcapdaemon.config.rules import Rule, isURL
from pcapdaemon.config.sections import (
    OPTIONS,
    SECTIONS,
    InterfaceSettings,
    Settings,
)
from pcapdaemon.sinks import _destination

#: What holds where no file is named.
_WITHOUT_FILE: dict[str, Any] = {
    "general": {"writelocal": True, "localdir": "./captures"},
    "http": {"listen": True},
}

_LISTENERS = [(section, "listen") for section in ("http", "redis", "kafka", "sqs")]
_SINKS = [("general", "writelocal"), ("cloudshark", "upload"), ("s3", "upload")]

#: What cannot be on without: section, switch, key.
_NEEDED = [
    ("kafka", "listen", "server"),
    ("sqs", "listen", "url"),
    ("cloudshark", "upload", "token"),
    ("s3", "upload", "bucket"),
]

#: Where authorities may be named: section, switch.
_TRUSTING = [
    ("redis", "listen"),
    ("kafka", "listen"),
    ("cloudshark", "upload"),
    ("s3", "upload"),
]

#: Keys that stand together or not at all.
_PAIRS = [
    ("kafka", "username", "password"),
    ("sqs", "accessid", "accesskey"),
    ("s3", "accessid", "accesskey"),
]


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
    reader.compare(settings)
    if reader.mistakes:
        raise ConfigError(reader.mistakes)
    return settings


def _show(value: Any) -> str:
    """
    Show a value on one line, as far as it helps.
    """
    shown = json.dumps(value, default=str, ensure_ascii=False)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _suggest(name: str, known: Iterable[str]) -> str:
    """
    Say what may have been meant.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"


def _isLoopback(host: str) -> bool:
    """
    Say whether only this host reaches an address.
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@attrs.define
class _Reader:
    """
    One reading of one configuration.

    @ivar wrong: The keys whose values are not known, since there is a mistake.
    """

    source: str
    overrides: Mapping[tuple[str, str], Any]
    mistakes: list[str] = attrs.Factory(list)
    wrong: set[tuple[str, str]] = attrs.Factory(set)

    def mistake(self, section: str, key: str, said: str, *value: Any) -> None:
        """
        Take note of a wrong value.

        @param section: A section's name, or its heading with its brackets.
        @param value: The value, unless it is secret.
        """
        heading = section if section.startswith("[") else f"[{section}]"
        where = f"{self.source}: {heading} {key}"
        if (section, key) in self.overrides:
            names = [name for name, at in OPTIONS.items() if at == (section, key)]
            option = f"--{names[0]} ({heading} {key})" if names else f"{heading} {key}"
            where = f"command line: {option}"
        shown = "".join(f" = {_show(each)}" for each in value)
        self.mistakes.append(f"{where}{shown}: {said}")
        self.wrong.add((section, key))

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
            if name == "interface":
                values["interfaces"] = self.interfaces(table)
            elif name not in SECTIONS:
                what = "section" if isinstance(table, (dict, list)) else "key"
                said = _suggest(name, [*SECTIONS, "interface"])
                self.mistakes.append(
                    f"{self.source}: {_show(name)}: unknown {what}; {said}"
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
                    section, _show(key), f"unknown key; {_suggest(key, fields)}"
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

    def interfaces(self, tables: Any) -> tuple[InterfaceSettings, ...]:
        """
        Read every C{[[interface]]}.
        """
        if not isinstance(tables, list) or not all(
            isinstance(table, dict) for table in tables
        ):
            self.mistakes.append(
                f"{self.source}: interface: must be written [[interface]]"
            )
            return ()
        interfaces: list[InterfaceSettings] = []
        for number, table in enumerate(tables, 1):
            heading = f"[[interface]] number {number}:"
            interface = self.section(InterfaceSettings, heading, table)
            if "name" not in table:
                self.mistake(heading, "name", "must be given")
            elif interface.name and interface.name in [
                other.name for other in interfaces
            ]:
                self.mistake(
                    heading, "name", "stands in another [[interface]]", interface.name
                )
            interfaces.append(interface)
        return tuple(interfaces)

    def compare(self, settings: Settings) -> None:
        """
        Check the rules that concern several keys.
        """
        general, capture = settings.general, settings.capture
        http, redis = settings.http, settings.redis

        if general.defaulttimeout > general.maxtimeout:
            self.conflict(
                settings,
                [("general", "defaulttimeout"), ("general", "maxtimeout")],
                f"must not exceed maxtimeout, {general.maxtimeout}",
            )
        least = capture.maxcaptures * LEAST_RING
        if capture.totalbuffer < max(least, capture.buffersize):
            self.conflict(
                settings,
                [
                    ("capture", key)
                    for key in ("totalbuffer", "maxcaptures", "buffersize")
                ],
                f"must be at least maxcaptures * {LEAST_RING}, {least}, "
                f"and at least buffersize, {capture.buffersize}",
            )
        if http.listen and not _isLoopback(http.host) and not http.token:
            self.conflict(
                settings,
                [("http", "host"), ("http", "token")],
                "must be a loopback address, or token must be given",
            )
        if redis.username and not redis.auth:
            self.conflict(
                settings,
                [("redis", "username"), ("redis", "auth")],
                "needs auth, the password",
            )
        if redis.cafile and not redis.tls:
            self.conflict(
                settings, [("redis", "cafile"), ("redis", "tls")], "needs tls = true"
            )
        self.compareRemote(settings)
        self.tryOut(settings)
        on = {
            (section, key)
            for section, key in _LISTENERS + _SINKS
            if getattr(getattr(settings, section), key)
        }
        if not on & set(_LISTENERS) and not self.wrong & set(_LISTENERS):
            self.mistakes.append(
                f"{self.source}: no listener is on: "
                "[http], [redis], [kafka] or [sqs] listen must be true"
            )
        if not on & set(_SINKS) and not self.wrong & set(_SINKS):
            self.mistakes.append(
                f"{self.source}: no sink is on: [general] writelocal, "
                "[cloudshark] upload or [s3] upload must be true"
            )

    def compareRemote(self, settings: Settings) -> None:
        """
        The same for the other buses and sinks.
        """
        kafka, cloudshark = settings.kafka, settings.cloudshark
        for section, switch, needed in _NEEDED:
            values = getattr(settings, section)
            if getattr(values, switch) and not getattr(values, needed):
                self.conflict(
                    settings,
                    [(section, needed), (section, switch)],
                    f"must be given, as {switch} is true",
                )
        for section, one, other in _PAIRS:
            values = getattr(settings, section)
            for given, missing in ((one, other), (other, one)):
                if getattr(values, given) and not getattr(values, missing):
                    self.conflict(
                        settings,
                        [(section, given), (section, missing)],
                        f"needs {missing} too",
                    )
        sasl = kafka.security.startswith("SASL_")
        if sasl and not (kafka.username or kafka.password):
            self.conflict(
                settings,
                [("kafka", key) for key in ("security", "username", "password")],
                "needs username and password",
            )
        if kafka.username and kafka.password and not sasl:
            self.conflict(
                settings,
                [("kafka", key) for key in ("username", "password", "security")],
                'needs security = "SASL_SSL" or "SASL_PLAINTEXT"',
            )
        if kafka.cafile and not kafka.security.endswith("SSL"):
            self.conflict(
                settings,
                [("kafka", "cafile"), ("kafka", "security")],
                'needs security = "SSL" or "SASL_SSL"',
            )
        if cloudshark.cafile and not (
            cloudshark.verify and cloudshark.scheme == "https"
        ):
            self.conflict(
                settings,
                [("cloudshark", key) for key in ("cafile", "verify", "scheme")],
                'needs verify = true and scheme = "https"',
            )

    def tryOut(self, settings: Settings) -> None:
        """
        Check what a part that is on would not start with.
        """
        sqs, s3 = settings.sqs, settings.s3
        if sqs.listen:
            endpoint = sqs.endpoint
            if endpoint and "://" not in endpoint:
                endpoint = f"https://{endpoint}"
            for key, value in (("url", sqs.url), ("endpoint", endpoint)):
                if value and not isURL(value):
                    said = "must be an HTTP(S) URL with a host"
                    self.unusable("sqs", key, getattr(sqs, key), said)
        if s3.upload:
            given = [
                (key, key, getattr(s3, key))
                for key in ("bucket", "folder", "region", "endpoint", "acl")
            ]
            given += [("endpoints", "endpoint", each) for each in s3.endpoints]
            for key, rule, value in given:
                try:
                    if value:
                        _destination.RULES[rule](value)
                except ValueError as error:
                    self.unusable("s3", key, value, f"must be {error}")
        for section, switch in _TRUSTING:
            values = getattr(settings, section)
            known = (section, "cafile") not in self.wrong
            if getattr(values, switch) and values.cafile and known:
                try:
                    with open(values.cafile, "rb") as file:
                        file.read(1)
                except OSError as error:
                    said = f"cannot be read: {error.strerror}"
                    self.mistake(section, "cafile", said, values.cafile)

    def unusable(self, section: str, key: str, value: str, said: str) -> None:
        """
        Take note of an address or the like that is none. With an C{@} it is not
        shown: a password may stand before it.
        """
        self.mistake(section, key, said, *([] if "@" in value else [value]))

    def conflict(
        self, settings: Settings, keys: list[tuple[str, str]], said: str
    ) -> None:
        """
        Take note of values that do not go together, if they are known at all.

        @param keys: Section and key of each, the one to blame first.
        """
        if not self.wrong & set(keys):
            section, key = keys[0]
            secret = not getattr(attrs.fields(SECTIONS[section]), key).repr
            value = getattr(getattr(settings, section), key)
            self.mistake(section, key, said, *([] if secret else [value]))
