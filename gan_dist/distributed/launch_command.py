"""The command line of accelerate launch, read to warn of one that starts fewer processes than it requests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from gan_dist.files import BadFile, read_file

MAX_CONFIG_BYTES = 64 * 2**10  # YAML is parsed at about 100 kB/s


def launch_warnings(processes: int) -> list[str]:
    """Returns a warning if accelerate launch was to start several processes and silently started one.

    It does so without a GPU for --cpu --num_processes 2, and for a config file with MULTI_CPU.

    Args:
        processes: the world size.
    """
    requested = _requested_processes()
    if requested is None or requested <= 1 or processes > 1:
        return []
    return [
        f"accelerate launch was asked for {requested} processes and started one: on a machine without a GPU use "
        f"--config_file accelerate_config.yaml --num_processes {requested}"
    ]


def _requested_processes() -> int | None:
    """Returns the number on accelerate launch's command line, else in its config file; None if it is unknown."""
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return None
    if "ACCELERATE_MIXED_PRECISION" not in os.environ or "launch" not in words:
        return None
    options = words[words.index("launch") + 1 :]
    requested: Any = _option(options, "num_processes")
    if requested is None and (file := _option(options, "config_file")) is not None:
        try:
            config = yaml.safe_load(read_file(Path(file), MAX_CONFIG_BYTES))
        except (BadFile, yaml.YAMLError, ValueError, RecursionError):  # accelerate launch has accepted it
            return None
        requested = config.get("num_processes") if isinstance(config, dict) else None
    digits = str(requested)
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None


def _option(words: list[str], name: str) -> str | None:
    """Returns the value of --name or --na-me among a command's words, as "--name value" or "--name=value"."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        flag, _, value = word.partition("=")
        if flag.lstrip("-").replace("-", "_") == name and flag.startswith("--"):
            return value or following
    return None
