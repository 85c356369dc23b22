# See LICENSE for details.
"""
Tests for how L{pcapdaemon.config} reads files, the samples among them, and for
what it keeps to itself.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import attrs

from twisted.trial.unittest import SkipTest

import pcapdaemon
from pcapdaemon.config import (
    OPTIONS,
    SECTIONS,
    ConfigError,
    InterfaceSettings,
    TriggerSettings,
    load,
    parse,
)
from pcapdaemon.test.test_config import BASE, Mistakes

#: The sample of the document that this project comes from, to the letter.
ORIGINAL = """
[general]
maxpackets      = 50000
writelocal      = false
localdir        = "/tmp"
snaplength      = 500
defaulttimeout  = 10
maxtimeout      = 3600
maxduration     = 3600
maxbytes        = 100000000
packetdebug     = false
logrequests     = false

[cloudshark]
host        = "www.cloudshark.org"
scheme      = "https"
port        = 443
timeout     = 0
token       = "fffffffffffffffffff"
upload      = true

[redis]
listen\t\t= true
host        = "node.running.redis.net"
port        = 6379
channel     = "capture"
auth\t\t= "password"

[kafka]
listen      = true
server      = ["127.0.0.1:9092", "myhost.example.com:9092"]
topic       = "capture"

# consult /usr/include/sys/syslog.h for Priority which is a combination 
# of facility and severity
[syslog]
priority    = 25
tag         = "pcapdaemon"

[[interface]]
name        = "eth0"
alias       = ["main", "public"]

[[interface]]
name        = "lo"
alias       = ["local"]

[s3]
accessid\t= "xxxxxxxxxxxxxxxxxxxxxxxxx"
accesskey\t= "xxxxxxxxxxxxxxxxxxxxxxx"
endpoint\t= "s3.amazonaws.com"
bucket\t\t= "pcapdaemon"
folder\t\t= "pcaps"
upload\t\t= true
region\t\t= "us-east-1"
acl\t\t\t= "private"
encryption\t= false

[sqs]
listen\t\t= true
region\t\t= "us-east-1"
accessid\t= "xxxxxxxxxxxxxxxxxxxxxxxxx"
accesskey\t= "xxxxxxxxxxxxxxxxxxxxxxx"
url\t\t\t= "https://example.amazone.com/asdfasdf/myqueue"
waitseconds = 20
chunksize\t= 10
"""  # noqa: W291


def sample(name: str) -> str:
    """
    Read a file of C{etc}.
    """
    path = Path(pcapdaemon.__file__).parents[1] / "etc" / name
    if not path.exists():
        raise SkipTest("the samples are not part of an installation")
    return path.read_text()


class FileTests(Mistakes):
    """
    Files, and text that is not TOML.
    """

    def wrong(self, path: str) -> list[str]:
        """
        Load a file that is wrong.
        """
        error: ConfigError = self.assertRaises(ConfigError, load, path, {})
        return error.mistakes

    def test_good(self) -> None:
        """
        A file is read whatever its line ends, with a byte order mark or without.
        """
        path = self.mktemp()
        data = BASE.replace("\n", "\r\n").encode("utf-8-sig")
        Path(path).write_bytes(data + b'[syslog]\r\ntag = "\xc3\xa9"\r\n')
        settings = load(path, {OPTIONS["panic"]: True})
        self.assertTrue(settings.redis.listen)
        self.assertTrue(settings.general.panic)
        assert settings.syslog is not None
        self.assertEqual(settings.syslog.tag, "\u00e9")

    def test_named(self) -> None:
        """
        A mistake names the file.
        """
        path = self.mktemp()
        Path(path).write_text("[redis]\nlisten = true\n")
        self.assertEqual(
            self.wrong(path),
            [
                f"{path}: no sink is on: [general] writelocal, "
                "[cloudshark] upload or [s3] upload must be true"
            ],
        )

    def test_unreadable(self) -> None:
        """
        A file that cannot be read is named with the reason.
        """
        path = self.mktemp()
        self.assertEqual(
            self.wrong(path), [f"{path}: cannot be read: No such file or directory"]
        )
        os.mkdir(path)
        self.assertEqual(self.wrong(path), [f"{path}: cannot be read: Is a directory"])

    def test_notText(self) -> None:
        """
        A file that is not UTF-8 is named with the line.
        """
        path = self.mktemp()
        Path(path).write_bytes(b"[redis]\n# \xe9\n")
        self.assertEqual(self.wrong(path), [f"{path}, line 2: not UTF-8"])

    def test_syntax(self) -> None:
        """
        Text that is not TOML is a mistake with the line and what to mend.
        """
        for text, line, said in [
            ("host = here", 2, "this is no value; text needs quotes"),
            ("port = 1.", 2, "this is no value; text needs quotes"),
            ("host", 2, "a key needs = and a value"),
            ("port = 1\nhost =\n", 3, "a key needs = and a value"),
            ('host = "here', 2, "a quote is missing or too much"),
            ('host = "here\nport = 1', 2, "a quote is missing or too much"),
            ('host = "a" "b"', 2, "there is something behind the value"),
            ("port = 1\nport = 2", 3, "this key stands twice"),
            ("[x]\n[redis]", 3, "this section stands twice"),
            ('host = ["a", "b"', 2, "an array is not closed"),
            ('x = 1\nhost = [["a"], ["b"]', 3, "an array is not closed"),
            ("port = [1, 'a']", 2, "an array must hold values of one type"),
            # Those that the parser stumbles over.
            ("port = 1\n[[redis]]\nport = 1\n", 3, "not valid TOML"),
            ("port = 1\nhost = {a = 1", 3, "not valid TOML"),
            ("port = 1\r", 2, "not valid TOML"),
        ]:
            self.assertEqual(
                self.mistakes(f"[redis]\n{text}"), [f"FILE, line {line}: {said}"], text
            )


class SecretTests(Mistakes):
    """
    What nobody may read.
    """

    SECRETS = (
        ("http", "token"),
        ("redis", "auth"),
        ("kafka", "password"),
        ("cloudshark", "token"),
        ("cloudshark", "proxy"),
        ("s3", "accessid"),
        ("s3", "accesskey"),
        ("sqs", "accessid"),
        ("sqs", "accesskey"),
        ("webhook", "secret"),
        ("webhook", "url"),
    )

    def test_repr(self) -> None:
        """
        Settings do not show secrets, but everything else.
        """
        overrides = dict.fromkeys(self.SECRETS, "hush" * 4)
        overrides["cloudshark", "proxy"] = "http://hush:80"
        overrides["webhook", "url"] = "http://localhost/hush"
        overrides |= {("kafka", "username"): "u", ("kafka", "security"): "SASL_SSL"}
        settings = self.settings(BASE, overrides)
        for section, key in self.SECRETS:
            self.assertIn("hush", getattr(getattr(settings, section), key))
        self.assertNotIn("hush", repr(settings))
        self.assertIn("localdir='/tmp'", repr(settings))

    def test_mistakes(self) -> None:
        """
        No mistake shows a secret, whatever is wrong with it.
        """
        for section, key in self.SECRETS:
            for line in (
                f"{key} = ['hush']",
                f"{key} = '''hush\nhush'''",
                f"{key}n = 'hush'",
                f"{key} = hush",
                f"{key} = 'hush",
                f"{key} = 'hush' 'hush'",
                f"{key} = 'hush'\n{key} = 'hush'",
                f"{key} = 'hush'\n[{section}]",
                f'{key} = "hush\\hush"',
                f"{key} 'hush'",
                f"{key} = {{hush = 'hush'",
                f"{key} = 1979-hush",
            ):
                text = f"[{section}]\n{line}\n"
                error = self.assertRaises(ConfigError, parse, text, "FILE", {})
                self.assertNotIn("hush", str(error), line)
                # Nor does a traceback, which would show what led to it.
                self.assertIsNone(error.__context__, line)

    def test_section(self) -> None:
        """
        What stands in the place of a section is not shown either.
        """
        for name in ("redis", "redes"):
            mistakes = self.mistakes(f'{name} = "redis://:hush@host"\n')
            self.assertIn(name, mistakes[0])
            self.assertNotIn("hush", "".join(mistakes))


class SampleTests(Mistakes):
    """
    The sample files.
    """

    def test_minimal(self) -> None:
        """
        The minimal sample is Redis and a local directory.
        """
        self.assertEqual(self.settings(sample("minimal.toml")), self.settings(BASE))

    def test_switches(self) -> None:
        """
        The full sample switches on HTTP, Redis and the local directory only.
        """
        settings = self.settings(sample("pcapdaemon.toml"))
        self.assertTrue(settings.http.listen)
        self.assertTrue(settings.redis.listen)
        self.assertTrue(settings.general.writelocal)

    def test_complete(self) -> None:
        """
        The full sample has all keys and no other.
        """
        tables = tomllib.loads(sample("pcapdaemon.toml"))
        [trigger] = tables.pop("trigger")
        self.assertEqual(set(trigger), {f.name for f in attrs.fields(TriggerSettings)})
        aliases = tables.pop("interface")
        self.assertEqual([set(table) for table in aliases], [{"name", "alias"}] * 2)
        self.assertEqual(
            {name: set(table) for name, table in tables.items()},
            {
                name: {field.name for field in attrs.fields(section)}
                for name, section in SECTIONS.items()
            },
        )

    def test_says(self) -> None:
        """
        The full sample explains every key, and names the default of those, and
        only those, that it gives another value.
        """
        section, comment = "", ""
        for line in sample("pcapdaemon.toml").split("[[interface]]")[0].splitlines():
            name, equals, _ = line.partition(" = ")
            if line.startswith("["):
                section = line.strip("[]")
            elif line.startswith("#"):
                comment += line
            elif equals:
                self.assertTrue(comment or name == "accesskey", line)
                field = getattr(attrs.fields(SECTIONS[section]), name)
                value = field.metadata["rule"].accept(tomllib.loads(line)[name])
                said = "Default: " in comment
                self.assertEqual(value != field.default, said, f"[{section}] {line}")
                comment = ""

    def test_original(self) -> None:
        """
        The original's file means what it always meant.
        """
        settings = self.settings(ORIGINAL)
        expected = tomllib.loads(ORIGINAL)
        interfaces = expected.pop("interface")
        self.assertEqual(
            settings.interfaces,
            tuple(InterfaceSettings(i["name"], tuple(i["alias"])) for i in interfaces),
        )
        for section, table in expected.items():
            for key, value in table.items():
                value = tuple(value) if isinstance(value, list) else value
                found = getattr(getattr(settings, section), key)
                self.assertEqual(found, value, f"[{section}] {key}")
