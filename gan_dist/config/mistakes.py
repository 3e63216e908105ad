"""Messages about mistakes in a command line: one line with the word or field, the problem and the way out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any

from gan_dist.config.errors import InputError
from gan_dist.config.options import Option
from gan_dist.config.ranges import check_text
from gan_dist.config.suggestions import did_you_mean, nearest
from gan_dist.config.text import in_message, shortened

HELP, HELP_ALL = ("-h", "--help"), "--help-all"
RENAMED = {"--train.compile": "--train.capture on", "--train.no-compile": "--train.capture off"}


@dataclass(frozen=True)
class CommandLine:
    """The words of a command line and the valid options, for messages about mistakes."""

    words: Sequence[str]
    options: Sequence[Option]
    usage: str
    presets: Sequence[str]

    def without_value(self, key: str, problem: str) -> InputError:
        """The error for a field with no value, or too few values."""
        option = self._option(key)
        if option.metavar is None:
            example = "" if option.example is None else f", as in {option.flag} {option.example}"
            return InputError(f"{option.flag} needs a value: {option.wanted}{example}")
        return self._mistyped() or InputError(f"{option.metavar} {problem}; the command is: {self.usage}")

    def with_bad_value(self, key: str, value: str | None = None) -> InputError:
        """The error for a value of the wrong type, or not among the choices; None: the last value of the flag."""
        option = self._option(key)
        if value is None and option.metavar is not None and (mistyped := self._mistyped()) is not None:
            return mistyped
        value = self._value(option) if value is None else value
        if option.choices:
            return InputError(
                f"{option.name}={shortened(value)} is not supported; {nearest(value or '', option.accepted)}"
            )
        return InputError(f"{option.name}={shortened(value)} is not {option.wanted}")

    def with_unknown(self, word: str) -> InputError:
        """The error for an unknown flag, or a word that is not the value of a flag."""
        if word.startswith("-"):
            if dashed(word) in RENAMED:
                return InputError(f"{dashed(word)} has another name; write {RENAMED[dashed(word)]}")
            way_out = did_you_mean(word, self._flags) or f"{HELP_ALL} lists all flags"
            return InputError(f"there is no flag {in_message(word.partition('=')[0])}; {way_out}")
        if word in self.presets:
            return InputError(f"the preset {word} must be the first word, and the only preset: {self.usage}")
        for option in self.options:
            if option.kind is bool and self._value(option) == word:
                return InputError(f"{option.flag} takes no value; write {option.flag} or {option.off_flag}")
        way_out = did_you_mean(word, self._flags) or f"the command is: {self.usage}; see {HELP[1]}"
        return InputError(f"{shortened(word)} does not belong to a flag; {way_out}")

    def check_texts(self, read: Any) -> None:
        """Check the text and path values of a parsed dataclass.

        Raises:
            InputError: names the field.
        """
        empty_positional = any(not word and before not in self._flags for before, word in pairwise(["", *self.words]))
        for option in self.options:
            value = attrgetter(option.name)(read)
            # Path("") is the working directory, so check the words instead.
            empty = self._value(option) == "" if option.metavar is None else empty_positional
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str | Path):
                    check_text(option.name, "" if empty else str(text), path=isinstance(text, Path))

    def _mistyped(self) -> InputError | None:
        """The error for a flag that does not exist. The parser takes it for a value of a positional field."""
        for word in self.words:
            if word.startswith("--") and dashed(word) not in self._flags:
                return self.with_unknown(word)
        return None

    @property
    def _flags(self) -> list[str]:
        named = [option for option in self.options if option.metavar is None]
        return [option.flag for option in named] + [option.off_flag for option in named if option.kind is bool]

    def _option(self, key: str) -> Option:
        """The option with a name as tyro writes it: "train.batch-size"."""
        return next(option for option in self.options if option.name.rstrip("_") == key.replace("-", "_"))

    def _value(self, option: Option) -> str | None:
        """The word after the last flag of an option; None if there is none."""
        found = None
        for word, following in pairwise([*self.words, None]):
            if word is not None and dashed(word) in (option.flag, option.off_flag):
                found = word.partition("=")[2] if "=" in word else following
        return found


def dashed(word: str) -> str:
    """The flag of a word: "--train.batch_size=5" -> "--train.batch-size"."""
    return word.partition("=")[0].replace("_", "-")
