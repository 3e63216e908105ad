"""launch/sweep.yaml with W&B's real agent, against a fake server on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, run_command
from wandb_server import serving

from gan_dist import train
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json, read_json_lines
from gan_dist.trainer.schedule import Schedule

SWEEP = yaml.safe_load((REPOSITORY / "launch" / "sweep.yaml").read_text())


def drawn() -> dict[str, object]:
    """One value of each parameter."""
    return {
        name: parameter.get("value", parameter.get("values", [parameter.get("min")])[0])
        for name, parameter in SWEEP["parameters"].items()
    }


def test_the_parameters_are_flags_and_the_objective_is_measured_often_enough() -> None:
    script = next(word for word in SWEEP["command"] if word.startswith("exec "))
    words = script.split()
    preset = words[words.index("gan_dist/train.py") + 1]
    config = train.parse([preset, *(f"--{name}={value}" for name, value in drawn().items())])
    evaluations = Schedule(config, 60_000).evaluations_after(0)
    stop = SWEEP["early_terminate"]
    assert SWEEP["metric"] == {"name": "distance/frechet", "goal": "minimize"}
    assert evaluations >= stop["min_iter"] * stop["eta"] ** 2


@pytest.mark.slow
@pytest.mark.processes(1)
def test_the_agent_trains_a_run(flags: Callable[..., list[str]], tmp_path: Path) -> None:
    short = {"train.epochs": 4, "evaluate.every_epochs": 2, "evaluate.count": 100}
    more = [word for word in flags(tmp_path / "unused") if word != str(tmp_path / "unused")]
    more.remove("--run.dir")
    more = [word for word in more[:-2] if word]  # the last flag turns evaluations off
    sweep = SWEEP | {"command": [word.replace('"runs/', f'"{tmp_path}/runs/') for word in SWEEP["command"]] + more}
    with serving("works") as server:
        server.sweep = [sweep, drawn() | short]
        words = [sys.executable, "-m", "wandb", "agent", "--count", "1", "somebody/gan_dist/sweep"]
        env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "WANDB_MODE": "online"}
        ended = run_command(*words, **server.environment(), **env, WANDB_DIR=str(tmp_path), timeout=240)
    assert ended.code == 0, ended.out + ended.err
    (folder,) = (tmp_path / "runs" / "sweep").iterdir()
    assert folder.name == "run-of-sweep", "its folder is named as the run on the dashboard"
    config = read_json(RunFolder(folder).config)
    assert config["optimizer"]["learning_rate"] == drawn()["optimizer.learning_rate"]
    rows = read_json_lines(RunFolder(folder).evaluations)
    assert [row["distance/frechet"] for row in server.rows if "distance/frechet" in row] == [
        row["distance/frechet"] for row in rows
    ]
    assert len(rows) == 2
    summary = json.loads(server.files["wandb-summary.json"])
    assert summary["distance/frechet"] == rows[-1]["distance/frechet"], "a number: what a sweep compares"
