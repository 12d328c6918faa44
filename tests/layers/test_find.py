from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from interpretgan.classifier import Classifier
from interpretgan.data import as_image_set
from interpretgan.errors import LayerError, ModelError
from interpretgan.layers import capture, capturing, examine, find_layers, replay
from interpretgan.layers.proof import size_of_logits
from tests.networks import Functional, Residual, ReusedReLU

Net = tuple[Classifier, Tensor]


def build(network: type[nn.Module], channels: int, height: int, width: int) -> Net:
    torch.manual_seed(0)
    return Classifier(network()), torch.rand(5, channels, height, width)


@pytest.fixture(
    params=[(ReusedReLU, 1, 28, 28), (Functional, 2, 24, 28), (Residual, 1, 9, 11)], ids=lambda p: p[0].__name__
)
def net(request: pytest.FixtureRequest) -> Net:
    return build(*request.param)


def test_reused_in_place_relu_has_a_layer_per_call() -> None:
    classifier, images = build(ReusedReLU, 1, 28, 28)
    layers = {layer.name: layer for layer in find_layers(classifier, images)}
    relus = [name for name in layers if "relu" in name]
    assert relus == [f"features.relu1:{k}" for k in range(1, 7)]
    assert layers["features.conv1"].shape == (4, 26, 26)
    assert layers["features.relu1:4"].shape == (7, 8, 8)
    assert layers["features.relu1:5"].shape == (20,)
    # The convolution's latent is its own, not what the in-place ReLU made of it.
    _, latents = capture(classifier, images, [layers["features.conv1"], layers["features.relu1:1"]])
    assert latents["features.conv1"].min() < 0
    assert torch.equal(latents["features.conv1"].relu(), latents["features.relu1:1"])


def test_layers_come_in_execution_order_once_for_each_tensor() -> None:
    classifier, images = build(ReusedReLU, 1, 28, 28)
    anatomy = examine(classifier, images)
    assert find_layers(classifier, images) == anatomy.distinct
    assert [layer.name for layer in anatomy.distinct][-4:] == [
        "features.relu1:5",
        "classifier.fc2",
        "features.relu1:6",
        "classifier.fc3",
    ]
    same = {layer.name: layer.same_as for layer in anatomy.layers if layer.same_as}
    assert same == {"features": "features.pool2", "classifier.drop": "features.relu1:5", "classifier": "classifier.fc3"}
    assert anatomy.refused == ()


def test_functional_layers_leave_the_modules_as_layers_and_the_logits_as_the_last() -> None:
    classifier, images = build(Functional, 2, 24, 28)
    layers = find_layers(classifier, images)
    assert [layer.name for layer in layers] == ["conv", "fc1", "fc2", "logits"]  # not the order of declaration
    assert [layer.shape for layer in layers] == [(6, 22, 26), (12,), (5,), (5,)]


def test_a_residual_branch_is_refused_and_the_block_passes() -> None:
    classifier, images = build(Residual, 1, 9, 11)
    anatomy = examine(classifier, images)
    names = [layer.name for layer in anatomy.distinct]
    assert names == ["stem.0", "stem.1", "stem.2", "blocks.0", "blocks.1", "dropout", "fc"]
    refused = {call.name: call for call in anatomy.refused}
    assert refused["blocks.0.conv1"].nearest == "blocks.0"
    assert "flows around it" in refused["blocks.0.conv1"].reason
    assert refused["blocks.1.shortcut"].nearest == "blocks.1"
    # The last ReLU's second call holds the block's output, the first is inside the branch.
    assert "blocks.0.relu:1" in refused
    assert next(layer for layer in anatomy.layers if layer.name == "blocks.0.relu:2").same_as == "blocks.0"


def test_every_layer_replays_to_the_logits(net: Net) -> None:
    classifier, images = net
    for layer in find_layers(classifier, images):
        logits, latents = capture(classifier, images, [layer])
        assert latents[layer.name].shape == (len(images), *layer.shape)
        with torch.no_grad():
            again = replay(classifier, layer, latents[layer.name], torch.zeros_like(images))
        torch.testing.assert_close(again, logits)


def test_swapping_a_latent_swaps_the_logits(net: Net) -> None:
    """The definition itself, at every layer and against every refused call."""
    classifier, images = net
    for layer in find_layers(classifier, images):
        logits, latents = capture(classifier, images, [layer])
        with torch.no_grad():
            swapped = replay(classifier, layer, latents[layer.name].flip(0), images)
        torch.testing.assert_close(swapped, logits.flip(0))


def test_gradients_flow_to_the_image_through_captured_latents() -> None:
    classifier, images = build(ReusedReLU, 1, 28, 28)
    layers = find_layers(classifier, images)
    images.requires_grad_(True)
    with classifier.borrowed(), capturing(classifier, layers) as latents:
        classifier.run(images)
    (gradient,) = torch.autograd.grad(latents["features.relu1:2"].square().sum(), images)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("failing", [False, True])
def test_no_hook_stays(net: Net, failing: bool) -> None:
    classifier, images = net
    layers = find_layers(classifier, images)
    if failing:
        with pytest.raises(RuntimeError), classifier.borrowed(), capturing(classifier, layers):
            classifier.run(torch.zeros(2, 7, 3, 3))
    else:
        capture(classifier, images, layers)
    for module in classifier.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize(
    ("network", "name", "message"),
    [
        (ReusedReLU, "features.conv9", "did you mean 'features.conv"),
        (ReusedReLU, "features.relu3", "called 6 times; choose one of features.relu1:1, features.relu1:2"),
        (Residual, "blocks.0.conv2", "use 'blocks.0'"),
    ],
)
def test_a_wrong_name_is_answered_with_a_right_one(network: type[nn.Module], name: str, message: str) -> None:
    shape = (1, 28, 28) if network is ReusedReLU else (1, 9, 11)
    classifier, images = build(network, *shape)
    with pytest.raises(LayerError, match="expected") as caught:
        examine(classifier, images).select([name])
    assert message in str(caught.value)


def test_images_that_are_all_alike_suffice() -> None:
    classifier, images = build(ReusedReLU, 1, 28, 28)
    blank = torch.zeros(3, 1, 28, 28)
    assert [layer.name for layer in find_layers(classifier, blank)] == [
        layer.name for layer in find_layers(classifier, images)
    ]


def test_layers_are_found_on_whatever_holds_images() -> None:
    classifier, images = build(ReusedReLU, 1, 28, 28)
    labels = torch.zeros(len(images), dtype=torch.int64)
    for data in ((images, labels), TensorDataset(images, labels), as_image_set((images, labels), "test")):
        assert find_layers(classifier, data) == find_layers(classifier, images)


def test_a_model_that_ignores_the_image_is_refused() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(torch.ones(len(x), 4))
            return out

    with pytest.raises(ModelError, match="logits that depend on the image"):
        find_layers(Classifier(Constant()), torch.rand(3, 1, 4, 4))


class Masked(nn.Module):
    """Three of ten classes occur, the others are masked."""

    def __init__(self, mask: Callable[[Tensor, Tensor], Tensor], *, batch: bool) -> None:
        super().__init__()
        self.conv, self.fc, self.mask = nn.Conv2d(1, 4, 7, stride=7), nn.Linear(64, 10), mask
        self.norm = nn.BatchNorm2d(4, track_running_stats=not batch)  # by the images beside it, or not

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.norm(self.conv(x)).flatten(1))
        return self.mask(logits, torch.arange(10) > 2)


@pytest.mark.parametrize(
    "mask",
    [
        lambda logits, masked: logits.masked_fill(masked, -1.0),
        lambda logits, masked: logits.masked_fill(masked, -1e5),
        lambda logits, masked: logits.masked_fill(masked, torch.finfo(logits.dtype).min),
        lambda logits, masked: logits - 1e4 * masked,
        lambda logits, masked: logits - 1e9 * masked,
    ],
)
def test_masked_classes_are_taken_and_hide_nothing(mask: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    sound, images = Classifier(Masked(mask, batch=False)), torch.rand(5, 1, 28, 28)
    assert [layer.name for layer in find_layers(sound, images)] == ["conv", "norm", "fc", "logits"]
    with pytest.raises(ModelError, match="do not depend on the other images"):
        find_layers(Classifier(Masked(mask, batch=True)), images)


def test_logits_are_measured_beside_those_that_move() -> None:
    moving = torch.tensor([[0.1, 0.5, 2.0], [0.2, 0.4, 3.0]])
    for mask in (torch.full((2, 4), -1e4), moving - 1e6, torch.zeros(2, 4)):
        assert size_of_logits(torch.cat([moving, mask], dim=1)) == 3
    certain = torch.tensor([[-1e-7, -16, -17], [-2e-7, -15, -19]])  # log-probabilities, of which one is nearly zero
    assert size_of_logits(certain) == 19
    unused = torch.cat([1e-7 * moving, moving], dim=1)  # as weight decay leaves what no image has
    assert size_of_logits(unused) == 3
    # Of one image, or of images between which none moves, the largest of all; of those that rounding alone moves, too.
    assert size_of_logits(moving[:1]) == size_of_logits(moving[:1].expand(4, -1)) == 2
    rounded = torch.stack([torch.linspace(0, 1, 1000) + 1e-8, torch.linspace(0, 1, 1000)])
    assert size_of_logits(rounded) > 0.5
    assert math.isnan(size_of_logits(moving * torch.nan))


def test_a_network_that_keeps_something_from_pass_to_pass_is_refused() -> None:
    class Keeps(nn.Module):
        """Spikes, say: its potential is reset where the number of images changes alone."""

        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head, self.potential = nn.Linear(784, 16), nn.Linear(16, 10), torch.zeros(0)

        def forward(self, x: Tensor) -> Tensor:
            given = self.fc(x.flatten(1))
            kept = self.potential if self.potential.shape == given.shape else 0
            self.potential = given + 0.5 * kept
            logits: Tensor = self.head(self.potential)
            self.potential = self.potential.detach()
            return logits

    with pytest.raises(ModelError, match="kept from pass to pass"):
        find_layers(Classifier(Keeps()), torch.rand(5, 1, 28, 28))


def test_modules_that_return_something_else_are_refused_by_name() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.mask, self.table = Says(lambda _: "words"), Says(lambda x: x > 0.9), nn.Embedding(7, 6)
            self.gru = nn.GRU(6, 5, batch_first=True)
            self.fc = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.words(x)
            x = x.masked_fill(self.mask(x), 1.0)[:, 0] + self.table(torch.arange(7))
            out: Tensor = self.fc(self.gru(x)[0][:, -1])
            return out

    class Says(nn.Module):
        def __init__(self, answer: Callable[[Tensor], object]) -> None:
            super().__init__()
            self.answer = answer

        def forward(self, x: Tensor) -> object:
            return self.answer(x)

    anatomy = examine(Classifier(Odd()), torch.rand(4, 1, 7, 6))
    assert [(call.name, call.reason, call.nearest) for call in anatomy.refused] == [
        ("words", "it returns a str, not a tensor", "gru"),
        ("mask", "it returns torch.bool, not real numbers", "gru"),
        ("table", "no axis of its output (7, 6) follows the number of images", "gru"),
    ]
