"""Each objective against a slow oracle that is written from its paper, and the table of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from interpretgan.attacks import ThreatModel, perturbation_size
from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError, ThreatModelError
from interpretgan.training import OBJECTIVES, AdversarialTraining, Batch, Objective, Trades, build_objective
from interpretgan.training.objectives import fast_training


def network() -> Classifier:
    """A small net with BatchNorm, whose mode in the inner attack is part of the objective."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).double()
    with torch.no_grad():
        model[1].running_mean.fill_(0.1)  # type: ignore[operator]  # a BatchNorm
    model.train()
    return Classifier(model)


def batch(progress: float = 1.0) -> Batch:
    draw = torch.Generator().manual_seed(3)
    images = torch.rand(6, 1, 8, 8, generator=draw, dtype=torch.float64)
    labels = torch.randint(5, (6,), generator=draw)
    return Batch(images, labels, torch.arange(6), progress, 0, torch.Generator().manual_seed(4))


def cross_entropy_oracle(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over examples of log sum exp minus the true logit."""
    each = [torch.log(torch.exp(row).sum()) - row[y] for row, y in zip(logits, labels, strict=True)]
    return torch.stack(each).mean()


def divergence_oracle(natural: Tensor, perturbed: Tensor) -> Tensor:
    """Mean over examples of sum_k p_k (log p_k - log q_k), p of the natural image."""
    p, q = natural.exp() / natural.exp().sum(1, keepdim=True), perturbed.exp() / perturbed.exp().sum(1, keepdim=True)
    return (p * (p.log() - q.log())).sum(1).mean()


def climb(
    x: Tensor, start: Tensor, loss_of: Callable[[Tensor], Tensor], *, eps: float, step: float, steps: int
) -> Tensor:
    """Signed steps, projected onto the ball and the pixels, one example and one coordinate rule at a time."""
    found = start
    for _ in range(steps):
        z = found.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss_of(z), z)
        moved = found + step * gradient.sign()
        found = torch.max(torch.min(moved, x + eps), x - eps).clamp(0, 1).detach()
    return found


def seen_by(classifier: Classifier, objective: Objective, example: Batch) -> tuple[Tensor, list[tuple[Tensor, bool]]]:
    """The loss, and each input that the network was given with its mode."""
    passes: list[tuple[Tensor, bool]] = []
    handle = classifier.model.register_forward_pre_hook(
        lambda module, args: passes.append((args[0].detach().clone(), module.training))
    )
    loss, _ = objective.loss(classifier, example)
    handle.remove()
    return loss, passes


@pytest.mark.parametrize(("eps", "step", "steps"), [(0.1, 0.04, 5), (0.1, 0.125, 1)], ids=["pgd", "fast"])
def test_adversarial_training_against_the_oracle(eps: float, step: float, steps: int) -> None:
    objective = (
        fast_training("linf", eps)
        if steps == 1
        else AdversarialTraining(ThreatModel("linf", eps, "pgd", steps, 1, step))
    )
    classifier, oracle, example = network(), network(), batch()
    loss, passes = seen_by(classifier, objective, example)
    assert [training for _, training in passes] == [False] * steps + [True], "the attack sees running statistics"
    start = passes[0][0]  # drawn by the library: only its law can be checked
    x, y = example.images, example.labels
    assert perturbation_size(start - x, "linf").max() <= eps + 1e-9
    assert (start - x).abs().max() > eps / 2
    oracle.model.eval()
    found = climb(x, start, lambda z: cross_entropy_oracle(oracle.model(z), y), eps=eps, step=step, steps=steps)
    torch.testing.assert_close(passes[-1][0], found)
    oracle.model.train()
    torch.testing.assert_close(loss.double(), cross_entropy_oracle(oracle.model(found), y))


def test_trades_against_the_oracle() -> None:
    objective = Trades(ThreatModel("linf", 0.1, "pgd", 4, 1, 0.04), beta=2.5)
    classifier, oracle, example = network(), network(), batch()
    loss, passes = seen_by(classifier, objective, example)
    x, y = example.images, example.labels
    assert [training for _, training in passes] == [False] * 5 + [True, True]
    start = passes[1][0]
    assert 0 < (start - x).abs().max() < 0.01, "a little noise, not a point of the ball"
    oracle.model.eval()
    with torch.no_grad():
        natural = oracle.model(x)
    found = climb(x, start, lambda z: divergence_oracle(natural, oracle.model(z)), eps=0.1, step=0.04, steps=4)
    torch.testing.assert_close(passes[-1][0], found)
    oracle.model.train()
    natural, perturbed = oracle.model(x), oracle.model(found)
    expected = cross_entropy_oracle(natural, y) + 2.5 * divergence_oracle(natural, perturbed)
    torch.testing.assert_close(loss.double(), expected)
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in classifier.model[:2].parameters())  # type: ignore[index]


@pytest.mark.parametrize("objective", [AdversarialTraining, Trades], ids=["pgd", "trades"])
def test_l2_objectives_stay_in_the_ball(objective: type[AdversarialTraining] | type[Trades]) -> None:
    classifier, example = network(), batch()
    _, passes = seen_by(classifier, objective(ThreatModel("l2", 0.5, steps=3)), example)
    sizes = perturbation_size(passes[-1][0] - example.images, "l2")
    assert sizes.max() <= 0.5 + 1e-6
    assert sizes.min() > 0.05


def test_the_generator_decides() -> None:
    for objective in (build_objective("pgd", eps=0.1), build_objective("trades", eps=0.1)):
        torch.manual_seed(1)
        one, _ = objective.loss(network(), batch())
        torch.manual_seed(2)
        two, _ = objective.loss(network(), batch())
        assert torch.equal(one, two)


def test_warmup_grows_to_the_full_size() -> None:
    threat_model = ThreatModel("linf", 0.4, steps=3, step_size=0.1)
    objective = AdversarialTraining(threat_model, warmup=0.5)
    sizes = [objective.inner(done) for done in (0.0, 0.1, 0.3, 0.5, 1.0)]
    assert [tm.eps for tm in sizes] == sorted(tm.eps for tm in sizes)
    assert sizes[0].eps == pytest.approx(0.02)
    assert sizes[-1] == sizes[-2] == threat_model
    assert all(tm.resolved_step_size / tm.eps == pytest.approx(0.25) for tm in sizes)
    assert AdversarialTraining(threat_model).inner(0.0) == threat_model


def test_one_step_first_is_fast_training_while_eps_grows() -> None:
    threat_model = ThreatModel("linf", 0.4, steps=3)
    growing = AdversarialTraining(threat_model, warmup=0.5)
    one_step = AdversarialTraining(threat_model, warmup=0.5, one_step_first=True)
    early = one_step.inner(0.3)
    assert (early.eps, early.steps) == (growing.inner(0.3).eps, 1)
    assert early.step_size == pytest.approx(1.25 * early.eps)
    assert one_step.inner(0.5) == threat_model


def test_natural_share_mixes_the_two_losses() -> None:
    threat_model = ThreatModel("linf", 0.1, steps=1)
    values = [
        float(AdversarialTraining(threat_model, natural_share=share).loss(network(), batch())[0].detach())
        for share in (0.0, 1.0, 0.25)
    ]
    assert values[0] > values[1]
    # the first and third have BatchNorm statistics of the same batches, so the mix is exact
    assert values[2] == pytest.approx(0.75 * values[0] + 0.25 * values[1])


def test_refused_settings() -> None:
    threat_model = ThreatModel("linf", 0.1)
    for make in (
        lambda: AdversarialTraining(threat_model, warmup=1.5),
        lambda: AdversarialTraining(threat_model, natural_share=-0.1),
        lambda: Trades(threat_model, beta=0),
        lambda: Trades(threat_model, warmup=2),
    ):
        with pytest.raises(ConfigError):
            make()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_of_the_table_is_built_by_name(name: str) -> None:
    objective = build_objective(name, eps=None if name == "natural" else 8 / 255)
    assert (objective.selection is None) == (name == "natural")
    loss, logits = objective.loss(network(), batch())
    assert loss.ndim == 0
    assert logits.shape == (6, 5)


def test_what_is_told_is_what_is_built() -> None:
    objective = build_objective("trades", eps=0.3, norm="l2", steps=4, step_size=0.2, beta=2)
    assert isinstance(objective, Trades)
    assert objective.threat_model == ThreatModel("l2", 0.3, "pgd", 4, 1, 0.2)
    assert objective.beta == 2
    fast = build_objective("fast", eps=0.3)
    assert isinstance(fast, AdversarialTraining)
    assert fast.threat_model.steps == 1
    assert fast.threat_model.resolved_step_size == pytest.approx(0.375)


def test_bad_input_of_the_table() -> None:
    with pytest.raises(ConfigError, match="natural, fast, pgd, trades"):
        build_objective("mart", eps=0.3)
    with pytest.raises(ConfigError, match="expected an eps for the objective trades"):
        build_objective("trades")
    with pytest.raises(ConfigError, match="no setting for natural"):
        build_objective("natural", eps=0.3)
    with pytest.raises(ConfigError, match="eps, steps, step_size for pgd"):
        build_objective("pgd", eps=0.3, beta=6)
    with pytest.raises(ConfigError, match="below 1, the range of the pixels"):
        build_objective("pgd", eps=8.0)
    assert build_objective("pgd", eps=8.0, bounds=(0, 255)).selection == ThreatModel("linf", 8.0, steps=10)
    with pytest.raises(ThreatModelError, match="eps > 0"):
        build_objective("pgd", eps=0.0)
