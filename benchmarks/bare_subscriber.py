# See LICENSE for details.
"""
The plain Redis library: a subscriber that decodes the JSON of every message and
does nothing else. Says C{ready}, and after so many messages the seconds of CPU
that they took.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from txredisapi import SubscriberProtocol

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.task import react


class Subscriber(SubscriberProtocol):  # type: ignore[misc]
    """
    Counts messages.

    @ivar over: Fires when all have come.
    """

    def __init__(self, channel: str, count: int) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self._channel = channel
        self._left = count
        self.over: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        super().connectionMade()
        self.subscribe(self._channel).addCallback(self._subscribed)

    def _subscribed(self, reply: object) -> None:
        print("ready", flush=True)
        self._before = time.process_time()

    def messageReceived(self, pattern: None, channel: bytes, message: bytes) -> None:
        json.loads(message)
        self._left -= 1
        if self._left == 0:
            print(time.process_time() - self._before, flush=True)
            self.over.callback(None)


async def main(reactor: Any, port: str, channel: str, count: str) -> None:
    subscriber = Subscriber(channel, int(count))
    await connectProtocol(HostnameEndpoint(reactor, "127.0.0.1", int(port)), subscriber)
    await subscriber.over


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))
