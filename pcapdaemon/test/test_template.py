# See LICENSE for details.
"""
Tests for L{pcapdaemon.triggers.template}.
"""

from __future__ import annotations

from typing import Any

import re2

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.triggers import template
from pcapdaemon.triggers.template import GUARDS, MAXLENGTH, BadTemplate

VALUES = {
    "labels": {
        "instance": "web1.example.com:9100",
        "peer": "192.0.2.7:443",
        "six": "[2001:db8::1]:80",
        "items": "no method",
        "evil": "1.2.3.4 or port 1",
    },
    "status": "firing",
}


class _Tests(SynchronousTestCase):
    def fill(self, text: str, *guards: str) -> str:
        """What a template becomes."""
        return template.compile(text, VALUES, guards).render(VALUES)

    def wrong(self, text: str, *guards: str) -> str:
        """What is wrong with a template, as soon as it is made."""
        error: Any = self.assertRaises(
            BadTemplate, template.compile, text, VALUES, guards
        )
        return str(error)

    def unfit(self, text: str) -> str:
        """What is wrong with a template when it is filled in."""
        ready = template.compile(text, VALUES)
        error: Any = self.assertRaises(BadTemplate, ready.render, VALUES)
        return str(error)


class LanguageTests(_Tests):
    """
    What a template may say.
    """

    def test_values(self) -> None:
        """Expressions are filled in; all else stays, comments aside."""
        for text, filled in [
            ("port 53", "port 53"),
            ("{{ labels.peer }}", "192.0.2.7:443"),
            ("a {{ labels['peer'] }} b{# note #}", "a 192.0.2.7:443 b"),
            ("{{ labels.items }}", "no method"),
            ("{{ 500 if status == 'firing' else 5 }}", "500"),
            ("{{ 'x' if labels.nope is defined else 'y' }}", "y"),
            ("{{ labels.nope|default('none') }}", "none"),
            ("{{ status|upper }}{{ status|replace('f', 'w')|trim }}", "FIRINGwiring"),
            ("{{ 'a' ~ status }}", "afiring"),
        ]:
            self.assertEqual(self.fill(text), filled, text)

    def test_constant(self) -> None:
        """It is known whether a template varies."""
        for text, constant in [("port 53", True), ("", True), ("{{ status }}", False)]:
            self.assertIs(template.compile(text, VALUES).constant, constant)

    def test_confined(self) -> None:
        """There are no statements, calls, sums or repetitions."""
        for text, what in [
            ("{% for x in labels %}{% endfor %}", "for"),
            ("{% if status %}a{% endif %}", "if"),
            ("{% set a = 1 %}", "assign"),
            ("{% include 'x' %}", "include"),
            ("{{ status.upper() }}", "call"),
            ("{{ range(9) }}", "call"),
            ("{{ 'a' * 1000000000 }}", "mul"),
            ("{{ 9 ** 9 }}", "pow"),
            ("{{ status[:2] }}", "slice"),
        ]:
            self.assertIn(f"(here is: {what})", self.wrong(text))

    def test_attributes(self) -> None:
        """Nothing but tables has anything in it."""
        for text in [
            "{{ status.__class__ }}",
            "{{ labels.__class__ }}",
            "{{ labels['__init__'] }}",
            "{{ status['upper'] }}",
        ]:
            self.assertIn("the alert has no ", self.unfit(text))

    def test_mistakes(self) -> None:
        """What is no template is said so at once."""
        for text, said in [
            ("{{ labels.", "a template ("),
            ("{{ nope }}", "(not nope)"),
            ("{{ status|nope }}", "No filter named 'nope'"),
            ("{{ status|format }}", "No filter named 'format'"),
            ("x" * (MAXLENGTH + 1), f"at most {MAXLENGTH} characters"),
            ("{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}", "nested less deeply"),
            ("{{ 'x'" + "|lower" * 600 + " }}", "nested less deeply"),
        ]:
            self.assertIn(said, self.wrong(text))

    def test_unfit(self) -> None:
        """What the alert does not have, or is no text, is said so."""
        for text, said in [
            ("{{ labels.nope }}", "the alert has no 'nope'"),
            ("{{ labels }}", "an object is no text"),
            ("{{ status == 'firing' }}", "true is no text"),
            ("{{ 1 < status }}", "not supported"),
        ]:
            self.assertIn(said, self.unfit(text))

    def test_bounded(self) -> None:
        """What comes of a template has an end."""
        ready = template.compile("{{ status }}", VALUES)
        self.assertEqual(ready.render({"status": "x" * MAXLENGTH}), "x" * MAXLENGTH)
        error: Any = self.assertRaises(
            BadTemplate, ready.render, {"status": "x" * (MAXLENGTH + 1)}
        )
        self.assertIn(f"{MAXLENGTH + 1} characters", str(error))

    def test_growth(self) -> None:
        """No filter makes much of little on the way, either."""
        many = "x" * 30_000
        values = {"a": many, "b": many}
        for text, length in [
            ("{{ a|replace('', b)|short }}", 900_060_000),
            ("{{ a|replace('x', 'yy')|short }}", 60_000),
            ("{{ a|literal|short }}", 30_000),
            ("{{ 'x'" + "|replace('', 'x' ~ status)" * 20 + " }}", None),
        ]:
            ready = template.compile(text, (*values, "status"))
            error: Any = self.assertRaises(
                BadTemplate, ready.render, {**values, "status": "y" * 9}
            )
            self.assertIn(f"a part of it becomes {length or ''}", str(error))
        ready = template.compile("{{ a|replace('x', '') }}", "a")
        self.assertEqual(ready.render({"a": many + "y"}), "y")


class FilterTests(_Tests):
    """
    The filters that look at what they let through.
    """

    def test_good(self) -> None:
        """Addresses, ports and names are found."""
        for value, filter, found in [
            ("192.0.2.7", "host", "192.0.2.7"),
            ("192.0.2.7:443", "host", "192.0.2.7"),
            ("2001:DB8::0:1", "host", "2001:db8::1"),
            ("[2001:db8::1]:80", "host", "2001:db8::1"),
            ("[2001:db8::1]", "host", "2001:db8::1"),
            ("443", "port", "443"),
            ("00443", "port", "443"),
            ("web1:9100", "port", "9100"),
            ("[2001:db8::1]:80", "port", "80"),
            ("web1.example.com:9100", "hostname", "web1.example.com"),
            ("web1", "hostname", "web1"),
            ("web1.example.com", "short", "web1"),
        ]:
            self.assertEqual(
                template.compile("{{ a|" + filter + " }}", "a").render({"a": value}),
                found,
            )

    def test_bad(self) -> None:
        """All else is refused, however near it comes."""
        for filter, values in {
            "host": [
                *("", "web1", "1.2.3.4 or port 1", "1.2.3.4\n", "192.0.2.7/24"),
                *("fe80::1%eth0", "fe80::1%x or port 1", "1.2.3", "[::1]x", "::1:"),
                *("1.2.3.4:", "1.2.3.4:80 or 1", "٣.1.1.1", "1.2.3.4:x:1"),
            ],
            "port": [
                *("", "0", "65536", "-1", "+1", " 80", "80\n", "80 or 1", "٣", "1e3"),
                *("web1", "web1:", "web1:x", "1.2.3.4:99999", "2001:db8::1"),
            ],
            "hostname": ["", "a b", "-a", ".", "a\n", "a;b", "$(id)", "x" * 254, "é"],
        }.items():
            ready = template.compile("{{ a|" + filter + " }}", "a")
            for value in values:
                error: Any = self.assertRaises(BadTemplate, ready.render, {"a": value})
                self.assertTrue(str(error).startswith(f"{filter}: "), value)

    def test_literal(self) -> None:
        """A text becomes an expression for itself."""
        text = "a.b*c|(d)\\e[f]\n"
        pattern = template.compile("{{ a|literal }}", "a").render({"a": text})
        self.assertTrue(re2.fullmatch(pattern, text))
        self.assertFalse(re2.fullmatch(pattern, text.replace(".", "x")))


class GuardTests(_Tests):
    """
    Where a value could change what the rest means, it must be looked at.
    """

    def test_unguarded(self) -> None:
        """A value that is not looked at last is a mistake."""
        for text in [
            "host {{ labels.evil }}",
            "host {{ labels.peer|host|default('x') }}",
            "host {{ labels.peer|host|replace('1', labels.evil) }}",
            "{{ 'host ' ~ labels.evil }}",
            "{{ labels.peer|host if status else labels.evil }}",
            "{{ labels.peer|host or labels.evil }}",
            "{{ labels[status] }}",
        ]:
            said = self.wrong(text, *GUARDS["bpf"])
            self.assertIn("every value ends with |host or |port", said)

    def test_guarded(self) -> None:
        """What is looked at, or the author's own, may stand there."""
        for text, filled in [
            ("port 53", "port 53"),
            (
                "host {{ labels.peer|host }} and port {{ labels.peer|port }}",
                "host 192.0.2.7 and port 443",
            ),
            (
                "{{ 'host ' ~ labels.six|host if labels.six is defined else 'tcp' }}",
                "host 2001:db8::1",
            ),
            ("{{ 'tcp' if labels.evil else 'udp' }}", "tcp"),
        ]:
            self.assertEqual(self.fill(text, *GUARDS["bpf"]), filled)

    def test_injection(self) -> None:
        """A value that would change the filter fills in nothing."""
        said = self.unfit("host {{ labels.evil|host }}")
        self.assertEqual(said, "host: '1.2.3.4 or port 1' has no IP address")
