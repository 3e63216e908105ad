"""The backend of TensorBoard: event files in the run folder.

Uses torch's writer: Accelerate's would store the configuration in a folder of its own, which TensorBoard takes for
another run.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image as Picture

from gan_dist.config import Config
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.trackers.background import Backend, Opened
from gan_dist.outputs.trackers.media import Histogram, Image, Media, Table


def make_tensorboard(config: Config, accelerator: Accelerator, folder: RunFolder) -> Backend | None:
    """Returns the backend."""
    return TensorBoardBackend(folder.tensorboard)


class TensorBoardBackend:
    """TensorBoard. Every call ends with a flush, so a killed process loses nothing that it has logged.

    Args:
        folder: of the event files.
    """

    title = "TensorBoard"
    timeout = 30.0
    timeout_field = "the limit of TensorBoard"
    warning: str | None = None
    media: tuple[type, ...] = (Image, Histogram, Table)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def load(self) -> None:
        import torch.utils.tensorboard  # noqa: F401, here because the package may not be installed

    def modes(self) -> Sequence[str]:
        return ("file",)

    def open(self, mode: str, run_config: dict[str, Any], resume_id: str | None) -> Opened:
        from torch.utils.tensorboard import SummaryWriter

        received = max(_recorded_steps(self.folder), default=0)
        self._writer = SummaryWriter(str(self.folder))
        self._writer.add_text("config", f"```\n{json.dumps(run_config, indent=1)}\n```", received)
        self._writer.flush()
        return Opened(self.folder.name, f"TensorBoard: tensorboard --logdir {self.folder.parent}", received)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, int | float) and name != "step":
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def log_media(self, step: int, name: str, media: Media) -> None:
        match media:
            case Image(png):
                with Picture.open(io.BytesIO(png)) as picture:
                    self._writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
            case Histogram(counts, edges):
                middles = (np.asarray(edges[1:]) + np.asarray(edges[:-1])) / 2
                moments = [float((np.asarray(counts) * middles**power).sum()) for power in (1, 2)]
                bounds = {"min": edges[0], "max": edges[-1], "num": sum(counts)}
                limits = {"bucket_limits": list(edges[1:]), "bucket_counts": list(counts)}
                self._writer.add_histogram_raw(
                    name, **bounds, sum=moments[0], sum_squares=moments[1], **limits, global_step=step
                )
            case Table(columns, rows):
                self._writer.add_text(name, _markdown(columns, rows), step)
        self._writer.flush()

    def alert(self, step: int, title: str, text: str) -> None:
        self._writer.add_text(f"alerts/{title}", text, step)
        self._writer.flush()

    def close(self, exit_code: int) -> None:
        if self._writer is not None:
            self._writer.close()

    def interrupt(self) -> None: ...

    def advice(self) -> str:
        return ""


def _recorded_steps(folder: Path) -> Iterator[int]:
    """The steps of the events of earlier sessions, up to the first damage of each file."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    for file in sorted(folder.glob("events.out.tfevents.*")):
        try:
            for event in LegacyEventFileLoader(str(file)).Load():
                yield int(event.step)
        except Exception:  # the reader's errors are not documented
            continue


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
