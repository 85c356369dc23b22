# See LICENSE for details.
"""
The whole daemon while a server that captures go to is away.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from twisted.internet import reactor

from pcapdaemon.test.allcase import SECRETS, HouseTestCase
from pcapdaemon.test.frames import frame
from pcapdaemon.test.process import Daemon
from pcapdaemon.test.servers import freePort, until

#: How many captures there are during an outage.
CAPTURES = 20


class _OutageTestCase(HouseTestCase):
    """
    Tests with S3 and CloudShark, and no other sink.
    """

    def uploading(self, spool: bool, **sections: Any) -> Daemon:
        """
        Start a daemon that uploads to both.
        """
        daemon = self.daemon(
            general={"writelocal": False},
            cloudshark=self.cloudsharkSection(),
            s3=self.s3Section(),
            **sections,
        )
        self.spool = daemon.directory / "spool"
        if spool:
            daemon.configure(spool={"directory": str(self.spool)})
        daemon.start()
        #: Of all captures ever, what is in each file.
        self.sums: dict[str, str] = {}
        return daemon

    def capture(self, daemon: Daemon, count: int) -> set[str]:
        """
        Have captures of some packets at once.

        @return: Their file names.
        """
        request = {"interface": "vb", "packets": 2, "timeout": 60}
        ids = [id for _ in range(count) for id in daemon.ask(**request)]
        daemon.waitForEvents("armed", ids)
        self.pair.send([frame(len(self.sums) + n, 200) for n in range(2)])
        events = daemon.waitForEvents("completed", ids).values()
        self.sums.update({each["filename"]: each["sha256"] for each in events})
        return {each["filename"] for each in events}

    def uploads(self) -> Counter[tuple[str, str]]:
        """
        How often CloudShark has got each file, and what was in it.
        """
        return Counter(
            (each["filename"], hashlib.sha256(each["content"]).hexdigest())
            for each in self.cloudshark.kept()
        )

    def objects(self) -> dict[str, str]:
        """
        What is in each file of the bucket.
        """
        keys, found = self.weed.keys(), {}
        for key in keys:
            answer = self.weed.client().get_object(Bucket=self.weed.bucket, Key=key)
            content = answer["Body"].read()
            name = key.removeprefix("pcaps/")
            found[name] = hashlib.sha256(content).hexdigest()
        return found

    def names(self, events: Iterable[dict[str, Any]]) -> Counter[str]:
        """
        How many of the events each file has.
        """
        return Counter(each["filename"] for each in events)

    async def emptied(self) -> None:
        """
        Wait until nothing is in the spool.
        """

        def empty() -> bool:
            return not [each for each in files(self.spool) if each.name != "lock"]

        await until(reactor, empty, f"nothing in {self.spool}")

    def checkSpool(self) -> None:
        """
        See that no secret is in the spool.
        """
        found = files(self.spool)
        self.assertGreater(len(found), 1)
        for file in found:
            self.assertNoSecret(file.read_bytes().decode("latin-1"))


class SpoolTests(_OutageTestCase):
    """
    With a spool nothing is lost.
    """

    async def test_outage(self) -> None:
        """
        While CloudShark is away S3 gets everything at once; when CloudShark is
        back it gets everything, too, each capture once.
        """
        await self.weed.start()
        self.cloudshark.port = freePort()
        daemon = self.uploading(spool=True)
        names = self.capture(daemon, CAPTURES)
        stored = self.sink(daemon, "stored", "s3", CAPTURES)
        self.assertEqual(self.names(stored), Counter(names))
        failed = self.sink(daemon, "failed", "cloudshark", CAPTURES)
        self.assertEqual(self.names(failed), Counter(names))
        for event in failed:
            self.assertEqual((event["lost"], event["stage"]), (False, "store"))
        waiting = daemon.http("GET", "/healthz")[1]["spool"]
        self.assertEqual(waiting, {"cloudshark": CAPTURES})
        self.checkSpool()
        await self.cloudshark.start(self.cloudshark.port, SECRETS["token"], False)
        stored = self.sink(daemon, "stored", "cloudshark", CAPTURES)
        self.assertEqual(self.names(stored), Counter(names))
        self.assertEqual(self.uploads(), Counter(self.sums.items()))
        self.assertEqual(self.objects(), self.sums)
        await self.emptied()
        self.assertEqual(len(daemon.told("stored")), 2 * CAPTURES)
        self.assertEqual(len(daemon.told("failed")), CAPTURES)
        self.assertEqual(daemon.stop(), 0)

    async def test_killed(self) -> None:
        """
        So it is when the daemon is killed twice: during the outage, and in the
        midst of making up for it.
        """
        await self.weed.start()
        await self.cloudshark.start(token=SECRETS["token"], tls=False)
        daemon = self.uploading(spool=True)
        await self.weed.kill()
        self.capture(daemon, CAPTURES // 2)
        self.sink(daemon, "failed", "s3", CAPTURES // 2)
        self.sink(daemon, "stored", "cloudshark", CAPTURES // 2)
        self.checkSilence(daemon)

        daemon.start()
        self.capture(daemon, CAPTURES // 2)
        failed = self.sink(daemon, "failed", "s3", CAPTURES // 2)
        self.assertEqual({event["lost"] for event in failed}, {False})
        self.sink(daemon, "stored", "cloudshark", CAPTURES // 2)
        waiting = daemon.http("GET", "/healthz")[1]["spool"]
        self.assertEqual(waiting, {"s3": CAPTURES})
        await self.weed.restart()
        self.sink(daemon, "stored", "s3", 3)
        self.checkSilence(daemon)

        early = self.names(self.sink(daemon, "stored", "s3", 3))
        daemon.start()
        await self.emptied()
        self.assertEqual(self.objects(), self.sums)
        # Nothing of this concerns what was not away.
        self.assertEqual(self.uploads(), Counter(self.sums.items()))
        # What it was killed at comes once more, under its name; all else once.
        late = self.names(daemon.told("stored"))
        self.assertLessEqual(set(late), set(self.sums))
        self.assertLessEqual(sum((early & late).values()), 1)
        self.assertEqual(daemon.stop(), 0)

    async def test_ended(self) -> None:
        """
        So it is when the daemon is asked to end in the middle, at once.
        """
        await self.weed.start()
        self.cloudshark.port = freePort()
        daemon = self.uploading(spool=True)
        names = self.capture(daemon, CAPTURES)
        self.assertEqual(daemon.stop(), 0)
        failed = daemon.told("failed")
        self.assertEqual(self.names(failed), Counter(names))
        for event in failed:
            self.assertEqual((event["sink"], event["lost"]), ("cloudshark", False))
        self.assertEqual(self.objects(), self.sums)
        self.checkSilence(daemon)
        await self.cloudshark.start(self.cloudshark.port, SECRETS["token"], False)
        daemon.start()
        self.sink(daemon, "stored", "cloudshark", CAPTURES)
        self.assertEqual(self.uploads(), Counter(self.sums.items()))
        await self.emptied()
        self.assertEqual(daemon.stop(), 0)


class NoSpoolTests(_OutageTestCase):
    """
    Without one something is lost, and that is said.
    """

    async def test_end(self) -> None:
        """
        A daemon that has to end while CloudShark is away says of each capture
        that it is lost there, and only there.
        """
        await self.weed.start()
        self.cloudshark.port = freePort()
        daemon = self.uploading(spool=False, capture={"grace": 2})
        names = self.capture(daemon, 3)
        self.sink(daemon, "stored", "s3", 3)
        self.assertEqual(daemon.told("failed"), [])
        self.assertEqual(daemon.stop(), 0)
        failed = daemon.told("failed")
        self.assertEqual(self.names(failed), Counter(names))
        for event in failed:
            self.assertEqual((event["sink"], event["lost"]), ("cloudshark", True))
            self.assertIn("within grace = 2 s: ", event["reason"])
            self.assertIn("refused", event["reason"])
        self.assertEqual(self.objects(), self.sums)

    async def test_back(self) -> None:
        """
        What waits in memory for a server gets there when it is back.
        """
        await self.weed.start()
        self.cloudshark.port = freePort()
        daemon = self.uploading(spool=False)
        self.capture(daemon, 3)
        daemon.waitForLine("cloudshark: ", 3)
        await self.cloudshark.start(self.cloudshark.port, SECRETS["token"], False)
        self.sink(daemon, "stored", "cloudshark", 3)
        self.assertEqual(self.uploads(), Counter(self.sums.items()))
        self.assertEqual(daemon.told("failed"), [])
        self.assertEqual(daemon.stop(), 0)

    async def test_refused(self) -> None:
        """
        What a server refuses for good is lost at once, with the server's words.
        """
        await self.weed.start()
        await self.cloudshark.start(token="another", tls=False)
        daemon = self.uploading(spool=False)
        [name] = self.capture(daemon, 1)
        [event] = self.sink(daemon, "failed", "cloudshark", 1)
        self.assertEqual((event["filename"], event["lost"]), (name, True))
        self.assertIn("Invalid API token", event["reason"])
        _status, captures = daemon.http("GET", "/captures")
        self.assertIn("Invalid API token", str(captures))
        self.assertNoSecret(str(captures))
        self.sink(daemon, "stored", "s3", 1)
        self.assertEqual(self.objects(), self.sums)


def files(directory: Path) -> list[Path]:
    """
    All files below a directory.
    """
    return [path for path in directory.rglob("*") if path.is_file()]
