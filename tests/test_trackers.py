"""Whatever a tracker's backend does, a run continues, ends in time, and announces the failure in one line."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import figures, train_here

from gan_dist.outputs import trackers
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json, read_json_lines
from gan_dist.outputs.trackers.background import Backend, BackgroundTracker, Opened
from gan_dist.outputs.trackers.media import Image, Media, Page, Table
from gan_dist.outputs.trackers.protocol import NoTracker, Tracker
from gan_dist.outputs.trackers.several import SeveralTrackers
from gan_dist.outputs.trackers.worker import Worker

TIMEOUT = 0.3  # of a call, seconds
PNG = b"content of a picture"


class FakeBackend:
    """Records its calls. All that a new tracker has to implement.

    Args:
        faults: method -> an exception that it raises, or "hangs" or "hangs uninterruptibly".
    """

    title = "Fake"
    timeout = TIMEOUT
    timeout_field = "fake.timeout"
    media: tuple[type, ...] = (Image, Table)

    def __init__(self, received: int | None = None, **faults: BaseException | str) -> None:
        self.received = received
        self.warning: str | None = None
        self.faults = faults
        self.calls: list[tuple[Any, ...]] = []
        self.interrupted, self.ended = threading.Event(), threading.Event()

    def load(self) -> None:
        self._call("load")

    def modes(self) -> Sequence[str]:
        self._call("modes")
        return ("online",)

    def open(self, mode: str, run_config: dict[str, Any], resume_id: str | None) -> Opened:
        self._call("open", mode, resume_id)
        return Opened("new id", "Fake: opened", self.received)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        self._call("log", step, dict(values))

    def log_media(self, step: int, name: str, media: Media) -> None:
        self._call("log_media", step, name, media)

    def alert(self, step: int, title: str, text: str) -> None:
        self._call("alert", title, text)

    def close(self, exit_code: int) -> None:
        self._call("close", exit_code)

    def interrupt(self) -> None:
        self.interrupted.set()
        self._call("interrupt")

    def advice(self) -> str:
        self._call("advice")
        return "; try again"

    def _call(self, name: str, *arguments: Any) -> None:
        if name not in ("interrupt", "advice"):
            self.calls.append((name, *arguments))
        fault = self.faults.get(name)
        if isinstance(fault, BaseException):
            raise fault
        if fault == "hangs":
            self.interrupted.wait()
            raise ConnectionError("interrupted")
        if fault == "hangs uninterruptibly":
            self.ended.wait()


def session(backend: FakeBackend, tmp_path: Path) -> tuple[BackgroundTracker, list[str], float]:
    """All that a run does with its tracker.

    Returns:
        The tracker, the lines that it announced, and the seconds that the run waited.
    """
    announced: list[str] = []
    picture = tmp_path / "picture.png"
    picture.write_bytes(PNG)
    tracker = BackgroundTracker("fake", backend, announced.append)
    waited = 0.0
    for call in (
        lambda: tracker.start({"seed": 1}, {}, 0),
        lambda: tracker.log(5, {"loss": 1.0, "distance": None}),
        lambda: tracker.log_picture(5, "samples", picture, "epoch 1"),
        lambda: tracker.log_media(5, "page", Page("not accepted")),
        lambda: tracker.alert(5, "title", "text"),
        lambda: tracker.log(10, {"loss": 2.0}),
        lambda: tracker.log(15, {"loss": 3.0}),
        lambda: tracker.finish(0),
        lambda: tracker.finish(0),
    ):
        began = time.monotonic()
        call()
        waited += time.monotonic() - began
        time.sleep(TIMEOUT / 2)
    backend.ended.set()
    return tracker, announced, waited


def test_calls_are_made_in_order(tmp_path: Path) -> None:
    backend = FakeBackend()
    tracker, announced, _ = session(backend, tmp_path)
    assert backend.calls == [
        *[("load",), ("modes",), ("open", "online", None)],
        *[("log", 5, {"loss": 1.0}), ("log_media", 5, "samples", Image(PNG, "epoch 1")), ("alert", "title", "text")],
        *[("log", 10, {"loss": 2.0}), ("log", 15, {"loss": 3.0}), ("close", 0)],
    ]
    assert announced == ["Fake: opened"]
    assert tracker.describe() == {"fake": {"mode": "disabled", "id": "new id", "logged_through": 0}}


@pytest.mark.parametrize("error", [OSError("refused\nmore"), SystemExit(1), TimeoutError("late")], ids=repr)
@pytest.mark.parametrize("method", ["load", "modes", "open", "log", "log_media", "alert", "close"])
def test_a_call_that_raises_is_announced_once(method: str, error: BaseException, tmp_path: Path) -> None:
    backend = FakeBackend(**{method: error, "advice": OSError("no advice either")})
    tracker, announced, _ = session(backend, tmp_path)
    failures = [line for line in announced if line != "Fake: opened"]
    assert len(failures) == 1, announced
    assert failures[0].startswith("Fake ")
    assert "\n" not in failures[0]
    assert tracker.mode == "disabled"
    assert ("close" in [call[0] for call in backend.calls]) == (method != "load")


@pytest.mark.parametrize("fault", ["hangs", "hangs uninterruptibly"])
@pytest.mark.parametrize("method", ["modes", "open", "log", "log_media", "close"])
def test_a_call_that_hangs_is_announced_once(method: str, fault: str, tmp_path: Path) -> None:
    _, announced, waited = session(FakeBackend(**{method: fault, "interrupt": OSError("cannot")}), tmp_path)
    failures = [line for line in announced if line != "Fake: opened"]
    assert len(failures) == 1, announced
    assert "0.3 s (fake.timeout)" in failures[0]
    assert waited < 2 * (TIMEOUT + 2.0)


def test_the_next_mode_is_tried_after_an_interrupted_one() -> None:
    class TwoModes(FakeBackend):
        def modes(self) -> Sequence[str]:
            return ("online", "offline")

        def open(self, mode: str, run_config: dict[str, Any], resume_id: str | None) -> Opened:
            self.faults = {"open": "hangs"} if mode == "online" else {}
            return super().open(mode, run_config, resume_id)

    announced: list[str] = []
    tracker = BackgroundTracker("fake", TwoModes(), announced.append)
    tracker.start({}, {}, 0)
    assert announced == ["Fake online is unavailable (no answer within 0.3 s (fake.timeout))", "Fake: opened"]
    assert tracker.mode == "offline"
    tracker.finish(0)


@pytest.mark.parametrize(
    ("ids", "received", "sent"),
    [
        ({"fake": "an id"}, None, [15, 20]),  # the run folder says what was sent
        ({"fake": "an id"}, 5, [10, 15, 20]),  # the dashboard says that it lacks the end of a killed session
        ({"another": "an id"}, None, [5, 10, 15, 20]),  # this one is new
        ({}, None, [5, 10, 15, 20]),
    ],
)
def test_each_step_is_sent_once_over_the_sessions(
    ids: dict[str, str], received: int | None, sent: list[int], tmp_path: Path
) -> None:
    backend, picture = FakeBackend(received), tmp_path / "picture.png"
    picture.write_bytes(PNG)
    tracker = BackgroundTracker("fake", backend, print)
    tracker.start({}, ids, 10)
    tracker.log_earlier([(step, {"loss": 1.0}) for step in (5, 10)])
    for step in (5, 10):
        tracker.log_picture(step, "samples", picture, "")
    tracker.log(15, {"loss": 1.0})
    tracker.skip_through(15)  # the run goes back to step 10
    for step in (15, 20):
        tracker.log(step, {"loss": 1.0})
        tracker.alert(step, "title", "text")
    tracker.log_media(15, "panel", Image(PNG, ""), final=True)
    tracker.finish(0)
    calls = [call[:2] for call in backend.calls if len(call) > 1]
    assert [step for name, step in calls if name == "log"] == sent
    assert [step for name, step in calls if name == "log_media"] == [step for step in sent if step <= 10] + [15]
    assert [name for name, _ in calls].count("alert") == 1


def test_trackers_do_not_depend_on_each_other(tmp_path: Path) -> None:
    failing, works, announced = FakeBackend(log=OSError("refused")), FakeBackend(), []
    tracker = SeveralTrackers(
        [BackgroundTracker(name, fake, announced.append) for name, fake in {"one": failing, "two": works}.items()]
    )
    assert isinstance(tracker, Tracker)
    tracker.start({}, {"off": "id of an earlier session"}, 0)
    for step in (5, 10, 15):
        tracker.log(step, {"loss": 1.0})
        time.sleep(TIMEOUT / 2)
    assert tracker.accepts(Image)
    tracker.finish(0)
    assert [call[1] for call in works.calls if call[0] == "log"] == [5, 10, 15]
    assert len([line for line in announced if "refused" in line]) == 1
    assert tracker.ids == {"off": "id of an earlier session", "one": "new id", "two": "new id"}
    assert set(tracker.describe()) == {"one", "two"}


def test_a_warning_of_the_client_is_announced_at_the_end() -> None:
    backend, announced = FakeBackend(), []
    tracker = BackgroundTracker("fake", backend, announced.append)
    tracker.start({}, {}, 0)
    backend.warning = "a file was not sent"
    tracker.finish(0)
    assert announced[1:] == ["Fake warned: a file was not sent; metrics.jsonl has all figures; try again"]


def test_the_queue_is_bounded() -> None:
    began, resume, made = threading.Event(), threading.Event(), []

    def hang() -> None:
        began.set()
        resume.wait()

    worker = Worker(last=lambda: made.append("last"))
    assert worker.put(hang)
    assert began.wait(60)
    put = 0
    while worker.put(lambda: made.append(1), size=2**20):
        put += 1
        assert put < 100
    assert put > 50
    assert worker.is_stuck(1e-9)
    assert not worker.is_stuck(60.0)
    worker.close()
    assert not worker.join(0.01)
    resume.set()
    assert worker.join(60.0)
    assert made == [*[1] * put, "last"]


def test_off_is_a_tracker() -> None:
    tracker = NoTracker()
    assert isinstance(tracker, Tracker)
    tracker.start({}, {"wandb": "an id"}, 10)
    tracker.log(15, {"loss": 1.0})
    tracker.finish(0)
    assert tracker.ids == {"wandb": "an id"}  # a later session may turn it on again
    assert tracker.describe() == {}


@pytest.mark.parametrize("faults", [{}, {"log": OSError("refused")}, {"close": "hangs uninterruptibly"}], ids=str)
def test_a_new_tracker_is_one_line_of_the_table(
    faults: dict[str, Any],
    flags: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    backend = FakeBackend(**faults)
    assert isinstance(backend, Backend)
    monkeypatch.setitem(trackers.TRACKERS, "wandb", lambda config, accelerator, folder: backend)
    folder = RunFolder(tmp_path / "run")
    assert train_here(flags(folder.path, "--train.steps", "20")) == 0
    backend.ended.set()
    assert [row["step"] for row in figures(folder)] == [5, 10, 15, 20]
    assert read_json(folder.environment)["trackers"]["wandb"]["mode"] == "online"
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Fake")]
    assert len(lines) == (2 if faults else 1)
    if "log" not in faults:
        sent = [call[2] for call in backend.calls if call[0] == "log"]
        for values, row in zip(sent, read_json_lines(folder.metrics), strict=True):
            assert values.items() >= row.items()
        pictures = [call[1:3] for call in backend.calls if call[0] == "log_media"]
        samples = [(10, "samples"), (20, "samples")]
        assert pictures == [(0, "real images"), *samples, (20, "panel"), (20, "curves")]
