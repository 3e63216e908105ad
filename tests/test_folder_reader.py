"""The reader of folders: which pictures it finds, how they are decoded, their classes, and bad input."""

from __future__ import annotations

import io
import json
import os
import threading
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw_images, idx_bytes, write_root
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter, ImageOps
from unprivileged import run_unprivileged

from gan_dist.config import DataConfig, InputError
from gan_dist.data.readers import mnist, picture
from gan_dist.data.readers.folder import READER
from gan_dist.data.readers.labels import arrange
from gan_dist.data.readers.listing import list_pictures
from gan_dist.data.readers.picture import Rendering, decode, to_channels
from gan_dist.data.readers.reader import Context, NoHeldOut, RawImages
from gan_dist.files import BadFile

AS_IT_IS = Rendering(None, (255, 255, 255))


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def colours(width: int = 8, height: int = 8, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


def write(root: Path, *names: str, size: tuple[int, int] = (8, 8)) -> None:
    """Write small pictures, no two alike."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(colours(*size, seed=zlib.crc32(os.fsencode(name)))))


def read(root: Path, **settings: Any) -> tuple[RawImages, list[str]]:
    """The training images, and what was announced."""
    announced: list[str] = []
    return READER.read(DataConfig("folder", root, **settings), "train", Context(announced.append)), announced


def refusal(root: Path, **settings: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(root, **settings)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# Pictures


def test_a_folder_of_pngs_is_the_idx_file(root: Path, tmp_path: Path) -> None:
    digits = draw_images(120)
    for split, images in (("train", digits[:100]), ("test", digits[100:])):
        (root / split).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(root / split / f"{i:05d}.png")
    write_root(tmp_path / "idx", idx_bytes(digits[:100]))
    config = DataConfig(root=tmp_path / "idx", source="local")
    as_idx = mnist.READER.read(config, "train", Context(lambda line: None))
    as_pictures, announced = read(root)
    assert np.array_equal(as_pictures.pixels, as_idx.pixels)
    assert as_pictures.provenance.sha256 == as_idx.provenance.sha256
    assert as_pictures.spec.shape == (1, 28, 28)
    assert as_pictures.labels is None
    assert announced == []
    held_out = READER.read(DataConfig("folder", root), "test", Context(lambda line: None))
    assert np.array_equal(held_out.pixels[:, 0], digits[100:])
    assert held_out.spec == as_pictures.spec


def test_every_mode_becomes_the_same_picture() -> None:
    rgb = colours()
    grey = rgb.convert("L")
    values = np.asarray(grey)
    opaque = Image.new("L", rgb.size, 255)
    few = rgb.quantize(16)
    modes = {
        "RGB": (rgb, rgb),
        "RGBA": (Image.merge("RGBA", (*rgb.split(), opaque)), rgb),
        "L": (grey, grey),
        "LA": (Image.merge("LA", (grey, opaque)), grey),
        "P": (few, few.convert("RGB")),
        "1": (grey.convert("1"), grey.convert("1").convert("L")),
        "I;16": (Image.fromarray(values.astype(np.uint16) * 257), grey),
    }
    for mode, (image, expected) in modes.items():
        pixels = decode(encoded(image), AS_IT_IS).pixels
        assert np.array_equal(to_channels(pixels, 3), to_channels(chw(expected), 3)), mode
        assert len(pixels) == (1 if expected.mode == "L" else 3), mode
    sixteen = Image.fromarray(np.array([[0, 128, 129, 32_896, 65_535]], np.uint16))
    assert decode(encoded(sixteen), AS_IT_IS).pixels.tolist() == [[[0, 0, 1, 128, 255]]]


def chw(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("kind", picture.FORMATS)
def test_every_format_by_its_content(kind: str) -> None:
    image = colours(32, 16).filter(ImageFilter.BoxBlur(3))
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    decoded = decode(encoded(image, kind, **options), AS_IT_IS)
    assert (decoded.width, decoded.height) == (32, 16)
    difference = np.abs(decoded.pixels.astype(int) - chw(image))
    assert difference.max() <= {"JPEG": 20, "GIF": 30}.get(kind, 0)


def test_cmyk_and_other_formats() -> None:
    cmyk = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert decode(encoded(cmyk, "JPEG"), AS_IT_IS).pixels[:, 0, 0] == pytest.approx([0, 255, 255], abs=3)
    with pytest.raises(BadFile, match="is not a PNG, JPEG"):
        decode(encoded(colours(), "TIFF"), AS_IT_IS)


def test_only_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert decode(content, AS_IT_IS).pixels[:, 0, 0].tolist() == [255, 0, 0], kind


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(colours(12, 6), exif=exif)
    decoded = decode(content, AS_IT_IS)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert np.array_equal(decoded.pixels, chw(expected))
    assert (decoded.width, decoded.height) == expected.size == picture.measure(content)


def test_alpha_over_the_background() -> None:
    rgb = colours()
    alpha = Image.fromarray(np.repeat(np.array([[0, 255, 128, 1, 254, 0, 255, 64]], np.uint8), 8, 0))
    content = encoded(Image.merge("RGBA", (*rgb.split(), alpha)))
    for background in picture.BACKGROUNDS.values():
        pixels = decode(content, Rendering(None, background)).pixels
        assert np.array_equal(pixels[..., [1, 6]], chw(rgb)[..., [1, 6]])
        assert (pixels[..., [0, 5]] == background[0]).all()
        half = np.rint((chw(rgb)[..., 2] * 128.0 + background[0] * 127.0) / 255)
        assert np.abs(pixels[..., 2] - half).max() <= 1
    # A palette with one transparent colour; grey with alpha keeps one channel.
    palette = encoded(rgb.quantize(4), transparency=0)
    clear = np.asarray(Image.open(io.BytesIO(palette))) == 0
    assert (decode(palette, Rendering(None, (0, 0, 0))).pixels[:, clear] == 0).all()
    assert len(decode(encoded(Image.merge("LA", (rgb.convert("L"), alpha))), AS_IT_IS).pixels) == 1


@pytest.mark.parametrize("size", [(64, 64), (100, 64), (64, 100), (65, 64)])
def test_a_picture_of_the_size_is_only_cropped(size: tuple[int, int]) -> None:
    image = colours(*size)
    left, top = (size[0] - 64) // 2, (size[1] - 64) // 2
    pixels = decode(encoded(image), Rendering(64, (0, 0, 0))).pixels
    assert np.array_equal(pixels, chw(image)[:, top : top + 64, left : left + 64])


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("side", [80, 256, 500, 1000])
def test_resizing_is_antialiased(kind: str, side: int) -> None:
    """Also with the reduction in the decoder, the result is that of Lanczos alone to 40 dB."""
    y, x = np.mgrid[:side, :side] * (2 * np.pi / side)
    waves = [np.sin(3 * x + 5 * y), np.sin(9 * y), np.sin(60 * x) * np.sin(50 * y)]
    image = Image.fromarray((127.5 + 127 * np.stack(waves, -1)).astype(np.uint8))
    content = encoded(image, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    expected = Image.open(io.BytesIO(content)).resize((40, 40), Image.Resampling.LANCZOS)
    error = decode(content, Rendering(40, (0, 0, 0))).pixels - chw(expected).astype(float)
    assert (error**2).mean() < 255**2 / 10**4


@pytest.mark.parametrize("kind", picture.FORMATS)
def test_truncated_pictures_are_refused(kind: str) -> None:
    content = encoded(colours(64, 64), kind)
    for size in (0, 1, 20, len(content) // 4, len(content) // 2, len(content) - 40):
        with pytest.raises(BadFile):
            decode(content[:size], AS_IT_IS)


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    """A few kilobytes that declare more pixels than are supported."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    for side in (9_000, 30_000):
        header = side.to_bytes(4, "big") * 2 + bytes((8, 0, 0, 0, 0))
        body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
        with pytest.raises(BadFile, match="more than the 67,108,864"):
            decode(b"\x89PNG\r\n\x1a\n" + body, AS_IT_IS)


@pytest.mark.fuzz
@given(st.sampled_from(picture.FORMATS), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=20))
def test_damage_is_a_refusal_or_a_picture(kind: str, changes: list[tuple[float, int]]) -> None:
    content = bytearray(encoded(colours(16, 16), kind))
    for place, value in changes:
        content[int(place * (len(content) - 1))] = value
    try:
        decoded = decode(bytes(content), Rendering(8, (0, 0, 0)))
    except BadFile:
        return
    assert decoded.pixels.shape[1:] == (8, 8)


def test_channels(root: Path) -> None:
    for i in range(3):
        colours(seed=i).convert("L").convert("RGB").save(root / f"{i}.png")
    grey, _ = read(root)
    assert grey.pixels.shape == (3, 1, 8, 8)
    assert np.array_equal(grey.pixels[1], chw(colours(seed=1).convert("L")))
    threefold, _ = read(root, channels="3")
    assert np.array_equal(threefold.pixels, np.repeat(grey.pixels, 3, 1))
    write(root, "colour.png")
    assert np.array_equal(read(root)[0].pixels[:3], threefold.pixels)
    luma, _ = read(root, channels="1")
    expected = chw(Image.open(root / "colour.png").convert("L"))
    assert np.array_equal(luma.pixels[3], expected)
    assert np.array_equal(luma.pixels[:3], grey.pixels)


# Folders


def test_names_of_any_kind(root: Path) -> None:
    names = ["a b.png", "고양이.PNG", "two\nlines.png", "n" * 246 + ".png", "Ünï.JPeG", " .gif.png"]
    write(root, *(f"cat{name}" for name in names[:3]), *(names[3:]))
    (root / os.fsdecode(b"\xff\xfe.png")).write_bytes(encoded(colours(seed=9)))
    write(root, ".hidden.png", ".git/x.png", "__MACOSX/y.png", "notes.txt")
    images, announced = read(root)
    assert images.spec.count == 7
    assert announced == []
    (root / "broken\n고양이.png").write_bytes(b"")
    message = refusal(root)
    assert "1 unusable" in message
    assert r"'broken\n고양이.png': is empty" in message


def test_sub_folders_are_classes(root: Path) -> None:
    write(root, "zebra/1.png", "ant/deep/2.png", "고래/3.png", "zebra/0.png")
    images, announced = read(root)
    assert images.spec.classes == ("ant", "zebra", "고래")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 1, 2]
    assert images.spec.features == "classifier"
    assert announced == []
    without, _ = read(root, labels="none")
    assert (without.labels, without.spec.classes, without.spec.features) == (None, None, "unlabelled")
    write(root, "cover.png")
    mixed, announced = read(root)
    assert mixed.labels is None
    assert mixed.spec.count == 5
    assert len(announced) == 2  # and that the folder has changed
    assert "1 pictures are beside the sub-folders, the first cover.png" in announced[1]


@pytest.mark.parametrize("folder", ["test", "val", "Valid", "validation"])
def test_folders_of_splits(root: Path, folder: str) -> None:
    write(root, *(f"{split}/{kind}/{i}.png" for split in ("train", folder) for kind in "ab" for i in range(12)))
    write(root, "other/1.png")
    images, announced = read(root)
    assert (images.spec.count, images.spec.held_out) == (24, 24)
    assert images.spec.classes == ("a", "b")
    assert len(announced) == 1
    assert "1 pictures outside of" in announced[0]


def test_a_class_named_train_is_a_class(root: Path) -> None:
    write(root, "train/1.png", "plane/1.png", "car/1.png")
    assert read(root)[0].spec.classes == ("car", "plane", "train")


def test_a_tenth_is_held_out_by_the_path(root: Path) -> None:
    names = [f"{kind}/{i}.png" for kind in "ab" for i in range(400)] + ["alone/4.png"]
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    before = {entry.file.name: entry.split for entry in arrange(list_pictures(root), True).entries}
    chosen = [name for name, split in before.items() if split == "test"]
    assert 50 < len(chosen) < 110
    assert before["alone/4.png"] == "train"
    (root / chosen[0]).unlink()
    (root / "a" / "new.png").touch()
    after = {entry.file.name: entry.split for entry in arrange(list_pictures(root), True).entries}
    assert all(after[name] == split for name, split in before.items() if name in after)
    few = root / "a" / "few"
    few.mkdir()
    write(few, *(f"{i}.png" for i in range(30)))
    with pytest.raises(NoHeldOut, match="0 held-out pictures"):
        READER.read(DataConfig("folder", few), "test", Context(lambda line: None))


METADATA = {
    "good": ['{"file_name": "0.png", "label": "dog"}', "", '{"file_name": "./b/1.png", "label": "cat"}'],
    "numbers": ['{"file_name": "0.png", "label": 10}', '{"file_name": "b/1.png", "label": 9}'],
    "missing": ['{"file_name": "0.png", "label": 1}', '{"file_name": "x.png", "label": 1}'],
    "outside": ['{"file_name": "../0.png", "label": 1}'],
    "some": ['{"file_name": "0.png", "label": "dog"}'],
    "both": ['{"file_name": "0.png", "label": "dog"}', '{"file_name": "b/1.png", "label": 1}'],
    "no name": ['{"label": "dog"}'],
    "float": ['{"file_name": "0.png", "label": 1.5}'],
    "not JSON": ["{"],
    "captions": ['{"file_name": "0.png", "text": "a dog"}'],
}


@pytest.mark.parametrize("kind", METADATA)
def test_metadata_jsonl(root: Path, kind: str) -> None:
    write(root, "0.png", "b/1.png")
    (root / "metadata.jsonl").write_text("\n".join(METADATA[kind]))
    expected = {"good": (("cat", "dog"), [1, 0]), "numbers": (("9", "10"), [1, 0]), "captions": (None, None)}
    if kind in expected:
        images, _ = read(root)
        labels = None if images.labels is None else images.labels.tolist()
        assert (images.spec.classes, labels) == expected[kind]
        return
    message = refusal(root)
    says = {
        "missing": "names 1 pictures that do not exist, the first x.png",
        "outside": "do not exist, the first ../0.png",
        "some": "no label for 1 of 2 pictures, the first b/1.png",
        "both": "both numbers and names",
        "no name": "no file_name in line 1",
        "float": "label for 0.png that is neither",
        "not JSON": "in line 1",
    }
    assert says[kind] in message
    assert "metadata.jsonl" in message
    assert read(root, labels="none")[0].labels is None


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([["00000/0.png", 1], ["00000/1.png", 0]], None),
        (None, None),
        ([["00000/0.png", 1]], "no label for 1 of 2"),
        ([["00000/0.png", [0.5]], ["00000/1.png", 0]], "neither text nor a whole number"),
        ({"00000/0.png": 1}, "pairs of a name and a class"),
    ],
)
def test_dataset_json(root: Path, labels: Any, says: str | None) -> None:
    write(root, "00000/0.png", "00000/1.png")
    (root / "dataset.json").write_text(json.dumps({"labels": labels}))
    if says is not None:
        assert says in refusal(root)
        return
    images, _ = read(root)
    assert (None if images.labels is None else images.labels.tolist()) == (None if labels is None else [1, 0])


def test_a_class_without_training_pictures(root: Path) -> None:
    write(root, *(f"train/{kind}/{i}.png" for kind in "ab" for i in range(20)), "test/c/1.png")
    assert "1 classes without training pictures, the first c" in refusal(root)
    (root / "test/c").rename(root / "test/a")
    (root / "train/c").mkdir()
    (root / "train/c/0.png").write_bytes(b"broken")
    images, announced = read(root)
    assert images.spec.classes == ("a", "b")  # the only picture of c can't be used
    assert "1 of 42 pictures are not used, the first train/c/0.png: is not a PNG" in announced[-1]


def pack(file: Path, root: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, inside + path.relative_to(root).as_posix())
    return file


@pytest.mark.parametrize("inside", ["", "pictures/"])
def test_a_zip_is_its_folder(root: Path, tmp_path: Path, inside: str) -> None:
    write(root, "b/1.png", "a/0.png", "a/이.png", "__MACOSX/a/0.png")
    (root / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": name, "label": name}) for name in ("b/1.png", "a/0.png", "a/이.png"))
    )
    before = sorted(tmp_path.rglob("*"))
    file = pack(tmp_path / "all.zip", root, inside)
    zipped, _ = read(file)
    folder, _ = read(root)
    assert np.array_equal(zipped.pixels, folder.pixels)
    assert zipped.spec.classes == folder.spec.classes
    assert zipped.spec.name == "all"
    assert [path for path in tmp_path.rglob("*.png") if path not in before] == []
    os.utime(file)  # a copy is the same
    assert read(file)[1] == []


def unsafe_zip(name: str) -> Callable[[Path], None]:
    def make(file: Path) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.png", encoded(colours()))
            archive.writestr(name, encoded(colours(seed=1)))

    return make


def encrypted_zip(file: Path) -> None:
    unsafe_zip("b.png")(file)
    content = bytearray(file.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 8] |= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (unsafe_zip("../b.png"), "holds ../b.png, a path outside of it"),
        (unsafe_zip("/etc/b.png"), "holds /etc/b.png, a path outside of it"),
        (unsafe_zip("x/..\\b.png"), "a path outside of it"),
        (lambda file: file.write_bytes(b"PK"), "is not a .zip file, or is damaged"),
        (lambda file: file.write_bytes(b""), "is not a .zip file, or is damaged"),
        (encrypted_zip, "is encrypted"),
    ],
)
def test_zip_files_that_are_refused(tmp_path: Path, make: Callable[[Path], None], says: str) -> None:
    make(tmp_path / "bad.zip")
    assert says in refusal(tmp_path / "bad.zip")


def test_links(root: Path, tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/0.png", "elsewhere/1.png")
    write(root, *(f"{i:02d}.png" for i in range(60)))
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    (root / "dangling.png").symlink_to("nowhere.png")
    (root / "self.png").symlink_to("self.png")
    images, announced = read(root)
    assert images.spec.count == 62
    assert any("of 67 pictures are not used" in line for line in announced)
    notes = "\n".join(images.notes)
    assert "dangling.png is a link to nothing" in notes
    assert "Too many levels of symbolic links" in notes
    assert notes.count("is a link to a folder that is listed already") == 3


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "holds no pictures (PNG, JPEG, WebP, BMP or GIF; names that end in .png"),
        (["notes.txt", "x.tiff"], "but 2 other files"),
        (["one.png"], "holds 1 usable training pictures"),
    ],
)
def test_too_few_pictures(root: Path, names: list[str], says: str) -> None:
    write(root, *names)
    assert says in refusal(root)
    if not any(name.endswith(".png") for name in names):
        with pytest.raises(InputError, match="holds no pictures"):
            READER.check(DataConfig("folder", root))


def test_roots_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file.txt").touch()
    (tmp_path / "link").symlink_to("nothing")
    for name, says in {"absent": "does not exist", "file.txt": "neither a folder", "link": "link to nothing"}.items():
        assert says in refusal(tmp_path / name)
        with pytest.raises(InputError, match=says):
            READER.check(DataConfig("folder", tmp_path / name))
    assert "can't be read" in refusal(Path("a\0b"))


def test_sizes_that_differ(root: Path) -> None:
    write(root, "a.png", "b.png")
    write(root, "wide\n.png", size=(20, 10))
    message = refusal(root)
    assert "a.png has 8x8 pixels, 'wide\\n.png' 20x10; pass --data.size N" in message
    images, _ = read(root, size=4)
    assert images.pixels.shape == (3, 3, 4, 4)
    assert "sizes found: 8x8 (2), 20x10 (1)" in images.notes
    assert "2 pictures are smaller than the images and were enlarged" in read(root, size=10)[0].notes


def test_a_few_unusable_files_are_left_out(root: Path) -> None:
    write(root, *(f"{i:02d}.png" for i in range(40)))
    whole = (root / "00.png").read_bytes()
    (root / "00.png").write_bytes(whole[:100])
    (root / "07.jpg").write_bytes(b"")
    (root / "08.webp").write_bytes(whole)  # another suffix is no reason
    os.mkfifo(root / "pipe.png")
    images, announced = read(root)
    assert images.spec.count == 40
    assert len(announced) == 1
    assert "3 of 43 pictures are not used, the first pipe.png: is not a regular file" in announced[0]
    assert np.array_equal(images.pixels[0], chw(Image.open(root / "01.png")))
    assert np.array_equal(images.pixels[8], chw(Image.open(root / "08.webp")))
    assert any(note.startswith("not used: 07.jpg is empty") for note in images.notes)
    assert read(root)[1] == announced  # also when it was prepared before


def test_many_unusable_files_are_listed(root: Path, cache: Path) -> None:
    write(root, *(f"{i:02d}.png" for i in range(17)))
    for name in ("x\n1.png", "x2.png"):
        (root / name).write_bytes(b"text")
    message = refusal(root)
    assert "2 unusable pictures among 19, more than a tenth" in message
    listed = cache / "unusable-pictures.txt"
    assert str(listed) in message
    assert len(listed.read_text().splitlines()) == 2
    assert [path.name for path in cache.iterdir()] == [listed.name]


def test_unreadable_files_and_folders(root: Path) -> None:
    write(root, "b/2.png", *(f"a/{i}.png" for i in range(20)))
    (root / "a/0.png").chmod(0)
    script = (
        "import sys; from pathlib import Path\n"
        "from gan_dist.config import DataConfig\n"
        "from gan_dist.data.readers.folder import READER\n"
        "from gan_dist.data.readers.reader import Context\n"
        "READER.read(DataConfig('folder', Path(sys.argv[1])), 'train', Context(print))"
    )
    done = run_unprivileged(script, root)
    assert "1 of 21 pictures are not used, the first a/0.png: can't be read (Permission denied)" in done.out
    (root / "b").chmod(0)
    done = run_unprivileged(script, root)
    (root / "b").chmod(0o755)
    assert "b can't be read (Permission denied); make it readable, or move it" in done.err


def test_a_file_that_changes_while_it_is_read(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing is older than the files."""
    threads = set(threading.enumerate())
    write(root, "a.png", "b.png")
    listing = list_pictures(root)
    monkeypatch.setattr("gan_dist.data.readers.folder.list_pictures", lambda root: listing)
    os.utime(root / "b.png", (0, 0))
    assert "b.png changed while it was read" in refusal(root)
    (root / "b.png").unlink()
    assert "b.png changed while it was read" in refusal(root)
    assert list(cache.iterdir()) == []
    write(root, "d.png")
    file = pack(root.parent / "c.zip", root)
    listing = list_pictures(file)
    pack(file, root)
    assert "c.zip changed while it was read" in refusal(file)
    assert set(threading.enumerate()) <= threads


def test_a_file_that_ends_its_decoder_is_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gan_dist.data.readers import decoding

    crash = "import gan_dist.data.readers.decoder as d; import os\ng = d.decode\n"
    crash += "d.decode = lambda content, how: os.kill(os.getpid(), 11) if b'crash' in content else g(content, how)\n"
    monkeypatch.setattr(decoding, "_SCRIPT", decoding._SCRIPT.replace("main()", crash + "main()"))
    write(root, *(f"{i:02d}.png" for i in range(20)))
    (root / "11a.png").write_bytes((root / "11.png").read_bytes() + b"crash")
    images, announced = read(root)
    assert images.spec.count == 20
    assert "the first 11a.png: can't be decoded: its decoder ended with signal 11" in announced[0]
