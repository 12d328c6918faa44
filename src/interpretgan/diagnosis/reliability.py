"""The warnings of a diagnosis: every kind of flag, and the rules that raise them."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from interpretgan.diagnosis.result import Diagnosis, LayerResult
from interpretgan.errors import Flag, FlagKind
from interpretgan.robustness.attack_checks import AT_CHANCE, CLASS_ORDER
from interpretgan.statistics import Interval

READABLE = 0.05  #: A layer is unreliable when its natural explanations are predicted this much worse than images.
QUIET = 0.03  #: A control of the same size may move a layer's vulnerability by this much.
LANDS = 0.95  #: The least share of the positive control; it must not be above 1 by more either.
FOOLED = 0.8  #: A judge that keeps less than this share of its own accuracy on the attacked images is flagged.
BROKEN = 1 / 3  #: A judge that keeps less than this share of its own accuracy when it is attacked itself is flagged.

CONTROL_WORDS = {
    "noise": "random noise", "smooth": "smooth noise", "foreign": "another image's perturbation"
}  # fmt: skip

# fmt: off
UNRELIABLE = FlagKind("unreliable", "failure",
    "unreliable: the judge predicts {value:.3f} of its natural explanations right, and {threshold:.3f} is needed")
UNRELIABLE_BEFORE = FlagKind("unreliable_before", "failure",
    "unreliable: the explanations of {before}, the layer before it, cannot be read")
NOISE_CONTROL = FlagKind("noise_control", "failure", "{control} alone moves it by {value:+.3f}")
NOISE_CONTROL_FAILED = FlagKind("noise_control_failed", "failure",
    "a control failed: what aims at nothing moves {layers}, by up to {value:.3f}, so what these layers seem to "
    "contribute is not all the attack's")
POSITIVE_CONTROL = FlagKind("positive_control", "failure",
    "with another image's latent from here on, all of the loss must land on this layer: {value:.0%} does")
UNREADABLE_LAYERS = FlagKind("unreadable_layers", "warning",
    "natural explanations cannot be read at {value} of {layers} layers: train the generator longer{more}")
ROBUST = ", on photographs with a robust recognition network (--recognition-network robust)"
ZERO_EPS_CONTROL = FlagKind("zero_eps_control", "failure",
    "without a perturbation the largest |V| is {value:.3g}, where it must be 0")
WEAK_MODEL = FlagKind("weak_model", "warning",
    "a weak model: it predicts {value:.3f} of the natural images right, the judge {threshold:.3f}; check the weights, "
    "the normalisation and the order of the classes")
WEAK_JUDGE = FlagKind("weak_judge", "warning",
    "a weak judge: it predicts {value:.3f} of the {images} images right, the model {threshold:.3f}")
JUDGE_FOOLED = FlagKind("judge_fooled", "warning",
    "the perturbation fools the judge in the image itself: it predicts {value:.3f} right instead of {natural:.3f}, and "
    "the layers share only what is left")
JUDGE_NOT_ROBUST = FlagKind("judge_not_robust", "warning",
    "the judge is easily fooled: attacked itself it predicts {value:.3f} right instead of {natural:.3f}; train it "
    "longer (--judge-epochs)")
# fmt: on


def unreliable_flags(layer: LayerResult) -> list[Flag]:
    """The flags that say that a layer's explanations, or those of the layer before it, are misread."""
    return [flag for flag in layer.flags if flag.code in (UNRELIABLE.code, UNRELIABLE_BEFORE.code)]


def is_unreliable(layer: LayerResult) -> bool:
    """Whether the vulnerability of a layer must not be used."""
    return bool(unreliable_flags(layer))


def won_back(layers: Sequence[LayerResult]) -> list[float]:
    """By how much survival at some later row that can be read is above that of each row; 0 where it is not.

    So much a layer seems to lose and does not: what a later layer holds, it held, and its explanations are badly drawn.
    """
    back, above = list[float](), -math.inf
    for layer in reversed(layers):
        back.append(max(0.0, above))
        if all(flag.code != UNRELIABLE.code for flag in layer.flags):
            above = max(above, 0.0)
        above -= layer.vulnerability.value
    return back[::-1]


def failed_kinds(layers: Sequence[LayerResult], accuracy: Mapping[str, float]) -> set[str]:
    """Which controls fail at some layer, by their names, the positive control as `positive`; see `_moves`."""
    moved = {name for layer in layers for name in CONTROL_WORDS if _moves(layer, name, accuracy)}
    return moved | {"positive" for layer in layers if _lands_elsewhere(layer)}


def _lands_elsewhere(layer: LayerResult) -> bool:
    """Whether the positive control fails: some of the loss lands on other layers, or later ones win it back."""
    return layer.positive is not None and not LANDS <= layer.positive <= 2 - LANDS


def _moves(layer: LayerResult, control: str, accuracy: Mapping[str, float]) -> Interval | None:
    """The vulnerability of a layer under a control, where it is surely above or below 0 and by more than `QUIET`.

    What the classifier itself loses to the control is no mistake of the diagnosis: so much is allowed beyond `QUIET`.
    """
    found: Interval | None = getattr(layer, f"vulnerability_{control}")
    lost = max(0.0, 1 - accuracy.get(control, 1.0) / max(accuracy["natural"], 1e-12))
    if found is None or -QUIET <= found.value <= QUIET + lost or found.low <= 0 <= found.high:
        return None
    return found


def failed_controls(diagnosis: Diagnosis) -> list[str]:
    """What each failed control says, or a model at chance; where there is one, no layer can be named."""
    codes = (AT_CHANCE.code, CLASS_ORDER.code, NOISE_CONTROL_FAILED.code, ZERO_EPS_CONTROL.code)
    of_all = [flag.message for flag in diagnosis.flags if flag.code in codes]
    flags = [flag for layer in diagnosis.layers for flag in layer.flags if flag.code == POSITIVE_CONTROL.code]
    return [*of_all, *(f"{flag.layer}: {flag.message}" for flag in flags)]


def layer_flags(layers: Sequence[LayerResult], accuracy: Mapping[str, float]) -> list[tuple[Flag, ...]]:
    """The flags of each row, the image first; `accuracy` is the model's, on natural images and on those of controls."""
    needed = layers[0].natural - READABLE
    flags: list[tuple[Flag, ...]] = [()]
    for before, layer in pairwise(layers):
        raised, name = [], layer.name
        if layer.natural < needed:
            raised.append(UNRELIABLE(layer=name, value=layer.natural, threshold=needed))
        elif before.natural < needed:
            raised.append(UNRELIABLE_BEFORE(layer=name, value=before.natural, threshold=needed, before=before.name))
        for control, words in CONTROL_WORDS.items():
            if moved := _moves(layer, control, accuracy):
                raised.append(NOISE_CONTROL(layer=name, value=moved.value, threshold=QUIET, control=words))
        if (lands := layer.positive) is not None and _lands_elsewhere(layer):
            limit = LANDS if lands < 1 else 2 - LANDS
            raised.append(POSITIVE_CONTROL(layer=name, value=lands, threshold=limit))
        flags.append(tuple(raised))
    return flags


def diagnosis_flags(diagnosis: Diagnosis) -> list[Flag]:
    """What the figures of a whole diagnosis warn of, its layers having their flags."""
    layers, accuracy, controls, judge = diagnosis.layers, diagnosis.accuracy, diagnosis.controls, diagnosis.judge
    flags = []
    if unreadable := sum(flag.code == UNRELIABLE.code for layer in layers for flag in layer.flags):
        more = ROBUST if diagnosis.provenance.get("recognition_network_sha256") is None else ""
        flags.append(UNREADABLE_LAYERS(value=unreadable, layers=len(layers) - 1, more=more))
    if controls["eps0_max_abs_vulnerability"] > 0:
        flags.append(ZERO_EPS_CONTROL(value=controls["eps0_max_abs_vulnerability"], threshold=0.0))
    natural, judged = accuracy["natural"], accuracy["judge_natural"]
    attacked, judged_attacked = accuracy["adversarial"], accuracy["judge_adversarial"]
    if natural < judged - 2 * READABLE:
        flags.append(WEAK_MODEL(value=natural, threshold=judged))
    if judged_attacked < attacked:
        flags.append(WEAK_JUDGE(value=judged_attacked, threshold=attacked, images="attacked"))
    if judged_attacked < FOOLED * judged:
        flags.append(JUDGE_FOOLED(value=judged_attacked, threshold=FOOLED * judged, natural=judged))
    if judged < natural - 2 * READABLE:
        flags.append(WEAK_JUDGE(value=judged, threshold=natural, images="natural"))
    if moved := [flag for layer in layers for flag in layer.flags if flag.code == NOISE_CONTROL.code]:
        most, names = max(abs(flag.value or 0.0) for flag in moved), dict.fromkeys(str(flag.layer) for flag in moved)
        flags.append(NOISE_CONTROL_FAILED(value=most, threshold=QUIET, layers=", ".join(names)))
    if judge["adversarial"] < BROKEN * judge["natural"]:
        broken = BROKEN * judge["natural"]
        flags.append(JUDGE_NOT_ROBUST(value=judge["adversarial"], threshold=broken, natural=judge["natural"]))
    return flags
