# See LICENSE for details.
"""
The link types of devices and files.
"""

from __future__ import annotations

#: C{DLT_} numbers that devices of Linux have, to the names that libpcap gives them
#: (C{pcap_datalink_val_to_name}) and that pcap files are described by.
LINK_NAMES = {
    1: "EN10MB",
    9: "PPP",
    12: "RAW",
    105: "IEEE802_11",
    113: "LINUX_SLL",
    127: "IEEE802_11_RADIO",
    276: "LINUX_SLL2",
}


def linkName(linkType: int) -> str:
    """
    What libpcap calls a link type.

    @param linkType: A C{DLT_} number.
    """
    return LINK_NAMES.get(linkType, f"DLT_{linkType}")
