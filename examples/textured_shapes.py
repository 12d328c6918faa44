"""Draws a folder of images to try the package on: ten textured shapes on backgrounds like those of photographs.

python -m examples.textured_shapes runs/shapes --side 128 --train 300 --test 60

writes `runs/shapes/train/CLASS/*.png` and `runs/shapes/test/CLASS/*.png`, so many of each class. A background is smooth
noise as photographs have it (its amplitude falls with the frequency), in two colours. Neither place, size, angle,
colour nor texture tells the class: only the outline does.

`--model examples.textured_shapes:make_resnet` is a network that learns them, and `--judge
examples.textured_shapes:make_judge` a judge that costs the same at any size of these images.
"""

from __future__ import annotations

import argparse
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from interpretgan.models import build_model

Array = NDArray[np.float64]
Inside = Callable[[Array, Array], NDArray[np.bool_]]

JUDGED = 64  # pixels a side that the judge sees: explanations have no finer detail


def _polygon(corners: int, depth: float = 1.0) -> Inside:
    """A regular polygon; with `depth` below 1 a star whose inner corners are drawn in to that share of the radius."""
    count = corners if depth == 1 else 2 * corners
    angle = 2 * np.pi * np.arange(count) / count
    radius = np.where(np.arange(count) % 2, depth, 1.0) if depth < 1 else np.ones(count)
    xs, ys = radius * np.cos(angle), radius * np.sin(angle)

    def inside(x: Array, y: Array) -> NDArray[np.bool_]:
        crossings = np.zeros(x.shape, dtype=bool)
        for i in range(count):
            x0, y0, x1, y1 = xs[i - 1], ys[i - 1], xs[i], ys[i]
            crossings ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0 + 1e-12) + x0)
        return crossings

    return inside


SHAPES: dict[str, Inside] = {
    "bar": lambda x, y: (abs(x) < 1) & (abs(y) < 0.25),
    "cross": lambda x, y: (abs(x) < 0.95) & (abs(y) < 0.27) | (abs(y) < 0.95) & (abs(x) < 0.27),
    "disc": lambda x, y: x**2 + y**2 < 0.8,
    "half": lambda x, y: (x**2 + y**2 < 1) & (x > 0),
    "hexagram": _polygon(6, 0.5),
    "moon": lambda x, y: (x**2 + y**2 < 1) & ((x - 0.5) ** 2 + y**2 > 0.6),
    "ring": lambda x, y: (x**2 + y**2 < 1) & (x**2 + y**2 > 0.3),
    "square": _polygon(4),
    "star": _polygon(5, 0.4),
    "triangle": _polygon(3),
}


def smooth_noise(random: np.random.Generator, side: int, slope: float) -> Array:
    """`[side, side]` in [0, 1]: Gaussian noise whose amplitude falls with the frequency to the power of `slope`."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    spectrum = random.normal(size=frequency.shape) + 1j * random.normal(size=frequency.shape)
    noise = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / side) ** slope, s=(side, side))
    lowest, highest = np.percentile(noise, (1, 99))
    return np.asarray(np.clip((noise - lowest) / (highest - lowest), 0, 1))


def texture(random: np.random.Generator, side: int) -> Array:
    """`[side, side]` in [0, 1]: stripes, checks, dots or grain, at a random angle and scale."""
    y, x = np.mgrid[0:side, 0:side] / side
    angle, cycles = random.uniform(0, np.pi), random.uniform(6, 14)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    waves_u, waves_v = np.sin(2 * np.pi * cycles * u), np.sin(2 * np.pi * cycles * v)
    kinds = (waves_u > 0, waves_u * waves_v > 0, (waves_u > 0.3) & (waves_v > 0.3), smooth_noise(random, side, 0.5))
    return np.asarray(kinds[random.integers(len(kinds))], dtype=np.float64)


def draw(shape: Inside, random: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """One image `[side, side, 3]`."""

    def coloured(values: Array, contrast: float) -> Array:
        first = random.uniform(0, 1, 3)
        second = np.clip(first + random.choice([-1, 1], 3) * random.uniform(0.3, 1, 3) * contrast, 0, 1)
        return np.asarray(values[..., None] * first + (1 - values[..., None]) * second)

    y, x = np.mgrid[0:side, 0:side] / side * 2 - 1
    radius, angle = random.uniform(0.4, 0.75), random.uniform(0, 2 * np.pi)
    x, y = x - random.uniform(-0.9, 0.9) * (1 - radius), y - random.uniform(-0.9, 0.9) * (1 - radius)
    u, v = (x * np.cos(angle) + y * np.sin(angle)) / radius, (y * np.cos(angle) - x * np.sin(angle)) / radius
    inside = shape(u, v)[..., None]
    picture = np.where(inside, coloured(texture(random, side), 0.8), coloured(smooth_noise(random, side, 1.3), 0.5))
    return np.asarray(np.round(255 * picture), dtype=np.uint8)


class BasicBlock(nn.Module):
    """Two convolutions, and a skip around them: the input, or where its size changes a projection of it."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.relu1 = nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample: nn.Module = nn.Identity()
        if (channels, 1) != (out, stride):
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to `[N, C', H / stride, W / stride]`."""
        inner = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(inner + self.downsample(x))
        return out


def make_resnet(in_channels: int, num_classes: int) -> nn.Module:
    """A ResNet-18 (He et al. 2016) of a quarter's width: 700,000 parameters."""
    widths = (16, 32, 64, 128)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(in_channels, widths[0], 7, 2, 3, bias=False), bn1=nn.BatchNorm2d(widths[0]), relu=nn.ReLU(),
        maxpool=nn.MaxPool2d(3, 2, 1),
    )  # fmt: skip
    before = widths[0]
    for number, width in enumerate(widths, 1):
        first = BasicBlock(before, width, 1 if number == 1 else 2)
        layers[f"layer{number}"] = nn.Sequential(first, BasicBlock(width, width, 1))
        before = width
    layers.update(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(before, num_classes))
    return nn.Sequential(layers)


def make_judge(in_channels: int, num_classes: int) -> nn.Module:
    """A narrow VGG-16 on images that are reduced to 64 pixels a side. Nets that pool less hardly learn these shapes."""
    vgg = build_model("vgg16", in_channels=in_channels, num_classes=num_classes, image_size=JUDGED, width=0.25)
    return nn.Sequential(nn.AdaptiveAvgPool2d(JUDGED), vgg)


def write(task: tuple[Path, str, int, list[int]]) -> None:
    """Draw the image of a file and a class at so many pixels a side; the last are the seeds of all that is random."""
    from PIL import Image

    file, name, side, seeds = task
    Image.fromarray(draw(SHAPES[name], np.random.default_rng(seeds), side)).save(file, compress_level=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=128, help="pixels a side")
    parser.add_argument("--train", type=int, default=300, help="training images of each class")
    parser.add_argument("--test", type=int, default=60, help="test images of each class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="that draw beside each other")
    options = parser.parse_args()
    tasks = []
    for split, count in (("train", options.train), ("test", options.test)):
        for label, name in enumerate(SHAPES):
            folder = options.out / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                seeds = [options.seed, int(split == "test"), label, index]
                tasks.append((folder / f"{index:04d}.png", name, options.side, seeds))
    with ProcessPoolExecutor(options.processes) as processes:
        for _ in processes.map(write, tasks, chunksize=20):
            pass
    print(f"{len(SHAPES) * (options.train + options.test)} images of {options.side} pixels a side in {options.out}")


if __name__ == "__main__":
    main()
