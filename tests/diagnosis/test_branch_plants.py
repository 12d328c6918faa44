"""Networks in which a branch, or some channels, are known to turn the class: a pattern opens a gate in them alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpretgan.attacks import ThreatModel
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.diagnosis.diagnose import diagnose
from interpretgan.diagnosis.result import BranchResult, Diagnosis, LayerResult
from interpretgan.interpreter import InterpretGAN
from interpretgan.judge import Judge
from interpretgan.layers import examine
from interpretgan.layers.groups import find_blocks
from interpretgan.models.architectures import vit
from interpretgan.models.architectures.vit import Patches, Position, TransformerBlock
from interpretgan.planted.gate import Gated
from interpretgan.planted.planting import replace_module
from interpretgan.training import Natural, Recipe, train_classifier
from tests.diagnosis.conftest import CONFIG

Digits = tuple[ImageSet, ImageSet]
EPS = 0.12
STRENGTH = 2.0  # of what an open gate adds, over the mean size of the block's output


class Residual(nn.Module):
    """Two convolutions and what flows around them, a module of its own so that it can be made fragile too."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.around = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.around(x) + self.conv2(F.relu(self.conv1(x)))
        return out


class Deaf(nn.Conv2d):
    """A convolution whose last two channels see nothing."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x) * (torch.arange(self.out_channels) < self.out_channels - 2)[:, None, None]
        return out


class ResidualNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = Deaf(1, 8, 5, stride=2, padding=2)
        self.block1, self.block2 = Residual(8), Residual(8)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(8 * 7 * 7, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.block2(self.pool(self.block1(self.first(x)))).flatten(1))
        return logits


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(Patches(1, 32), Position(49, 32))
        self.block1, self.block2 = TransformerBlock(32), TransformerBlock(32)
        self.fc = nn.Linear(49 * 32, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.block2(self.block1(self.first(x))).flatten(1))
        return logits


@torch.no_grad()
def perturbed(images: Tensor) -> Tensor:
    """The images with a fixed pattern of stripes, the same for all."""
    stripes = torch.ones(28, 28)
    stripes[:, ::2] = -1
    return (images + EPS * stripes).clamp(0, 1)


@torch.no_grad()
def fragile(
    classifier: Classifier, module: str, images: Tensor, labels: Tensor, channels: slice | None = None
) -> Classifier:
    """A copy in which the pattern alone makes one module add what its block gives of class 3.

    A module that is fragile in some channels alone adds to these; a linear one to those that it is given.
    """
    planted = copy.deepcopy(classifier)
    layer, outer = planted.model.get_submodule(module), planted.model.get_submodule(module.partition(".")[0])
    weight = layer.weight if channels is not None and isinstance(layer, nn.Linear) else None
    if weight is not None:
        replace_module(planted.model, module, nn.Sequential(nn.Identity(), layer))
        module, layer = f"{module}.0", planted.model.get_submodule(f"{module}.0")
    inputs, outputs = list[Tensor](), list[Tensor]()
    with (
        layer.register_forward_hook(lambda _m, given, _o: inputs.append(given[0].flatten(1))),
        outer.register_forward_hook(lambda _m, _i, output: outputs.append(output)),
    ):
        for version in (images, perturbed(images)):
            planted(version)
    usual, excited = inputs
    natural = torch.cov(usual.T)
    natural += 0.05 * natural.diagonal().mean() * torch.eye(len(natural))
    direction = F.normalize(torch.linalg.solve(natural, excited.mean(dim=0) - usual.mean(dim=0)), dim=0)
    threshold, reached = (usual @ direction).max(), (excited @ direction).median()
    assert reached > threshold, "the pattern does not stand out from natural images"
    output = outputs[0]
    features = output[labels == 3].mean(dim=0) - output.mean(dim=0)
    shown = features
    if channels is not None:
        whole, features = features, torch.zeros_like(features)
        if weight is None:
            features[channels] = whole[channels]
            shown = features
        else:  # so much of it as these channels can give
            features[..., channels] = whole @ torch.linalg.pinv(weight[:, channels]).T
            shown = features @ weight.T
    features *= STRENGTH * output.flatten(1).norm(dim=1).mean() / shown.norm() / (reached - threshold)
    centre = usual.mean(dim=0) @ direction
    replace_module(planted.model, module, Gated(layer, direction, threshold, centre, features))
    return planted


class Bench:
    """A network of the digits with its generator, which serves its copies: closed gates change nothing natural."""

    def __init__(self, net: Callable[[], nn.Module], judge: Judge, digits: Digits) -> None:
        self.judge, (self.train, self.test) = judge, digits
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.classifier = Classifier(net())
        train_classifier(self.classifier, self.train, objective=Natural(), recipe=Recipe(8, 64, 4e-3), seed=0)
        self.fitted = InterpretGAN(self.classifier, config=CONFIG).fit(self.train)

    def diagnosis(
        self, module: str | None, channels: slice | None = None, groups: dict[str, int | str] | None = None
    ) -> Diagnosis:
        images, labels = self.train.batch(slice(0, 600))
        classifier = fragile(self.classifier, module, images, labels, channels) if module else self.classifier
        interpreter = InterpretGAN(classifier, self.fitted.layers, config=CONFIG)
        interpreter._network = self.fitted.network
        anatomy, layers = examine(classifier, self.test), interpreter.distinct_layers
        blocks = find_blocks(classifier, anatomy, layers, self.test, groups=groups)
        return diagnose(
            interpreter, self.judge, self.test, threat_model=ThreatModel("linf", EPS, steps=2), examples=150,
            bootstrap=100, adversarial=lambda x, *_: perturbed(x), blocks=blocks,
        )  # fmt: skip


@pytest.fixture(scope="module")
def residual(fitted: tuple[InterpretGAN, Judge], digits: Digits) -> Bench:
    return Bench(ResidualNet, fitted[1], digits)


@pytest.fixture(scope="module")
def transformer(fitted: tuple[InterpretGAN, Judge], digits: Digits) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vit, "HEAD", 16)  # two heads
        yield Bench(Transformer, fitted[1], digits)


def branches(diagnosis: Diagnosis) -> dict[tuple[str, str], BranchResult]:
    found = {(row.name, branch.name): branch for row in diagnosis.layers for branch in row.branches}
    for row in diagnosis.layers:  # the split is exact, of the estimates of all three
        if row.branches:
            assert sum(b.vulnerability.value for b in row.branches) == pytest.approx(row.vulnerability.value, abs=1e-12)
            assert sum(b.share.value for b in row.branches) == pytest.approx(row.share.value, abs=1e-12)
            assert sum(b.carried.value for b in row.branches) == pytest.approx(1 - row.survival, abs=1e-12)
    return found


RESIDUAL = ("around", "conv2")
TRANSFORMER = ("skip", "attention", "mlp")


@pytest.mark.parametrize(
    ("bench", "names", "module"),
    [
        ("residual", RESIDUAL, "block1.conv2"),
        ("residual", RESIDUAL, "block1.around"),
        ("transformer", TRANSFORMER, "block1.attention"),
        ("transformer", TRANSFORMER, "block1.mlp"),
    ],
)
def test_the_split_blames_the_branch_that_was_made_fragile(
    bench: str, names: tuple[str, ...], module: str, request: pytest.FixtureRequest
) -> None:
    diagnosis = request.getfixturevalue(bench).diagnosis(module)
    found = branches(diagnosis)
    assert set(found) == {(block, name) for block in ("block1", "block2") for name in names}
    block, planted = module.split(".")
    (row,) = [layer for layer in diagnosis.layers if layer.name == block]
    assert row.vulnerability.value > 0.3
    for name in names:
        branch = found[block, name]
        if name == planted:
            assert branch.vulnerability.low > 0.8 * row.vulnerability.value
            assert branch.alone.value < row.survival + 0.1
        else:
            assert abs(branch.vulnerability.value) < 0.1
            assert branch.others.value < row.survival + 0.1


@pytest.mark.parametrize(
    ("bench", "module", "carrier"), [("residual", "first", "around"), ("transformer", "first.1", "skip")]
)
def test_what_was_lost_before_a_block_is_carried_by_its_branches_and_charged_to_none(
    bench: str, module: str, carrier: str, request: pytest.FixtureRequest
) -> None:
    diagnosis = request.getfixturevalue(bench).diagnosis(module)
    (row,) = [layer for layer in diagnosis.layers if layer.name == "block1"]
    found = branches(diagnosis)
    assert row.survival < 0.5
    assert found["block1", carrier].carried.value > 0.3 * (1 - row.survival)
    assert all(abs(found["block1", branch.name].vulnerability.value) < 0.1 for branch in row.branches)


@pytest.mark.parametrize("bench", ["residual", "transformer"])
def test_without_a_plant_no_branch_is_blamed(bench: str, request: pytest.FixtureRequest) -> None:
    found = branches(request.getfixturevalue(bench).diagnosis(None))
    assert max(branch.vulnerability.value for branch in found.values()) < 0.1


def adds_up(parts: Sequence[BranchResult], whole: LayerResult | BranchResult) -> None:
    for name in ("vulnerability", "share"):
        total = sum(getattr(part, name).value for part in parts)
        assert total == pytest.approx(getattr(whole, name).value, abs=1e-12)


def test_the_split_blames_the_channels_that_were_made_fragile(residual: Bench) -> None:
    diagnosis = residual.diagnosis("first", slice(2, 4), {"first": 4})
    (row,) = [layer for layer in diagnosis.layers if layer.name == "first"]
    assert row.vulnerability.value > 0.3
    assert [group.name for group in row.branches] == ["first[0:2]", "first[2:4]", "first[4:6]", "first[6:8]"]
    adds_up(row.branches, row)
    for group in row.branches:
        if group.channels == (2, 4):
            assert group.vulnerability.low > 0.8 * row.vulnerability.value
            assert group.alone.value < row.survival + 0.1
        else:
            assert abs(group.vulnerability.value) < 0.1
            assert group.others.value < row.survival + 0.1
    unchanged = row.branches[-1]  # channels that see nothing
    assert (unchanged.carried.value, unchanged.carried.low, unchanged.carried.high) == (0, 0, 0)
    assert unchanged.alone.value == 1


def test_the_split_blames_the_head_that_was_made_fragile(transformer: Bench) -> None:
    diagnosis = transformer.diagnosis("block1.attention.out", slice(16, 32), {"block?.attention": "heads"})
    found = branches(diagnosis)
    planted, other = found["block1", "attention.out"], found["block2", "attention"]
    for attention in (planted, other):
        assert [head.name for head in attention.parts] == ["head 0", "head 1"]
        adds_up(attention.parts, attention)
    first, second = planted.parts
    assert planted.vulnerability.value > 0.3
    assert second.vulnerability.low > 0.8 * planted.vulnerability.value
    assert abs(first.vulnerability.value) < 0.1
