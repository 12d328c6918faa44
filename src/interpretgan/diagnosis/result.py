"""A diagnosis as a record: a row per layer, with intervals, and the file that keeps it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interpretgan.errors import RunFolderError
from interpretgan.statistics import Interval
from interpretgan.store.files import read_json, write_json

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
INFORMATION = (
    "unexplained", "information_loss", "information_control", "class_information", "class_information_loss",
    "class_accuracy",
)  # fmt: skip
"""Figures of a row that stand there where information was measured."""
NOISE_CONTROL = "noise control"
"""How flags begin that say that random noise moves a layer's vulnerability."""
BROKEN = 1 / 3
"""A judge that keeps less of its own accuracy when it is attacked itself is flagged."""


def control_flags(
    layers: Sequence[Mapping[str, Any]], controls: Mapping[str, float], judge: Mapping[str, Any]
) -> list[str]:
    """What the controls of a whole diagnosis leave in doubt.

    Args:
        layers: Rows with their `name` and `flags`.
        controls: See `Diagnosis`.
        judge: See `Diagnosis`.
    """
    flags = []
    moved = [str(row["name"]) for row in layers if any(flag.startswith(NOISE_CONTROL) for flag in row["flags"])]
    if moved:
        most = controls["noise_max_abs_vulnerability"]
        flags.append(
            f"{NOISE_CONTROL} failed: random noise alone moves {', '.join(moved)}, by up to {most:.3f}: what these "
            "layers seem to contribute is not all the attack's"
        )
    if judge["adversarial"] < BROKEN * judge["natural"]:
        flags.append(
            f"weak judge: attacked itself it reads {judge['adversarial']:.3f} right instead of {judge['natural']:.3f}; "
            "train it longer (--judge-epochs)"
        )
    return flags


@dataclass(frozen=True)
class LayerResult:
    """One row of a diagnosis: the image itself, or a layer and the layer that ends there.

    Attributes:
        name: `image`, or the layer's name.
        kind: Class of the module.
        shape: Shape of the latent.
        natural: Share of natural explanations that show the true class, 0 to 1, as all accuracies.
        adversarial: The same for adversarial explanations.
        noise: The same under random noise of the same size.
        survival: `adversarial / natural`.
        bits: Information between the true class and what adversarial explanations show.
        vulnerability: `V_l = survival_{l-1} - survival_l`; 0 for the image.
        share: `V_l / Σ V`, its share of the whole loss; 0 where it is not sure that anything is lost.
        vulnerability_bits: `bits_{l-1} - bits_l`.
        vulnerability_noise: `V_l` with noise in place of the attack: the control.
        intervals: Of `natural`, `adversarial`, `noise` and `survival`.
        transitions: Counts, true class by class shown, of adversarial explanations.
        flags: Reasons to distrust the row.
        unexplained: `u_l`, the share of the image's variance that the layer no longer explains; 0 for the image. This
            and all below `None` where information was not measured.
        information_loss: `u_l - u_{l-1}`, as measured.
        information_control: The same for a random projection of the layer before to the size of this one; `None` also
            where this one is not smaller.
        class_information: What a probe of fixed capacity tells of the class, in bits.
        class_information_loss: By how many bits it falls.
        class_accuracy: Share of the images of which the probe tells the true class.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    natural: float
    adversarial: float
    noise: float
    survival: float
    bits: float
    vulnerability: Interval
    share: Interval
    vulnerability_bits: Interval
    vulnerability_noise: Interval
    intervals: Mapping[str, Interval]
    transitions: tuple[tuple[int, ...], ...]
    flags: tuple[str, ...] = ()
    unexplained: Interval | None = None
    information_loss: Interval | None = None
    information_control: Interval | None = None
    class_information: Interval | None = None
    class_information_loss: Interval | None = None
    class_accuracy: Interval | None = None


@dataclass(frozen=True)
class Diagnosis:
    """Which layer lets the perturbations through. Immutable; `save` and `load` are inverse.

    Attributes:
        classifier: Name, number of parameters, and what else is known of the model.
        data: Name, split and number of examples.
        threat_model: Norm, eps, attack, steps, restarts, step size.
        accuracy: Of the model on natural, adversarial and noisy images, and of the judge on the first two.
        layers: The image, then the layers in execution order.
        controls: Largest absolute vulnerability at eps = 0 (exactly 0) and under noise; with several generators, how
            well they agree.
        judge: Name and held-out accuracies of the judge.
        flags: Reasons to distrust the whole.
        provenance: Seeds, versions, device, date.
    """

    classifier: Mapping[str, Any]
    data: Mapping[str, Any]
    threat_model: Mapping[str, Any]
    accuracy: Mapping[str, float]
    layers: tuple[LayerResult, ...]
    controls: Mapping[str, float]
    judge: Mapping[str, Any]
    flags: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """The loss that the layers share: `survival_0 - survival_L`, the sum of all `V_l`."""
        return self.layers[0].survival - self.layers[-1].survival

    @property
    def top(self) -> LayerResult:
        """The layer that contributes most."""
        return max(self.layers[1:], key=lambda layer: layer.vulnerability.value)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in `diagnosis.json`."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    def to_frame(self) -> pd.DataFrame:
        """One row per layer, intervals as `<quantity>_low` and `<quantity>_high`."""
        import pandas as pd

        rows = []
        for layer in self.layers:
            row = {
                name: getattr(layer, name)
                for name in ("name", "kind", "shape", "natural", "adversarial", "noise", "survival", "bits")
            }
            for name, interval in layer.intervals.items():
                row |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
            for name in ("vulnerability", "share", "vulnerability_bits", "vulnerability_noise"):
                interval = getattr(layer, name)
                row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
            for name in INFORMATION:
                if (interval := getattr(layer, name)) is not None:
                    row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
            rows.append(row | {"flags": "; ".join(layer.flags)})
        return pd.DataFrame(rows)

    def save(self, path: str | Path) -> Path:
        """Write `diagnosis.json` (into `path` if that is a folder), atomically; returns the file's path.

        Raises:
            RunFolderError: The file cannot be written.
        """
        path = Path(path)
        file = path / "diagnosis.json" if path.suffix != ".json" else path
        write_json(file, self.to_dict())
        return file

    @classmethod
    def load(cls, path: str | Path) -> Diagnosis:
        """Read a diagnosis from its file, or from the folder that holds `diagnosis.json`.

        Raises:
            RunFolderError: The file is missing, damaged, or of another schema.
        """
        path = Path(path)
        file = path / "diagnosis.json" if path.suffix != ".json" else path
        value = read_json(file)
        found = value.get("schema") if isinstance(value, dict) else None
        if found != SCHEMA:
            raise RunFolderError(
                expected=f"a diagnosis of schema {SCHEMA} in {file}", got=f"schema {found}", do="diagnose again"
            )
        try:
            fields = {item.name: value[item.name] for item in dataclasses.fields(cls)}
            layers = tuple(_layer(layer) for layer in value["layers"])
        except (KeyError, TypeError) as error:
            raise RunFolderError(
                expected=f"a whole diagnosis in {file}", got=f"one without {error}", do="diagnose again"
            ) from error
        return cls(**fields | {"layers": layers, "flags": tuple(value["flags"])})


def _layer(row: dict[str, Any]) -> LayerResult:
    plain = dict(row)
    for name in ("vulnerability", "share", "vulnerability_bits", "vulnerability_noise"):
        plain[name] = Interval(**row[name])
    for name in INFORMATION:  # not in diagnoses of older versions
        plain[name] = None if row.get(name) is None else Interval(**row[name])
    plain["intervals"] = {name: Interval(**interval) for name, interval in row["intervals"].items()}
    plain["shape"], plain["flags"] = tuple(row["shape"]), tuple(row["flags"])
    plain["transitions"] = tuple(tuple(counts) for counts in row["transitions"])
    return LayerResult(**plain)
