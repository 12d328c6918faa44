"""A diagnosis as a record: a row per layer, with intervals and warnings, and the file that keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from interpretgan.attacks.threat_model import NORMS
from interpretgan.baselines.layer_scores import MeasuredScore
from interpretgan.diagnosis.let_in import LetIn
from interpretgan.diagnosis.realism import Realism
from interpretgan.errors import Flag, kind_of
from interpretgan.statistics import Interval
from interpretgan.store.records import Record

if TYPE_CHECKING:
    import pandas as pd


def _sparse(table: object) -> object:
    """The counts of a table that has all classes down and across, as files of older versions have it; else as given."""
    if not isinstance(table, list | tuple):
        return table
    rows = ({str(shown): count for shown, count in enumerate(row) if count} for row in table)
    return {str(true): row for true, row in enumerate(rows) if row}


@dataclass(frozen=True)
class BranchResult:
    """What one branch of a block contributes to the block's row; the first three add up over the branches."""

    name: str  #: Of the branch, see `interpretgan.layers.branches`.
    modules: tuple[str, ...]  #: Its module calls; empty for what flows around the other branches.
    vulnerability: Interval  #: `V_lb`, its part of `V_l`.
    share: Interval  #: `V_lb / Σ V`, its part of the block's share.
    carried: Interval  #: `φ_b`, its part of all that is lost at the block's output, `1 - survival_l`.
    alone: Interval  #: Survival at the block where this branch alone does what it does under attack.
    others: Interval  #: Survival where all others do, and this one does what it does on the natural image.
    #: The groups of channels, heads for one, that the branch is split among; their first three add up to its own.
    parts: tuple[BranchResult, ...] = ()
    channels: tuple[int, int] | None = None  #: Of a group: its first channel, and the one behind its last.

    @property
    def kind(self) -> str:
        """`branch`, or `group` for a group of channels."""
        return "branch" if self.channels is None else "group"


ACCURACIES = ("natural", "adversarial", "noise", "judge_natural", "judge_adversarial")
INTERVALS = {"natural", "adversarial", "noise", "survival"}


def _mended_all(found: LetIn, names: Sequence[str]) -> bool:
    """Whether all figures are of the same layers among these, and a pair is of two of them, in their order."""
    parts = (found.scores, found.weights, found.filtering)
    alike = {len(part) for part in parts} == {len(found.layers)} and {*found.layers} <= {*names}
    pairs = [*combinations(found.layers, 2)]
    return bool(found.layers) and alike and (found.pair is None or found.pair.layers in pairs)


def _counted(table: Mapping[str, Mapping[str, int]]) -> bool:
    numbers = [*table, *(shown for row in table.values() for shown in row)]
    return all(map(str.isdecimal, numbers)) and all(count > 0 for row in table.values() for count in row.values())


@dataclass(frozen=True)
class LayerResult:
    """One row of a diagnosis: a layer, or the image itself in the first row."""

    name: str  #: `image`, or the layer's name.
    kind: str  #: Class of the module.
    shape: tuple[int, ...]  #: Shape of the latent.
    #: Share of natural explanations for which the judge predicts the true class, 0 to 1 as all accuracies.
    natural: float
    adversarial: float  #: The same for adversarial explanations.
    noise: float  #: The same under random noise of the same size.
    survival: float  #: The retained accuracy, `adversarial / natural`.
    bits: float  #: Information between the true class and the judge's predictions for adversarial explanations.
    vulnerability: Interval  #: `V_l = survival_{l-1} - survival_l`; 0 for the image.
    share: Interval  #: `V_l / Σ V`, its share of the whole loss; 0 where it is not sure that anything is lost.
    vulnerability_bits: Interval  #: `bits_{l-1} - bits_l`.
    vulnerability_noise: Interval  #: `V_l` with white noise of the same size in place of the attack: a control.
    intervals: Mapping[str, Interval]  #: Of `natural`, `adversarial`, `noise` and `survival`.
    #: Counts of adversarial explanations by number of the true class, then of the predicted one, where there are any.
    transitions: Annotated[Mapping[str, Mapping[str, int]], BeforeValidator(_sparse)]
    flags: tuple[Flag, ...] = ()  #: What warns of the row.
    #: `V_l` with smooth noise, and with another image's perturbation, in place of the attack. `None`: not measured.
    vulnerability_smooth: Interval | None = None
    vulnerability_foreign: Interval | None = None
    #: Where the perturbation is let in: how much of what the attack takes comes back when this layer alone is mended, 0
    #: to 1. `None` for the image, and where that was not asked.
    let_in: Interval | None = None
    #: How far its explanations are from natural images, 0 where they are as real; of the image: how far other natural
    #: images are. `None`: not measured; see `interpretgan.diagnosis.realism`.
    realism: Interval | None = None
    #: The share of the loss that lands on this layer where from it on the latent is that of an image of another class:
    #: the positive control, which must be 1. `None` for the image, and where all images are of one class.
    positive: float | None = None
    #: `u_l`, the share of the image's variance that the layer no longer explains; 0 for the image. This and all below
    #: are `None` where information was not measured.
    unexplained: Interval | None = None
    information_loss: Interval | None = None  #: `u_l - u_{l-1}`, as measured.
    #: The same for a random projection of the layer before to the size of this one; `None` also where this one is not
    #: smaller.
    information_control: Interval | None = None
    class_information: Interval | None = None  #: What a probe of fixed capacity tells of the class, in bits.
    class_information_loss: Interval | None = None  #: By how many bits it falls.
    class_accuracy: Interval | None = None  #: Share of the images for which the probe predicts the true class.
    #: The parallel branches that the layer's latent follows from, and what each contributes to its vulnerability; empty
    #: where there are none, or that was not asked. Or the groups of channels that it is split among, if asked for.
    branches: tuple[BranchResult, ...] = ()

    @property
    def inside(self) -> list[tuple[int, BranchResult]]:
        """The branches with their depth 1, each followed by its groups with the depth 2."""
        return [row for branch in self.branches for row in ((1, branch), *((2, part) for part in branch.parts))]


@dataclass(frozen=True)
class Diagnosis(Record):
    """How much of a classifier's loss of accuracy under attack each layer contributes, kept in `diagnosis.json`."""

    file_name: ClassVar[str] = "diagnosis.json"

    classifier: Mapping[str, Any]  #: Name, number of parameters, and what else is known of the model.
    data: Mapping[str, Any]  #: Number of examples, and what else is known of the data.
    threat_model: Mapping[str, Any]  #: Norm, eps, attack, steps, restarts, step size.
    #: Of the model on `natural` and `adversarial` images and on those of the controls (`noise`, `smooth`, `foreign`),
    #: and of the judge on the first two (`judge_natural`, `judge_adversarial`).
    accuracy: Mapping[str, float]
    #: The image, then the layers in execution order, at least one.
    layers: Annotated[tuple[LayerResult, ...], Field(min_length=2)]
    #: The largest absolute V without a perturbation (`eps0_max_abs_vulnerability`, exactly 0), under white noise
    #: (`noise_max_abs_vulnerability`), and likewise `smooth` and `foreign`; `positive_least`, the least share of the
    #: positive control; with several generators `seeds_spearman` and `seeds_same_top`.
    controls: Mapping[str, float]
    #: `name` of the judge, and its held-out accuracies, `natural` and `adversarial` (attacked itself).
    judge: Mapping[str, Any]
    flags: tuple[Flag, ...] = ()  #: What warns of the whole.
    let_in: LetIn | None = None  #: What the `let_in` of the rows follow from, and whether one stands out.
    realism: Realism | None = None  #: What the `realism` of the rows rests on, and its controls.
    provenance: Mapping[str, Any] = field(default_factory=dict)  #: Seeds, versions, device, date.
    baselines: tuple[MeasuredScore, ...] = ()  #: Other scores of the layers, a value each; empty: not measured.

    @property
    def loss(self) -> float:
        """The loss that the layers share: `survival_0 - survival_L`, the sum of all `V_l`."""
        return self.layers[0].survival - self.layers[-1].survival

    def problem(self) -> str:
        """What is missing or wrong in a record that was read, beside the types of its fields; empty: nothing."""
        for place, values, wanted in (
            ("classifier", self.classifier, {"name": str}),
            ("data", self.data, {"examples": int}),
            (
                "threat_model",
                self.threat_model,
                {"norm": str, "eps": float, "attack": str, "steps": int, "restarts": int},
            ),
            ("accuracy", self.accuracy, dict.fromkeys(ACCURACIES, float)),
            ("controls", self.controls, {"eps0_max_abs_vulnerability": float}),
            ("judge", self.judge, {"name": str, "natural": float, "adversarial": float}),
        ):
            for name, kind in wanted.items():
                found = values.get(name)
                if not isinstance(found, (int, float) if kind is float else kind) or isinstance(found, bool):
                    return f"{place}.{name} {kind_of(found)}"
        classes, confidence = self.data.get("classes"), self.provenance.get("confidence", 0.95)
        seconds = self.provenance.get("seconds", {})
        count, names = len(self.layers), [layer.name for layer in self.layers]
        measured = [score.values for score in self.baselines if not score.error]
        mended = self.let_in
        for wrong, what in (
            (self.threat_model["norm"] not in NORMS, "threat_model.norm"),
            (self.threat_model["eps"] <= 0 or self.data["examples"] < 1, "threat_model.eps or data.examples"),
            (not isinstance(classes, list | tuple | None), "data.classes"),
            (not isinstance(confidence, float) or not 0 < confidence < 1, "provenance.confidence"),
            (not isinstance(seconds, dict) or not all(isinstance(s, int | float) for s in seconds.values()), "seconds"),
            (len(set(names)) < count, "layers of one name"),
            (any(not layer.intervals.keys() >= INTERVALS for layer in self.layers), "layers.intervals"),
            (any(not _counted(layer.transitions) for layer in self.layers), "layers.transitions"),
            (any(len(values) != count - 1 for values in measured), "baselines.values"),
            (mended and not _mended_all(mended, names), "let_in"),
            (self.realism and any(layer.realism is None for layer in self.layers), "layers.realism"),
            (mended and any(layer.let_in is None for layer in self.layers[1:]), "layers.let_in"),
        ):
            if wrong:
                return what
        return ""

    def _repr_html_(self) -> str:
        """A table for notebooks: what each layer, branch and group keeps and loses, and the warnings."""
        from html import escape

        def points(lost: Interval) -> str:
            return f"{100 * lost.value:+.1f} [{100 * lost.low:.1f}, {100 * lost.high:.1f}]"

        lines = []
        for layer in self.layers:
            kept = (f"{100 * share:.1f}" for share in (layer.natural, layer.adversarial, layer.survival))
            mended = f"{100 * layer.let_in.value:.1f}" if layer.let_in else ""
            flags = "; ".join(flag.code for flag in layer.flags)
            lines.append([layer.name, *kept, points(layer.vulnerability), mended, flags])
            for depth, branch in layer.inside:
                alone = f"{100 * branch.alone.value:.1f}"
                lines.append(
                    [f"{depth * chr(0x2003)}{branch.name}", "", "", alone, points(branch.vulnerability), "", ""]
                )

        heads = ["layer", "natural right %", "attacked right %", "retained %", "vulnerability (points)"]
        heads += ["mended alone %", "warnings"]
        rows = "".join(f"<tr><td>{'</td><td>'.join(map(escape, line))}</td></tr>" for line in lines)
        warnings = "".join(f"<li>{escape(flag.severity)}: {escape(flag.message)}</li>" for flag in self.flags)
        title = escape(f"{self.classifier.get('name')}: {self.data.get('examples')} images")
        head = f"<tr><th>{'</th><th>'.join(heads)}</th></tr>"
        return f"<p>{title}</p><table><thead>{head}</thead><tbody>{rows}</tbody></table><ul>{warnings}</ul>"

    def to_frame(self) -> pd.DataFrame:
        """One row per layer, intervals as `<quantity>_low` and `<quantity>_high`; a block's branches follow below it.

        Of several generators there is the standard deviation between them, too, as `<quantity>_spread`.

        In the row of a branch, `block` names the block whose figures its own are part of, and `survival` is that where
        this branch alone is attacked; of a layer `block` is empty. In the row of a group `branch` names the branch that
        it is part of, where it is one. To add up rows, take those of one level.
        """
        import pandas as pd

        def of(quantity: str, interval: Interval) -> dict[str, float]:
            spread = {} if interval.spread is None else {f"{quantity}_spread": interval.spread}
            return {
                quantity: interval.value,
                f"{quantity}_low": interval.low,
                f"{quantity}_high": interval.high,
                **spread,
            }

        rows = []
        for layer in self.layers:
            row: dict[str, Any] = {"block": ""}
            for name, value in vars(layer).items():
                interval = value if isinstance(value, Interval) else layer.intervals.get(name)
                if interval is not None:
                    row |= of(name, interval)
                elif name in ("name", "kind", "shape", "bits"):
                    row[name] = value
            rows.append(row | {"flags": "; ".join(flag.message for flag in layer.flags)})
            whole = ""
            for depth, branch in layer.inside:
                whole = branch.name if depth == 1 else whole
                parts = {"vulnerability": branch.vulnerability, "share": branch.share, "carried": branch.carried}
                parts |= {"survival": branch.alone, "survival_others": branch.others}
                figures = {key: value for name, interval in parts.items() for key, value in of(name, interval).items()}
                place = {"block": layer.name} | ({"branch": whole} if depth == 2 else {})
                rows.append({**place, "name": branch.name, "kind": branch.kind, "flags": "", **figures})
        return pd.DataFrame(rows)
