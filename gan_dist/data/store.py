"""Images that are stored on the device as uint8 and fetched in whole batches."""

from __future__ import annotations

from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from gan_dist.data.pixels import normalize, stack_channels


class ResidentImages(Dataset[Tensor]):
    """A data set on the device: a batch is one gather and one conversion.

    An index is that of one image, or a row of indices whose images become the channels of one image.

    Args:
        images: on the device of the networks.
    """

    def __init__(self, images: UInt8[Tensor, "n c h w"]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Float[Tensor, "c h w"]:
        return normalize(self.images[index])

    def __getitems__(self, indices: Int[Tensor, "b ..."]) -> Float[Tensor, "b channels h w"]:
        """Returns a whole batch. DataLoader calls this method instead of `__getitem__` for each image."""
        return normalize(
            stack_channels(self.images.index_select(0, indices.flatten()), indices.numel() // len(indices))
        )
