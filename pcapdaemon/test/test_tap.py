# See LICENSE for details.
"""
Tests for L{pcapdaemon.tap}, through twistd itself where it matters.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

import pcapdaemon
from pcapdaemon.config import OPTIONS, load
from pcapdaemon.tap import Options

#: twistd, as its script starts it.
TWISTD = "from twisted.scripts.twistd import run; run()"

#: twistd, with a daemon that says one thing and ends: these tests need no
#: privilege.
STANDIN = f"""
import sys, types
from twisted.application.service import Service
from twisted.logger import Logger

class CaptureDaemon(Service):
    def __init__(self, reactor, settings):
        self._reactor = self.reactor = reactor
        self.settings = settings

    def startService(self):
        Service.startService(self)
        Logger("stand-in").info("here {{host}}", host=self.settings.redis.host)
        self.reactor.callWhenRunning(self.reactor.stop)

sys.modules["pcapdaemon.daemon"] = module = types.ModuleType("pcapdaemon.daemon")
module.CaptureDaemon = CaptureDaemon
{TWISTD}
"""


class OptionsTests(SynchronousTestCase):
    """
    Tests for L{Options}.
    """

    def parse(self, *arguments: str) -> tuple[Options, int | None, str, str]:
        """
        Parse arguments.

        @return: The options, the status if they exit, and what they print on
            both streams.
        """
        options, status = Options(), None
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            try:
                options.parseOptions(list(arguments))
            except SystemExit as exit:
                assert isinstance(exit.code, int)
                status = exit.code
        return options, status, out.getvalue(), err.getvalue()

    def test_nothing(self) -> None:
        """
        Without options there is what holds without a file.
        """
        options, status, out, err = self.parse()
        self.assertEqual(options.settings, load(None, {}))
        self.assertEqual((status, out, err), (None, "", ""))

    def test_every(self) -> None:
        """
        Every option that sets something exists, and nothing that does not.
        """
        names = {name for name, *_ in Options.optParameters + Options.optFlags}
        self.assertEqual(names - set(OPTIONS), {"config", "jsonlog", "check"})
        self.assertEqual(set(OPTIONS) - names, set())

    def test_overrides(self) -> None:
        """
        What is given on the command line, and only that, is handed on, empty
        text too.
        """
        options, *_ = self.parse("--panic", "--redisport=5", "--cstoken", "")
        self.assertEqual(
            options.overrides(),
            {
                ("general", "panic"): True,
                ("redis", "port"): "5",
                ("cloudshark", "token"): "",
            },
        )
        self.assertIs(options.settings.general.panic, True)

    def test_wins(self) -> None:
        """
        An option wins over the file.
        """
        path = self.mktemp()
        Path(path).write_text(
            "[general]\nwritelocal = true\nmaxpackets = 7\nmaxbytes = 8000\n"
            "[redis]\nlisten = true\n"
        )
        options, *_ = self.parse("--config", path, "--maxpackets", "9")
        self.assertEqual(options.settings.general.maxpackets, 9)
        self.assertEqual(options.settings.general.maxbytes, 8000)

    def test_mistakes(self) -> None:
        """
        Every mistake is one line on the error stream, and the status is 1.
        """
        path = self.mktemp()
        Path(path).write_text("[redis]\nlisten = true\nprot = 1\n")
        _, status, out, err = self.parse("--config", path, "--maxpackets", "many")
        self.assertEqual((status, out), (1, ""))
        self.assertEqual(
            err.splitlines(),
            [
                f'{path}: [redis] "prot": unknown key; did you mean port?',
                'command line: --maxpackets ([general] maxpackets) = "many": '
                "must be an integer of at least 1",
                f"{path}: no sink is on: [general] writelocal, "
                "[cloudshark] upload or [s3] upload must be true",
            ],
        )

    def test_check(self) -> None:
        """
        C{--check} says that all is well, of which file, and exits.
        """
        self.assertEqual(self.parse("--check")[1:], (0, "without a file: ok\n", ""))
        path = self.mktemp()
        Path(path).write_text("[general]\nwritelocal = true\n[http]\nlisten = true\n")
        self.assertEqual(
            self.parse("--config", path, "--check")[1:], (0, f"{path}: ok\n", "")
        )

    def test_version(self) -> None:
        """
        C{--version} is that of this project.
        """
        self.assertEqual(
            self.parse("--version")[1:],
            (0, f"pcapdaemon {pcapdaemon.__version__}\n", ""),
        )

    def test_plugin(self) -> None:
        """
        twistd finds the plugin, with these options.
        """
        (maker,) = [
            plugin
            for plugin in getPlugins(IServiceMaker)
            if plugin.tapname == "pcapdaemon"
        ]
        self.assertIs(maker.options, Options)


class TwistdTests(SynchronousTestCase):
    """
    The command line of twistd, in a process of its own.
    """

    def setUp(self) -> None:
        """
        Make a directory to run in.
        """
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def run_(
        self, *arguments: str, program: str = TWISTD
    ) -> subprocess.CompletedProcess[str]:
        """
        Run twistd to its end.
        """
        root = str(Path(pcapdaemon.__file__).parents[1])
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def test_good(self) -> None:
        """
        A good file is said to be, with status 0.
        """
        text = "[general]\nwritelocal = true\n[redis]\nlisten = true\n"
        (self.directory / "good.toml").write_text(text)
        done = self.run_("pcapdaemon", "--config", "good.toml", "--check")
        self.assertEqual(
            (done.returncode, done.stdout, done.stderr), (0, "good.toml: ok\n", "")
        )

    def test_bad(self) -> None:
        """
        Of a bad file only the mistakes are said, with status 1, whether it is
        to be checked or used.
        """
        (self.directory / "bad.toml").write_text("[redis]\nlisten = 1\n")
        for arguments in (["--check"], []):
            done = self.run_("pcapdaemon", "--config", "bad.toml", *arguments)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertEqual(
                done.stderr.splitlines(),
                [
                    "bad.toml: [redis] listen = 1: must be true or false",
                    "bad.toml: no sink is on: [general] writelocal, "
                    "[cloudshark] upload or [s3] upload must be true",
                ],
            )
        self.assertEqual(os.listdir(self.directory), ["bad.toml"])

    def test_unknown(self) -> None:
        """
        An unknown option is an error to twistd.
        """
        done = self.run_("pcapdaemon", "--bogus")
        self.assertEqual(done.returncode, 1)
        self.assertIn("--bogus", done.stdout)

    def test_help(self) -> None:
        """
        The help names every option.
        """
        done = self.run_("pcapdaemon", "--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for name in OPTIONS:
            self.assertIn(f"--{name}", done.stdout)

    def standin(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """
        Run twistd with a daemon that ends at once.
        """
        done = self.run_("--pidfile=", *arguments, program=STANDIN)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done

    def assertLog(self, text: str) -> None:
        """
        Assert that a log is one JSON object a line, all of it.
        """
        lines = [json.loads(line) for line in text.splitlines()]
        (said,) = [line for line in lines if line["namespace"] == "stand-in"]
        self.assertEqual(said["message"], "here elsewhere")
        self.assertEqual(said["host"], "elsewhere")
        self.assertEqual(lines[-1]["message"], "Server Shut Down.")

    OURS = ("pcapdaemon", "--redisnode", "elsewhere")

    def test_plainLog(self) -> None:
        """
        Without C{--jsonlog}, twistd logs as ever.
        """
        done = self.standin("--nodaemon", *self.OURS)
        self.assertIn("[stand-in#info] here elsewhere\n", done.stdout)

    def test_jsonStdout(self) -> None:
        """
        C{--jsonlog} goes to the output where twistd logs there.
        """
        done = self.standin("--nodaemon", *self.OURS, "--jsonlog")
        self.assertLog(done.stdout)
        dash = self.standin("--nodaemon", "--logfile", "-", *self.OURS, "--jsonlog")
        self.assertLog(dash.stdout)

    def test_jsonFile(self) -> None:
        """
        C{--jsonlog} goes to the file where twistd logs to one.
        """
        done = self.standin("--nodaemon", "--logfile=x.log", *self.OURS, "--jsonlog")
        self.assertEqual(done.stdout, "")
        self.assertLog((self.directory / "x.log").read_text())

    def test_jsonDaemon(self) -> None:
        """
        A daemon cannot log to the output, with C{--jsonlog} or without.
        """
        for arguments in ([], ["--jsonlog"]):
            done = self.run_(
                "--pidfile=", "--logfile=-", *self.OURS, *arguments, program=STANDIN
            )
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("Daemons cannot log to stdout", done.stderr)
