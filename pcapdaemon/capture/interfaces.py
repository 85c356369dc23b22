# See LICENSE for details.
"""
The network devices of this machine as somebody who wants to capture on one of
them needs to know them.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from pcapdaemon.capture.devices import Devices, isDown
from pcapdaemon.capture.links import linkName
from pcapdaemon.interfaces import CaptureError, ICaptureSystem, PrivilegeError

_FORBIDDEN = "this process may not capture packets: it needs root or CAP_NET_RAW"


def describe(
    aliases: Mapping[str, Sequence[str]],
    system: Devices | ICaptureSystem | None = None,
) -> list[dict[str, Any]]:
    """
    Every device of this machine, C{any}, and those that aliases name although they
    are not there, each as a JSON object: C{name}, C{aliases}, C{link} (a C{DLT_}
    number), C{linkname}, C{addresses} (IPv4 and IPv6), C{up}, C{capture} (whether
    this process can capture on it now) and, where it cannot, C{why}. What is not
    there has neither C{link} nor C{linkname}.

    No device is opened, and no privilege is needed to ask. Any thread; it makes
    some system calls for each device.

    @param aliases: Alias to the devices that it stands for.
    @param system: Where packets come from, which may know more of what kind the
        devices are.
    """
    system = Devices() if system is None else system
    forbidden = _forbidden(system)
    addresses = _addresses()
    names = [name for _, name in socket.if_nameindex()]
    configured = [device for devices in aliases.values() for device in devices]
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for name in dict.fromkeys(["any", *names, *configured]):
            told: dict[str, Any] = {
                "name": name,
                "aliases": [a for a, devices in aliases.items() if name in devices],
            }
            why = forbidden
            try:
                link = system.linkType(name)
            except CaptureError as error:
                why = str(error)
            else:
                told.update(link=link, linkname=linkName(link))
            there = "link" in told
            told["addresses"] = addresses.get(name, [])
            told["up"] = there and not isDown(s, name)
            if there and not told["up"]:
                why = why or f"{name}: the device is down"
            told["capture"] = not why
            if why:
                told["why"] = why
            found.append(told)
    return found


def _forbidden(system: Devices | ICaptureSystem) -> str:
    """
    Why no device at all can be captured on; empty if that is not so.
    """
    try:
        system.check()
    except PrivilegeError:
        return _FORBIDDEN
    except CaptureError as error:
        return str(error)
    return ""


def _addresses() -> dict[str, list[str]]:
    """
    The addresses of every device, without the scope of the local ones.
    """
    return {
        name: [
            address.address.partition("%")[0]
            for family in (socket.AF_INET, socket.AF_INET6)
            for address in addresses
            if address.family == family
        ]
        for name, addresses in psutil.net_if_addrs().items()
    }
