# See LICENSE for details.
"""
Tests for L{pcapdaemon.triggers}: from a notification to requests.
"""

from __future__ import annotations

import json
from typing import Any

from zope.interface import implementer
from zope.interface.verify import verifyObject

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.intake import Intake, Rules
from pcapdaemon.interfaces import (
    Answer,
    IMessageReceiver,
    ITriggers,
    Outcome,
    Reason,
    Refused,
    Verdict,
)
from pcapdaemon.request import KEYS
from pcapdaemon.test.fixtures import LIMITS, makeBench
from pcapdaemon.triggers.alert import MAXALERTS, NAMES, readAlerts
from pcapdaemon.triggers.service import Triggers
from pcapdaemon.triggers.trigger import Matcher, Trigger, makeTrigger

#: A request that needs nothing of the alert.
PLAIN = {"node": "any", "interface": ["eth0"]}


def alert(number: int = 1, status: str = "firing", **labels: str) -> dict[str, Any]:
    """An alert as Alertmanager tells it."""
    return {
        "status": status,
        "labels": {"alertname": "Errors", "instance": "web1:9100", **labels},
        "annotations": {"summary": "many errors"},
        "startsAt": "2026-01-31T12:00:00.000Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": f"{number:016x}",
    }


def notification(*alerts: Any, **fields: Any) -> dict[str, Any]:
    """A notification as Alertmanager sends it."""
    return {
        "version": "4",
        "groupKey": '{}:{alertname="Errors"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "pcapdaemon",
        "groupLabels": {"alertname": "Errors"},
        "commonLabels": {"alertname": "Errors"},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager",
        "alerts": list(alerts),
        **fields,
    }


def make(
    name: str = "test",
    match: tuple[str, ...] = (),
    status: tuple[str, ...] = ("firing",),
    cooldown: float = 60,
    most: int = 3,
    **table: Any,
) -> Trigger:
    """A trigger that is sound."""
    trigger, mistakes = makeTrigger(
        name, match, status, cooldown, most, {**PLAIN, **table}
    )
    if mistakes:
        raise AssertionError(mistakes)
    return trigger


class AlertTests(SynchronousTestCase):
    """
    What is made of a notification.
    """

    def refused(self, fields: dict[str, Any]) -> str:
        """Why a notification is refused."""
        error: Any = self.assertRaises(Refused, readAlerts, fields)
        self.assertEqual(error.reason, Reason.INVALID)
        return str(error.detail)

    def test_values(self) -> None:
        """Everything that a template may name is there."""
        [one, two] = readAlerts(notification(alert(7), alert(8, "resolved", a="b")))
        self.assertEqual(set(one.values), set(NAMES))
        self.assertEqual(one.values["groupLabels"], {"alertname": "Errors"})
        self.assertEqual(one.values["annotations"], {"summary": "many errors"})
        self.assertEqual((one.status, two.status), ("firing", "resolved"))
        self.assertEqual((one.number, two.number), (7, 8))
        self.assertEqual(two.labels["a"], "b")

    def test_number(self) -> None:
        """A fingerprint of 64 bits is cut to what an alertid can be."""
        fields = {**alert(), "fingerprint": "f" * 16}
        [one] = readAlerts(notification(fields))
        self.assertEqual(one.number, 2**63 - 1)

    def test_noFingerprint(self) -> None:
        """Where there is none, the labels are one."""
        alerts = [alert(x="1"), alert(x="1"), alert(x="2")]
        for each in alerts:
            del each["fingerprint"]
        one, same, other = readAlerts(notification(*alerts))
        self.assertEqual(one.fingerprint, same.fingerprint)
        self.assertNotEqual(one.fingerprint, other.fingerprint)

    def test_least(self) -> None:
        """What is not needed may be missing."""
        [one] = readAlerts({"version": "4", "alerts": [{"status": "firing"}]})
        self.assertEqual(one.labels, {})

    def test_wrong(self) -> None:
        """What is wrong is named, with what would be right."""
        cases: list[tuple[dict[str, Any], str]] = [
            ({}, "version is null; allowed is '4'"),
            ({"version": 4, "alerts": []}, "version is 4; allowed is '4'"),
            ({"version": "4"}, "alerts is null; allowed is an array"),
            (notification(5), "alerts[0] is 5; allowed is an object"),
            (notification(alert(), receiver=5), "receiver is 5; allowed is a string"),
            (notification(groupLabels=[]), "groupLabels is an array; allowed is an"),
            (
                notification(alert(), {**alert(), "labels": {"a": 5}}),
                "alerts[1].labels.a is 5; allowed is a string",
            ),
            (
                notification({**alert(), "annotations": {"a": "\ud800"}}),
                "alerts[0].annotations.a is '\\ud800'; allowed is a string without",
            ),
            (
                notification(alert(status="burning")),
                "alerts[0].status is 'burning'; allowed is 'firing' or 'resolved'",
            ),
            (
                notification({**alert(), "fingerprint": "xyz"}),
                "alerts[0].fingerprint is 'xyz'; allowed is up to 16",
            ),
        ]
        for fields, said in cases:
            self.assertIn(said, self.refused(fields))

    def test_tooMany(self) -> None:
        """The number of alerts is bounded."""
        readAlerts(notification(*[alert()] * MAXALERTS))
        error: Any = self.assertRaises(
            Refused, readAlerts, notification(*[alert()] * (MAXALERTS + 1))
        )
        self.assertEqual(error.reason, Reason.LIMIT)
        self.assertIn("max_alerts", error.detail)


class MatcherTests(SynchronousTestCase):
    """
    Conditions on labels.
    """

    def test_matches(self) -> None:
        """All four operators, of the whole label; a missing label is empty."""
        labels = {"severity": "page", "team": "a b"}
        for text, holds in [
            ("severity = page", True),
            ('severity="page"', True),
            ("severity = pag", False),
            ("severity != page", False),
            ("severity =~ page|critical", True),
            ("severity =~ pa", False),
            ("severity !~ pa.*", False),
            ("severity !~ pa", True),
            ('team = "a b"', True),
            ("team = a b", True),
            ("nope =", True),
            ('nope = ""', True),
            ("nope =~ .+", False),
            ("nope != x", True),
        ]:
            self.assertIs(Matcher.read(text).matches(labels), holds, text)

    def test_wrong(self) -> None:
        """What is no matcher is said so."""
        for text, said in [
            ("severity", "LABEL, then"),
            ("", "LABEL, then"),
            ("a-b = c", "LABEL, then"),
            ('a = "b', "LABEL, then"),
            ("a =~ (", "a RE2 expression after =~ (missing ): ("),
            ("a =~ (?=b)", "a RE2 expression after =~ ("),
        ]:
            error = self.assertRaises(ValueError, Matcher.read, text)
            self.assertIn(said, str(error))


class RequestTests(SynchronousTestCase):
    """
    From an alert to a request.
    """

    def request(self, **table: Any) -> dict[str, Any]:
        """What the first alert becomes."""
        [one] = readAlerts(notification(alert(5, peer="192.0.2.7:443", n="500")))
        return make(**table).request(one)

    def test_plain(self) -> None:
        """Without a template all is as it stands, but for the alertid."""
        given = {**PLAIN, "packets": 10, "timeout": 1.5, "encryption": True}
        self.assertEqual(self.request(**given), {**given, "alertid": 5})

    def test_filledIn(self) -> None:
        """Templates are filled in, in arrays too, and have the type of their key."""
        self.assertEqual(
            self.request(
                bpf="host {{ labels.peer|host }}",
                interface=["{{ labels.alertname|lower }}", "main"],
                packets="{{ labels.n }}",
                timeout="{{ labels.n }}",
                alertid="-{{ labels.n }}",
                logrequest="{{ 'true' if labels.n else 'false' }}",
                tags="{{ status }},{{ annotations.summary }}",
                request_id="{{ fingerprint }}",
            ),
            {
                "node": "any",
                "interface": ["errors", "main"],
                "bpf": "host 192.0.2.7",
                "packets": 500,
                "timeout": 500.0,
                "alertid": -500,
                "logrequest": True,
                "tags": "firing,many errors",
                "request_id": "0000000000000005",
            },
        )

    def test_unfit(self) -> None:
        """What cannot be filled in is refused, with trigger, key and why."""
        for key, text, why in [
            ("bpf", "host {{ labels.instance|host }}", "'web1:9100' has no IP address"),
            ("packets", "{{ labels.peer }}", "'192.0.2.7:443' is no integer"),
            ("timeout", "{{ labels.alertname }}", "'Errors' is no number"),
            ("logrequest", "{{ status }}", "'firing' is neither true nor false"),
            ("tags", "{{ labels.nope }}", "the alert has no 'nope'"),
        ]:
            error: Any = self.assertRaises(Refused, self.request, **{key: text})
            self.assertEqual(error.reason, Reason.INVALID)
            self.assertIn(f"trigger test: {key}: ", error.detail)
            self.assertIn(why, error.detail)

    def test_mistakes(self) -> None:
        """What can never be right is found when the trigger is made."""
        cases: list[tuple[dict[str, Any], str, str]] = [
            ({"nope": 1}, "request.nope", "unknown key of a request"),
            ({"packets": "{{ nope }}"}, "request.packets", "(not nope)"),
            ({"bpf": "host {{ labels.a }}"}, "request.bpf", "ends with |host"),
            ({"nodere": "{{ labels.a }}"}, "request.nodere", "ends with |literal"),
            ({"tags": {"a": "b"}}, "request.tags", "must be text, a number"),
            ({"interface": [5]}, "request.interface", "an array of texts"),
            ({"packets": 0}, "request", "packets is 0; allowed is an integer, 1"),
            ({"packets": "many"}, "request", "'many' is no integer"),
            ({"tags": 5}, "request", "tags is 5; allowed is a string"),
            ({"alias": "{{ labels.a }}"}, "request", "interface, alias: both"),
        ]
        for table, key, said in cases:
            _, mistakes = makeTrigger("test", (), (), 1, 1, {**PLAIN, **table})
            [mistake] = mistakes
            self.assertEqual(mistake.key, key)
            self.assertIn(said, mistake.said)

    def test_everyKey(self) -> None:
        """A template may stand for every key, and is taken for a sound value."""
        for key in KEYS:
            # What excludes each other.
            other = {"nodere": "node", "alias": "interface"}.get(key)
            table = {k: v for k, v in PLAIN.items() if k != other}
            guard = {"bpf": "|port", "nodere": "|literal"}.get(key, "")
            table[key] = "{{ labels.x" + guard + " }}"
            self.assertEqual(makeTrigger("test", (), (), 1, 1, table)[1], [], key)


@implementer(IMessageReceiver)
class _Receiver:
    """
    Answers when the test says so.
    """

    maxmessage = 65536

    def __init__(self) -> None:
        self.waiting: list[Deferred[Answer]] = []

    def receive(self, message: bytes, bus: str) -> Deferred[Answer]:
        d: Deferred[Answer] = Deferred()
        self.waiting.append(d)
        return d

    def oversized(self, size: int, bus: str) -> Answer:
        raise NotImplementedError

    def unauthorized(self, bus: str) -> Answer:
        raise NotImplementedError


class ServiceTests(SynchronousTestCase):
    """
    L{Triggers} before a real intake.
    """

    def setUp(self) -> None:
        self.bench = makeBench(self)
        self.intake = Intake(
            "web1",
            Rules(LIMITS, 65536, {}),
            self.bench.system,
            self.bench.checker,
            self.bench.captures,
            self.bench.events,
            self.bench.clock,
        )
        self.triggers = Triggers(self.intake, self.intake.refuse, self.bench.clock)
        self.triggers.configure([make()])

    def notify(self, *alerts: Any, name: str = "test") -> list[Outcome]:
        """Hand over a notification."""
        message = json.dumps(notification(*alerts)).encode()
        return self.successResultOf(self.triggers.notify(name, message))

    def words(self, *alerts: Any, name: str = "test") -> list[str]:
        """Hand it over; what became of each alert, in a word."""
        return [each.reason or each.outcome for each in self.notify(*alerts, name=name)]

    def test_interface(self) -> None:
        """It is what the listener asks for."""
        verifyObject(ITriggers, self.triggers)
        verifyObject(IMessageReceiver, _Receiver())
        self.assertEqual(self.triggers.names(), ("test",))

    def test_taken(self) -> None:
        """An alert becomes a capture, whose events say where it is from."""
        [outcome] = self.notify(alert(5))
        accepted = self.bench.event("accepted")
        self.assertEqual(outcome, Outcome(f"{5:016x}", "taken", (accepted["id"],)))
        self.assertEqual((accepted["bus"], accepted["alertid"]), ("trigger", 5))

    def test_skipped(self) -> None:
        """What is resolved or does not match becomes none, silently."""
        self.triggers.configure([make(match=("severity = page", "team != lab"))])
        self.assertEqual(
            self.words(
                alert(1, "resolved", severity="page"),
                alert(2, severity="info"),
                alert(3, severity="page", team="lab"),
                alert(4, severity="page"),
            ),
            ["status", "match", "match", "taken"],
        )
        self.assertEqual(self.bench.names(), ["accepted", "armed"])

    def test_resolved(self) -> None:
        """Where both count, each counts for itself."""
        self.triggers.configure([make(status=("firing", "resolved"))])
        self.assertEqual(self.words(alert(1), alert(1, "resolved")), ["taken"] * 2)
        self.assertEqual(self.words(alert(1), alert(1, "resolved")), ["cooldown"] * 2)

    def test_cooldown(self) -> None:
        """The same alert counts once in a while, others for themselves."""
        self.assertEqual(self.words(alert(1), alert(1)), ["taken", "cooldown"])
        self.bench.reactor.advance(59)
        [first, _] = outcomes = self.notify(alert(1), alert(2))
        self.assertEqual([x.outcome for x in outcomes], ["skipped", "taken"])
        self.assertIn("59.0 s ago; cooldown is 60 s", first.detail)
        self.bench.reactor.advance(1)
        self.assertEqual(self.words(alert(1), alert(2)), ["taken", "cooldown"])

    def test_most(self) -> None:
        """However many alerts there are, only some count in a while."""
        words = self.words(*(alert(n) for n in range(5)))
        self.assertEqual(words, ["taken"] * 3 + ["most"] * 2)
        self.bench.reactor.advance(60)
        self.assertEqual(self.words(alert(7)), ["taken"])

    def test_clockSetBack(self) -> None:
        """A clock that is set back does not keep alerts away."""
        self.words(alert(1))
        self.bench.reactor.rightNow -= 3600
        self.assertEqual(self.words(alert(1)), ["taken"])

    def test_refused(self) -> None:
        """What is refused is an event, and may come again at once."""
        self.triggers.configure([make(interface=["{{ labels.dev }}"])])
        self.assertEqual(self.words(alert(1, dev="nope")), ["unknown-interface"])
        self.assertEqual(self.bench.event("rejected")["bus"], "trigger")
        self.assertEqual(self.words(alert(1, dev="eth0")), ["taken"])

    def test_unfit(self) -> None:
        """An alert that does not fit the template is an event, too."""
        self.triggers.configure([make(tags="{{ labels.x }}")])
        [bad, good] = self.notify(alert(1), alert(2, x="y"))
        self.assertEqual((bad.outcome, good.outcome), ("refused", "taken"))
        event = self.bench.event("rejected")
        self.assertEqual(
            (event["reason"], event["detail"], event["alertid"]),
            ("invalid", "trigger test: tags: the alert has no 'x'", 1),
        )
        self.assertEqual((bad.reason, bad.detail), (event["reason"], event["detail"]))

    def test_notOurs(self) -> None:
        """What is for another node is said so, and is not held against it."""
        self.triggers.configure([make(node="{{ labels.instance|hostname }}", most=1)])
        self.assertEqual(
            [x.outcome for x in self.notify(alert(1, instance="web2:1"), alert(2))],
            ["not-ours", "taken"],
        )

    def test_injection(self) -> None:
        """A label cannot say more than its place in the filter is for."""
        self.triggers.configure([make(bpf="host {{ labels.peer|host }}")])
        self.assertEqual(
            self.words(alert(1, peer="1.2.3.4 or not port 1")), ["invalid"]
        )
        self.assertEqual(self.bench.names(), ["rejected"])

    def test_noNotification(self) -> None:
        """What is no notification is refused whole, and is an event."""
        for message, reason in [(b"{", "malformed"), (b"{}", "invalid")]:
            failure = self.failureResultOf(
                self.triggers.notify("test", message), Refused
            )
            self.assertEqual(failure.value.reason, reason)
            event = self.bench.event("rejected")
            self.assertEqual(event["detail"], failure.value.detail)
            self.assertTrue(event["detail"].startswith("trigger test: "))
            self.bench.observed.events.clear()

    def test_reload(self) -> None:
        """Other settings hold from then on, and nothing is captured twice."""
        self.words(alert(1))
        self.triggers.configure([make(cooldown=120), make("other")])
        self.bench.reactor.advance(60)
        self.assertEqual(self.words(alert(1)), ["cooldown"])
        self.assertEqual(self.words(alert(1), name="other"), ["taken"])
        self.triggers.configure([])
        self.assertEqual(self.triggers.names(), ())

    def test_underWay(self) -> None:
        """
        The same alert from elsewhere, while the first one is looked at, is one
        too many, until that is refused.
        """
        receiver = _Receiver()
        self.triggers = Triggers(receiver, self.intake.refuse, self.bench.clock)
        self.triggers.configure([make()])
        message = json.dumps(notification(alert(1))).encode()
        first = self.triggers.notify("test", message)
        self.assertEqual(self.words(alert(1)), ["cooldown"])
        receiver.waiting.pop().callback(Answer(Verdict.REFUSED, (), "busy", "full"))
        self.assertEqual(self.successResultOf(first)[0].reason, "busy")
        self.triggers.notify("test", message)
        self.assertEqual(len(receiver.waiting), 1)

    def test_turns(self) -> None:
        """
        A notification of many alerts lets others have their turn now and then.
        """
        pauses: list[Deferred[None]] = []

        def pause() -> Deferred[None]:
            pauses.append(Deferred())
            return pauses[-1]

        self.triggers = Triggers(
            self.intake, self.intake.refuse, self.bench.clock, pause
        )
        self.triggers.configure([make(most=1)])
        message = notification(*[alert(n) for n in range(45)])
        done = self.triggers.notify("test", json.dumps(message).encode())
        for count in (1, 2):
            self.assertNoResult(done)
            self.assertEqual(len(pauses), count)
            pauses[-1].callback(None)
        self.assertEqual(len(self.successResultOf(done)), 45)
