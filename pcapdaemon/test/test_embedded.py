# See LICENSE for details.
"""
C{examples/embedded.py} as somebody runs it.
"""

from __future__ import annotations

import signal
import socket
import sys

from pcapdaemon.test import pcapfile
from pcapdaemon.test.daemoncase import DaemonTestCase
from pcapdaemon.test.network import environment
from pcapdaemon.test.process import PATIENCE
from pcapdaemon.test.programs import ROOT, Program, directory


class EmbeddedTests(DaemonTestCase):
    """
    An application that holds a capture service.
    """

    def say(self, word: bytes) -> bytes:
        """
        Say a word at the door; what is answered.
        """
        with socket.create_connection(("127.0.0.1", 4000), PATIENCE) as link:
            link.sendall(word + b"\r\n")
            return link.makefile("rb").readline()

    def test_door(self) -> None:
        """
        Three wrong words bring a capture of what comes next, whose file is in the
        application's own sink when it has ended.
        """
        script = ROOT / "examples" / "embedded.py"
        if not script.exists():
            self.skipTest("no examples here: this is not a checkout")
        where = directory(self, "embedded")
        program = Program(
            *(self, where, sys.executable, str(script), "4000", "lo", str(where)),
            environment=environment(),
        )
        program.waitFor("the door is at port 4000")
        self.assertEqual(self.say(b"sesame"), b"come in\r\n")
        for _ in range(3):
            self.assertEqual(self.say(b"guess"), b"no\r\n")
        program.waitFor("accepted ", "armed ")
        # One alarm too many is refused.
        for _ in range(3):
            self.assertEqual(self.say(b"another guess"), b"no\r\n")
        program.waitFor("rejected ", "reason=duplicate")
        program.process.send_signal(signal.SIGINT)
        self.assertEqual(program.process.wait(PATIENCE), 0)
        said = program.output.read_text()
        self.assertIn("stop=shutdown", said)
        [path] = where.glob("*.pcap")
        self.assertIn(f"url={path.as_uri()}", said)
        data = b"".join(record.data for record in pcapfile.read(path).records)
        self.assertEqual(data.count(b"another guess"), 3)
        self.assertNotIn("Traceback", said)
