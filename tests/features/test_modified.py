"""Units, conductance and patching, against networks whose answer is known and a slow integral."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import interpretgan as ig
from interpretgan.classifier import Classifier
from interpretgan.errors import ImageError, LayerError, ModelError
from interpretgan.features.activation_patching import ORDERS, tried_sizes
from interpretgan.features.conductance import by_unit, conductance, of_units, rest_of_network
from interpretgan.features.modified import ModifiedFeatures
from interpretgan.layers import capture, examine, replay
from tests.networks import Residual, ReusedReLU


class OneUnitDecides(nn.Module):
    """Class 1 exactly where pixel 0 is above a half; the other pixels move units that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Linear(4, 6)
        self.out = nn.Linear(6, 2)
        with torch.no_grad():
            self.spread.weight.zero_()
            self.spread.weight[2, 0] = 1.0
            self.spread.weight[:, 1:] = 5.0 * (torch.arange(6) != 2)[:, None]
            self.spread.bias.zero_()
            self.out.weight.zero_()
            self.out.weight[1, 2] = 2.0
            self.out.bias.copy_(torch.tensor([1.0, 0.0]))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.out(self.spread(images.flatten(1)))
        return logits


@pytest.fixture(scope="module")
def decided() -> ModifiedFeatures:
    images = torch.rand(40, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    images[:, 0, 0, 0] = 0.2
    adversarial = torch.rand(images.shape, generator=torch.Generator().manual_seed(1))
    adversarial[:, 0, 0, 0] = 0.9
    labels = torch.zeros(40, dtype=torch.int64)
    return ig.modified_features(Classifier(OneUnitDecides()), images, adversarial, labels, layers=["spread"])


def test_the_unit_that_decides_is_found_and_proved(decided: ModifiedFeatures) -> None:
    assert repr(decided) == "ModifiedFeatures(40 images, 40 turned, at spread)"
    (layer,) = decided.layers
    assert decided.turned.all()
    assert {layer.top(image, 1)[0] for image in range(40)} == {2}
    np.testing.assert_allclose(layer.responsibility.sum(axis=1), -layer.margin_change, atol=1e-5)
    np.testing.assert_allclose(layer.responsibility[:, [0, 1, 3, 4, 5]], 0, atol=1e-6)
    proof = layer.patching
    assert proof is not None
    assert proof.tenth == 1
    assert proof.returned["responsible"][:, proof.sizes.index(1)].all()
    assert proof.turned["responsible"][:, proof.sizes.index(1)].all()
    # What moves most is not what decides, and the control of random units can fail.
    for order in ORDERS[1:]:
        share = proof.share(order, 1)
        assert share is not None
        assert share.high < 0.6
    assert set(proof.smallest()) == {1}
    area = proof.faithfulness()
    assert area is not None
    assert 0.3 < area.low <= area.value <= area.high < 0.7


def test_frames_have_a_row_for_all_that_they_promise(decided: ModifiedFeatures) -> None:
    frame = decided.to_frame()
    assert len(frame) == 40 * 6
    assert (frame[frame["rank"] == 1]["unit"] == 2).all()
    assert (frame["responsibility"] == frame["to_shown"] - frame["to_true"]).all()
    often = decided.often("spread")
    assert often.loc[2, (0, 1)] == 1.0
    assert often.to_numpy().sum() == 1.0
    (row,) = decided.patching_frame().to_dict("records")
    assert (row["returned"], row["turned"], row["smallest_median"]) == (1.0, 1.0, 1.0)
    assert len(decided.plot(classes=["low", "high"]).axes) == 3
    with pytest.raises(KeyError):
        decided["conv9"]


@pytest.mark.parametrize("network", [ReusedReLU, Residual])
def test_conductance_is_the_integral_at_every_layer(network: type[nn.Module]) -> None:
    """Reused and in-place layers and residual blocks included, against a sum of 1,500 small steps."""
    torch.manual_seed(0)
    classifier = Classifier(network().eval())
    with torch.no_grad():
        for name, weight in classifier.model.named_parameters():
            weight.mul_(2.5 if name.endswith("weight") else 1)  # else the logits hardly change
    size = 28 if network is ReusedReLU else 12
    images, adversarial = torch.rand(2, 1, size, size), torch.rand(2, 1, size, size)
    logits = classifier.logits(adversarial)
    true, shown = logits.argmin(dim=1), logits.argmax(dim=1)
    layers = examine(classifier, images).distinct
    (_, natural), (_, attacked) = (capture(classifier, x, layers) for x in (images, adversarial))
    for layer in layers[:: 5 if network is ReusedReLU else 3]:
        z, changed = natural[layer.name], attacked[layer.name]
        found = conductance(rest_of_network(classifier, layer, z, images), z, changed, true, shown, tolerance=1e-3)
        assert float(found.error.max()) <= 1e-3
        t = ((torch.arange(1500) + 0.5) / 1500).view(-1, *[1] * (z.ndim - 1))
        points = (z[0] + t * (changed - z)[0]).requires_grad_()
        values = replay(classifier, layer, points, images[:1].expand(1500, -1, -1, -1)).double()
        (gradient,) = torch.autograd.grad((values[:, shown[0]] - values[:, true[0]]).sum(), points)
        slow = by_unit(gradient.double().mean(dim=0, keepdim=True) * (changed - z)[0]).sum(dim=2)[0]
        ours = (found.to_shown - found.to_true)[0]
        assert float((ours - slow).abs().max()) < 1e-2 * float(slow.abs().sum())


def test_units_of_every_kind_of_latent() -> None:
    for shape, units in (((3, 7), 7), ((3, 5, 4), 4), ((3, 6, 4, 2), 6)):  # a vector, tokens, a map
        latent = torch.rand(shape)
        assert by_unit(latent).shape[:2] == (3, units)
        chosen = torch.zeros(3, units, dtype=torch.bool)
        chosen[1, 2] = True
        taken = by_unit(torch.where(of_units(chosen, latent), latent, torch.zeros(())))
        assert torch.equal(taken[1, 2], by_unit(latent)[1, 2])
        assert float(taken.sum()) == pytest.approx(float(taken[1, 2].sum()))


def test_sizes_that_are_tried() -> None:
    assert tried_sizes(1) == (0, 1)
    assert tried_sizes(6) == (0, 1, 2, 3, 4, 5, 6)
    many = tried_sizes(120)
    assert {0, 1, 2, 10, 12, 60, 120} <= set(many)
    assert len(many) < 40


def test_images_that_no_attack_turns_have_no_proof() -> None:
    images = torch.full((3, 1, 2, 2), 0.2)
    labels = torch.zeros(3, dtype=torch.int64)
    found = ig.modified_features(Classifier(OneUnitDecides()), images, images, labels)
    assert not found.turned.any()
    assert [float(layer.error.max()) for layer in found.layers] == [0.0] * len(found.layers)
    assert found.layers[0].patching is not None
    assert found.layers[0].patching.share("random", 1) is None
    assert found.layers[0].patching.faithfulness() is None
    assert "returned" not in found.patching_frame()
    assert found.often("spread").empty
    assert found.plot() is not None


def test_bad_input_is_refused_in_a_line() -> None:
    classifier, images, labels = Classifier(OneUnitDecides()), torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(LayerError, match="did you mean 'spread'"):
        ig.modified_features(classifier, images, images, labels, layers=["spred"])
    with pytest.raises(ImageError, match="one adversarial image per image"):
        ig.modified_features(classifier, images, images[:2], labels)
    with pytest.raises(LayerError, match="at least one layer"):
        ig.modified_features(classifier, images, images, labels, layers=[])
    with pytest.raises(ModelError, match="a model that takes images"):
        ig.modified_features(classifier, torch.rand(3, 1, 5, 5), torch.rand(3, 1, 5, 5), labels)
    with pytest.raises(KeyError, match="'spred', where the layers are spread"):
        ig.modified_features(classifier, images, images, labels, layers=["spread"], patching=False).plot("spred")
