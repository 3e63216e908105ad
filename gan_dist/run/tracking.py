"""Weights & Biases, when it works. Rank 0 only."""

from __future__ import annotations

import netrc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from accelerate import Accelerator

from gan_dist.config import WandbConfig
from gan_dist.run.folder import RunFolder


class WandbTracker:
    """Weights & Biases through Accelerate's tracker. Whatever fails in it ends the tracking, never the run.

    Args:
        accelerator: its trackers are used; its rank must be 0.
        config: what the user wants.
        folder: W&B's own files go to its wandb/.
        announce: called with one line for whatever the user should know.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        config: WandbConfig,
        folder: RunFolder,
        announce: Callable[[str], None],
    ) -> None:
        self.accelerator = accelerator
        self.config = config
        self.folder = folder
        self.announce = announce
        self.mode = "disabled"
        self.id: str | None = None
        self.logged_through = 0

    def start(self, run_config: dict[str, Any], resume_id: str | None, logged_through: int) -> None:
        """Open the run on the dashboard, or go on with it; offline if there is no key or no server.

        Args:
            run_config: the resolved configuration.
            resume_id: the W&B run to go on with; None: a new one.
            logged_through: the last step that this run was sent already; those up to it are not sent again.
        """
        wanted: str = self.config.mode
        if wanted == "auto":
            wanted = os.environ.get("WANDB_MODE") or ("online" if has_api_key() else "offline")
        self.logged_through = logged_through if resume_id else 0
        if wanted == "disabled":
            return
        for mode in ("online", "offline") if wanted == "online" else (wanted,):
            if self._open(mode, run_config, resume_id):
                return

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Send a step's figures; they are plotted over train/step."""
        self._send(step, lambda: dict(values))

    def alert(self, title: str, text: str) -> None:
        """Tell whoever watches the dashboard."""
        if self.mode != "disabled":
            try:
                self.accelerator.get_tracker("wandb", unwrap=True).alert(title=title, text=text)
            except Exception as error:
                self._give_up("alert", error)

    def log_samples(self, step: int, picture: Path) -> None:
        """Send the grid of generated images of a step."""

        def values() -> dict[str, Any]:
            import wandb  # only where it is used: it takes a second

            return {"samples": wandb.Image(str(picture), file_type="png")}

        self._send(step, values)

    def finish(self, exit_code: int) -> None:
        """Flush what is still under way, for at most the configured time. Calling it again does nothing."""
        if self.mode == "disabled":
            return
        try:
            self.accelerator.get_tracker("wandb", unwrap=True).finish(exit_code=exit_code)
        except Exception as error:
            self._give_up("could not be finished", error)
        self.mode = "disabled"

    def describe(self) -> dict[str, Any]:
        """What environment.json says of it."""
        return {"mode": self.mode, "id": self.id, "logged_through": self.logged_through}

    def _open(self, mode: str, run_config: dict[str, Any], resume_id: str | None) -> bool:
        import wandb

        try:
            self.accelerator.init_trackers(
                self.config.project,
                config=run_config,
                init_kwargs={
                    "wandb": {
                        "mode": mode,
                        "name": self.config.name or self.folder.path.absolute().name,
                        "dir": str(self.folder.path),
                        "id": resume_id,
                        "resume": "allow" if resume_id else None,
                        # silent: no prompts and no banners; we say the one line that matters.
                        "settings": wandb.Settings(
                            silent=True,
                            console="off",
                            init_timeout=self.config.timeout,
                            finish_timeout=self.config.timeout,
                        ),
                    }
                },
            )
            run = self.accelerator.get_tracker("wandb", unwrap=True)
            run.define_metric("train/step")
            run.define_metric("*", step_metric="train/step")
        except Exception as error:  # whatever W&B, the network or the disk does: the run goes on
            self.accelerator.trackers = []
            self.announce(f"W&B {mode} is not to be had ({_first_line(error)})")
            wandb.teardown()  # without it a second try in this process fails as the first did
            return False
        self.mode, self.id = mode, run.id
        if mode == "online":
            self.announce(f"W&B: {run.url}")
        else:
            self.announce(f"W&B is offline; to see this run on the dashboard: wandb sync {run.sync_dir}")
        return True

    def _send(self, step: int, values: Callable[[], dict[str, Any]]) -> None:
        if self.mode == "disabled" or step <= self.logged_through:
            return
        try:
            known = {name: value for name, value in values().items() if value is not None}
            self.accelerator.log({"train/step": step, **known})
        except Exception as error:
            self._give_up("failed and is off from here on; metrics.jsonl goes on", error)

    def _give_up(self, what: str, error: Exception) -> None:
        self.announce(f"W&B {what} ({_first_line(error)})")
        self.mode = "disabled"


def has_api_key() -> bool:
    """Whether W&B could log in without asking anybody: a key in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb

    try:
        host = urlsplit(wandb.setup().settings.base_url).hostname
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host or "") is not None
    except Exception:  # no such file, a damaged one, settings that W&B refuses: then there is no key
        return False


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
