# See LICENSE for details.
"""
Tests for the rules of L{pcapdaemon.config} that concern several keys of Kafka, SQS,
CloudShark and S3.
"""

from __future__ import annotations

from pcapdaemon.config.sinks import OVERRIDES
from pcapdaemon.sinks import _destination
from pcapdaemon.test.test_config import BASE, Mistakes


class RemoteTests(Mistakes):
    """
    What goes together, and what does not.
    """

    def test_needed(self) -> None:
        """
        What is on has what it cannot be on without.
        """
        for section, switch, key, value, shown in [
            ("kafka", "listen", "server", "[]", "server = []"),
            ("sqs", "listen", "url", '""', 'url = ""'),
            ("cloudshark", "upload", "token", '""', "token"),
            ("s3", "upload", "bucket", '""', 'bucket = ""'),
        ]:
            line = f"{key} = {value}\n{switch} = "
            self.assertValue(section, line + "false", None)
            text = f"{BASE}[{section}]\n{line}true\n"
            said = f"FILE: [{section}] {shown}: must be given, as {switch} is true"
            self.assertEqual(self.mistakes(text)[0], said)

    def test_events(self) -> None:
        """
        Events go somewhere, and not to where requests come from.
        """
        server = 'server = ["localhost:9092"]'
        url = "https://sqs.eu-central-1.amazonaws.com/1/a"
        for section, lines, mistake in [
            ("redis", 'events = "e"', None),
            (
                "redis",
                'events = "capture"',
                'events = "capture": must not be channel, where requests come',
            ),
            ("kafka", f'events = "e"\n{server}', None),
            (
                "kafka",
                'events = "e"',
                "server = []: must be given, as events is given",
            ),
            (
                "kafka",
                f'events = "e"\ntopic = "e"\n{server}',
                'events = "e": must not be topic, where requests come',
            ),
            (
                "kafka",
                f'events = "e e"\n{server}',
                'events = "e e": must be at most 249 letters, digits, dots, dashes '
                "and underscores",
            ),
            ("sqs", f'events = "{url}"', None),
            ("sqs", 'events = "a"', 'events = "a": must be an HTTP(S) URL with a host'),
            (
                "sqs",
                f'events = "{url}"\nurl = "{url}"',
                f'events = "{url}": must not be url, where requests come',
            ),
        ]:
            self.assertValue(section, lines, mistake)

    def test_webhook(self) -> None:
        """
        What is wrong with an address is said, but not the address.
        """
        good = 'url = "https://hooks.example.net:8443/a?b=c"'
        self.assertValue("webhook", good, None)
        allowed = "must be an HTTP(S) URL in ASCII, without a user, or empty"
        for wrong in ("hooks", "ftp://a/", "http://u:p@a/", "http://a/ b", "http://ä/"):
            self.assertValue("webhook", f'url = "{wrong}"', f"url: {allowed}")
        for wrong in ("http://a:0/", "http://a:99999/", "http://:80/"):
            said = "url: must be an HTTP(S) URL with a host"
            self.assertValue("webhook", f'url = "{wrong}"', said)
        self.assertValue(
            "webhook",
            'secret = "0123456789abcdef"',
            "url: must be given, as secret is given",
        )
        self.assertValue(
            "webhook",
            'url = "http://a/"\ncafile = "/etc/hostname"',
            'cafile = "/etc/hostname": needs a url with https',
        )

    def test_pairs(self) -> None:
        """
        Of an access key both parts are there, or none; neither is shown.
        """
        for section in ("sqs", "s3"):
            self.assertValue(section, 'accessid = "a"\naccesskey = "b"', None)
            self.assertValue(section, 'accessid = "a"', "accessid: needs accesskey too")
            self.assertValue(
                section, 'accesskey = "b"', "accesskey: needs accessid too"
            )

    def test_kafka(self) -> None:
        """
        User and password go with SASL, authorities with TLS.
        """
        both = 'username = "u"\npassword = "p"'
        for security in ("SASL_PLAINTEXT", "SASL_SSL"):
            line = f'security = "{security}"'
            self.assertValue("kafka", f"{line}\n{both}", None)
            mistake = f"{line}: needs username and password"
            self.assertValue("kafka", line, mistake)
        self.assertValue(
            "kafka",
            both,
            'username = "u": needs security = "SASL_SSL" or "SASL_PLAINTEXT"',
        )
        self.assertValue(
            "kafka", 'username = "u"', 'username = "u": needs password too'
        )
        self.assertValue("kafka", 'password = "p"', "password: needs username too")
        self.assertValue("kafka", 'security = "SSL"\ncafile = "f"', None)
        self.assertValue(
            "kafka",
            'cafile = "f"',
            'cafile = "f": needs security = "SSL" or "SASL_SSL"',
        )

    def test_cloudshark(self) -> None:
        """
        Authorities need a server that is verified by them, and a proxy gets no
        password.
        """
        needs = 'cafile = "f": needs verify = true and scheme = "https"'
        self.assertValue("cloudshark", 'cafile = "f"', None)
        self.assertValue("cloudshark", "verify = false", None)
        self.assertValue("cloudshark", 'cafile = "f"\nverify = false', needs)
        self.assertValue("cloudshark", 'cafile = "f"\nscheme = "http"', needs)
        for proxy in ("http://p:3128", "http://[::1]:3128/", ""):
            self.assertValue("cloudshark", f'proxy = "{proxy}"', None)
        for proxy in ("http://u:p@p:3128", "https://p:1", "http://p", "p:3128"):
            self.assertValue(
                "cloudshark",
                f'proxy = "{proxy}"',
                'proxy: must be "http://HOST:PORT", without a user, or empty',
            )

    def test_s3(self) -> None:
        """
        Where S3 is on, all that its sink would not start with is named at once,
        without passwords.
        """
        wrong = [
            'bucket = "b!"',
            'folder = "a/../b"',
            'region = "eu west"',
            'endpoint = "ftp://s3.example"',
            'acl = "pubic"',
        ]
        more = 'endpoints = ["minio:9000", "minio:99999", "http://u:hunter2@minio"]'
        text = "\n".join([BASE, "[s3]", *wrong, more, "upload = "])
        self.settings(text + "false")
        mistakes = self.mistakes(text + "true")
        self.assertEqual(
            [mistake.partition(": must be ")[0] for mistake in mistakes],
            [f"FILE: [s3] {line}" for line in wrong]
            + ['FILE: [s3] endpoints = "minio:99999"', "FILE: [s3] endpoints"],
        )
        self.assertIn("one of private, public-read", mistakes[4])
        self.assertNotIn("hunter2", "".join(mistakes))
        right = [
            'bucket = "captures"',
            'folder = "/a/b/"',
            'region = "eu-west-1"',
            'endpoint = "http://127.0.0.1:9000"',
            'acl = "private"',
            'endpoints = ["minio:9000"]',
        ]
        self.assertValue("s3", "\n".join(["upload = true", *right]), None)
        self.assertValue("s3", 'upload = true\nbucket = "abc"', None)

    def test_sqs(self) -> None:
        """
        Where SQS is on, the queue is a URL, and the service can be one.
        """
        said = "must be an HTTP(S) URL with a host"
        queue = 'url = "https://sqs.eu-west-1.amazonaws.com/1/q"'
        for url in ("captures", "ftp://host/q", "https:///q", "http://host:x/q"):
            self.assertValue("sqs", f'url = "{url}"', None)
            line = f'url = "{url}"'
            self.assertValue("sqs", f"listen = true\n{line}", f"{line}: {said}")
        self.assertValue(
            "sqs", 'listen = true\nurl = "http://u:p@host:x/q"', f"url: {said}"
        )
        self.assertValue("sqs", f"listen = true\n{queue}", None)
        for endpoint in ("localhost:9324", "http://localhost:9324"):
            line = f'endpoint = "{endpoint}"'
            self.assertValue("sqs", f"listen = true\n{queue}\n{line}", None)
        line = 'endpoint = "localhost:0"'
        self.assertValue("sqs", f"listen = true\n{queue}\n{line}", f"{line}: {said}")

    def test_cafile(self) -> None:
        """
        Where a part is on, its authorities can be read.
        """
        for section, needed in [
            ("redis", "listen = true\ntls = true"),
            ("kafka", 'listen = true\nserver = "k:9093"\nsecurity = "SSL"'),
            ("cloudshark", 'upload = true\ntoken = "t"'),
            ("s3", 'upload = true\nbucket = "captures"'),
        ]:
            for path, why in [
                ("/nonexistent/ca.pem", "No such file or directory"),
                ("/", "Is a directory"),
            ]:
                line = f'cafile = "{path}"'
                said = f"{line}: cannot be read: {why}"
                self.assertValue(section, f"{needed}\n{line}", said)
                # That of the base must stay on.
                if section != "redis":
                    off = needed.replace("true", "false")
                    self.assertValue(section, f"{off}\n{line}", None)
            line = f'cafile = "{__file__}"'
            self.assertValue(section, f"{needed}\n{line}", None)

    def test_overrides(self) -> None:
        """
        What requests may override is what they can, and at first nothing that
        leads to another bucket or server.
        """
        self.assertEqual(sorted(OVERRIDES), sorted(_destination.OVERRIDES))
        self.assertEqual(self.settings(BASE).s3.allow, OVERRIDES)
        every = ", ".join(f'"{name}"' for name in OVERRIDES)
        self.assertValue("s3", f"allow = [{every}]", None)
        self.assertValue("s3", "allow = []", None)
