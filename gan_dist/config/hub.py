"""Names of data sets of the Hugging Face hub: hf:USER/SET, or hf:SET for sets without a user."""

from __future__ import annotations

import re

HUB_EXAMPLE = "hf:USER/SET"

# Each part begins with a letter, digit or underscore, so that it is also a plain name of a folder.
_HUB_NAME = re.compile(r"hf:((?:[A-Za-z0-9_][\w.-]{0,95}/)?[A-Za-z0-9_][\w.-]{0,95})", re.ASCII)


def hub_id(name: str) -> str | None:
    """The id of the data set on the hub: "hf:USER/SET" -> "USER/SET". None if the name is not of this form."""
    match = _HUB_NAME.fullmatch(name)
    return match[1] if match else None
