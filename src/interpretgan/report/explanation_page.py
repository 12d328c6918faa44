"""The page of a few images: what every layer shows, the units that were modified, the way there, other explainers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from interpretgan.data import class_name
from interpretgan.data.pictures import MORE, Bytes, Picture, difference_picture, picture
from interpretgan.features.exciting_patches import ExcitingPatch, summary
from interpretgan.features.findings import UNITS, Findings, Shown
from interpretgan.features.latent_paths import LatentPath
from interpretgan.report.explanation_grid import grid, no_turn
from interpretgan.report.page import templates
from interpretgan.statistics import Floats
from interpretgan.store.files import atomic_write_text, write_arrays

Frame: TypeAlias = tuple[str, Bytes, Tensor, Tensor]  #: Where it is, its picture, the judge's class, the network's.

FRAMED = 84  #: Pixels a side that a small image is enlarged to, so that a frame in it is thin.


def write_explanation(findings: Findings, folder: Path, names: Sequence[str], classes: Sequence[str]) -> Path:
    """Write explanation.html, explanation.npz and explanation.csv to a folder; the path of the page.

    Args:
        findings: What `look_closely` found.
        folder: Where to write; made if missing.
        names: Of the images, for their headings.
        classes: Names of the classes.
    """
    arrays = {k: v.cpu().numpy() if torch.is_tensor(v) else np.array(v) for k, v in findings.arrays().items()}
    frame = findings.units.to_frame()
    if findings.towards:  # rows are by layer, then by image and unit
        ways = [findings.towards[layer.name].change.cpu().numpy().ravel() for layer in findings.units.layers]
        frame["change_towards"] = np.concatenate(ways)
    frame.insert(0, "name", [names[image] for image in frame["image"]])
    examples, scales = grid(findings.explanation, classes, len(names))
    images = [_image(findings, row, classes, scales[1]) for row in range(len(names))]
    page = templates().get_template("explanation.html.j2").render(
        findings=findings, examples=examples, scales=scales, names=names, images=images,
        columns=["image", *findings.explanation.layers],
    )  # fmt: skip
    write_arrays(folder / "explanation.npz", arrays)
    atomic_write_text(folder / "explanation.csv", frame.to_csv(index=False))
    atomic_write_text(folder / "explanation.html", page)
    return folder / "explanation.html"


def _image(findings: Findings, row: int, classes: Sequence[str], scale: float) -> dict[str, Any]:
    """All that the page says of one image beside its grid."""
    name, features, bounds = findings.layers[row], findings.units, findings.explanation.bounds
    layer, path = features[name], findings.paths[name]
    true, shown = (class_name(int(each[row]), classes) for each in (features.labels, features.shown))

    def drawn(image: Tensor) -> Bytes:
        return picture(image.double().cpu().numpy(), bounds)

    turning = np.flatnonzero(features.turned)
    proof, place = layer.patching, np.flatnonzero(turning == row)
    patched: dict[str, Any] | None = None
    if proof is not None and len(place):
        tenth = proof.sizes.index(proof.tenth)
        patched = {
            "tenth": proof.tenth, "smallest": int(proof.smallest()[place[0]]),
            "returned": {order: bool(table[place[0], tenth]) for order, table in proof.returned.items()},
            "alone": bool(proof.turned["responsible"][place[0], tenth]),
        }  # fmt: skip
    margin = float(layer.margin_change[row])
    units = [
        {
            "summary": summary(
                layer, unit, image=row, patches=findings.patches[name][unit], names=(true, shown), classes=classes
            ),
            "to_shown": float(layer.to_shown[row, unit]), "to_true": float(layer.to_true[row, unit]),
            "share": float(layer.responsibility[row, unit]) / -margin if margin else 0.0,
            "patches": [_patch(patch, bounds, classes) for patch in findings.patches[name][unit]],
        }
        for unit in layer.top(row, UNITS)
    ]  # fmt: skip
    natural, told = class_name(int(path.classified[0, row]), classes), findings.explanation
    back = ("put back", drawn(path.patched[row]), path.patched_judged[row], path.patched_classified[row])
    return {
        "layer": name, "true": true, "shown": shown, "turned": bool(features.turned[row]), "units": units,
        "natural": natural, "no_turn": None if told.turns[row] else no_turn(told, row, classes),
        "count": layer.units, "margin_change": margin, "error": float(layer.error[row]), "proof": patched,
        "frames": [_said(frame, classes) for frame in (*_strip(path, row, drawn), back)],
        "others": [_other(other, row, drawn) for other in findings.others],
        "towards": _towards(findings, row, classes, drawn), "draws": _draws(findings, row, classes, scale),
    }  # fmt: skip


def _strip(path: LatentPath, row: int, drawn: Callable[[Tensor], Bytes]) -> list[Frame]:
    """The frames of one image."""
    columns = (path.frames[:, row], path.judged[:, row], path.classified[:, row])
    frames = zip(path.shares, *columns, strict=True)
    return [(f"{share:.0%}", drawn(frame), judged, classified) for share, frame, judged, classified in frames]


def _said(frame: Frame, classes: Sequence[str]) -> tuple[str, Bytes, str, str]:
    """A frame with the names of its classes."""
    at, pixels, judged, classified = frame
    return at, pixels, class_name(int(judged), classes), class_name(int(classified), classes)


def _towards(
    findings: Findings, row: int, classes: Sequence[str], drawn: Callable[[Tensor], Bytes]
) -> dict[str, Any] | None:
    """The way towards a class, and the units that change most on it."""
    path = findings.towards.get(findings.layers[row])
    if path is None:
        return None
    deviation, change = findings.units[path.layer].deviation, path.change[row].cpu().numpy()
    sigmas = np.divide(change, deviation, out=np.zeros_like(change), where=deviation > 0)
    return {
        "name": class_name(path.towards, classes), "agreed": path.agreed[row],
        "frames": [_said(frame, classes) for frame in _strip(path, row, drawn)],
        "units": [(int(unit), float(sigmas[unit])) for unit in np.argsort(-np.abs(sigmas), kind="stable")[:UNITS]],
    }  # fmt: skip


def _draws(findings: Findings, row: int, classes: Sequence[str], scale: float) -> dict[str, list[Picture]]:
    """Rows of the grid: other draws of the natural latents, and by how much all draws of a layer vary.

    Their deviation is drawn on the scale of the differences, so that what hardly varies is seen to.
    """
    if not findings.draws:
        return {}
    bounds, layers = findings.explanation.bounds, findings.explanation.layers
    stacks = [draw.natural_explanations[:, row].double().cpu().numpy() for draw in findings.draws]
    spread = np.std([findings.explanation.natural_explanations[:, row].double().cpu().numpy(), *stacks], axis=0)
    rows = {}
    for number, (draw, stack) in enumerate(zip(findings.draws, stacks, strict=True), start=2):
        predictions = draw.natural_predictions
        said = [None] * len(layers) if predictions is None else predictions[1:, row].tolist()
        rows[f"draw {number}"] = [
            Picture(layer, picture(image, bounds), None if predicted is None else class_name(predicted, classes))
            for layer, image, predicted in zip(layers, stack, said, strict=True)
        ]
    varies = [difference_picture(each, scale) for each in spread]
    rows["varies"] = [Picture(layer, pixels) for layer, pixels in zip(layers, varies, strict=True)]
    return rows


def _patch(patch: ExcitingPatch, bounds: tuple[float, float], classes: Sequence[str]) -> tuple[Bytes, str]:
    """A natural image with a frame about the part that the unit sees, and its class."""
    pixels = picture(patch.pixels, bounds)
    times = max(1, FRAMED // max(pixels.shape[:2]))
    pixels = pixels.repeat(times, axis=0).repeat(times, axis=1)
    if patch.is_a_part:
        top, left, bottom, right = (times * side for side in patch.box)
        wide = max(2, max(pixels.shape[:2]) // 48)
        for rows, columns in (
            (slice(top, bottom), slice(left, left + wide)), (slice(top, bottom), slice(max(0, right - wide), right)),
            (slice(top, top + wide), slice(left, right)), (slice(max(0, bottom - wide), bottom), slice(left, right)),
        ):  # fmt: skip
            pixels[rows, columns] = MORE
    return pixels, class_name(patch.label, classes)


def _other(other: Shown, row: int, drawn: Any) -> dict[str, Any]:
    """The pictures of another explainer, by row of the grid; those of one image have one scale."""
    found: dict[str, Any] = {"other": other, "layer": other.layers[row] if other.explainer.uses_layer else None}
    if other.natural is None or other.adversarial is None or other.adversarial_shown is None:
        return found | {"pictures": []}
    three = [each[row] for each in (other.natural, other.adversarial, other.adversarial_shown)]
    if other.explainer.kind == "picture":
        change = (three[1] - three[0]).double().numpy()
        pictures = [drawn(three[0]), drawn(three[1]), difference_picture(change, float(np.abs(change).max())), None]
        return found | {"pictures": pictures}
    maps: list[Floats] = [each.double().numpy()[None] for each in (three[0], three[1], three[1] - three[0], three[2])]
    scale = max(float(np.quantile(np.abs(each), 0.99)) for each in (maps[0], maps[1]))
    own = float(np.quantile(np.abs(maps[3]), 0.99))
    return found | {"pictures": [difference_picture(each, own if n == 3 else scale) for n, each in enumerate(maps)]}
