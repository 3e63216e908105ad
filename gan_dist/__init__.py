"""Train GANs on MNIST and similar data sets on any number of processes, with the same result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gan_dist.results.generator import load_generator

__all__ = ["load_generator"]


def __getattr__(name: str) -> Any:
    # Imported on demand: `gan-dist --help` and error messages must not wait for torch.
    if name == "load_generator":
        from gan_dist.results.generator import load_generator

        return load_generator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
