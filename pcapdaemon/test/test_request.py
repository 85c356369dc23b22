# See LICENSE for details.
"""
Tests for L{pcapdaemon.request}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.interfaces import Reason, Refused
from pcapdaemon.request import CaptureRequest, concerns, decode, parse, show

#: Every key of the message format, with a good value.
COMPLETE: dict[str, Any] = {
    "node": "web1",
    "interface": ["bond1", "bond2"],
    "tags": "blah,tagme,stuff",
    "bpf": "dst host 10.0.0.1",
    "customer": "importantcustomer",
    "direction": "out",
    "snap": 1500,
    "packets": 50,
    "alertid": 655443,
    "timeout": 15,
    "duration": 60.5,
    "bytes": 1000,
    "packetdebug": True,
    "logrequest": True,
    "folder": "myfolder",
    "bucket": "mybucket",
    "acl": "public-read",
    "region": "us-east-1",
    "endpoint": "s3.amazonaws.com",
    "encryption": False,
}

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(), max_size=20)
)
_values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=8,
)
_keys = st.sampled_from([*COMPLETE, "nodere", "alias"]) | st.text(max_size=5)

#: What is neither a number, nor a switch, nor a string.
_CONTAINERS: tuple[object, ...] = ([], ["x"], {}, {"x": 1})

#: The same examples in every run.
_settings = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def request(**changes: Any) -> dict[str, Any]:
    """
    A small good request, changed; C{None} takes a key away.
    """
    fields = {"node": "any", "interface": "lo", **changes}
    return {key: value for key, value in fields.items() if value is not None}


class DecodeTests(SynchronousTestCase):
    """
    Tests for L{decode}.
    """

    def refused(self, message: bytes) -> str:
        """
        See that a message is malformed, said in one short printable line.

        @return: What was said.
        """
        e = self.assertRaises(Refused, decode, message)
        self.assertEqual(e.reason, Reason.MALFORMED)
        detail: str = e.detail
        self.assertTrue(detail.isprintable(), detail)
        self.assertLess(len(detail), 200)
        return detail

    def test_object(self) -> None:
        """
        An object comes back as it was sent, whatever space is around it.
        """
        message = b"\r\n " + json.dumps(COMPLETE).encode() + b"\n"
        self.assertEqual(decode(message), COMPLETE)

    def test_unicode(self) -> None:
        """
        Text beyond ASCII may come as UTF-8 or escaped.
        """
        self.assertEqual(decode('{"tags": "é\\u00e9"}'.encode()), {"tags": "éé"})

    def test_notUTF8(self) -> None:
        """
        Bytes that are not UTF-8 are malformed, and the place is named.
        """
        self.assertIn("byte 7", self.refused(b'{"node"\xff:1}'))
        self.refused('{"node":"a"}'.encode("utf-16"))
        self.refused(b'{"node":"\xed\xa0\x80"}')

    def test_byteOrderMark(self) -> None:
        """
        A byte order mark is not JSON.
        """
        self.refused(b"\xef\xbb\xbf{}")

    def test_notJSON(self) -> None:
        """
        What is not JSON is malformed, and the place is named.
        """
        self.assertIn("character 8", self.refused(b'{"node":}'))
        for message in (
            b"",
            b" ",
            b"\x00",
            b"{",
            b"{}{}",
            b"{'a': 1}",
            b'{"a": 01}',
            b'{"a": 1,}',
            b'{"a": "\n"}',
            b'{"a": "\\x"}',
            b'{"a": "' + b"x" * 10000,
            b"node=any",
        ):
            self.refused(message)

    def test_constants(self) -> None:
        """
        The constants that Python would take are not JSON.
        """
        for name in ("NaN", "Infinity", "-Infinity"):
            self.assertIn(name, self.refused(b'{"timeout": %s}' % name.encode()))

    def test_digits(self) -> None:
        """
        An integer of thousands of digits is malformed.
        """
        for sign in (b"", b"-"):
            self.assertIn(
                "digits", self.refused(b'{"packets": ' + sign + b"9" * 60000 + b"}")
            )

    def test_nesting(self) -> None:
        """
        Nesting without end is malformed, in arrays and in objects.
        """
        for message in (b"[" * 60000, b'{"a":' * 12000, b'{"a":' + b"[" * 60000):
            self.assertIn("deep", self.refused(message))

    def test_notAnObject(self) -> None:
        """
        Other JSON than an object is malformed, and shown in short.
        """
        for message, shown in (
            (b"[]", "an array"),
            (b"null", "null"),
            (b"true", "true"),
            (b"17", "17"),
            (b'"node"', "'node'"),
            (b'"' + b"x" * 60000 + b'"', "x" * 80 + "'..."),
            (b"1" * 4000, "bits"),
        ):
            self.assertIn(shown, self.refused(message))

    @_settings
    @given(st.binary(max_size=100))
    def test_anyBytes(self, message: bytes) -> None:
        """
        Whatever the bytes, there is an object or a refusal.
        """
        try:
            self.assertIsInstance(decode(message), dict)
        except Refused as e:
            self.assertEqual(e.reason, Reason.MALFORMED)


class ConcernsTests(SynchronousTestCase):
    """
    Tests for L{concerns}.
    """

    def test_node(self) -> None:
        """
        A node's name is taken exactly.
        """
        self.assertTrue(concerns({"node": "web1"}, "web1"))
        for name in ("web", "web11", "WEB1", "web1 ", "Any", "all"):
            self.assertFalse(concerns({"node": name}, "web1"), name)

    def test_any(self) -> None:
        """
        C{any} means every node.
        """
        self.assertTrue(concerns({"node": "any"}, "web1"))

    def test_nodere(self) -> None:
        """
        A regular expression is searched anywhere in the name.
        """
        for pattern in ("eb", "^web", r"\d$", "^(web|db)1$", "(?i)WEB", "any|web"):
            self.assertTrue(concerns({"nodere": pattern}, "web1"), pattern)
        for pattern in ("^eb", "^web$", "any", "WEB", "web2"):
            self.assertFalse(concerns({"nodere": pattern}, "web1"), pattern)

    def test_linear(self) -> None:
        """
        A pattern at which a backtracking engine would never end does end.
        """
        self.assertFalse(concerns({"nodere": "^(a+)+$"}, "a" * 60 + "!"))

    def test_unclear(self) -> None:
        """
        What does not say clearly whom it is for concerns everybody.
        """
        for fields in (
            {},
            {"node": "web2", "nodere": "web2"},
            {"node": None},
            {"node": 5},
            {"node": ["web2"]},
            {"node": ""},
            {"nodere": None},
            {"nodere": ""},
            {"nodere": ["db"]},
            {"nodere": "("},
            {"nodere": "(?=db)"},
            {"nodere": r"(db)\1"},
            {"nodere": "\ud800"},
            {"nodere": "db" * 1000},
        ):
            self.assertTrue(concerns(fields, "web1"), fields)
            self.assertRaises(Refused, parse, {"interface": "lo", **fields})

    def test_quiet(self) -> None:
        """
        A bad pattern is not told to standard error as well.
        """
        code = "from pcapdaemon.request import concerns; concerns({'nodere': '('}, '')"
        done = subprocess.run(
            [sys.executable, "-c", code],
            stderr=subprocess.PIPE,
            timeout=60,
            check=True,
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.assertEqual(done.stderr, b"")

    def test_elsewhere(self) -> None:
        """
        Mistakes in a request for another node are no business of this one.
        """
        self.assertFalse(concerns({"node": "db1", "packets": "many"}, "web1"))

    @_settings
    @given(st.text(st.characters(), max_size=30), st.text(max_size=10))
    def test_anyPattern(self, pattern: str, node: str) -> None:
        """
        Whatever the pattern, there is an answer, and the same a second time.
        """
        first = concerns({"nodere": pattern}, node)
        self.assertIs(concerns({"nodere": pattern}, node), first)


class ParseTests(SynchronousTestCase):
    """
    Tests for L{parse}.
    """

    def refused(self, key: str, value: object) -> str:
        """
        See that a value is refused in one short printable line that names its key.

        @return: What was said.
        """
        # Not by request(), in which None takes a key away.
        e = self.assertRaises(Refused, parse, {**request(), key: value})
        self.assertEqual(e.reason, Reason.INVALID)
        detail: str = e.detail
        self.assertTrue(detail.startswith(key), detail)
        self.assertIn("allowed is", detail)
        self.assertTrue(detail.isprintable(), detail)
        self.assertLess(len(detail), 350)
        return detail

    def test_complete(self) -> None:
        """
        Every key of the message format arrives at its attribute.
        """
        self.assertEqual(
            parse(COMPLETE),
            CaptureRequest(
                node="web1",
                nodere=None,
                interfaces=("bond1", "bond2"),
                aliases=(),
                filter="dst host 10.0.0.1",
                direction="out",
                snaplength=1500,
                packets=50,
                size=1000,
                timeout=15.0,
                duration=60.5,
                tags="blah,tagme,stuff",
                customer="importantcustomer",
                alertid=655443,
                packetdebug=True,
                logrequest=True,
                folder="myfolder",
                bucket="mybucket",
                acl="public-read",
                region="us-east-1",
                endpoint="s3.amazonaws.com",
                encryption=False,
                ignored=(),
            ),
        )

    def test_least(self) -> None:
        """
        What is missing is left open, and nothing is made up.
        """
        self.assertEqual(
            parse({"nodere": "^web", "alias": ["public"]}),
            CaptureRequest(nodere="^web", aliases=("public",)),
        )

    def test_exactlyOne(self) -> None:
        """
        Of node and nodere, and of interface and alias, one must be there.
        """
        for fields, detail in (
            (request(node=None), "node, nodere: neither"),
            (request(nodere="x"), "node, nodere: both"),
            (request(interface=None), "interface, alias: neither"),
            (request(alias="x"), "interface, alias: both"),
        ):
            e = self.assertRaises(Refused, parse, fields)
            self.assertEqual(e.reason, Reason.INVALID)
            self.assertIn(detail, e.detail)

    def test_null(self) -> None:
        """
        No key may be null.
        """
        for key in COMPLETE:
            self.assertIn("is null", self.refused(key, None))

    def test_strings(self) -> None:
        """
        Strings must be strings, without NUL and lone surrogates.
        """
        for key in (
            *("node", "bpf", "tags", "customer"),
            *("folder", "bucket", "acl", "region", "endpoint"),
        ):
            for value in (1, 1.5, True, *_CONTAINERS):
                self.assertIn("a string", self.refused(key, value))
            self.assertIn("NUL", self.refused(key, "a\0b"))
            self.assertIn("surrogate", self.refused(key, "a\ud800"))
            self.assertIn("surrogate", self.refused(key, "a\udfff"))

    def test_node(self) -> None:
        """
        A node has a name.
        """
        self.refused("node", "")

    def test_nodere(self) -> None:
        """
        A bad regular expression is refused with what is wrong with it.
        """
        for pattern, why in (
            ("", "not empty"),
            ("a(b", "missing )"),
            ("(?=x)", "invalid"),
            (r"(a)\1", "invalid"),
            ("a{1001}", "repetition"),
            ("é**(", "(bad repetition operator: **)"),
            (r"\pL{100}", "too large"),
            ("x" * 1025, "1024 characters"),
            ("x\0", "NUL"),
            ("\ud800", "surrogate"),
            (5, "a string"),
        ):
            e = self.assertRaises(Refused, parse, {"nodere": pattern, "alias": "x"})
            self.assertEqual(e.reason, Reason.INVALID)
            self.assertTrue(e.detail.startswith("nodere is "), e.detail)
            self.assertIn(why, e.detail)
        longest = parse({"nodere": "x" * 1024, "alias": "x"})
        self.assertEqual(longest.nodere, "x" * 1024)

    def test_names(self) -> None:
        """
        Devices come as an array or as one string, and each is taken once, in the
        order of their first mention.
        """
        for key, attribute in (("interface", "interfaces"), ("alias", "aliases")):
            for value, names in (
                ("eth0", ("eth0",)),
                (["eth0"], ("eth0",)),
                (["any", "eth1", "any", "eth0", "eth1"], ("any", "eth1", "eth0")),
            ):
                parsed = parse({"node": "any", key: value})
                self.assertEqual(getattr(parsed, attribute), names)

    def test_badNames(self) -> None:
        """
        An array of devices holds at least one string, and only good ones.
        """
        empty: tuple[object, ...] = ([], {})
        for bad in ("", 5, True, *empty, {"eth0": 1}):
            self.refused("interface", bad)
        for value in ([""], [5], [None], [["lo"]], ["\0"], ["\ud800"]):
            self.assertIn("interface[0]", self.refused("interface", value))
            self.assertIn("interface[1]", self.refused("interface", ["lo", *value]))
        e = self.assertRaises(Refused, parse, {"node": "any", "alias": []})
        self.assertIn("alias is an array; allowed is", e.detail)

    def test_integers(self) -> None:
        """
        Integers have bounds, which are allowed themselves.
        """
        top = 2**63
        for key, attribute, good, bad in (
            ("snap", "snaplength", (1, 262144), (0, -1, 262145, 10**50)),
            ("packets", "packets", (1, 10**12), (0, -1, -(10**50))),
            ("bytes", "size", (1, 10**12), (0, -1)),
            ("alertid", "alertid", (-top, 0, top - 1), (-top - 1, top, 10**3000)),
        ):
            for value in good:
                parsed = getattr(parse(request(**{key: value})), attribute)
                self.assertEqual((type(parsed), parsed), (int, value))
            for value in (*bad, 1.0, 1.5, 1e400, True, False, "5", *_CONTAINERS):
                self.assertIn("an integer", self.refused(key, value))

    def test_boundsAreNamed(self) -> None:
        """
        A refusal names key, value and bound.
        """
        self.assertEqual(
            self.refused("direction", "inbound"),
            "direction is 'inbound'; allowed is 'in', 'out' or 'both'",
        )
        self.assertEqual(
            self.refused("snap", 262145),
            "snap is 262145; allowed is an integer, 1 to 262144",
        )
        self.assertEqual(
            self.refused("packets", 0),
            "packets is 0; allowed is an integer, 1 or more",
        )

    def test_seconds(self) -> None:
        """
        Times are finite numbers above 0.
        """
        for key in ("timeout", "duration"):
            for value in (1, 1.5, 0.001, 10**300):
                parsed = getattr(parse(request(**{key: value})), key)
                self.assertEqual((type(parsed), parsed), (float, float(value)))
            for bad in (0, 0.0, -0.0, -1, -0.5, 10**400, True, "5", *_CONTAINERS):
                self.assertIn("above 0", self.refused(key, bad))
            for text in ("1e400", "-1e400"):
                self.assertIn("inf", self.refused(key, json.loads(text)))

    def test_switches(self) -> None:
        """
        Switches are true or false and nothing that might mean it.
        """
        for key in ("packetdebug", "logrequest", "encryption"):
            for good in (True, False):
                self.assertIs(getattr(parse(request(**{key: good})), key), good)
            for bad in (0, 1, 0.0, "true", "", *_CONTAINERS):
                self.assertIn("true or false", self.refused(key, bad))

    def test_emptyMetadata(self) -> None:
        """
        An empty filter or metadata is as good as none, an empty override too.
        """
        empty = dict.fromkeys(
            ("bpf", "tags", "customer", "folder", "bucket", "acl", "region"), ""
        )
        self.assertEqual(parse(request(**empty)), parse(request()))

    def test_ignored(self) -> None:
        """
        Unknown keys are named in order and nothing else is done with them.
        """
        parsed = parse(request(Node="x", inteface=["eth0"], zeta={"a": [1e400]}))
        self.assertEqual(parsed.ignored, ("Node", "inteface", "zeta"))
        self.assertEqual(parsed.interfaces, ("lo",))

    def test_cancel(self) -> None:
        """
        With C{cancel} it is another message.
        """
        refused = self.assertRaises(Refused, parse, request(cancel="x"))
        self.assertIn("a message without interface", refused.detail)

    def test_ignoredBounded(self) -> None:
        """
        Names of unknown keys are few, short and printable, whatever was sent.
        """
        strange = {f"\n\ud800\0{'é' * 100}{i}": i for i in range(1000)}
        ignored = parse(request(**strange)).ignored
        self.assertEqual(len(ignored), 20)
        self.assertTrue(ignored[0].startswith(r"\n\ud800\x00é"))
        for name in ignored:
            self.assertTrue(name.isprintable())
            self.assertEqual(len(name), 80)

    def test_bigValues(self) -> None:
        """
        A value is not echoed beyond its first 80 characters.
        """
        detail = self.refused("packets", "x" * 60000)
        self.assertIn("x" * 80 + "'...", detail)
        self.refused("packets", "\n\x1b[31m\u202e" * 1000)
        self.refused("packets", json.loads("[" * 500 + "]" * 500))
        self.refused("packets", [1] * 60000)
        self.refused("interface", ["x"] * 10 + ["\0" * 60000])

    @_settings
    @given(st.dictionaries(_keys, _values, max_size=8))
    def test_anyFields(self, fields: dict[str, Any]) -> None:
        """
        Whatever a request holds, it is parsed or refused as invalid.
        """
        self.parsedOrRefused(fields)
        self.parsedOrRefused({**COMPLETE, **fields})

    def parsedOrRefused(self, fields: dict[str, Any]) -> None:
        """
        See that there is a request or a good refusal.
        """
        concerns(fields, "web1")
        try:
            self.assertIsInstance(parse(fields), CaptureRequest)
        except Refused as e:
            self.assertEqual(e.reason, Reason.INVALID)
            self.assertTrue(e.detail.isprintable(), e.detail)

    @_settings
    @given(st.sampled_from(sorted(COMPLETE)), _values)
    def test_anyValue(self, key: str, value: object) -> None:
        """
        A refusal of one bad value names its key.
        """
        try:
            parse({**COMPLETE, key: value})
        except Refused as e:
            self.assertEqual(e.reason, Reason.INVALID)
            self.assertTrue(e.detail.startswith(key), e.detail)


class ShowTests(SynchronousTestCase):
    """
    Tests for L{show}.
    """

    def test_json(self) -> None:
        """
        Values are shown as JSON has them, and big ones by their kind.
        """
        for value, shown in (
            (None, "null"),
            (True, "true"),
            (False, "false"),
            (5, "5"),
            (-1.5, "-1.5"),
            ("lo", "'lo'"),
            ("it's", "'it's'"),
            ("a\nb", r"'a\nb'"),
            ([1], "an array"),
            ({"a": 1}, "an object"),
            (10**3000, "an integer of 9966 bits"),
        ):
            self.assertEqual(show(value), shown)
