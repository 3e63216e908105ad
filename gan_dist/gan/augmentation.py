"""Augmentation of the images that the discriminator sees, real and generated alike.

The transformations are those of DiffAugment (Zhao et al. 2020, arXiv:2006.10738) and horizontal flips. Each is applied
with a probability p (Karras et al. 2020, arXiv:2006.06676). They are affine functions of the image, so gradients of any
order flow through them.

Why the generator does not learn to augment: D compares augmented real images with augmented generated ones, so the loss
only requires both distributions to be equal after the augmentation. If a transformation that replaces the distribution
x by A x is applied with probability p, D sees (1 - p) x + p A x. Wherever this map can be inverted, equal augmented
distributions imply equal original ones, and an augmented image is not required from the generator (section 2.2 and
appendix C of Karras et al.). It cannot be inverted only if -(1 - p) / p is an eigenvalue of A, which is an average and
has none outside of the unit circle:

- for p < 1/2 it can always be inverted, whatever the transformation;
- flips, drawn with probability 1/2, and squares of a constant value are projections that commute: all eigenvalues of
  their average are in [0, 1], so every p < 1 works;
- translations with a border that no image of the data has: what is seen without a border is the original distribution
  itself, so every p works;
- uniform brightnesses average over a window, whose Fourier transform is at least -0.22: p < 0.82.

Karras et al. consider leaks unlikely in practice below 0.8, which is therefore the highest adaptive probability.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gan_dist.gan.latents import Draws, RandomBatch

Images = Float[Tensor, "n c h w"]
Numbers = Float[Tensor, "n transformations 4"]
"""Uniform in [0, 1). The first of each transformation decides whether it is applied, the others are its parameters."""
AugmentationNumbers = Float[Tensor, "n 2 transformations 4"]
"""Those of the real images, [:, 0], and of the generated ones, [:, 1], which are independent of them."""

NUMBERS = 4
REACH = 8  # translations are by up to the 8th part of a side


def colour(images: Images, applied: Bool[Tensor, " n"], numbers: Float[Tensor, "n 3"]) -> Images:
    """Brightness + U(-0.5, 0.5), saturation x U(0, 2) and contrast x U(0.5, 1.5), in units of the range [-1, 1].

    The saturation scales the distance of each pixel from the mean of its channels, and the contrast that from the mean
    of the image. Grey images have no saturation. Values outside of [-1, 1] are kept: clamping has no gradient.
    """
    amounts = torch.where(applied[:, None], numbers - 0.5, 0.0).to(images.dtype)
    brightness, saturation, contrast = amounts[:, :, None, None, None].unbind(1)  # (n, 1, 1, 1) each
    images = images + brightness
    if images.shape[1] > 1:
        images = images + 2 * saturation * (images - images.mean(1, keepdim=True))
    return images + contrast * (images - images.mean((1, 2, 3), keepdim=True))


def translation(images: Images, applied: Bool[Tensor, " n"], numbers: Float[Tensor, "n 3"]) -> Images:
    """Move the image by up to 1/8 of its sides, in whole pixels; 0, the middle of the range, fills the border.

    The fill shows D which images were moved. A background value, such as MNIST's -1, would hide it: a digit that the
    generator puts off the center would look like a real one that was moved. With the nearest pixels as fill, 3.7 % of
    the generated digits were off the center (docs/augmentation.md).

    The image is multiplied with one-hot matrices. Their backward passes are matrix products too, so they are
    deterministic on every device.
    """
    rows, columns = (
        _selection(side, applied, amount).to(images.dtype)
        for side, amount in zip(images.shape[2:], numbers[:, :2].unbind(1), strict=True)
    )
    return rows[:, None] @ images @ columns[:, None].mT


def cutout(images: Images, applied: Bool[Tensor, " n"], numbers: Float[Tensor, "n 3"]) -> Images:
    """Set a square with half the sides to 0; its center is anywhere in the image.

    0 is the middle of the range, as in both papers. A background value would make a stroke look interrupted.
    """
    height, width = (
        _inside(side, amount) for side, amount in zip(images.shape[2:], numbers[:, :2].unbind(1), strict=True)
    )
    square = applied[:, None, None] & height[:, :, None] & width[:, None, :]
    return images.masked_fill(square[:, None], 0.0)


def flip(images: Images, applied: Bool[Tensor, " n"], numbers: Float[Tensor, "n 3"]) -> Images:
    """Flip the image horizontally with probability 1/2."""
    flipped = applied & (numbers[:, 0] < 0.5)
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


Transformation = Callable[[Images, Bool[Tensor, " n"], Float[Tensor, "n 3"]], Images]
"""(images, whether it is applied to each, uniform numbers) -> images. Those that it is not applied to stay the same."""

# In the order in which they are applied. A new transformation is a function and a line.
TRANSFORMATIONS: dict[str, Transformation] = {
    "colour": colour,
    "translation": translation,
    "cutout": cutout,
    "flip": flip,
}


@runtime_checkable
class Augmentation(Protocol):
    """Augments the images of a step."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of what `statistics` returns."""

    def draw(self, purpose: str) -> AugmentationNumbers | None:
        """Random numbers for this rank's real and generated images.

        Args:
            purpose: such as "discriminator".
        """

    def __call__(self, images: Images, numbers: Numbers | None) -> Images:
        """The images as D sees them. Labels do not change."""

    def statistics(
        self, real_logits: Float[Tensor, " n"], fake_logits: Float[Tensor, " n"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Figures of the discriminator's step that steer the probability."""


class NoAugmentation:
    """D sees the images as they are."""

    figures: tuple[str, ...] = ()

    def draw(self, purpose: str) -> None:
        return None

    def __call__(self, images: Images, numbers: Numbers | None) -> Images:
        return images

    def statistics(
        self, real_logits: Float[Tensor, " n"], fake_logits: Float[Tensor, " n"]
    ) -> dict[str, Float[Tensor, ""]]:
        return {}


NO_AUGMENTATION = NoAugmentation()


class RandomAugmentation(RandomBatch):
    """Applies each of several transformations with a probability, independently of the others.

    Args:
        names: keys of TRANSFORMATIONS.
        probability: of each; a tensor that may be changed in place between steps.
        adaptive: whether the probability is steered.
        draws: the source of the numbers.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        probability: Float[Tensor, ""],
        adaptive: bool,
        draws: Draws,
    ) -> None:
        super().__init__(draws, 2, len(names), NUMBERS)
        self.transformations = [function for name, function in TRANSFORMATIONS.items() if name in names]
        self.probability = probability
        self.figures = (OVERFITTING,) if adaptive else ()

    def draw(self, purpose: str) -> AugmentationNumbers:
        """Valid until the next call."""
        return self.uniform(f"{purpose}/augmentation")

    def __call__(self, images: Images, numbers: Numbers | None) -> Images:
        assert numbers is not None
        applied = numbers[:, :, 0] < self.probability
        for transform, where, drawn in zip(
            self.transformations, applied.unbind(1), numbers[:, :, 1:].unbind(1), strict=True
        ):
            images = transform(images, where, drawn)
        return images

    def statistics(
        self, real_logits: Float[Tensor, " n"], fake_logits: Float[Tensor, " n"]
    ) -> dict[str, Float[Tensor, ""]]:
        return {OVERFITTING: overfitting(real_logits, fake_logits)} if self.figures else {}


OVERFITTING = "augment/overfitting"


def overfitting(real_logits: Float[Tensor, " n"], fake_logits: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """E sign(D(x) - D(G(z))): 0 for a D that cannot tell them apart, 1 for one that always can.

    The heuristic r_t of Karras et al. (equation 1) is E sign(D(x)). The difference to a generated image does not depend
    on where the loss puts the boundary, which relativistic and Wasserstein losses leave open.
    """
    return (real_logits - fake_logits).sign().mean()


def _whole(numbers: Float[Tensor, " n"], count: int) -> Float[Tensor, " n"]:
    """Uniform numbers in [0, 1) to whole ones from 0 to count - 1."""
    return (numbers * count).floor().clamp(max=count - 1)  # the product may be rounded up to count


def _selection(side: int, applied: Bool[Tensor, " n"], amount: Float[Tensor, " n"]) -> Bool[Tensor, "n side side"]:
    """For each image and each row, or column, of the result: which one of the image it shows, if any."""
    reach = max(1, side // REACH)
    shift = torch.where(applied, _whole(amount, 2 * reach + 1) - reach, 0.0)
    positions = torch.arange(side, device=amount.device)
    source = positions - shift[:, None]
    return source[:, :, None] == positions


def _inside(side: int, amount: Float[Tensor, " n"]) -> Bool[Tensor, "n side"]:
    """Which rows, or columns, a segment of half the side covers, whose center is anywhere in the side."""
    length = (side + 1) // 2
    first = _whole(amount, side + 1 - length % 2) - length // 2
    distance = torch.arange(side, device=amount.device) - first[:, None]
    return (distance >= 0) & (distance < length)
