"""The options of a command line: the fields of a dataclass, with their types, defaults and docstrings."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from gan_dist.config import InputError, check_text, shortened
from gan_dist.suggestions import nearest

T = TypeVar("T")
REQUIRED = dataclasses.MISSING  # the default of an option that has none


@dataclass(frozen=True)
class Positional:
    """Annotates a field that is given by its place among the words, not by a flag."""

    metavar: str


@dataclass(frozen=True)
class Option:
    """One field."""

    name: str
    """Dotted, as in "train.batch_size"."""
    kind: type
    """bool, int, float, str or Path."""
    choices: tuple[str, ...]
    """The values of a Literal; empty for any other kind."""
    optional: bool
    """None is a value, too."""
    default: Any
    metavar: str | None = None
    """Of a positional one."""
    words: int = 1
    """Words that a positional one takes; more than one make a tuple."""

    @property
    def flag(self) -> str:
        return flag(self.name)

    @property
    def off_flag(self) -> str:
        """The flag that makes a switch False: "--run.no-shared"."""
        section, dot, name = self.name.rpartition(".")
        return flag(f"{section}{dot}no-{name}")

    @property
    def wanted(self) -> str:
        """What a value has to be."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        return {int: "a whole number", float: "a number", Path: "a path"}.get(self.kind, "a name")

    def value_of(self, word: str) -> Any:
        """Read a value.

        Raises:
            InputError: it is of another type, or no choice.
        """
        if self.optional and word in ("None", "none"):
            return None
        if self.choices:
            if word not in self.choices:
                raise InputError(f"{self.name}={shortened(word)} can't be used; {nearest(word, self.choices)}")
            return word
        if self.kind in (str, Path):
            check_text(self.name, word, path=self.kind is Path)
        try:
            return self.kind(word)
        except ValueError:
            raise InputError(f"{self.name}={shortened(word)} is not {self.wanted}") from None

    @property
    def example(self) -> str | None:
        """A value that works; None if none is at hand."""
        value = self.choices[0] if self.choices else self.default
        return None if value in (None, REQUIRED) else str(value)

    @property
    def metavars(self) -> str:
        """What stands for the value in the help."""
        if self.choices:
            return "|".join(self.choices + (("None",) if self.optional else ()))
        return {int: "N", float: "X", Path: "PATH"}.get(self.kind, "NAME")


def flag(name: str) -> str:
    """The flag of a field: "train.batch_size" -> "--train.batch-size"."""
    return "--" + name.replace("_", "-")


def options_of(cls: type, default: Any = None, prefix: str = "") -> list[Option]:
    """The fields of a dataclass and of those inside it, in their order.

    Args:
        cls: the dataclass. Its fields are bool, int, float, str, Path, a Literal of strings, one of these or None, or
            a dataclass; an Annotated one with a `Positional` may also be a tuple.
        default: an instance whose values are the defaults; None: the fields' own.
        prefix: of their names.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    found = []
    for field in dataclasses.fields(cls):
        kind, positional = hints[field.name], None
        if typing.get_origin(kind) is Annotated:
            kind, positional = typing.get_args(kind)
        value = getattr(default, field.name) if default is not None else _own_default(field)
        if dataclasses.is_dataclass(kind):
            found += options_of(typing.cast(type, kind), value, f"{prefix}{field.name}.")
            continue
        metavar = positional.metavar if positional is not None else None
        words = len(typing.get_args(kind)) if typing.get_origin(kind) is tuple else 1
        found.append(Option(f"{prefix}{field.name}", *_plain_kind(kind), value, metavar, words))
    return found


def fill(cls: type[T], values: Mapping[str, Any], default: Any = None, prefix: str = "") -> T:
    """Make a dataclass from values by dotted name; what they lack is the default's, or the field's own."""
    hints = typing.get_type_hints(cls)
    filled = {}
    for field in dataclasses.fields(typing.cast(Any, cls)):
        name = prefix + field.name
        value = getattr(default, field.name) if default is not None else _own_default(field)
        if dataclasses.is_dataclass(hints[field.name]):
            value = fill(hints[field.name], values, value, f"{name}.")
        filled[field.name] = values.get(name, value)
    return cls(**filled)


def docstrings(cls: type, prefix: str = "") -> dict[str, str]:
    """The docstrings below the fields of a dataclass and of those inside it, by dotted name, each on one line."""
    tree = ast.parse(inspect.getsource(inspect.getmodule(cls) or cls))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls.__name__)
    found = {}
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[prefix + ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    for name, kind in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            found |= docstrings(typing.cast(type, kind), f"{prefix}{name}.")
    return found


def _own_default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _plain_kind(hint: Any) -> tuple[type, tuple[str, ...], bool]:
    """Type, choices, and whether None is allowed."""
    optional = typing.get_origin(hint) in (typing.Union, types.UnionType)
    if optional:
        (hint,) = (kind for kind in typing.get_args(hint) if kind is not types.NoneType)
    if typing.get_origin(hint) is Literal:
        return str, typing.get_args(hint), optional
    if typing.get_origin(hint) is tuple:
        hint = typing.get_args(hint)[0]
    return hint, (), optional
