"""gan-dist watch: frames of recorded runs, runs that change while they are watched, and a real terminal."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, draw_images, environment, run_command
from PIL import Image
from recorded_run import evaluation_row, metrics_row, write_recorded_run
from rich.console import Console

from gan_dist import cli
from gan_dist.config.text import NOT_PRINTED
from gan_dist.files import write_json
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import StepLines
from gan_dist.results.figures import number
from gan_dist.results.recorded import read_run
from gan_dist.results.watch.frame import compose
from gan_dist.results.watch.picture import Grid, draw_grid
from gan_dist.results.watch.plot import draw_curves
from gan_dist.results.watch.state import state_of
from gan_dist.results.watch.terminal import _signals
from gan_dist.results.watch.text import Abilities, Size, wrapped
from gan_dist.results.watch.view import Watcher

COLOURS, PLAIN, ASCII = Abilities(True, True), Abilities(False, True), Abilities(False, False)
SIZES = [Size(80, 24), Size(81, 25), Size(170, 60), Size(60, 16), Size(30, 8), Size(5, 3), Size(1, 1)]
# A C0 and a C1 control sequence, a title, a new line, a bidirectional override, markup and a wide character.
HOSTILE = "\x1b[31m\x9b2J\x1b]0;x\x07\r\n\u202e[red]語[/red][/x]\x7f"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of a run of 12 epochs."""
    path = tmp_path_factory.mktemp("watch") / "run"
    write_recorded_run(path, 12, images=draw_images(64), distances=[50, 20, 10, 5, 3, 2], every_steps=200)
    return path


def frame(path: Path, size: Size = SIZES[0], abilities: Abilities = PLAIN) -> str:
    return "\n".join(line.plain for line in compose(Watcher(path).look(), size, abilities))


@pytest.mark.parametrize("abilities", [COLOURS, PLAIN, ASCII], ids=["colours", "plain", "ascii"])
def test_frames_fit_into_the_terminal(recorded: Path, abilities: Abilities) -> None:
    view = Watcher(recorded).look()
    for size in SIZES:
        for footer in ("", "q quits"):
            lines = compose(view, size, abilities, footer)
            assert len(lines) <= size.rows
            assert max(line.cell_len for line in lines) <= size.columns
            text = "\n".join(line.plain for line in lines)
            assert abilities.unicode or text.isascii()
            if size >= (80, 24):
                for part in (
                    "run  mlp on mnist, seed 0  finished: 12 epochs done",
                    "step 7,200 of 7,200",
                    "epoch 12.00",
                ):
                    assert part in text
                for part in (
                    "Losses",
                    "D 0.",
                    "Scores of D",
                    "real images",
                    "Coverage",
                    "Precision",
                    "Recall",
                    "doctor:",
                ):
                    assert part in text
                assert "Close to real images" in text
                assert re.search(r"Fr.chet distance +[12]\.\d+ +1\.8\d*-2\.2\d* +0\.70", text)
                assert "same latents, epoch 12" in text
            drawn = {kind: any(letter in text for letter in letters) for kind, letters in
                     {"blocks": "▀", "dots": "⠁⣿⠉⠒", "ramp": "*+"}.items()}  # fmt: skip
            if size >= (80, 24):
                assert drawn == {"blocks": abilities.colours, "dots": abilities.unicode, "ramp": not abilities.unicode}
    styles = {str(span.style) for line in compose(view, SIZES[0], abilities) for span in line.spans}
    assert any("on rgb(" in style for style in styles) == abilities.colours


def test_large_terminals_use_their_room(recorded: Path) -> None:
    small, large = frame(recorded), frame(recorded, Size(150, 50))
    assert "How good are the images?" not in small
    distance = number(read_run(recorded).evaluations[-1]["distance/frechet"])
    for part in ("How good are the images?", "Gradient norms", f"Fréchet distance  ━ {distance}", "Images per second"):
        assert part in large
    assert len(large.splitlines()) > 40


def test_texts_from_files_do_not_control_the_terminal(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_recorded_run(tmp_path / "run", 12, distances=[50, 20])
    values = json.loads(folder.environment.read_text())
    values["data"]["spec"]["classes"][3] = f"three{HOSTILE}\ud800"
    write_json(folder.environment, values)
    row = evaluation_row(7_200, 10, np.random.default_rng(0)) | {"classes/3": 0.0, f"figure{HOSTILE}": 1.0}
    folder.evaluations.write_text(json.dumps(row) + "\n")
    metrics = metrics_row(7_201, 7_200, np.random.default_rng(0)) | {f"loss/{HOSTILE}": 1.0, HOSTILE: 2.0}
    StepLines(folder.metrics).append(metrics)
    StepLines(folder.metrics).append({"step": 7_202, "epoch": 1, HOSTILE: "text"})  # a damaged line
    folder.write_status(f"state{HOSTILE}", 7_201, f"reason{HOSTILE}")
    path = folder.path.rename(tmp_path / f"run{HOSTILE.replace('/', '')}")
    view = Watcher(path).look()
    for size in (SIZES[0], Size(300, 60), Size(30, 8)):
        for abilities in (COLOURS, PLAIN, ASCII):
            lines = compose(view, size, abilities)
            letters = {letter for line in lines for letter in line.plain}
            assert not [letter for letter in letters if unicodedata.category(letter) in NOT_PRINTED]
            screen = io.StringIO()
            console = Console(file=screen, force_terminal=True, color_system="truecolor", width=size.columns)
            for line in lines:
                console.print(line, soft_wrap=True)
            assert "\x1b" not in re.sub(r"\x1b\[[\d;]*m", "", screen.getvalue())
            assert max(line.cell_len for line in lines) <= size.columns
    text = frame(path, Size(300, 60))
    for part in (
        "[red]語[/red][/x]",
        "reason?[31m?2J?]0;x?  ?[red]",
        "class 3 (three?",
        "missing-classes",
        "damaged line",
    ):
        assert part in text
    path = path.rename(folder.path)  # a command line with control characters is refused
    for words, code in ((["doctor", path], 1), (["compare", path, recorded, "--figures", "all"], 0)):
        assert cli.main([str(word) for word in words]) == code
        out = capsys.readouterr().out
        assert not [letter for letter in out if letter != "\n" and unicodedata.category(letter) in NOT_PRINTED]
        assert "?[31m" in out


@pytest.mark.parametrize(
    ("state", "held", "expected", "training"),
    [
        ("running", True, "running", True),
        ("running", False, "its process is gone; the same command resumes it", False),
        ("running", None, "running, as far as can be seen from this host", True),
        ("stopped", False, "stopped: why", False),
        ("stopped", True, "stopped: why; a process uses the folder again", False),
        ("failed", False, "failed: why", False),
        ("finished", False, "finished: why", False),
    ],
)
def test_what_a_run_does(recorded: Path, state: str, held: bool | None, expected: str, training: bool) -> None:
    run = read_run(recorded)
    status = replace(run.status, state=state, reason="" if state == "running" else "why", step=600)
    found = state_of(replace(run, status=status, rows=run.rows[:6]), held)
    assert (found.description, found.is_training) == (expected, training)
    assert (found.step, found.total_steps) == (1_200 if training else 600, 7_200)
    assert np.isnan(found.seconds_left) == (not training)


def test_the_time_left_includes_evaluations(recorded: Path) -> None:
    run = read_run(recorded)
    rows = [row | {"images_per_second": 1_000.0} for row in run.rows if row["step"] <= 3_600]
    # 100 images a step: 1,200 steps take 120 s, and each evaluation 30 s
    evaluations = [row | {"seconds": row["step"] / 10 + 30 * (i + 1)} for i, row in enumerate(run.evaluations[:3])]
    config = replace(run.config, evaluate=replace(run.config.evaluate, every_epochs=2))
    training = replace(
        run, config=config, rows=rows, evaluations=evaluations, status=replace(run.status, state="running")
    )
    assert state_of(training, True).seconds_left == pytest.approx(360 + 3 * 30)
    assert state_of(replace(training, evaluations=evaluations[:1]), True).seconds_left == pytest.approx(360 + 3 * 30)
    assert state_of(replace(training, evaluations=[]), True).seconds_left == pytest.approx(360)
    config = replace(config, evaluate=replace(config.evaluate, every_seconds=200.0))  # of training: twice in 360 s
    assert state_of(replace(training, config=config), True).seconds_left == pytest.approx(360 + 2 * 30)


def test_a_run_that_changes_while_it_is_watched(recorded: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(recorded, path)
    folder, watcher = RunFolder(path), Watcher(path)
    lines = folder.metrics.read_bytes().splitlines(keepends=True)
    evaluations = folder.evaluations.read_bytes()

    def shown() -> str:
        return "\n".join(line.plain for line in compose(watcher.look(), SIZES[0], PLAIN))

    folder.lock(print, print)
    folder.write_status("running", 0)
    for file in (folder.metrics, folder.evaluations, folder.floor, *folder.samples.glob("epoch-*.png")):
        file.unlink()
    text = shown()
    for part in (
        "seed 0  running",
        "No metrics yet: a line is written every",
        "real images",
        "Not evaluated yet",
    ):
        assert part in text
    folder.metrics.write_bytes(lines[0] + b"{broken\n" + lines[1][:50])
    text = shown()
    for part in (
        "step 200 of 7,200",
        "min",
        "left",
        "metrics.jsonl: 1 damaged line(s) skipped (line 2",
        "no evaluation yet",
    ):
        assert part in text
    folder.metrics.write_bytes(b"".join(lines[:20]))
    folder.evaluations.write_bytes(evaluations)
    shutil.copy(recorded / "samples" / "epoch-0005.png", folder.samples)
    (folder.samples / "epoch-0006.png").write_bytes(b"no picture")
    text = shown()
    for part in ("step 4,000 of 7,200", "Fréchet distance", "same latents, epoch 5"):  # the newest one that is readable
        assert part in text
    StepLines(folder.metrics).rewrite(StepLines(folder.metrics).read(), read_run(path).rows[:10], print)  # resumed
    assert "step 2,000 of 7,200" in shown()
    os.utime(folder.metrics, (time.time() - 300, time.time() - 300))
    assert "no new line for 5 min" in shown()
    folder.close()
    assert "its process is gone" in shown()
    shutil.rmtree(path)
    assert "holds no run" in shown()
    write_recorded_run(path, 2, distances=[])
    assert "step 1,200 of 1,200" in shown()
    folder.config.write_text("{")
    assert "config.jsonisnotvalidJSON" in "".join(shown().split())  # lines end anywhere in a long path


def test_the_grid_is_drawn_as_far_as_it_can_be_recognized() -> None:
    def grid(by_class: bool) -> Grid:
        """Three rows of 16 x 16 images, each of one brightness: 10 x column + 80 x row."""
        pixels = np.full((3 * 18 + 2, 8 * 18 + 2), 128, np.uint8)
        for row in range(3):
            for column in range(8):
                pixels[18 * row + 2 : 18 * row + 18, 18 * column + 2 : 18 * column + 18] = 10 * column + 80 * row
        return Grid(Image.fromarray(pixels), (16, 16), by_class)

    def centers(lines: list, side: int, rows: int, columns: int) -> list[list[int]]:
        found = []
        for row in range(rows):
            colours = [style for line in lines[(row * side + side // 2) // 2 :][:1] for style in upper_colours(line)]
            found.append([colours[column * side + side // 2] for column in range(columns)])
        return found

    def upper_colours(line) -> list[int]:
        return [span.style.color.triplet.red for span in line.spans for _ in range(span.end - span.start)]

    whole = draw_grid(grid(False), Size(200, 60), COLOURS)
    assert (len(whole), whole[0].cell_len) == (25, 8 * 17 - 1)  # 3 x 17 - 1 pixels
    assert centers(whole, 17, 3, 8) == [[10 * column + 80 * row for column in range(8)] for row in range(3)]
    some = draw_grid(grid(False), Size(33, 17), COLOURS)
    assert centers(some, 17, 2, 2) == [[0, 10], [20, 30]]
    classes = draw_grid(grid(True), Size(33, 17), COLOURS)
    assert centers(classes, 17, 2, 2) == [[0, 80], [160, 10]]
    white, black = (Image.new("RGB", (8, 8), colour) for colour in ("white", "black"))
    assert [line.plain for line in draw_grid(Grid(white, None, False), Size(4, 9), PLAIN)] == ["⣿" * 4] * 2
    assert [line.plain for line in draw_grid(Grid(black, None, False), Size(9, 2), PLAIN)] == [" " * 4] * 2
    assert [line.plain for line in draw_grid(Grid(white, None, False), Size(9, 9), ASCII)] == ["@" * 8] * 4
    assert draw_grid(Grid(white, (16, 16), False), Size(0, 5), PLAIN) == []


def test_curves_are_connected_dots() -> None:
    rising = [(0.0, 0.0), (1.0, 1.0)]
    assert [line.plain for line in draw_curves([rising], Size(4, 2), PLAIN)] == ["  ⡠⠊", "⡠⠊  "]
    assert [line.plain for line in draw_curves([rising], Size(2, 2), ASCII)] == [" *", "* "]
    level = [(0.0, 0.0), (1.0, 0.0)]
    dotted, solid = (draw_curves([[], level], Size(4, 1), abilities)[0] for abilities in (PLAIN, COLOURS))
    assert (dotted.plain, solid.plain) == ("⡀" * 4, "⣀" * 4)
    assert [line.plain for line in wrapped("a bb ccc /dd/eee/f", 4)] == ["a bb", "ccc", "/dd/", "eee/", "f"]


def test_without_a_terminal_one_frame_is_printed(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--once"]):
        assert cli.main(["watch", str(recorded), *words]) == 0
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "step 7,200 of 7,200" in out
        assert 20 < len(out.splitlines()) <= 24
        assert max(map(len, out.splitlines())) <= 80


def test_bad_input_is_one_line(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in [
        ([str(tmp_path / "none")], "holds no run"),
        ([str(tmp_path)], "holds no run"),
        ([str(recorded), "--interval", "0"], "interval=0.0 is not supported"),
    ]:
        assert cli.main(["watch", *words]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert message in captured.err
        assert captured.err.count("\n") == 1


class Terminal:
    """A pseudo-terminal with a process."""

    def __init__(self, *words: str | Path, size: Size = SIZES[0], **env: str) -> None:
        self.ours, self.theirs = os.openpty()
        self.resize(size)
        self.before = termios.tcgetattr(self.theirs)
        kept = {name: value for name, value in environment().items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [str(word) for word in words],
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            env=kept | {"TERM": "xterm-256color"} | env,
            cwd=REPOSITORY,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.output = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while content := os.read(self.ours, 65_536):
                self.output += content

    def resize(self, size: Size) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 90
        while text.encode() not in self.output:
            if self.process.poll() is not None:
                deadline = min(deadline, time.monotonic() + 5)  # the rest of its output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)

    def press(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.theirs)
        self._reader.join(timeout=10)
        os.close(self.ours)


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[Callable[..., Terminal]]:
    """Starts `gan-dist watch` in a pseudo-terminal."""
    started: list[Terminal] = []

    def watch(*words: str | Path, **env: str) -> Terminal:
        started.append(Terminal(sys.executable, "-m", "gan_dist.cli", "watch", *words, **env))
        return started[-1]

    yield watch
    for terminal in started:
        terminal.close()


@pytest.mark.parametrize(
    ("keys", "code"),
    [(b"q", 0), pytest.param(b"\x03", 0, marks=pytest.mark.slow), pytest.param(None, 143, marks=pytest.mark.slow)],
)
def test_a_growing_run_in_a_terminal(
    start: Callable[..., Terminal], tmp_path: Path, keys: bytes | None, code: int
) -> None:
    folder = write_recorded_run(tmp_path / "run", 2, images=draw_images(64), distances=[])
    terminal = start(folder.path, "--interval", "0.2")
    terminal.wait_for("step 1,200 of 1,200")
    for part in ("\x1b[?1049h", "\x1b[?25l", "▀", "\x1b[38;5;"):
        assert part.encode() in terminal.output
    assert termios.tcgetattr(terminal.theirs) != terminal.before
    StepLines(folder.metrics).append(metrics_row(1_300, 1_300, np.random.default_rng(0)))
    folder.write_status("running", 1_300)
    terminal.wait_for("step 1,300")
    terminal.wait_for("its process is gone")
    terminal.resize(Size(120, 40))
    terminal.wait_for("How far are they from real images?")
    shutil.move(folder.path, tmp_path / "other")
    terminal.wait_for("holds no run")
    if keys:
        terminal.press(keys)
    else:
        terminal.process.terminate()
    assert terminal.process.wait(timeout=60) == code
    assert termios.tcgetattr(terminal.theirs) == terminal.before
    restored = terminal.output.decode(errors="replace")[-40:]
    assert "\x1b[?1049l" in restored
    assert restored.endswith("\x1b[?25h")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_exception_is_lost_ends_it_too() -> None:
    class Destroyed:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    with _signals() as check:
        check()
        Destroyed()
        with pytest.raises(KeyboardInterrupt):
            check()


@pytest.mark.slow
def test_terminals_without_colours(start: Callable[..., Terminal], recorded: Path) -> None:
    dumb = start(recorded, TERM="dumb")
    assert dumb.process.wait(timeout=120) == 0
    dumb.wait_for("doctor: ")
    assert b"\x1b" not in dumb.output
    plain = start(recorded, "--interval", "600", NO_COLOR="1")
    plain.wait_for("step 7,200")
    plain.resize(Size(120, 40))
    plain.wait_for("How far are they from real images?")  # at once, not after the interval
    plain.press(b"q")
    assert plain.process.wait(timeout=60) == 0
    assert not re.search(rb"\x1b\[[\d;]*(3|4)[0-9;]+m", plain.output)
    piped = run_command(sys.executable, "-m", "gan_dist.cli", "watch", recorded, PYTHONIOENCODING="latin-1")
    assert piped.code == 0
    assert "Fréchet" not in piped.out
    assert "Frechet distance" in piped.out
