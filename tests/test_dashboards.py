"""What W&B, TensorBoard and trackio show of one real run, and docs/tracking.md, which lists it."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import wandb_file
from conftest import REPOSITORY, train_here

from gan_dist import train
from gan_dist.config import InputError, trackers
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json, read_json_lines

STEPS = 400
FLAGS = ("--log.every-steps", "50", "--samples.every-epochs", "10", "--evaluate.every-epochs", "20")
NAMED = {"wandb.tags": "one,two", "wandb.group": "seeds", "wandb.notes": "a test", "wandb.entity": "somebody"}
KEYS = re.compile(r"^\| ((?:`[^`]+`(?:, )?)+) \|", re.MULTILINE)


@pytest.fixture(scope="module")
def names() -> list[str]:
    return ["wandb", *(name for name in trackers.EXTRAS if find_spec(name) is not None)]


@pytest.fixture(scope="module")
def run(
    flags: Callable[..., list[str]], names: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunFolder, Path]:
    """A run of two sessions with all trackers, and trackio's folder. W&B has both sessions, the others the second."""
    folder = RunFolder(tmp_path_factory.mktemp("dashboards") / "run")
    os.environ["TRACKIO_DIR"] = str(folder.path.parent / "trackio")
    words = flags(folder.path, *FLAGS, "--evaluate.count", "100", "--wandb.mode", "offline", "--wandb.artifacts")
    words += ["--penalty.r1", "1", "--train.steps"]
    words[words.index("--evaluate.every-epochs") : words.index("--evaluate.every-epochs") + 2] = []
    try:
        assert train_here([*words, str(STEPS // 2)]) == 0
        words[-1:] = [word for name, value in NAMED.items() for word in (f"--{name}", value)] + words[-1:]
        assert train_here([*words, str(STEPS), "--tracking.with", ",".join(names)]) == 0
    finally:
        del os.environ["TRACKIO_DIR"]
    return folder, folder.path.parent / "trackio"


@pytest.fixture(scope="module")
def history(run: tuple[RunFolder, Path]) -> list[dict[str, object]]:
    """The rows in W&B's files."""
    files = sorted(run[0].wandb.glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert len({file.name for file in files}) == 1, "one run over the stop"
    return [row for file in files for row in wandb_file.history(file)]


@pytest.mark.slow
def test_each_step_is_there_once(run: tuple[RunFolder, Path], history: list[dict[str, object]]) -> None:
    def steps(name: str) -> list[object]:
        return [row["train/step"] for row in history if name in row]

    assert steps("loss/generator") == steps("learning_rate/generator") == steps("gamma/r1") == [*range(50, 401, 50)]
    assert steps("samples/path") == [*range(100, 401, 100)]
    assert (
        steps("distance/frechet") == steps("real_images/distance/frechet") == steps("logits/real/_type") == [200, 400]
    )
    assert steps("real images/path") == [0]
    last = next(row for row in history if row.get("samples/path") and row["train/step"] == 400)
    assert last["samples/caption"] == "epoch 40, step 400"


@pytest.mark.slow
def test_wandb_knows_what_the_run_is(run: tuple[RunFolder, Path]) -> None:
    folder = run[0]
    file = sorted(folder.wandb.glob("offline-run-*/run-*.wandb"))[-1]
    records = wandb_file.records(file)
    (opened,) = [record.run for record in records if record.HasField("run")]
    assert [*opened.tags] == ["one", "two"]
    assert (opened.run_group, opened.notes, opened.entity, opened.job_type) == ("seeds", "a test", "somebody", "train")
    config = wandb_file.config(file)
    expected = {"preset": "seed", "architecture": "mlp", "processes": 1, "data_name": "mnist"}
    assert config.items() >= expected.items()
    assert config["data_sha256"] == read_json(folder.environment)["data"]["sha256"]
    summaries = {metric.glob_name: metric.summary for metric in (r.metric for r in records if r.HasField("metric"))}
    assert (summaries["distance/*"].min, summaries["loss/*"].last) == (True, True)
    found = [record.artifact for record in records if record.HasField("artifact") and record.artifact.type == "model"]
    assert [("best" in artifact.aliases, len(artifact.manifest.contents) or 1) for artifact in found] == [
        (True, 1),
        (False, 1),
    ]
    assert json.loads(found[0].metadata)["data_sha256"] == config["data_sha256"]
    (page,) = (file.parent / "files").glob("media/html/report_*.html")
    assert "<h1" in page.read_text()


@pytest.mark.slow
def test_a_tracker_that_is_added_later_has_everything(
    run: tuple[RunFolder, Path], names: list[str], history: list[dict[str, object]]
) -> None:
    folder, database = run
    numbers = {name: value for row in history for name, value in row.items() if isinstance(value, int | float)}
    plain = {
        name for name in numbers if not name.startswith("_") and not re.search(r"/(size|width|height|n\w+)$", name)
    }
    plain -= {"train/step", "step"}
    rows = read_json_lines(folder.metrics)
    if "tensorboard" in names:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder.tensorboard)).Reload()
        assert set(events.Tags()["scalars"]) == plain
        assert [(event.step, pytest.approx(event.value)) for event in events.Scalars("loss/generator")] == [
            (row["step"], row["loss/generator"]) for row in rows
        ]
        assert [event.step for event in events.Images("samples")] == [*range(100, 401, 100)]
        assert set(events.Tags()["histograms"]) == {"logits/real", "logits/generated"}
    if "trackio" in names:
        with sqlite3.connect(database / "gan_dist.db") as connection:
            logged = connection.execute("select step, metrics from metrics order by id").fetchall()
        found = [(step, json.loads(metrics)) for step, metrics in logged]
        assert [(step, values["loss/generator"]) for step, values in found if "loss/generator" in values] == [
            (row["step"], row["loss/generator"]) for row in rows
        ]
        keys = Counter(key for _, values in found for key in values)
        assert keys["samples"] == 4
        assert plain <= keys.keys()


@pytest.mark.slow
def test_the_page_lists_the_keys(history: list[dict[str, object]]) -> None:
    page = (REPOSITORY / "docs" / "tracking.md").read_text()
    listed = page.partition("## What is shown")[2].partition("\n## ")[0]
    patterns = [key for cell in KEYS.findall(listed) for key in re.findall(r"`([^`]+)`", cell)]
    internal = re.compile(r"^_|_table/|/(_type|path|sha256|size|width|height|format|caption|bins|values|n\w+)$")
    media = {name.rpartition("/")[0] for row in history for name in row if name.endswith("/_type")}
    charts = {name.removesuffix("_table") for name in media}
    shown = {name for row in history for name in row if not internal.search(name)} | charts
    as_regex = {pattern: re.escape(pattern).replace("FIGURE", ".+").replace("CLASS", r"\d+") for pattern in patterns}
    unlisted = {name for name in shown if not any(re.fullmatch(regex, name) for regex in as_regex.values())}
    assert not unlisted
    # Those that this run cannot have: it is not conditional, not augmented, without Inception features and healthy.
    absent = {pattern for pattern, regex in as_regex.items() if not any(re.fullmatch(regex, name) for name in shown)}
    assert absent <= set(re.findall(r"`([^`]+)`", page.partition("Only some runs have")[2].partition("\n\n")[0])), (
        absent
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("wandb,tensorbord", "did you mean tensorboard?"),
        ("wandb,wandb", "names a tracker twice"),
        (f"{'x' * 65}", "is not supported"),
    ],
)
def test_trackers_are_checked(value: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        train.parse(["--tracking.with", value])


def test_tags_are_checked() -> None:
    for tags in ("a,,b", "x" * 65):
        with pytest.raises(InputError, match="1 to 64 characters"):
            train.parse(["--wandb.tags", tags])


def test_a_package_that_is_not_installed_is_named_before_the_training(
    flags: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(trackers, "EXTRAS", {"trackio": "no_such_package"})
    assert train.main(flags(tmp_path / "run", "--tracking.with", "trackio")) == 2
    assert "tracking.with=trackio needs no_such_package; pip install 'gan_dist[" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
