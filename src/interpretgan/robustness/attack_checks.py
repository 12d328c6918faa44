"""When a robustness figure can be trusted: one function per reason to refuse or to doubt it.

A refusal raises an error that says what to do. A warning returns one line, a flag, or `None`; the flags travel with
the result. Refusals that belong to an attack itself stand in `attacks`: pixels outside the bounds, a perturbation
larger than eps, no gradient at the images.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

import torch
from torch import Tensor

from interpretgan.attacks import ThreatModel, input_gradient, iterated, resized
from interpretgan.classifier import Classifier
from interpretgan.errors import LayerError, ModelError, ThreatModelError
from interpretgan.layers import Layer, capture, replay

NOTHING_LEFT = 0.05
"""Accuracy below which nothing is left to attack, and it does not matter how strong the attack was."""
SAME = 1e-4
"""Two passes agree when their logits differ by no more than this share of the largest one."""
BLACK_BOX = 0.002
"""Accuracy that a black-box attack may take from what the gradient attacks left."""
MOVES = 0.005
"""Accuracy that twice the steps or restarts may take."""
RISES = 0.01
"""Accuracy that may be won back, by chance, where eps grows."""
ENOUGH = 1000
"""Examples for a figure with an interval of about two points."""

Perturb = Callable[[Classifier, Tensor, Tensor], Tensor]
"""An attack as a whole: classifier, images and true classes to perturbed images."""


# --- refusals ----------------------------------------------------------------------------------------------------


def require_threat_model(threat_model: object) -> ThreatModel:
    """The threat model, which must be stated: a robust accuracy means nothing without.

    Raises:
        ThreatModelError: It is none.
    """
    if not isinstance(threat_model, ThreatModel):
        raise ThreatModelError(
            expected="a stated threat model",
            got=type(threat_model).__name__,
            do="pass threat_model=ThreatModel(norm, eps), e.g. ThreatModel('linf', 8 / 255)",
        )
    return threat_model


def require_eval_mode(classifier: Classifier) -> None:
    """Raise if a module stays in train mode when the model is put in eval mode: its figures would be those of training.

    Raises:
        ModelError: One does.
    """
    with classifier.borrowed():
        training = [name or classifier.name for name, module in classifier.model.named_modules() if module.training]
    if training:
        raise ModelError(
            expected="a model that eval() puts in eval mode",
            got=f"{training[0]} in train mode ({len(training)} in all)",
            do="let its train(mode) pass the mode on: dropout and batch statistics must be off",
        )


def require_replay(classifier: Classifier, layers: Sequence[Layer], images: Tensor) -> None:
    """Raise unless the network, replayed from each layer, reproduces its logits.

    Args:
        classifier: The classifier.
        layers: What is replayed.
        images: A few images `[N, C, H, W]`, N >= 1. Their latents are replayed while other images run.

    Raises:
        LayerError: From one it does not.
    """
    logits, latents = capture(classifier, images, layers)
    others = images.flip(0).flip(3)
    for layer in layers:
        if layer.name not in latents:
            raise LayerError(
                expected=f"call {layer.call} of the layer {layer.module} in every pass",
                got="a pass without",
                do="find the layers of this very network with find_layers",
            )
        with torch.no_grad():
            again = replay(classifier, layer, latents[layer.name], others)
        if _differ(again, logits):
            raise LayerError(
                expected=f"the network's own logits when it is replayed from {layer.name}",
                got=f"logits that differ by {float((again - logits).abs().max()):.3g}",
                do="choose a layer that all information passes through, as `interpretgan layers` lists them",
            )


# --- warnings about the model ------------------------------------------------------------------------------------


def passes_differ(classifier: Classifier, images: Tensor) -> str | None:
    """Logits differ between two passes: a randomised model, whose attack needs averaged gradients."""
    with classifier.borrowed(), torch.no_grad():  # one block: leaving it would put the random state back
        first, second = classifier.run(images), classifier.run(images)
    if not _differ(second, first):
        return None
    gap = float((second - first).abs().max())
    return f"logits differ between two passes, by up to {gap:.3g}: a randomised model looks more robust than it is"


def dynamic(classifier: Classifier, images: Tensor) -> str | None:
    """The model adapts to what it is given: to the other images of the batch, or by gradients of its own."""
    with classifier.borrowed(), torch.no_grad():
        with _gradient_calls() as calls:
            whole = classifier.run(images)
        part = classifier.run(images[: (len(images) + 1) // 2])
    if calls:
        return "a dynamic model: its forward pass computes gradients, which attacks do not see through"
    if _differ(part, whole[: len(part)]):
        return "a dynamic model: the logits of an image depend on the other images of its batch"
    return None


def probabilities(classifier: Classifier, images: Tensor) -> str | None:
    """Outputs look like probabilities: all within [0, 1], as after a softmax or sigmoid that hides gradients."""
    with classifier.borrowed(), torch.no_grad():
        outputs = classifier.run(images)
    least, most = (float(v) for v in outputs.aminmax())
    if least < 0 or most > 1:
        return None
    return f"outputs look like probabilities (from {least:.3g} to {most:.3g}): pass the logits before them"


def unusable_gradients(classifier: Classifier, images: Tensor, labels: Tensor, *, batch_size: int = 256) -> str | None:
    """Gradients of the cross-entropy are zero, NaN or infinite at some images: masking or saturation, not robustness.

    Raises:
        ModelError: No gradient reaches the images at all.
    """
    zero = nan = infinite = 0
    with torch.inference_mode(False), torch.enable_grad(), classifier.borrowed():
        for x, y in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
            gradient = input_gradient(classifier, x, y).flatten(1)
            zero += int((gradient == 0).all(dim=1).sum())
            nan += int(gradient.isnan().any(dim=1).sum())
            infinite += int(gradient.isinf().any(dim=1).sum())
    if not zero + nan + infinite:
        return None
    return (
        f"no usable gradient at some of {len(images)} examples ({zero} zero, {nan} NaN, {infinite} infinite): "
        "masking or saturation"
    )


# --- warnings about the attack -----------------------------------------------------------------------------------


def black_box_wins(white_box: float, black_box: float) -> str | None:
    """A black-box attack takes more than 0.2 points from the accuracy that gradient attacks left."""
    if round(white_box - black_box, 9) <= BLACK_BOX:
        return None
    return (
        f"a black-box attack lowers the accuracy from {white_box:.3f} to {black_box:.3f}: "
        "the gradients mislead the other attacks"
    )


def no_better_than_one_step(one_step: float, iterated: float) -> str | None:
    """The iterative attack leaves no less accuracy than the single-step one, though some is left."""
    if iterated < one_step or iterated <= NOTHING_LEFT:
        return None
    return f"the iterative attack is no better than one step: accuracy {iterated:.3f} against {one_step:.3f}"


def noise_as_good(noise: float, adversarial: float, natural: float) -> str | None:
    """Random noise of the same size lowers the accuracy as far as the attack."""
    if noise > adversarial or natural == 0:
        return None
    return f"random noise is as good as the attack: accuracy {noise:.3f} against {adversarial:.3f}"


def not_converged(what: str, once: float, twice: float, examples: int) -> str | None:
    """Twice the steps or restarts (`what`) still take more than half a point, and one example, of what is left."""
    if once <= NOTHING_LEFT or once - twice <= max(MOVES, 1.5 / examples):
        return None
    return f"twice the {what} still move the accuracy of the attack, from {once:.3f} to {twice:.3f}"


def not_growing(accuracies: Sequence[float], examples: int) -> str | None:
    """Success does not grow with eps.

    Args:
        accuracies: At growing eps, natural accuracy first.
        examples: Behind each; a single one may be luck.
    """
    won_back = max((later - min(accuracies[:index]) for index, later in enumerate(accuracies) if index), default=0.0)
    if won_back <= max(RISES, 1.5 / examples):
        return None
    return f"the success of the attack does not grow with eps: {won_back:.3f} of accuracy is won back at a larger one"


def robust_at_any_size(eps: float, accuracy: float) -> str | None:
    """Accuracy is not near 0 at an eps that can turn every image grey: the attack fails, the model is not robust."""
    if accuracy <= NOTHING_LEFT:
        return None
    return f"accuracy is still {accuracy:.3f} at eps {eps:.3g}, where every image can be made grey: the attack fails"


def lost_iterates(classifier: Classifier, images: Tensor, labels: Tensor, perturb: Perturb) -> str | None:
    """The attack found images on its way that the model misreads, and returned others that it reads right.

    Args:
        classifier: The classifier.
        images: `[N, C, H, W]`, attacked in one batch.
        labels: True classes.
        perturb: The attack. Every pass over N images counts as one of its iterates.
    """
    watched = _Watched(classifier, labels)
    returned = perturb(watched, images, labels)
    with classifier.borrowed(), torch.no_grad():
        right = classifier.run(returned).argmax(dim=1) == labels
    lost = int((watched.misread & right).sum())
    if not lost:
        return None
    return (
        f"the attack lost {lost} of {len(images)} adversarial images that it had found on the way: "
        "keep the best iterate, not the last"
    )


def gradient_attacks_only(attacks: Sequence[str], adversarial: float) -> str | None:
    """No black-box attack was among those run, and some accuracy is left that one might take."""
    if "autoattack" in attacks or adversarial <= NOTHING_LEFT:
        return None
    return f"{', '.join(attacks)} only: no black-box attack confirms the robust accuracy"


def few_examples(examples: int) -> str | None:
    """Fewer than 1,000 examples."""
    return f"only {examples} examples: fewer than 1,000" if examples < ENOUGH else None


# --- several at once ---------------------------------------------------------------------------------------------


def model_flags(classifier: Classifier, images: Tensor, labels: Tensor) -> list[str]:
    """Every warning about the model itself, on a few hundred images within the bounds, on its device."""
    return raised(
        passes_differ(classifier, images),
        dynamic(classifier, images),
        probabilities(classifier, images),
        unusable_gradients(classifier, images, labels),
    )


def search_flags(
    accuracy: Callable[[ThreatModel], float], examples: int, threat_model: ThreatModel, largest: float
) -> list[str]:
    """Every warning about the search, told by the same attack with other settings.

    Args:
        accuracy: What a threat model leaves, on a few hundred examples.
        examples: How many these are.
        threat_model: Its PGD is examined; for FGSM, the default PGD of the same size.
        largest: The largest perturbation that the range of the pixels allows.
    """
    pgd = iterated(threat_model)
    one_restart = replace(pgd, restarts=1)
    return raised(
        no_better_than_one_step(accuracy(ThreatModel(pgd.norm, pgd.eps, "fgsm")), accuracy(pgd)),
        not_converged("steps", accuracy(one_restart), accuracy(replace(one_restart, steps=2 * pgd.steps)), examples),
        not_converged("restarts", accuracy(pgd), accuracy(replace(pgd, restarts=2 * pgd.restarts)), examples),
        robust_at_any_size(largest / 2, accuracy(resized(one_restart, largest / 2))),
    )


def raised(*flags: str | None) -> list[str]:
    """Those that are."""
    return [flag for flag in flags if flag is not None]


# --- parts -------------------------------------------------------------------------------------------------------


class _Watched(Classifier):
    """A classifier that notes which images were misread in any pass over all of them."""

    def __init__(self, classifier: Classifier, labels: Tensor) -> None:
        super().__init__(classifier.model, classifier.bounds, classifier.mean, classifier.std)
        self._labels = labels
        self.misread = torch.zeros_like(labels, dtype=torch.bool)

    def run(self, images: Tensor) -> Tensor:
        logits = super().run(images)
        if len(images) == len(self._labels):
            self.misread |= logits.detach().argmax(dim=1) != self._labels
        return logits


def _differ(some: Tensor, other: Tensor) -> bool:
    gap, size = float((some - other).abs().max()), float(other.abs().max())
    return not gap <= SAME * size  # NaN differs


@contextmanager
def _gradient_calls() -> Iterator[list[str]]:
    """The names of torch's functions for gradients that are called in the block."""
    codes = {torch.autograd.grad.__code__: "grad", torch.autograd.backward.__code__: "backward"}
    found: list[str] = []

    def visit(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code in codes:
            found.append(codes[frame.f_code])

    before = sys.getprofile()
    sys.setprofile(visit)
    try:
        yield found
    finally:
        sys.setprofile(before)
