"""Names on the Hugging Face hub: data sets, hf:USER/SET or hf:SET, and models, hf://USER/NAME."""

from __future__ import annotations

import re

HUB_EXAMPLE = "hf:USER/SET"

# Each part begins with a letter, digit or underscore, so that it is also a plain name of a folder.
_PART = r"[A-Za-z0-9_][\w.-]{0,95}"
_HUB_NAME = re.compile(rf"hf:((?:{_PART}/)?{_PART})", re.ASCII)
_MODEL_ID = re.compile(rf"{_PART}/{_PART}", re.ASCII)
# A path has one slash where the address has two.
_MODEL_ADDRESS = re.compile(rf"hf://?({_PART}/{_PART})(?:@([\w.-]{{1,100}}))?", re.ASCII)


def hub_id(name: str) -> str | None:
    """The id of the data set on the hub: "hf:USER/SET" -> "USER/SET". None if the name is not of this form."""
    match = _HUB_NAME.fullmatch(name)
    return match[1] if match else None


def is_model_id(name: str) -> bool:
    """Whether a name is that of a model on the hub, USER/NAME."""
    return _MODEL_ID.fullmatch(name) is not None


def model_address(text: str) -> tuple[str, str | None] | None:
    """The model and its revision: "hf://USER/NAME@REVISION" -> "USER/NAME", "REVISION", which may be missing.

    None if the text is not of this form.
    """
    match = _MODEL_ADDRESS.fullmatch(text)
    return (match[1], match[2]) if match else None
