#!/usr/bin/env python3
# See LICENSE for details.
"""
A traphandle of snmptrapd: packets of the device that sent the trap.

In snmptrapd.conf (which says more beside this file):

    traphandle .1.3.6.1.6.3.1.1.5.5 /etc/pcapdaemon/triggers/capture-on-trap.py URL

URL is where the request goes, as `pcapdaemon send --to` has it. snmptrapd writes to our
standard input: the sender's name, its transport address, then a line "OID value" for
each variable. Only the address and the trap's own OID are used, both only if they are
just that; a trap over UDP is easily forged, so more than MOST in COOLDOWN seconds are
ignored.
"""

import fcntl
import ipaddress
import json
import os
import re
import subprocess
import sys
import time
import zlib

PCAPDAEMON = os.environ.get("PCAPDAEMON", "/opt/pcapdaemon/bin/pcapdaemon")
# Where is remembered what was captured lately; only our user may write there.
STATE = os.environ.get("STATE_DIRECTORY", "/var/lib/snmp/pcapdaemon")
# Seconds in which a trap of one device counts once, and so many traps in all.
COOLDOWN, MOST = 300, 10

# What is captured for which trap: what the tags say, and the packets.
TRAPS = {
    ".1.3.6.1.6.3.1.1.5.3": ("linkDown", "host {}"),
    ".1.3.6.1.6.3.1.1.5.5": ("authenticationFailure", "host {} and udp port 161"),
}
SNMP_TRAP_OID = ".1.3.6.1.6.3.1.1.4.1.0"
LONGEST = 65536


def address(transport):
    """The sender's: "UDP: [192.0.2.7]:40000->[192.0.2.1]:162", or with IPv6."""
    match = re.match(r"(?:UDP|TCP)(?:/IPv6|6)?: \[+([0-9A-Fa-f:.]+)\]", transport)
    return str(ipaddress.ip_address(match[1])) if match else None


def cooled(key):
    """Whether this has not been captured lately; from now on it has."""
    os.makedirs(STATE, mode=0o700, exist_ok=True)
    with open(os.path.join(STATE, "traps.json"), "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        try:
            honoured = dict(json.load(file))
        except ValueError:  # Empty, at first.
            honoured = {}
        now = time.time()
        honoured = {k: t for k, t in honoured.items() if 0 <= now - t < COOLDOWN}
        if key in honoured or len(honoured) >= MOST:
            return False
        honoured[key] = now
        file.truncate(0)
        json.dump(honoured, file)
        return True


def main():
    lines = sys.stdin.read(LONGEST).splitlines()
    variables = dict(line.partition(" ")[::2] for line in lines[2:])
    trap = variables.get(SNMP_TRAP_OID, "").strip()
    sender = address(lines[1]) if len(lines) > 1 else None
    if sender is None or trap not in TRAPS:
        sys.exit(f"capture-on-trap: trap {trap[:80]!r} from {sender}: nothing to do")
    name, filter = TRAPS[trap]
    if not cooled(f"{trap} {sender}"):
        return
    request = {
        "node": "any",
        "interface": ["any"],
        "bpf": filter.format(sender),
        "packets": 1000,
        "duration": 60,
        "alertid": zlib.crc32(f"{trap} {sender}".encode()),
        "tags": f"snmptrap,{name}",
    }
    send = [PCAPDAEMON, "send", "--to", sys.argv[1], "--json-file", "-"]
    # snmptrapd waits for us.
    subprocess.run(send, input=json.dumps(request).encode(), check=True, timeout=10)


if __name__ == "__main__":
    main()
