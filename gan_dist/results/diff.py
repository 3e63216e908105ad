"""Where two runs part: the first step and the tensors, from the hashes that both wrote down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gan_dist.config import InputError
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json_lines


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common, as far as their hashes tell."""

    steps: list[int]
    """Steps that both hashed and that are equal, up to the first that is not."""
    parted_at: int | None
    """The first step that both hashed and that differs."""
    tensors: list[str]
    """The tensors that differ there, networks before optimizers."""

    def describe(self) -> str:
        """One line for a person."""
        last = f"equal at step {self.steps[-1]:,}" if self.steps else "not equal at any step that both hashed"
        if self.parted_at is None:
            return f"the runs are equal at all {len(self.steps)} steps that both hashed, the last {self.steps[-1]:,}"
        shown = ", ".join(self.tensors[:4]) + (", …" if len(self.tensors) > 4 else "")
        return f"the runs part at step {self.parted_at:,}, {last}; {len(self.tensors)} tensors differ: {shown}"


def compare_hashes(a: Path, b: Path) -> Comparison:
    """Find the first step where two runs part.

    Args:
        a, b: run folders.

    Raises:
        InputError: one wrote no hashes, or they have no step in common.
    """
    first, second = _hashes(a), _hashes(b)
    common = sorted(first.keys() & second.keys())
    if not common:
        raise InputError(f"{a} and {b} hashed no step in common; give both the same --train.log-hashes")
    for i, step in enumerate(common):
        names = {**first[step], **second[step]}
        differ = [name for name in names if first[step].get(name) != second[step].get(name)]
        if differ:
            return Comparison(common[:i], step, differ)
    return Comparison(common, None, [])


def _hashes(run: Path) -> dict[int, dict[str, str]]:
    rows = read_json_lines(RunFolder(run).hashes)
    if not rows:
        raise InputError(f"{run} holds no hashes; train with --train.log-hashes N")
    return {row["step"]: row["hashes"] for row in rows}
