"""When a robustness figure can be trusted: what refuses it, and what warns about it.

A refusal raises an error that says what to do. A warning is a `Flag` that travels with the result; its kind stands
above the function that raises it. Refusals that belong to an attack itself are in `attacks`: pixels outside the bounds,
a perturbation larger than eps, no gradient at the images.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

import numpy as np
import torch
from torch import Tensor

from interpretgan.attacks import ThreatModel, input_gradient, iterated, resized
from interpretgan.attacks.gradient import at_a_time
from interpretgan.classifier import Classifier
from interpretgan.errors import Flag, FlagKind, LayerError, ModelError, ThreatModelError, kind_of
from interpretgan.layers import Layer, capture, replay
from interpretgan.layers.proof import size_of_logits
from interpretgan.statistics import Integers, wilson

NOTHING_LEFT = 0.05  #: Accuracy below which nothing is left to attack, however strong the attack was.
SAME = 1e-4  #: Two passes agree when their logits differ by no more than this share of them.
BLACK_BOX = 0.002  #: Accuracy that a black-box attack may take from what the gradient attacks left.
MOVES = 0.005  #: Accuracy that twice the steps or restarts may take.
RISES = 0.01  #: Accuracy that may be won back, by chance, where eps grows.
REORDERED = 0.3  #: Share of the images that another order of the classes would set right.
ENOUGH = 1000  #: Examples for a figure with an interval of about two points.
LISTED = 12  #: Classes that a line names, at most.


def require_threat_model(threat_model: object) -> ThreatModel:
    """The threat model, which must be stated (else `ThreatModelError`): without it a robust accuracy means nothing."""
    if not isinstance(threat_model, ThreatModel):
        do = "pass threat_model=ThreatModel(norm, eps), e.g. ThreatModel('linf', 8 / 255)"
        raise ThreatModelError(expected="a stated threat model", got=kind_of(threat_model), do=do)
    return threat_model


def require_eval_mode(classifier: Classifier) -> None:
    """Refuse (`ModelError`) a model that `eval()` leaves in train mode in part: its figures would be of training."""
    with classifier.borrowed():
        training = [name or classifier.name for name, module in classifier.model.named_modules() if module.training]
    if training:
        got = f"{training[0]} in train mode ({len(training)} in all)"
        do = "let its train(mode) pass the mode on: dropout and batch statistics must be off"
        raise ModelError(expected="a model that eval() puts in eval mode", got=got, do=do)


def require_replay(classifier: Classifier, layers: Sequence[Layer], images: Tensor) -> None:
    """Refuse (`LayerError`) layers from which the replayed network does not reproduce its logits.

    The latents of a few images `[N, C, H, W]`, N >= 1, are replayed while other images run.
    """
    logits, latents = capture(classifier, images, layers)
    others = images.flip(0).flip(3)
    for layer in layers:
        with torch.no_grad():
            again = replay(classifier, layer, latents[layer.name], others)
        if _differ(again, logits):
            expected = f"the network's own logits when it is replayed from {layer.name}"
            got = f"logits that differ by {float((again - logits).abs().max()):.3g}"
            raise LayerError(expected=expected, got=got, do="choose one that `interpretgan layers` lists")


# --- warnings about the model ------------------------------------------------------------------------------------

# fmt: off
PASSES_DIFFER = FlagKind("passes_differ", "warning",
    "logits differ between two passes, by up to {value:.3g}: a randomised model looks more robust than it is")
DYNAMIC_MODEL = FlagKind("dynamic_model", "warning", "a dynamic model: {why}")
PROBABILITIES = FlagKind("probabilities", "warning",
    "outputs look like probabilities (from {least:.3g} to {value:.3g}): pass the logits before them")
UNUSABLE_GRADIENTS = FlagKind("unusable_gradients", "warning",
    "no usable gradient at some of {examples} examples ({zero} zero, {nan} NaN, {infinite} infinite): "
    "masking or saturation")
# fmt: on


def model_flags(classifier: Classifier, images: Tensor, labels: Tensor, *, batch_size: int | None = None) -> list[Flag]:
    """What makes a model look more robust than it is, on a few hundred checked images and their true classes.

    Passes that differ: a randomised model, whose attack needs averaged gradients. A dynamic model, that adapts to the
    other images of the batch, or by gradients of its own. Outputs within [0, 1], as after a softmax or sigmoid that
    hides gradients. Gradients of the cross-entropy that are zero, NaN or infinite at some images; where none reaches
    the images at all there is a `ModelError`. So many images pass at a time, `None`: as many as `attack` takes.
    """
    flags, batch_size = [], max(2, at_a_time(images)) if batch_size is None else batch_size

    def logits_of(some: Tensor, at_once: int) -> Tensor:
        return torch.cat([classifier.run(part) for part in torch.split(some, at_once)])

    with classifier.borrowed(), torch.no_grad():  # one block: leaving it would put the random state back
        with _gradient_calls() as calls:
            logits = logits_of(images, batch_size)
        again, part = logits_of(images, batch_size), logits_of(images, (min(batch_size, len(images)) + 1) // 2)
    randomised, least, most = _differ(again, logits), float(logits.min()), float(logits.max())
    if randomised:
        flags.append(PASSES_DIFFER(value=float((again - logits).abs().max())))
    if calls:
        flags.append(DYNAMIC_MODEL(why="its forward pass computes gradients, which attacks do not see through"))
    elif not randomised and _differ(part, logits):
        flags.append(DYNAMIC_MODEL(why="the logits of an image depend on the other images of its batch"))
    if least >= 0 and most <= 1:
        flags.append(PROBABILITIES(value=most, least=least))
    parts = zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)
    with torch.inference_mode(False), torch.enable_grad(), classifier.borrowed():
        gradient = torch.cat([input_gradient(classifier, x, y).flatten(1) for x, y in parts])
    bad = (gradient == 0).all(dim=1), gradient.isnan().any(dim=1), gradient.isinf().any(dim=1)
    zero, nan, infinite = (int(examples.sum()) for examples in bad)
    if count := zero + nan + infinite:
        made = UNUSABLE_GRADIENTS(value=float(count), examples=len(images), zero=zero, nan=nan, infinite=infinite)
        flags.append(made)
    return flags


# --- warnings about the attack -----------------------------------------------------------------------------------

# fmt: off
ONE_STEP_AS_GOOD = FlagKind("one_step_as_good", "note",
    "the iterative attack is no better than one step: accuracy {value:.3f} against {threshold:.3f}")
NOT_CONVERGED = FlagKind("not_converged", "note",
    "twice the {what} still move the accuracy of the attack, from {threshold:.3f} to {value:.3f}")
ROBUST_AT_ANY_SIZE = FlagKind("robust_at_any_size", "warning",
    "accuracy is still {value:.3f} at eps {eps:.3g}, where every image can be made grey: the attack fails")
BLACK_BOX_WINS = FlagKind("black_box_wins", "warning",
    "a black-box attack lowers the accuracy from {threshold:.3f} to {value:.3f}: "
    "the gradients mislead the other attacks")
NOT_GROWING = FlagKind("not_growing", "warning",
    "the success of the attack does not grow with eps: {value:.3f} of accuracy is won back at a larger one")
# fmt: on


def search_flags(
    accuracy: Callable[[ThreatModel], float], examples: int, threat_model: ThreatModel, largest: float
) -> list[Flag]:
    """What shows that an attack does not find what there is: the same attack with other settings.

    One step does as well as many. Twice the steps or restarts take more than half a point, and one example. Accuracy is
    not near 0 where every image can be made grey, at half of the largest perturbation that the pixels allow.
    `accuracy` is what a threat model leaves, on so many examples. For FGSM the default PGD of its size is examined.
    """
    flags, pgd = [], iterated(threat_model)
    single, one_step, found = replace(pgd, restarts=1), accuracy(ThreatModel(pgd.norm, pgd.eps, "fgsm")), accuracy(pgd)
    if found >= one_step and found > NOTHING_LEFT:
        flags.append(ONE_STEP_AS_GOOD(value=found, threshold=one_step))
    for what, once, doubled in (
        ("steps", single, replace(single, steps=2 * single.steps)),
        ("restarts", pgd, replace(pgd, restarts=2 * pgd.restarts)),
    ):
        before, after = accuracy(once), accuracy(doubled)
        if before > NOTHING_LEFT and before - after > max(MOVES, 1.5 / examples):
            flags.append(NOT_CONVERGED(value=after, threshold=before, what=what))
    left = accuracy(resized(single, largest / 2))
    if left > NOTHING_LEFT:
        flags.append(ROBUST_AT_ANY_SIZE(value=left, threshold=NOTHING_LEFT, eps=largest / 2))
    return flags


def black_box_flags(white_box: float, black_box: float) -> list[Flag]:
    """A black-box attack takes more than 0.2 points from the accuracy that gradient attacks left."""
    wins = round(white_box - black_box, 9) > BLACK_BOX
    return [BLACK_BOX_WINS(value=black_box, threshold=white_box)] if wins else []


def curve_flags(accuracies: Sequence[float], examples: int) -> list[Flag]:
    """Success does not grow with eps: of the accuracies, natural first, more than an example is won back."""
    won_back = max((later - min(accuracies[:index]) for index, later in enumerate(accuracies) if index), default=0.0)
    allowed = max(RISES, 1.5 / examples)
    return [NOT_GROWING(value=won_back, threshold=allowed)] if won_back > allowed else []


# --- warnings about the classes ----------------------------------------------------------------------------------

# fmt: off
AT_CHANCE = FlagKind("at_chance", "failure",
    "natural accuracy {value:.3f} is not clearly above the {threshold:.3f} of always answering the commonest class: "
    "check the weights, the normalisation and the order of the classes, here {order}")
CLASS_ORDER = FlagKind("class_order", "failure",
    "the order of the classes differs: natural accuracy is {threshold:.3f}, and {value:.3f} if the network's classes "
    "are {found} in the order of its logits, not {order}")
# fmt: on


def class_flags(
    predicted: Integers, labels: Integers, classes: Sequence[str] = (), confidence: float = 0.95
) -> list[Flag]:
    """What shows that a network is of no use here, or that its classes are numbered otherwise.

    Accuracy on natural images is within its interval of what the commonest class alone reaches. With the classes in
    another order, the best of all, `REORDERED` more of the images are right. Both arguments are classes `[N]`.
    """
    from scipy.optimize import linear_sum_assignment

    count, known = len(labels), max(len(classes), int(max(labels.max(), predicted.max())) + 1)
    names = [*classes, *map(str, range(len(classes), known))]
    right = int((predicted == labels).sum())
    commonest = float(np.bincount(labels).max() / count)
    flags = []
    if wilson(right, count, confidence).low <= commonest:
        flags.append(AT_CHANCE(value=right / count, threshold=commonest, order=listed(names)))
    table = np.zeros((known, known), dtype=np.int64)
    np.add.at(table, (predicted, labels), 1)
    logits, true = linear_sum_assignment(table, maximize=True)
    reordered = int(table[logits, true].sum())
    if reordered - right > max(REORDERED * count, known):
        moved = [place for place in range(known) if true[place] != place and table[place].any()]
        found = listed([names[true[place]] for place in range(known)], moved)
        flags.append(
            CLASS_ORDER(value=reordered / count, threshold=right / count, found=found, order=listed(names, moved))
        )
    return flags


def listed(names: Sequence[str], places: Sequence[int] | None = None) -> str:
    """Names with their numbers, e.g. `0 cat, 1 dog`, all or those at some places; of many the first twelve."""
    places = range(len(names)) if places is None else places
    more = f" and {len(places) - LISTED} more" if len(places) > LISTED else ""
    return ", ".join(f"{place} {names[place]}" for place in list(places)[:LISTED]) + more


# --- warnings about the figures ----------------------------------------------------------------------------------

NOISE_AS_GOOD = FlagKind(
    "noise_as_good", "warning", "random noise is as good as the attack: accuracy {value:.3f} against {threshold:.3f}"
)
GRADIENT_ATTACKS_ONLY = FlagKind(
    "gradient_attacks_only", "note", "{attacks} only: no black-box attack confirms the robust accuracy"
)
FEW_EXAMPLES = FlagKind("few_examples", "note", "only {value:.0f} examples: fewer than {threshold:,.0f}")


def figure_flags(
    *, natural: float, adversarial: float, noise: float, attacks: Sequence[str], examples: int
) -> list[Flag]:
    """What an evaluation needs: an attack that does better than noise, a black box, and enough examples.

    `natural`, `adversarial` and `noise` are accuracies: on the images, under all attacks, and under random noise of
    the same size. `attacks` names those that were run.
    """
    flags = []
    if noise <= adversarial and natural > 0:
        flags.append(NOISE_AS_GOOD(value=noise, threshold=adversarial))
    if "autoattack" not in attacks and adversarial > NOTHING_LEFT:
        flags.append(GRADIENT_ATTACKS_ONLY(attacks=", ".join(attacks)))
    if examples < ENOUGH:
        flags.append(FEW_EXAMPLES(value=float(examples), threshold=float(ENOUGH)))
    return flags


def _differ(logits: Tensor, other: Tensor) -> bool:
    return not torch.allclose(logits, other, rtol=SAME, atol=SAME * size_of_logits(other))  # NaN differs


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
