# See LICENSE for details.
"""
Tests for L{pcapdaemon.config}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import toml

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.config import (
    OPTIONS,
    SECTIONS,
    TABLES,
    ConfigError,
    GeneralSettings,
    HttpSettings,
    InterfaceSettings,
    RedisSettings,
    Settings,
    SyslogSettings,
    load,
    parse,
)

#: The least that is no mistake.
BASE = "[general]\nwritelocal = true\n[redis]\nlisten = true\n"


class Mistakes(SynchronousTestCase):
    """
    How tests ask for settings and for mistakes.
    """

    def settings(
        self, text: str, overrides: Mapping[tuple[str, str], Any] | None = None
    ) -> Settings:
        """
        Parse text.
        """
        return parse(text, "FILE", overrides or {})

    def mistakes(
        self, text: str, overrides: Mapping[tuple[str, str], Any] | None = None
    ) -> list[str]:
        """
        Parse text that is wrong.
        """
        error: ConfigError = self.assertRaises(
            ConfigError, self.settings, text, overrides
        )
        self.assertEqual(str(error), "\n".join(error.mistakes))
        return error.mistakes

    def assertValue(self, section: str, line: str, mistake: str | None) -> None:
        """
        Assert what is wrong with one line in one section.

        @param mistake: What follows the section; L{None} for nothing.
        """
        tables = toml.loads(BASE)
        tables.setdefault(section, {}).update(toml.loads(line))
        text = toml.dumps(tables)
        if mistake is None:
            self.settings(text)
        else:
            self.assertEqual(self.mistakes(text), [f"FILE: [{section}] {mistake}"])


class ValueTests(Mistakes):
    """
    Each key for itself.
    """

    def test_defaults(self) -> None:
        """
        A key that is left out has the default of its class.
        """
        self.assertEqual(
            self.settings(BASE),
            Settings(
                general=GeneralSettings(writelocal=True),
                redis=RedisSettings(listen=True),
            ),
        )

    def test_defaultsAreAllowed(self) -> None:
        """
        Every default follows the rule of its own key.
        """
        for section in SECTIONS.values():
            for field in attrs.fields(section):
                value = field.default
                value = list(value) if isinstance(value, tuple) else value
                accepted = field.metadata["rule"].accept(value)
                self.assertEqual(accepted, field.default, field.name)

    def test_bounds(self) -> None:
        """
        Every bound is allowed, and what is beyond it is not.
        """
        for section, key, allowed, refused, words in [
            ("general", "maxpackets", 1, 0, "an integer of at least 1"),
            ("general", "maxbytes", 2**63 - 1, 2**63, "an integer of at least 1"),
            ("general", "snaplength", 262144, 262145, "an integer from 1 to 262144"),
            ("general", "snaplength", 1, 0, "an integer from 1 to 262144"),
            ("general", "maxmessage", 1024, 1023, "an integer of at least 1024"),
            ("general", "maxtimeout", 10.5, 0, "a number of seconds above 0"),
            ("general", "maxduration", 0.1, -1, "a number of seconds above 0"),
            ("capture", "cooldown", 0, -0.5, "a number of seconds, 0 or more"),
            ("capture", "keep", 0, -1, "an integer of at least 0"),
            (
                "capture",
                "buffersize",
                524288,
                1073741825,
                "an integer from 524288 to 1073741824",
            ),
            ("http", "port", 0, 65536, "an integer from 0 to 65535"),
            ("redis", "port", 65535, 0, "an integer from 1 to 65535"),
            ("sqs", "waitseconds", 0, 21, "an integer from 0 to 20"),
            ("sqs", "chunksize", 10, 11, "an integer from 1 to 10"),
            ("syslog", "priority", 191, 192, "an integer from 0 to 191"),
            ("spool", "maxsize", 1, 0, "an integer of at least 1"),
            ("spool", "maxage", 0.5, 0, "a number of seconds above 0"),
        ]:
            self.assertValue(section, f"{key} = {allowed}", None)
            mistake = f"{key} = {refused}: must be {words}"
            self.assertValue(section, f"{key} = {refused}", mistake)

    def test_types(self) -> None:
        """
        A value of another type is a mistake, also where Python would take it.
        """
        for section, line, mistake in [
            ("general", "maxpackets = true", "an integer of at least 1"),
            ("general", "maxpackets = 5.0", "an integer of at least 1"),
            ("general", 'maxpackets = "5"', "an integer of at least 1"),
            ("general", "maxtimeout = true", "a number of seconds above 0"),
            ("general", "panic = 1", "true or false"),
            ("general", "localdir = 5", "text that is not empty"),
            ("general", 'localdir = ""', "text that is not empty"),
            ("redis", 'host = "two words"', "a host name or address"),
            ("cloudshark", 'scheme = "ftp"', '"http" or "https"'),
            ("cloudshark", "verify = 0", "true or false"),
            (
                "kafka",
                'security = "TLS"',
                '"PLAINTEXT", "SSL", "SASL_PLAINTEXT" or "SASL_SSL"',
            ),
            (
                "kafka",
                'mechanism = "GSSAPI"',
                '"PLAIN", "SCRAM-SHA-256" or "SCRAM-SHA-512"',
            ),
            (
                "s3",
                'allow = ["folder", "key"]',
                "an array of folder, bucket, acl, region, endpoint, encryption",
            ),
            ("s3", 'endpoints = [""]', "an array of texts that are not empty"),
            ("kafka", 'server = ["broker"]', 'an array of "host:port"'),
            ("kafka", 'server = ["broker:0"]', 'an array of "host:port"'),
            ("kafka", "server = [1]", 'an array of "host:port"'),
        ]:
            self.assertValue(section, line, f"{line}: must be {mistake}")

    def test_notFinite(self) -> None:
        """
        Seconds are neither infinite nor beyond all floating point numbers.
        """
        for value in ("inf", "nan", "9" * 400):
            (mistake,) = self.mistakes(BASE + f"[capture]\ngrace = {value}\n")
            self.assertIn("must be a number of seconds, 0 or more", mistake)

    def test_long(self) -> None:
        """
        A long value is shown in part, and on one line.
        """
        (mistake,) = self.mistakes(f"{BASE}host = '''a\n{'b' * 5000}'''\n")
        self.assertIn('host = "a\\nbbb', mistake)
        self.assertLess(len(mistake), 150)

    def test_servers(self) -> None:
        """
        Brokers come as an array or as one text, IPv6 addresses in brackets.
        """
        text = BASE + '[kafka]\nserver = "[::1]:9092"\n'
        self.assertEqual(self.settings(text).kafka.server, ("[::1]:9092",))

    def test_interfaces(self) -> None:
        """
        Aliases come as an array, as one text, or not at all.
        """
        text = BASE + (
            '[[interface]]\nname = "a"\nalias = ["x", "y"]\n'
            '[[interface]]\nname = "b"\nalias = "x"\n'
            '[[interface]]\nname = "c"\n'
        )
        self.assertEqual(
            self.settings(text).interfaces,
            (
                InterfaceSettings("a", ("x", "y")),
                InterfaceSettings("b", ("x",)),
                InterfaceSettings("c"),
            ),
        )

    def test_wrongInterfaces(self) -> None:
        """
        An interface needs a name of its own, known keys and aliases of text.
        """
        text = BASE + (
            '[[interface]]\nalias = "x"\n'
            '[[interface]]\nname = "b"\nalias = [""]\n'
            '[[interface]]\nname = "b"\nalia = ["x"]\n'
            "[[interface]]\nname = 1\n[[interface]]\nname = 1\n"
        )
        here = "FILE: [[interface]] number"
        self.assertEqual(
            self.mistakes(text),
            [
                f"{here} 1: name: must be given",
                f'{here} 2: alias = [""]: must be an array of texts that are not empty',
                f'{here} 3: "alia": unknown key; did you mean alias?',
                f'{here} 3: name = "b": stands in another [[interface]]',
                f"{here} 4: name = 1: must be text that is not empty",
                f"{here} 5: name = 1: must be text that is not empty",
            ],
        )
        self.assertEqual(
            self.mistakes(BASE + '[interface]\nname = "a"\n'),
            ["FILE: interface: must be written [[interface]]"],
        )

    def test_syslog(self) -> None:
        """
        An empty section switches the system log on, with its defaults.
        """
        self.assertIsNone(self.settings(BASE).syslog)
        self.assertEqual(self.settings(BASE + "[syslog]\n").syslog, SyslogSettings())

    def test_unknown(self) -> None:
        """
        Unknown names are mistakes, with the nearest known one.
        """
        self.assertEqual(
            self.mistakes(
                f'prot = 1\n{BASE}prot = 1\n[htpp]\nlisten = "x"\n[syslog]\nzzz = 1\n'
            ),
            [
                'FILE: "prot": unknown key; known are '
                + ", ".join([*SECTIONS, *TABLES]),
                'FILE: [redis] "prot": unknown key; did you mean port?',
                'FILE: "htpp": unknown section; did you mean http?',
                'FILE: [syslog] "zzz": unknown key; known are priority, tag',
            ],
        )

    def test_noSection(self) -> None:
        """
        A section's name is for one section, and nothing follows from its loss.
        """
        self.assertEqual(
            self.mistakes('redis = "here"\n[general]\nwritelocal = true\n'),
            ["FILE: redis: must be one section, [redis]"],
        )
        self.assertEqual(
            self.mistakes("[[general]]\n[redis]\nlisten = true\n"),
            ["FILE: general: must be one section, [general]"],
        )


class RuleTests(Mistakes):
    """
    The rules that concern several keys.
    """

    def test_timeouts(self) -> None:
        """
        The default timeout is one that a request may ask for.
        """
        self.assertValue("general", "maxtimeout = 10", None)
        self.assertValue(
            "general",
            "maxtimeout = 9",
            "defaulttimeout = 10: must not exceed maxtimeout, 9",
        )

    def test_totalbuffer(self) -> None:
        """
        The ring budget is enough for all captures at their least, and for one
        at its most.
        """
        words = "must be at least maxcaptures * 524288, {}, and at least buffersize, {}"
        self.assertValue("capture", "maxcaptures = 2048", None)
        self.assertValue(
            "capture",
            "maxcaptures = 2049",
            f"totalbuffer = 1073741824: {words.format(1074266112, 33554432)}",
        )
        self.assertValue("capture", "buffersize = 1073741824", None)
        self.assertValue(
            "capture",
            "totalbuffer = 600000000\nbuffersize = 600000001",
            f"totalbuffer = 600000000: {words.format(524288000, 600000001)}",
        )

    def test_wider(self) -> None:
        """
        HTTP listens on other than loopback only with a token.
        """
        for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
            self.assertValue("http", f'listen = true\nhost = "{host}"', None)
        token = 'token = "0123456789abcdef"'
        for host in ("0.0.0.0", "::", "192.0.2.1", "example.com", "127.0.0.1.nip.io"):
            line = f'listen = true\nhost = "{host}"'
            self.assertValue("http", f"{line}\n{token}", None)
            self.assertValue(
                "http",
                line,
                f'host = "{host}": must be a loopback address, or token must be given',
            )
        self.assertValue("http", 'host = "0.0.0.0"', None)

    def test_token(self) -> None:
        """
        A token is long enough and fits into a header.
        """
        for token in ("0123456789abcde", "0123456789 abcdef", "0123456789abcdeé"):
            self.assertValue(
                "http",
                f'token = "{token}"',
                "token: must be at least 16 printable ASCII characters, no spaces",
            )

    def test_redis(self) -> None:
        """
        A user needs a password, and authorities need TLS.
        """
        self.assertValue("redis", 'username = "u"\nauth = "p"', None)
        self.assertValue("redis", f'cafile = "{__file__}"\ntls = true', None)
        self.assertValue(
            "redis", 'username = "u"', 'username = "u": needs auth, the password'
        )
        self.assertValue("redis", 'cafile = "f"', 'cafile = "f": needs tls = true')

    def test_nothingOn(self) -> None:
        """
        There are at least one listener and one sink.
        """
        self.assertEqual(
            self.mistakes(""),
            [
                "FILE: no listener is on: "
                "[http], [redis], [kafka] or [sqs] listen must be true",
                "FILE: no sink is on: [general] writelocal, "
                "[cloudshark] upload or [s3] upload must be true",
            ],
        )

    def test_nothingFollows(self) -> None:
        """
        What is not known because of one mistake is not another one.
        """
        self.assertEqual(
            self.mistakes(
                "[general]\nwritelocal = 1\nmaxtimeout = 0\ndefaulttimeout = 5000\n"
                '[http]\nlisten = true\nhost = "::"\ntoken = "short"\n'
                "[capture]\nbuffersize = 1\ntotalbuffer = 2\n"
            ),
            [
                "FILE: [general] writelocal = 1: must be true or false",
                "FILE: [general] maxtimeout = 0: must be a number of seconds above 0",
                "FILE: [http] token: must be at least 16 printable ASCII characters, "
                "no spaces",
                "FILE: [capture] buffersize = 1: must be an integer from 524288 to "
                "1073741824",
            ],
        )


class OverrideTests(Mistakes):
    """
    The command line over the file.
    """

    def test_every(self) -> None:
        """
        Every option is for a known key, and text from the command line becomes
        a value of that key's type.
        """
        given = {
            "cshost": ("h", "h"),
            "csscheme": ("http", "http"),
            "cstoken": ("t", "t"),
            "csport": ("80", 80),
            "cstimeout": ("2.5", 2.5),
            "redischannel": ("5", "5"),
            "redisnode": ("r", "r"),
            "redisport": ("7", 7),
            "upload": (False, False),
            "writelocal": (True, True),
            "destdir": ("d", "d"),
            "maxpackets": ("9", 9),
            "panic": (True, True),
        }
        self.assertEqual(set(given), set(OPTIONS))
        settings = self.settings(
            BASE, {OPTIONS[name]: text for name, (text, _) in given.items()}
        )
        for name, (_, value) in given.items():
            section, key = OPTIONS[name]
            self.assertEqual(getattr(getattr(settings, section), key), value, name)

    def test_mistake(self) -> None:
        """
        A mistake of the command line names the option, and no secret.
        """
        self.assertEqual(
            self.mistakes(
                BASE,
                {
                    OPTIONS["redisport"]: "abc",
                    OPTIONS["maxpackets"]: "0",
                    OPTIONS["upload"]: True,
                    OPTIONS["cstoken"]: "sec\0ret",
                    ("http", "port"): -1,
                },
            ),
            [
                "command line: --maxpackets ([general] maxpackets) = 0: "
                "must be an integer of at least 1",
                'command line: --redisport ([redis] port) = "abc": '
                "must be an integer from 1 to 65535",
                "command line: --cstoken ([cloudshark] token): "
                "must be one line of text",
                "command line: [http] port = -1: must be an integer from 0 to 65535",
            ],
        )

    def test_redis(self) -> None:
        """
        An option of Redis switches it on, unless the file says otherwise.
        """
        node = {OPTIONS["redisnode"]: "elsewhere"}
        http = "[general]\nwritelocal = true\n[http]\nlisten = true\n"
        self.assertTrue(self.settings(http, node).redis.listen)
        self.assertTrue(self.settings(http + "[redis]\n", node).redis.listen)
        off = self.settings(http + "[redis]\nlisten = false\n", node).redis
        self.assertEqual(off, RedisSettings(host="elsewhere"))
        self.assertFalse(self.settings(http, {OPTIONS["panic"]: True}).redis.listen)

    def test_withoutFile(self) -> None:
        """
        Without a file there are HTTP on loopback and a directory, which options
        can change.
        """
        general = GeneralSettings(writelocal=True, localdir="./captures")
        http = HttpSettings(listen=True)
        self.assertEqual(load(None, {}), Settings(general=general, http=http))
        changed = load(None, {OPTIONS["destdir"]: "d", OPTIONS["redisport"]: "1"})
        self.assertEqual(
            changed,
            Settings(
                general=attrs.evolve(general, localdir="d"),
                http=http,
                redis=RedisSettings(listen=True, port=1),
            ),
        )
        # The one did not change the other.
        self.assertEqual(load(None, {}).general, general)
