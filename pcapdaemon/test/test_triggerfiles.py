# See LICENSE for details.
"""
Tests for the scripts of C{etc/triggers}, each for itself: what they make of lines
that somebody else has a hand in.
"""

from __future__ import annotations

import importlib.util
import json
import re
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.request import parse
from pcapdaemon.test.programs import triggers


def load(path: str) -> Any:
    """
    A script as a module that has not run.
    """
    file = triggers() / path
    spec = importlib.util.spec_from_file_location("script", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class LogTests(SynchronousTestCase):
    """
    C{rsyslog/capture-on-log.py}.
    """

    def setUp(self) -> None:
        self.script = load("rsyslog/capture-on-log.py")

    def request(self, message: Any, host: Any = "web1") -> Any:
        """What a line becomes."""
        line = json.dumps({"host": host, "message": message})
        return self.script.request(line.encode())

    def test_request(self) -> None:
        """A failed password becomes a sound request about the address."""
        for user in ("root", "invalid user x"):
            for address in ("192.0.2.7", "2001:db8::1"):
                request = self.request(
                    f" Failed password for {user} from {address} port 4242 ssh2"
                )
                self.assertEqual(request["bpf"], f"host {address} and tcp port 22")
                self.assertEqual(parse(request).node, "web1")

    def test_forged(self) -> None:
        """A user name that looks like the rest of the line does not mislead."""
        request = self.request(
            "Failed password for invalid user a from 192.0.2.1 port 1 ssh2 from "
            "192.0.2.7 port 4242 ssh2"
        )
        self.assertEqual(request["bpf"], "host 192.0.2.7 and tcp port 22")

    def test_nothing(self) -> None:
        """Whatever else a line is becomes nothing."""
        end = "port 4242 ssh2"
        messages: tuple[Any, ...] = (
            *("", "Accepted password for root from 192.0.2.7 port 1 ssh2", 5, None),
            *(f"Failed password for x from $(id) {end}", "Failed password for x from "),
            *(f"Failed password for x from web1 {end}", [], {"a": "b"}),
            f"Failed password for x from fe80::1%$(id) {end}",
        )
        for message in messages:
            self.assertIsNone(self.request(message), message)
        for line in (b"", b"\n", b"{", b"[]", b"5", b"\xff", b'"x"', b"{}"):
            self.assertIsNone(self.script.request(line), line)

    def test_watch(self) -> None:
        """Only after some tries, and then once in a while; all is bounded."""
        watch, script = self.script.Watch(), self.script
        tries = [watch.enough("a", now) for now in range(script.TRIES + 3)]
        self.assertEqual(tries.index(True), script.TRIES - 1)
        self.assertEqual(tries.count(True), 1)
        later = script.TRIES + script.COOLDOWN
        tries = [watch.enough("a", later + now) for now in range(script.TRIES)]
        self.assertTrue(tries[-1])
        later += script.TRIES
        for key in range(script.COUNTED + 10):
            watch.enough(key, later)
        self.assertEqual(len(watch.seen), script.COUNTED)
        found = sum(
            watch.enough(f"x{key}", later)
            for key in range(script.MOST * 2)
            for _ in range(script.TRIES)
        )
        self.assertEqual(found, script.MOST - 1)


class PacketTests(SynchronousTestCase):
    """
    C{netfilter/capture-on-packet.py}.
    """

    def setUp(self) -> None:
        self.request = load("netfilter/capture-on-packet.py").request

    def test_request(self) -> None:
        """A packet becomes a sound request about its two hosts."""
        request = self.request(
            "[1.5] capture: IN=eth0 OUT= MAC=02:00 SRC=192.0.2.7 DST=192.0.2.1 LEN=60 "
            "TOS=0x00 PROTO=TCP SPT=4242 DPT=23 WINDOW=64240 SYN URGP=0"
        )
        self.assertEqual(request["bpf"], "host 192.0.2.7 and host 192.0.2.1")
        self.assertEqual(request["interface"], ["eth0"])
        parse(request)

    def test_ways(self) -> None:
        """Packets that go out, and errors that quote another packet."""
        request = self.request(
            "capture: IN= OUT=eth1 SRC=2001:db8::1 DST=2001:db8::2 PROTO=ICMPv6 "
            "[SRC=2001:db8::2 DST=2001:db8::3 PROTO=UDP]"
        )
        self.assertEqual(request["bpf"], "host 2001:db8::1 and host 2001:db8::2")
        self.assertEqual(request["interface"], ["eth1"])

    def test_nothing(self) -> None:
        """Whatever else a line is becomes nothing."""
        for line in (
            *("", "capture: ", "other: IN=eth0 SRC=192.0.2.7 DST=192.0.2.1"),
            "capture: IN=eth0 SRC=192.0.2.7",
            "capture: IN=eth0 SRC=$(id) DST=192.0.2.1",
            "capture: IN=$(id) SRC=192.0.2.7 DST=192.0.2.1",
            "capture: IN=eth0 SRC=fe80::1%;id DST=fe80::2",
        ):
            self.assertIsNone(self.request(line), line)


class TrapTests(SynchronousTestCase):
    """
    C{snmptrapd/capture-on-trap.py}.
    """

    def test_address(self) -> None:
        """The sender's address is found, and only an address."""
        address = load("snmptrapd/capture-on-trap.py").address
        for transport, found in [
            ("UDP: [192.0.2.7]:40000->[192.0.2.1]:162", "192.0.2.7"),
            ("UDP/IPv6: [2001:db8::1]:40000->[::]:162", "2001:db8::1"),
            ("UDP: [$(id)]:1->[192.0.2.1]:162", None),
            ("unknown", None),
            ("", None),
        ]:
            self.assertEqual(address(transport), found)

    def test_cooldown(self) -> None:
        """A trap counts once in a while, and only so many do."""
        script = load("snmptrapd/capture-on-trap.py")
        script.STATE = self.mktemp()
        self.assertTrue(script.cooled("a"))
        self.assertFalse(script.cooled("a"))
        found = [script.cooled(f"b{n}") for n in range(script.MOST)]
        self.assertEqual(found, [True] * (script.MOST - 1) + [False])
        script.COOLDOWN = 0
        self.assertTrue(script.cooled("a"))


class DocsTests(SynchronousTestCase):
    """
    C{docs/triggers.rst}.
    """

    def test_shown(self) -> None:
        """Every file of C{etc/triggers} is shown there."""
        page = (triggers().parents[1] / "docs" / "triggers.rst").read_text()
        found = set(re.findall(r"literalinclude:: \.\./etc/triggers/(\S+)", page))
        files = {
            str(path.relative_to(triggers()))
            for path in triggers().rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        self.assertEqual(found, files)
