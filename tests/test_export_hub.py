"""gan-dist export --format hub, and load_generator("hf://USER/NAME"), with a local server in place of the hub."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Ended, picture_size, run_command, write_labelled
from hub_server import TOKEN, Hub, hub_server
from safetensors.torch import save

import gan_dist
from gan_dist import cli, train
from gan_dist.config import InputError
from gan_dist.config.hub import model_address
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json, read_json_lines
from gan_dist.results.export.card import markdown
from gan_dist.results.figures import info, interval_text, measured, value_text
from gan_dist.tensors import read_tensors

HOSTILE = "<img src=x>|*a*_b_"
FILES = ["README.md", "config.json", "generator.safetensors", "samples.png"]
OFFER = ("--format", "hub", "--repo", "me/digits", "--license", "cc-by-4.0")


@pytest.fixture(scope="module")
def run(flags: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional run with an evaluation after 10 of its 10 steps, whose class 3 has a hostile name."""
    folder = tmp_path_factory.mktemp("hub")
    words = [
        "--model.labels",
        "conditional",
        "--ema.half-life",
        "50",
        "--data.root",
        str(write_labelled(folder / "data")),
    ]
    words += ["--evaluate.every-epochs", "1", "--evaluate.count", "100", "--wandb.name", "secret"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAN_DIST_CACHE", str(folder / "cache"))
        assert train.main(flags(folder / "run", "--train.steps", "10", "--wandb.mode", "disabled", *words)) == 0
    file = RunFolder(folder / "run").generator
    tensors, metadata = read_tensors(file.read_bytes())
    data = json.loads(metadata["data"])
    data["classes"][3] = HOSTILE + "\ud800"  # half a surrogate pair, which JSON can hold and UTF-8 can't
    file.write_bytes(save(tensors, metadata | {"data": json.dumps(data)}))
    return folder / "run"


def export(run: Path, *words: str | Path) -> int:
    return cli.main(["export", str(run), *OFFER, *map(str, words)])


def front_matter(card: str) -> Any:
    return yaml.safe_load(card.split("---\n")[1])


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("dry") / "digits"
    assert export(run, "--dry-run", "--output", output) == 0
    return output


def test_the_folder_has_the_generator_without_what_is_private(run: Path, folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == FILES
    latents, labels = torch.ones(3, 64), torch.tensor([0, 3, 9])
    published, own = (gan_dist.load_generator(path) for path in (folder / "generator.safetensors", run))
    assert torch.equal(published(latents, labels), own(latents, labels))
    assert published.classes == own.classes
    assert picture_size(folder / "samples.png") == (8 * 30 + 2, 10 * 30 + 2)
    for file in folder.iterdir():
        content = file.read_bytes()
        assert str(run.parent).encode() not in content
        assert b"secret" not in content
    assert read_json(folder / "config.json")["model"]["labels"] == "conditional"


def test_the_card_has_what_was_measured(run: Path, folder: Path) -> None:
    card, (row,) = (folder / "README.md").read_text(), read_json_lines(RunFolder(run).evaluations)
    floor = read_json(RunFolder(run).floor)
    value, found = row["distance/frechet"], measured(row, "distance/frechet")
    assert found is not None
    real = value_text(found, floor["distance/frechet"])
    assert f"| Fréchet distance | {value_text(found)} | {interval_text(found)} | {real} |" in card.splitlines()
    assert f"| {info('coverage').title} | " in card
    assert read_json(RunFolder(run).environment)["data"]["sha256"] in card
    assert "100 generated images" in card
    assert 'load_generator("hf://me/digits")' in card
    described = front_matter(card)
    assert described["license"] == "cc-by-4.0"
    assert described["pipeline_tag"] == "unconditional-image-generation"
    assert described["model-index"][0]["results"][0]["metrics"][0]["value"] == pytest.approx(value, abs=1e-4)
    assert markdown(HOSTILE) in card
    assert HOSTILE not in card
    assert "[" not in card.replace("in [-1, 1]", "").replace("![80 generated images](samples.png)", "")


def test_text_is_escaped_in_markdown() -> None:
    assert markdown("a  b\n# c") == "a b \\# c"
    assert markdown("<b>[x](y)|`z`_*&!") == "\\<b\\>\\[x\\]\\(y\\)\\|\\`z\\`\\_\\*\\&\\!"
    assert markdown("Straße, 10.5") == "Straße, 10.5"


def refusal(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    capsys.readouterr()
    assert cli.main(["export", *map(str, words)]) == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    return output


def test_a_card_without_facts_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy, output = RunFolder(tmp_path / "copy"), tmp_path / "out"
    shutil.copytree(run, copy.path)
    words = (copy.path, *OFFER, "--dry-run", "--output", output)
    for changed in (
        {"--repo": "digits"},
        {"--repo": "../digits"},
        {"--license": "MIT License"},
    ):
        wrong = [changed.get(before, word) for before, word in zip(("", *words), words, strict=False)]
        (name, value) = next(iter(changed.items()))
        assert f"{name[2:]}={value} is not " in refusal(capsys, *wrong)
    assert "license=None" in refusal(
        capsys, copy.path, "--format", "hub", "--repo", "me/x", "--dry-run", "--output", output
    )
    assert "is a file; give the run" in refusal(capsys, copy.generator, *words[1:])
    assert "--weights live first" in refusal(capsys, *words, "--weights", "live")
    kept = copy.environment.read_text()
    for content in ("{}", kept.replace('"sha256": "', '"sha256": "x')):
        copy.environment.write_text(content)
        assert str(copy.environment) in refusal(capsys, *words)
    copy.environment.write_text(kept)
    copy.evaluations.unlink()
    assert f"run gan-dist evaluate {copy.path} first" in refusal(capsys, *words)
    assert not output.exists()
    evaluation = {"step": 10, "generator": "generator.safetensors", "count": 500, "classifier": "c", "real": {}}
    evaluation["figures"] = {"distance/frechet": {"value": 1, "low": 0.5, "high": 2.0}}
    for wrong in ({"step": 9}, {"generator": 3}, {"count": True}, {"figures": {"distance/frechet": {"value": "1"}}}):
        copy.evaluation.write_text(json.dumps(evaluation | wrong))
        assert "has no evaluation of generator.safetensors, step 10" in refusal(capsys, *words)
    copy.evaluation.write_text(json.dumps(evaluation))
    assert cli.main([*map(str, ("export", *words))]) == 0
    assert "| Fréchet distance | 1.00 | 0.50 to 2.00 | - |" in (output / "README.md").read_text()


def test_an_existing_folder_is_replaced_with_force_only(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "README.md").write_text("old")
    words = (run, *OFFER, "--dry-run", "--output", output)
    assert f"output={output} exists" in refusal(capsys, *words)
    (output / "mine.txt").write_text("mine")
    assert "also holds mine.txt, and is not replaced" in refusal(capsys, *words, "--force")
    assert (output / "README.md").read_text() == "old"
    (output / "mine.txt").unlink()
    assert export(run, "--dry-run", "--output", output, "--force") == 0
    assert sorted(file.name for file in output.iterdir()) == FILES
    assert list(tmp_path.iterdir()) == [output]
    assert "output=x needs --dry-run" in refusal(capsys, run, *OFFER, "--output", "x")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://me/digits", ("me/digits", None)),
        (str(Path("hf://me/digits")), ("me/digits", None)),
        ("hf://me/digits@v1.0", ("me/digits", "v1.0")),
        *[
            (wrong, None)
            for wrong in ("hf://me", "hf:me/digits", "hf://me/../x", "hf://me/a/b", "me/digits", "hf://me/a@")
        ],
    ],
)
def test_addresses_of_models(text: str, address: tuple[str, str | None] | None) -> None:
    assert model_address(text) == address


def test_other_weights_of_a_model_are_refused() -> None:
    with pytest.raises(InputError, match="weights=best selects a file in a run folder"):
        gan_dist.load_generator("hf://me/digits", "best")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as started:
        yield started


LOAD = """
import sys, torch, gan_dist
from gan_dist.config import InputError
try:
    generator = gan_dist.load_generator(sys.argv[1])
    print(generator(torch.ones(1, 64), torch.tensor([3])).sum().item())
except InputError as error:
    print(error)
"""


@pytest.mark.slow
def test_upload_and_download(run: Path, hub: Hub, tmp_path: Path) -> None:
    env = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}

    def upload(*more: str, **changed: str) -> Ended:
        words = (sys.executable, "-m", "gan_dist.cli", "export", run, *OFFER, *more)
        return run_command(*words, **{**env, "HF_TOKEN": TOKEN, **changed})

    def load(address: str, **changed: str) -> str:
        ended = run_command(sys.executable, "-c", LOAD, address, **{**env, **changed})
        assert ended.code == 0, ended.err
        return ended.out.strip()

    ended = upload(HF_TOKEN="hf_other")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "repo=me/digits is not writable (" in ended.err
    hub.failing = "commit"
    ended = upload()
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "repo=me/digits: the upload failed (" in ended.err
    hub.failing = ""
    hub.repositories.clear()
    ended = upload()
    assert ended.code == 0, ended.err
    assert ended.out == f"uploaded to {hub.address}/me/digits\n"
    files = hub.repositories["me/digits"]
    assert sorted(files) == FILES
    ended = upload()
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "repo=me/digits exists" in ended.err
    assert upload("--force").code == 0

    expected = gan_dist.load_generator(run)(torch.ones(1, 64), torch.tensor([3])).sum().item()
    assert float(load("hf://me/digits")) == pytest.approx(expected, rel=1e-5)
    # From the cache, without a network.
    for offline in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        assert float(load("hf://me/digits", **offline)) == pytest.approx(expected, rel=1e-5)
    assert "hf://me/other can't be downloaded (" in load("hf://me/other")
    # Other people's files.
    hub.claimed_size = 10**13
    assert "of 10,000,000,000,000 bytes; the maximum is" in load("hf://me/digits", HF_HOME=str(tmp_path / "hf2"))
    hub.claimed_size = None
    files["generator.safetensors"] = files["generator.safetensors"][:-100]
    assert "is damaged" in load("hf://me/digits", HF_HOME=str(tmp_path / "hf3"))


def test_damaged_lines_are_counted_and_skipped(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(run, copy.path)
    copy.evaluations.write_text("{broken\n" + copy.evaluations.read_text())
    capsys.readouterr()
    assert export(copy.path, "--dry-run", "--output", tmp_path / "out") == 0
    assert f"{copy.evaluations}: 1 damaged line(s) skipped (line 1 is not valid JSON" in capsys.readouterr().out
