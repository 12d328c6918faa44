from __future__ import annotations

import torch

from interpretgan.baselines.probes import RidgeProbe
from interpretgan.information.probes import RandomMixture


def test_a_ridge_probe_predicts_the_classes_that_a_projection_keeps() -> None:
    random = torch.Generator().manual_seed(5)
    classes = torch.arange(300) % 3
    latents = 40 * torch.eye(3)[classes].repeat(1, 20) + torch.randn(300, 60, generator=random)
    latents[:, 7] = 0.3  # what never moves is no help and no harm
    mixture = RandomMixture(60, 16, random)
    probe = RidgeProbe(mixture(latents[:200]), classes[:200], 3)
    assert torch.equal(probe.predict(mixture(latents[200:])), classes[200:])


def test_a_ridge_probe_is_the_formula_in_double_precision() -> None:
    random = torch.Generator().manual_seed(6)
    features, classes = torch.randn(50, 4, generator=random), torch.arange(50) % 2
    z = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
    wanted = torch.eye(2)[classes].double()
    a = torch.cat([z.double(), 0.5**0.5 * torch.eye(4).double()])  # the penalty as further examples
    b = torch.cat([wanted - wanted.mean(dim=0), torch.zeros(4, 2)])
    expected = z.double() @ torch.linalg.lstsq(a, b).solution + wanted.mean(dim=0)
    assert torch.equal(RidgeProbe(features, classes, 2).predict(features), expected.argmax(dim=1))
