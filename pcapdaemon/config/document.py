# See LICENSE for details.
"""
From TOML to plain dictionaries, around the traps of the C{toml} package.
"""

from __future__ import annotations

from typing import Any

import toml

#: What the parser says, and what to say instead: its own words may quote the
#: line, with the secret in it.
_SYNTAX = {
    "already exists": "this section stands twice",
    "invalid literal": "this is no value; text needs quotes",
    "float": "this is no value; text needs quotes",
    "Duplicate keys": "this key stands twice",
    "homogeneous": "an array must hold values of one type",
    "unclosed array": "an array is not closed",
    "quote": "a quote is missing or too much",
    "nterminated string": "a quote is missing or too much",
    "closed string": "there is something behind the value",
    "without value": "a key needs = and a value",
    "mpty value": "a key needs = and a value",
}


class ConfigError(Exception):
    """
    A configuration that cannot be used.

    @ivar mistakes: All that is wrong with it, a sentence each.
    """

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class _Decoder(toml.TomlDecoder):  # type: ignore[type-arg]
    def load_array(self, a: str) -> list[Any]:
        # The original takes the last character for the bracket, whatever it is.
        if not a.rstrip().endswith("]"):
            raise ValueError("unclosed array")
        return super().load_array(a)


def tables(text: str, source: str) -> dict[str, Any]:
    """
    Parse TOML.

    @param source: Where it is from, for the message.
    @raise ConfigError: It is not TOML; the message names the line.
    """
    text = text.replace("\r\n", "\n")
    try:
        parsed: dict[str, Any] = toml.loads(text, decoder=_Decoder())
        return parsed
    except toml.TomlDecodeError as error:
        found = [said for words, said in _SYNTAX.items() if words in error.msg]
        line, said = error.lineno, [*found, "not valid TOML"][0]
    except Exception as error:
        # Over some mistakes the parser itself stumbles, and does not say where.
        line, said = _stumble(text, type(error)), "not valid TOML"
    raise ConfigError([f"{source}, line {line}: {said}"])


def _stumble(text: str, error: type[Exception]) -> int:
    """
    Find the line that makes the parser fail in a certain way.
    """
    lines = text.split("\n")
    for number in range(1, len(lines)):
        try:
            toml.loads("\n".join(lines[:number]), decoder=_Decoder())
        except error:
            return number
        except Exception:
            continue
    return len(lines)
