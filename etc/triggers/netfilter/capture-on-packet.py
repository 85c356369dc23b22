#!/usr/bin/env python3
# See LICENSE for details.
"""
Packets of two hosts of which a firewall's rule has logged one.

    journalctl --dmesg --follow --lines=0 --output=cat | capture-on-packet.py

Reads lines as the kernel and ulogd's LOGEMU write them, and asks the daemon on this
host for those with our prefix. A token of the daemon is in the environment,
PCAPDAEMON_TOKEN.
"""

import http.client
import ipaddress
import json
import os
import re
import sys
import time
import zlib

PREFIX = "capture: "
PORT = int(os.environ.get("PCAPDAEMON_PORT", "8477"))
# Seconds in which one pair of hosts counts once, and so many pairs in all.
COOLDOWN, MOST = 300, 10

FIELD = re.compile(r"\b(IN|OUT|SRC|DST)=(\S*)")
DEVICE = re.compile(r"[A-Za-z0-9_.@:-]{1,15}")


def request(line):
    """The request that a line becomes, or None."""
    _, found, rest = line.partition(PREFIX)
    if not found:
        return None
    fields = dict(reversed(FIELD.findall(rest)))  # Of two the first: the packet's own.
    try:
        source, target = (ipaddress.ip_address(fields[key]) for key in ("SRC", "DST"))
    except (KeyError, ValueError):
        return None
    if "%" in f"{source}{target}":  # A zone may be any text.
        return None
    device = fields.get("IN") or fields.get("OUT") or "any"
    if not DEVICE.fullmatch(device):
        return None
    return {
        "node": "any",
        "interface": [device],
        "bpf": f"host {source} and host {target}",
        "packets": 500,
        "duration": 60,
        "timeout": 15,
        "alertid": zlib.crc32(f"{source} {target}".encode()),
        "tags": "netfilter",
    }


def ask(wanted):
    """Hand a request to the daemon; whether it was taken, or never will be."""
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("PCAPDAEMON_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    link = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
    try:
        link.request("POST", "/captures", json.dumps(wanted), headers)
        answer = link.getresponse()
        text = answer.read(4096).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        answer, text = None, str(error)
    finally:
        link.close()
    print(f"{wanted['bpf']}: {text}", flush=True)
    return answer is not None and answer.status not in (429, 503)


def main():
    honoured = {}
    for line in sys.stdin.buffer:
        wanted = request(line.decode("utf-8", "replace"))
        if wanted is None:
            continue
        now, key = time.monotonic(), wanted["alertid"]
        honoured = {k: t for k, t in honoured.items() if now - t < COOLDOWN}
        if key in honoured or len(honoured) >= MOST:
            continue
        honoured[key] = now
        if not ask(wanted):
            del honoured[key]  # The next packet may try again.


if __name__ == "__main__":
    main()
