"""The first step and the tensors in which two runs differ, from the hashes that both recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gan_dist.config import InputError
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json_lines


@dataclass(frozen=True)
class HashComparison:
    """A comparison of two runs at the steps that both hashed."""

    equal_steps: list[int]
    """The steps before the first difference."""
    differs_at: int | None
    """The first step with a difference; None if there is none."""
    tensors: list[str]
    """The tensors that differ at this step, networks before optimizers."""

    def describe(self) -> str:
        """One line for the console."""
        if self.differs_at is None:
            return f"the runs are equal at all {len(self.equal_steps)} hashed steps, the last {self.equal_steps[-1]:,}"
        last = f"are equal at step {self.equal_steps[-1]:,}" if self.equal_steps else "are equal at no hashed step"
        names = ", ".join(self.tensors[:4]) + (", …" if len(self.tensors) > 4 else "")
        return f"the runs {last} and differ at step {self.differs_at:,} in {len(self.tensors)} tensor(s): {names}"


def compare_hashes(a: Path, b: Path) -> HashComparison:
    """Find the first step in which two runs differ.

    Args:
        a, b: run folders.

    Raises:
        InputError: one is no run or has no hashes, or they have no step in common.
    """
    first, second = _hashes(a), _hashes(b)
    common = sorted(first.keys() & second.keys())
    if not common:
        raise InputError(f"{a} and {b} hashed no step in common; give both the same --train.log-hashes")
    for i, step in enumerate(common):
        names = {**first[step], **second[step]}
        differing = [name for name in names if first[step].get(name) != second[step].get(name)]
        if differing:
            return HashComparison(common[:i], step, differing)
    return HashComparison(common, None, [])


def _hashes(run: Path) -> dict[int, dict[str, str]]:
    folder = RunFolder(run)
    folder.check_holds_a_run()
    rows = read_json_lines(folder.hashes)
    if not rows:
        raise InputError(f"{run} holds no hashes; train with --train.log-hashes N")
    return {row["step"]: row["hashes"] for row in rows}
