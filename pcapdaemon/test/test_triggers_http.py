# See LICENSE for details.
# mypy: allow-untyped-calls
"""
Tests for C{POST /triggers/NAME}: what Alertmanager is answered, over a real port.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor

from pcapdaemon.interfaces import Answer, Reason, Refused, Verdict
from pcapdaemon.listeners.http import Served
from pcapdaemon.test.test_http import (
    JSON,
    TAKEN,
    ListenerTestCase,
    Response,
    makeServed,
)
from pcapdaemon.test.test_triggers import alert, make, notification
from pcapdaemon.triggers.service import Triggers


class _Tests(ListenerTestCase):
    """
    A listener with a trigger C{test}, whose requests get the receiver's answer.
    """

    def makeServed(self) -> Served:
        """
        What it serves.
        """
        self.refused: list[tuple[Refused, Any]] = []
        self.triggers = Triggers(self.receiver, self.refuse, reactor.seconds)
        self.triggers.configure([make(cooldown=1e6)])
        return makeServed(self.receiver, self.control, triggers=self.triggers)

    def refuse(self, refused: Refused, fields: Any, bus: str) -> Answer:
        """
        Remember it.
        """
        self.refused.append((refused, fields))
        return Answer(Verdict.REFUSED, (), refused.reason, refused.detail)

    async def notify(self, *alerts: Any) -> Response:
        """
        Post a notification.
        """
        body = json.dumps(notification(*alerts)).encode()
        return await self.request("POST", "/triggers/test", JSON, body)


class RouteTests(_Tests):
    """
    Statuses and bodies.
    """

    async def test_taken(self) -> None:
        """
        202, with the captures of each alert.
        """
        response = await self.notify(alert(1), alert(2, "resolved"))
        self.assertEqual(response.code, 202)
        self.assertEqual(
            response.json(),
            {
                "alerts": [
                    {
                        "fingerprint": f"{1:016x}",
                        "outcome": "taken",
                        "ids": ["a1", "b2"],
                    },
                    {
                        "fingerprint": f"{2:016x}",
                        "outcome": "skipped",
                        "reason": "status",
                        "detail": "it is resolved",
                    },
                ]
            },
        )
        [(message, bus)] = self.receiver.messages
        self.assertEqual(json.loads(message)["alertid"], 1)
        self.assertEqual(bus, "trigger")

    async def test_nothingToDo(self) -> None:
        """
        200, where all are skipped or for other nodes: nothing to repeat.
        """
        self.receiver.answer = Answer(Verdict.NOT_OURS)
        response = await self.notify(alert(1), alert(2, "resolved"))
        self.assertEqual(response.code, 200)
        self.assertEqual(response.json()["alerts"][0]["outcome"], "not-ours")

    async def test_transient(self) -> None:
        """
        503, which Alertmanager repeats (unlike 429), where there is no room now;
        what has been taken is then not taken again.
        """
        await self.notify(alert(1))
        for reason in (Reason.BUSY, Reason.CLOSING):
            self.receiver.answer = Answer(Verdict.REFUSED, (), reason, "not now")
            response = await self.notify(alert(1), alert(2))
            self.assertEqual(response.code, 503)
            self.assertEqual(response.header("Retry-After"), "5")
        self.receiver.answer = TAKEN
        response = await self.notify(alert(1), alert(2))
        self.assertEqual(response.code, 202)
        self.assertEqual(
            [each["outcome"] for each in response.json()["alerts"]],
            ["skipped", "taken"],
        )

    async def test_permanent(self) -> None:
        """
        422, which Alertmanager does not repeat, where it would be in vain.
        """
        self.receiver.answer = Answer(Verdict.REFUSED, (), Reason.LIMIT, "packets ...")
        response = await self.notify(alert(1))
        self.assertEqual(response.code, 422)
        self.assertEqual(
            response.json()["alerts"],
            [
                {
                    "fingerprint": f"{1:016x}",
                    "outcome": "refused",
                    "reason": "limit",
                    "detail": "packets ...",
                }
            ],
        )

    async def test_duplicate(self) -> None:
        """
        A trigger that is too soon for C{[capture] cooldown} is nobody's failure.
        """
        self.receiver.answer = Answer(Verdict.REFUSED, (), Reason.DUPLICATE, "...")
        self.assertEqual((await self.notify(alert(1))).code, 200)

    async def test_noNotification(self) -> None:
        """
        What is none has the status of its reason, as elsewhere.
        """
        for body, code, reason in [
            (b"{", 400, "malformed"),
            (b"[]", 400, "malformed"),
            (b'{"version": "3"}', 422, "invalid"),
        ]:
            response = await self.request("POST", "/triggers/test", JSON, body)
            self.assertEqual(response.code, code)
            self.assertEqual(response.json()["reason"], reason)
        self.assertEqual(len(self.refused), 3)

    async def test_tooLarge(self) -> None:
        """
        A notification is bounded like any message, and told like one.
        """
        response = await self.notify(*(alert(n) for n in range(10)))
        self.assertEqual(response.code, 413)
        self.assertEqual(len(self.receiver.sizes), 1)
        self.assertEqual(self.receiver.messages, [])

    async def test_elsewhere(self) -> None:
        """
        There is nothing at other names, nor without one, and only POST.
        """
        for method, path, code in [
            ("POST", "/triggers", 404),
            ("GET", "/triggers/", 404),
            ("POST", "/triggers/nope", 404),
            ("POST", "/triggers/test/x", 404),
            ("GET", "/triggers/test", 405),
        ]:
            response = await self.request(method, path, JSON, b"{}")
            self.assertEqual(response.code, code, path)

    async def test_kind(self) -> None:
        """
        A form of a web page is not looked at.
        """
        headers = {"Content-Type": ["text/plain"]}
        response = await self.request("POST", "/triggers/test", headers, b"{}")
        self.assertEqual(response.code, 415)

    async def test_reload(self) -> None:
        """
        Triggers come and go while it listens.
        """
        self.triggers.configure([make("other")])
        self.assertEqual((await self.notify(alert(1))).code, 404)
        body = json.dumps(notification(alert(1))).encode()
        response = await self.request("POST", "/triggers/other", JSON, body)
        self.assertEqual(response.code, 202)


class TokenTests(_Tests):
    """
    Where there is a token.
    """

    token = "0123456789abcdef"

    async def test_token(self) -> None:
        """
        It is asked for, and who does not know it is told of.
        """
        self.assertEqual((await self.notify(alert(1))).code, 401)
        self.assertEqual(self.receiver.strangers, ["trigger"])
        headers = {**JSON, "Authorization": [f"Bearer {self.token}"]}
        body = json.dumps(notification(alert(1))).encode()
        response = await self.request("POST", "/triggers/test", headers, body)
        self.assertEqual(response.code, 202)
