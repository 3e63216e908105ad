"""The truncation trick: less varied images, of which more look good."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def truncate(latents: Float[Tensor, "*shape"], threshold: float) -> Float[Tensor, "*shape"]:
    """Standard normal numbers to numbers of the normal distribution truncated to [-threshold, threshold].

    Brock et al. 2019 (arXiv:1809.11096, section 3.1) draw numbers outside of the interval again. Here each number is
    mapped by the inverse of the truncated distribution function, F^-1(a + (1 - 2a) F(z)) with a = F(-threshold), which
    gives the same distribution. The result is a function of z, so an image changes gradually with the threshold, and
    the number of draws is known.

    The interpolation towards a mean latent (Karras et al. 2019, arXiv:1812.04948, section B) is made for networks that
    map the latent first. Without one, it would only shorten the latents.
    """
    outside = torch.special.ndtr(torch.tensor(-threshold, dtype=torch.float64, device=latents.device))
    inside = outside + (1 - 2 * outside) * torch.special.ndtr(latents.double())
    return torch.special.ndtri(inside).clamp(-threshold, threshold).to(latents.dtype)
