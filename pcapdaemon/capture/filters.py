# See LICENSE for details.
"""
Filters from outside, shown to a limited child process before libpcap in this
one sees them.

Some short filters keep libpcap's compiler busy for ever, some long ones for a
minute, and a host name for as long as the DNS likes, all of it with the
interpreter locked. A few warm children compile each filter first, under limits
of CPU, time and memory, with every look-up of host names switched off; one
that gets stuck is killed and replaced. Host names, where they are allowed, are
resolved here and reach libpcap as addresses.
"""

from __future__ import annotations

import ipaddress
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Any

import attrs
from zope.interface import implementer

from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from pcapdaemon.capture.filterpool import Answer, FilterPool
from pcapdaemon.interfaces import IFilterChecker, Reason, Refused

#: A host name to the addresses that it has.
Resolver = Callable[[str], Deferred[list[str]]]

_unknownHost = re.compile(r"unknown host '(.*)'", re.DOTALL)
#: The words of libpcap's scanner: one after a backslash ends at less.
_word = re.compile(r"\\[^ !()\n\t]+|[-_.:/A-Za-z0-9]+")


@attrs.frozen
class _Verdict:
    """
    What is known of one filter.

    @ivar filter: The filter to use, if it is good.
    @ivar reason: Else one of the words of L{Reason}.
    @ivar detail: With a reason, the sentence for it.
    @ivar until: When it is to be forgotten.
    """

    filter: str
    reason: str = ""
    detail: str = ""
    until: float = inf

    def tell(self, waiting: Deferred[str]) -> None:
        """
        Hand it to one who waits for it.
        """
        if self.reason:
            waiting.errback(Refused(self.reason, self.detail))
        else:
            waiting.callback(self.filter)


@attrs.define(eq=False)
class _Judging:
    """
    A filter that is being looked at.

    @ivar waiting: Those who want to know.
    @ivar task: The work.
    """

    waiting: list[Deferred[str]]
    task: Deferred[None] | None = None


@implementer(IFilterChecker)
class FilterChecker(Service):
    """
    The filters that may be shown to libpcap.

    @ivar checks: How many questions there were.
    @ivar hits: How many of them the cache answered.
    """

    def __init__(
        self,
        reactor: Any,
        resolver: Resolver | None = None,
        children: int = 3,
        *,
        cheap: float = 0.05,
        most: float = 0.25,
        wall: float = 0.5,
        memory: int = 512 * 1024 * 1024,
        resolvetimeout: float = 1.0,
        maxnames: int = 8,
        maxaddresses: int = 16,
        cachesize: int = 4_096,
        keep: float = 30.0,
        maxwaiting: int = 10_000,
    ) -> None:
        """
        @param reactor: An C{IReactorProcess} and C{IReactorTime}.
        @param resolver: How host names in filters become addresses; L{None}
            refuses them.
        @param children: How many processes compile: while two are stuck, another
            one takes over at once.
        @param cheap: Seconds of CPU that compiling may take in a good filter.
        @param most: Seconds of CPU after which a compile is ended.
        @param wall: Seconds after which a child that does not answer is killed.
        @param memory: Bytes of address space for each child.
        @param resolvetimeout: Seconds for all the names of one filter.
        @param maxnames: The most host names in one filter.
        @param maxaddresses: The most addresses that one of them may have.
        @param cachesize: How many verdicts are remembered.
        @param keep: Seconds for which one is that may change by itself.
        @param maxwaiting: The most questions that wait at once.
        """
        self._clock: IReactorTime = reactor
        self._resolver = resolver
        self._resolvetimeout = resolvetimeout
        self._maxnames = maxnames
        self._maxaddresses = maxaddresses
        self._cachesize = cachesize
        self._keep = keep
        self._maxwaiting = maxwaiting
        self._pool = FilterPool(
            reactor,
            children,
            cheap=cheap,
            most=most,
            wall=wall,
            memory=memory,
        )
        self._cache: OrderedDict[tuple[str, int, int], _Verdict] = OrderedDict()
        self._judging: dict[tuple[str, int, int], _Judging] = {}
        self._waiting = 0
        self.checks = 0
        self.hits = 0

    @property
    def resolver(self) -> Resolver | None:
        """
        How host names in filters become addresses; may be changed at any time.
        """
        return self._resolver

    @resolver.setter
    def resolver(self, resolver: Resolver | None) -> None:
        self._resolver = resolver
        self._cache.clear()

    @property
    def kills(self) -> int:
        """
        How many children a filter has cost.
        """
        return self._pool.kills

    def startService(self) -> None:
        """
        Start the children.
        """
        super().startService()
        self._pool.start()

    def stopService(self) -> Deferred[None]:
        """
        Refuse what waits, and end the children.

        @return: A Deferred that fires when there is no child any more.
        """
        super().stopService()
        for judging in list(self._judging.values()):
            if judging.task is not None:
                judging.task.cancel()
        return self._pool.stop()

    def whenReady(self) -> Deferred[None]:
        """
        @return: A Deferred that fires when every child can be asked.
        """
        return self._pool.whenReady()

    def pids(self) -> list[int]:
        """
        The process identifiers of the children that can be asked or are.
        """
        return self._pool.pids()

    def check(self, filter: str, linkType: int, snaplength: int) -> Deferred[str]:
        """
        See L{IFilterChecker}. What the cache knows is answered synchronously.
        L{Refused} may also be C{busy}, where there is no telling now, and
        C{closing}.
        """
        self.checks += 1
        if not filter:
            return succeed("")
        if not self.running:
            return fail(_closing())
        result: Deferred[str] = Deferred()
        key = (filter, linkType, snaplength)
        verdict = self._remembered(key)
        if verdict is not None:
            self.hits += 1
            verdict.tell(result)
            return result
        if self._waiting >= self._maxwaiting:
            detail = f"bpf: {self._waiting} filters wait to be checked already"
            return fail(Refused(Reason.BUSY, detail))
        self._waiting += 1
        judging = self._judging.get(key)
        if judging is None:
            judging = self._judging[key] = _Judging([result])
            task = Deferred.fromCoroutine(self._judge(*key))
            judging.task = task.addBoth(self._judged, key)
        else:
            judging.waiting.append(result)
        return result

    def _remembered(self, key: tuple[str, int, int]) -> _Verdict | None:
        verdict = self._cache.get(key)
        if verdict is None:
            return None
        if verdict.until <= self._clock.seconds():
            del self._cache[key]
            return None
        self._cache.move_to_end(key)
        return verdict

    def _judged(self, result: _Verdict | Failure, key: tuple[str, int, int]) -> None:
        waiting = self._judging.pop(key).waiting
        self._waiting -= len(waiting)
        if isinstance(result, Failure):
            for one in waiting:
                one.errback(result if self.running else _closing())
            return
        if result.until > self._clock.seconds():
            self._cache[key] = result
            if len(self._cache) > self._cachesize:
                self._cache.popitem(last=False)
        for one in waiting:
            result.tell(one)

    async def _judge(self, filter: str, linkType: int, snaplength: int) -> _Verdict:
        """
        Ask a child, with addresses in place of the host names that it does not
        know, one after the other.
        """
        text, until = filter, inf
        known: dict[str, list[str]] = {}
        left = self._resolvetimeout
        answer = await self._pool.ask(text, linkType, snaplength)
        try:
            while name := _missing(answer):
                if name not in known:
                    if len(known) == self._maxnames:
                        raise _Unresolved(f"more than {self._maxnames} host names")
                    before = self._clock.seconds()
                    known[name] = await self._addresses(name, left)
                    left -= self._clock.seconds() - before
                    until = before + self._keep
                for addresses in _families(known[name]):
                    candidate = _substituted(text, name, addresses)
                    if candidate == text:
                        raise _Unresolved(answer.words)
                    answer = await self._pool.ask(candidate, linkType, snaplength)
                    if answer.reason != Reason.BAD_FILTER or _missing(answer):
                        break
                text = candidate
        except _Unresolved as error:
            answer = Answer(Reason.BAD_FILTER, str(error))
            until = self._clock.seconds() + self._keep
        if not answer.lasting:
            until = self._clock.seconds() + self._keep
        if answer.reason == Reason.BUSY:
            until = -inf
        if answer.reason:
            detail = f"bpf: {_shown(filter)}: {_printable(answer.words)}"
            return _Verdict("", answer.reason, detail, until)
        return _Verdict(text, until=until)

    async def _addresses(self, name: str, left: float) -> list[str]:
        """
        @raise _Unresolved: There are none, or not in time.
        """
        if self._resolver is None:
            raise _Unresolved(
                f"{_shown(name)} is a host name, which needs [capture] resolve = true"
            )
        try:
            looking = maybeDeferred(self._resolver, name)
            looking.addTimeout(max(left, 0), self._clock)
            found = await looking
        except Exception as error:
            if not self.running:
                raise
            why = str(error) or type(error).__name__
            if isinstance(error, defer.TimeoutError):
                why = f"no answer within {self._resolvetimeout:g} s"
            raise _Unresolved(
                f"the host name {_shown(name)} cannot be resolved: {why[:200]}"
            ) from error
        # In the resolver's order, each one once.
        addresses = list(dict.fromkeys(_plain(found)))
        if not addresses:
            raise _Unresolved(f"the host name {_shown(name)} has no address")
        if len(addresses) > self._maxaddresses:
            raise _Unresolved(
                f"the host name {_shown(name)} has {len(addresses)} addresses, "
                f"and more than {self._maxaddresses} are not allowed"
            )
        return addresses


class _Unresolved(Exception):
    """
    A host name cannot be replaced; the text says which and why.
    """


def _closing() -> Refused:
    return Refused(Reason.CLOSING, "bpf: filters are no longer checked")


def _missing(answer: Answer) -> str:
    """
    The host name that libpcap stumbled over, if that is what it did.
    """
    found = _unknownHost.fullmatch(answer.words)
    return found[1] if found and answer.reason == Reason.BAD_FILTER else ""


def _plain(addresses: Sequence[str]) -> Iterator[str]:
    """
    Those that a filter can hold.
    """
    for address in addresses:
        try:
            plain = ipaddress.ip_address(address)
        except ValueError:
            continue
        if getattr(plain, "scope_id", None) is None:
            yield str(plain)


def _families(addresses: list[str]) -> Iterator[list[str]]:
    """
    The choices for a host name, best first: C{ip} and C{ip6} in front of it
    allow one family only.
    """
    yield addresses
    families = [
        [address for address in addresses if (":" in address) is wide]
        for wide in (False, True)
    ]
    if all(families):
        yield from families


def _substituted(filter: str, name: str, addresses: list[str]) -> str:
    """
    A filter with addresses in place of a host name. Where the name stands
    behind a backslash just those places change: without one the same word may
    be a keyword.
    """
    text = " or ".join(addresses)
    if len(addresses) > 1:
        text = f"({text})"
    escaped = "\\" + name
    wanted = escaped if escaped in _word.findall(filter) else name
    return _word.sub(lambda found: text if found[0] == wanted else found[0], filter)


def _printable(words: str) -> str:
    """
    What libpcap says, which may quote anything.
    """
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in words)


def _shown(text: str) -> str:
    """
    A value from outside as a message can hold it.
    """
    return repr(text if len(text) <= 80 else text[:80] + "...")
