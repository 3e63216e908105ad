"""Random numbers as a function of (seed, purpose, index)."""

from __future__ import annotations

import pytest
import torch

from gan_dist.seeding import LATENT_BLOCK, sample_latents


@pytest.mark.parametrize("latent_dim", [1, 5, 64])
def test_the_first_latents_are_the_same_whatever_is_asked_for_beyond(latent_dim: int) -> None:
    many = sample_latents(2 * LATENT_BLOCK + 7, latent_dim, seed=3)
    for count in (0, 1, 2, 17, LATENT_BLOCK - 1, LATENT_BLOCK, LATENT_BLOCK + 1, len(many)):
        few = sample_latents(count, latent_dim, seed=3)
        assert few.shape == (count, latent_dim)
        assert torch.equal(few, many[:count])
    assert len(many.unique(dim=0)) == len(many)
    assert many.mean().item() == pytest.approx(0, abs=0.2)
    assert many.std().item() == pytest.approx(1, abs=0.2)
    assert not torch.equal(many, sample_latents(len(many), latent_dim, seed=4))
    assert not torch.equal(many, sample_latents(len(many), latent_dim, seed=3, purpose="fixed"))
