"""What the page of findings says of explanations: whether they can be read, and what made them readable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from interpretgan.diagnosis.reliability import READABLE
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.errors import RunFolderError
from interpretgan.report.pictures import explanation_sheet, load_explanation
from interpretgan.store.files import atomic_write_bytes, read_json
from interpretgan.studies.sections import PICTURED, SHOWN, picture
from interpretgan.studies.statistics import Profile, rank_correlation

REPLICATES, LEVEL = 2000, 0.95
"""Of the bootstrap where a diagnosis stands alone, and level of its interval: the defaults of a study."""


def explained(folder: Path, figures: Path) -> Iterator[str]:
    """One diagnosis: whether its explanations can be read, layer by layer, and what they look like."""
    diagnosis = Diagnosis.load(folder)
    image, *layers = diagnosis.layers
    floor = image.natural - READABLE
    expected = [one for one in layers if one.class_accuracy and one.class_accuracy.value >= image.natural]
    read = [one for one in expected if one.natural >= floor]
    yield f"## Can the explanations be read? {diagnosis.classifier['name']} on {diagnosis.data['name']}"
    yield ""
    yield (
        f"The judge reads the class of {100 * image.natural:.1f} % of the {diagnosis.data['examples']:,} natural "
        "images. Where a class probe of a layer is right as often, explanations of that layer should show the class as "
        f"well. There are {len(expected)} such layers, and at {len(read)} of them the judge reads natural explanations "
        f"right as often as images, or at most {100 * READABLE:.0f} points less often. Of all layers these are "
        f"{sum(one.natural >= floor for one in layers)} of {len(layers)}."
    )
    drawn = diagnosis.provenance
    read_by = "a robust recognition network" if drawn.get("recognition_network_sha256") else "the classifier itself"
    yield ""
    yield (
        f"While the generator learnt ({drawn['generator']['steps']:,} steps, {len(drawn['generator_seeds'])} seed"
        f"{'' if len(drawn['generator_seeds']) == 1 else 's'}), {read_by} read what it drew. That the judge can read "
        "an explanation does not say that a person can. A class probe is small by design: it sees little of a "
        "wide layer."
    )
    yield ""
    yield "| layer | class probe right | natural explanations read right | attacked ones | vulnerability (points) |"
    yield "| --- | --- | --- | --- | --- |"
    for one in layers:
        probe = "–" if one.class_accuracy is None else f"{100 * one.class_accuracy.value:.1f} %"
        mark = "" if one.natural >= floor else ", unreliable"
        yield (
            f"| {one.name} | {probe} | {100 * one.natural:.1f} %{mark} | {100 * one.adversarial:.1f} % "
            f"| {100 * one.vulnerability.value:+.1f} "
            f"[{100 * one.vulnerability.low:+.1f}, {100 * one.vulnerability.high:+.1f}] |"
        )
    lost = [one.information_loss.value if one.information_loss and one.natural >= floor else np.nan for one in layers]
    order = Profile("alone", "alone", np.array(lost), np.array([one.vulnerability.value for one in layers]))
    if (rho := rank_correlation([order], REPLICATES, seed=0)) is not None:
        low, high = rho.interval(LEVEL)
        yield ""
        yield (
            f"Over these layers information loss and vulnerability have a rank correlation of {rho.value:+.2f} "
            f"[{low:+.2f}, {high:+.2f}]: one network and one training, under no rule."
        )
    file = figures / f"{folder.name}.png"
    explanation = load_explanation(folder / "explanations.npz")
    atomic_write_bytes(file, explanation_sheet(explanation, diagnosis.data["classes"], SHOWN))
    yield ""
    yield from picture(PICTURED.format(folder.name), f"{figures.name}/{file.name}")
    if diagnosis.flags:
        yield ""
        yield "Reasons to doubt:"
        yield ""
        yield from (f"- {flag}" for flag in diagnosis.flags)


def ablation(file: Path, figures: Path) -> Iterator[str]:
    """What makes the explanations of deep layers readable: the record of `python -m benchmarks.deep_layers`.

    Args:
        file: The record, with its picture beside it.
        figures: Where that is copied to.

    Raises:
        RunFolderError: It is another file.
    """
    record = read_json(file)
    if not isinstance(record, dict) or not {"variants", "image", "recognition_network"} <= record.keys():
        raise RunFolderError(
            expected=f"the record of an ablation in {file}",
            got="another file",
            do="run python -m benchmarks.deep_layers",
        )
    image = record["image"]["judge"]
    yield f"## What makes deep layers of photographs readable? {record['classifier']}"
    yield ""
    yield (
        f"The judge ({record['judge']}) reads {_share(image)} of {record['examples']:,} images right. Natural "
        f"explanations that it reads right after {record['steps']} steps of training, one seed, by who reads them in "
        f"that training (the classifier, as in the paper, or the robust recognition network "
        f"{record['recognition_network']}) and by the "
        "weight of latent consistency ([why](method.md)):"
    )
    layers = list(record["variants"][0]["layers"])
    yield ""
    yield f"| trained with | {' | '.join(layers)} |"
    yield f"| --- |{' --- |' * len(layers)}"
    for variant in record["variants"]:
        yield f"| {variant['name']} | {' | '.join(_share(variant['layers'][layer]['judge']) for layer in layers)} |"
    copy = figures / f"{file.stem}.png"
    atomic_write_bytes(copy, file.with_suffix(".png").read_bytes())
    yield ""
    yield from picture(
        "Natural explanations of each layer, by how the generator was trained", f"{figures.name}/{copy.name}"
    )


def _share(value: Mapping[str, float]) -> str:
    return f"{100 * value['value']:.1f} % [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"
