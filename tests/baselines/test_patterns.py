"""CAM, and patterns in place of filters, against slow references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpretgan.baselines.explainers import EXPLAINERS, ExplainerError
from interpretgan.baselines.patterns import pattern_explainers
from interpretgan.classifier import Classifier
from interpretgan.layers import Layer, find_layers
from tests.networks import ReusedReLU, Tiny

CAM = next(explainer for explainer in EXPLAINERS if explainer.name == "CAM")
CLASSES = torch.tensor([1, 4])
NOWHERE = Layer("", "", 1, "", ())  # neither method asks for a layer


class Pooled(nn.Module):
    """Convolutions with one in-place ReLU for both, a mean over places, and one linear layer."""

    def __init__(self, *, hidden: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.relu = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3, stride=2), nn.ReLU(inplace=True)
        self.last = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 5)) if hidden else nn.Linear(6, 5)

    def maps(self, x: Tensor) -> Tensor:
        found: Tensor = self.relu(self.second(self.relu(self.first(x))))
        return found

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.maps(x).mean(dim=(2, 3)))
        return logits


def test_cam_is_the_weighted_sum_of_the_last_maps() -> None:
    torch.manual_seed(0)
    network, x = Pooled().eval(), torch.rand(2, 1, 12, 14)
    found = CAM.explain(Classifier(network), NOWHERE, x, CLASSES)
    assert isinstance(network.last, nn.Linear)
    coarse = torch.einsum("nk,nkhw->nhw", network.last.weight[CLASSES], network.maps(x)).detach()
    slow = F.interpolate(coarse[:, None], size=(12, 14), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(found, slow, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("network", [Pooled(hidden=True), Tiny(size=(12, 14))])
def test_cam_is_refused_where_the_end_is_another(network: nn.Module) -> None:
    torch.manual_seed(0)
    with pytest.raises(ExplainerError, match="ends in global average pooling and one linear layer, for CAM"):
        CAM.explain(Classifier(network.eval()), NOWHERE, torch.rand(2, 1, 12, 14), CLASSES)


def slow_pattern(x: Tensor, weight: Tensor, bias: Tensor, *, above_zero: bool) -> Tensor:
    """A unit at a time, in the words of the paper: x `[places, in]`."""
    rows = []
    for w, b in zip(weight.double().numpy(), bias.double().numpy(), strict=True):
        inputs = x.double().numpy()
        y = inputs @ w + b
        chosen = inputs[y > 0], y[y > 0]
        if above_zero and not len(chosen[1]):
            rows.append(np.zeros(len(w)))  # it never tells anything
            continue
        if above_zero:
            found = (chosen[0] * chosen[1][:, None]).mean(axis=0) - chosen[0].mean(axis=0) * y.mean()
        else:
            found = np.array([np.cov(column, y, bias=True)[0, 1] for column in inputs.T])
        rows.append(found / (w @ found))
    return torch.as_tensor(np.stack(rows)).float()


@pytest.mark.parametrize("with_weights", [False, True])
def test_patterns_of_a_chain_with_a_reused_relu(with_weights: bool) -> None:
    torch.manual_seed(0)
    relu = nn.ReLU(inplace=True)
    first, second, last = nn.Linear(30, 20), nn.Linear(20, 15), nn.Linear(15, 5)
    classifier = Classifier(nn.Sequential(nn.Flatten(), first, relu, second, relu, last), mean=(0.4,), std=(0.5,))
    natural, images = torch.rand(170, 1, 5, 6), torch.rand(2, 1, 5, 6)
    explainer = pattern_explainers(natural)[int(with_weights)]
    with torch.no_grad():
        x = (natural.flatten(1) - 0.4) / 0.5
        inputs = [x, first(x).relu(), second(first(x).relu()).relu()]
        ways = [
            slow_pattern(z, layer.weight, layer.bias, above_zero=layer is not last)
            * (layer.weight if with_weights else 1)
            for z, layer in zip(inputs, (first, second, last), strict=True)
        ]
        x = (images.flatten(1) - 0.4) / 0.5
        a = first(x)
        b = second(a.relu())
        signal = ((ways[2][CLASSES] * (b > 0)) @ ways[1] * (a > 0)) @ ways[0] / 0.5
    found = explainer.explain(classifier, NOWHERE, images, CLASSES)
    torch.testing.assert_close(found.flatten(1), signal, atol=1e-4 * float(signal.abs().max()), rtol=1e-4)
    assert relu.inplace


def test_the_pattern_of_a_convolution_is_that_of_its_patches() -> None:
    torch.manual_seed(0)
    conv, last = nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Linear(3 * 12, 5)
    classifier = Classifier(nn.Sequential(conv, nn.ReLU(), nn.Flatten(), last))
    natural, images = torch.rand(60, 2, 5, 7), torch.rand(2, 2, 5, 7)
    with torch.no_grad():
        patches = F.unfold(natural, 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 18)
        assert conv.bias is not None
        way = slow_pattern(patches, conv.weight.flatten(1), conv.bias, above_zero=True).view(3, 2, 3, 3)
        final = slow_pattern(conv(natural).relu().flatten(1), last.weight, last.bias, above_zero=False)
        signal = final[CLASSES].view(2, 3, 3, 4) * (conv(images) > 0)
        slow = F.conv_transpose2d(signal, way, stride=2, padding=1).sum(dim=1)
    found = pattern_explainers(natural)[0].explain(classifier, NOWHERE, images, CLASSES)
    torch.testing.assert_close(found, slow, atol=1e-4 * float(slow.abs().max()), rtol=1e-4)


def test_a_pattern_is_the_signal_where_the_filter_is_not() -> None:
    """The example of the paper: the filter cancels what distracts, and points away from the signal."""
    torch.manual_seed(0)
    signal, distractor = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])
    amounts = torch.rand(500, 2)
    natural = (amounts[:, :1] * signal + amounts[:, 1:] * distractor).view(-1, 1, 1, 2) / 2
    linear = nn.Linear(2, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        linear.bias.zero_()
    classifier = Classifier(nn.Sequential(nn.Flatten(), linear))
    net, attribution = pattern_explainers(natural)
    target = torch.tensor([0])
    other = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)))  # whose patterns are its own
    assert not torch.allclose(net.explain(other, NOWHERE, natural[:1], target).flatten(), signal, atol=0.1)
    found = net.explain(classifier, NOWHERE, natural[:1], target).flatten()
    torch.testing.assert_close(found, signal, atol=0.1, rtol=0)
    torch.testing.assert_close(
        attribution.explain(classifier, NOWHERE, natural[:1], target).flatten(), found * linear.weight.detach()[0]
    )


def test_networks_with_other_operations_are_refused_by_name() -> None:
    x = torch.rand(4, 1, 12, 14)
    for module, name in ((nn.GELU(), "gelu"), (nn.BatchNorm1d(20), "BatchNorm1d")):
        classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(168, 20), module, nn.Linear(20, 5)).eval())
        with pytest.raises(ExplainerError, match=name):
            pattern_explainers(x)[0].explain(classifier, NOWHERE, x[:2], CLASSES)
    groups = Classifier(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(320, 5))
    )
    with pytest.raises(ExplainerError, match="2 groups"):
        pattern_explainers(x)[0].explain(groups, NOWHERE, x[:2], CLASSES)


def test_a_network_with_reused_modules_is_explained() -> None:
    torch.manual_seed(0)
    classifier = Classifier(ReusedReLU().eval())
    x = torch.rand(20, 1, 28, 28)
    before = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    found = [each.explain(classifier, NOWHERE, x[:2], CLASSES) for each in pattern_explainers(x)]
    assert all(bool((each != 0).any()) for each in found)
    assert len(find_layers(classifier, x[:2])) > 3
    assert all(torch.equal(before[name], value) for name, value in classifier.model.state_dict().items())
