"""Other explainers against slow references, and the traps of hooks, refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interpretgan.baselines.explainers import EXPLAINERS, LIME_CELLS, LIME_SAMPLES, STEPS, Explainer, ExplainerError
from interpretgan.baselines.inversion import RATE, SMOOTHNESS, invert
from interpretgan.baselines.nonlinearities import nonlinearities
from interpretgan.classifier import Classifier
from interpretgan.errors import LabelError
from interpretgan.layers import Layer, capture, find_layers
from tests.networks import Functional, ReusedReLU, Tiny

pytest.importorskip("captum", reason="needs the extra captum")

BY_NAME = {explainer.name: explainer for explainer in EXPLAINERS}
CLASSES = torch.tensor([1, 4])


def lively(network: nn.Module) -> Classifier:
    """Weights of another size, so that logits move."""
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.mul_(2.5 if name.endswith("weight") else 1)
    return Classifier(network, mean=(0.4,), std=(0.5,))


@pytest.fixture(scope="module")
def tiny() -> Classifier:
    torch.manual_seed(0)
    return lively(Tiny(size=(12, 14)))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 1, 12, 14, generator=torch.Generator().manual_seed(1))


def explained(name: str, classifier: Classifier, images: Tensor, layer: Layer | None = None) -> Tensor:
    return BY_NAME[name].explain(classifier, layer or find_layers(classifier, images)[0], images, CLASSES)


def gradient(classifier: Classifier, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_()
    with classifier.borrowed():
        (found,) = torch.autograd.grad(classifier.run(images).gather(1, CLASSES[:, None]).sum(), images)
    return found


@pytest.mark.parametrize("network", ["tiny", "reused"])
def test_gradients_and_their_integral(network: str, tiny: Classifier, images: Tensor) -> None:
    torch.manual_seed(0)
    classifier = tiny if network == "tiny" else lively(ReusedReLU())
    x = images if network == "tiny" else torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(explained("saliency", classifier, x), gradient(classifier, x).abs()[:, 0])
    steps = (torch.arange(400) + 0.5) / 400
    slow = x[:, 0] * torch.stack([gradient(classifier, t * x)[:, 0] for t in steps]).mean(dim=0)
    ours = explained("integrated gradients", classifier, x)
    at, weights = np.polynomial.legendre.leggauss(STEPS)  # the rule itself, and what it is a rule for
    nodes = [w / 2 * gradient(classifier, (t + 1) / 2 * x)[:, 0] for t, w in zip(at, weights, strict=True)]
    by_rule = x[:, 0] * torch.stack(nodes).sum(dim=0)
    torch.testing.assert_close(ours, by_rule, rtol=1e-4, atol=1e-4 * float(by_rule.abs().max()))
    assert float((ours - slow).abs().max()) < 0.05 * float(slow.abs().max())
    with torch.no_grad():
        change = (classifier(x) - classifier(0 * x)).gather(1, CLASSES[:, None])[:, 0]
    torch.testing.assert_close(ours.sum(dim=(1, 2)), change, rtol=0.1, atol=0.05 * float(slow.abs().sum()))


@pytest.mark.parametrize("name", ["guided backpropagation", "deconvolution"])
def test_relus_that_let_through_what_is_positive(name: str, images: Tensor) -> None:
    """Reused and in-place ReLUs included: a chain of matrices, and the rule by hand at each ReLU."""
    torch.manual_seed(0)
    relu = nn.ReLU(inplace=True)
    first, second, last = nn.Linear(12 * 14, 20), nn.Linear(20, 15), nn.Linear(15, 5)
    classifier = Classifier(nn.Sequential(nn.Flatten(), first, relu, second, relu, last))
    a = first(images.flatten(1))
    b = second(a.relu())
    signal = last.weight[CLASSES]
    for before, linear in ((b, second), (a, first)):
        signal = signal.relu() if name == "deconvolution" else (signal * (before > 0)).relu()
        signal = signal @ linear.weight
    assert relu.inplace
    torch.testing.assert_close(explained(name, classifier, images).flatten(1), signal.detach(), atol=1e-5, rtol=1e-4)
    assert relu.inplace


@pytest.mark.parametrize("inplace", [False, True])
def test_deep_lift_is_the_rescale_rule(inplace: bool, images: Tensor) -> None:
    """By matrices: each ReLU passes on its change over that of its input."""
    torch.manual_seed(0)
    conv, first, last = nn.Conv2d(1, 3, 3, stride=2), nn.Linear(3 * 5 * 6, 20), nn.Linear(20, 5)
    relus = nn.ReLU(inplace), nn.ReLU(inplace)
    classifier = Classifier(nn.Sequential(conv, relus[0], nn.Flatten(), first, relus[1], last))
    columns = torch.eye(12 * 14).view(-1, 1, 12, 14)
    matrix = (conv(columns) - conv(0 * columns)).flatten(1)  # [pixels, outputs]
    a, b = (conv(x).flatten(1) for x in (images, 0 * images))
    c, d = first(a.relu()), first(b.relu())
    signal = last.weight[CLASSES] * (c.relu() - d.relu()) / (c - d)
    signal = (signal @ first.weight) * (a.relu() - b.relu()) / (a - b)
    slow = (signal @ matrix.T) * images.flatten(1)
    found = explained("DeepLIFT", classifier, images).flatten(1)
    torch.testing.assert_close(found, slow.detach(), atol=1e-5, rtol=1e-4)


def test_grad_cam_is_captums_where_that_does_the_job(tiny: Classifier, images: Tensor) -> None:
    from captum.attr import LayerGradCam

    conv = next(layer for layer in find_layers(tiny, images) if layer.name == "relu")
    method = LayerGradCam(tiny, tiny.model.get_submodule("relu"))
    coarse = method.attribute(images.clone().requires_grad_(), target=CLASSES, relu_attributions=True).detach()
    slow = nn.functional.interpolate(coarse, size=(12, 14), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(explained("Grad-CAM", tiny, images, conv), slow, atol=1e-5, rtol=1e-4)


def test_grad_cam_of_one_call_of_a_module() -> None:
    torch.manual_seed(0)
    classifier, x = lively(ReusedReLU()), torch.rand(2, 1, 28, 28)
    first, second = (
        layer for layer in find_layers(classifier, x) if layer.name in ("features.relu1:1", "features.relu1:2")
    )
    one, other = (explained("Grad-CAM", classifier, x, layer) for layer in (first, second))
    assert one.shape == other.shape == (2, 28, 28)
    assert not torch.allclose(one, other)


def test_occlusion_by_hand(tiny: Classifier, images: Tensor) -> None:
    """Windows are 1 × 2 pixels here and move by one; a pixel has the mean of those that cover it."""
    logits = tiny.logits(images).gather(1, CLASSES[:, None])[:, 0]
    total, count = torch.zeros(2, 12, 14), torch.zeros(12, 14)
    for row in range(12):
        for column in range(13):
            window = (..., row, slice(column, column + 2))
            covered = images.clone()
            covered[window] = 0
            total[window] += (logits - tiny.logits(covered).gather(1, CLASSES[:, None])[:, 0])[:, None]
            count[window] += 1
    torch.testing.assert_close(explained("occlusion", tiny, images), total / count, atol=1e-5, rtol=1e-4)


def test_lime_is_a_ridge_regression_on_cells_that_are_switched_off(tiny: Classifier, images: Tensor) -> None:
    cells = (torch.arange(12)[:, None] * LIME_CELLS // 12) * LIME_CELLS + torch.arange(14) * LIME_CELLS // 14
    count = int(cells.max()) + 1
    slow = []
    for image, target in zip(images, CLASSES, strict=True):
        torch.manual_seed(0)
        kept = torch.cat([torch.bernoulli(torch.full((1, count), 0.5)) for _ in range(LIME_SAMPLES)])
        x = image * kept[:, cells][:, None]
        # Samples count by their angle to the image, and the offset is not shrunk.
        apart = 1 - torch.cosine_similarity(x.flatten(1), image.flatten()[None])
        weights, y = (-apart.square() / 2).exp().double(), tiny.logits(x)[:, target].double()
        centred, z = (each - (weights @ each) / weights.sum() for each in (kept.double(), y))
        gram = centred.T @ (weights[:, None] * centred) + torch.eye(count)
        slow.append(torch.linalg.solve(gram, centred.T @ (weights * z))[cells])
    torch.testing.assert_close(explained("LIME", tiny, images).double(), torch.stack(slow), atol=1e-4, rtol=1e-4)


def test_lime_finds_the_cell_that_decides() -> None:
    class Corner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            corner = self.start(x)[:, :, :4, :4].mean(dim=(1, 2, 3))
            return torch.stack([0 * corner, 8 * corner, *[0 * corner] * 3], dim=1)

    found = explained("LIME", Classifier(Corner()), torch.full((2, 1, 28, 28), 0.9))[0]
    assert float(found[:4, :4].mean()) > 20 * float(found[4:, 4:].abs().max())


def test_an_inversion_is_adams_way_down_its_objective(tiny: Classifier, images: Tensor) -> None:
    layer = next(layer for layer in find_layers(tiny, images) if layer.name == "relu")
    conv = tiny.model.get_submodule("conv")

    def latent(x: Tensor) -> Tensor:
        found: Tensor = conv((x - 0.4) / 0.5)
        return found.relu().flatten(1)

    wanted, free = latent(images).detach(), torch.zeros_like(images).requires_grad_()
    adam = torch.optim.Adam([free], lr=RATE)
    for _ in range(30):
        x = free.sigmoid()
        error = (latent(x) - wanted).square().sum(dim=1) / wanted.square().sum(dim=1)
        rough = (x[:, :, 1:] - x[:, :, :-1]).square().mean(dim=(1, 2, 3))
        rough = rough + (x[..., 1:] - x[..., :-1]).square().mean(dim=(1, 2, 3))
        adam.zero_grad()
        torch.autograd.backward((error + SMOOTHNESS * rough).sum())
        adam.step()
    torch.testing.assert_close(invert(tiny, layer, images, steps=30), free.detach().sigmoid(), atol=1e-4, rtol=1e-4)


def test_an_inversion_has_the_latent_and_is_smooth(tiny: Classifier, images: Tensor) -> None:
    layers = {layer.name: layer for layer in find_layers(tiny, images)}
    for smoothness, error in ((0.0, 0.02), (0.5, 0.2)):
        found = invert(tiny, layers["conv"], images, smoothness=smoothness)
        _, wanted = capture(tiny, images, [layers["conv"]])
        _, got = capture(tiny, found, [layers["conv"]])
        assert float((got["conv"] - wanted["conv"]).norm() / wanted["conv"].norm()) ** 2 < error
    assert float(found.diff(dim=3).abs().mean()) < float(images.diff(dim=3).abs().mean())


@pytest.mark.parametrize("name", ["guided backpropagation", "deconvolution", "DeepLIFT"])
def test_functional_relus_are_refused_by_name(name: str) -> None:
    classifier, x = Classifier(Functional()), torch.rand(2, 2, 24, 28)
    assert nonlinearities(classifier, x).functions["relu"] == 2
    with pytest.raises(ExplainerError, match="2 of relu called as a function"):
        explained(name, classifier, x)


@pytest.mark.parametrize("name", ["guided backpropagation", "deconvolution"])
def test_what_is_no_relu_is_not_taken_for_one(name: str, images: Tensor) -> None:
    class Clamp(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.clamp(x, min=0)

    class OwnReLU(nn.ReLU):
        """Counts as one."""

    def network(rectifier: nn.Module) -> Classifier:
        torch.manual_seed(0)
        return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12 * 14, 20), rectifier, nn.Linear(20, 5)))

    for rectifier, why in ((nn.GELU(), "got gelu, with which it is"), (nn.ReLU6(), "hardtanh"), (Clamp(), "1 of relu")):
        with pytest.raises(ExplainerError, match=why):
            explained(name, network(rectifier), images)
    assert explained(name, network(OwnReLU()), images).shape == (2, 12, 14)


def test_errors_that_are_no_limits_of_captum_stay_what_they_are(tiny: Classifier, images: Tensor) -> None:
    first = find_layers(tiny, images)[0]
    with pytest.raises(LabelError, match="labels from 0 to"):
        BY_NAME["Grad-CAM"].explain(tiny, first, images, torch.tensor([1, 30]))

    def broken(*_: object) -> Tensor:
        raise AssertionError("a bug of ours")

    with pytest.raises(AssertionError, match="a bug of ours"):
        Explainer("own", "nothing", "none", broken, captum=False).explain(tiny, first, images, CLASSES)


def test_modules_that_are_called_twice_are_refused_by_name() -> None:
    classifier, x = Classifier(ReusedReLU()), torch.rand(2, 1, 28, 28)
    found = nonlinearities(classifier, x)
    assert found.functions == {}
    assert found.reused == ("features.relu1",)
    with pytest.raises(ExplainerError, match=r"'features.relu1', which is called several times"):
        explained("DeepLIFT", classifier, x)


def test_deep_lift_before_max_pooling_is_refused() -> None:
    class Pooled(nn.Module):
        """Max pooling of the image itself, where Captum mixes gradients up."""

        def __init__(self) -> None:
            super().__init__()
            self.pool, self.fc = nn.MaxPool2d(3, stride=1), nn.Linear(10 * 12, 5)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(self.pool(x).flatten(1))
            return logits

    torch.manual_seed(0)
    with pytest.raises(ExplainerError, match="DeepLIFT"):
        explained("DeepLIFT", Classifier(Pooled()), torch.rand(2, 1, 12, 14))


def test_grad_cam_needs_maps(tiny: Classifier, images: Tensor) -> None:
    with pytest.raises(ExplainerError, match=r"layer of maps \[C, H, W\]"):
        explained("Grad-CAM", tiny, images, find_layers(tiny, images)[-1])


@pytest.mark.parametrize("explainer", EXPLAINERS, ids=lambda explainer: explainer.name)
def test_every_method_keeps_its_promise_and_gives_the_model_back(
    explainer: Explainer, tiny: Classifier, images: Tensor
) -> None:
    before, state = tiny.state_sha256(), torch.get_rng_state()
    tiny.model.train()
    if explainer.name == "DeepLIFT":  # whose rule for max pooling is refused here
        with pytest.raises(ExplainerError, match="max pooling"):
            explained("DeepLIFT", tiny, images)
        return
    if explainer.name == "CAM":  # which this network does not allow
        with pytest.raises(ExplainerError, match="global average pooling"):
            explained("CAM", tiny, images)
        return
    found = explainer.explain(tiny, find_layers(tiny, images)[0], images, CLASSES)
    assert found.shape == (images.shape if explainer.kind == "picture" else (2, 12, 14))
    assert explainer.signed or float(found.min()) >= 0
    assert torch.equal(found, explainer.explain(tiny, find_layers(tiny, images)[0], images, CLASSES))
    assert tiny.model.training
    assert tiny.state_sha256() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._backward_hooks for module in tiny.model.modules())
