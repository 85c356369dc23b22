# See LICENSE for details.
"""
What is wrong with a configuration: where it is said, and the rules that concern
several keys.

No message shows the value of a secret, nor a value that stands where none
belongs: it may be a secret under a misspelled name.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from typing import Any

import attrs

from pcapdaemon.capture.budget import LEAST_RING
from pcapdaemon.config.rules import isURL
from pcapdaemon.config.sections import OPTIONS, SECTIONS, Settings
from pcapdaemon.sinks import _destination

_LISTENERS = [(section, "listen") for section in ("http", "redis", "kafka", "sqs")]
_SINKS = [("general", "writelocal"), ("cloudshark", "upload"), ("s3", "upload")]

#: What cannot be on without: section, switch, key.
_NEEDED = [
    ("kafka", "listen", "server"),
    ("kafka", "events", "server"),
    ("sqs", "listen", "url"),
    ("webhook", "secret", "url"),
    ("cloudshark", "upload", "token"),
    ("s3", "upload", "bucket"),
]

#: Where authorities may be named: section, switch.
_TRUSTING = [
    ("redis", "listen"),
    ("redis", "events"),
    ("kafka", "listen"),
    ("kafka", "events"),
    ("webhook", "url"),
    ("cloudshark", "upload"),
    ("s3", "upload"),
]

#: Keys that stand together or not at all.
_PAIRS = [
    ("kafka", "username", "password"),
    ("sqs", "accessid", "accesskey"),
    ("s3", "accessid", "accesskey"),
]


def show(value: Any) -> str:
    """
    Show a value on one line, as far as it helps.
    """
    shown = json.dumps(value, default=str, ensure_ascii=False)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _isLoopback(host: str) -> bool:
    """
    Say whether only this host reaches an address.
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@attrs.define
class Mistakes:
    """
    What is wrong with one configuration.

    @ivar source: Where it is from, for messages.
    @ivar overrides: What of it the command line says.
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
        shown = "".join(f" = {show(each)}" for each in value)
        self.mistakes.append(f"{where}{shown}: {said}")
        self.wrong.add((section, key))

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


def compare(found: Mistakes, settings: Settings) -> None:
    """
    Check the rules that concern several keys.
    """
    general, capture = settings.general, settings.capture
    http, redis = settings.http, settings.redis

    if general.defaulttimeout > general.maxtimeout:
        found.conflict(
            settings,
            [("general", "defaulttimeout"), ("general", "maxtimeout")],
            f"must not exceed maxtimeout, {general.maxtimeout}",
        )
    least = capture.maxcaptures * LEAST_RING
    if capture.totalbuffer < max(least, capture.buffersize):
        found.conflict(
            settings,
            [("capture", key) for key in ("totalbuffer", "maxcaptures", "buffersize")],
            f"must be at least maxcaptures * {LEAST_RING}, {least}, "
            f"and at least buffersize, {capture.buffersize}",
        )
    if http.listen and not _isLoopback(http.host) and not http.token:
        found.conflict(
            settings,
            [("http", "host"), ("http", "token")],
            "must be a loopback address, or token must be given",
        )
    if settings.triggers and not http.listen and ("http", "listen") not in found.wrong:
        found.mistake(
            "[[trigger]]",
            "name",
            "needs [http] listen = true",
            settings.triggers[0].name,
        )
    if redis.username and not redis.auth:
        found.conflict(
            settings,
            [("redis", "username"), ("redis", "auth")],
            "needs auth, the password",
        )
    if redis.cafile and not redis.tls:
        found.conflict(
            settings, [("redis", "cafile"), ("redis", "tls")], "needs tls = true"
        )
    _compareRemote(found, settings)
    _comparePublishers(found, settings)
    _tryOut(found, settings)
    on = {
        (section, key)
        for section, key in _LISTENERS + _SINKS
        if getattr(getattr(settings, section), key)
    }
    if not on & set(_LISTENERS) and not found.wrong & set(_LISTENERS):
        found.mistakes.append(
            f"{found.source}: no listener is on: "
            "[http], [redis], [kafka] or [sqs] listen must be true"
        )
    if not on & set(_SINKS) and not found.wrong & set(_SINKS):
        found.mistakes.append(
            f"{found.source}: no sink is on: [general] writelocal, "
            "[cloudshark] upload or [s3] upload must be true"
        )


def _compareRemote(found: Mistakes, settings: Settings) -> None:
    """
    The same for the other buses and sinks.
    """
    kafka, cloudshark = settings.kafka, settings.cloudshark
    for section, switch, needed in _NEEDED:
        values = getattr(settings, section)
        value = getattr(values, switch)
        if value and not getattr(values, needed):
            found.conflict(
                settings,
                [(section, needed), (section, switch)],
                f"must be given, as {switch} is {'true' if value is True else 'given'}",
            )
    for section, one, other in _PAIRS:
        values = getattr(settings, section)
        for given, missing in ((one, other), (other, one)):
            if getattr(values, given) and not getattr(values, missing):
                found.conflict(
                    settings,
                    [(section, given), (section, missing)],
                    f"needs {missing} too",
                )
    sasl = kafka.security.startswith("SASL_")
    if sasl and not (kafka.username or kafka.password):
        found.conflict(
            settings,
            [("kafka", key) for key in ("security", "username", "password")],
            "needs username and password",
        )
    if kafka.username and kafka.password and not sasl:
        found.conflict(
            settings,
            [("kafka", key) for key in ("username", "password", "security")],
            'needs security = "SASL_SSL" or "SASL_PLAINTEXT"',
        )
    if kafka.cafile and not kafka.security.endswith("SSL"):
        found.conflict(
            settings,
            [("kafka", "cafile"), ("kafka", "security")],
            'needs security = "SSL" or "SASL_SSL"',
        )
    if cloudshark.cafile and not (cloudshark.verify and cloudshark.scheme == "https"):
        found.conflict(
            settings,
            [("cloudshark", key) for key in ("cafile", "verify", "scheme")],
            'needs verify = true and scheme = "https"',
        )


def _comparePublishers(found: Mistakes, settings: Settings) -> None:
    """
    The same for where events go.
    """
    for section, requests in (("redis", "channel"), ("kafka", "topic"), ("sqs", "url")):
        values = getattr(settings, section)
        if values.events and values.events == getattr(values, requests):
            # An event has all that makes a request, so one would lead to others.
            found.conflict(
                settings,
                [(section, "events"), (section, requests)],
                f"must not be {requests}, where requests come",
            )
    webhook = settings.webhook
    if webhook.url and not isURL(webhook.url):
        found.mistake("webhook", "url", "must be an HTTP(S) URL with a host")
    if webhook.cafile and not webhook.url.startswith("https:"):
        found.conflict(
            settings,
            [("webhook", "cafile"), ("webhook", "url")],
            "needs a url with https",
        )


def _tryOut(found: Mistakes, settings: Settings) -> None:
    """
    Check what a part that is on would not start with.
    """
    sqs, s3 = settings.sqs, settings.s3
    if sqs.listen or sqs.events:
        endpoint = sqs.endpoint
        if endpoint and "://" not in endpoint:
            endpoint = f"https://{endpoint}"
        addresses = {"url": sqs.url, "events": sqs.events, "endpoint": endpoint}
        for key, value in addresses.items():
            if value and not isURL(value):
                said = "must be an HTTP(S) URL with a host"
                found.unusable("sqs", key, getattr(sqs, key), said)
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
                found.unusable("s3", key, value, f"must be {error}")
    for section, switch in _TRUSTING:
        values = getattr(settings, section)
        # Named once, also where two parts need it.
        known = (section, "cafile") not in found.wrong
        if getattr(values, switch) and values.cafile and known:
            try:
                with open(values.cafile, "rb") as file:
                    file.read(1)
            except OSError as error:
                said = f"cannot be read: {error.strerror}"
                found.mistake(section, "cafile", said, values.cafile)
