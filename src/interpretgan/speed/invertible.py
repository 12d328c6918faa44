"""An invertible network as the decoder of a layer, in the manner of Rombach et al. 2020 (arXiv 2008.01777).

An autoencoder, one for all layers, makes a code of an image. For each layer an invertible network maps codes to
residuals, given the latent. Where a residual is drawn, mapped back and decoded, an image of that latent comes out.
Sizes of code, blocks and batch, and the number of steps, are those that were published for AlexNet's `fc6`.
"""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError
from interpretgan.gan.generator import Stem, coarse_grid
from interpretgan.layers import Layer, capture
from interpretgan.speed.one_by_one import NOISE, AloneGenerator, strided
from interpretgan.store.machine import wait_for

CODE = 128  # numbers of the autoencoder's code
BLOCKS = 20  # of the invertible network, each of four networks
HIDDEN = (1024, 1024, 1024)  # with hidden layers of so many units
BATCH, STEPS = 16, 250_000  # images a step, and steps
RATE = 1e-4  # of Adam; it does not change what a step costs


def train_invertible(
    classifier: Classifier, layer: Layer, images: Tensor, *, steps: int, seed: int
) -> dict[str, float]:
    """Train for one layer, on images `[N, C, H, W]`, and explain a batch of them.

    The likelihood of codes given latents is maximised; the autoencoder has random weights.

    Returns:
        `step_seconds` of the fastest step, `image_seconds` of an explanation.

    Raises:
        ConfigError: FrEIA, which has the coupling blocks, is not installed.
    """
    device, (channels, height, wide) = images.device, images.shape[1:]
    x = images[torch.arange(BATCH, device=device) % len(images)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = _coupling_blocks(seed).to(device)
        stem = Stem(layer.shape, (coarse_grid(height), coarse_grid(wide)), CODE, proportions=height / wide)
        embed = nn.Sequential(stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CODE, CODE)).to(device)
        encode = strided((channels, height, wide), CODE).to(device).eval()
        code = Layer("code", "code", 1, "Linear", (CODE,))
        decode = AloneGenerator(code, (channels, height, wide), classifier.bounds).to(device).eval()
        drawn, noise = (torch.randn(BATCH, size).to(device) for size in (CODE, NOISE))
    adam = torch.optim.Adam([*embed.parameters(), *flow.parameters()], lr=RATE, fused=True)
    seconds = math.inf
    for _ in range(steps):
        began = time.perf_counter()
        with torch.no_grad():
            codes, latents = encode(x), capture(classifier, x, [layer])[1]
        residuals, log_volume = flow(codes, c=[embed(latents[layer.name])])
        loss = (residuals.square().sum(dim=1) / 2 - log_volume).mean()
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()
        wait_for(str(device))
        seconds = min(seconds, time.perf_counter() - began)
    began = time.perf_counter()
    with torch.no_grad():
        given = embed(capture(classifier, x, [layer])[1][layer.name])
        decode(flow(drawn, c=[given], rev=True)[0], noise)
    wait_for(str(device))
    return {"step_seconds": seconds, "image_seconds": (time.perf_counter() - began) / BATCH}


def _coupling_blocks(seed: int) -> nn.Module:
    try:
        from FrEIA.framework import SequenceINN
        from FrEIA.modules import ActNorm, PermuteRandom, RNVPCouplingBlock
    except ImportError as error:
        expected, do = "FrEIA, for an invertible network", "pip install '.[freia]' in a clone, to measure it"
        raise ConfigError(expected=expected, got="none", do=do) from error

    def one(inputs: int, outputs: int) -> nn.Sequential:
        sizes = (inputs, *HIDDEN)
        layers = [(nn.Linear(*pair), nn.LeakyReLU()) for pair in itertools.pairwise(sizes)]
        return nn.Sequential(*itertools.chain(*layers), nn.Linear(sizes[-1], outputs))

    network: Any = SequenceINN(CODE)
    for block in range(BLOCKS):
        network.append(ActNorm)
        network.append(RNVPCouplingBlock, cond=0, cond_shape=(CODE,), subnet_constructor=one)
        network.append(PermuteRandom, seed=seed + block)
    module: nn.Module = network
    return module
