"""gan-dist sample and gan-dist walk: formats, streaming, processes, truncation, animations."""

from __future__ import annotations

import errno
import json
import re
import resource
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_images
from PIL import Image
from recorded_run import write_recorded_run
from torch import Tensor, nn

from gan_dist import cli, load_generator
from gan_dist.config import Config, InputError, ModelConfig, extras, to_dict
from gan_dist.data.pixels import quantize
from gan_dist.data.spec import DataSpec
from gan_dist.evaluation.features import CHUNK
from gan_dist.models import build_generator
from gan_dist.outputs.checkpoint import save_generator
from gan_dist.outputs.folder import RunFolder
from gan_dist.results import sample
from gan_dist.results.classes import choose_labels, label_sequence
from gan_dist.results.sample_processes import AHEAD, find_devices, generate_ahead
from gan_dist.results.truncation import truncate
from gan_dist.results.walk import places, spherical, walk_classes, walk_latents
from gan_dist.seeding import LATENT_BLOCK, sample_labels, sample_latents

SHAPE, COUNTS = (1, 12, 10), [50, 30, 20]
CLASSES = ("0", "../a b", "</script>")
COUNT = 2 * CHUNK + 7  # three chunks


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the generator of a conditional run, as if it had just written its first checkpoint."""
    folder = RunFolder(tmp_path_factory.mktemp("sampling"))
    model = ModelConfig(labels="conditional", latent_dim=8, hidden_dim=16, label_dim=4)
    generator = build_generator(model, SHAPE, len(CLASSES)).to_empty(device="cpu")
    drawn = torch.Generator().manual_seed(0)
    for weight in generator.parameters():
        nn.init.normal_(weight, std=0.5, generator=drawn)
    metadata = {
        "config": json.dumps(to_dict(Config(model=model))),
        "data": json.dumps(DataSpec("folder", SHAPE, CLASSES, 100, 0, "classifier").to_dict()),
        "class_counts": json.dumps(COUNTS),
        "step": "100",
    }
    save_generator(folder.generator, generator.state_dict(), metadata)
    return folder.path


def expected(run: Path, count: int) -> tuple[Tensor, Tensor]:
    """Pixels and labels, from all latents at once."""
    labels = sample_labels(count, torch.tensor(COUNTS), 0)
    return quantize(load_generator(run)(sample_latents(count, 8, 0), labels)), labels


def leftovers(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.name.startswith(".")]


# --- gan-dist sample


def test_latents_and_labels_can_be_drawn_from_any_index_on() -> None:
    many, labels = sample_latents(700, 5, 1), sample_labels(700, torch.tensor(COUNTS), 1)
    for start, count in ((0, 3), (250, 20), (LATENT_BLOCK, LATENT_BLOCK), (300, 400), (700, 0)):
        assert torch.equal(sample_latents(count, 5, 1, start=start), many[start : start + count])
        drawn = sample_labels(count, torch.tensor(COUNTS), 1, start=start)
        assert torch.equal(drawn, labels[start : start + count])


def test_arrays_are_those_of_all_images_at_once(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "samples.npz"
    assert cli.main(["sample", str(run), "--count", str(COUNT), "--output", str(file)]) == 0
    pixels, labels = expected(run, COUNT)
    with np.load(file) as arrays:
        assert sorted(arrays.files) == ["images", "labels"]
        assert arrays["images"].dtype == np.uint8
        # The last chunk is smaller than the product of all latents, so a sum may be rounded differently.
        assert np.abs(arrays["images"].astype(int) - pixels.numpy()).max() <= 1
        assert np.array_equal(arrays["labels"], labels.numpy())
    first = file.read_bytes()
    words = ["sample", str(run), "--count", str(COUNT), "--output", str(file), "--labels", "</script>,0", "--force"]
    assert cli.main(words) == 0
    with np.load(file) as arrays:
        assert arrays["labels"].tolist() == [2] * (CHUNK + 4) + [0] * (CHUNK + 3)
    assert cli.main([*words[:-3], "--force"]) == 0
    assert file.read_bytes() == first
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_any_number_of_processes_writes_the_same_bytes(run: Path, tmp_path: Path) -> None:
    for name in ("one.npz", "two.npz", "one", "two"):
        processes = str({"one": 1, "two": 2}[name.partition(".")[0]])
        words = ["--count", str(COUNT), "--output", str(tmp_path / name), "--processes", processes]
        assert cli.main(["sample", str(run), *words]) == 0
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert len(one) == COUNT
    assert one == two


def test_a_folder_holds_a_picture_of_each_image(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pictures"
    words = ["sample", str(run), "--count", "40", "--output", f"{folder}/"]
    assert cli.main(words) == 0
    pixels, labels = expected(run, 40)
    endings = ["0", "1-___a_b", "2-__script_"]
    names = [f"{index:06d}-{endings[label]}.png" for index, label in enumerate(labels.tolist())]
    assert sorted(file.name for file in folder.iterdir()) == names
    for name, image in zip(names, pixels, strict=True):
        with Image.open(folder / name) as picture:
            assert np.array_equal(np.asarray(picture), image[0].numpy())
    assert cli.main(words) == 2
    assert "pictures exists; choose another, or pass --force to replace it" in capsys.readouterr().err
    assert cli.main([*words, "--count", "3", "--force"]) == 0
    assert sorted(file.name for file in folder.iterdir()) == names[:3]
    (folder / "mine.png").touch()
    assert cli.main([*words, "--force"]) == 2
    assert "also holds mine.png, and is not replaced" in capsys.readouterr().err
    assert sorted(file.name for file in folder.iterdir()) == [*names[:3], "mine.png"]
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", ["some.npz", "some"])
def test_a_full_disk_leaves_what_was_there(
    name: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sample", str(run), "--count", str(COUNT), "--output", str(tmp_path / name)]
    if name.endswith("npz"):
        (tmp_path / name).write_text("mine")

    def full(images: Tensor) -> Tensor:
        if len(images) < CHUNK:
            raise OSError(errno.ENOSPC, "No space left on device")
        return quantize(images)

    monkeypatch.setattr(sample, "quantize", full)
    assert cli.main([*words, "--force"]) == 2
    assert f"output={tmp_path / name} can't be written (No space left on device)" in capsys.readouterr().err
    assert [file.read_text() for file in tmp_path.iterdir()] == (["mine"] if name.endswith("npz") else [])


def chunk_number(sampler: sample.Sampler, chunk: int, pixels: Tensor) -> int:
    FINISHED.append(chunk)
    return chunk


FINISHED: list[int] = []


def test_few_chunks_are_generated_ahead_of_their_use(run: Path) -> None:
    generator, count = load_generator(run), 20 * CHUNK
    sampler = sample.Sampler(generator, count, 0, label_sequence(generator, count, 0))
    chunks = generate_ahead(sampler, chunk_number)
    for used in range(5):
        assert next(chunks) == used
        assert max(FINISHED) <= used + AHEAD
    chunks.close()
    assert len(FINISHED) <= 5 + AHEAD


def test_truncated_latents_have_the_truncated_normal_distribution() -> None:
    latents = sample_latents(20_000, 2, 0)
    for threshold in (0.01, 0.7, 2.0):
        truncated = truncate(latents, threshold)
        assert truncated.abs().max() <= threshold
        ordered, low = truncated.flatten().double().sort().values, torch.special.ndtr(torch.tensor(-threshold).double())
        levels = (torch.special.ndtr(ordered) - low) / (1 - 2 * low)
        assert (levels - torch.linspace(0, 1, len(levels)).double()).abs().max() < 0.01  # Kolmogorov-Smirnov
        assert (truncated.flatten()[latents.flatten().argsort()].diff() >= 0).all()
    assert torch.allclose(truncate(latents, 10.0), latents, atol=1e-5)


def test_truncation_changes_the_images_that_are_written(run: Path, tmp_path: Path) -> None:
    images = []
    for threshold in ("0.1", "1.0"):
        file = tmp_path / f"{threshold}.npz"
        words = ["--count", "200", "--label", "0", "--truncation", threshold, "--output", str(file)]
        assert cli.main(["sample", str(run), *words]) == 0
        with np.load(file) as arrays:
            images.append(arrays["images"].astype(float))
    assert images[0].std(0).mean() < 0.3 * images[1].std(0).mean()


def test_devices() -> None:
    assert find_devices("cpu") == [torch.device("cpu")]
    with pytest.raises(InputError, match="device=gpu is not available on this machine; choose from auto, cpu"):
        find_devices("gpu")


# --- gan-dist walk


def test_a_walk_returns_to_its_first_image(run: Path) -> None:
    generator = load_generator(run)
    labels = choose_labels(generator, 6, 0)
    frames = torch.stack(list(walk_latents(generator, labels, 6, 3, 60, 0, None))).int()
    assert torch.equal(frames[0], expected(run, 6)[0].int())
    changes = (frames - frames.roll(1, 0)).abs().float().mean((1, 2, 3, 4))  # the first: from the last frame
    assert changes[0] <= changes[1:].max()
    assert changes[1:].max() < 0.2 * (frames[0] - frames[20]).abs().float().mean()
    assert len(list(places(7, 30))) == 30


def test_a_walk_through_classes_changes_the_class_alone(run: Path) -> None:
    generator, classes = load_generator(run), torch.tensor([2, 0])
    frames = list(walk_classes(generator, classes, 5, 20, 0, None))
    latents = sample_latents(5, 8, 0)
    for frame, label in ((0, 2), (4, 2), (10, 0), (14, 0)):
        assert torch.equal(frames[frame], quantize(generator(latents, torch.full((5,), label))))
    between = [frame for frame in frames[5:10] if not torch.equal(frame, frames[0])]
    assert len({frame.numpy().tobytes() for frame in between}) == 5

    class Other(nn.Module):
        """A generator that does not embed its classes as this package does."""

        latent_dim = 8

        def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
            return generator(latents, labels)

    switched = list(walk_classes(type("Opaque", (Other,), {})(), classes, 5, 20, 0, None))
    assert torch.equal(switched[7], frames[0])
    assert torch.equal(switched[9], frames[10])


def test_spherical_interpolation_keeps_the_length() -> None:
    a, b = torch.eye(3)[:2] * 2
    half = spherical(a[None], b[None], 0.5)
    assert half.norm().item() == pytest.approx(2, rel=1e-6)
    assert torch.allclose(half[0, :2], torch.tensor([2**0.5, 2**0.5]))
    assert torch.equal(spherical(a[None], a[None], 0.3), a[None])


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_walk_writes_an_animation_that_repeats(suffix: str, run: Path, tmp_path: Path) -> None:
    file = tmp_path / f"walk{suffix}"
    words = ["--columns", "3", "--rows", "2", "--scale", "2", "--fps", "24", "--output", str(file)]
    assert cli.main(["walk", str(run), *words, "--latents", "2", "--frames", "12"]) == 0
    with Image.open(file) as animation:
        assert animation.info["loop"] == 0
        assert animation.size == (2 * (3 * 12 + 2), 2 * (2 * 14 + 2))
        durations = []
        for frame in range(animation.n_frames):  # type: ignore[attr-defined]
            animation.seek(frame)
            animation.load()
            durations.append(animation.info["duration"])
    assert len(durations) == 12
    assert sum(durations) == 500
    assert max(durations) - min(durations) <= 10
    assert leftovers(tmp_path) == []


def test_walk_writes_a_video(run: Path, tmp_path: Path) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs the extra video")
    file = tmp_path / "walk.mp4"
    words = ["--columns", "3", "--rows", "1", "--scale", "1", "--frames", "12", "--output", str(file)]
    assert cli.main(["walk", str(run), *words]) == 0
    # Not read_frames of imageio_ffmpeg, which leaves pipes open.
    read = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(file), "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    ended = subprocess.run(read, capture_output=True, check=True)
    assert re.search(rb"h264.*yuv420p.*38x16.*\b20 fps", ended.stderr)
    frames = np.frombuffer(ended.stdout, np.uint8).reshape(-1, 16, 38)
    assert len(frames) == 12
    first = frames[0].astype(int)
    latents, labels = sample_latents(3, 8, 0), torch.zeros(3, dtype=torch.int64)
    wanted = quantize(load_generator(run)(latents, labels))[0, 0].int().numpy()
    assert np.abs(first[2:14, 2:12] - wanted).mean() < 12  # compressed with losses


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".mp4"])
def test_a_file_that_can_not_grow_leaves_nothing(
    suffix: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if suffix == ".mp4":
        pytest.importorskip("imageio_ffmpeg", reason="needs the extra video")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, limits[1]))
    try:
        code = cli.main(["walk", str(run), "--output", str(tmp_path / f"walk{suffix}"), "--frames", "12"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    error = capsys.readouterr().err
    assert "can't be written (" in error
    assert ("ffmpeg: exit code" if suffix == ".mp4" else "File too large") in error  # ffmpeg gets a signal
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_over_time_shows_the_grids_of_a_run_that_is_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_recorded_run(tmp_path / "run", 6, images=draw_images(64), distances=[])
    folder.write_status("running", 3600)
    folder.epoch_samples(3).write_bytes(b"damaged")
    Image.new("L", (50, 50)).save(folder.epoch_samples(4))
    file = tmp_path / "time.gif"
    assert cli.main(["walk", str(folder.path), "--over-time", "--output", str(file), "--fps", "10"]) == 0
    output = capsys.readouterr().out
    assert "epoch-0003.png is not a readable PNG" in output
    assert "epoch-0004.png has another size than the last grid; it is skipped" in output
    assert "4 epochs, 1 to 6, in" in output
    captions = set()
    with Image.open(file) as animation, Image.open(folder.epoch_samples(6)) as last:
        assert animation.n_frames == 4  # type: ignore[attr-defined]
        for frame in range(4):
            animation.seek(frame)
            shown = np.asarray(animation.convert("L"))
            captions.add(shown[484:].tobytes())
        assert animation.info["duration"] == 2000
        assert np.array_equal(shown[:484:2, ::2], np.asarray(last.convert("L")))
    assert len(captions) == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sample", "RUN", "--output", "x"], "output=x exists; choose another"),
        (
            ["sample", "RUN", "--output", "y.npz/x.png"],
            "output=y.npz/x.png can't be written (there is no folder y.npz)",
        ),
        (["sample", "RUN", "--output", "x.jpg"], ".png (a grid) or .npz (arrays), or have no suffix (a folder of .png"),
        (["sample", "RUN", "--output", "new", "--count", "1000001"], "1 to 1,000,000 (a larger folder is slow; use"),
        (
            ["sample", "RUN", "--truncation", "0"],
            "truncation=0.0 is not supported: it must be a number from 0.01 to 10",
        ),
        (["sample", "RUN", "--truncation", "nan"], "truncation=nan is not supported"),
        (["sample", "RUN", "--device", "cuda:99"], "device=cuda:99 is not available on this machine"),
        (["sample", "RUN", "--processes", "0"], "processes=0 is not supported"),
        (["walk", "RUN", "--output", "x.avi"], "output=x.avi must end in .gif or .webp or .mp4"),
        (["walk", "RUN", "--output", "y.gif"], "output=y.gif exists"),
        (["walk", "nowhere"], "nowhere holds no generator.safetensors; it is written with the first checkpoint"),
        (["walk", "nowhere", "--over-time"], "nowhere holds no run: there is no config.json in it"),
        (["walk", "EMPTY", "--over-time"], "EMPTY holds no sample grids yet; they are written after an epoch"),
        (["walk", "RUN", "--labels", "0,7"], "labels=7 is not a class of this run; choose from 0, ../a b, </script>"),
        (["walk", "RUN", "--labels", "0"], "labels=0 is one class; use --label"),
        (["walk", "RUN", "--labels", "0,0", "--latents", "3"], "labels and latents exclude each other"),
        (["walk", "RUN", "--frames", "2"], "frames=2 is too low for 3 latents or classes; use 3 or more"),
        (["walk", "RUN", "--frames", "9999", "--scale", "64"], "are too large; use fewer --frames, or a lower --scale"),
        (["walk", "RUN", "--fps", "51"], "fps=51 is not supported: it must be a whole number from 1 to 50"),
        (["walk", "EMPTY", "--over-time", "--rows", "2"], "rows does not apply to over-time"),
        (["walk", "RUN", "--output", "new.mp4"], "output=new.mp4 needs imageio_ffmpeg; pip install 'gan_dist[video]'"),
    ],
)
def test_bad_arguments_are_one_line(
    words: list[str],
    says: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    empty = write_recorded_run(tmp_path / "empty", 1, distances=[])
    (tmp_path / "x").mkdir()
    (tmp_path / "y.gif").touch()
    before = sorted(tmp_path.rglob("*"))
    places = {"RUN": str(run), "EMPTY": str(empty.path)}
    assert cli.main([places.get(word, word) for word in words]) == 2
    error = capsys.readouterr().err
    assert says.replace("EMPTY", places["EMPTY"]) in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_several_processes_of_a_launcher_are_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    for command in ("sample", "walk"):
        assert cli.main([command, str(run), "--output", str(tmp_path / f"{command}.png")]) == 2
        assert "a launcher started 2 processes of a command that needs one; omit it" in capsys.readouterr().err
