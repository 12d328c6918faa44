"""Attacks keep to the threat model, take the worst case, and give the classifier back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from interpretgan.attacks import (
    ThreatModel,
    attack,
    check_perturbation,
    equal_norm_noise,
    perturbation_size,
    require_gradient,
    search,
)
from interpretgan.attacks.gradient import at_a_time
from interpretgan.attacks.noise import random_starts, scrambled, varied_noise
from interpretgan.classifier import Classifier
from interpretgan.errors import ImageError, LabelError, ModelError, ThreatModelError
from tests.networks import Tiny

SHAPE = (7, 3, 5, 9)
"""N, C, H and W all different and N > 1: a norm that broadcasts along the wrong axis shows."""


def small(seed: int = 0, classes: int = 4, bounds: tuple[float, float] = (0, 1)) -> Classifier:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 21, classes))
    model(torch.rand(32, *SHAPE[1:]))
    return Classifier(model, bounds=bounds)


def examples(seed: int = 0, count: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, *SHAPE[1:], generator=generator), torch.randint(0, 4, (count,), generator=generator))


def loss_of(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(classifier.logits(x), y, reduction="none")


def test_an_eps_in_other_units_than_the_pixels_is_refused() -> None:
    x, y = examples()
    with pytest.raises(ThreatModelError, match=r"a linf eps <= 1, for pixels within \[0, 1\], got 8; .* 8/255"):
        attack(small(), x, y, ThreatModel("linf", 8), seed=0)
    attack(small(bounds=(0, 255)), x, y, ThreatModel("linf", 8, steps=1), seed=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", ["fgsm", "pgd"])
@settings(max_examples=12, deadline=None)
@given(eps=st.floats(1e-4, 1.0), low=st.sampled_from([0.0, -1.0, -117.5]), width=st.sampled_from([1.0, 2.0, 255.0]))
def test_perturbation_stays_within_eps_and_bounds(norm: str, method: str, eps: float, low: float, width: float) -> None:
    classifier = small(bounds=(low, low + width))
    x, y = examples()
    x = (low + width * x).clamp(low, low + width)
    found = attack(classifier, x, y, ThreatModel(norm, eps * width, method, steps=4), seed=1)
    assert found.dtype == torch.float32
    assert found.shape == x.shape
    sizes = perturbation_size(found - x, norm)
    assert sizes.max() <= eps * width + 1e-6 * max(1, eps * width, abs(low), abs(low + width))
    assert found.min() >= low
    assert found.max() <= low + width


def test_random_starts_are_uniform_in_the_ball() -> None:
    count = 400
    x = torch.full((count, *SHAPE[1:]), 0.5)
    linf = random_starts(x, ThreatModel("linf", 0.4), seed=0, restart=0, first_index=0) - x
    assert linf.abs().max() <= 0.4 + 1e-6
    assert abs(float(linf.std()) - 0.4 / 3**0.5) < 0.002
    delta = (random_starts(x, ThreatModel("l2", 0.4), seed=0, restart=0, first_index=0) - x).flatten(1)
    lengths, dimension = delta.norm(dim=1), delta.shape[1]
    assert lengths.max() <= 0.4 + 1e-6
    # uniform in the ball: (length / eps) ** dimension is uniform on [0, 1]
    uniform = (lengths.double() / 0.4) ** dimension
    assert abs(float(uniform.mean()) - 0.5) < 0.06
    assert abs(float(uniform.std()) - 12**-0.5) < 0.04
    cosines = F.normalize(delta, dim=1) @ F.normalize(delta, dim=1).T - torch.eye(count)
    assert cosines.abs().max() < 0.5
    assert abs(float(cosines.std()) - dimension**-0.5) < 0.01
    assert delta.view(count, *SHAPE[1:]).std(dim=3).min() > 0, "the start is constant along the width"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_is_found_does_not_depend_on_the_batches(norm: str) -> None:
    """Also not where the caller hands in the images in parts, as a diagnosis does."""
    classifier, (x, y) = small(), examples(count=13)
    threat_model = ThreatModel(norm, 0.1, steps=3, restarts=2)
    whole = attack(classifier, x, y, threat_model, seed=4)
    batches = attack(classifier, x, y, threat_model, seed=4, batch_size=5)
    parts = [attack(classifier, x[i : i + 4], y[i : i + 4], threat_model, seed=4, first_index=i) for i in (0, 4, 8, 12)]
    torch.testing.assert_close(batches, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-5)
    other = attack(classifier, x, y, threat_model, seed=4, first_index=1)
    assert (other - whole).flatten(1).abs().amax(dim=1).min() > 1e-3, "each image has a start of its own"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_is_one_step_of_eps_along_the_gradient(norm: str) -> None:
    classifier, (x, y) = small(), examples()
    x = 0.3 + 0.4 * x
    found = attack(classifier, x, y, ThreatModel(norm, 0.05, "fgsm"), seed=0)
    with classifier.borrowed(), torch.enable_grad():
        moved = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(classifier.run(moved), y, reduction="sum"), moved)
    step = gradient.sign() if norm == "linf" else gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    expected = x + 0.05 * step
    natural = loss_of(classifier, x, y)
    better = loss_of(classifier, expected, y) > natural
    assert better.all()
    assert torch.allclose(found, expected, atol=1e-6)


def test_worst_case_over_restarts_never_gets_better_for_the_defender() -> None:
    classifier, (x, y) = small(), examples(count=40)
    previous = loss_of(classifier, x, y)
    was_wrong = classifier.logits(x).argmax(dim=1) != y
    for restarts in (1, 2, 5):
        found = attack(classifier, x, y, ThreatModel("linf", 0.05, steps=2, restarts=restarts), seed=3)
        wrong, loss = classifier.logits(found).argmax(dim=1) != y, loss_of(classifier, found, y)
        assert bool((wrong | ~was_wrong).all()), "a misclassified example was lost"
        same = wrong == was_wrong
        assert bool((loss[same] >= previous[same] - 1e-6).all())
        was_wrong, previous = wrong, loss


def test_misclassification_beats_a_higher_loss() -> None:
    """Logits read off three pixels: the second candidate is wrong with the lower cross-entropy."""
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3, 3, bias=False)))
    with torch.no_grad():
        classifier.model[1].weight.copy_(10 * torch.eye(3))  # type: ignore[index]  # a Sequential
    x, y = torch.tensor([[1.0, 0.0, 0.0]]).view(1, 1, 1, 3), torch.tensor([0])
    right_but_torn = torch.tensor([[0.6, 0.599, 0.599]]).view(1, 1, 1, 3)  # cross-entropy log 3
    wrong_but_close = torch.tensor([[0.500, 0.501, 0.0]]).view(1, 1, 1, 3)  # cross-entropy log 2
    candidates = iter([right_but_torn, wrong_but_close, right_but_torn])
    found = attack(
        classifier, x, y, ThreatModel("linf", 0.7, restarts=3), seed=0, method=lambda *_, **__: next(candidates)
    )
    assert torch.equal(found, wrong_but_close)


def test_seed_alone_decides_and_the_global_state_is_untouched() -> None:
    classifier, (x, y) = small(), examples()
    threat_model = ThreatModel("linf", 0.1, steps=2)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = attack(classifier, x, y, threat_model, seed=1)
    assert torch.equal(torch.rand(3), expected)
    with classifier.borrowed():  # nested, borrowed() does not put the state back
        torch.manual_seed(5)
        two = attack(classifier, x, y, threat_model, seed=1)
        assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one, two)
    assert not torch.equal(one, attack(classifier, x, y, threat_model, seed=2))


@pytest.mark.parametrize("fails", [False, True])
def test_classifier_is_given_back(fails: bool) -> None:
    classifier, (x, y) = small(), examples()
    model = classifier.model
    model.train()
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    before = copy.deepcopy(model.state_dict())
    if fails:
        with pytest.raises(LabelError):
            attack(classifier, x, y + 4, ThreatModel("linf", 0.1), seed=0)
    else:
        attack(classifier, x, y, ThreatModel("linf", 0.1, steps=2), seed=0)
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in parameters] == [False] + [True] * (len(parameters) - 1)
    assert parameters[1].grad is not None
    assert bool((parameters[1].grad == 1).all())
    assert all(p.grad is None for p in parameters if p is not parameters[1])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "context", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_surroundings_do_not_change_the_attack(context: Callable[[], torch.no_grad]) -> None:
    classifier, (x, y) = small(), examples()
    threat_model = ThreatModel("l2", 0.5, steps=3)
    expected = attack(classifier, x, y, threat_model, seed=1)
    with context():
        found = attack(classifier, x * 1, y, threat_model, seed=1)
    assert torch.equal(found, expected)


class Blind(nn.Module):
    """No gradient reaches the image."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.linear = how, nn.Linear(3 * 5 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "detached":
            logits: Tensor = self.linear(x.detach().flatten(1))
        else:
            with torch.no_grad():
                logits = self.linear(x.flatten(1))
        return logits


@pytest.mark.parametrize("how", ["detached", "no_grad"])
def test_no_gradient_is_an_error(how: str) -> None:
    x, y = examples()
    with pytest.raises(ModelError, match="gradients reach the images"):
        attack(Classifier(Blind(how)), x, y, ThreatModel("linf", 0.1), seed=0)
    with pytest.raises(ModelError, match="gradients reach the images"):
        require_gradient(Classifier(Blind(how)), x)


class Keeps(nn.Module):
    """Keeps what it saw last, with the history that autograd gave it, and adds half of it to what it sees next."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.last = nn.Linear(3 * 5 * 9, 4), torch.zeros(1, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.linear(x.flatten(1)) + 0.5 * self.last.mean(dim=0)
        return self.last


def hooked() -> nn.Module:
    """With what a saliency map leaves behind, before an activation in place."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 9, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
    model[1].register_full_backward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize("make", [hooked, Keeps])
def test_a_model_that_fails_with_gradients_is_refused_in_a_line(make: Callable[[], nn.Module]) -> None:
    x, y = examples()
    with pytest.raises(ModelError, match=r"gradients reach the images, got one that fails with RuntimeError.*hooks"):
        attack(Classifier(make()), x, y, ThreatModel("linf", 0.1), seed=0)


def test_weights_that_the_model_does_not_know_are_refused() -> None:
    class Hides(nn.Module):
        def __init__(self, blocks: Callable[[list[nn.Module]], Any]) -> None:
            super().__init__()
            self.blocks, self.fc = blocks([nn.Linear(3 * 5 * 9, 6)]), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(self.blocks[0](x.flatten(1)))
            return logits

    x, _ = examples()
    require_gradient(Classifier(Hides(nn.ModuleList)), x)
    prepared = Hides(nn.ModuleList)  # as a library prepares a network whose adapters alone are to learn
    prepared.register_forward_pre_hook(lambda _, given: given[0].requires_grad_())
    require_gradient(Classifier(prepared), x)
    with pytest.raises(ModelError, match=r"knows all its weights, got one of shape \[6.*; keep its modules in nn"):
        require_gradient(Classifier(Hides(list)), x)


def test_what_is_found_on_the_way_is_kept() -> None:
    """A method that shows the model an adversarial image, and others outside the threat model, and returns none."""
    classifier, (x, y) = small(), examples()
    y = classifier.logits(x).argmax(dim=1)
    threat_model = ThreatModel("linf", 0.3, steps=10)
    expected = attack(classifier, x, y, threat_model, seed=0)
    fooled = classifier.logits(expected).argmax(dim=1) != y
    assert fooled.any()
    far = (x + 0.35).clamp(0, 1), expected - 2, torch.full_like(x, torch.nan)

    def forgetful(run: Callable[[Tensor], Tensor], natural: Tensor, *_: object, **__: object) -> Tensor:
        for image in (expected, *far):
            run(image)
        return natural

    found = attack(classifier, x, y, threat_model, seed=0, method=forgetful)
    assert torch.equal(found[fooled], expected[fooled])


def test_the_best_iterate_is_at_least_as_good_as_the_last() -> None:
    """Steps as long as eps overshoot: the last iterate loses some that were found before."""
    classifier, (x, y) = small(), examples(count=60)
    threat_model = ThreatModel("linf", 0.08, steps=9, step_size=0.08)
    with classifier.borrowed(), torch.enable_grad():
        start = random_starts(x, threat_model, seed=4, restart=0, first_index=0)
        last = search(classifier.run, x, y, threat_model, classifier.bounds, start=start)
    best = attack(classifier, x, y, threat_model, seed=4)
    assert bool((loss_of(classifier, best, y) >= loss_of(classifier, last, y) - 1e-6).all())
    assert bool((loss_of(classifier, best, y) > loss_of(classifier, last, y) + 1e-4).any())


@pytest.mark.parametrize(
    "bad",
    [
        {"norm": "l1"},
        {"attack": "apgd"},
        {"eps": 0},
        {"eps": -0.1},
        {"eps": float("nan")},
        {"eps": float("inf")},
        {"eps": "0.1"},
        {"steps": 0},
        {"steps": 2.5},
        {"restarts": 0},
        {"restarts": True},
        {"step_size": 0.0},
        {"attack": "fgsm", "restarts": 2},
        {"attack": "fgsm", "step_size": 0.05},
    ],
)
def test_refused_threat_models(bad: dict[str, object]) -> None:
    with pytest.raises(ThreatModelError):
        ThreatModel(**({"norm": "linf", "eps": 0.1} | bad))  # type: ignore[arg-type]  # on purpose


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    numbers: dict[str, Any] = {"eps": np.float32(0.5), "steps": np.int64(3), "step_size": torch.tensor(0.25)}
    found = ThreatModel("linf", **numbers)
    assert found == ThreatModel("linf", 0.5, steps=3, step_size=0.25)
    assert [type(value) for value in (found.eps, found.steps, found.step_size)] == [float, int, float]


def test_step_sizes() -> None:
    assert ThreatModel("linf", 0.2).resolved_step_size == pytest.approx(0.05)
    assert ThreatModel("linf", 0.3, steps=3).resolved_step_size == pytest.approx(0.25)
    assert ThreatModel("l2", 2, steps=20).resolved_step_size == pytest.approx(0.25)
    assert ThreatModel("linf", 0.2, steps=1).resolved_step_size == pytest.approx(0.2)
    fgsm = ThreatModel("linf", 0.2, "fgsm")
    assert fgsm.to_dict() == {"norm": "linf", "eps": 0.2, "attack": "fgsm", "steps": 1, "restarts": 1, "step_size": 0.2}


def test_refused_inputs() -> None:
    classifier, (x, y) = small(), examples()
    threat_model = ThreatModel("linf", 0.1)
    for labels in (y[:3], y.float(), y + 4, y - 5, y[:, None]):
        with pytest.raises(LabelError):
            attack(classifier, x, labels, threat_model, seed=0)
    with pytest.raises(ImageError):
        attack(classifier, x + 1, y, threat_model, seed=0)
    with pytest.raises(ThreatModelError, match="size"):
        check_perturbation(x, (x + 0.2).clamp(0, 1), threat_model, (0, 1))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_noise_has_the_size_of_the_attack(norm: str) -> None:
    threat_model, random = ThreatModel(norm, 0.2), torch.Generator().manual_seed(0)
    for x in (torch.zeros(SHAPE), torch.ones(SHAPE), torch.rand(SHAPE, generator=random).round(decimals=1)):
        one, two = (equal_norm_noise(x, threat_model, (0, 1), seed=s) for s in (1, 2))
        assert 0 <= one.min() <= one.max() <= 1
        size = perturbation_size(one - x, norm)
        assert torch.allclose(size, torch.full_like(size, 0.2), atol=1e-5)
        halves = [equal_norm_noise(x[i : i + 2], threat_model, (0, 1), seed=1, first_index=i) for i in range(0, 4, 2)]
        assert torch.equal(torch.cat(halves), one[:4])
    assert not torch.equal(one, two)


def test_scrambled_noise_has_the_sizes_of_the_perturbation_and_may_be_smooth() -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 1, 28, 28) * (torch.rand(4, 1, 28, 28) < 0.5)  # half of it black
    perturbation = 0.2 * torch.rand_like(x).round()
    alike = []
    for smooth in (False, True):
        moved = scrambled(x, perturbation, (0, 1), seed=0, smooth=smooth) - x
        for image, sizes in zip(moved, perturbation, strict=True):
            assert torch.allclose(image.abs().flatten().sort().values, sizes.flatten().sort().values, atol=1e-6)
        still = moved.abs() < 0.1
        alike.append(float((still[..., 1:] == still[..., :-1]).float().mean()))
    assert alike[0] < 0.6
    assert alike[1] > alike[0] + 0.06


def test_varied_noise_is_none_white_fine_and_coarse_in_turn() -> None:
    noise = varied_noise((2000, 1, 28, 28), 0.3, random=torch.Generator().manual_seed(0))
    sizes = noise.abs().flatten(1)
    assert (sizes == sizes[:, :1]).all()
    assert not sizes[::4].any()
    moved = sizes[torch.arange(2000) % 4 > 0, 0]
    assert 0 < moved.min() < 0.01
    assert 0.299 < moved.max() < 0.3
    assert float((moved < 0.15).float().mean()) == pytest.approx(1 / 4, abs=0.03)  # as the square root of a uniform one
    alike = [float((noise[kind::4, ..., 1:] == noise[kind::4, ..., :-1]).float().mean()) for kind in (1, 2, 3)]
    assert alike == sorted(alike)
    assert alike[0] == pytest.approx(2 / 3, abs=0.01)  # two pixels that move alike by chance, over all shares
    assert alike[1] > 0.75
    assert alike[2] > 0.87
    for kind in (1, 2, 3):
        up = (noise[kind::4] > 0).float().flatten(1).mean(dim=1)
        assert float(up.mean()) == pytest.approx(1 / 2, abs=0.05)
        for share in (0.1, 0.5, 0.9):
            assert float((up < share).float().mean()) == pytest.approx(share, abs=0.08)


def test_noise_is_as_large_as_fits_where_eps_does_not() -> None:
    found = equal_norm_noise(torch.full(SHAPE, 0.4), ThreatModel("linf", 0.8), (0, 1), seed=0)
    assert set(found.flatten().tolist()) == {1.0}


def test_large_images_are_attacked_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [at_a_time(torch.empty(0, 3, side, side)) for side in (28, 64, 224, 2000)] == [256, 256, 27, 1]
    torch.manual_seed(0)
    classifier, sizes = Classifier(Tiny(1, (12, 20))), list[int]()
    classifier.model.register_forward_pre_hook(lambda _module, given: sizes.append(len(given[0])))
    monkeypatch.setattr("interpretgan.attacks.gradient.NUMBERS", 4 * 12 * 20)
    attack(classifier, torch.rand(10, 1, 12, 20), torch.arange(10), ThreatModel("linf", 0.1, steps=1), seed=0)
    assert max(sizes) == 4
    wrong: Any
    for wrong in ([1.0], None, "images"):
        with pytest.raises(ImageError):
            attack(classifier, wrong, torch.arange(1), ThreatModel("linf", 0.1), seed=0)
