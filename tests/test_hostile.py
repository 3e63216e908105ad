"""Run folders that no run writes: every command that reads them shows what is there, or refuses in one line."""

from __future__ import annotations

import json
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw_images
from PIL import Image
from recorded_run import evaluation_row, metrics_row, write_recorded_run
from unprivileged import run_unprivileged

from gan_dist import cli
from gan_dist.config.text import printable
from gan_dist.files import write_json
from gan_dist.outputs import records
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.record_reader import RecordReader
from gan_dist.outputs.records import read_records
from gan_dist.results import output, over_time
from gan_dist.results.recorded import MAX_NAMED, names_of, read_run, read_runs
from gan_dist.results.report.curves import MAX_FIGURES, evaluation_curves, metric_curves
from gan_dist.results.report.page import make_page, write_report
from gan_dist.results.report.pictures import SHOWN_SIDE, Size, read_grids, read_strips
from gan_dist.results.watch.frame import compose
from gan_dist.results.watch.text import Abilities
from gan_dist.results.watch.text import Size as Characters
from gan_dist.results.watch.view import Watcher

LARGEST = 1.7e308
SMALLEST = 5e-324


def appended(file: Path, *rows: dict[str, Any]) -> None:
    with open(file, "a") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def changed(file: Path, change: Callable[[Any], object]) -> None:
    values = json.loads(file.read_text())
    change(values)
    write_json(file, values)


def png(width: int, height: int) -> bytes:
    """The beginning of a PNG file of such a size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def test_numbers_at_the_limits_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_recorded_run(tmp_path / "run", 4, distances=[9, 8])
    changed(folder.config, lambda values: values["evaluate"].update(every_epochs=1, every_seconds=10.0))
    changed(folder.config, lambda values: values["log"].update(every_steps=50))
    changed(folder.config, lambda values: values["train"].update(epochs=1_000))
    rng, largest = np.random.default_rng(0), {"loss/generator": LARGEST, "images_per_second": SMALLEST}
    appended(folder.metrics, *(metrics_row(step, 9_000, rng) | largest for step in range(2_401, 9_000, 90)))
    # Digits to Python's isdigit, but not to int: of another script, and more than it reads.
    classes = {"classes/²": 0.0, f"classes/{'9' * 5_000}": 0.0}
    row = evaluation_row(9_000, LARGEST, rng)
    appended(folder.evaluations, row | classes | {"intervals": {"distance/frechet": [-LARGEST, LARGEST]}})
    folder.write_status("running", 2_400)
    other = write_recorded_run(tmp_path / "other", 4, distances=[9, 8]).path
    folder.lock(print, print)
    try:
        for size in (Characters(80, 24), Characters(30, 40)):
            assert compose(Watcher(folder.path).look(), size, Abilities(True, True))
    finally:
        folder.close()
    assert "<section" in make_page(read_runs([folder.path]))
    assert "<section" in make_page(read_runs([folder.path, other]))
    assert cli.main(["doctor", str(folder.path)]) in (0, 1)
    assert cli.main(["compare", str(folder.path), str(other), "--figures", "all"]) == 0
    assert "classes/²" in capsys.readouterr().out


def test_steps_out_of_order_are_sorted(tmp_path: Path) -> None:
    folder = write_recorded_run(tmp_path / "run", 4, distances=[9, 8])
    lines = folder.metrics.read_text().splitlines(keepends=True)
    random.Random(0).shuffle(lines)
    reader = RecordReader(folder.metrics)
    folder.metrics.write_text("".join(lines[:10]) + lines[10][:20])
    assert len(reader.read().rows) == 10
    folder.metrics.write_text("".join(lines).rstrip())  # the last line is being written, and complete
    for found in (reader.read(), read_records(folder.metrics)):
        assert [row["step"] for row in found.rows] == list(range(100, 2_401, 100))
        assert not found.damaged
    assert read_run(folder.path).step == 2_400


def test_a_line_that_is_too_long_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_recorded_run(tmp_path / "run", 1, distances=[])
    monkeypatch.setattr(records, "MAX_LINE_BYTES", 1_000)
    appended(folder.metrics, {"step": 700, "epoch": 1.0, "x" * 1_000: 1.0}, {"step": 800, "epoch": 1.0})
    run = read_run(folder.path)
    assert run.step == 800
    assert "1 damaged line(s) skipped (line 7: the first is too long: 1,0" in run.damage[0]


def test_only_so_many_figures_are_drawn(tmp_path: Path) -> None:
    folder = write_recorded_run(tmp_path / "run", 1, distances=[3, 2])
    appended(folder.metrics, {"step": 700, "epoch": 1.2, **{f"figure/{i}": 1.0 for i in range(MAX_FIGURES)}})
    run = read_run(folder.path)
    curves = metric_curves(run)
    assert (len(curves.values), curves.left_out) == (MAX_FIGURES, 7)
    assert "7 further figures are not drawn" in make_page([run])
    # Those of single classes are in a table; their curves would not be shown, and make a page of 100 classes large.
    assert not [name for name in evaluation_curves(run).values if name[-1].isdigit()]


def test_pictures_of_any_size(tmp_path: Path) -> None:
    folder = write_recorded_run(tmp_path / "run", 9, images=draw_images(64), distances=[])
    small = read_strips(read_run(folder.path), Size(28, 28), 9, 10**6)
    assert len(small) == 9
    few = read_strips(read_run(folder.path), Size(28, 28), 9, sum(len(strip.uri) for strip in small) // 3)
    assert [strip.epoch for strip in few][:: len(few) - 1] == [1, 9]
    assert len(few) < len(small)
    Image.new("L", (SHOWN_SIDE * 5, 30)).save(folder.epoch_samples(9))  # wider than WebP permits
    folder.epoch_samples(8).write_bytes(png(100_000, 100_000))
    grids = read_grids(read_run(folder.path), 10**6)
    assert grids is not None
    assert grids.epochs == [9]
    assert len(grids.notes) == MAX_NAMED + 2
    assert "3 more files were skipped" in grids.notes
    assert "The grids have 21000 x 30 pixels, and are shown smaller" in grids.notes
    assert len(read_strips(read_run(folder.path), Size(2_500, 26), 9, 10**6)) == 1
    folder.epoch_samples(9).unlink()
    grids = read_grids(read_run(folder.path), 10**6)
    assert grids is not None
    assert grids.notes == ["epoch-0008.png has 100000 x 100000 pixels, too many was skipped"]


def test_large_grids_are_refused_before_all_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, read = write_recorded_run(tmp_path / "run", 1, images=draw_images(64), distances=[]), over_time.read_picture
    Image.new("L", (3_000, 3_000)).save(folder.epoch_samples(60))
    for epoch in range(2, 60):
        os.link(folder.epoch_samples(60), folder.epoch_samples(epoch))
    opened: list[Path] = []
    monkeypatch.setattr(over_time, "read_picture", lambda file: opened.append(file) or read(file))
    assert cli.main(["walk", str(folder.path), "--over-time", "--output", str(tmp_path / "a.gif")]) == 2
    assert "frames of 3,000 x 3,000 pixels are too large; use fewer --frames" in capsys.readouterr().err
    assert opened == [folder.epoch_samples(60)]


def test_text_that_is_not_utf_8_is_replaced(tmp_path: Path) -> None:
    folder = write_recorded_run(tmp_path / "run", 1, distances=[3, 2])
    changed(folder.environment, lambda values: values["data"]["spec"]["classes"].__setitem__(3, "caf\udce9"))
    write_report([folder.path], tmp_path / "page.html")
    assert "caf?" in (tmp_path / "page.html").read_text()


def test_messages_do_not_control_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, hostile = write_recorded_run(tmp_path / "run", 1, distances=[]), "\x1b]0;x\x07\n\u202e" + "y" * 10**5
    kept = folder.config.read_text()
    changed(folder.config, lambda values: values.update({hostile: 1}))
    assert cli.main(["report", str(folder.path)]) == 2
    folder.config.write_text(kept)
    folder.metrics.write_text(json.dumps({"step": 1, "epoch": 1.0, hostile: "text"}) + "\n")
    assert cli.main(["report", str(folder.path)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "has a field " in first
    assert "has no valid line (metrics.jsonl: 1 damaged line(s) skipped (line 1: the first has a " in second
    for line in (first, second):
        assert line == printable(line, 10_000)
        assert len(line) < 1_000


def test_a_link_of_a_foreseeable_name_is_not_followed(tmp_path: Path) -> None:
    folder, mine = write_recorded_run(tmp_path / "run", 1, distances=[]), tmp_path / "mine"
    mine.write_text("mine")
    (folder.path / f".writing-{os.getpid()}-report.html").symlink_to(mine)
    assert cli.main(["report", str(folder.path)]) == 0
    assert mine.read_text() == "mine"
    (folder.path / ".writing-folder").symlink_to(tmp_path)  # of a killed process, as far as its name tells
    folder.remove_unfinished()
    assert mine.exists()
    assert not [file.name for file in folder.path.iterdir() if file.name.startswith(".writing")]


def test_a_folder_is_named_by_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_recorded_run(tmp_path / "run", 1, distances=[])
    monkeypatch.chdir(folder.samples.parent)
    for path in (".", "../run/", "./../run/.", str(folder.path) + "/"):
        assert names_of(read_runs([Path(path)])) == ["run"]
    (folder.path / "inside").mkdir()
    monkeypatch.chdir(folder.path / "inside")
    assert names_of(read_runs([Path("..")])) == ["run"]
    assert cli.main(["report", ".."]) == 0
    assert (folder.path / "report.html").is_file()


def test_a_folder_that_is_interrupted_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, rename = tmp_path / "pictures", Path.rename
    place.mkdir()
    (place / "old").touch()

    def interrupted(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), output.output_folder(place, lambda name: True):
        pass
    assert [file.name for file in place.iterdir()] == ["old"]
    assert [file.name for file in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.slow
def test_a_folder_that_is_not_writable_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    folder = write_recorded_run(tmp_path / "run", 1, distances=[]).path
    folder.chmod(0o500)
    script = """
import sys
from gan_dist import cli
from gan_dist.results.report import page
page.make_page = None
print([cli.main(["report", sys.argv[1]]), cli.main(["doctor", sys.argv[1]]), cli.main(["watch", sys.argv[1]])][0])
"""
    ended = run_unprivileged(script, folder)
    folder.chmod(0o700)
    assert ended.out.splitlines()[-1] == "2", ended.err
    assert ended.err == (
        f"gan-dist: output={folder / 'report.html'} can't be written ({folder} is not writable); choose another\n"
    )
    assert RunFolder(folder).holds_a_run()
