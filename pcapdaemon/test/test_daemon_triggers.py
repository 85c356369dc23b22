# See LICENSE for details.
"""
From an alert to the file: the files of C{etc/triggers/alertmanager} with a real
Alertmanager and a real daemon.
"""

from __future__ import annotations

import signal
import socket
import struct

import toml

from pcapdaemon.test.daemoncase import DaemonTestCase
from pcapdaemon.test.process import Daemon
from pcapdaemon.test.programs import Program, directory, find, run, triggers
from pcapdaemon.test.test_triggers import alert, notification

#: Where Alertmanager listens; the namespace of the test is its own.
URL = "http://127.0.0.1:9093"


def datagram(address: str, port: int) -> bytes:
    """
    A frame with an UDP datagram from an address and port.
    """
    udp = struct.pack("!HHHH", port, 4000, 12, 0) + b"help"
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    ip += socket.inet_aton(address) + socket.inet_aton("192.0.2.2")
    return b"\x02\0\0\0\0\2\x02\0\0\0\0\1\x08\x00" + ip + udp


class AlertmanagerTests(DaemonTestCase):
    """
    The daemon has the configuration that the docs show.
    """

    def shown(self) -> Daemon:
        """
        Such a daemon, started, on the port that the docs show.
        """
        path = triggers() / "alertmanager" / "pcapdaemon.toml"
        configuration = toml.loads(path.read_text())
        daemon = self.daemon(
            general={"node": "web1"},
            http={"port": 8477},
            trigger=configuration["trigger"],
        )
        daemon.start()
        return daemon

    def test_alertmanager(self) -> None:
        """
        An alert that Alertmanager gets becomes a capture of just the packets that
        it is about; when it comes again, that is once too often, and one that
        would say more in the filter than its place is for is refused.
        """
        amtool = find("amtool", "prometheus-alertmanager")
        alertmanager = find("prometheus-alertmanager")
        files = triggers() / "alertmanager"
        run(amtool, "check-config", str(files / "alertmanager.yml"))
        daemon = self.shown()
        where = directory(self, "alertmanager")
        program = Program(
            self,
            where,
            alertmanager,
            f"--config.file={files / 'alertmanager.yml'}",
            f"--storage.path={where}",
            "--web.listen-address=127.0.0.1:9093",
            "--cluster.listen-address=",
        )
        program.waitForPort(9093)
        words = ["HighErrorRate", "severity=page", "instance=web1:9100"]
        add = [amtool, f"--alertmanager.url={URL}", "alert", "add", *words]
        run(*add, "peer=192.0.2.7:443")
        [armed] = daemon.waitForCount("armed", 1)
        [accepted] = daemon.told("accepted")
        self.assertEqual(accepted["bus"], "trigger")
        self.assertEqual(accepted["filter"], "host 192.0.2.7 and port 443")
        self.assertEqual(accepted["limits"]["packets"], 5000)
        self.assertEqual(accepted["tags"], "alertmanager,HighErrorRate")
        wanted = [datagram("192.0.2.7", 443)] * 3
        self.pair.send([datagram("192.0.2.7", 80), *wanted, datagram("192.0.2.8", 443)])
        run(*add[:-1], "instance=web2:9100", "peer=192.0.2.7 or not port 1")
        [rejected] = daemon.waitForCount("rejected", 1)
        self.assertEqual(
            rejected["detail"],
            "trigger alertmanager: bpf: host: '192.0.2.7 or not port 1' has no IP "
            "address",
        )
        self.assertEqual(daemon.http("DELETE", f"/captures/{armed['id']}")[0], 202)
        file = self.pcap(daemon, armed["id"])
        ends = [record.data[-len(wanted[0]) + 14 :] for record in file.records]
        self.assertEqual(ends, [frame[14:] for frame in wanted])
        self.assertEqual(len(daemon.told("accepted")), 1)

    def test_reload(self) -> None:
        """
        C{SIGHUP} takes other triggers over, and forgets no alert; a bad template
        leaves everything as it was.
        """
        daemon = self.shown()
        labels = {"severity": "page", "alertname": "PacketLoss"}
        message = notification(alert(1, **labels, peer="192.0.2.7:443"))
        path = "/triggers/alertmanager"
        self.assertEqual(daemon.http("POST", path, message)[0], 202)
        [trigger] = daemon.configuration["trigger"]
        trigger["request"]["bpf"] = "host {{ labels.peer }}"
        daemon.configure()
        daemon.signal(signal.SIGHUP)
        said = daemon.waitForLine("not taken over")
        self.assertIn("[[trigger]] number 1: request.bpf", said["message"])
        trigger["request"]["bpf"] = "port 1"
        daemon.configure(trigger=[trigger, {**trigger, "name": "other"}])
        daemon.signal(signal.SIGHUP)
        daemon.waitForLine("configuration taken over")
        status, answer = daemon.http("POST", path, message)
        self.assertEqual((status, answer["alerts"][0]["reason"]), (200, "cooldown"))
        status, answer = daemon.http("POST", "/triggers/other", message)
        self.assertEqual(status, 202)
        [id] = answer["alerts"][0]["ids"]
        self.assertEqual(daemon.waitForEvent("accepted", id)["filter"], "port 1")
