"""R1 and R2 from differences of logits instead of gradients: no backward pass through a backward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

from jaxtyping import Float
from torch import Tensor

from gan_dist.data.batch import Batch
from gan_dist.gan.augmentation import NO_AUGMENTATION, Augmentation
from gan_dist.gan.latents import RandomBatch
from gan_dist.gan.losses import Logits, Scalar
from gan_dist.gan.penalties import CriticOutput, Discriminator, augmented, joined, zero_centered_figures

# Length of a step, in units of the range [-1, 1]. Rounding errors of logits are about 1e-7, so a difference has a
# relative error of about 1e-5, and the curvature of D changes it by little.
STEP = 0.01


class Directions(RandomBatch):
    """Draws this rank's share of a step's random directions: one for each real and each generated image."""

    def __call__(self) -> Float[Tensor, "n 2 c h w"]:
        """Returns standard normal numbers, those of the real images first; valid until the next call."""
        return self.normal("directions")


def squared_slopes(logits: Logits, moved_logits: Logits) -> Scalar:
    """Half the mean of ((D(x + e n) - D(x)) / e)^2.

    For standard normal n and small e, its expectation is E ||grad D(x)||^2 / 2: the square of the directional
    derivative n . g has the expectation ||g||^2.
    """
    return ((moved_logits - logits) / STEP).square().mean() / 2


@dataclass(frozen=True)
class FirstOrderPenalty:
    """R1 and R2 as `ZeroCenteredPenalty` has them, estimated from one random direction for each image.

    The images and the moved ones have the same augmentation, labels and weights. All logits are computed in one pass.

    Args:
        discriminator: D in fp32; half precision is too coarse for small differences.
        r1, r2, factor, augmentation: as in `ZeroCenteredPenalty`.
        directions: () -> the step's standard normal numbers, (n, 2, C, H, W).
    """

    discriminator: Discriminator
    r1: float
    r2: float
    factor: Scalar
    directions: Callable[[], Float[Tensor, "n 2 c h w"]]
    augmentation: Augmentation = NO_AUGMENTATION

    @property
    def figures(self) -> tuple[str, ...]:
        return zero_centered_figures(self.r1, self.r2)

    def draw(self) -> tuple[Tensor, ...]:
        return (self.directions(),)

    def __call__(self, real: Batch, fake: Batch, *drawn: Tensor) -> CriticOutput:
        fake = fake._replace(images=fake.images.float())
        batches, gammas = (real, fake), (self.r1, self.r2)
        penalized = [which for which in (0, 1) if gammas[which]]
        moved = [
            batches[which]._replace(images=batches[which].images + STEP * drawn[0][:, which]) for which in penalized
        ]
        whole = reduce(joined, [*batches, *moved])
        logits = augmented(self.discriminator, self.augmentation)(whole).split(len(real.images))
        penalty, figures = real.images.new_zeros(()), {}
        for name, which, moved_logits in zip(self.figures, penalized, logits[2:], strict=True):
            value = squared_slopes(logits[which], moved_logits)
            penalty, figures[name] = penalty + gammas[which] * value, value.detach()
        return CriticOutput(logits[0], logits[1], self.factor * penalty, figures)
