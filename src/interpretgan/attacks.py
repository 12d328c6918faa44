"""Adversarial examples under a stated threat model, the noise control, and doubts about the result.

The attacks themselves are foolbox's; this module states what was asked for, keeps the worst case per example
and checks what came back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpretgan.classifier import Classifier, check_logits
from interpretgan.errors import LabelError, ModelError, ThreatModelError

NORMS = ("linf", "l2")
ATTACKS = ("fgsm", "pgd")
TOLERANCE = 1e-6
"""Rounding allowed above eps: relative to the largest of one, eps and the size of a pixel, as float32 rounds."""

Run: TypeAlias = Callable[[Tensor], Tensor]
"""Images `[N, C, H, W]` to logits `[N, K]`."""
Bounds: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class ThreatModel:
    """What the adversary may do: `x'` with `||x' - x|| <= eps` inside the pixel bounds, and how it searches.

    Attributes:
        norm: `"linf"` (largest change of a pixel) or `"l2"` (Euclidean length over all pixels and channels).
        eps: Size of the perturbation, > 0, in the units of the pixels.
        attack: `"pgd"` [25], iterated with a random start, or `"fgsm"` [27], one step of size eps.
        steps: Iterations of PGD; FGSM has one.
        restarts: Random starts, of which the worst case per example counts. FGSM has no random start.
        step_size: Length of a step. `None`: eps for FGSM; eps / 4 for L-infinity PGD of 10 steps or more (the
            usual choice, e.g. 0.05 at 0.2 and 2/255 at 8/255); else 2.5 eps / steps (as in Madry et al.
            [25]), at most eps.

    Raises:
        ThreatModelError: A setting out of range.
    """

    norm: str
    eps: float
    attack: str = "pgd"
    steps: int = 20
    restarts: int = 1
    step_size: float | None = None

    def __post_init__(self) -> None:
        """Check every setting."""
        if self.norm not in NORMS:
            raise ThreatModelError(expected="a norm of linf or l2", got=repr(self.norm), do="choose one of them")
        if self.attack not in ATTACKS:
            raise ThreatModelError(expected="an attack of fgsm or pgd", got=repr(self.attack), do="choose one of them")
        for name in ("eps", "step_size"):
            value = getattr(self, name)
            if value is None and name == "step_size":
                continue
            if not _is_number(value) or not 0 < value < math.inf:
                raise ThreatModelError(
                    expected=f"a finite {name} > 0",
                    got=repr(value),
                    do="state it in the units of the pixels, e.g. 0.2 for images in [0, 1]",
                )
            object.__setattr__(self, name, float(value))
        for name in ("steps", "restarts"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ThreatModelError(expected=f"a whole number of {name} >= 1", got=repr(value), do=f"raise {name}")
        if self.attack == "fgsm":
            if self.restarts > 1 or self.step_size not in (None, self.eps):
                raise ThreatModelError(
                    expected="fgsm with one restart and a step of eps",
                    got=f"restarts={self.restarts}, step_size={self.step_size}",
                    do="leave both at their defaults, or use pgd",
                )
            object.__setattr__(self, "steps", 1)  # the default belongs to PGD; the record states what is run

    @property
    def resolved_step_size(self) -> float:
        """The step that is taken, in the units of the pixels."""
        if self.step_size is not None:
            return self.step_size
        if self.attack == "fgsm":
            return self.eps
        if self.norm == "linf" and self.steps >= 10:
            return self.eps / 4
        return min(self.eps, 2.5 * self.eps / self.steps)

    def to_dict(self) -> dict[str, Any]:
        """All settings, the step size resolved."""
        return asdict(self) | {"step_size": self.resolved_step_size}


Search: TypeAlias = Callable[[Run, Tensor, Tensor, ThreatModel, Bounds], Tensor]
"""One run of an attack, as `search` is: logits, images, true classes, threat model, bounds to its last images."""


def attack(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    threat_model: ThreatModel,
    *,
    seed: int,
    batch_size: int = 256,
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
        batch_size: Images that are attacked at a time; the random starts depend on it.
        method: Another search than the threat model's own, held to the same norm, eps and restarts. `None`: `search`.

    Returns:
        float32 `[N, C, H, W]` on the classifier's device, within the bounds and within eps of `images`.

    Raises:
        ImageError: See `Classifier`.
        LabelError: Labels of the wrong shape, type or range.
        ModelError: No gradient reaches the input, or the output is no logits.
        ThreatModelError: The attack library left the allowed ball.
    """
    images = classifier.check_images(images).detach().to(torch.float32)
    batch_size = max(1, batch_size)
    found = []
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        classifier.borrowed(),
        torch.autocast(images.device.type, enabled=False),
        seeded(images.device, seed),
    ):
        images = images.clone()  # an inference tensor from outside cannot take part in autograd
        labels = check_labels(labels, len(images), classifier, images[:1])
        input_gradient(classifier, images[:1], labels[:1])  # raises if there is none
        for start in range(0, len(images), batch_size):
            x, y = images[start : start + batch_size], labels[start : start + batch_size]
            found.append(_worst_case(classifier, x, y, threat_model, method or search))
    adversarial = torch.cat(found)
    check_perturbation(images, adversarial, threat_model, classifier.bounds)
    return adversarial


def _worst_case(classifier: Classifier, x: Tensor, y: Tensor, threat_model: ThreatModel, method: Search) -> Tensor:
    worst = _Worst(classifier, x, y, threat_model)
    worst.compare(x)
    for _ in range(threat_model.restarts):
        worst.compare(method(worst.watched, x, y, threat_model, classifier.bounds))
    return worst.images


class _Worst:
    """The worst image of each example, of those that were compared, and that misled the classifier while watched."""

    def __init__(self, classifier: Classifier, x: Tensor, y: Tensor, threat_model: ThreatModel) -> None:
        self.images = x
        self._classifier, self._x, self._y, self._norm = classifier, x, y, threat_model.norm
        self._most = threat_model.eps + _slack(threat_model, classifier.bounds)
        self._wrong = torch.zeros_like(y, dtype=torch.bool)
        self._loss = torch.full(y.shape, -math.inf, device=y.device)

    def watched(self, images: Tensor) -> Tensor:
        """The logits of images on an attack's way. Little is done for examples that are misclassified already."""
        logits = self._classifier.run(images)
        with torch.no_grad():
            new = (logits.argmax(dim=1) != self._y) & ~self._wrong
            if new.any():
                self._keep(images, logits, new)
        return logits

    @torch.no_grad()
    def compare(self, images: Tensor) -> None:
        """Keep those images that are worse than what was kept before."""
        logits = self._classifier.run(images)
        wrong, loss = logits.argmax(dim=1) != self._y, self._loss_of(logits)
        self._keep(images, logits, (wrong & ~self._wrong) | ((wrong == self._wrong) & (loss > self._loss)))

    def _keep(self, images: Tensor, logits: Tensor, worse: Tensor) -> None:
        images, logits, low, high = images.detach(), logits.detach(), *self._classifier.bounds
        flat = images.flatten(1)
        worse = worse & (perturbation_size(images - self._x, self._norm) <= self._most)
        worse &= (flat.amin(dim=1) >= low) & (flat.amax(dim=1) <= high)
        self.images = torch.where(worse.view(-1, 1, 1, 1), images, self.images)
        self._wrong = torch.where(worse, logits.argmax(dim=1) != self._y, self._wrong)
        self._loss = torch.where(worse, self._loss_of(logits), self._loss)

    def _loss_of(self, logits: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), self._y, reduction="none")


class Logits(nn.Module):
    """The module that attack libraries want: float32 logits of images.

    Args:
        run: Images to logits. A function, so that the user's model is not registered or moved.
    """

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
    loss: Callable[[Tensor], Tensor] | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """One run of the attack from one start, unchecked: the core of `attack` and of adversarial training.

    Call it with gradients enabled, the model in eval mode and its parameters frozen. Random starts come from
    the global random state.

    Args:
        run: Images to logits.
        x: Images `[N, C, H, W]` within `bounds`.
        y: True classes `[N]`.
        threat_model: Size and search; restarts are the caller's.
        bounds: Lowest and highest value of a pixel.
        loss: What PGD maximises: logits `[N, K]` to a scalar, summed over the examples. `None`: cross-entropy.
        start: Where PGD starts, `[N, C, H, W]`. `None`: drawn uniformly from the ball.

    Returns:
        The last iterate, `[N, C, H, W]`.
    """
    from eagerpy.astensor import astensor
    from foolbox.attacks.fast_gradient_method import L2FastGradientAttack, LinfFastGradientAttack
    from foolbox.attacks.projected_gradient_descent import (
        L2ProjectedGradientDescentAttack,
        LinfProjectedGradientDescentAttack,
    )
    from foolbox.criteria import Misclassification
    from foolbox.models.pytorch import PyTorchModel

    tm = threat_model
    model = PyTorchModel(Logits(run), bounds=bounds, device=x.device)
    if tm.attack == "fgsm":
        one_step = LinfFastGradientAttack if tm.norm == "linf" else L2FastGradientAttack
        found: Tensor = one_step().run(model, x, Misclassification(y), epsilon=tm.eps)
    else:
        iterated = LinfProjectedGradientDescentAttack if tm.norm == "linf" else L2ProjectedGradientDescentAttack
        # the step is ours: foolbox's own default, a fortieth of eps or less, is too short for few steps
        method = iterated(abs_stepsize=tm.resolved_step_size, steps=tm.steps, random_start=True)
        if loss is not None:
            # foolbox says of this method and the next that users can override them
            method.get_loss_fn = lambda model, labels: lambda inputs: astensor(loss(model(inputs).raw))  # type: ignore[method-assign]
        if start is not None:
            method.get_random_start = lambda *_: astensor(start)  # type: ignore[method-assign]
        found = method.run(model, x, Misclassification(y), epsilon=tm.eps)
    return found.detach()


def perturbation_size(difference: Tensor, norm: str) -> Tensor:
    """Norm of each example of `difference` `[N, C, H, W]`: `[N]`, in the units of the pixels."""
    flat = difference.flatten(1)
    return flat.abs().amax(dim=1) if norm == "linf" else flat.norm(dim=1)


def _slack(threat_model: ThreatModel, bounds: Bounds) -> float:
    return TOLERANCE * max(1.0, threat_model.eps, *map(abs, bounds))


def check_perturbation(images: Tensor, adversarial: Tensor, threat_model: ThreatModel, bounds: Bounds) -> None:
    """Raise unless every perturbed image is within eps (up to rounding) of its image, and within the bounds.

    Raises:
        ThreatModelError: It is not.
    """
    low, high = bounds
    sizes = perturbation_size(adversarial - images, threat_model.norm)
    largest = float(sizes.max())
    least, most = (float(v) for v in adversarial.aminmax())
    if not (largest <= threat_model.eps + _slack(threat_model, bounds) and least >= low and most <= high):
        raise ThreatModelError(
            expected=f"a {threat_model.norm} perturbation <= {threat_model.eps:g} within [{low:g}, {high:g}]",
            got=f"size {largest:.8g}, pixels within [{least:.8g}, {most:.8g}]",
            do="report this, with the versions of foolbox and torch",
        )


def largest_eps(norm: str, bounds: Bounds, shape: Sequence[int]) -> float:
    """The distance between the darkest and the brightest image `[C, H, W]`: no perturbation can be larger."""
    width = bounds[1] - bounds[0]
    return width if norm == "linf" else width * math.sqrt(math.prod(shape))


def require_eps_within_range(threat_model: ThreatModel, bounds: Bounds, shape: Sequence[int]) -> None:
    """Raise if eps allows more than the whole range of the pixels, as an eps in other units than theirs does.

    Args:
        threat_model: Its norm and eps.
        bounds: Lowest and highest value of a pixel.
        shape: Channels, height and width of an image.

    Raises:
        ThreatModelError: It does.
    """
    most = largest_eps(threat_model.norm, bounds, shape)
    if threat_model.eps > most:
        raise ThreatModelError(
            expected=f"a {threat_model.norm} eps <= {most:g}, for pixels within [{bounds[0]:g}, {bounds[1]:g}]",
            got=f"{threat_model.eps:g}",
            do="state it in the units of the pixels, e.g. 8/255 for 8 of 255 levels",
        )


def equal_norm_noise(
    images: Tensor, threat_model: ThreatModel, bounds: Bounds, *, generator: torch.Generator
) -> Tensor:
    """Random noise of the size that the adversary may use: the control for "any such change does it".

    L-infinity: every pixel moves by +eps or -eps. L2: a direction drawn uniformly from the sphere, of length
    eps. The result is clipped to the bounds, so the noise is shorter where a pixel was near them.

    Args:
        images: `[N, C, H, W]` within `bounds`.
        threat_model: Its norm and eps.
        bounds: Lowest and highest value of a pixel.
        generator: On the CPU, for the same noise on every device.

    Returns:
        Noisy images, same shape, type and device.
    """
    draw = torch.randn(images.shape, generator=generator)
    if threat_model.norm == "linf":
        direction = torch.where(draw < 0, -1.0, 1.0)
    else:
        direction = draw / perturbation_size(draw, "l2").clamp_min(1e-12).view(-1, 1, 1, 1)
    noise = (threat_model.eps * direction).to(images)
    return (images + noise).clamp(*bounds)


def check_labels(labels: object, count: int, classifier: Classifier, probe: Tensor) -> Tensor:
    """The labels on the classifier's device, int64.

    Args:
        labels: True classes.
        count: How many there must be.
        classifier: Its number of classes is read from its output on `probe`.
        probe: At least one checked image.

    Raises:
        LabelError: Wrong shape, type or range.
        ModelError: The output is no logits.
    """
    if not isinstance(labels, Tensor) or labels.shape != (count,) or labels.is_floating_point():
        got = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise LabelError(
            expected=f"an integer tensor of {count} labels, one per image",
            got=got,
            do="pass true classes as int64 [N]",
        )
    with classifier.borrowed(), torch.no_grad():
        logits = classifier.run(probe)
    check_logits(logits, len(probe))
    classes = logits.shape[1]
    least, most = (int(v) for v in labels.aminmax())
    if least < 0 or most >= classes:
        raise LabelError(
            expected=f"labels from 0 to {classes - 1}, as the classifier has {classes} classes",
            got=f"labels from {least} to {most}",
            do="check that the data and the classifier belong together",
        )
    return labels.detach().to(probe.device, torch.int64).clone()


def require_gradient(classifier: Classifier, images: Tensor) -> None:
    """Raise unless gradients reach the images: neither attacks nor InterpretGAN work without.

    Raises:
        ModelError: They do not.
    """
    x = classifier.check_images(images[:1])
    classifier(x)  # any other fault of the model is told by its own message
    with torch.inference_mode(False), torch.enable_grad(), classifier.borrowed():
        input_gradient(classifier, x, torch.zeros(1, dtype=torch.int64, device=x.device))


def input_gradient(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the summed cross-entropy at the images, `[N, C, H, W]`; inside `borrowed()`, gradients enabled.

    Raises:
        ModelError: There is none.
    """
    x = x.detach().clone().requires_grad_()
    loss = F.cross_entropy(classifier.run(x).float(), y, reduction="sum")
    gradient = torch.autograd.grad(loss, x, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        raise ModelError(
            expected="a model through which gradients reach the images",
            got="an output that does not depend on them differentiably",
            do="remove no_grad, detach or numpy from its forward pass, or pass the differentiable model",
        )
    return gradient


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Global random state seeded inside, as it was outside."""
    devices = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    with torch.random.fork_rng(devices=devices):
        seed_generators(device, seed)
        yield


def seed_generators(device: torch.device, seed: int) -> None:
    """Seed the global generators of the CPU and of the device.

    `torch.manual_seed` seeds every kind of device that torch knows, and notes a stack trace for each that is absent:
    more than two milliseconds and a little memory a call, where a training step of a small network takes ten.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
