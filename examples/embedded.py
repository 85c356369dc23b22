# See LICENSE for details.
"""
An application of its own that captures: no bus, no twistd, no configuration file.

The application is a door: a TCP service that wants a word in a line. Who gives a wrong
one three times within a minute has the packets of its next tries recorded, and the
application gets the file, in its own sink. Run it as root (or with CAP_NET_RAW)::

    python examples/embedded.py 4000

and in another terminal, three times and then some::

    echo guess | nc -q 1 127.0.0.1 4000

Ctrl-C ends it: what is still being captured is completed and kept first.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zope.interface import implementer

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver

from pcapdaemon.capture.recording import Recording
from pcapdaemon.config import CaptureSettings, GeneralSettings, Settings
from pcapdaemon.daemon import CaptureDaemon
from pcapdaemon.interfaces import Answer, IEventObserver, ISink
from pcapdaemon.request import CaptureRequest

# The application as it was before: a service and its detector.


class Door(LineOnlyReceiver):
    """
    Opens to who knows the word.
    """

    MAX_LENGTH = 100
    factory: Doors

    def lineReceived(self, line: bytes) -> None:
        opened = line.strip() == b"sesame"
        self.sendLine(b"come in" if opened else b"no")
        if not opened:
            assert self.transport is not None
            self.factory.wrong(self.transport.getPeer().host)  # type: ignore[attr-defined]


class Doors(Factory):
    """
    Makes doors, and raises the alarm.
    """

    noisy = False
    protocol = Door  # type: ignore[assignment]
    tries, period, known = 3, 60.0, 1000

    def __init__(self, clock: Callable[[], float], alarm: Callable[[str], object]):
        """
        @param alarm: Called with the address of who has tried too often.
        """
        self._clock = clock
        self._alarm = alarm
        self._wrong: dict[str, deque[float]] = {}

    def wrong(self, host: str) -> None:
        """
        Somebody has given a wrong word.
        """
        when = self._wrong.pop(host, None) or deque(maxlen=self.tries)
        when.append(self._clock())
        if len(when) == self.tries and when[-1] - when[0] < self.period:
            self._alarm(host)
            return
        if len(self._wrong) >= self.known:
            del self._wrong[next(iter(self._wrong))]
        self._wrong[host] = when


# What capturing adds to it.


@implementer(IEventObserver)
class Teller:
    """
    Tells a person what happens; any program can do more with it.
    """

    def observe(self, event: Mapping[str, Any]) -> None:
        words = [event["event"], event["id"]]
        words += [
            f"{key}={event[key]}"
            for key in ("reason", "detail", "stop", "packets", "url")
            if key in event
        ]
        print(*words, flush=True)


@implementer(ISink)
class Drawer(Service):
    """
    Where the application wants its files: here a directory, but it could as well be
    its database.

    @ivar name: What events call it.
    """

    name = "drawer"

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def examine(self, request: CaptureRequest) -> None:
        """Anything goes."""

    def store(self, recording: Recording) -> Deferred[str]:
        # A large file, or a slow disk, is for a thread: deferToThread.
        path = self._directory / recording.filename
        with recording.open() as file:
            path.write_bytes(file.read())
        return succeed(path.as_uri())


class Application(MultiService):
    """
    The door, with a capture service beside it.

    @ivar capturing: The capture service.
    """

    def __init__(self, reactor: Any, port: int, device: str, directory: Path) -> None:
        super().__init__()
        self._port, self._device = port, device
        settings = Settings(
            general=GeneralSettings(defaulttimeout=5, maxduration=60),
            # A try after the alarm raises no second one while the first is recorded.
            capture=CaptureSettings(cooldown=60, maxcaptures=10),
        )
        self.capturing = CaptureDaemon(reactor, settings, sinks=[Drawer(directory)])
        self.capturing.events.add(Teller())
        # Services start in this order, and so the door when packets can be had.
        self.capturing.setServiceParent(self)
        doors = Doors(reactor.seconds, self.alarm)
        endpoint = TCP4ServerEndpoint(reactor, port)
        StreamServerEndpointService(endpoint, doors).setServiceParent(self)

    def alarm(self, host: str) -> Deferred[Answer]:
        """
        Have the next packets of a host recorded; what becomes of it is told by events.
        """
        request = {
            "node": "any",
            "interface": [self._device],
            "bpf": f"host {host} and tcp port {self._port}",
            "packets": 100,
            "alertid": 1,
            "tags": "door",
        }
        return self.capturing.intake.receive(json.dumps(request).encode(), "door")


def main(port: int, device: str = "lo", directory: str = ".") -> None:
    """
    Run it until Ctrl-C.
    """
    from twisted.internet import reactor

    application = Application(reactor, port, device, Path(directory).resolve())
    application.startService()
    # stopService returns a Deferred, for which the reactor waits with its end.
    reactor.addSystemEventTrigger("before", "shutdown", application.stopService)
    print("the door is at port", port, flush=True)
    reactor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
