"""Random noise in the images whose latents a generator sees in its training, while it draws the images without it.

A generator that knows how latents move that mean the same takes less of that for vulnerability. On a network that
random noise itself turns it would hide where.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interpretgan.attacks.noise import varied_noise
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSource

GREY_NOISE = 0.3  # the largest where nothing is said and images are grey, as a share of the bounds,
MOVED = 0.1  # unless it changes the predictions of more than this share of images
TRIED_IMAGES = 512  # that are tried for that, each more than once where there are fewer,
TRIED_PIXELS = 2**22  # so many pixels at a time


def usual_noise(classifier: Classifier, images: ImageSource) -> float:
    """The largest noise where nothing is said, as a share of the bounds; every seed of a generator has the same."""
    random = torch.Generator().manual_seed(0)
    one, _ = images.batch(torch.tensor([0]))
    if one.shape[1] > 1:  # on images with colour it was not tried
        return 0.0
    changed, size = list[Tensor](), GREY_NOISE * (classifier.bounds[1] - classifier.bounds[0])
    order = torch.randperm(len(images), generator=random)[torch.arange(TRIED_IMAGES) % len(images)]
    for chosen in torch.split(order, max(4, TRIED_PIXELS // one.numel())):
        x = classifier.check_images(images.batch(chosen)[0])
        added = varied_noise(x.shape, size, random=random)
        moved = moved_by_noise(classifier, x, added.to(x.device))
        changed.append(moved[added.flatten(1).any(dim=1).to(x.device)])
    return 0.0 if torch.cat(changed).float().mean() > MOVED else GREY_NOISE


@torch.no_grad()
def moved_by_noise(classifier: Classifier, images: Tensor, noise: Tensor) -> Tensor:
    """Which images are classified differently with noise, both `[N, C, H, W]`: `[N]`."""
    noisy = (images + noise).clamp(*classifier.bounds)
    moved: Tensor = classifier(noisy).argmax(dim=1) != classifier(images).argmax(dim=1)
    return moved


def with_noise(classifier: Classifier, images: Tensor, noise: Tensor) -> Tensor:
    """Images with noise, both `[N, C, H, W]`, and those without it that would be classified differently."""
    moved = moved_by_noise(classifier, images, noise).view(-1, 1, 1, 1)
    return torch.where(moved, images, (images + noise).clamp(*classifier.bounds))
