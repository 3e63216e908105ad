"""The options of a command, for help texts and messages. tyro's own list of them is private."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from docstring_parser import parse_from_object
from tyro.conf import Positional

from gan_dist.config.ranges import ranges_of

REQUIRED = dataclasses.MISSING  # default of an option without one


@dataclass(frozen=True)
class Option:
    """An option, from a field of a dataclass."""

    name: str
    """Dotted name, such as "train.batch_size"."""
    kind: type
    """bool, int, float, str or Path."""
    choices: tuple[str, ...]
    """Values of a Literal; empty for other kinds."""
    optional: bool
    """Whether None is a valid value."""
    default: Any
    metavar: str | None = None
    """Placeholder of a positional option; None for flags."""

    @property
    def flag(self) -> str:
        """ "train.batch_size" -> "--train.batch-size". The underscore after a keyword, as in "with_", is left out."""
        return "--" + self.name.rstrip("_").replace("_", "-")

    @property
    def off_flag(self) -> str:
        """The flag that sets a switch to False, such as "--run.no-shared"."""
        section, dot, name = self.flag[2:].rpartition(".")
        return f"--{section}{dot}no-{name}"

    @property
    def accepted(self) -> tuple[str, ...]:
        """The choices, including None if it is valid."""
        return self.choices + (("None",) if self.optional else ())

    @property
    def wanted(self) -> str:
        """Description of valid values."""
        if self.choices:
            return "one of " + ", ".join(self.accepted)
        kind = {int: "a whole number", float: "a number", Path: "a path"}.get(self.kind, "a name")
        return f"{kind} or None" if self.optional else kind

    @property
    def example(self) -> str | None:
        """A valid value; None if there is no obvious one."""
        value = self.choices[0] if self.choices else self.default
        return None if value in (None, REQUIRED) else str(value)

    @property
    def metavars(self) -> str:
        """Placeholder of the value in the help text."""
        if self.choices:
            return "|".join(self.accepted)
        return {int: "N", float: "X", Path: "PATH"}.get(self.kind, "NAME")


def options_of(cls: type, default: Any = None, prefix: str = "") -> list[Option]:
    """The options of a dataclass and of dataclasses inside it, in order.

    Args:
        cls: the dataclass.
        default: an instance with the default values; None: the defaults of the fields.
        prefix: of the names.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    found = []
    for field in dataclasses.fields(cls):
        own = field.default if field.default_factory is REQUIRED else field.default_factory()
        value, kind = getattr(default, field.name, own), hints[field.name]
        if dataclasses.is_dataclass(kind):
            found += options_of(cast(type, kind), value, f"{prefix}{field.name}.")
            continue
        parts, extras = _parts(kind), getattr(kind, "__metadata__", ())
        choices = tuple(part for part in parts if isinstance(part, str))
        metavar = next((extra.metavar for extra in extras if hasattr(extra, "metavar")), None)
        found.append(
            Option(
                f"{prefix}{field.name}",
                kind=str if choices else parts[0],
                choices=choices,
                optional=types.NoneType in parts,
                default=value,
                metavar=metavar if Positional in extras else None,
            )
        )
    return found


def docstrings(cls: type, prefix: str = "") -> dict[str, str]:
    """The docstrings below the fields of a dataclass and of those inside it, each on one line, with the field's range.
    Inherited fields are included; the docstring of the class that declares a field last counts.

    Returns:
        Dotted name -> text.
    """
    ranges, found = ranges_of(cls), {}
    # The parser reads the source of one class, without those that it inherits from.
    bases = [base for base in reversed(cls.__mro__) if dataclasses.is_dataclass(base)]
    for field in (field for base in bases for field in parse_from_object(base).params):
        text = " ".join((field.description or "").split())
        accepted = ranges.get(field.arg_name)
        found[prefix + field.arg_name] = f"{text} Range: {accepted}." if accepted else text
    for name, kind in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            found |= docstrings(cast(type, kind), f"{prefix}{name}.")
    return found


def _parts(hint: Any) -> list[Any]:
    """The plain types and choices of a type: `Literal["a"] | None` -> ["a", NoneType]."""
    inside = (hint.__origin__,) if hasattr(hint, "__metadata__") else typing.get_args(hint)
    return [part for kind in inside for part in _parts(kind)] if inside else [hint]
