# See LICENSE for details.
"""
Tests for L{pcapdaemon.listeners.redis} against a real server.
"""

from __future__ import annotations

from typing import Any

import trustme

from twisted.internet import reactor
from twisted.trial.unittest import SkipTest, TestCase

from pcapdaemon.listeners.redis import RedisListener
from pcapdaemon.test.servers import RedisServer, freePort, missing, until
from pcapdaemon.test.test_redis import ERROR, EVERYTHING, WARN, Messages, collectLog


class _ServerCase(TestCase):
    """
    What the tests against a real server need.
    """

    skip = missing("redis-server")

    def setUp(self) -> None:
        """
        Make a server, which each test starts as it likes.
        """
        self.server = RedisServer(self, reactor)
        self.messages = Messages()
        self.logged = collectLog(self)

    def listen(self, **settings: Any) -> RedisListener:
        """
        Start a listener.
        """
        if "port" not in settings:
            settings["port"] = self.server.port
        listener = RedisListener(reactor, self.messages, **settings)
        listener.startService()
        self.addCleanup(lambda: listener.stopService() if listener.running else None)
        return listener

    async def subscribed(self, listener: RedisListener) -> None:
        """
        Wait for the subscription.
        """
        await until(reactor, lambda: listener.connected, "subscribed")

    async def arrives(self, *messages: bytes) -> None:
        """
        Publish messages and see that they, and no others, arrive as they are.
        """
        del self.messages.received[:]
        for message in messages:
            self.assertEqual(self.server.publish("capture", message), 1)
        await until(
            reactor, lambda: len(self.messages.received) >= len(messages), "messages"
        )
        self.assertEqual(self.messages.received, list(messages))

    async def errors(self, count: int) -> list[str]:
        """
        Wait for so many more errors in the log.
        """
        before = len(self.logged(ERROR))
        await until(
            reactor, lambda: len(self.logged(ERROR)) >= before + count, "errors"
        )
        return self.logged(ERROR)[before:]


class ServerTests(_ServerCase):
    """
    The listener against a server that speaks plainly.
    """

    async def test_messages(self) -> None:
        """
        Messages arrive byte for byte, whatever they are, from the first one
        after the subscription on.
        """
        await self.server.start()
        listener = self.listen()
        self.assertFalse(listener.connected)
        await self.subscribed(listener)
        await self.arrives(
            b'{"node": "any"}',
            b"0123",
            b"1.5",
            b"",
            b"\xff\xfe\x00",
            b"QUEUED",
            b"\r\n",
        )
        await self.arrives(bytes(range(256)) * 40 * 1024, b"after 10 MB")

    async def test_channel(self) -> None:
        """
        Only the messages of the channel arrive, also if its name is not ASCII.
        """
        await self.server.start()
        await self.subscribed(self.listen(channel="Störung"))
        self.assertEqual(self.server.publish("capture", b"other"), 0)
        self.assertEqual(self.server.publish("Störung", b"ours"), 1)
        await until(reactor, lambda: self.messages.received, "message")
        self.assertEqual(self.messages.received, [b"ours"])

    async def test_password(self) -> None:
        """
        A password is enough for a server that has just one.
        """
        await self.server.start(password="hunter2")
        await self.subscribed(self.listen(password="hunter2"))
        await self.arrives(b"x")
        self.assertEqual(self.logged(ERROR), [])

    async def test_wrongPassword(self) -> None:
        """
        A wrong password is an error in the log at every attempt, without the
        password, and no more as soon as the server has it.
        """
        await self.server.start(password="right")
        listener = self.listen(password="hunter2")
        for error in await self.errors(3):
            self.assertIn("WRONGPASS", error)
            self.assertIn(f"127.0.0.1:{self.server.port}", error)
        self.assertFalse(listener.connected)
        self.server.command("CONFIG", "SET", "requirepass", "hunter2")
        self.server.password = "hunter2"
        await self.subscribed(listener)
        await self.arrives(b"x")
        self.assertEqual(self.server.subscribers(), 1)
        self.assertNotIn("hunter2", " ".join(self.logged(*EVERYTHING)))

    async def test_noPassword(self) -> None:
        """
        A server that wants a password which is not configured is an error too.
        """
        await self.server.start(password="right")
        self.listen()
        [error] = await self.errors(1)
        self.assertIn("NOAUTH", error)

    async def test_user(self) -> None:
        """
        A user of an access control list subscribes to its channel.
        """
        await self.server.start()
        self.server.command(
            "ACL", "SETUSER", "pcap", "on", ">secret", "&capture", "+subscribe", "+ping"
        )
        await self.subscribed(self.listen(username="pcap", password="secret"))
        await self.arrives(b"x")

    async def test_noPermission(self) -> None:
        """
        A user who may not have the channel is an error at every attempt, which
        leaves no connection behind, and is mended when he may.
        """
        await self.server.start()
        user = ("ACL", "SETUSER", "pcap", "on", ">secret", "+subscribe", "+ping")
        self.server.command(*user, "&other")
        listener = self.listen(username="pcap", password="secret")
        for error in await self.errors(3):
            self.assertIn("NOPERM", error)
        self.assertTrue(self.server.subscribers() <= 1)
        self.server.command(*user, "&capture")
        await self.subscribed(listener)
        await self.arrives(b"x")
        self.assertEqual(self.server.subscribers(), 1)

    async def test_startsLater(self) -> None:
        """
        A server that is not there yet is waited for.
        """
        port = freePort()
        listener = self.listen(port=port)
        await until(reactor, lambda: self.logged(WARN), "warning")
        await self.server.start(port=port)
        await self.subscribed(listener)
        await self.arrives(b"x")

    async def test_restarts(self) -> None:
        """
        After the server was killed and started again, time and again, there is
        one subscription, over one connection.
        """
        await self.server.start()
        listener = self.listen()
        for n in range(5):
            await self.subscribed(listener)
            await self.arrives(b"%d" % n)
            await self.server.kill()
            await until(reactor, lambda: not listener.connected, "noticed")
            await self.server.restart()
        await self.subscribed(listener)
        await self.arrives(b"last")
        self.assertEqual(self.server.subscribers(), 1)

    async def test_frozen(self) -> None:
        """
        A server that stands still with open sockets is noticed, and found
        again when it goes on.
        """
        await self.server.start()
        listener = self.listen(ping=0.2)
        await self.subscribed(listener)
        self.server.pause()
        await until(reactor, lambda: not listener.connected, "noticed")
        self.server.resume()
        await self.subscribed(listener)
        await self.arrives(b"x")
        await until(reactor, lambda: self.server.subscribers() == 1, "one connection")

    async def test_kicked(self) -> None:
        """
        A connection that the server ends is made anew.
        """
        await self.server.start()
        listener = self.listen()
        await self.subscribed(listener)
        self.server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(reactor, lambda: not listener.connected, "noticed")
        await self.subscribed(listener)
        await self.arrives(b"x")

    async def test_stop(self) -> None:
        """
        After a stop nothing is handed over and the connection is closed; the
        service can be started again.
        """
        await self.server.start()
        listener = self.listen()
        await self.subscribed(listener)
        await listener.stopService()
        self.assertFalse(listener.connected)
        self.server.publish("capture", b"late")
        await until(reactor, lambda: self.server.subscribers() == 0, "closed")
        listener.startService()
        await self.subscribed(listener)
        await self.arrives(b"x")

    async def test_stopFrozen(self) -> None:
        """
        A stop does not wait for a server that stands still.
        """
        await self.server.start()
        listener = self.listen()
        await self.subscribed(listener)
        self.server.pause()
        await listener.stopService()
        self.assertFalse(listener.connected)


class TLSTests(_ServerCase):
    """
    The listener against a server with a certificate.
    """

    async def startTLS(self) -> None:
        """
        Start a server that also has a port for TLS.
        """
        authority = trustme.CA()
        directory = self.server.directory
        self.trusted, self.stranger = f"{directory}/ca.pem", f"{directory}/other.pem"
        stranger = trustme.CA().cert_pem
        stranger.write_to_path(self.stranger)
        # The right one among several.
        stranger.write_to_path(self.trusted)
        authority.cert_pem.write_to_path(self.trusted, append=True)
        certificate = authority.issue_cert("127.0.0.1")
        certificate.private_key_and_cert_chain_pem.write_to_path(f"{directory}/own.pem")
        self.port = freePort()
        options = (
            f"--tls-port {self.port} --tls-cert-file own.pem --tls-key-file own.pem "
            "--tls-ca-cert-file ca.pem --tls-auth-clients no"
        )
        try:
            await self.server.start(args=options.split())
        except AssertionError as e:
            if "Bad directive" in str(e):
                raise SkipTest("redis-server was built without TLS") from e
            raise

    async def test_ownAuthority(self) -> None:
        """
        With its authority in C{cafile} the server is believed, restarts and
        large messages included.
        """
        await self.startTLS()
        listener = self.listen(port=self.port, tls=True, cafile=self.trusted)
        await self.subscribed(listener)
        await self.arrives(b"x", bytes(1_000_000), b"y")
        await self.server.restart()
        await until(reactor, lambda: len(self.logged(WARN)) > 0, "noticed")
        await self.subscribed(listener)
        await self.arrives(b"z")
        await until(reactor, lambda: self.server.subscribers() == 1, "one connection")

    async def test_stranger(self) -> None:
        """
        A server of another authority is refused, and gets no password.
        """
        await self.startTLS()
        listener = self.listen(
            port=self.port, tls=True, cafile=self.stranger, password="hunter2"
        )
        await until(reactor, lambda: self.logged(WARN), "warning")
        self.assertIn("certificate verify failed", self.logged(WARN)[0])
        self.assertFalse(listener.connected)
        self.assertEqual(self.server.command("INFO", "commandstats").count(b"auth"), 0)

    async def test_system(self) -> None:
        """
        Without C{cafile} the authorities of the system count.
        """
        await self.startTLS()
        listener = self.listen(port=self.port, tls=True)
        await until(reactor, lambda: self.logged(WARN), "warning")
        self.assertIn("certificate verify failed", self.logged(WARN)[0])
        self.assertFalse(listener.connected)

    async def test_stopFrozen(self) -> None:
        """
        A stop does not wait for the farewell of a server that stands still.
        """
        await self.startTLS()
        listener = self.listen(port=self.port, tls=True, cafile=self.trusted)
        await self.subscribed(listener)
        self.server.pause()
        await listener.stopService()
        self.assertFalse(listener.connected)

    def test_unreadable(self) -> None:
        """
        A C{cafile} that cannot be read or holds nothing is told at once.
        """
        missing = f"{self.server.directory}/missing.pem"
        self.assertRaises(
            OSError, RedisListener, reactor, self.messages, tls=True, cafile=missing
        )
        self.assertRaises(
            ValueError, RedisListener, reactor, self.messages, tls=True, cafile=__file__
        )
