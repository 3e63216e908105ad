"""The environment variables of a launcher: the rank of this process and the world size. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from gan_dist.config import InputError

_WAY_OUT = "start with accelerate launch or torchrun, or unset these variables"


@dataclass(frozen=True)
class ProcessEnvironment:
    """The position of this process among the launched ones."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1


def read_environment() -> ProcessEnvironment:
    """Read RANK, WORLD_SIZE and so on, as torchrun sets them. Without them, this is the only process.

    Raises:
        InputError: a variable is malformed or missing, or two contradict each other.
    """
    ranks = _number("WORLD_SIZE", 1, least=1)
    rank = _number("RANK", 0)
    local_rank = _number("LOCAL_RANK", rank)
    if rank >= ranks:
        raise InputError(f"RANK={rank} can't be used with WORLD_SIZE={ranks}: ranks start at 0; {_WAY_OUT}")
    if ranks > 1:
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
        if missing:
            raise InputError(f"WORLD_SIZE={ranks} is set and {missing[0]} is not; {_WAY_OUT}")
        port = _number("MASTER_PORT", 0, least=1)
        if port > 65_535:
            raise InputError(f"MASTER_PORT={port} can't be used: the highest port is 65535; {_WAY_OUT}")
    return ProcessEnvironment(rank, ranks, local_rank, _number("LOCAL_WORLD_SIZE", 1, least=1))


def _number(name: str, default: int, least: int = 0) -> int:
    value = os.environ.get(name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) < 10 and int(value) >= least):
        raise InputError(f"the variable {name}={value!r} must be a whole number of at least {least}; {_WAY_OUT}")
    return int(value)
