# See LICENSE for details.
"""
Files that the command line gets.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.cli import address
from pcapdaemon.cli.bus import Access
from pcapdaemon.cli.download import Downloads, downloadAll
from pcapdaemon.cli.tracker import Capture, Tracker
from pcapdaemon.test.test_cli_follow import completed, event

DATA = b"packets" * 1000


class DownloadTests(SynchronousTestCase):
    """
    L{Downloads}.
    """

    def setUp(self) -> None:
        self.directory = str(self.mktemp())
        self.clock = Clock()
        self.tracker = Tracker("r", self.clock.seconds)

    def capture(self, url: str, **fields: Any) -> Capture:
        """
        A capture whose file is stored there.
        """
        told = {"bytes": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest()}
        self.tracker.take(event("accepted"))
        self.tracker.take(completed(**{**told, **fields}))
        self.tracker.take(event("stored", sink="local", url=url))
        return self.tracker.captures["a"]

    def get(self, *servers: address.Address) -> tuple[list[str], list[str]]:
        """
        Get all files.
        """
        downloads = Downloads(self.directory, servers, Access(token="t" * 16))
        return downloadAll(self.tracker.captures.values(), downloads)

    def local(self, data: bytes = DATA) -> str:
        """
        The URL of a file on this machine.
        """
        path = Path(str(self.mktemp())).absolute()
        path.write_bytes(data)
        return path.as_uri()

    def test_local(self) -> None:
        """
        A file that can be read here is copied, under its name.
        """
        self.capture(self.local())
        self.assertEqual(self.get(), ([f"{self.directory}/web1-eth0-1-a.pcap"], []))
        self.assertEqual(os.listdir(self.directory), ["web1-eth0-1-a.pcap"])
        path = Path(self.directory, "web1-eth0-1-a.pcap")
        self.assertEqual(path.read_bytes(), DATA)

    def test_wrong(self) -> None:
        """
        A file that is another one, or longer, is not kept, and neither is a part
        of it.
        """
        for data in DATA[:-1], DATA[:-1] + b"x", DATA + b"x":
            self.setUp()
            self.capture(self.local(data))
            paths, [complaint] = self.get()
            self.assertEqual((paths, os.listdir(self.directory)), ([], []))
            self.assertIn("web1 eth0: no file: local: it ", complaint)

    def test_names(self) -> None:
        """
        What a daemon, or somebody else on the bus, calls its file does not lead out
        of the directory; and nothing but a file is read.
        """
        for name in "../a.pcap", "/etc/a.pcap", ".a.pcap", "a\n.pcap", "a", "":
            self.setUp()
            self.capture(self.local(), filename=name)
            paths, [complaint] = self.get()
            self.assertEqual(paths, [])
            self.assertIn("did not name a file", complaint)
        for url in "file:///dev/zero", "file:///nowhere", "https://cloudshark/1":
            self.setUp()
            self.capture(url)
            self.assertEqual(len(self.get()[1]), 1)

    def test_empty(self) -> None:
        """
        A capture without packets has no file, and that is right.
        """
        self.capture("", packets=0)
        self.assertEqual(self.get(), ([], []))

    def test_server(self) -> None:
        """
        Else a daemon that was asked is asked for it, with the token, and a file
        that breaks off is none.
        """
        with served(DATA) as (server, asked):
            self.capture("file:///nowhere")
            paths, complaints = self.get(server)
            self.assertEqual((len(paths), complaints), (1, []))
            self.assertEqual(asked, [("/captures/a/file", "Bearer " + "t" * 16)])
        with served(DATA[:100], len(DATA)) as (server, _):
            os.unlink(paths[0])
            paths, [complaint] = self.get(server)
            self.assertEqual((paths, os.listdir(self.directory)), ([], []))
            self.assertIn(server.label, complaint)


@contextmanager
def served(
    data: bytes, told: int | None = None
) -> Iterator[tuple[address.Address, list[Any]]]:
    """
    An HTTP server that has one file.

    @param told: The length that it tells.
    """
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(200)
            self.send_header("Content-Length", str(told or len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield address.parse(f"http://127.0.0.1:{server.server_port}"), asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
