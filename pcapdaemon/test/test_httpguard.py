# See LICENSE for details.
# mypy: allow-untyped-calls
"""
Tests for L{pcapdaemon.listeners.http.guard}: who may ask.
"""

from __future__ import annotations

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from pcapdaemon.listeners.http import HttpListener
from pcapdaemon.listeners.http.guard import Guard, isLoopback
from pcapdaemon.test.test_http import FakeControl, FakeReceiver, makeServed


class GuardTests(SynchronousTestCase):
    """
    Who may pass.
    """

    def code(self, guard: Guard, headers: dict[str, list[str]]) -> int | None:
        """
        The status with which a request is turned away.
        """
        refusal = guard.refusal(Headers(headers), False)
        return None if refusal is None else refusal.code

    def test_isLoopback(self) -> None:
        """
        Only what cannot be but this machine is loopback.
        """
        for host in ("127.0.0.1", "127.8.9.10", "::1", "localhost", "LocalHost"):
            self.assertTrue(isLoopback(host), host)
        for host in ("", "0.0.0.0", "::", "10.0.0.1", "localhost.evil.example"):
            self.assertFalse(isLoopback(host), host)

    def test_link(self) -> None:
        """
        A link on another site leads to what is public, and to that alone; nothing
        but a reader who follows it gets there.
        """
        guard = Guard(b"", True)
        link = {
            "Host": ["localhost"],
            "Sec-Fetch-Site": ["cross-site"],
            "Sec-Fetch-Mode": ["navigate"],
            "Sec-Fetch-Dest": ["document"],
        }
        self.assertIsNone(guard.refusal(Headers(link), True))
        self.assertIsNotNone(guard.refusal(Headers(link), False))
        for changed in (
            {"Sec-Fetch-Mode": ["no-cors"]},
            {"Sec-Fetch-Dest": ["iframe"]},
            {"Sec-Fetch-Dest": ["document", "document"]},
            {"Host": ["evil.example"]},
            {"Origin": ["http://evil.example"]},
        ):
            refusal = guard.refusal(Headers({**link, **changed}), True)
            self.assertIsNotNone(refusal, changed)

    def test_host(self) -> None:
        """
        On loopback a request names this machine, with any port, and just once.
        """
        guard = Guard(b"", True)
        for host in ("localhost", "127.0.0.1:8477", "[::1]", "[::1]:1", "127.9.9.9"):
            self.assertIsNone(self.code(guard, {"Host": [host]}), host)
        for host in (
            "evil.example",
            "evil.example:8477",
            "127.0.0.1.evil.example",
            "localhost@evil.example",
            "evil.example#localhost",
            "192.0.2.1",
            "[::2]",
            "::1",
            "[::1",
            "localhost:80:80",
            "localhost evil",
            "",
        ):
            self.assertEqual(self.code(guard, {"Host": [host]}), 403, host)
        self.assertEqual(self.code(guard, {}), 403)
        self.assertEqual(self.code(guard, {"Host": ["localhost", "evil"]}), 403)

    def test_bytes(self) -> None:
        """
        A header need not be text of any kind.
        """
        guard = Guard(b"", True)
        headers = Headers({b"Host": [b"\xff\xfe"]})
        self.assertIsNotNone(guard.refusal(headers, False))
        headers = Headers({b"Host": [b"localhost"], b"Origin": [b"\xff"]})
        self.assertIsNotNone(guard.refusal(headers, False))

    def test_hostElsewhere(self) -> None:
        """
        Where others may connect, they may call this machine what they like.
        """
        guard = Guard(b"secret", False)
        headers = {"Host": ["node7"], "Authorization": ["Bearer secret"]}
        self.assertIsNone(self.code(guard, headers))

    def test_origin(self) -> None:
        """
        A page may ask only where it came from.
        """
        guard = Guard(b"", True)
        host = {"Host": ["localhost:8477"]}
        for origin in ("http://localhost:8477", "http://LOCALHOST:8477"):
            self.assertIsNone(self.code(guard, {**host, "Origin": [origin]}), origin)
        for origin in ("http://evil.example", "http://localhost:3000", "null", ""):
            self.assertEqual(self.code(guard, {**host, "Origin": [origin]}), 403)
        for site, code in (
            ("same-origin", None),
            ("none", None),
            ("same-site", 403),
            ("cross-site", 403),
        ):
            self.assertEqual(
                self.code(guard, {**host, "Sec-Fetch-Site": [site]}), code, site
            )

    def test_token(self) -> None:
        """
        Only the very token passes.
        """
        guard = Guard("schlüssel".encode(), False)
        for value in ("Bearer schlüssel", "bearer  schlüssel"):
            self.assertIsNone(self.code(guard, {"Authorization": [value]}), value)
        for value in (
            "Bearer schlüsse",
            "Bearer schlüssell",
            "Bearer ",
            "Bearer",
            "schlüssel",
            "Basic schlüssel",
            "",
        ):
            self.assertEqual(self.code(guard, {"Authorization": [value]}), 401, value)
        self.assertEqual(self.code(guard, {}), 401)
        twice = ["Bearer schlüssel", "Bearer schlüssel"]
        self.assertEqual(self.code(guard, {"Authorization": twice}), 401)

    def test_secret(self) -> None:
        """
        The token does not show in what is printed of a guard.
        """
        self.assertNotIn("secret", repr(Guard(b"secret", True)))

    def test_wide(self) -> None:
        """
        There is no listener for others than this machine without a token.
        """
        for host in ("0.0.0.0", "", "192.0.2.1", "node7"):
            with self.assertRaises(ValueError):
                HttpListener(
                    MemoryReactorClock(),
                    host,
                    8477,
                    "",
                    makeServed(FakeReceiver(), FakeControl()),
                )
