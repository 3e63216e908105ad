"""Images that are stored on the device as uint8 and fetched a whole batch at a time."""

from __future__ import annotations

from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from gan_dist.data.pixels import normalize, stack_channels


class ResidentImages(Dataset[Tensor]):
    """A data set that lies on the device, so that a batch is one gather and one conversion there.

    An index may be one of an image, or a row of them: then these become the channels of one image.

    Args:
        images: uint8 (n, C, H, W), on the device where the networks are.
    """

    def __init__(self, images: UInt8[Tensor, "n c h w"]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Float[Tensor, "c h w"]:
        return normalize(self.images[index])

    def __getitems__(self, indices: Int[Tensor, "b ..."]) -> Float[Tensor, "b channels h w"]:
        """A whole batch: DataLoader calls this instead of `__getitem__` image by image."""
        return normalize(
            stack_channels(self.images.index_select(0, indices.flatten()), indices.numel() // len(indices))
        )
