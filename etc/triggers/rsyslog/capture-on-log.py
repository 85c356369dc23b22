#!/usr/bin/env python3
# See LICENSE for details.
"""
A program for rsyslog's omprog: packets of who tries passwords.

rsyslog writes one JSON object a line to our standard input (its template makes them)
and keeps us running. Each line is answered at once, as confirmMessages = "on" wants it;
a thread publishes requests to Redis, and what it has no time for is dropped, so that
rsyslog never waits for a network. What we are called with is for redis-cli:

    capture-on-log.py -h redis.example.net

A password for Redis is in the environment, REDISCLI_AUTH.
"""

import ipaddress
import json
import queue
import re
import subprocess
import sys
import threading
import time
import zlib

CHANNEL = "capture"
# Seconds in which one address on one host counts once, and so many requests in all.
COOLDOWN, MOST = 300, 20
# In how many lines of an address within COOLDOWN it is worth a capture.
TRIES = 5
# The most addresses that are counted at once.
COUNTED = 10000

FAILED = re.compile(r"Failed password for .* from (\S+) port [0-9]+ ssh2$")

waiting = queue.Queue(maxsize=100)


def say(text):
    """To standard error, which omprog's output= puts into a file."""
    print(f"capture-on-log: {text}", file=sys.stderr, flush=True)


class Watch:
    """Counts, and says when it is enough: once in a while for each."""

    def __init__(self):
        self.seen, self.honoured = {}, {}

    def enough(self, key, now):
        self.honoured = {
            k: t for k, t in self.honoured.items() if 0 <= now - t < COOLDOWN
        }
        if key in self.honoured or len(self.honoured) >= MOST:
            return False
        since, count = self.seen.pop(key, (now, 0))
        if not 0 <= now - since < COOLDOWN:
            since, count = now, 0
        if count + 1 >= TRIES:
            self.honoured[key] = now
            return True
        if len(self.seen) >= COUNTED:
            del self.seen[next(iter(self.seen))]  # The one longest unseen.
        self.seen[key] = (since, count + 1)
        return False


def request(line):
    """The request that a line may become, or None."""
    try:
        fields = json.loads(line)
        host, message = str(fields["host"]), str(fields["message"])
        match = FAILED.search(message.strip())
        # Anybody can log in as "x from 192.0.2.7": the last "from" is sshd's own.
        address = ipaddress.ip_address(match[1]) if match else None
    except (ValueError, KeyError, TypeError):
        return None
    if address is None or "%" in str(address):
        return None
    return {
        "node": host,
        "interface": ["any"],
        "bpf": f"host {address} and tcp port 22",
        "packets": 2000,
        "duration": 120,
        "timeout": 30,
        "alertid": zlib.crc32(f"{host} {address}".encode()),
        "tags": "rsyslog,ssh",
    }


def publish(options):
    """In a thread: one request after the other."""
    while (wanted := waiting.get()) is not None:
        message = json.dumps(wanted).encode()
        command = ["redis-cli", *options, "-e", "-x", "PUBLISH", CHANNEL]
        try:
            done = subprocess.run(
                command, input=message, capture_output=True, timeout=5
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            say(f"not published: {error}")
        else:
            if done.returncode:
                say(f"not published: {done.stdout + done.stderr!r}")


def main():
    worker = threading.Thread(target=publish, args=(sys.argv[1:],), daemon=True)
    worker.start()
    watch = Watch()
    print("OK", flush=True)  # Ready.
    for line in sys.stdin.buffer:
        wanted = request(line)
        if wanted and watch.enough(wanted["alertid"], time.monotonic()):
            try:
                waiting.put_nowait(wanted)
            except queue.Full:
                say(f"dropped, too much waits: {wanted['bpf']}")
        print("OK", flush=True)  # This line is taken.
    try:
        waiting.put(None, timeout=1)
        worker.join(6)
    except queue.Full:
        pass


if __name__ == "__main__":
    main()
