"""Where the perturbation is let in, on small networks whose answer is known by construction."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn

from interpretgan.attacks import ThreatModel, attack
from interpretgan.classifier import Classifier
from interpretgan.diagnosis.let_in import LetIn, let_in
from interpretgan.errors import ConfigError, LabelError
from interpretgan.layers import find_layers
from interpretgan.statistics import Interval

THREAT = ThreatModel("linf", 0.1, steps=10)
SIZE = 8
"""Pixels that tell the class, and as many others that do not."""


class Fold(nn.Module):
    """The second half of the pixels becomes their distance from grey: no weights."""

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 16]` of `[N, 1, 4, 4]`."""
        pixels = x.flatten(1)
        return torch.cat([pixels[:, :SIZE], (pixels[:, SIZE:] - 0.5).abs()], dim=1)


class Leak(nn.Module):
    """The second half leaks into the first, where it is not as in natural images; no tensors."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, z: Tensor) -> Tensor:
        """`[N, 16]` of `[N, 16]`."""
        told, other = z[:, :SIZE], z[:, SIZE:]
        return torch.cat([told + self.strength * (other.mean(dim=1, keepdim=True) - 0.3), other], dim=1)


def images_and_classes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """The class is the brightness of one half; the other half is 0.2 or 0.8 at random, 0.3 from grey."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(2, (count,), generator=generator)
    noise = torch.randn((count, 2 * SIZE), generator=generator)
    told = 0.2 + 0.6 * classes[:, None] + 0.05 * noise[:, :SIZE]
    other = 0.5 + 0.3 * (2.0 * torch.randint(2, (count, SIZE), generator=generator) - 1) + 0.01 * noise[:, SIZE:]
    return torch.cat([told, other], dim=1).clamp(0, 1).view(count, 1, 4, 4), classes


def network(*, leak: float = 0.0, moved: float = 0.0) -> Classifier:
    """Robust as it is. `leak`: of a gate at a layer without weights; `moved`: what a twin at fc1 reads."""
    fc1, fc2 = nn.Linear(2 * SIZE, 4), nn.Linear(4, 2)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
    with torch.no_grad():
        fc1.weight[:, :SIZE] = signs[:, None] * 10 / SIZE
        fc1.weight[:, SIZE:] = signs[:, None] * moved / SIZE
        fc1.bias.copy_(signs * (-5 - 0.3 * moved))
        fc2.weight.copy_(torch.stack([signs < 0, signs > 0]).float())
        fc2.bias.zero_()
    stages = OrderedDict[str, nn.Module](fold=Fold(), gate=Leak(leak), fc1=fc1, relu=nn.ReLU(), fc2=fc2)
    return Classifier(nn.Sequential(stages))


@dataclass(frozen=True)
class Case:
    classifier: Classifier
    images: Tensor
    labels: Tensor
    adversarial: Tensor
    threat_model: ThreatModel

    def found(self, **settings: Any) -> LetIn:
        layers = find_layers(self.classifier, self.images)
        natural = images_and_classes(400, 1)[0]
        return let_in(
            self.classifier, layers, self.images, self.labels, self.adversarial, natural=natural,
            threat_model=self.threat_model, seed=0, **settings,
        )  # fmt: skip


def case(classifier: Classifier, threat_model: ThreatModel = THREAT) -> Case:
    images, labels = images_and_classes(100, 0)
    return Case(classifier, images, labels, attack(classifier, images, labels, threat_model, seed=0), threat_model)


def test_a_twin_is_found_at_its_layer() -> None:
    found = case(network(moved=60)).found(bootstrap=200)
    assert found.taken > 0.5
    assert found.first == found.answer == "fc1"


class Remembers(nn.Module):
    """Keeps what it saw last, with the history that autograd gave it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.seen = net, dict[str, list[Tensor]]()

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[N, K]` of images."""
        logits: Tensor = self.net(x)
        self.seen["logits"] = [logits]
        return logits


def test_a_network_that_keeps_tensors_of_its_last_pass_or_computes_its_weights_is_mended() -> None:
    network_ = network(moved=60).model
    nn.utils.prune.identity(network_.get_submodule("fc1"), "weight")  # type: ignore[no-untyped-call]  # torch's own
    remembers = Remembers(network_)
    remembers(images_and_classes(2, 3)[0])
    assert case(Classifier(remembers)).found(steps=30, bootstrap=20).first == "net.fc1"


def test_a_gate_without_weights_is_found_by_its_input() -> None:
    found = case(network(leak=6)).found(bootstrap=200)
    assert found.taken > 0.5
    assert found.first == found.answer == "gate"
    assert found.weights[found.layers.index("gate")].value == 0


@pytest.mark.parametrize(("least", "answer"), [(0.62, "a"), (0.7, None)])
def test_no_layer_is_the_one_where_any_layer_mends_the_network(least: float, answer: str | None) -> None:
    scores = tuple(
        Interval(value, value - 0.02, value + 0.02) for value in (0.95, 0.8, least, 0.0)
    )  # the last has none
    found = LetIn(("a", "b", "c", "relu"), scores, scores, scores, Interval(0.15, 0.1, 0.2), 0.9, 100)
    assert found.first == "a"
    assert found.answer == answer


def test_a_layer_whose_weights_mend_nothing_is_one_that_does_not_mend_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = importlib.import_module("interpretgan.diagnosis.let_in")
    robust, wrong = network(), network()
    with torch.no_grad():
        wrong.model.get_parameter("fc2.weight").neg_()
    mended = {"fc1.weight": robust, "fc2.weight": wrong}  # the one brings all of it back, the other loses more
    monkeypatch.setattr(module, "retrained", lambda _classifier, names, *_, **_settings: mended[names[0]])
    found = case(network(moved=60)).found(bootstrap=200)
    own = dict(zip(found.layers, found.weights, strict=True))
    assert own["fc1"].value > 0.9
    assert own["fc2"].value < 0
    assert own["relu"].value == 0
    assert found.scores[found.layers.index("fc2")].value >= 0
    assert found.answer == "fc1"
    high, none, worse = (Interval(value, value, value) for value in (0.9, 0.0, -0.2))
    cures = LetIn(("a", "b", "c"), (high, high, none), (high, high, worse), (none,) * 3, high, 0.9, 100)
    assert not cures.everywhere


@pytest.mark.parametrize(
    ("cures", "named"),
    [({"fc1", "fc2"}, ("fc1", "fc2")), ({"fc2"}, ("fc2",)), ({"fc1", "relu"}, ())],
    ids=["both", "one alone", "no two"],
)
def test_two_layers_are_named_where_mending_both_is_the_cure(
    monkeypatch: pytest.MonkeyPatch, cures: set[str], named: tuple[str, ...]
) -> None:
    module = importlib.import_module("interpretgan.diagnosis.let_in")
    fragile, robust = network(moved=60), network()

    def mended(_classifier: Classifier, names: list[str], *_: Any, **_settings: Any) -> Classifier:
        return robust if cures <= {name.partition(".")[0] for name in names} else fragile

    monkeypatch.setattr(module, "retrained", mended)
    monkeypatch.setattr(module, "filtered", lambda classifier, *_: classifier.run)
    found = case(fragile).found(bootstrap=200)
    assert found.named == named
    assert found.answer == (named[0] if len(named) == 1 else None)
    assert found.pair is not None
    assert set(found.pair.layers) == {"fc1", "fc2"}
    assert (found.pair.share.low > 0.9) == bool(named)
    assert (found.pair.lead.low > 0) == (len(named) == 2)


class Reads(nn.Module):
    """Adds to the pixels that tell the class what four of the others are off their natural distance from grey."""

    def __init__(self, first: int, strength: float) -> None:
        super().__init__()
        self.first = SIZE + first
        self.weight = nn.Parameter(torch.full((SIZE // 2, 1), strength))

    def forward(self, z: Tensor) -> Tensor:
        """`[N, 16]` of `[N, 16]`."""
        read = (z[:, self.first : self.first + SIZE // 2] - 0.3) @ self.weight
        return torch.cat([z[:, :SIZE] + read, z[:, SIZE:]], dim=1)


def test_two_ways_in_are_named_though_a_third_layer_is_better_alone_than_either() -> None:
    head = nn.Linear(2 * SIZE, 2)
    signs = torch.tensor([-1.0, 1.0])
    with torch.no_grad():
        head.weight.zero_()[:, :SIZE] = signs[:, None] * 20 / SIZE
        head.bias.copy_(-10 * signs)
    parts = OrderedDict[str, nn.Module](fold=Fold(), one=Reads(0, 1.8), two=Reads(SIZE // 2, 1.8), head=head)
    found = case(Classifier(nn.Sequential(parts))).found(bootstrap=200)
    own = {name: weights.value for name, weights in zip(found.layers, found.weights, strict=True)}
    assert max(own["one"], own["two"]) < 0.1
    assert own["head"] > 0.3
    assert found.answer == "one"  # taken out of its input, what `two` reads is gone as well
    assert found.named == ("one", "two")


def test_nothing_stands_out_in_a_robust_network() -> None:
    found = case(network()).found(bootstrap=200)
    assert found.taken < 0.05
    assert found.answer is None
    assert found.pair is None
    assert all(abs(score.value) < 0.5 for score in found.scores)


def test_an_attack_that_changes_what_tells_the_class_has_no_sure_answer() -> None:
    found = case(network(), ThreatModel("linf", 0.4, steps=10)).found(bootstrap=200)
    assert found.taken > 0.5
    assert found.answer is None


def test_the_network_comes_back_untouched_and_the_answer_repeats_itself() -> None:
    made = case(network(moved=60))
    model, state = made.classifier.model, made.classifier.state_sha256()
    model.train()
    model.get_submodule("fc1").requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    random = torch.get_rng_state()
    first, again = (made.found(bootstrap=20, steps=5) for _ in range(2))
    assert first == again
    assert made.classifier.state_sha256() == state
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_intervals_are_around_their_scores_and_narrower_with_more_images() -> None:
    made = case(network(moved=60))
    few, many = (made.found(examples=count, steps=10, bootstrap=200) for count in (10, 100))
    for found in (few, many):
        assert all(score.low <= score.value <= score.high for score in found.scores)
    widths = [max(score.high - score.low for score in found.scores) for found in (few, many)]
    assert widths[1] < widths[0]


def test_bad_input_is_one_clear_line() -> None:
    made = case(network())
    with pytest.raises(ConfigError, match="at least one layer"):
        made.found(steps=0)
    with pytest.raises(LabelError, match="an adversarial image for each image"):
        Case(made.classifier, made.images, made.labels, made.adversarial[:5], THREAT).found()
