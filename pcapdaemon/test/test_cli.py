# See LICENSE for details.
"""
The command line, as far as it needs no bus.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon import __version__, request
from pcapdaemon.cli import address, compose
from pcapdaemon.cli.main import main
from pcapdaemon.cli.text import clean, size, span
from pcapdaemon.test.network import environment

SECRET = "pass word/of-tests"


class CommandTestCase(SynchronousTestCase):
    """
    Tests of commands in this process.
    """

    def run_(self, *words: str, input: str = "", **env: str) -> Result:
        """
        Run the command line; a traceback fails the test.
        """
        result = CliRunner().invoke(main, words, input=input, env=env)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def sent(self, *words: str, **env: str) -> dict[str, Any]:
        """
        The request that options come to.
        """
        result = self.run_("send", *words, "--dry-run", **env)
        self.assertEqual(result.exit_code, 0, result.output)
        fields: dict[str, Any] = json.loads(result.stdout)
        return fields

    def file(self, name: str, text: str) -> str:
        """
        Write a file.
        """
        path = Path(tempfile.mkdtemp(dir=self.mktemp_()), name)
        path.write_text(text)
        return str(path)

    def mktemp_(self) -> str:
        """
        A directory of the test's own.
        """
        directory = str(self.mktemp())
        os.makedirs(directory)
        return directory


class AddressTests(SynchronousTestCase):
    """
    Buses and servers as URLs.
    """

    def test_forms(self) -> None:
        """
        Each form is understood, with what it leaves out.
        """
        redis = address.parse("redis://127.0.0.1/capture")
        self.assertEqual(
            (redis.servers, redis.name), ((("127.0.0.1", 6379),), "capture")
        )
        kafka = address.parse("kafka://a:9092,[::1]:9093/topic")
        self.assertEqual(kafka.servers, (("a", 9092), ("::1", 9093)))
        queue = address.parse("sqs+https://sqs.eu-west-1.amazonaws.com/1/q")
        self.assertEqual(queue.name, "https://sqs.eu-west-1.amazonaws.com/1/q")
        http = address.parse("http://localhost/")
        self.assertEqual(
            (http.servers, http.label), ((("localhost", 8477),), "http://localhost")
        )
        for url in "rediss://h/c", "kafkas://h/c", "https://h", "sqs+https://h/1/q":
            self.assertTrue(address.parse(url).tls, url)

    def test_events(self) -> None:
        """
        Where events come from follows from where requests go.
        """
        places = {
            "redis://h:1/a/b": "redis://h:1/a/b.events",
            "kafka://h:1,i:2/t": "kafka://h:1,i:2/t-events",
            "http://h": "http://h",
        }
        for url, wanted in places.items():
            found = address.parse(url).events()
            assert found is not None
            self.assertEqual(found.label, wanted)
            self.assertEqual(found.kind, address.parse(url).kind)
        self.assertIsNone(address.parse("sqs+http://h/1/q").events())

    def test_user(self) -> None:
        """
        User and password are taken out, and not shown by anything.
        """
        url = "redis://user:pass%20word%2Fof-tests@h/c"
        found = address.parse(url)
        self.assertEqual((found.username, found.password), ("user", SECRET))
        self.assertEqual(address.parse("redis://:p@h/c").username, "")
        self.assertEqual(address.parse("redis://h/c%40d").name, "c@d")
        for shown in repr(found), found.label, repr(found.events()):
            self.assertNotIn("pass", shown.replace("password", ""))

    def test_wrong(self) -> None:
        """
        What is no address is refused, and the password that it may have is not
        in the words for it.
        """
        for url in (
            "",
            "redis",
            "redis://:pw-secret@/c",
            "redis://u:pw-secret@h",
            "redis://u@h/c",
            "redis://u:pw-secret@h:99999/c",
            "redis://u:pw-secret@h,i/c",
            "redis://:pw-secret/x@h/c",
            "redis://u:1/pw-secret@h/c",
            "redis://:pw-secret#x@h/c",
            "kafka://u:pw-secret?x@h/t",
            "kafka://u:pw-secret@h/t?mechanism=MINE",
            "kafka://h:x/t",
            "http://u:pw-secret@h",
            "http://h/captures",
            "sqs+https://u:pw-secret@h/1/q",
            "sqs+https://h/",
            "https://[h",
            "ftp://u:pw-secret@h/c",
            "redis://h/c\x1b[2J",
        ):
            error = self.assertRaises(ValueError, address.parse, url)
            self.assertNotIn("pw-secret", str(error))
            self.assertTrue(str(error).isprintable())


class SendTests(CommandTestCase):
    """
    Requests made of options.
    """

    def test_keys(self) -> None:
        """
        There is an option for every key of a request, and no other.
        """
        self.assertEqual(sorted(compose.KEYS), sorted(request._RULES))

    def test_all(self) -> None:
        """
        Every option becomes its key, of the right type.
        """
        text = """
            --nodere ^web -a public --alias main --direction in --snap 96 --packets 5
            --bytes 1000 --timeout 1.5 --duration 60 --tags a,b --customer c --alertid 7
            --request-id mine --packetdebug --logrequest --folder f --bucket b
            --acl private --region r --endpoint e --no-encryption
        """
        words = text.split()
        self.assertEqual(
            self.sent(*words, "-f", "port 53"),
            {
                "nodere": "^web",
                "alias": ["public", "main"],
                "bpf": "port 53",
                "direction": "in",
                "snap": 96,
                "packets": 5,
                "bytes": 1000,
                "timeout": 1.5,
                "duration": 60,
                "tags": "a,b",
                "customer": "c",
                "alertid": 7,
                "request_id": "mine",
                "packetdebug": True,
                "logrequest": True,
                "folder": "f",
                "bucket": "b",
                "acl": "private",
                "region": "r",
                "endpoint": "e",
                "encryption": False,
            },
        )

    def test_defaults(self) -> None:
        """
        A request is for any node where none is named, and has a name of its own.
        """
        first, second = self.sent("-i", "eth0"), self.sent("-i", "eth0")
        self.assertEqual((first["node"], first["interface"]), ("any", ["eth0"]))
        self.assertNotEqual(first.pop("request_id"), second.pop("request_id"))
        self.assertEqual(first, second)

    def test_file(self) -> None:
        """
        A request may come as JSON; options win over it, an opposite key included.
        """
        path = self.file(
            "r.json",
            '{"node": "a", "interface": ["x"], "packets": 9, "request_id": "r"}',
        )
        given = self.sent("--json-file", path, "--nodere", "b", "--packets", "2")
        self.assertEqual(
            given,
            {"nodere": "b", "interface": ["x"], "packets": 2, "request_id": "r"},
        )
        result = self.run_("send", "--json-file", "-", "--dry-run", input="[1]")
        self.assertEqual(result.exit_code, 2)
        self.assertIn("not a JSON object", result.stderr)

    def test_wrong(self) -> None:
        """
        A request that no daemon would take is not sent: status 2, and why.
        """
        to = ("--to", "redis://127.0.0.1:1/c")
        for words, why in (
            (["-i", "a", "--packets", "0"], "packets is 0"),
            (["-i", "a", "--timeout", "nan"], "timeout is nan"),
            ([], "interface, alias: neither is given"),
            (["-i", "a", "-a", "b"], "both are given"),
            (["-i", "a", "--nodere", "("], "nodere is '('"),
            (["-i", "a", "--direction", "up"], "direction is 'up'"),
            (["-i", "a", "-f", "tcp prot 80"], "bad-filter"),
            (
                ["-i", "a", "-f", "(ip[1]=1||ip[2]=1)&&!(ip[1]=2||ip[2]=2)"],
                "filter-too-complex",
            ),
            (["-i", "a", "--to", "nowhere"], "must be one of"),
        ):
            result = self.run_("send", *to, *words)
            self.assertEqual(result.exit_code, 2, words)
            self.assertIn(why, result.stderr.replace("\n", " "))
            self.assertEqual(result.stdout, "")
        self.assertEqual(self.run_("send", "-i", "a").exit_code, 2)

    def test_others(self) -> None:
        """
        Nor is what daemons take for another kind of message.
        """
        for more, why in (
            ({"cancel": "x"}, "without interface"),
            ({"event": "armed", "time": "t", "id": "i"}, "this is an event"),
            ({"odd": 1e400}, "Infinity is no JSON"),
        ):
            message = json.dumps({"interface": "a", **more})
            message = message.replace("Infinity", "1e400")
            result = self.run_("send", "--json-file", "-", "--dry-run", input=message)
            self.assertEqual((result.exit_code, result.stdout), (2, ""), more)
            self.assertIn(why, result.stderr.replace("\n", " "))

    def test_names(self) -> None:
        """
        A filter with host names, which nobody looks up here, is sent, and said to
        be refused by some; one that is not checked is not looked at.
        """
        result = self.run_("send", "-i", "a", "-f", "host web1.invalid", "--dry-run")
        self.assertIn("names web1.invalid", result.stderr)
        self.assertEqual(json.loads(result.stdout)["bpf"], "host web1.invalid")
        self.sent("-i", "a", "-f", "no filter", "--no-check")

    def test_queue(self) -> None:
        """
        Who follows a request by SQS must say where events come from.
        """
        result = self.run_(
            "send", "--to", "sqs+http://127.0.0.1:1/1/q", "-i", "a", "--follow"
        )
        self.assertEqual(result.exit_code, 2)
        self.assertIn("--events", result.stderr)

    def test_away(self) -> None:
        """
        A bus that cannot be reached is one line, without secrets, and status 1.
        """
        for url in (
            "redis://u:pw-secret@127.0.0.1:1/c",
            "http://127.0.0.1:1",
            "sqs+http://127.0.0.1:1/1/q",
        ):
            more = ["--events", "http://127.0.0.1:1"] if "sqs" in url else []
            for follow in [], ["--follow", *more]:
                result = self.run_(
                    *("send", "-i", "a", *follow),
                    PCAPDAEMON_TO=url,
                    PCAPDAEMON_TOKEN="pw-secret",
                    AWS_ACCESS_KEY_ID="id",
                    AWS_SECRET_ACCESS_KEY="pw-secret",
                )
                self.assertEqual(result.exit_code, 1, result.output)
                self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
                self.assertIn("127.0.0.1:1", result.stderr)
                self.assertNotIn("pw-secret", result.output)


class CheckTests(CommandTestCase):
    """
    C{check}.
    """

    def check(self, text: str, *options: str) -> dict[str, Any]:
        """
        Have a request looked at.
        """
        result = self.run_("check", "-", "--json", *options, input=text)
        told: dict[str, Any] = json.loads(result.stdout)
        self.assertEqual(result.exit_code, 0 if told["ok"] else 1)
        return told

    def test_configuration(self) -> None:
        """
        All mistakes of a configuration are named, and status 1; else what is on.
        """
        path = self.file(
            "a.toml", "[general]\nmaxpackets = 0\n[http]\nlisten = true\nporrt = 1\n"
        )
        result = self.run_("check", path)
        self.assertEqual(result.exit_code, 1)
        for word in "maxpackets", "porrt", "no sink is on":
            self.assertIn(word, result.stderr)
        path = self.file(
            "b.toml",
            "[general]\nwritelocal = true\n[http]\nlisten = true\n[[interface]]\n"
            'name = "eth0"\nalias = ["public"]\n',
        )
        result = self.run_("check", path, "--json")
        self.assertEqual(result.exit_code, 0)
        self.assertEqual(
            json.loads(result.stdout),
            {
                "file": path,
                "ok": True,
                "mistakes": [],
                "listeners": ["http"],
                "sinks": ["local"],
                "interfaces": {"eth0": ["public"]},
            },
        )
        self.assertIn("requests by  http", self.run_("check", path).stdout)

    def test_mistakes(self) -> None:
        """
        All mistakes of a request are named, not only the first one.
        """
        told = self.check(
            '{"node": "", "interface": [], "packets": 0, "duration": 99999, "bpf": 1}'
        )
        details = [mistake["detail"].split()[0] for mistake in told["mistakes"]]
        self.assertEqual(details, ["node", "interface", "packets", "duration", "bpf"])
        self.assertEqual(told["mistakes"][3]["reason"], "limit")
        self.assertFalse(self.check("{")["ok"])

    def test_explained(self) -> None:
        """
        A request is explained: what is asked for, and where a default holds, that
        of the configuration that is named.
        """
        path = self.file(
            "a.toml",
            "[general]\nwritelocal = true\nmaxpackets = 77\n[http]\nlisten = true\n",
        )
        text = '{"node": "any", "interface": "eth0", "bytes": 500, "colour": 1}'
        limits = self.check(text, "--config", path)["limits"]
        self.assertEqual(limits["packets"], {"value": 77, "default": True})
        self.assertEqual(limits["bytes"], {"value": 500, "default": False})
        said = self.run_("check", "-", "--config", path, input=text).stdout
        for words in "77 packets  (default of", "500 B\n", "colour":
            self.assertIn(words, said)

    def test_filter(self) -> None:
        """
        A filter's cost is told: instructions, time, names, or why it is refused.
        """

        def told(bpf: str) -> dict[str, Any]:
            fields = {"node": "any", "interface": ["a"], "bpf": bpf}
            return self.check(json.dumps(fields))

        good = told("tcp port 80")
        self.assertEqual(good["filter"]["instructions"], 20)
        self.assertGreater(good["filter"]["seconds"], 0)
        named = told("host web1.invalid and ip6 host web2")
        self.assertEqual(named["filter"]["names"], ["web1.invalid", "web2"])
        self.assertEqual(named["mistakes"][0]["reason"], "bad-filter")
        wrong = told("(ip[1]=1||ip[2]=1)&&!(ip[1]=2||ip[2]=2)")
        self.assertEqual(wrong["filter"]["reason"], "filter-too-complex")
        self.assertFalse(wrong["ok"])


class OtherTests(CommandTestCase):
    """
    The rest.
    """

    def test_interfaces(self) -> None:
        """
        The devices are shown with what the configuration calls them, and why one
        cannot be captured on.
        """
        path = self.file(
            "a.toml",
            "[general]\nwritelocal = true\n[http]\nlisten = true\n[[interface]]\n"
            'name = "lo"\nalias = ["local"]\n[[interface]]\nname = "gone"\n'
            'alias = ["bad"]\n',
        )
        found = json.loads(self.run_("interfaces", "--json", "--config", path).stdout)
        devices = {each["name"]: each for each in found["interfaces"]}
        self.assertEqual(devices["lo"]["aliases"], ["local"])
        self.assertFalse(devices["gone"]["capture"])
        shown = self.run_("interfaces", "--config", path).stdout
        for words in "EN10MB", "127.0.0.1", "'gone': no such device":
            self.assertIn(words, shown)
        self.assertNotIn("\x1b", shown)

    def test_help(self) -> None:
        """
        Every command explains itself, with examples.
        """
        for name in "send", "watch", "check", "interfaces":
            result = self.run_(name, "--help")
            self.assertEqual(result.exit_code, 0)
            self.assertIn("Examples:", result.output)
            self.assertIn(name, self.run_("--help").output)
        self.assertEqual(self.run_("nothing").exit_code, 2)

    def test_process(self) -> None:
        """
        As a module it says its version, imports nothing that is slow for that,
        and writes what a shell needs to complete it.
        """

        def said(*words: str, **env: str) -> str:
            done = subprocess.run(
                [sys.executable, *words],
                capture_output=True,
                text=True,
                check=True,
                env={**environment(), **env},
            )
            return done.stdout

        version = said("-m", "pcapdaemon", "--version")
        self.assertEqual(version, f"pcapdaemon {__version__}\n")
        look = (
            "import sys; from pcapdaemon.cli.main import main; "
            "main(['--help'], standalone_mode=False); "
            "print(sorted({'twisted', 'rich', 'kafka', 'boto3'} & sys.modules.keys()))"
        )
        self.assertTrue(said("-c", look).endswith("[]\n"))
        for shell in "bash", "zsh", "fish":
            script = said("-m", "pcapdaemon", _PCAPDAEMON_COMPLETE=f"{shell}_source")
            self.assertIn("_PCAPDAEMON_COMPLETE", script)

    def test_text(self) -> None:
        """
        Numbers are short, and foreign texts harmless.
        """
        self.assertEqual(
            [size(n) for n in (0, 999, 1000, 12_345, 100_000_000, 5e12)],
            ["0 B", "999 B", "1.0 kB", "12 kB", "100 MB", "5000 GB"],
        )
        self.assertEqual(
            [span(s) for s in (-1, 1.25, 59.6, 60, 61, 3600, 3725)],
            ["0.0 s", "1.2 s", "60 s", "1 min", "1 min 1 s", "1 h", "1 h 2 min"],
        )
        self.assertEqual(clean("a\x1b[31m\n\u202eb"), "a\\x1b[31m\\n\\u202eb")
        self.assertEqual(clean("x" * 500, 3), "xxx…")
