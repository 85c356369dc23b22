# See LICENSE for details.
"""
From a message to captures that have been let in, or to a refusal.
"""

from __future__ import annotations

import errno
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from zope.interface import implementer

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from pcapdaemon.capture.links import linkName
from pcapdaemon.capture.service import CaptureService
from pcapdaemon.events import ABOUT, Events, isEvent
from pcapdaemon.interfaces import (
    Answer,
    CaptureError,
    ICaptureSystem,
    IFilterChecker,
    IMessageReceiver,
    Reason,
    Refused,
    Verdict,
)
from pcapdaemon.plan import Limits, check, makePlan, newId
from pcapdaemon.request import (
    ANY,
    CaptureRequest,
    cancelled,
    concerns,
    decode,
    parse,
    show,
)

#: The most names of what is not there that are told.
_NAMES = 20

#: The keys of a request that its filter is looked at with.
_JUDGED = ("interface", "alias", "bpf", "snap")

_FOREIGN = Answer(Verdict.NOT_OURS)


@attrs.frozen
class Rules:
    """
    What this site makes of requests.

    @ivar limits: Bounds and defaults.
    @ivar maxmessage: The most bytes of a message.
    @ivar aliases: Alias to the devices that it stands for, in order.
    @ivar filter: A libpcap filter that every capture is subject to.
    @ivar cooldown: Seconds for which a trigger with the same C{alertid}, device
        and filter is a duplicate; 0 for never.
    @ivar logrequests: Whether every request is logged.
    @ivar debug: Whether messages for other nodes are logged.
    """

    limits: Limits
    maxmessage: int
    aliases: Mapping[str, tuple[str, ...]]
    filter: str = ""
    cooldown: float = 0
    logrequests: bool = False
    debug: bool = False


@attrs.frozen
class _Target:
    """
    One device that a request names.

    @ivar alias: By which it was named; else empty.
    """

    device: str
    alias: str
    linkType: int


@attrs.define(eq=False)
class _Undecided:
    """
    A request while its filter is looked at.

    @ivar ids: Those of the captures that it will become, if it will.
    @ivar cancelled: Whether they are to end as soon as they have begun.
    """

    request_id: str
    ids: tuple[str, ...]
    cancelled: bool = False


@implementer(IMessageReceiver)
class Intake:
    """
    Decides on every message of every bus.

    @ivar rules: May be replaced at any time; requests under way go by those
        that they began with.
    @ivar taken: How many messages were taken, by bus.
    @ivar foreign: How many were for other nodes, by bus. Of what was refused
        there are events.
    """

    _log = Logger()

    def __init__(
        self,
        node: str,
        rules: Rules,
        system: ICaptureSystem,
        checker: IFilterChecker,
        captures: CaptureService,
        events: Events,
        clock: Callable[[], float],
        identify: Callable[[], str] = newId,
    ) -> None:
        """
        @param node: The host name that requests are for.
        @param clock: Seconds since the epoch.
        @param identify: Makes a new identifier.
        """
        self._node = node
        self.rules = rules
        self._system = system
        self._checker = checker
        self._captures = captures
        self._events = events
        self._clock = clock
        self._identify = identify
        self.taken: Counter[str] = Counter()
        self.foreign: defaultdict[str, int] = defaultdict(int)
        #: What sinks have to say of a request.
        self.examine: Sequence[Callable[[CaptureRequest], object]] = ()
        self._undecided: set[_Undecided] = set()
        #: When a trigger was last honoured, and by which capture, oldest first.
        self._honoured: dict[tuple[int, str, str], tuple[float, str]] = {}

    @property
    def maxmessage(self) -> int:
        return self.rules.maxmessage

    def receive(self, message: bytes, bus: str) -> Deferred[Answer]:
        if len(message) > self.rules.maxmessage:
            return succeed(self.oversized(len(message), bus))
        fields: dict[str, Any] = {}
        try:
            fields = decode(message)
            if not concerns(fields, self._node):
                if self.rules.debug:
                    self._log.debug(
                        "{bus}: for node {wanted}",
                        bus=bus,
                        wanted=show(fields.get("node", fields.get("nodere"))),
                    )
                self.foreign[bus] += 1
                return succeed(_FOREIGN)
            if isEvent(fields):
                # Somebody has events go where requests come from: each would lead
                # to others, for ever.
                self.foreign[bus] += 1
                return succeed(_FOREIGN)
            name = cancelled(fields)
            if name is not None:
                return succeed(self._cancel(name, bus))
            request = parse(fields)
        except Refused as refused:
            return succeed(self.refuse(refused, fields, bus))
        if request.logrequest or self.rules.logrequests:
            self._log.info(
                "{bus}: request {request}",
                bus=bus,
                request=ascii(message.decode("utf-8"))[1:-1],
            )
        d = Deferred.fromCoroutine(self._admit(request, bus))
        return d.addErrback(self._failed, fields, bus)

    def _cancel(self, name: str, bus: str) -> Answer:
        """
        End what has this name, here; another node may have more of it.
        """
        ids = self._captures.cancelNamed(name)
        for each in self._undecided:
            if each.request_id == name:
                each.cancelled = True
                ids += each.ids
        if not ids:
            self.foreign[bus] += 1
            return _FOREIGN
        self.taken[bus] += 1
        self._log.info("{bus}: {ids} cancelled", bus=bus, ids=", ".join(ids))
        return Answer(Verdict.TAKEN, ids)

    def oversized(self, size: int, bus: str) -> Answer:
        detail = f"the message has {size} bytes; allowed are {self.rules.maxmessage}"
        return self.refuse(Refused(Reason.TOO_LARGE, detail), {}, bus)

    def unauthorized(self, bus: str) -> Answer:
        refused = Refused(Reason.UNAUTHORIZED, "no or a wrong bearer token")
        return self.refuse(refused, {}, bus)

    def judge(self, message: bytes) -> Deferred[dict[str, Any]]:
        """
        Look at the filter of a request that nobody has made yet. Nothing else
        comes of it, not even an event.

        @param message: A JSON object with C{interface} or C{alias} and, as in a
            request, C{bpf} and C{snap}; other keys do not matter.
        @return: A Deferred of a JSON object: C{bpf} as it came, C{seconds} that
            the look took, C{links}: for each link type of the devices C{link},
            C{linkname} and the C{filter} that would be set; C{missing}, the names
            of what is not there, if anything is not; and C{site}, if there is a
            filter that every capture is subject to, which C{filter} then
            contains. It fails with L{Refused}.
        """
        return Deferred.fromCoroutine(self._judge(message))

    async def _judge(self, message: bytes) -> dict[str, Any]:
        rules = self.rules
        fields = decode(message)
        wanted = {key: fields[key] for key in _JUDGED if key in fields}
        request = parse({"node": ANY, **wanted})
        check(request, rules.limits)
        targets, missing = self._targets(request, rules)
        snaplength = request.snaplength or rules.limits.snaplength
        began = self._clock()
        links = [
            {
                "link": link,
                "linkname": linkName(link),
                "filter": await self._sound(
                    request.filter, rules.filter, link, snaplength
                ),
            }
            for link in sorted({target.linkType for target in targets})
        ]
        told: dict[str, Any] = {
            "bpf": request.filter,
            "seconds": round(max(0.0, self._clock() - began), 6),
            "links": links,
        }
        if missing:
            told["missing"] = [show(name)[1:-1] for name in missing[:_NAMES]]
        if rules.filter:
            told["site"] = rules.filter
        return told

    def _failed(self, failure: Any, fields: Mapping[str, Any], bus: str) -> Answer:
        if failure.check(Refused):
            return self.refuse(failure.value, fields, bus)
        error = failure.value
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            # Others have them: connections, files that are kept, sinks.
            detail = f"no descriptor is left: {error.strerror}"
            return self.refuse(Refused(Reason.BUSY, detail), fields, bus)
        # Ours, not the sender's; but a message must always have an answer.
        self._log.failure("{bus}: a request failed", failure=failure, bus=bus)
        return self.refuse(Refused(Reason.BUSY, "internal error"), fields, bus)

    def refuse(self, refused: Refused, fields: Mapping[str, Any], bus: str) -> Answer:
        about = {}
        for key in fields.keys() & set(ABOUT):
            try:
                # Of a request that is wrong elsewhere; what is itself wrong is
                # left out.
                parse({"node": "any", "interface": "any", key: fields[key]})
            except Refused:
                continue
            about[key] = fields[key]
        self._events.emit(
            "rejected",
            self._identify(),
            about,
            bus=bus,
            reason=refused.reason,
            detail=refused.detail,
        )
        return Answer(Verdict.REFUSED, (), refused.reason, refused.detail)

    async def _admit(self, request: CaptureRequest, bus: str) -> Answer:
        rules = self.rules
        check(request, rules.limits)
        for examine in self.examine:
            examine(request)
        targets, missing = self._targets(request, rules)
        self._captures.admit(len(targets))
        self._cool(request, targets, rules)
        snaplength = request.snaplength or rules.limits.snaplength
        filters = {}
        ids = tuple(self._identify() for _ in targets)
        undecided = _Undecided(request.request_id, ids)
        self._undecided.add(undecided)
        try:
            for linkType in {target.linkType for target in targets}:
                filters[linkType] = await self._sound(
                    request.filter, rules.filter, linkType, snaplength
                )
        finally:
            self._undecided.remove(undecided)
        # Others may have been let in while the filters were looked at.
        self._captures.admit(len(targets))
        self._cool(request, targets, rules)
        now = self._clock()
        plans = [
            makePlan(
                request,
                target.device,
                target.alias,
                filters[target.linkType],
                rules.limits,
                self._node,
                id,
                now,
            )
            for target, id in zip(targets, ids, strict=True)
        ]
        for plan, target in zip(plans, targets, strict=True):
            if rules.cooldown and request.alertid is not None:
                key = (request.alertid, plan.device, request.filter)
                self._honoured[key] = (now, plan.id)
            self._events.emit(
                "accepted",
                plan.id,
                attrs.asdict(request, recurse=False),
                bus=bus,
                interface=plan.device,
                alias=plan.alias,
                filter=plan.filter,
                direction=plan.direction,
                snaplength=plan.snaplength,
                limits={
                    "packets": plan.packets,
                    "bytes": plan.size,
                    "timeout": plan.timeout,
                    "duration": plan.duration,
                },
                ignored=list(request.ignored),
                missing=[show(name)[1:-1] for name in missing[:_NAMES]],
            )
            self._captures.start(plan, target.linkType)
            if undecided.cancelled:
                self._captures.cancel(plan.id)
        self.taken[bus] += 1
        return Answer(Verdict.TAKEN, ids)

    def _targets(
        self, request: CaptureRequest, rules: Rules
    ) -> tuple[list[_Target], list[str]]:
        """
        The devices that a request means, each once, and the names of what is
        not there.

        @raise Refused: Nothing of it is there.
        """
        named = dict.fromkeys(request.interfaces, "")
        missing = []
        for alias in request.aliases:
            devices = rules.aliases.get(alias, ())
            for device in devices:
                named.setdefault(device, alias)
            if not devices:
                missing.append(alias)
        if not named:
            known = ", ".join(sorted(rules.aliases)) or "none"
            raise Refused(
                Reason.UNKNOWN_ALIAS,
                f"alias {_names(missing)}: not configured; there are: {known}",
            )
        targets = []
        for device, alias in named.items():
            try:
                linkType = self._system.linkType(device)
            except CaptureError:
                missing.append(device)
            else:
                targets.append(_Target(device, alias, linkType))
        if not targets:
            raise Refused(
                Reason.UNKNOWN_INTERFACE,
                f"interface {_names(missing)}: no such device on {self._node}",
            )
        return targets, missing

    async def _sound(
        self, wanted: str, site: str, linkType: int, snaplength: int
    ) -> str:
        """
        The filter to set. That of the request must be sound by itself, or
        parentheses in it could do away with that of the site.
        """
        wanted = await self._checker.check(wanted, linkType, snaplength)
        if not site:
            return wanted
        both = f"({site}) and ({wanted})" if wanted.strip() else site
        return await self._checker.check(both, linkType, snaplength)

    def _cool(
        self, request: CaptureRequest, targets: list[_Target], rules: Rules
    ) -> None:
        """
        @raise Refused: The same trigger has been honoured a short while ago.
        """
        if not rules.cooldown or request.alertid is None:
            return
        now = self._clock()
        for key, (when, _id) in list(self._honoured.items()):
            # One from the future is from before the clock was set back.
            if 0 <= now - when < rules.cooldown:
                break
            del self._honoured[key]
        for target in targets:
            key = (request.alertid, target.device, request.filter)
            if key in self._honoured:
                when, id = self._honoured[key]
                raise Refused(
                    Reason.DUPLICATE,
                    f"alertid {request.alertid} on {target.device} with this filter "
                    f"was taken {now - when:.1f} s ago as {id}; cooldown is "
                    f"{rules.cooldown} s",
                )


def _names(names: list[str]) -> str:
    return ", ".join(show(name) for name in names[:_NAMES])
