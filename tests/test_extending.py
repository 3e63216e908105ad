"""docs/extending.md: each of its examples, applied as it stands to a copy of the package, and used by a run."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY, run_command

from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json, read_json_lines

PAGE = (REPOSITORY / "docs" / "extending.md").read_text()
BLOCK = re.compile(r"^```python\n# ([^\s,]+)(?:, ([^\n]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def insert(text: str, where: str, block: str) -> str:
    """A module's text with a block at the place that the page names."""
    if where == "at the top":
        anchor = "from __future__ import annotations\n"
        return text.replace(anchor, f"{anchor}{block}", 1)
    place, table = where.split()
    (anchor,) = re.findall(rf"^{table}: .*\{{\n", text, re.MULTILINE)
    return text.replace(anchor, f"{anchor}{block}" if place == "in" else f"{block}\n\n{anchor}", 1)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with everything of the page."""
    checkout = tmp_path_factory.mktemp("extended")
    shutil.copytree(REPOSITORY / "gan_dist", checkout / "gan_dist", ignore=shutil.ignore_patterns("__pycache__"))
    for path, where, block in BLOCK.findall(PAGE):
        file = checkout / path
        assert file.exists() == bool(where), path
        file.write_text(insert(file.read_text(), where, block) if where else block)
    return checkout


def test_the_page_has_an_example_of_every_kind() -> None:
    tables = {where.split()[1] for _, where, _ in BLOCK.findall(PAGE) if where.startswith("in ")}
    assert tables == {"LOSSES", "TRANSFORMATIONS", "ARCHITECTURES", "READERS", "FIGURES", "FINDINGS", "TRACKERS"}


@pytest.mark.slow
def test_a_run_uses_what_the_page_adds(extended: Path, flags: Callable[..., list[str]], tmp_path: Path) -> None:
    _, command = COMMAND.findall(PAGE)
    variable, python, script, *words = shlex.split(command)
    name, _, file = variable.partition("=")
    folder = RunFolder(tmp_path / "run")
    short = ["--train.steps", "2000", "--log.every-steps", "100", "--samples.every-epochs", "100"]
    short += ["--checkpoint.every-steps", "1000", "--evaluate.every-epochs", "200", "--evaluate.count", "100"]
    env = {"PYTHONPATH": str(extended), "GAN_DIST_CACHE": str(tmp_path / "cache"), name: str(tmp_path / file)}
    ended = run_command(python, extended / script, *words, *flags(folder.path, *short), **env)
    assert ended.code == 0, ended.out + ended.err
    assert "linear" in ended.out
    assert read_json(folder.config)["train"]["loss"] == "minimax"
    assert "upside-down, each with probability 0.2" in ended.out
    (row,) = read_json_lines(folder.evaluations)
    assert 0 <= row["brightness"] <= 1
    assert 0 < read_json(folder.floor)["brightness"] < 1
    with open(tmp_path / file, newline="") as stream:
        tracked = {(int(step), name) for step, name, _ in csv.reader(stream)}
    assert {(100, "loss/generator"), (2000, "brightness")} <= tracked

    evaluations = folder.evaluations.read_text()
    folder.evaluations.write_text(json.dumps({**json.loads(evaluations), "brightness": 1.0}) + "\n")
    said = run_command("python", "-P", "-m", "gan_dist.cli", "doctor", folder.path, **env)
    assert said.code == 1, said.err
    assert "wrong-brightness" in said.out


@pytest.mark.slow
def test_the_data_set_of_the_page_is_read(extended: Path, tmp_path: Path) -> None:
    words = shlex.split(COMMAND.findall(PAGE)[0])
    assert words[0] == "gan-dist"
    env = {"PYTHONPATH": str(extended), "GAN_DIST_CACHE": str(tmp_path / "cache")}
    shown = run_command("python", "-P", "-m", "gan_dist.cli", *words[1:], "--output", tmp_path / "data.png", **env)
    assert shown.code == 0, shown.err
    assert "stripes" in shown.out
    assert "vertical" in shown.out
    assert (tmp_path / "data.png").exists()


def test_the_command_line_offers_what_the_page_adds(extended: Path) -> None:
    said = run_command("python", extended / "gan_dist" / "train.py", "--help-all", PYTHONPATH=str(extended))
    assert "--train.loss minimax|" in said.out
    assert "--model.architecture linear|" in said.out
    assert "--data.name stripes|" in said.out
