# See LICENSE for details.
"""
Tests for L{pcapdaemon.intake}.
"""

from __future__ import annotations

import errno
import itertools
import json
from collections import deque
from typing import Any

import attrs
from zope.interface.verify import verifyObject

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.events import timestamp
from pcapdaemon.intake import Intake, Rules
from pcapdaemon.interfaces import (
    Answer,
    CaptureError,
    IMessageReceiver,
    Reason,
    Refused,
    Verdict,
)
from pcapdaemon.test.fixtures import CAPACITY, EPOCH, LIMITS, makeBench
from pcapdaemon.testing import MemoryFilterChecker

RULES = Rules(
    limits=LIMITS,
    maxmessage=500,
    aliases={
        "main": ("eth0",),
        "public": ("eth0", "eth1"),
        "tunnel": ("tun0",),
        "half": ("eth1", "eth9"),
        "gone": ("eth9",),
        "lost": ("eth9",),
    },
)


class GatedChecker(MemoryFilterChecker):
    """
    A checker whose checks each wait for a gate, as long as there are some.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gates: deque[Deferred[None]] = deque()

    def check(self, filter: str, linkType: int, snaplength: int) -> Deferred[str]:
        """Wait, then say what the test wants."""
        if not self.gates:
            return super().check(filter, linkType, snaplength)
        gate: Deferred[Any] = self.gates.popleft()
        return gate.addCallback(
            lambda _: super(GatedChecker, self).check(filter, linkType, snaplength)
        )


class _Tests(SynchronousTestCase):
    """
    Tests that have an intake with the devices C{eth0}, C{eth1} and C{tun0}.
    """

    def setUp(self) -> None:
        self.bench = makeBench(self)
        self.bench.system.addDevice("eth1")
        self.bench.system.addDevice("tun0", 12)
        self.checker = GatedChecker()
        numbers = itertools.count(1)
        self.intake = Intake(
            "web1",
            RULES,
            self.bench.system,
            self.checker,
            self.bench.captures,
            self.bench.events,
            self.bench.clock,
            lambda: f"id{next(numbers)}",
        )

    def configure(self, **rules: Any) -> None:
        """Change some of the rules."""
        self.intake.rules = attrs.evolve(self.intake.rules, **rules)

    def filters(self, *texts: str) -> None:
        """Let the capture system know some filters."""
        for text in texts:
            self.bench.system.filters[text] = lambda data: True

    def send(self, **fields: Any) -> Deferred[Answer]:
        """
        Hand over a request, for every node and on C{eth0} unless it says
        otherwise.
        """
        if not fields.keys() & {"node", "nodere"}:
            fields["node"] = "any"
        if not fields.keys() & {"interface", "alias"}:
            fields["interface"] = ["eth0"]
        return self.intake.receive(json.dumps(fields).encode(), "redis")

    def take(self, **fields: Any) -> tuple[str, ...]:
        """Hand over a request that must be taken; the ids of its captures."""
        answer = self.successResultOf(self.send(**fields))
        self.assertEqual((answer.verdict, answer.reason), (Verdict.TAKEN, ""))
        return answer.ids

    def assertRefused(self, answer: Answer, reason: str, *words: str) -> str:
        """
        A message was refused so, and the last event, which is the only one of
        this kind, says the same.

        @return: The detail.
        """
        self.assertEqual(
            (answer.verdict, answer.ids, answer.reason), (Verdict.REFUSED, (), reason)
        )
        event = self.bench.event("rejected")
        self.assertEqual(event, self.bench.observed.events[-1])
        self.assertEqual((event["reason"], event["detail"]), (reason, answer.detail))
        self.assertEqual((event["bus"], event["node"]), ("redis", "web1"))
        for word in words:
            self.assertIn(word, answer.detail)
        self.bench.observed.events.clear()
        return answer.detail

    def refuse(self, reason: str, *words: str, **fields: Any) -> str:
        """Hand over a request that must be refused so."""
        answer = self.successResultOf(self.send(**fields))
        return self.assertRefused(answer, reason, *words)


class MatchTests(_Tests):
    """
    Whom a request is for.
    """

    def test_interface(self) -> None:
        """An intake receives messages."""
        verifyObject(IMessageReceiver, self.intake)
        self.assertEqual(self.intake.maxmessage, 500)

    def test_foreign(self) -> None:
        """
        Requests for other nodes cause nothing at all, also when something is
        wrong with them.
        """
        with capturedLogs() as logged:
            for fields in (
                {"node": "web2"},
                {"node": "web"},
                {"node": "WEB1"},
                {"node": "ANY"},
                {"nodere": "^web[2-9]$"},
                {"nodere": "db", "packets": -1, "interface": []},
            ):
                answer = self.successResultOf(self.send(**fields))
                self.assertEqual(answer, Answer(Verdict.NOT_OURS))
        self.assertEqual(logged, [])
        self.assertEqual(self.bench.observed.events, [])
        self.assertEqual(self.checker.checked, [])

    def test_foreignLogged(self) -> None:
        """Where debugging is on, each is one line of it."""
        self.configure(debug=True)
        with capturedLogs() as logged:
            self.send(node="web2")
        self.assertEqual([event["log_level"] for event in logged], [LogLevel.debug])
        self.assertEqual(logged[0]["wanted"], "'web2'")

    def test_ours(self) -> None:
        """The exact name, C{any}, and what is found anywhere in the name."""
        for fields in ({"node": "web1"}, {"node": "any"}, {"nodere": "eb[1-3]"}):
            self.take(**fields)
        self.assertEqual(len(self.bench.system.handles), 3)

    def test_both(self) -> None:
        """A request that does not say clearly whom it is for is refused."""
        self.refuse(Reason.INVALID, "node, nodere", node="web2", nodere="x")
        answer = self.intake.receive(b'{"interface": ["eth0"]}', "redis")
        self.assertRefused(self.successResultOf(answer), Reason.INVALID, "node")


class RefusalTests(_Tests):
    """
    Every reason.
    """

    def receive(self, message: bytes) -> Answer:
        """Hand over any bytes."""
        answer: Answer = self.successResultOf(self.intake.receive(message, "redis"))
        return answer

    def test_malformed(self) -> None:
        """What is no JSON object."""
        for message, word in (
            (b"", "JSON"),
            (b"{", "JSON"),
            (b"\xff{}", "UTF-8"),
            (b"[1]", "object"),
            (b"[" * 400, "JSON"),
        ):
            self.assertRefused(self.receive(message), Reason.MALFORMED, word)

    def test_tooLarge(self) -> None:
        """A message that is too long, or that a listener says would be."""
        words = ("501", "500")
        self.assertRefused(self.receive(b" " * 501), Reason.TOO_LARGE, *words)
        answer = self.intake.oversized(501, "redis")
        self.assertRefused(answer, Reason.TOO_LARGE, *words)

    def test_unauthorized(self) -> None:
        """A message whose sender has not the token that a listener asks for."""
        answer = self.intake.unauthorized("redis")
        self.assertRefused(answer, Reason.UNAUTHORIZED, "bearer token")

    def test_mostAllowed(self) -> None:
        """One that is just not too long is read."""
        message = json.dumps({"node": "any", "interface": "eth0"}).encode()
        self.assertEqual(self.receive(message.ljust(500)).verdict, Verdict.TAKEN)

    def test_invalid(self) -> None:
        """A wrong type or value, with key, value and what is allowed."""
        self.refuse(Reason.INVALID, "packets", "'5'", "1 or more", packets="5")
        self.refuse(Reason.INVALID, "snap", "0", "262144", snap=0)
        self.refuse(Reason.INVALID, "nodere", "'('", nodere="(")

    def test_limit(self) -> None:
        """More than this site allows; just as much is fine."""
        for key, most, setting in (
            ("packets", 10_000, "maxpackets"),
            ("bytes", 10_000_000, "maxbytes"),
            ("timeout", 3600, "maxtimeout"),
            ("duration", 600, "maxduration"),
        ):
            more = str(most + 1)
            self.refuse(Reason.LIMIT, key, more, str(most), setting, **{key: most + 1})
            self.bench.captures.cancel(*self.take(**{key: most}))
            self.bench.settle()
            self.bench.observed.events.clear()
        long = "u" * 101
        self.refuse(Reason.LIMIT, "bpf", "101", "100", "maxfilter", bpf=long)
        self.assertNotIn(long, [filter for filter, _, _ in self.checker.checked])

    def test_unknownInterface(self) -> None:
        """No such device."""
        words = ("'eth9'", "'eth8'", "web1")
        self.refuse(Reason.UNKNOWN_INTERFACE, *words, interface=["eth9", "eth8"])
        detail = self.refuse(Reason.UNKNOWN_INTERFACE, "'eth9'", alias=["gone", "lost"])
        self.assertEqual(detail.count("eth9"), 1)

    def test_unknownAlias(self) -> None:
        """No such alias; those that there are are named."""
        self.refuse(Reason.UNKNOWN_ALIAS, "'nope'", "main", "public", alias=["nope"])
        self.configure(aliases={})
        self.refuse(Reason.UNKNOWN_ALIAS, "'main'", "none", alias="main")

    def test_filter(self) -> None:
        """What the checker says of the filter."""
        for reason in (Reason.BAD_FILTER, Reason.TOO_COMPLEX, Reason.BUSY):
            self.checker.verdicts["udp"] = Refused(reason, "bpf: 'udp' is not it")
            self.refuse(reason, "bpf: 'udp' is not it", bpf="udp")

    def test_busy(self) -> None:
        """There is no room for all captures of the request."""
        for _ in range(CAPACITY.captures - 1):
            self.take()
        self.refuse(Reason.BUSY, "maxcaptures = 4", "3", alias=["public"])
        self.take()
        self.refuse(Reason.BUSY, "maxcaptures = 4", "4", bpf="udp")
        self.assertEqual(len(self.bench.system.handles), 4)
        # Nor has anybody been troubled with the filter.
        self.assertNotIn(("udp", 1, 65536), self.checker.checked)

    def test_memory(self) -> None:
        """Recordings have used up the memory."""
        self.bench.captures.configure(attrs.evolve(CAPACITY, memory=0))
        self.refuse(Reason.BUSY, "memory")

    def test_closing(self) -> None:
        """The daemon ends."""
        self.bench.captures.close()
        self.refuse(Reason.CLOSING, "shutting down")

    def test_internalError(self) -> None:
        """A fault of ours is logged, and the message gets its answer."""

        def check(*arguments: object) -> None:
            raise ZeroDivisionError("bug")

        self.patch(self.checker, "check", check)
        detail = self.refuse(Reason.BUSY, "internal error", alertid=7)
        self.assertNotIn("bug", detail)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_noDescriptors(self) -> None:
        """That all descriptors are in use is no fault, and is said."""

        def linkType(device: str) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        self.patch(self.bench.system, "linkType", linkType)
        self.refuse(Reason.BUSY, "no descriptor is left", alertid=7)

    def test_whole(self) -> None:
        """Nothing of a refused request is captured."""
        self.checker.verdicts["udp"] = Refused(Reason.BAD_FILTER, "bpf")
        self.refuse(Reason.BAD_FILTER, interface=["eth0", "eth1"], bpf="udp")
        self.assertEqual(self.bench.system.handles, [])
        self.bench.captures.admit(CAPACITY.captures)

    def test_about(self) -> None:
        """
        The event says whose request it was, as far as that can be believed.
        """
        good = {"alertid": 7, "customer": "c", "tags": "a,b"}
        for bad in ({}, {"alertid": "7"}, {"customer": 1}, {"tags": ["a"]}):
            self.send(**{**good, **bad}, packets=0)
            event = self.bench.event("rejected")
            about = {key: event[key] for key in good if key in event}
            self.assertEqual(about, {k: v for k, v in good.items() if k not in bad})
            self.bench.observed.events.clear()

    def test_next(self) -> None:
        """A bad message does not hurt the next."""
        self.receive(b"\xff" * 1000)
        self.take()


class AcceptTests(_Tests):
    """
    Requests that are taken.
    """

    def accepted(self) -> list[tuple[str, str]]:
        """Device and alias of each capture that was let in."""
        events = self.bench.observed.named("accepted")
        return [(event["interface"], event.get("alias", "")) for event in events]

    def test_event(self) -> None:
        """The event says what will be done, and what was not understood."""
        self.filters("udp")
        [id] = self.take(
            alias=["main"],
            bpf="udp",
            direction="in",
            snap=64,
            packets=5,
            bytes=1000,
            timeout=1.5,
            duration=60,
            alertid=0,
            customer="c",
            tags="a,b",
            pakets=5,
        )
        expected = {
            "event": "accepted",
            "time": timestamp(EPOCH),
            "node": "web1",
            "id": id,
            "alertid": 0,
            "customer": "c",
            "tags": "a,b",
            "bus": "redis",
            "interface": "eth0",
            "alias": "main",
            "filter": "udp",
            "direction": "in",
            "snaplength": 64,
            "limits": {
                "packets": 5,
                "bytes": 1000,
                "timeout": 1.5,
                "duration": 60.0,
            },
            "ignored": ["pakets"],
        }
        self.assertEqual(self.bench.event("accepted"), expected)
        self.assertEqual(self.bench.names(), ["accepted", "armed"])
        options = self.bench.system.handles[0].options
        self.assertEqual((options.filter, options.snaplength), ("udp", 64))

    def test_defaults(self) -> None:
        """Where the request is silent the configuration speaks."""
        self.take()
        event = self.bench.event("accepted")
        self.assertEqual(event["snaplength"], LIMITS.snaplength)
        self.assertEqual(
            event["limits"],
            {
                "packets": LIMITS.maxpackets,
                "bytes": LIMITS.maxbytes,
                "timeout": LIMITS.defaulttimeout,
                "duration": LIMITS.maxduration,
            },
        )
        for absent in ("alias", "filter", "ignored", "missing", "alertid"):
            self.assertNotIn(absent, event)

    def test_ids(self) -> None:
        """Each device is a capture of its own, and the answer names them all."""
        ids = self.take(interface=["eth1", "eth0", "tun0"])
        accepted = self.bench.observed.named("accepted")
        self.assertEqual(tuple(event["id"] for event in accepted), ids)
        self.assertEqual(len(set(ids)), 3)
        self.assertEqual(tuple(self.bench.captures.progress()), ids)
        devices = [handle.device for handle in self.bench.system.handles]
        self.assertEqual(devices, ["eth1", "eth0", "tun0"])

    def test_aliasOfSeveral(self) -> None:
        """An alias means all its devices."""
        self.take(alias="public")
        self.assertEqual(self.accepted(), [("eth0", "public"), ("eth1", "public")])

    def test_reachedTwice(self) -> None:
        """A device that is reached twice is captured once, by the first name."""
        self.take(alias=["main", "public", "half"])
        self.assertEqual(self.accepted(), [("eth0", "main"), ("eth1", "public")])
        self.bench.observed.events.clear()
        self.take(interface=["eth0", "eth0"])
        self.assertEqual(self.accepted(), [("eth0", "")])

    def test_missingMany(self) -> None:
        """What is not there is named, but not without end."""
        names = [f"no{number}" for number in range(50)]
        self.take(interface=["eth0", *names])
        self.assertEqual(self.bench.event("accepted")["missing"], names[:20])

    def test_missing(self) -> None:
        """What is there is captured, and what is not is named, once."""
        self.take(interface=["eth9", "eth0", "eth8"])
        self.assertEqual(self.accepted(), [("eth0", "")])
        event = self.bench.event("accepted")
        self.assertEqual(event["missing"], ["eth9", "eth8"])
        self.bench.observed.events.clear()
        self.take(alias=["half", "gone", "nope", "main"])
        self.assertEqual(self.accepted(), [("eth1", "half"), ("eth0", "main")])
        for event in map(dict, self.bench.observed.named("accepted")):
            self.assertEqual(sorted(event["missing"]), ["eth9", "nope"])

    def test_aliasLikeDevice(self) -> None:
        """An unknown alias hides no device of the same name."""
        self.take(alias=["eth0", "main"])
        self.assertEqual(self.accepted(), [("eth0", "main")])
        self.assertEqual(self.bench.event("accepted")["missing"], ["eth0"])

    def test_logrequest(self) -> None:
        """
        A request is logged where it or the configuration wants that: in one
        line, whatever is in it.
        """

        def lines(**fields: Any) -> list[str]:
            with capturedLogs() as logged:
                self.bench.captures.cancel(*self.take(**fields))
            self.bench.settle()
            return [event["request"] for event in logged if "request" in event]

        self.assertEqual(lines(tags="a"), [])
        self.assertIn('"tags": "a"', lines(tags="a", logrequest=True)[0])
        self.configure(logrequests=True)
        self.assertEqual(len(lines(tags="a", logrequest=False)), 1)
        with capturedLogs() as logged:
            self.intake.receive(
                '{"node": "any",\n"interface": "eth0", "tags": "\u2028"}'.encode(), "x"
            )
        [line] = [event["request"] for event in logged if "request" in event]
        self.assertTrue(line.isascii() and line.isprintable())

    def test_deviceFails(self) -> None:
        """What goes wrong later is no matter of the answer."""
        self.bench.system.failures["eth0"] = CaptureError("eth0: down")
        self.take()
        self.assertEqual(self.bench.names(), ["accepted", "failed"])


class FilterTests(_Tests):
    """
    The filter of the request, and that of the site.
    """

    def setUp(self) -> None:
        super().setUp()
        self.filters("udp", "net 10", "(net 10) and (udp)", "udp dst 9")

    def checked(self) -> list[str]:
        """The filters that were checked, in order."""
        return [filter for filter, _linkType, _snaplength in self.checker.checked]

    def test_request(self) -> None:
        """A request's filter is checked for what it is used for."""
        self.take(bpf="udp", snap=64)
        self.assertEqual(self.checker.checked, [("udp", 1, 64)])

    def test_linkTypes(self) -> None:
        """It is checked for each link type of its devices, once."""
        self.take(bpf="udp", interface=["eth0", "tun0", "eth1"])
        checked = [("udp", 1, 65536), ("udp", 12, 65536)]
        self.assertEqual(sorted(self.checker.checked), checked)
        self.assertEqual([h.linkType for h in self.bench.system.handles], [1, 12, 1])

    def test_site(self) -> None:
        """Where the request has none, that of the site is used."""
        self.configure(filter="net 10")
        for bpf in ("", " \n"):
            self.take(bpf=bpf)
        filters = [handle.options.filter for handle in self.bench.system.handles]
        self.assertEqual(filters, ["net 10"] * 2)
        self.assertIn("net 10", self.checked())

    def test_both(self) -> None:
        """Where both have one, packets must match both."""
        self.configure(filter="net 10")
        self.take(bpf="udp")
        both = "(net 10) and (udp)"
        self.assertEqual(self.checked(), ["udp", both])
        self.assertEqual(self.bench.system.handles[0].options.filter, both)
        self.assertEqual(self.bench.event("accepted")["filter"], both)

    def test_escape(self) -> None:
        """
        A filter that is sound only between parentheses cannot do away with that
        of the site.
        """
        self.configure(filter="net 10")
        escape = "port 80) or (port 22"
        refusal = Refused(Reason.BAD_FILTER, "bpf: syntax error")
        self.checker.verdicts[escape] = refusal
        self.filters(f"(net 10) and ({escape})")
        self.refuse(Reason.BAD_FILTER, bpf=escape)
        self.assertEqual(self.checked(), [escape])

    def test_bothTooMuch(self) -> None:
        """What is sound alone must be so together."""
        self.configure(filter="net 10")
        refusal = Refused(Reason.TOO_COMPLEX, "bpf: too complex")
        self.checker.verdicts["(net 10) and (udp)"] = refusal
        self.refuse(Reason.TOO_COMPLEX, bpf="udp")

    def test_replaced(self) -> None:
        """What the checker makes of it is used, within that of the site too."""
        self.checker.verdicts["host a"] = "udp"
        self.take(bpf="host a")
        self.configure(filter="net 10")
        self.take(bpf="host a")
        self.assertEqual(
            [handle.options.filter for handle in self.bench.system.handles],
            ["udp", "(net 10) and (udp)"],
        )

    def test_otherLinkType(self) -> None:
        """
        No device is shown a filter that was checked for another link type, also
        when its true one becomes known between check and opening.
        """
        self.bench.system.apparent["tun0"] = 1
        gate: Deferred[None] = Deferred()
        self.checker.gates.append(gate)
        self.send(interface="tun0", bpf="udp")
        del self.bench.system.apparent["tun0"]
        gate.callback(None)
        self.assertEqual(self.checker.checked, [("udp", 1, 65536)])
        self.assertEqual(self.bench.checker.checked, [("udp", 12, 65536)])
        self.assertEqual(self.bench.system.handles[0].options.linkType, 12)


class WhileCheckedTests(_Tests):
    """
    What happens while a filter is being checked.
    """

    def setUp(self) -> None:
        super().setUp()
        self.filters("udp")
        self.gates: list[Deferred[None]] = [Deferred(), Deferred()]
        self.checker.gates.extend(self.gates)

    def test_waits(self) -> None:
        """Nothing is said or opened before the filter is found sound."""
        answer = self.send(bpf="udp")
        self.assertNoResult(answer)
        self.assertEqual(self.bench.names(), [])
        self.gates[0].callback(None)
        self.assertEqual(self.successResultOf(answer).verdict, Verdict.TAKEN)

    def test_full(self) -> None:
        """Others take the last room."""
        answer = self.send(bpf="udp")
        for _ in range(CAPACITY.captures):
            self.bench.start()
        self.gates[0].callback(None)
        refused = self.successResultOf(answer)
        self.assertRefused(refused, Reason.BUSY, "maxcaptures")
        self.assertEqual(len(self.bench.system.handles), CAPACITY.captures)

    def test_closing(self) -> None:
        """The daemon begins to end."""
        answer = self.send(bpf="udp")
        self.bench.captures.close()
        self.gates[0].callback(None)
        self.assertRefused(self.successResultOf(answer), Reason.CLOSING)

    def test_sameTrigger(self) -> None:
        """Of two equal triggers at once one is taken."""
        self.configure(cooldown=30)
        first = self.send(bpf="udp", alertid=7)
        second = self.send(bpf="udp", alertid=7)
        for gate in self.gates:
            gate.callback(None)
        [id] = self.successResultOf(first).ids
        self.assertRefused(self.successResultOf(second), Reason.DUPLICATE, id)
        self.assertEqual(len(self.bench.system.handles), 1)

    def test_configuration(self) -> None:
        """A request goes by the rules that it began with."""
        answer = self.send(bpf="udp")
        limits = attrs.evolve(LIMITS, maxpackets=3)
        self.configure(limits=limits, filter="net 10")
        self.gates[0].callback(None)
        self.successResultOf(answer)
        event = self.bench.event("accepted")
        self.assertEqual(event["limits"]["packets"], LIMITS.maxpackets)
        self.assertEqual(event["filter"], "udp")


class JudgeTests(_Tests):
    """
    L{Intake.judge}: a look at a filter, before there is a request.
    """

    def judge(self, **fields: Any) -> dict[str, Any]:
        """What is said of a filter that is good."""
        message = json.dumps({"interface": ["eth0"], **fields}).encode()
        told: dict[str, Any] = self.successResultOf(self.intake.judge(message))
        return told

    def refusal(self, message: bytes) -> tuple[str, str]:
        """What is said of one that is not."""
        failure = self.failureResultOf(self.intake.judge(message), Refused)
        return failure.value.reason, failure.value.detail

    def tearDown(self) -> None:
        """Whatever was asked, nothing came of it."""
        self.assertEqual(self.bench.names(), [])
        self.assertEqual(self.intake.taken, {})

    def test_good(self) -> None:
        """A good filter is told with what would be set."""
        gate: Deferred[None] = Deferred()
        self.checker.gates.append(gate)
        message = b'{"interface": "eth0", "bpf": "udp", "other": 1}'
        judged = self.intake.judge(message)
        self.assertNoResult(judged)
        self.bench.reactor.advance(0.25)
        gate.callback(None)
        link = {"link": 1, "linkname": "EN10MB", "filter": "udp"}
        self.assertEqual(
            self.successResultOf(judged),
            {"bpf": "udp", "seconds": 0.25, "links": [link]},
        )

    def test_links(self) -> None:
        """It is looked at once for each link type, and what is not there named."""
        told = self.judge(interface=["eth0", "eth1", "tun0", "eth9"], bpf="ip")
        self.assertEqual([each["link"] for each in told["links"]], [1, 12])
        self.assertEqual([f for f, *_ in self.checker.checked], ["ip", "ip"])
        self.assertEqual(told["missing"], ["eth9"])

    def test_site(self) -> None:
        """Where every capture is subject to a filter, that is told."""
        self.configure(filter="not port 22")
        told = self.judge(bpf="udp")
        self.assertEqual(told["site"], "not port 22")
        self.assertEqual(told["links"][0]["filter"], "(not port 22) and (udp)")
        self.assertEqual(self.judge()["links"][0]["filter"], "not port 22")

    def test_bad(self) -> None:
        """What would be refused in a request is refused."""
        refusal = Refused(Reason.BAD_FILTER, "bpf: nonsense")
        self.checker.verdicts["nonsense"] = refusal
        for message, reason in {
            b'{"interface": "eth0", "bpf": "nonsense"}': "bad-filter",
            b'{"interface": "eth9"}': "unknown-interface",
            b'{"alias": "none"}': "unknown-alias",
            b'{"bpf": "udp"}': "invalid",
            b'{"interface": "eth0", "bpf": 1}': "invalid",
            b'{"interface": "eth0", "bpf": "%b"}' % (b"x" * 101): "limit",
            b"[]": "malformed",
            b"\xff": "malformed",
        }.items():
            self.assertEqual(self.refusal(message)[0], reason, message)


class CooldownTests(_Tests):
    """
    Triggers that repeat themselves.
    """

    def setUp(self) -> None:
        super().setUp()
        self.filters("udp", "tcp")
        self.configure(cooldown=30)
        self.bench.captures.configure(attrs.evolve(CAPACITY, captures=100))

    def duplicate(self, *words: str, **fields: Any) -> None:
        """Hand over a request that has been taken a short while ago."""
        self.refuse(Reason.DUPLICATE, "alertid 7", "30 s", *words, **fields)

    def test_repeated(self) -> None:
        """The same trigger is refused for so long, naming the first capture."""
        [id] = self.take(alertid=7, bpf="udp")
        for seconds in (0, 10, 19.9):
            self.bench.reactor.advance(seconds)
            self.duplicate(id, "eth0", alertid=7, bpf="udp")
        self.bench.reactor.advance(0.1)
        [second] = self.take(alertid=7, bpf="udp")
        self.bench.observed.events.clear()
        self.duplicate(second, alertid=7, bpf="udp")

    def test_other(self) -> None:
        """Another trigger, device or filter is something else."""
        self.take(alertid=7, bpf="udp")
        self.take(alertid=8, bpf="udp")
        self.take(alertid=7, bpf="tcp")
        self.take(alertid=7, bpf="udp", interface="eth1")

    def test_oneOfSeveral(self) -> None:
        """A request of which one device is a repetition is refused whole."""
        self.take(alertid=7, interface="eth1")
        self.bench.observed.events.clear()
        self.duplicate("eth1", alertid=7, alias="public")

    def test_without(self) -> None:
        """Who does not say what triggered it repeats nothing."""
        for _ in range(3):
            self.take()

    def test_off(self) -> None:
        """Without a cooldown nothing is a repetition."""
        self.configure(cooldown=0)
        for _ in range(3):
            self.take(alertid=7)

    def test_zero(self) -> None:
        """Zero is an identifier as others are."""
        self.take(alertid=0)
        self.bench.observed.events.clear()
        self.refuse(Reason.DUPLICATE, "alertid 0", alertid=0)

    def test_refused(self) -> None:
        """What was refused has not been honoured."""
        self.checker.verdicts["udp"] = Refused(Reason.BAD_FILTER, "bpf")
        self.refuse(Reason.BAD_FILTER, alertid=7, bpf="udp")
        self.checker.verdicts.clear()
        self.take(alertid=7, bpf="udp")

    def test_clockSetBack(self) -> None:
        """A clock that was set back keeps nobody waiting for long."""
        self.take(alertid=7)
        self.bench.reactor.rightNow -= 3600
        self.take(alertid=7)
        self.bench.reactor.rightNow += 3600
