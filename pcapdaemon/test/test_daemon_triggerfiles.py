# See LICENSE for details.
"""
From a trap, a line, a packet or the clock to the file: the files of
C{etc/triggers} with the programs that they are for, and a real daemon.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from pcapdaemon.test.daemoncase import DaemonTestCase
from pcapdaemon.test.process import PATIENCE, Daemon
from pcapdaemon.test.programs import ROOT, Program, directory, find, run, triggers

#: Where the files say that they are installed.
INSTALLED = "/etc/pcapdaemon/triggers"


class _Tests(DaemonTestCase):
    """
    Everything listens where the files say, in a namespace of the test's own.

    @ivar where: A directory for what they write.
    """

    def setUp(self) -> None:
        """
        Make the directory.
        """
        triggers()
        super().setUp()
        self.where = directory(self, "triggers")

    def adapted(self, path: str, **changes: str) -> Path:
        """
        A copy of a file that names its scripts where they are here.

        @param changes: What else to replace, whatever the names are.
        """
        text = (triggers() / path).read_text()
        text = text.replace(INSTALLED, str((triggers() / path).parent))
        for change in changes.values():
            old, new = change.split("\t")
            self.assertIn(old, text)
            text = text.replace(old, new)
        copy = self.where / Path(path).name
        copy.write_text(text)
        return copy

    def listening(self, **sections: Any) -> Daemon:
        """
        A daemon on the usual port, called as a trigger calls it.
        """
        daemon = self.daemon(http={"port": 8477}, **sections)
        daemon.start()
        return daemon

    def redis(self) -> None:
        """
        A Redis on its usual port.
        """
        server = find("redis-server", "redis-cli")
        Program(
            self, self.where, server, "--save", "", "--bind", "127.0.0.1"
        ).waitForPort(6379)

    def datagrams(self, port: int) -> None:
        """
        Three of them, to a port of loopback.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(3):
                sender.sendto(b"x", ("127.0.0.1", port))

    def connect(self, source: str, target: str, port: int) -> None:
        """
        Knock at a TCP port that nobody has.
        """
        with socket.socket() as client:
            client.bind((source, 0))
            self.assertRaises(ConnectionRefusedError, client.connect, (target, port))

    def packets(self, daemon: Daemon, id: str) -> int:
        """
        End a capture; how many packets its file has.
        """
        self.assertEqual(daemon.http("DELETE", f"/captures/{id}")[0], 202)
        return len(self.pcap(daemon, id).records)


class CronTests(_Tests):
    """
    C{etc/triggers/cron}.
    """

    def test_line(self) -> None:
        """
        The command of the line brings a capture, silently; where it does not, it
        says something and fails, so that cron sends a mail.
        """
        find("curl")
        daemon = self.listening()
        [line] = [
            line
            for line in self.adapted("cron/pcapdaemon").read_text().splitlines()
            if line[:1].isdigit()
        ]
        self.assertNotIn("%", line)
        command = line.split(None, 6)[6]
        self.assertEqual(run("/bin/sh", "-c", command), "")
        [armed] = daemon.waitForCount("armed", 1)
        self.assertEqual((armed["alertid"], armed["tags"]), (1, "cron,nightly"))
        self.connect("127.0.0.1", "127.0.0.1", 10000)
        self.assertEqual(self.packets(daemon, armed["id"]), 2)
        daemon.stop()
        error = self.assertRaises(AssertionError, run, "/bin/sh", "-c", command)
        self.assertIn("curl: (7)", str(error))


class LogTests(_Tests):
    """
    C{etc/triggers/rsyslog}.
    """

    def test_rsyslog(self) -> None:
        """
        Lines that rsyslog gets become one capture, by Redis.
        """
        rsyslogd = find("rsyslogd")
        self.redis()
        daemon = self.listening(redis={"listen": True})
        shown = self.adapted(
            "rsyslog/pcapdaemon.conf",
            log=f"/var/log/pcapdaemon-trigger.log\t{self.where / 'trigger.log'}",
        )
        main = self.where / "rsyslog.conf"
        main.write_text(
            f'global(workDirectory="{self.where}")\nmodule(load="imtcp")\n'
            'input(type="imtcp" address="127.0.0.1" port="514")\n'
            f'include(file="{shown}")\n'
        )
        run(rsyslogd, "-N1", "-f", str(main))
        Program(
            *(self, self.where, rsyslogd, "-n", "-f", str(main)),
            *("-i", str(self.where / "rsyslogd.pid")),
        ).waitForPort(514)
        line = (
            "<38>Jan 31 12:00:00 node-a sshd[77]: Failed password for invalid user "
            "\"'; touch x; $(touch x) from 192.0.2.7 port 4242 ssh2\n"
        )
        with socket.create_connection(("127.0.0.1", 514)) as link:
            link.sendall(line.encode() * 20)
            [armed] = daemon.waitForCount("armed", 1)
        [accepted] = daemon.told("accepted")
        self.assertEqual(accepted["bus"], "redis")
        self.assertEqual(accepted["filter"], "host 192.0.2.7 and tcp port 22")
        self.assertEqual(daemon.http("DELETE", f"/captures/{armed['id']}")[0], 202)
        self.assertEqual(daemon.waitForEvent("completed", armed["id"])["packets"], 0)
        # Nothing to complain about; the file comes with the first complaint.
        self.assertFalse((self.where / "trigger.log").exists())

    def test_neverWaits(self) -> None:
        """
        Every line is answered at once, also when Redis does not answer, and what
        could not be published is said.
        """
        find("redis-cli")
        script = triggers() / "rsyslog" / "capture-on-log.py"
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 6379))
            silent.listen()
            process = subprocess.Popen(
                [sys.executable, str(script), "-h", "127.0.0.1"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
            assert process.stdin is not None and process.stdout is not None
            self.assertEqual(process.stdout.readline(), b"OK\n")
            for number in range(1, 31):
                line = (
                    '{"host": "a", "message": "Failed password for x from '
                    f'192.0.2.{number % 3} port 1 ssh2"}}\n'
                )
                process.stdin.write(line.encode())
                process.stdin.flush()
                self.assertEqual(process.stdout.readline(), b"OK\n")
            # It waits for its answer until we hang up.
            link, _ = silent.accept()
            link.close()
        _, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 0)
        self.assertIn(b"not published: ", errors)


class PacketTests(_Tests):
    """
    C{etc/triggers/netfilter}.
    """

    def test_packet(self) -> None:
        """
        A packet that the firewall's rule logs brings the next ones of its hosts.
        """
        nft, ulogd = find("nft"), find("ulogd")
        plugins = next(Path("/usr/lib").glob("*/ulogd"), Path("/usr/lib/ulogd"))
        pipe = self.where / "capture.log"
        os.mkfifo(pipe)
        rules = self.adapted(
            "netfilter/pcapdaemon.nft",
            log="        limit rate 1/second burst 5 packets log prefix\t        # ",
            group="        #   limit\t        limit",
        )
        run(nft, "--file", str(rules))
        configuration = self.adapted(
            "netfilter/ulogd.conf",
            plugins=f"/usr/lib/x86_64-linux-gnu/ulogd\t{plugins}",
            log=f"/var/log/ulog\t{self.where}",
        )
        daemon = self.listening()
        with open(pipe, "r+b", buffering=0) as lines:
            script = triggers() / "netfilter" / "capture-on-packet.py"
            process = subprocess.Popen(
                [sys.executable, str(script)],
                stdin=lines,
                stdout=subprocess.DEVNULL,
            )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        watcher = Program(self, self.where, ulogd, "-c", str(configuration))
        # The groups that somebody in this namespace listens to.
        groups = Path("/proc/thread-self/net/netfilter/nfnetlink_log")
        watcher.waitFor("    5 ", file=groups)
        self.connect("127.0.0.2", "127.0.0.3", 2323)
        [armed] = daemon.waitForCount("armed", 1)
        [accepted] = daemon.told("accepted")
        self.assertEqual(accepted["filter"], "host 127.0.0.2 and host 127.0.0.3")
        self.assertEqual(accepted["interface"], "lo")
        self.connect("127.0.0.2", "127.0.0.3", 2323)
        self.assertEqual(self.packets(daemon, armed["id"]), 2)
        self.assertEqual(len(daemon.told("accepted")), 1)


class TrapTests(_Tests):
    """
    C{etc/triggers/snmptrapd}.
    """

    def test_trap(self) -> None:
        """
        A trap becomes a capture of the device that it is from, once.
        """
        snmptrapd, snmptrap = find("snmptrapd"), find("snmptrap")
        self.redis()
        daemon = self.listening(redis={"listen": True})
        configuration = self.adapted("snmptrapd/snmptrapd.conf")
        command = self.where / "pcapdaemon"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m pcapdaemon "$@"\n')
        command.chmod(stat.S_IRWXU)
        Program(
            *(self, self.where, snmptrapd, "-f", "-Lo", "-C", "-c"),
            *(str(configuration), "-m", "", "udp:127.0.0.1:162"),
            environment={
                "PCAPDAEMON": str(command),
                "STATE_DIRECTORY": str(self.where / "state"),
                "SNMP_PERSISTENT_DIR": str(self.where),
                "PYTHONPATH": str(ROOT),
            },
        ).waitFor("NET-SNMP version")
        send = [snmptrap, "-m", "", "-v", "2c", "-c", "public", "127.0.0.1", ""]
        for trap in (5, 4, 5):
            evil = (".1.3.6.1.2.1.1.5.0", "s", "x\"; touch x; $(touch x) '\n.1 .2")
            run(*send, f".1.3.6.1.6.3.1.1.5.{trap}", *evil)
        [armed] = daemon.waitForCount("armed", 1)
        [accepted] = daemon.told("accepted")
        self.assertEqual(accepted["filter"], "host 127.0.0.1 and udp port 161")
        self.assertEqual(accepted["tags"], "snmptrap,authenticationFailure")
        self.datagrams(161)
        self.assertTrue(self.packets(daemon, armed["id"]) >= 3)
        self.assertEqual(len(daemon.told("accepted")), 1)
