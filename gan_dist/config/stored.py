"""The configuration as JSON stores it, and back."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from gan_dist.config.derived import OPTIONAL, RULES
from gan_dist.config.errors import InputError
from gan_dist.config.sections import Config
from gan_dist.config.text import in_message, shortened

# Fields that earlier versions stored: the name -> the present one, and what its values mean.
RENAMED: dict[str, tuple[str, dict[Any, Any]]] = {"train.compile": ("capture", {True: "on", False: "off"})}


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested dictionaries that JSON can store; paths are strings."""
    return _plain(dataclasses.asdict(config))


def to_flat(config: Config) -> dict[str, Any]:
    """The configuration as one level of dotted names, as on the command line: {"train.epochs": 300, ...}."""
    return flatten(to_dict(config))


def from_dict(values: Mapping[str, Any]) -> Config:
    """The inverse of `to_dict`.

    Raises:
        InputError: a field that this version does not know, a value of another type, or a section that is no
            dictionary.
    """
    return _build(Config, values, "")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _build(cls: type, values: Any, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(f"the stored configuration's {prefix.rstrip('.') or 'whole'} is not a dictionary")
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        name, meanings = RENAMED.get(prefix + key, (key, {}))
        if name != key and isinstance(value, bool):
            key, value = name, meanings[value]
        if key not in hints:
            raise InputError(
                f"the stored configuration has a field {in_message(prefix + key)} that this version doesn't know; "
                "a newer one may have written it"
            )
        kind = hints[key]
        if type(value) is int and float in (kind, *typing.get_args(kind)) and abs(value) <= 2**53:
            value = float(value)
        if dataclasses.is_dataclass(kind):
            arguments[key] = _build(typing.cast(type, kind), value, f"{prefix}{key}.")
        elif not _fits(value, kind) or (value is None and prefix + key in RULES.keys() - {*OPTIONAL}):
            raise InputError(f"the stored configuration's {prefix + key}={shortened(value)} is of the wrong type")
        else:
            arguments[key] = Path(value) if kind is Path else value
    return cls(**arguments)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON has a field's type."""
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    if alternatives := typing.get_args(kind):  # X | None
        return any(_fits(value, alternative) for alternative in alternatives)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, str if kind is Path else kind)
