# See LICENSE for details.
"""
Tests for the rules of L{pcapdaemon.config} that concern several keys of Kafka, SQS,
CloudShark and S3.
"""

from __future__ import annotations

from pcapdaemon.config.sections import OVERRIDES
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
