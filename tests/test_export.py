"""gan-dist export: the page, its weights, and what is refused."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, write_labelled
from safetensors.torch import save
from torch import nn

import gan_dist
from gan_dist import cli, train
from gan_dist.config import PRESETS, InputError
from gan_dist.models import build_pair, conv, mlp
from gan_dist.outputs.folder import RunFolder
from gan_dist.results.export import directions, explorer
from gan_dist.results.export.directions import principal_directions
from gan_dist.results.export.formats import EXPORTERS
from gan_dist.results.export.layers import NETWORKS, describe_network
from gan_dist.results.export.weights import choose_precision, encode
from gan_dist.tensors import read_tensors

HOSTILE = "</script><script>alert('ü')</script>"


@pytest.fixture(autouse=True, scope="module")
def fewer_images() -> Iterator[None]:
    """The precision and the directions are computed from fewer images, which takes less time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(directions, "MOST", 4)
        patch.setattr(explorer, "CHECKED", 50)
        yield


@pytest.fixture(scope="module")
def finished(flags: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of mlp, without labels."""
    folder = tmp_path_factory.mktemp("export") / "run"
    words = ["--train.steps", "12", "--wandb.mode", "disabled", "--model.hidden-dim", "32"]
    assert train.main(flags(folder, *words)) == 0
    return folder


@pytest.fixture(scope="module")
def conditional(flags: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of conv with an average, whose class 3 has a hostile name."""
    folder = tmp_path_factory.mktemp("conditional")
    words = ["conv", *flags(folder / "run", "--train.steps", "12", "--wandb.mode", "disabled")]
    words += ["--data.root", str(write_labelled(folder / "data")), "--model.labels", "conditional"]
    assert train.main([*words, "--model.hidden-dim", "32", "--model.channels", "4"]) == 0
    return rename_class(folder / "run")


def rename_class(run: Path) -> Path:
    for file in (RunFolder(run).generator, RunFolder(run).live_generator):
        tensors, metadata = read_tensors(file.read_bytes())
        data = json.loads(metadata["data"])
        data["classes"][3] = HOSTILE
        file.write_bytes(save(tensors, metadata | {"data": json.dumps(data)}))
    return run


class Page(HTMLParser):
    """The attributes of each element by tag, and the content of each <style> and <script>."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.content: dict[str, list[str]] = {"style": [], "script": []}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self._open = tag
        if tag in self.content:
            self.content[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in self.content:
            self.content[self._open][-1] += data


def exported(run: Path, output: Path, *words: str) -> Page:
    assert cli.main(["export", str(run), "--output", str(output), *words]) == 0
    return Page(output.read_text())


@pytest.fixture(scope="module")
def page(conditional: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return exported(conditional, tmp_path_factory.mktemp("page") / "a.html", "--discriminator")


def test_the_page_is_one_file_with_a_policy_that_allows_no_request(page: Page) -> None:
    (policy,) = (a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    allowed = dict(part.strip().split(" ", 1) for part in (policy or "").split(";"))
    assert allowed.pop("img-src") == "data:"
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.content[kind][-1].encode()).digest()).decode()
        assert allowed.pop(f"{kind}-src") == f"'sha256-{digest}'"
    assert set(allowed.values()) == {"'none'"}
    assert {"default-src", "base-uri", "form-action"} == allowed.keys()
    addresses = [value for _, a in page.elements for name, value in a.items() if name in ("src", "href", "action")]
    assert addresses == ["data:,"]  # the icon, which browsers would ask for
    for _, attributes in page.elements:  # the policy would block them
        assert not any(name == "style" or name.startswith("on") for name in attributes)


def test_names_of_classes_are_text(page: Page) -> None:
    assert [tag for tag, _ in page.elements].count("script") == 2
    data = json.loads(page.content["script"][0])
    assert data["classes"][3] == HOSTILE
    assert data["classes"][4] == "4"


def test_the_name_of_a_run_is_text(finished: Path, tmp_path: Path) -> None:
    file = tmp_path / "<b>&amp;.safetensors"
    file.write_bytes(RunFolder(finished).generator.read_bytes())
    page = exported(file, tmp_path / "a.html")
    assert "b" not in [tag for tag, _ in page.elements]
    assert "<h1>&lt;b&gt;&amp;amp;: generated images</h1>" in (tmp_path / "a.html").read_text()


def test_each_generator_of_a_run_is_exported(conditional: Path, tmp_path: Path) -> None:
    files = {"average": "generator", "live": "generator-live"}
    pages = [exported(conditional, tmp_path / f"{weights}.html", "--weights", weights) for weights in files]
    pages += [exported(conditional / f"{file}.safetensors", tmp_path / f"{file}.html") for file in files.values()]
    average, live, *by_file = (json.loads(page.content["script"][0])["generator"]["numbers"] for page in pages)
    assert average != live
    assert by_file == [average, live]


def test_the_default_output_is_named_after_the_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", str(finished)]) == 0
    assert re.fullmatch(r"run.html: \d\.\d MB, float(16|32).*\n", capsys.readouterr().out)
    assert [file.name for file in tmp_path.iterdir()] == ["run.html"]


def refusal(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    capsys.readouterr()
    assert cli.main(["export", *map(str, words)]) == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    return output


def test_bad_arguments_are_one_line_and_leave_nothing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    existing, folder, link = tmp_path / "a.html", tmp_path / "b.html", tmp_path / "c.html"
    existing.write_text("mine")
    folder.mkdir()
    link.symlink_to(tmp_path / "nowhere")
    kept = sorted(tmp_path.iterdir())
    for words, says in {
        (finished, "--output", existing): f"output={existing} exists; choose another, or pass --force to replace it",
        (finished, "--output", link): "c.html exists",
        (finished, "--output", folder): "b.html is not a file; choose another",
        (finished, "--output", link, "--force"): "c.html is a symbolic link, and is not replaced",
        (finished, "--output", tmp_path / "x.pdf"): "x.pdf must end in .html",
        (finished, "--output", tmp_path / "no" / "x.html"): f"there is no folder {tmp_path / 'no'}",
        (finished, "--format", "pdf"): "format",
        (finished, "--weights", "best", "--output", tmp_path / "x.html"): "holds no generator-best.safetensors",
        (tmp_path / "no", "--output", tmp_path / "x.html"): "holds no generator.safetensors",
        (finished / "generator.safetensors", "--discriminator", "--output", tmp_path / "x.html"): "is a file; omit it",
        (): "RUN is missing",
    }.items():
        assert says in refusal(capsys, *words)
    assert sorted(tmp_path.iterdir()) == kept
    assert existing.read_text() == "mine"
    assert cli.main(["export", str(finished), "--output", str(existing), "--force"]) == 0
    assert existing.read_text().startswith("<!doctype html>")


def test_a_discriminator_that_does_not_fit_is_refused(
    finished: Path, conditional: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = tmp_path / "run", tmp_path / "a.html"
    run.mkdir()
    (run / "generator.safetensors").write_bytes(RunFolder(finished).generator.read_bytes())
    words = (run, "--discriminator", "--output", output)
    assert "holds no checkpoint with a discriminator; omit --discriminator" in refusal(capsys, *words)
    (run / "checkpoints").symlink_to(conditional / "checkpoints")
    assert "it is not of this generator's run" in refusal(capsys, *words)
    assert not output.exists()


def test_images_that_a_page_cannot_show_are_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, metadata = read_tensors(RunFolder(finished).generator.read_bytes())
    file, output = tmp_path / "a.safetensors", tmp_path / "a.html"
    file.write_bytes(save(tensors | {"layers.0.bias": torch.full((32,), float("nan"))}, metadata))
    assert "holds layers.0.bias with numbers that are not finite" in refusal(capsys, file, "--output", output)
    data = json.dumps(json.loads(metadata["data"]) | {"shape": [2, 28, 14]})
    file.write_bytes(save(tensors, metadata | {"data": data}))
    assert "images of 2 channels, and format=html supports 1 and 3" in refusal(capsys, file, "--output", output)
    assert not output.exists()


def test_a_flag_of_another_format_is_refused(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, exporter in EXPORTERS.items():
        for other in EXPORTERS.keys() - {name}:
            for flag in set(exporter.flags) - set(EXPORTERS[other].flags):
                value = [] if flag in ("discriminator", "dry_run") else ["x"]
                words = (finished, "--format", other, f"--{flag.replace('_', '-')}", *value)
                assert f"is for format={name}, not format={other}; omit it" in refusal(capsys, *words)


class Unknown(nn.Module):
    def forward(self, inputs: Any) -> Any:
        return inputs


class Subclass(nn.ReLU):
    pass


def small(preset: str = "conv", **changes: Any) -> tuple[Any, Any]:
    model = dataclasses.replace(PRESETS[preset]().model, latent_dim=5, **changes)
    generator, discriminator = build_pair(model, (1, 28, 28), 0)
    generator.shape = discriminator.shape = (1, 28, 28)
    generator.latent_dim = 5
    return generator.eval().requires_grad_(False), discriminator.eval()


@pytest.fixture
def own_random_state() -> Iterator[None]:
    """Layers draw their initial weights from the global generator."""
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.parametrize("layer", [Unknown(), Subclass(), nn.Conv2d(32, 32, 3, padding=2, dilation=2)])
def test_an_unknown_module_is_refused(layer: nn.Module, own_random_state: None) -> None:
    generator, discriminator = small()
    generator.layers[6] = layer
    discriminator.layers[2] = layer
    for network in (generator, discriminator):
        with pytest.raises(
            InputError, match=r"run=x has a module that format=html does not know \(.*(Unknown|Sub|Conv)"
        ):
            describe_network(network, "run=x")
    with pytest.raises(InputError, match=r"does not know .*Linear"):
        describe_network(nn.Linear(3, 3), "run=x")


def test_every_architecture_is_declared() -> None:
    for architecture in gan_dist.models.ARCHITECTURES:
        for network in small(architecture=architecture):
            assert type(network) in NETWORKS
            assert describe_network(network, "run=x")


def test_multiplications_are_those_of_the_layers() -> None:
    mlp_products = sum(operation.multiplications() for operation in describe_network(small("seed")[0], "run=x"))
    assert mlp_products == 5 * 256 + 256 * 256 + 256 * 784
    conv_products = sum(operation.multiplications() for operation in describe_network(small()[0], "run=x"))
    assert conv_products == 5 * 256 + 256 * 32 * 49 + 9 * 49 * (32 * 32 + 32 * 16)


class Linear(nn.Module):
    """Images of 3 pixels that depend on 3 of 4 latent dimensions."""

    latent_dim = 4

    def forward(self, latents: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        return (latents[:, [2, 0, 3]] * torch.tensor([1.0, 4.0, 2.0])).view(-1, 1, 1, 3)


def test_directions_are_ordered_by_the_change_of_the_image() -> None:
    found = principal_directions(Linear(), 3, None, latents=3)
    assert torch.allclose(found.vectors, torch.eye(4)[[0, 3, 2]], atol=1e-5)
    assert torch.allclose(found.shares, torch.tensor([16, 4, 1]) / 21)
    assert principal_directions(Linear(), 8, None, latents=2).vectors.shape == (4, 4)


def test_directions_of_a_network_are_orthonormal_and_reproducible() -> None:
    generator, _ = small()
    first, again = (principal_directions(generator, 4, None, latents=3) for _ in range(2))
    assert torch.equal(first.vectors, again.vectors)
    assert torch.allclose(first.vectors @ first.vectors.T, torch.eye(4), atol=1e-5)
    assert first.shares.diff().max() <= 0


def test_half_precision_is_chosen_if_it_does_not_change_the_outputs(own_random_state: None) -> None:
    layer = nn.Linear(3, 1, bias=False).requires_grad_(False)
    inputs = torch.ones(1, 3)
    for weight, precision in ((0.5, "float16"), (0.1, "float16"), (3000.7, "float32"), (1e5, "float32")):
        layer.weight.fill_(weight)
        chosen, change = choose_precision(layer, lambda: layer(inputs), 0.01)
        assert (chosen, layer.weight[0, 0].item()) == (precision, torch.tensor(weight).item())
        assert change <= 0.01


def test_numbers_are_little_endian() -> None:
    parts = [torch.tensor([[1.0, 2.0]]), torch.tensor([3.0])]
    assert np.frombuffer(base64.b64decode(encode(parts)), "<f4").tolist() == [1, 2, 3]
    assert np.frombuffer(base64.b64decode(encode([p.half() for p in parts])), "<f2").tolist() == [1, 2, 3]


def test_networks_of_other_sides_have_operations(own_random_state: None) -> None:
    for shape in ((3, 44, 60), (3, 64, 64)):
        network = conv.Generator(5, 16, 4, shape)
        network.shape = shape
        assert describe_network(network, "run=x")[-1].shape == shape
    flat = mlp.Generator(5, 16, (3, 5, 7))
    flat.shape = (3, 5, 7)
    assert describe_network(flat, "run=x")[-1].shape == (3, 5, 7)


@pytest.mark.slow
def test_a_wheel_has_the_templates(tmp_path: Path) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(REPOSITORY))
    (built,) = wheel.build(directory=str(tmp_path))
    with zipfile.ZipFile(built) as archive:
        packed = set(archive.namelist())
    templates = REPOSITORY / "gan_dist" / "results" / "export" / "templates"
    assert {str(file.relative_to(REPOSITORY)) for file in templates.iterdir()} <= packed
