"""Images that wait on the GPU that uses them, so that no step of a training waits for the CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from interpretgan.data.sources import ImageSet, ImageSource

MOST = 0.25  # of the free memory of a GPU is given to images that are kept on it


class ImagesOnDevice:
    """An `ImageSource` over a copy of an `ImageSet` on a device: bytes stay bytes until they are in a batch."""

    def __init__(self, images: ImageSet, device: torch.device) -> None:
        self.device, self._scaled = device, images.in_bounds
        self.pixels = torch.from_numpy(np.array(images.images)).to(device)
        self.labels = torch.from_numpy(images.labels).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[n, C, H, W]` and labels `[n]` at the indices, on the device."""
        chosen = sent(indices, self.device)
        return self._scaled(self.pixels[chosen].to(torch.float32)), self.labels[chosen]


def near(images: ImageSource, device: torch.device) -> ImageSource:
    """The same images, on the device where that is a GPU with room for them; else as they are."""
    if device.type == "cuda" and isinstance(images, ImageSet):
        free, _ = torch.cuda.mem_get_info(device)
        if images.images.nbytes <= MOST * free:
            return ImagesOnDevice(images, device)
    return images


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device. Where that is a GPU, what it does meanwhile is not waited for."""
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
