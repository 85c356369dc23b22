# See LICENSE for details.
"""
What the settings mean to intake and to captures.
"""

from __future__ import annotations

import resource

import attrs

from twisted.logger import Logger

from pcapdaemon.capture.engines import NANO
from pcapdaemon.capture.service import Capacity
from pcapdaemon.config import Settings
from pcapdaemon.intake import Rules
from pcapdaemon.plan import Limits

_log = Logger()

#: Descriptors that a running capture may need (its socket, a second one for it,
#: the recording, the dumper, a sink's reader), and those of everything else.
_PER_CAPTURE, _OTHERS = 5, 768


def limits(settings: Settings) -> Limits:
    """
    The bounds and defaults of requests.
    """
    general = settings.general
    return Limits(
        maxpackets=general.maxpackets,
        maxbytes=general.maxbytes,
        snaplength=general.snaplength,
        defaulttimeout=general.defaulttimeout,
        maxtimeout=general.maxtimeout,
        maxduration=general.maxduration,
        maxfilter=general.maxfilter,
    )


def rules(settings: Settings) -> Rules:
    """
    What becomes of requests.
    """
    aliases: dict[str, tuple[str, ...]] = {}
    for interface in settings.interfaces:
        for alias in interface.aliases:
            aliases[alias] = (*aliases.get(alias, ()), interface.name)
    return Rules(
        limits=limits(settings),
        maxmessage=settings.general.maxmessage,
        aliases=aliases,
        filter=settings.capture.filter,
        cooldown=settings.capture.cooldown,
        logrequests=settings.general.logrequests,
        debug=settings.general.debug,
    )


def capacity(settings: Settings) -> Capacity:
    """
    What all captures together may use.
    """
    capture = settings.capture
    return Capacity(
        captures=capture.maxcaptures,
        buffersize=capture.buffersize,
        totalbuffer=capture.totalbuffer,
        memory=capture.memory,
        promiscuous=capture.promiscuous,
        nanoseconds=capture.precision == NANO,
    )


def affordable(wanted: Capacity) -> Capacity:
    """
    Ask the system for as many descriptors as C{maxcaptures} may need.

    @return: What can be had.
    """
    needed = wanted.captures * _PER_CAPTURE + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == needed:
        return wanted
    captures = max(1, (allowed - min(_OTHERS, allowed // 2)) // _PER_CAPTURE)
    _log.warn(
        "maxcaptures = {wanted} may need {needed} descriptors; this process may "
        "have {allowed}, which will do for {captures}",
        wanted=wanted.captures,
        needed=needed,
        allowed=allowed,
        captures=captures,
    )
    return attrs.evolve(wanted, captures=captures)
