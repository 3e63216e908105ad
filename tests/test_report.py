"""Reports and comparisons of runs: what is read, the verdict, the table, the page, and bad input."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, draw_images
from damage import JSON_VALUES, loads_or_is_refused
from hypothesis import given, settings, strategies
from recorded_run import FLOOR, evaluation_row, metrics_row, write_recorded_run

from gan_dist import cli, train
from gan_dist.config import PRESETS, InputError
from gan_dist.files import write_json
from gan_dist.outputs.records import StepLines
from gan_dist.results.compare import compare_runs, draw_interval, print_comparison
from gan_dist.results.doctor import examine
from gan_dist.results.figures import Measured, interval_text, measured, number, value_text
from gan_dist.results.recorded import names_of, read_run, read_runs
from gan_dist.results.report.curves import interpolate, metric_curves, training_seconds
from gan_dist.results.report.page import HERE, SCRIPTS, STYLES, as_json, make_page, write_report
from gan_dist.results.report.pictures import read_grids, spread
from gan_dist.results.report.sections import SECTIONS_OF_ONE, SECTIONS_OF_SEVERAL, contents_of
from gan_dist.results.settings import config_differences, nearest_preset
from gan_dist.results.trend import Course, trend_of
from gan_dist.results.verdict import judge, verdict

NUMBERS = strategies.floats() | strategies.integers(-(10**300), 10**300) | strategies.none()
HOSTILE = "</script><img src=x onerror=alert(1)>'\"&"


@pytest.fixture(scope="module")
def trained(flags: Callable[..., list[str]], labelled_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional run of 2 epochs, each with a grid, and an evaluation at the end."""
    folder = tmp_path_factory.mktemp("report")
    words = flags(folder / "run", "--train.steps", "20", "--wandb.mode", "disabled", "--model.labels", "conditional")
    words += ["--data.root", str(labelled_root), "--evaluate.every-epochs", "2", "--evaluate.count", "100"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAN_DIST_CACHE", str(folder / "cache"))
        assert train.main(words) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of a longer run, with two sessions."""
    path = tmp_path_factory.mktemp("recorded") / "run"
    write_recorded_run(
        path, 12, images=draw_images(64), distances=[50, 20, 10, 5, 3, 2], sessions=(0, 3_000), every_steps=200
    )
    return path


def page_data(page: str) -> Any:
    """The JSON in a page."""
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def answers(path: Path) -> dict[str, str]:
    run = read_run(path)
    return {statement.question: statement.answer for statement in verdict(judge(run, examine(run)))}


def test_the_report_of_a_real_run_has_every_section(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(trained)]) == 0
    written = trained / "report.html"
    assert f"report of 1 run(s) in {written}" in capsys.readouterr().out
    page = written.read_text()
    for name, section in SECTIONS_OF_ONE.items():
        assert (f'<section id="{name}"' in page) == (name != "generator"), name
        assert (f">{section.title}</h2>" in page) == (name != "generator")
    data, run = page_data(page), read_run(trained)
    assert data["samples"]["epochs"] == [1, 2]
    curves = data["curves"]["curves"]["metrics"]
    assert curves["x"]["step"] == [row["step"] for row in run.rows]
    expected = [row["loss/generator"] for row in run.rows]
    assert curves["y"]["loss/generator"] == pytest.approx(expected, rel=1e-5)
    evaluations = data["evaluation"]["curves"]["evaluations"]
    last = run.evaluations[-1]
    assert evaluations["y"]["distance/frechet"][-1] == pytest.approx(last["distance/frechet"], rel=1e-5)
    low, high = last["intervals"]["distance/frechet"]
    ends = [evaluations[end]["distance/frechet"][-1] for end in ("low", "high")]
    assert ends == pytest.approx([low, high], rel=1e-5)
    assert "Shows the class asked for" in page
    assert "<code>model.labels</code>" in page  # differs from the preset


def test_a_page_asks_for_nothing_outside_of_it(trained: Path, recorded: Path) -> None:
    for paths in ([trained], [trained, recorded]):
        page = make_page(read_runs(paths))
        sources = re.findall(r"(?:src|href|action|data|poster|srcset)=\"([^\"]*)\"", page)
        assert sources
        assert all(source.startswith(("data:image/", "#")) for source in sources)
        (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
        rules = dict(rule.split(" ", 1) for rule in html.unescape(policy).split("; "))
        assert rules["default-src"] == "'none'"
        assert rules["img-src"] == "data:"
        assert all(re.fullmatch(r"('sha256-[\w+/=]{44}' ?)+", rules[name]) for name in ("script-src", "style-src"))
        assert "@import" not in page
        assert "style=" not in re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)


def test_several_runs_are_compared(trained: Path, recorded: Path, tmp_path: Path) -> None:
    other = write_recorded_run(tmp_path / "other", 6, seed=1, images=draw_images(64), distances=[60, 30, 20]).path
    output = tmp_path / "page.html"
    write_report([trained, recorded, other], output)
    page = output.read_text()
    assert all(f'<section id="{name}"' in page for name in SECTIONS_OF_SEVERAL)
    data = page_data(page)
    assert data["curves"]["names"]["m1"] == f"{recorded.parent.name}/run"
    assert {len(strip["pictures"]) for strip in data["strips"]["strips"]} == {2, 12, 6}
    assert [strip["images"][-1] for strip in data["strips"]["strips"]] == [400, 720_000, 360_000]
    assert "These runs have different latents" in page
    assert "<code>train.seed</code>" in page
    assert "no difference" in page
    same = write_recorded_run(tmp_path / "same", 4, images=draw_images(64)).path
    assert "The same latents in all runs" in make_page(read_runs([recorded, same]))


def test_the_terminal_shows_the_comparison(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    close = write_recorded_run(tmp_path / "close", 4, distances=[2.05]).path
    far = write_recorded_run(tmp_path / "far", 4, distances=[4]).path
    assert cli.main(["compare", str(recorded), str(close), str(far)]) == 0
    out = capsys.readouterr().out
    assert "Fréchet distance: run is best; no difference: close; worse: far" in out
    assert "Coverage" in out
    assert "classes/from_uniform" not in out
    assert cli.main(["compare", str(close), str(far), "--figures", "classes/from_uniform"]) == 0
    out = capsys.readouterr().out
    assert "Class imbalance" in out
    assert "Fréchet" not in out
    assert cli.main(["compare", str(close), str(far), "--figures", "distance/frechte"]) == 2
    assert "figures=distance/frechte is in no evaluation of these runs; did you mean distance/frechet?" in (
        capsys.readouterr().err
    )


def test_only_comparable_figures_are_compared(recorded: Path, tmp_path: Path) -> None:
    paths = [write_recorded_run(tmp_path / name, 4, distances=[2]).path for name in ("a", "b", "count", "data")]
    runs = read_runs(paths)
    StepLines(runs[2].folder.evaluations).append(
        evaluation_row(2400, 1, np.random.default_rng(0)) | {"count": 5, "step": 3000}
    )
    environment = json.loads(runs[3].folder.environment.read_text())
    write_json(runs[3].folder.environment, environment | {"data": {"sha256": "1" * 64}})
    comparison = compare_runs(read_runs(paths))
    (frechet,) = [row for row in comparison.figures if row.name == "distance/frechet"]
    assert [cell.mark for cell in frechet.cells][2:] == ["not comparable"] * 2
    assert {cell.mark for cell in frechet.cells[:2]} == {"best", "no difference"}
    assert frechet.floor == FLOOR["distance/frechet"]
    assert "not compared" in comparison.notes[0]
    (diversity,) = [row for row in comparison.figures if row.name == "diversity/features"]
    assert {cell.mark for cell in diversity.cells[:2]} == {""}  # neither more nor less of it is better


@pytest.mark.parametrize(
    ("distances", "course"),
    [
        ([200 / i for i in range(1, 13)], Course.IMPROVING),
        ([200, 40, 20, 10, *[9.0, 9.1, 8.95, 9.05] * 4], Course.PLATEAU),
        ([200, 10, 9, 8, 8.5, 9.1, 9.4, 10.0, 10.4, 11], Course.WORSENING),
        ([50, 20, 9, 14, 8, 13, 7], Course.UNCLEAR),
        ([50, 20, 9], Course.TOO_FEW),
        ([], Course.TOO_FEW),
        ([5.0] * 12, Course.PLATEAU),
    ],
)
def test_the_trend_of_the_distance(distances: list[float], course: Course) -> None:
    rows = [{"step": i, "images_seen": 100 * i, "distance/frechet": d} for i, d in enumerate(distances, 1)]
    trend = trend_of(rows)
    assert trend.course is course
    if distances[:1] == [200] and course is Course.IMPROVING:
        assert trend.change == pytest.approx(-0.5)  # distance ~ 1 / images
        assert trend.low == pytest.approx(trend.high)
        assert trend.since_step == 6
    # Those of another extractor are not part of it.
    others = [row | {"classifier": "x", "distance/frechet": 1e9} for row in rows[:-5]]
    assert trend_of([*others, *rows[-5:]]).evaluations <= 5


def test_the_verdict_in_words(tmp_path: Path) -> None:
    good = answers(write_recorded_run(tmp_path / "good", 6, distances=[50, 20, *[0.71, 0.7, 0.705] * 6]).path)
    assert good["How good are the images?"] == "As good as real images, within the interval"
    assert good["How far are they from real images?"].startswith("Coverage, precision and recall reach at least 9")
    assert good["Is it healthy?"] == "No problems found"
    assert good["Can I stop?"].startswith("Yes: on a plateau since step ")
    bad = answers(write_recorded_run(tmp_path / "bad", 6, distances=[250, 200, 150, 110, 90, 80]).path)
    assert bad["How good are the images?"] == "Far from real images"
    assert bad["How far are they from real images?"].startswith("Recall is")
    assert bad["Can I stop?"] == "No: it is still improving"
    near = make_page(read_runs([write_recorded_run(tmp_path / "near", 6, distances=[500, 200, 60, 18, 5, 1.9]).path]))
    assert "Twice the images would reach that of real images, 0.7, if" in near
    best = answers(write_recorded_run(tmp_path / "best", 6, distances=[9, 4, 2, 1.4, 1, 0.7]).path)
    assert best["Can I stop?"] == "Yes: as good as real images"
    copies = write_recorded_run(tmp_path / "copies", 6, distances=[50, 20, 0.7, 0.7])
    rows = [json.loads(line) | {"nearest/ratio": 0.5} for line in copies.evaluations.read_text().splitlines()]
    copies.evaluations.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert answers(copies.path)["How good are the images?"] == "Copies of training images"
    none = answers(write_recorded_run(tmp_path / "none", 1, distances=[]).path)
    assert none["How good are the images?"] == "Not evaluated yet"
    assert none["Is it healthy?"] == "Too early to tell"
    assert none["Can I stop?"] == "Too few evaluations to tell"


def test_a_run_is_judged_by_gan_dist_evaluate_if_it_has_no_other_evaluation(tmp_path: Path) -> None:
    run = write_recorded_run(tmp_path / "run", 4, distances=[])
    estimate = {"value": 1.5, "low": 1.4, "high": 1.6}
    real = {"distance/frechet": {"value": 0.7, "low": 0.7, "high": 0.7}, "damaged": {"value": "1"}}
    write_json(run.evaluation, {"step": 2400, "count": 9, "figures": {"distance/frechet": estimate}, "real": real})
    assert answers(run.path)["How good are the images?"] == "Close to real images"
    assert "1.40 to 1.60" in make_page(read_runs([run.path]))


def test_damaged_lines_are_counted_named_and_skipped(recorded: Path, tmp_path: Path) -> None:
    shutil.copytree(recorded, tmp_path / "run")
    folder = read_run(tmp_path / "run").folder
    lines = folder.metrics.read_text().splitlines()
    lines[3], lines[7] = "{", '{"step": 1, "epoch": "x"}'
    folder.metrics.write_text("\n".join(lines) + '\n{"step": 24100, "epo')  # the last one is being written
    folder.floor.write_text("[")
    folder.epoch_samples(5).write_bytes(b"no picture")
    run = read_run(folder.path)
    assert len(run.rows) == len(lines) - 2
    assert run.damage[0].startswith("metrics.jsonl: 2 damaged line(s) skipped (line 4, 8: the first is not valid JSON")
    assert run.damage[1].startswith("floor.json is not valid JSON")
    page = make_page([run])
    assert "2 damaged line(s) skipped" in page
    assert "epoch-0005.png is not a readable PNG" in page
    assert 5 not in page_data(page)["samples"]["epochs"]


def test_text_from_a_run_cannot_leave_its_place(recorded: Path, tmp_path: Path) -> None:
    path = tmp_path / HOSTILE.replace("/", "")
    shutil.copytree(recorded, path)
    folder = read_run(path).folder
    environment = json.loads(folder.environment.read_text())
    environment["data"]["spec"]["classes"][3] = HOSTILE
    environment |= {"host": HOSTILE, "versions": {HOSTILE: HOSTILE}, "device": HOSTILE}
    write_json(folder.environment, environment)
    folder.write_status("finished", 24_000, HOSTILE)
    lines = [json.loads(line) | {HOSTILE: 1.0} for line in folder.metrics.read_text().splitlines()]
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    other = tmp_path / "other"
    shutil.copytree(recorded, other)
    for paths in ([path], [path, other]):
        page = make_page(read_runs(paths))
        assert "<img src=x" not in page
        assert page.count("</script>") == page.count("<script")
        assert "&lt;img src=x" in page
        assert HOSTILE in json.dumps(page_data(page), ensure_ascii=False).replace('\\"', '"')


def test_a_run_that_is_training_is_reported(tmp_path: Path) -> None:
    folder = write_recorded_run(tmp_path / "run", 2, distances=[])
    folder.write_status("running", 600)
    folder.floor.unlink(missing_ok=True)
    folder.environment.unlink()
    page = make_page(read_runs([folder.path]))
    assert "The run is training, or was killed" in page
    assert '<section id="samples"' not in page


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["report"], "RUN is missing: 0 given; give 1 or more run folders"),
        (["report", "NONE"], "NONE holds no run: there is no config.json in it; give the folder of a run"),
        (["report", "RUN", "--output", "page.txt"], "output=page.txt must end in .html"),
        (["report", "RUN", "--output", "PLACE"], "output=PLACE exists; choose another, or pass --force to replace it"),
        (
            ["report", "RUN", "--output", "NONE/page.html"],
            "NONE/page.html can't be written (there is no folder NONE); choose another",
        ),
        (
            ["report", "EMPTY"],
            "EMPTY has no metrics yet: metrics.jsonl has no valid line; wait for its first log point",
        ),
        (["report", "RUN", "EMPTY", "--interactive"], "interactive is for the report of one run"),
        (["report", "RUN", "RUN", "--output", "new.html"], "RUN is given twice; give each run once"),
        (["compare", "RUN"], "RUN is missing: 1 given; give 2 or more run folders"),
        (["compare", "RUN", "EMPTY"], "EMPTY has no metrics yet"),
        (["compare", "RUN", "NONE"], "NONE holds no run"),
    ],
)
def test_bad_input(
    words: list[str], says: str, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = write_recorded_run(tmp_path / "empty", 1, distances=[])
    empty.metrics.write_text("")
    (tmp_path / "page.html").write_text("mine")
    places = {"NONE": tmp_path / "none", "RUN": recorded, "EMPTY": empty.path, "PLACE": tmp_path / "page.html"}
    before = sorted(recorded.iterdir()) + sorted(tmp_path.rglob("*"))

    def put(text: str) -> str:
        return re.sub("|".join(places), lambda found: str(places[found.group()]), text)

    missing = says.startswith("RUN is missing")
    assert cli.main([put(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert (says if missing else put(says)) in error
    assert error.count("\n") == 1
    assert sorted(recorded.iterdir()) + sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "page.html").read_text() == "mine"


def test_force_replaces_the_page(tmp_path: Path) -> None:
    run = write_recorded_run(tmp_path / "run", 1, distances=[]).path
    output = tmp_path / "page.html"
    output.write_text("old")
    assert cli.main(["report", str(run), "--output", str(output), "--force"]) == 0
    assert "<section" in output.read_text()


def test_grids_fit_into_the_budget(recorded: Path) -> None:
    run = read_run(recorded)
    whole = read_grids(run, 10**7)
    assert whole is not None
    assert whole.epochs == list(range(1, 13))
    assert whole.notes == []
    size = sum(map(len, whole.pictures))
    thinned = read_grids(run, size // 3)
    assert thinned is not None
    assert sum(map(len, thinned.pictures)) < size // 2
    assert thinned.epochs[0] == 1
    assert thinned.epochs[-1] == 12
    assert "of 12 epochs are shown" in thinned.notes[0]


@given(strategies.integers(1, 400), strategies.integers(2, 400))
def test_spread_keeps_both_ends(length: int, count: int) -> None:
    chosen = spread(range(length), count)
    assert len(chosen) == min(length, count)
    assert (chosen[0], chosen[-1]) == (0, length - 1)
    assert all(a < b for a, b in itertools.pairwise(chosen))


def test_curves_are_averaged_and_timed(recorded: Path) -> None:
    run = read_run(recorded)
    curves = metric_curves(run, most=15)
    assert curves.averaged == 3
    assert len(curves.positions["step"]) == 12
    first = np.mean([row["loss/generator"] for row in run.rows[:3]])
    assert curves.values["loss/generator"][0] == pytest.approx(first, rel=1e-5)
    assert curves.positions["step"][0] == 600
    rows = [{"images_seen": 100, "images_per_second": 50.0}, {"images_seen": 200, "images_per_second": None}]
    rows += [{"images_seen": 300, "images_per_second": 100.0}]
    assert training_seconds(rows) == [2, 4, 5]
    assert interpolate(2.0, [1.0, 3.0], [10.0, 20.0]) == 15
    assert [interpolate(at, [1.0, 3.0], [10.0, 20.0]) for at in (0.0, 9.0)] == [10, 20]
    assert math.isnan(interpolate(1.0, [], []))


def test_numbers_have_the_digits_that_their_interval_justifies() -> None:
    figure = Measured(1.23456, 1.1, 1.37)
    assert (value_text(figure), interval_text(figure)) == ("1.23", "1.10 to 1.37")
    assert interval_text(Measured(39.01, 35.9, 42.1)) == "35.9 to 42.1"
    assert value_text(Measured(1.0, math.nan, math.nan)) == "1"
    assert [number(value) for value in (0.00321, 1.23456, 12345.6, math.nan, 0.0)] == [
        "0.00321",
        "1.235",
        "12,346",
        "-",
        "0",
    ]
    assert measured({"a": 1.0, "intervals": {"a": [2, 3]}}, "a") == pytest.approx(
        Measured(1.0, math.nan, math.nan), nan_ok=True
    )
    assert draw_interval(Measured(5.0, 0.0, 10.0), 0.0, 10.0) == "├───────●────────┤"


def test_the_nearest_preset_and_differences(recorded: Path, trained: Path) -> None:
    for name, make in PRESETS.items():
        found = nearest_preset(make())
        assert (found.name, found.differences) == (name, [])
    configs = [read_run(path).config for path in (recorded, trained)]
    assert nearest_preset(configs[1]).name == "seed"
    names = [difference.name for difference in config_differences(configs)]
    assert "model.labels" in names
    assert "run.dir" not in names


def test_names_tell_runs_apart(recorded: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    for path in paths:
        shutil.copytree(recorded, path)
    runs = read_runs(paths)
    assert names_of(runs) == ["a/run", "b/run"]
    assert names_of(runs[:1]) == ["run"]


def test_the_interactive_page_is_in_a_frame_that_the_policy_permits(recorded: Path) -> None:
    document = "<!doctype html><title>&lt;</title><script>const a = '<b>' && 1;</script>"
    assert contents_of("script", document) == ["const a = '<b>' && 1;"]
    page = make_page(read_runs([recorded]), document)
    (srcdoc,) = re.findall(r'srcdoc="([^"]*)"', page)
    assert html.unescape(srcdoc) == document
    assert '<section id="generator"' in page


def test_json_cannot_end_its_element() -> None:
    assert "<" not in as_json({"a": HOSTILE})
    assert json.loads(as_json({"a": HOSTILE})) == {"a": HOSTILE}


def test_the_package_declares_what_a_page_needs() -> None:
    """Everything that a page is made from lies in the package, from which hatchling takes all files that git knows."""
    files = [HERE / "static" / name for name in (*SCRIPTS, *STYLES)]
    files += [HERE / "templates" / section.template for section in (SECTIONS_OF_ONE | SECTIONS_OF_SEVERAL).values()]
    files += [HERE / "static" / "vendor" / "uPlot.LICENSE"]
    known = subprocess.run(["git", "ls-files", HERE], cwd=REPOSITORY, capture_output=True, text=True).stdout.split()
    for file in files:
        assert file.is_file(), file
        assert not known or str(file.relative_to(REPOSITORY)) in known, f"git does not know {file}"
    version = re.search(r"uPlot \(v([\d.]+)\)", files[0].read_text())
    assert version is not None
    assert f"uPlot {version.group(1)}, MIT license" in (HERE / "templates" / "page.html").read_text()


@pytest.mark.fuzz
@pytest.mark.slow
@settings(max_examples=settings().max_examples // 4)  # an example makes two pages
@given(drawn=strategies.data())
def test_whatever_the_files_hold_a_page_is_made_or_refused(
    drawn: strategies.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "run"
    copy = write_recorded_run(path, 1, distances=[3, 2])
    other = write_recorded_run(path.parent / "other", 1, distances=[3, 2]).path
    file = drawn.draw(strategies.sampled_from([copy.environment, copy.floor, copy.status, copy.evaluation]))
    content = json.loads(file.read_text()) if file.exists() else {"figures": {}, "real": {}, "step": 1}
    key = drawn.draw(strategies.sampled_from([*content, "data", "versions", "figures"]))
    file.write_text(json.dumps(content | {key: drawn.draw(JSON_VALUES)}))
    with open(copy.metrics, "a") as stream:
        row = metrics_row(700, 700, np.random.default_rng(0))
        stream.write(json.dumps(row | {drawn.draw(strategies.sampled_from([*row])): drawn.draw(NUMBERS)}) + "\n")
    with open(copy.evaluations, "a") as stream:
        row = evaluation_row(24_600, 1.0, np.random.default_rng(0))
        changed = drawn.draw(strategies.sampled_from([*row, "intervals", "new"]))
        stream.write(json.dumps(row | {changed: drawn.draw(JSON_VALUES | NUMBERS)}) + "\n")
        stream.write(json.dumps(row | {"step": 800, "distance/frechet": drawn.draw(NUMBERS)}) + "\n")
    assert loads_or_is_refused(lambda: make_page(read_runs([path])), InputError)
    runs = read_runs([path, other])
    print_comparison(runs, compare_runs(runs), [])
    make_page(runs)
