"""Train GANs on MNIST and its kin, over any number of processes, with one result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gan_dist.results.generate import load_generator

__all__ = ["load_generator"]


def __getattr__(name: str) -> Any:
    # On demand: `gan-dist --help` and a typing error must not wait for torch.
    if name == "load_generator":
        from gan_dist.results.generate import load_generator

        return load_generator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
