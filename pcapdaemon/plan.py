# See LICENSE for details.
"""
A request, one of its devices and the limits of this site: a L{CapturePlan}.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable

import attrs

from pcapdaemon.interfaces import Reason, Refused
from pcapdaemon.request import CaptureRequest, show

#: The most characters of a host and of a device in a file name, which keep the
#: whole name within 200.
_HOST, _DEVICE = 100, 60


@attrs.frozen
class Limits:
    """
    What this site allows, and what it takes where a request is silent.

    @ivar maxpackets: The most packets of a capture.
    @ivar maxbytes: The most bytes of its file.
    @ivar snaplength: Bytes kept of each packet when not asked for otherwise.
    @ivar defaulttimeout: Seconds without a packet, when not asked otherwise.
    @ivar maxtimeout: The most seconds without a packet.
    @ivar maxduration: The most seconds of a capture.
    @ivar maxfilter: The most characters of a filter.
    """

    maxpackets: int
    maxbytes: int
    snaplength: int
    defaulttimeout: float
    maxtimeout: float
    maxduration: float
    maxfilter: int


def safe(part: str) -> str:
    """
    A part of a name that neither a file system, nor an S3 key, nor a shell
    takes for something else.
    """
    return re.sub(r"^[.-]|[^A-Za-z0-9._-]", "_", part)


def safeHost(node: str) -> str:
    """
    A host name as all file names of a node begin with it.
    """
    return safe(node)[:_HOST]


@attrs.frozen
class CapturePlan:
    """
    One capture on one device, with nothing left open.

    @ivar id: Short and unique.
    @ivar node: The host name of this node.
    @ivar device: The device to capture on.
    @ivar alias: The alias by which it was reached; else empty.
    @ivar filter: The libpcap filter to set, not always the request's.
    @ivar direction: Which packets, one of the words of
        L{pcapdaemon.interfaces.Direction}.
    @ivar snaplength: Bytes to keep of each packet.
    @ivar packets: The number of packets at which to stop.
    @ivar size: The bytes of the file at which to stop.
    @ivar timeout: Seconds without a packet after which to stop.
    @ivar duration: Seconds after which to stop.
    @ivar created: When it was made, in seconds since the epoch.
    @ivar request: The request that it came from.
    """

    id: str
    node: str
    device: str
    alias: str
    filter: str
    direction: str
    snaplength: int
    packets: int
    size: int
    timeout: float
    duration: float
    created: float
    request: CaptureRequest

    @property
    def filename(self) -> str:
        """
        The name of the file: node, device, time and identifier; at most 200
        bytes, fit for a file system and for an S3 key.
        """
        host, device = safeHost(self.node), safe(self.device)[:_DEVICE]
        return f"{host}-{device}-{int(self.created)}-{safe(self.id)}.pcap"

    @property
    def tags(self) -> str:
        """
        The metadata of the file, as one comma-separated string.
        """
        request = self.request
        parts = (
            f"customer:{request.customer}" if request.customer else "",
            f"alertid:{request.alertid}" if request.alertid is not None else "",
            request.tags,
            f"alias:{self.alias}" if self.alias else "",
            f"node:{self.node}",
            f"interface:{self.device}",
            f"snaplength:{self.snaplength}",
        )
        return ",".join(part for part in parts if part)


def check(request: CaptureRequest, limits: Limits) -> None:
    """
    See that a request stays within the limits.

    @raise Refused: It does not (C{limit}).
    """
    for key, value, name, most in (
        ("packets", request.packets, "maxpackets", limits.maxpackets),
        ("bytes", request.size, "maxbytes", limits.maxbytes),
        ("timeout", request.timeout, "maxtimeout", limits.maxtimeout),
        ("duration", request.duration, "maxduration", limits.maxduration),
        ("length of bpf", len(request.filter), "maxfilter", limits.maxfilter),
    ):
        if value is not None and value > most:
            raise Refused(
                Reason.LIMIT,
                f"{key} is {show(value)}; allowed is at most {most} ({name})",
            )


def makePlan(
    request: CaptureRequest,
    device: str,
    alias: str,
    filter: str,
    limits: Limits,
    node: str,
    id: str,
    created: float,
) -> CapturePlan:
    """
    Plan a capture for a request that L{check} let pass: where it is silent,
    the limits speak.

    @param device: The device to capture on.
    @param alias: The alias by which it was reached; else empty.
    @param filter: The libpcap filter to set.
    @param node: The host name of this node.
    @param id: What L{newId} gave.
    @param created: Seconds since the epoch.
    """

    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    return CapturePlan(
        id=id,
        node=node,
        device=device,
        alias=alias,
        filter=filter,
        direction=request.direction,
        snaplength=int(given(request.snaplength, limits.snaplength)),
        packets=int(given(request.packets, limits.maxpackets)),
        size=int(given(request.size, limits.maxbytes)),
        timeout=float(given(request.timeout, limits.defaulttimeout)),
        duration=float(given(request.duration, limits.maxduration)),
        created=created,
        request=request,
    )


def newId(random: Callable[[int], bytes] = os.urandom) -> str:
    """
    A new identifier: twelve lower-case letters and digits, of 56 random bits.

    @param random: Gives so many random bytes.
    """
    return base64.b32encode(random(7)).decode("ascii").rstrip("=").lower()
