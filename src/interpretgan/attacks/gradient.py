"""Attacks that climb the loss: the search for adversarial examples, and the worst that it finds for each image.

The steps are foolbox's. This file states what was asked for, keeps the worst case and checks what came back.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpretgan.attacks.noise import random_starts, seeded
from interpretgan.attacks.threat_model import (
    Bounds,
    ThreatModel,
    check_perturbation,
    perturbation_size,
    require_eps_within_range,
)
from interpretgan.classifier import Classifier, require_classifier
from interpretgan.errors import InterpretGANError, ModelError, in_a_line
from interpretgan.layers import run_frozen
from interpretgan.torch_state import as_seed, plain_torch

Run: TypeAlias = Callable[[Tensor], Tensor]  #: Images `[N, C, H, W]` to logits `[N, K]`.
Search: TypeAlias = Callable[..., Tensor]  #: One run of an attack, called as `search` is, without a loss.

LARGEST_BATCH = 256  # images that are attacked together, at most,
NUMBERS = 2**22  # and as many as have so many numbers
REACHED = "a model through which gradients reach the images"


@plain_torch()
def attack(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    threat_model: ThreatModel,
    *,
    seed: int,
    batch_size: int | None = None,
    first_index: int = 0,
    method: Search | None = None,
) -> Tensor:
    """The worst image that the attack finds for each example.

    Candidates are the natural image, the result of each restart, and the first image within the threat model that
    misleads the classifier on the way there. A misclassified one beats a correctly classified one, then the higher
    cross-entropy wins; both against the true label. Always full precision, also inside autocast.

    Args:
        classifier: Attacked in eval mode with frozen parameters, and given back as it was.
        images: Floating point `[N, C, H, W]` within the classifier's bounds.
        labels: True classes, int64 `[N]`.
        threat_model: Size and search.
        seed: Of the random starts. The global random state is left alone.
        batch_size: Images that are attacked at a time. It decides memory and speed, not the random starts. `None`:
            256, and fewer of images of more than 16,384 numbers (`at_a_time`).
        first_index: Number of the first image, where these are a part of more: a random start follows from the seed
            and the number of the image, so that parts find what the whole would.
        method: Another search than the threat model's own, held to the same norm, eps and restarts. `None`: `search`.

    Returns:
        float32 `[N, C, H, W]` on the classifier's device, within the bounds and within eps of `images`.

    Raises:
        ImageError, LabelError: Images or labels of the wrong shape, type or range.
        ModelError: No gradient reaches the input, or the output is not logits.
        ThreatModelError: An eps beyond the range of the pixels, or the attack left the allowed ball.
        ConfigError: A seed that is none.
    """
    found, seed = list[Tensor](), as_seed(seed)
    with ready(classifier, images, labels, seed=seed) as (natural, classes):
        require_eps_within_range(threat_model, classifier.bounds, natural.shape[1:])
        batch_size = max(1, at_a_time(natural) if batch_size is None else batch_size)
        for first in range(0, len(natural), batch_size):
            x, y = natural[first : first + batch_size], classes[first : first + batch_size]
            worst = _Worst(classifier, x, y, threat_model)
            worst.compare(x)
            for restart in range(threat_model.restarts):
                start = None
                if threat_model.attack == "pgd":
                    start = random_starts(x, threat_model, seed=seed, restart=restart, first_index=first_index + first)
                worst.compare((method or search)(worst.watched, x, y, threat_model, classifier.bounds, start=start))
            found.append(worst.images)
    adversarial = torch.cat(found)
    check_perturbation(natural, adversarial, threat_model, classifier.bounds)
    return adversarial


def at_a_time(images: Tensor) -> int:
    """How many of the images `[N, C, H, W]` go through a network together, with gradients."""
    return max(1, min(LARGEST_BATCH, NUMBERS // max(1, images.shape[1:].numel())))


@contextmanager
def ready(classifier: Classifier, images: Tensor, labels: Tensor, *, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Checked images and labels, while the classifier is borrowed, in full precision, with gradients and a seed."""
    require_classifier(classifier)
    images = classifier.check_images(images).detach().to(torch.float32)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        classifier.borrowed(),
        torch.autocast(images.device.type, enabled=False),
        seeded(images.device, seed),
    ):
        images = images.clone()  # an inference tensor from outside cannot take part in autograd
        labels = classifier.check_labels(labels, images)
        input_gradient(classifier, images[:1], labels[:1])  # raises if there is none
        yield images, labels


class _Worst:
    """The worst image of each example, of those that were compared, and that misled the classifier while watched."""

    def __init__(self, classifier: Classifier, x: Tensor, y: Tensor, threat_model: ThreatModel) -> None:
        self.images = x
        self._classifier, self._x, self._y, self._norm = classifier, x, y, threat_model.norm
        self._most = threat_model.allowed(classifier.bounds)
        self._wrong = torch.zeros_like(y, dtype=torch.bool)
        self._loss = torch.full(y.shape, -math.inf, device=y.device)

    def watched(self, images: Tensor) -> Tensor:
        """The logits of images on an attack's way. Little is done for examples that are misclassified already."""
        logits = self._classifier.run(images)
        with torch.no_grad():
            new = (logits.argmax(dim=1) != self._y) & ~self._wrong
            if new.device.type != "cpu" or new.any():  # to ask a GPU would be to wait for it
                self._keep(images, logits, new)
        return logits

    @torch.no_grad()
    def compare(self, images: Tensor) -> None:
        """Keep those images that are worse than what was kept before."""
        logits = self._classifier.run(images)
        wrong, loss = logits.argmax(dim=1) != self._y, F.cross_entropy(logits.float(), self._y, reduction="none")
        self._keep(images, logits, (wrong & ~self._wrong) | ((wrong == self._wrong) & (loss > self._loss)))

    def _keep(self, images: Tensor, logits: Tensor, worse: Tensor) -> None:
        images, logits, low, high = images.detach(), logits.detach(), *self._classifier.bounds
        flat = images.flatten(1)
        worse = worse & (perturbation_size(images - self._x, self._norm) <= self._most)
        worse &= (flat.amin(dim=1) >= low) & (flat.amax(dim=1) <= high)
        self.images = torch.where(worse.view(-1, 1, 1, 1), images, self.images)
        self._wrong = torch.where(worse, logits.argmax(dim=1) != self._y, self._wrong)
        self._loss = torch.where(worse, F.cross_entropy(logits.float(), self._y, reduction="none"), self._loss)


class Logits(nn.Module):
    """The module that attack libraries want: float32 logits of images, by a function that leaves the model alone."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images."""
        return self._run(images).float()


def search(
    run: Run,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    bounds: Bounds,
    *,
    start: Tensor | None = None,
    loss: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """One run of the attack from one start, unchecked: the core of `attack` and of adversarial training.

    Call it with gradients enabled, the model in eval mode and its parameters frozen. It gives the last iterate for
    images `x` `[N, C, H, W]` within the bounds and true classes `y` `[N]`; restarts are the caller's. PGD begins at
    `start`, or where that is `None` at a point drawn uniformly from the ball by the global random state. It maximises
    `loss`, logits `[N, K]` to a scalar summed over the examples; `None`: cross-entropy.
    """
    from eagerpy.astensor import astensor
    from foolbox.attacks import fast_gradient_method as fgm, projected_gradient_descent as pgd
    from foolbox.criteria import Misclassification
    from foolbox.models.pytorch import PyTorchModel

    tm, linf = threat_model, threat_model.norm == "linf"
    model, wrong = PyTorchModel(Logits(run), bounds=bounds, device=x.device), Misclassification(y)
    if tm.attack == "fgsm":
        one_step = fgm.LinfFastGradientAttack() if linf else fgm.L2FastGradientAttack()
        with _differentiable():
            found: Tensor = one_step.run(model, x, wrong, epsilon=tm.eps)
    else:
        descent = pgd.LinfProjectedGradientDescentAttack if linf else pgd.L2ProjectedGradientDescentAttack
        # the step is ours: foolbox's own default, a fortieth of eps or less, is too short for few steps
        method = descent(abs_stepsize=tm.resolved_step_size, steps=tm.steps, random_start=True)
        if loss is not None:
            # foolbox says of this method and the next that users can override them
            method.get_loss_fn = lambda model, labels: lambda inputs: astensor(loss(model(inputs).raw))  # type: ignore[method-assign]
        if start is not None:
            method.get_random_start = lambda *_: astensor(start)  # type: ignore[method-assign]
        with _differentiable():
            found = method.run(model, x, wrong, epsilon=tm.eps)
    return found.detach()


@contextmanager
def _differentiable() -> Iterator[None]:
    """Whatever the model raises in a pass with gradients becomes one line, a `ModelError`."""
    try:
        yield
    except (InterpretGANError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        do = "remove its hooks, its changes in place, or what it keeps from pass to pass without detach"
        raise ModelError(expected=REACHED, got=f"one that fails with {in_a_line(error)}", do=do) from error


@plain_torch()
def require_gradient(classifier: Classifier, images: Tensor) -> None:
    """Raise `ModelError` unless gradients reach the images: neither attacks nor InterpretGAN work without."""
    x = classifier.check_images(images[:1])
    classifier.logits(x)  # any other fault of the model has a message of its own
    run_frozen(classifier, x)
    with torch.inference_mode(False), torch.enable_grad(), classifier.borrowed():
        input_gradient(classifier, x, torch.zeros(1, dtype=torch.int64, device=x.device))


def input_gradient(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the summed cross-entropy at the images, `[N, C, H, W]`; `ModelError` where there is none.

    Call it inside `borrowed()`, with gradients enabled.
    """
    x = x.detach().clone().requires_grad_()
    with _differentiable():
        loss = F.cross_entropy(classifier.run(x).float(), y, reduction="sum")
        gradient = torch.autograd.grad(loss, x, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        do = "remove no_grad, detach or numpy from its forward pass, or pass the differentiable model"
        raise ModelError(expected=REACHED, got="an output that does not depend on them differentiably", do=do)
    return gradient
