# See LICENSE for details.
"""
Tests for C{[[trigger]]} in a configuration.
"""

from __future__ import annotations

from pcapdaemon.config import HttpSettings, Settings, TriggerSettings
from pcapdaemon.config.triggers import makeAll
from pcapdaemon.interfaces import StartError
from pcapdaemon.test.test_config import Mistakes

BASE = "[general]\nwritelocal = true\n[http]\nlisten = true\n"
REQUEST = '[trigger.request]\nnode = "any"\ninterface = ["eth0"]\n'


class TriggerTests(Mistakes):
    """
    What is read, and what is a mistake.
    """

    def test_read(self) -> None:
        """
        All triggers are read, with their defaults.
        """
        text = (
            BASE
            + "[[trigger]]\nname = 'a'\nmatch = ['x = y', 'z =~ \"a, [b]\"']\n"
            + "status = ['firing', 'resolved']\ncooldown = 1.5\nmost = 2\n"
            + REQUEST
            + 'bpf = "host {{ labels.peer|host }}"\npackets = 5\n'
            + f"[[trigger]]\nname = 'b'\n{REQUEST}"
        )
        one, two = self.settings(text).triggers
        request = {"node": "any", "interface": ["eth0"]}
        self.assertEqual(
            one,
            TriggerSettings(
                name="a",
                match=("x = y", 'z =~ "a, [b]"'),
                status=("firing", "resolved"),
                cooldown=1.5,
                most=2,
                request={
                    **request,
                    "bpf": "host {{ labels.peer|host }}",
                    "packets": 5,
                },
            ),
        )
        self.assertEqual(two, TriggerSettings(name="b", request=request))
        self.assertEqual([t.name for t in makeAll([one, two])], ["a", "b"])

    def test_mistakes(self) -> None:
        """
        What is wrong is named with its place, and what is allowed.
        """
        here = "FILE: [[trigger]] number 1:"
        for lines, said in [
            (f"name = 'a/b'\n{REQUEST}", f'{here} name = "a/b": must be 1 to 64 let'),
            (REQUEST, f"{here} name: must be given"),
            ("name = 'a'", f"{here} request: must be given, as [trigger.request]"),
            ("name = 'a'\n[trigger.request]", f"{here} request = {{}}: must be a tab"),
            (
                f"name = 'a'\nmatch = 'x'\n{REQUEST}",
                f'{here} match = "x": must be LABEL, then',
            ),
            (
                f"name = 'a'\nmatch = 'x =~ ('\n{REQUEST}",
                f'{here} match = "x =~ (": must be a RE2 expression after =~ (',
            ),
            (
                f"name = 'a'\nstatus = 'burning'\n{REQUEST}",
                f'{here} status = "burning": must be an array of "firing"',
            ),
            (
                f"name = 'a'\ncooldown = 0\n{REQUEST}",
                f"{here} cooldown = 0: must be a number of seconds above 0",
            ),
            (f"name = 'a'\n{REQUEST}pakets = 1", f"{here} request.pakets: unknown key"),
            (
                f"name = 'a'\n{REQUEST}bpf = 'host {{{{ labels.x }}}}'",
                f'{here} request.bpf = "host {{{{ labels.x }}}}": must be a template',
            ),
            (
                f"name = 'a'\n{REQUEST}tags = '{{{{ label.x }}}}'",
                f'{here} request.tags = "{{{{ label.x }}}}": must be a template that',
            ),
            (
                f"name = 'a'\n{REQUEST}packets = 0",
                f"{here} request: packets is 0; allowed is an integer, 1 or more",
            ),
        ]:
            [mistake] = self.mistakes(f"{BASE}[[trigger]]\n{lines}\n")
            self.assertTrue(mistake.startswith(said), f"{mistake}\n{said}")

    def test_twice(self) -> None:
        """
        No two have one name.
        """
        one = f"[[trigger]]\nname = 'a'\n{REQUEST}"
        self.assertEqual(
            self.mistakes(BASE + one + one),
            [
                'FILE: [[trigger]] number 2: name = "a": stands in another [[trigger]]',
            ],
        )
        self.assertEqual(
            self.mistakes(f"{BASE}[trigger]\nname = 'a'\n"),
            ["FILE: trigger: must be written [[trigger]]"],
        )

    def test_withoutHttp(self) -> None:
        """
        A trigger that nobody could reach is a mistake.
        """
        self.assertEqual(
            self.mistakes(
                "[general]\nwritelocal = true\n[redis]\nlisten = true\n"
                f"[[trigger]]\nname = 'a'\n{REQUEST}"
            ),
            ['FILE: [[trigger]] name = "a": needs [http] listen = true'],
        )

    def test_made(self) -> None:
        """
        A program that makes settings itself is told by an error.
        """
        settings = Settings(
            http=HttpSettings(listen=True),
            triggers=(TriggerSettings(name="a", request={"node": "{{"}),),
        )
        error = self.assertRaises(StartError, makeAll, settings.triggers)
        self.assertIn("[[trigger]] a request.node: must be a template (", str(error))
