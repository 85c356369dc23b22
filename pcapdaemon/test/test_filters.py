# See LICENSE for details.
"""
Tests of L{pcapdaemon.capture.filters} with real children.
"""

from __future__ import annotations

import os
import signal
from typing import Any
from unittest import SkipTest

from zope.interface.verify import verifyObject

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import TestCase

from pcapdaemon.capture.filters import FilterChecker, Resolver
from pcapdaemon.interfaces import IFilterChecker, Reason, Refused

_ETHERNET, _RAW, _COOKED = 1, 12, 113
#: Keeps the optimizer of libpcap 1.9 busy for ever.
_ENDLESS = "(ip[1]=1||ip[2]=1)&&!(ip[1]=2||ip[2]=2)"
_LONG = " or ".join(f"host 10.0.{n >> 8}.{n & 255}" for n in range(1000))


class _HalfReal(Clock):
    """
    Real processes and a time that the test makes.
    """

    def spawnProcess(self, *args: Any, **kwargs: Any) -> Any:
        """Have the real reactor do it."""
        return reactor.spawnProcess(*args, **kwargs)


class _RealTests(TestCase):
    """
    What tests with real children share.
    """

    async def start(self, using: Any = reactor, **limits: Any) -> FilterChecker:
        """Make a checker whose children are ready, on a machine however slow."""
        checker = FilterChecker(using, **{"children": 2, "wall": 60, **limits})
        checker.startService()
        self.addCleanup(checker.stopService)
        await checker.whenReady()
        return checker

    async def refusal(
        self, checker: FilterChecker, filter: str, linkType: int = _ETHERNET
    ) -> tuple[str, str]:
        """Have a filter refused, and say how."""
        with self.assertRaises(Refused) as caught:
            await checker.check(filter, linkType, 65535)
        return caught.exception.reason, caught.exception.detail

    async def replaced(self, checker: FilterChecker, old: list[int]) -> None:
        """Wait until none of some children is there, but as many others are."""
        while set(old) & set(checker.pids()):
            await deferLater(reactor, 0.005)
        await checker.whenReady()


class VerdictTests(_RealTests):
    """
    Filters that need no look-up, compiled by real children.
    """

    async def test_provides(self) -> None:
        """
        The checker provides what the intake expects.
        """
        verifyObject(IFilterChecker, FilterChecker(reactor))

    async def test_sound(self) -> None:
        """
        Sound filters come back unchanged, names of ports and protocols and the
        directions of live captures included; the empty one is not even asked for.
        """
        checker = await self.start()
        for filter in ("tcp port https", "ip proto \\udp", "vlan 5 and inbound"):
            self.assertEqual(await checker.check(filter, _ETHERNET, 96), filter)
        self.assertEqual(self.successResultOf(checker.check("", _ETHERNET, 96)), "")

    async def test_unsound(self) -> None:
        """
        A filter that libpcap does not take is refused with the key, the filter
        and libpcap's words, whatever is in it.
        """
        checker = await self.start()
        for filter, words in (
            ("tcp prot 80", "syntax error"),
            ("outbound prot 80", "syntax error"),
            ("port nosuchport", "unknown port 'nosuchport'"),
            ("net nosuchnet", "unknown network 'nosuchnet'"),
            ("ether host nosuchhost", "unknown ether host 'nosuchhost'"),
            ("inbound and outbound", "libpcap does not take it"),
            ("(" * 30_000, "memory exhausted"),
            ("tcp\0", "null"),
            ("\ud800", "surrogates"),
            ("host \\\x1b", "'\\x1b' is a host name"),
        ):
            reason, detail = await self.refusal(checker, filter)
            self.assertEqual(reason, Reason.BAD_FILTER)
            self.assertTrue(detail.startswith("bpf: " + repr(filter[:80])[:-1]))
            self.assertTrue(detail.isprintable())
            self.assertIn(words, detail)

    async def test_linkType(self) -> None:
        """
        The same filter may be sound on one kind of device and not on another.
        """
        checker = await self.start()
        for filter in ("vlan", "ether host 02:00:00:00:00:01"):
            await checker.check(filter, _ETHERNET, 65535)
            for linkType in (_RAW, _COOKED):
                reason, _ = await self.refusal(checker, filter, linkType)
                self.assertEqual(reason, Reason.BAD_FILTER)

    async def test_hostName(self) -> None:
        """
        Without a resolver a host name is refused with what would allow it, one
        in the system's own table too.
        """
        checker = await self.start()
        for name in ("web.example", "localhost"):
            reason, detail = await self.refusal(checker, f"outbound and host {name}")
            self.assertEqual(reason, Reason.BAD_FILTER)
            self.assertIn(f"'{name}' is a host name", detail)
            self.assertIn("[capture] resolve = true", detail)

    async def test_evil(self) -> None:
        """
        The three filters that stop a naive daemon are refused, each with its
        reason, when they come at once; others work beside and after them.
        """
        checker = await self.start()
        good = checker.check("udp", _ETHERNET, 65535)
        outcomes = await gatherResults(
            Deferred.fromCoroutine(self.refusal(checker, filter))
            for filter in (_ENDLESS, _LONG, "host dead.example")
        )
        self.assertEqual(
            [reason for reason, _ in outcomes],
            [Reason.TOO_COMPLEX, Reason.TOO_COMPLEX, Reason.BAD_FILTER],
        )
        self.assertEqual(await good, "udp")
        self.assertEqual(await checker.check("tcp", _ETHERNET, 65535), "tcp")
        self.assertEqual(checker.kills, 2)
        await checker.whenReady()

    async def test_vlan(self) -> None:
        """
        What a live handle alone would find endless is found, too.
        """
        if os.getuid() != 0:
            raise SkipTest("a live handle needs CAP_NET_RAW")
        checker = await self.start()
        self.assertEqual(await checker.check("vlan 5", _ETHERNET, 65535), "vlan 5")
        evil = f"arp or (ip and vlan and ({_ENDLESS}))"
        reason, _ = await self.refusal(checker, evil)
        self.assertEqual(reason, Reason.TOO_COMPLEX)
        reason, detail = await self.refusal(checker, "vlan and")
        self.assertEqual(reason, Reason.BAD_FILTER)
        self.assertIn("syntax error", detail)
        wireless = "vlan and wlan type data"
        self.assertEqual(await checker.check(wireless, 105, 65535), wireless)
        await checker.whenReady()

    async def test_expensive(self) -> None:
        """
        A filter that takes more CPU than a good one may is refused, though it
        compiles in the end.
        """
        checker = await self.start(cheap=0.0)
        reason, detail = await self.refusal(checker, "tcp")
        self.assertEqual(reason, Reason.TOO_COMPLEX)
        self.assertIn("of CPU time", detail)
        self.assertEqual(checker.kills, 0)

    async def test_many(self) -> None:
        """
        A thousand different filters at once are all answered.
        """
        checker = await self.start()
        filters = [f"tcp port {port}" for port in range(1, 1001)]
        checks = [checker.check(filter, _ETHERNET, 65535) for filter in filters]
        self.assertEqual(await gatherResults(checks), filters)


class LifeTests(_RealTests):
    """
    Real children that get stuck, die and are ended.
    """

    async def test_stuck(self) -> None:
        """
        While one child is stuck the other one answers; when the time is over it
        is killed and replaced, and its filter refused.
        """
        clock = _HalfReal()
        checker = await self.start(clock, most=3600)
        before = checker.pids()
        stuck = checker.check(_ENDLESS, _ETHERNET, 65535)
        self.assertEqual(await checker.check("tcp", _ETHERNET, 65535), "tcp")
        self.assertNoResult(stuck)
        clock.advance(60)
        self.assertEqual(self.failureResultOf(stuck).value.reason, Reason.TOO_COMPLEX)
        self.assertEqual(checker.kills, 1)
        await checker.whenReady()
        self.assertEqual(len(set(before) & set(checker.pids())), 1)

    async def test_killedIdle(self) -> None:
        """
        The death of an idle child goes unnoticed by those who ask.
        """
        checker = await self.start(children=1)
        before = checker.pids()
        os.kill(before[0], signal.SIGKILL)
        self.assertEqual(await checker.check("tcp", _ETHERNET, 65535), "tcp")
        await self.replaced(checker, before)

    async def test_killedBusy(self) -> None:
        """
        A filter whose child is killed by somebody is tried once more, and then
        refused as no fault of its own, and not remembered.
        """
        checker = await self.start(children=1, most=3600, wall=3600)
        stuck = checker.check(_ENDLESS, _ETHERNET, 65535)
        for _ in range(2):
            before = checker.pids()
            self.assertNoResult(stuck)
            os.kill(before[0], signal.SIGKILL)
            await self.replaced(checker, before)
        self.assertEqual(self.failureResultOf(stuck).value.reason, Reason.BUSY)
        self.assertNoResult(checker.check(_ENDLESS, _ETHERNET, 65535).addErrback(str))

    async def test_stop(self) -> None:
        """
        Stopping refuses what waits and leaves no process, not even a stuck one.
        """
        checker = await self.start(children=1, most=3600, wall=3600)
        pids = checker.pids()
        filters = (_ENDLESS, "tcp", "udp")
        waiting = [checker.check(filter, _ETHERNET, 65535) for filter in filters]
        stopped = checker.stopService()
        waiting.append(checker.check("icmp", _ETHERNET, 65535))
        for one in waiting:
            self.assertEqual(self.failureResultOf(one).value.reason, Reason.CLOSING)
        await stopped
        for pid in pids:
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    async def test_restart(self) -> None:
        """
        A checker that was stopped can be started again.
        """
        checker = await self.start()
        await checker.stopService()
        checker.startService()
        self.assertEqual(await checker.check("tcp", _ETHERNET, 65535), "tcp")


class NameTests(_RealTests):
    """
    Host names, replaced by a resolver's addresses.
    """

    addresses = {
        "web": ["192.0.2.1"],
        "web.example": ["192.0.2.2", "2001:db8::2", "192.0.2.2"],
        "tcp": ["192.0.2.3"],
        "odd": ["fe80::1%lo", "192.0.2.4 or tcp", ""],
        "many": [f"192.0.2.{n}" for n in range(17)],
        **{f"h{n}": [f"192.0.2.{n}"] for n in range(9)},
    }

    def resolve(self, name: str) -> Deferred[list[str]]:
        """Look a name up above."""
        self.asked.append(name)
        if name not in self.addresses:
            return fail(OSError(f"no {name} today"))
        return succeed(self.addresses[name])

    def setUp(self) -> None:
        """Nothing has been asked for."""
        self.asked: list[str] = []
        self.resolver: Resolver = self.resolve

    async def test_replaced(self) -> None:
        """
        Each whole word that is the name becomes its addresses, of the one
        family where libpcap takes no other; longer words and keywords stay.
        """
        checker = await self.start(resolver=self.resolver)
        both = "(192.0.2.2 or 2001:db8::2)"
        for filter, expected in (
            ("host web", "host 192.0.2.1"),
            ("src web.example and tcp", f"src {both} and tcp"),
            ("inbound and !host web", "inbound and !host 192.0.2.1"),
            ("host (web or web.example)", f"host (192.0.2.1 or {both})"),
            ("ip host web.example", "ip host 192.0.2.2"),
            ("ip6 host web.example", "ip6 host 2001:db8::2"),
            (
                "ip host web.example or dst \\web.example or dst web",
                # The place behind the backslash is another one to libpcap.
                f"ip host 192.0.2.2 or dst {both} or dst 192.0.2.1",
            ),
            ("host \\tcp and tcp", "host 192.0.2.3 and tcp"),
        ):
            got = await checker.check(filter, _ETHERNET, 65535)
            self.assertEqual(got, expected)

    async def test_refused(self) -> None:
        """
        A name without good addresses, one with too many, one too many names,
        and one that libpcap does not take as an address are refused by name.
        """
        checker = await self.start(resolver=self.resolver)
        nine = " or ".join(f"host h{n}" for n in range(9))
        for filter, words in (
            ("host gone", "'gone' cannot be resolved: no gone today"),
            ("host odd", "'odd' has no address"),
            ("host many", "'many' has 17 addresses"),
            ("host web-", "unknown host 'web'"),
            ("host web and port web", "'port' modifier applied to ip host"),
            (nine, "more than 8 host names"),
        ):
            reason, detail = await self.refusal(checker, filter)
            self.assertEqual(reason, Reason.BAD_FILTER)
            self.assertIn(words, detail)

    async def test_dead(self) -> None:
        """
        A resolver that never answers gets one second for the whole filter.
        """
        clock = _HalfReal()
        silent: dict[str, Deferred[list[str]]] = {"a": Deferred(), "b": Deferred()}
        asked: Deferred[None] = Deferred()

        def resolve(name: str) -> Deferred[list[str]]:
            if name == "b":
                reactor.callLater(0, asked.callback, None)
            else:
                clock.callLater(0.7, silent["a"].callback, ["192.0.2.1"])
                reactor.callLater(0, clock.advance, 0.7)
            return silent[name]

        checker = await self.start(clock, resolver=resolve)
        check = checker.check("host a or host b", _ETHERNET, 65535)
        await asked
        clock.advance(0.29)
        self.assertNoResult(check)
        clock.advance(0.02)
        refused = self.failureResultOf(check, Refused).value
        self.assertEqual(refused.reason, Reason.BAD_FILTER)
        self.assertIn("'b' cannot be resolved", refused.detail)

    async def test_forgotten(self) -> None:
        """
        Addresses are kept for half a minute, and not beyond a new resolver.
        """
        clock = _HalfReal()
        checker = await self.start(clock, resolver=self.resolver)
        for wait, asked in ((29.9, 1), (0.2, 1), (0, 2)):
            await checker.check("host web", _ETHERNET, 65535)
            self.assertEqual(len(self.asked), asked)
            clock.advance(wait)
        checker.resolver = None
        reason, _ = await self.refusal(checker, "host web")
        self.assertEqual(reason, Reason.BAD_FILTER)
