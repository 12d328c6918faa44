"""The words of the report: numbers as text, the answer, what flags mean, the table for the terminal."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from interpretgan.diagnosis.let_in import LEAST, WORTH
from interpretgan.diagnosis.reliability import failed_controls, unreliable_flags, won_back
from interpretgan.diagnosis.result import BranchResult, Diagnosis, LayerResult
from interpretgan.errors import Flag
from interpretgan.statistics import Interval

NO_LOSS = 0.02  #: Survival lost between the image and the last layer below which no layer is named.
NAMED_AT_MOST = 3  #: Layers that cannot be told apart are named one by one up to this many.

JUDGE = "The judge predicts the class of every explanation, so its own mistakes limit every figure here."
DYNAMIC = (
    "The same image does not always get the same answer, and an attack aims at an answer that is gone when it counts. "
    "What looks like robustness may be that alone."
)
SEARCH = "The attack has not found all that there is: try more steps, more restarts or a shorter step."
MASKED = (
    "Where accuracy stays, the attack fails for another reason than a robust model. Vulnerability is underestimated."
)
UNDERESTIMATED = "Vulnerability is then underestimated."
FLAG_MEANINGS = {
    "unreliable": "The judge misreads too many of this layer's explanations even without an attack. A wrong prediction "
    "under attack then says little about the layer: neither this row nor the vulnerability of the next can be used.",
    "unreliable_before": "The vulnerability of a layer is its difference from the layer before, which cannot be read.",
    "noise_control": "A perturbation of about the same size that aims at nothing changes the explanations as well. "
    "That part of the figure is not the work of the attack.",
    "noise_control_failed": "These layers respond to any change of the image, or the generator draws badly what noise "
    "does to their latents. No layer is named where a control fails.",
    "let_in_unknown": "The layers of this network could not be mended by themselves. Where the class turns is measured "
    "without that.",
    "time_budget": "Fewer steps leave explanations that are read a little worse, fewer examples wider intervals. What "
    "was lowered to 0 is not in this report.",
    "shared_images": "What judge and generator have seen in training they read too well in the test. Remove these "
    "images from one of the two sets.",
    "positive_control": "From this layer on the generator was given the latents of images of another class. What it "
    "draws must change class here and nowhere else. Above 100 % later layers seem to win some back.",
    "unreadable_layers": "The rows of these layers, and the vulnerability of the layers after them, cannot be used.",
    "zero_eps_control": "The model, the generator or the judge gives the same image another answer in every pass.",
    "weak_model": "The model misses natural images that the judge gets right. A wrong normalisation or order of "
    "classes looks like this; so does a poor model, and there is then less to lose under attack.",
    "at_chance": "A network that does not know these images has nothing to lose under attack: no figure here means "
    "anything.",
    "class_order": "The numbers of the classes and the logits do not fit. State their order with --classes.",
    "weak_judge": JUDGE,
    "judge_fooled": "What the judge loses in the image itself is charged to no layer.",
    "judge_not_robust": JUDGE,
    "negative_information": "No layer can have more information than the one before it, and no probe should do worse "
    "than one without any. Decoders and probes are never trained quite to the end: differences of this size say "
    "nothing. More --information-steps make them smaller.",
    "passes_differ": DYNAMIC,
    "dynamic_model": DYNAMIC,
    "probabilities": "Probabilities are flat where the model is sure, so gradients vanish there and attacks stop. "
    "Diagnose the logits before them.",
    "unusable_gradients": f"The attack follows gradients and stops without them. {MASKED}",
    "black_box_wins": f"Gradients mislead the attacks that follow them. {MASKED}",
    "one_step_as_good": f"{SEARCH} {UNDERESTIMATED}",
    "not_converged": f"{SEARCH} {UNDERESTIMATED}",
    "noise_as_good": f"The attack found no more than chance would, and may have failed. {UNDERESTIMATED}",
    "not_growing": f"A larger perturbation can do all that a smaller one does. {MASKED}",
    "robust_at_any_size": f"A perturbation that may turn every image grey leaves nothing to recognise. {MASKED}",
    "gradient_attacks_only": f"An attack without gradients may still find more. {UNDERESTIMATED}",
    "few_examples": "Few examples leave wide intervals: a larger evaluation set narrows them.",
}
"""What a flag means for the reader, by its code."""


def number(value: float, scale: float = 1, digits: int = 1, *, sign: bool = False) -> str:
    """`scale` times a number, with a true minus and no negative zero; `–` where it is not finite."""
    if not math.isfinite(value):
        return "–"
    text = f"{scale * value:+.{digits}f}" if sign else f"{scale * value:.{digits}f}"
    text = text.lstrip("+-") if float(text) == 0 else text
    return text.replace("-", "−")


def percent(value: float) -> str:
    """A proportion in [0, 1] as per cent: 0.975 is `97.5 %`."""
    return f"{number(value, 100)} %"


def span(interval: Interval, scale: float = 100, digits: int = 1) -> str:
    """The ends of an interval, as `[51.0, 59.2]`."""
    return f"[{number(interval.low, scale, digits)}, {number(interval.high, scale, digits)}]"


def level(diagnosis: Diagnosis) -> str:
    """What an interval of the diagnosis is: `95 % interval`."""
    confidence = diagnosis.provenance.get("confidence")
    return "interval" if confidence is None else f"{100 * confidence:g} % interval"


Claim = tuple[tuple[str, bool], ...]  #: A text in parts, each with whether it is the name of a layer.


@dataclass(frozen=True)
class Answer:
    """The answer of a diagnosis in one sentence, in parts that the page can set apart."""

    claim: Claim  #: What contributes most; each part of the text with whether it is the name of a layer.
    detail: str  #: The numbers behind the claim, or why no layer is named.
    caveat: str = ""  #: Why to read it with care; empty if nothing speaks against it.
    layers: tuple[str, ...] = ()  #: The names of the layers that the claim blames, the largest contribution first.
    let_in: Claim = ()  #: Which layer or two let the perturbation in, like `claim`; empty where that was not asked.
    let_in_detail: str = ""  #: The numbers behind that.

    @property
    def sentence(self) -> str:
        """Claims, details and caveat as running text."""
        second = f" {_text(self.let_in)}: {self.let_in_detail}." if self.let_in else ""
        care = f" Read this with care: {self.caveat}" if self.caveat else ""
        return f"{_text(self.claim)}: {self.detail}.{second}{care}"


def answer(diagnosis: Diagnosis) -> Answer:
    """What a diagnosis says, with no more certainty than its intervals and flags allow.

    Where the class turns, see `_where_it_turns`; and where that was asked, which layer lets the perturbation in, or
    which two, as `LetIn.named` says.
    """
    found, mended = _where_it_turns(diagnosis), diagnosis.let_in
    if mended is None:
        return found
    ranked = sorted(zip(mended.scores, mended.layers, strict=True), key=lambda one: -one[0].value)
    best, pair = ranked[0][0], mended.pair
    claim: Claim = (("No layer alone lets the perturbation in for sure", False),)
    told = f"mending {ranked[0][1]} brings back {percent(best.value)} {span(best)} of what the attack takes"
    told += f", mending {ranked[1][1]}, the second, {percent(ranked[1][0].value)}" if ranked[1:] else ""
    if mended.named:
        verb = " lets the" if len(mended.named) == 1 else " together let the"
        claim = (*_listed(mended.named), (f"{verb} perturbation in", False))
    if pair is not None and (mended.named != (mended.answer,) or pair.lead.low >= WORTH):
        told += f", mending {' and '.join(pair.layers)} together {percent(pair.share.value)} {span(pair.share)}"
    if mended.taken < LEAST:
        told = (
            f"the attack takes {percent(mended.taken)} from the probability of the true class, too little to share out"
        )
    elif mended.everywhere:
        told += "; any layer mends it"
    return replace(found, let_in=claim, let_in_detail=told)


def _where_it_turns(diagnosis: Diagnosis) -> Answer:
    """Which layers contribute most to the loss.

    The layer with the largest vulnerability is named alone only if its interval lies above every other layer's; layers
    whose intervals reach into the first one's are named together. No layer is named where one of these may contribute
    nothing, or no more than later layers win back, where it is unreliable, or the layer before it, or where a control
    fails at any layer. The share is V_l / (survival_0 − survival_L).
    """
    image, last = diagnosis.layers[0], diagnosis.layers[-1]
    model, loss = str(diagnosis.classifier["name"]), diagnosis.loss
    ranked = sorted(diagnosis.layers[1:], key=lambda layer: -layer.vulnerability.value)
    top = ranked[0]
    within_intervals = image.intervals["survival"].low <= last.intervals["survival"].high
    nothing = loss < NO_LOSS or within_intervals
    blamed = [] if nothing else [layer for layer in ranked if layer.vulnerability.high >= top.vulnerability.low]
    names = _listed([layer.name for layer in blamed])

    reasons = [f"{flag.layer} is {flag.message}" for layer in blamed or [last] for flag in unreliable_flags(layer)]
    if reasons := reasons or failed_controls(diagnosis):
        where = f"the largest vulnerability is that of {_text(names)}"
        where = where if blamed else f"the loss is measured at {last.name}"
        detail = f"{where}, but {_first(reasons)}"
        caveat = _caveat(diagnosis, said=reasons if len(reasons) <= 3 else reasons[:2])
        return Answer(((f"No layer of {model} can be named", False),), detail, caveat)
    caveat = _caveat(diagnosis, *blamed, last)
    if nothing:
        detail = f"retained accuracy goes from {percent(image.survival)} at {image.name} to {percent(last.survival)}"
        detail += f" at {last.name}" + ("" if loss < NO_LOSS else ", a difference within its intervals")
        return Answer(((f"No layer of {model} contributes a loss that can be measured", False),), detail, caveat)
    total = f"the {number(loss, 100, 0 if loss >= 0.1 else 1)} points lost between {image.name} and {last.name}"
    back = {row.name: points for row, points in zip(diagnosis.layers, won_back(diagnosis.layers), strict=True)}
    if any(layer.vulnerability.low <= back[layer.name] for layer in blamed):
        detail = f"of {total}, the largest part is {_points(top)} at {top.name}"
        if top.vulnerability.low <= 0:
            detail += ", which may be zero"
        elif top.vulnerability.low <= back[top.name]:
            detail += f", but later layers win {number(back[top.name], 100)} of them back"
        else:
            others = len(blamed) - 1
            detail += f", and {others} more cannot be told from it, {'of which some' if others > 1 else 'which'} may "
            detail += "contribute nothing"
        return Answer(((f"No single layer of {model} stands out", False),), detail, caveat)

    share = sum(layer.vulnerability.value for layer in blamed) / loss
    alone, many = len(blamed) == 1, len(blamed) > NAMED_AT_MOST
    part = f"{100 * share:.0f} %{f' {span(top.share, digits=0)}' if alone else ''} of {total}"
    if share > 1:
        part = f"more than the whole of {total}, because other layers win some back"
    detail = f"{_text(_listed([_points(layer) for layer in blamed[:NAMED_AT_MOST]]))} of retained accuracy"
    detail += f" for the first {NAMED_AT_MOST}, all {len(blamed)} together" if many else "," if alone else ", together"
    if alone and (branch := _standing_out(top)):
        part += f"; {_points(branch)} of it in its {branch.kind} {branch.name}"
    claim = f" contribute{'s' if alone else ''} most to the vulnerability of {model}"
    claim += "" if alone else " and cannot be told apart"
    return Answer((*names, (claim, False)), f"{detail} {part}", caveat, tuple(layer.name for layer in blamed))


def answer_sentence(diagnosis: Diagnosis) -> str:
    """The answer of a diagnosis in one sentence; warnings that bear on it follow in a second one.

    For instance "fc1 contributes most to the vulnerability of lenet5: 55 points [51, 59] of retained accuracy, 59 %
    [55, 63] of the 93 points lost between image and logits." One point is 1 % of retained accuracy.
    """
    return answer(diagnosis).sentence


def _standing_out(block: LayerResult) -> BranchResult | None:
    """The branch of a block, or group of a layer, that surely loses more than each of the others does."""
    ranked = sorted(block.branches, key=lambda branch: -branch.vulnerability.value)
    highest = max([0.0, *(branch.vulnerability.high for branch in ranked[1:])])
    return ranked[0] if ranked and ranked[0].vulnerability.low > highest else None


def _points(layer: LayerResult | BranchResult) -> str:
    """`55 points [51, 59]`, with one decimal below ten points."""
    digits = 0 if abs(layer.vulnerability.value) >= 0.1 else 1
    return f"{number(layer.vulnerability.value, 100, digits)} points {span(layer.vulnerability, digits=digits)}"


def _listed(names: Sequence[str]) -> Claim:
    """`a`, `a and b`, `a, b, c and 4 others`, in the parts of a claim."""
    items = [(name, True) for name in names[:NAMED_AT_MOST]]
    if others := len(names) - len(items):
        items.append((f"{others} other{'s' if others > 1 else ''}", False))
    parts = [part for item in items for part in ((", ", False), item)][1:]
    parts[-2:-1] = [(" and ", False)] if len(items) > 1 else []
    return tuple(parts)


def _text(claim: Claim) -> str:
    return "".join(text for text, _ in claim)


def _caveat(diagnosis: Diagnosis, *layers: LayerResult, said: Sequence[str] = ()) -> str:
    """The warnings of the whole and the failures of these layers, failures first, and all of these.

    Notes are left out: they say what is routine on a budget.
    """
    flags = [flag for flag in diagnosis.flags if flag.severity != "note"]
    flags += [flag for layer in layers for flag in layer.flags if flag.severity == "failure"]
    flags = sorted((flag for flag in flags if _with_layer(flag) not in said), key=severity)
    failures = len({_with_layer(flag) for flag in flags if flag.severity == "failure"})
    return f"{_first([_with_layer(flag) for flag in flags], max(2, failures))}." if flags else ""


def severity(flag: Flag) -> int:
    """Order of flags, the worst first."""
    return ("failure", "warning", "note").index(flag.severity)


def all_flags(diagnosis: Diagnosis) -> list[Flag]:
    """The flags of the whole and of every layer, the worst first."""
    return sorted([*diagnosis.flags, *(flag for layer in diagnosis.layers for flag in layer.flags)], key=severity)


def _first(reasons: Sequence[str], most: int = 2) -> str:
    """The first reasons, and how many more there are; a single one more is said itself."""
    reasons = list(dict.fromkeys(reasons))
    if len(reasons) <= most + 1:
        return "; ".join(reasons)
    return "; ".join(reasons[:most]) + f"; {len(reasons) - most} more among the warnings"


def _with_layer(flag: Flag) -> str:
    return flag.message if flag.layer is None else f"{flag.layer}: {flag.message}"


def summary_table(diagnosis: Diagnosis) -> str:
    """The layers of a diagnosis as a plain-text table for the terminal, a line per layer in execution order.

    It has the judge's accuracy on natural and adversarial explanations and the retained accuracy in per cent,
    vulnerability and that under noise in points; where they were measured, the share of what the attack takes that
    comes back when the layer alone is mended, information loss in per cent of the image's variance, and class
    information in bits. The branches of a block, and groups of channels, stand indented below it, with their parts of
    its vulnerability and the accuracy retained where this one alone is attacked. `!` marks a row with warnings, and the
    warnings follow.
    """
    measured = any(layer.information_loss for layer in diagnosis.layers)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=None)
    heads = ["", "\nlayer", "natural\nright %", "attacked\nright %", "\nretained %", "vulnerability\n(points)"]
    heads += [f"\n{level(diagnosis)}", "by noise\n(points)"]
    asked = diagnosis.let_in is not None
    heads += ["mended\nalone %"] if asked else []
    heads += ["information\nloss %", f"\n{level(diagnosis)}", "class\nbits"] if measured else []
    for column, head in enumerate(heads):
        table.add_column(head, justify="left" if column < 2 else "right", no_wrap=True)
    for place, layer in enumerate(diagnosis.layers):
        row = ["!" if layer.flags else "", layer.name]
        row += [number(share, 100) for share in (layer.natural, layer.adversarial, layer.survival)]
        cells = [number(layer.vulnerability.value, 100, sign=True), span(layer.vulnerability)]
        cells += [number(layer.vulnerability_noise.value, 100, sign=True)]
        cells += [number(layer.let_in.value, 100) if layer.let_in else ""] if asked else []
        if lost := layer.information_loss:
            cells += [number(lost.value, 100, sign=True), span(lost)]
        row += cells if place else [""] * len(cells)  # the image loses nothing
        row += [number(layer.class_information.value, 1, 2)] if layer.class_information else []
        table.add_row(*row)
        for depth, branch in layer.inside:
            part = [number(branch.vulnerability.value, 100, sign=True), span(branch.vulnerability)]
            table.add_row("", f"{depth * '  '}{branch.name}", "", "", number(branch.alone.value, 100), *part)
    console = Console(file=io.StringIO(), width=1000, color_system=None, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().replace("−", "-").splitlines()]  # not every terminal has it
    return "\n".join([*lines, *(f"{flag.severity}: {_with_layer(flag)}" for flag in all_flags(diagnosis))])
