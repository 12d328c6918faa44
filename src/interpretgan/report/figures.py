"""The drawings of the report: chart geometry in per cent of the plot, and pictures as PNG bytes."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from interpretgan.errors import ImageError
from interpretgan.report.wording import interval, is_unreliable, number, plain, signed, span

FloatArray = npt.NDArray[np.float64]
ByteArray = npt.NDArray[np.uint8]

MORE = (224, 112, 26)  # brighter than the natural explanation: orange
LESS = (47, 116, 208)  # darker: blue
MAX_SIDE = 96  # larger pictures are reduced to this many pixels, or a page would weigh tens of megabytes
MAX_EXAMPLES = 8


# ---------------------------------------------------------------------------------------------------- charts


def ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Round numbers between `low` and `high`, about that many."""
    rough = max(high - low, 1e-9) / about
    base = 10.0 ** math.floor(math.log10(rough))
    step = next(base * factor for factor in (1, 2, 5, 10) if base * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def chart(diagnosis: dict[str, Any], top: tuple[str, ...] = ()) -> dict[str, Any]:
    """The geometry of the charts: vulnerability, information loss and class information, and what explanations show.

    Args:
        diagnosis: The content of diagnosis.json.
        top: Names of the layers to set off.

    Returns:
        `rows` in execution order with every x in per cent of the plot's width, `ticks` and `zero` of the
        vulnerability axis, and `curves` whose points lie in a box 100 wide and 10 high per row; `information` and
        `bits` have `ticks` and `zero` of the axes of `row.information` and `row.bits`, and are None where that was not
        measured.
    """
    layers = list(diagnosis.get("layers") or ())
    axis, parts = _bars(layers, "vulnerability", "vulnerability_noise")
    other_axis, other_parts = _bars(layers, "information_loss", "information_control")
    class_axis, class_parts = _bits(layers)
    rows = []
    for position, (layer, part, other, bits) in enumerate(zip(layers, parts, other_parts, class_parts, strict=True)):
        row: dict[str, Any] = {
            "name": str(layer["name"]),
            "unreliable": is_unreliable(layer),
            "top": str(layer["name"]) in top,
            "first": position == 0,
            **part,
            "information": other,
            "bits": bits,
            "accuracy": {},
        }
        for key in ("natural", "adversarial"):
            accuracy = number(layer.get(key))
            row["accuracy"][key] = None if accuracy is None else round(100 * accuracy, 2)
        rows.append(row)
    return {
        "rows": rows,
        **axis,
        "information": other_axis if _known(layers, "information_loss") else None,
        "bits": class_axis if _known(layers, "class_information") else None,
        "curves": {key: _curve(layers, key) for key in ("natural", "adversarial")},
        "longest": max((len(row["name"]) for row in rows), default=8),
    }


def _bars(layers: list[dict[str, Any]], key: str, control_key: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An axis, and for each layer a bar with its interval and its control's mark; no bar for the image."""
    pairs = [(layer.get(key) or {}, layer.get(control_key) or {}) for layer in layers]
    reach = [0.0, 0.05, *_reach(record for pair in pairs[1:] for record in pair)]
    edge = 0.03 * (max(reach) - min(reach))
    low, high = min(reach) - edge, max(reach) + edge
    x = _scale(low, high)
    parts: list[dict[str, Any]] = []
    for position, (record, control) in enumerate(pairs):
        if not position:
            parts.append({"value": "", "span": "", **_bar({}, x), "control": None})
            continue
        control_value, mark = number(control.get("value")), None
        if control_value is not None:
            text = f"{signed(control_value)} {span(control)}".rstrip()
            mark = {"x": x(control_value), "span": _ends(control, x), "text": text}
        parts.append({"value": signed(record.get("value")), "span": span(record), **_bar(record, x), "control": mark})
    marks = [{"x": x(mark), "label": plain(100 * mark, 0).replace("-", "−")} for mark in ticks(low, high)]
    return {"ticks": marks, "zero": x(0.0)}, parts


def _bits(layers: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An axis, and for each layer and the image a bar of its class information in bits, with its interval."""
    records = [layer.get("class_information") or {} for layer in layers]
    reach = [0.0, 0.1, *_reach(records)]
    low, high = min(reach), 1.03 * max(reach)
    x = _scale(low, high)
    parts: list[dict[str, Any]] = []
    for record in records:
        value = number(record.get("value"))
        told = {"value": "", "span": ""}
        if value is not None:
            told = {"value": plain(value, 2), "span": span(record, scale=1, digits=2)}
        parts.append({**told, **_bar(record, x), "control": None})
    marks = [{"x": x(mark), "label": f"{mark:.3g}"} for mark in ticks(low, high, about=4)]
    return {"ticks": marks, "zero": x(0.0)}, parts


def _reach(records: Iterable[dict[str, Any]]) -> Iterator[float]:
    """All that an axis has to hold: each known value and the ends of its interval."""
    for record in records:
        value = number(record.get("value"))
        yield from () if value is None else (value,)
        yield from interval(record) or ()


def _scale(low: float, high: float) -> Callable[[float], float]:
    """A place on the axis from `low` to `high`, in per cent of its length."""
    return lambda value: round(100 * (value - low) / (high - low), 3)


def _bar(record: dict[str, Any], x: Callable[[float], float]) -> dict[str, Any]:
    """A bar from zero and the whisker of its interval; neither where there is no value."""
    value = number(record.get("value"))
    if value is None:
        return {"bar": None, "whisker": None}
    return {"bar": {"x": x(min(value, 0.0)), "width": round(abs(x(value) - x(0.0)), 3)}, "whisker": _ends(record, x)}


def _ends(record: dict[str, Any], x: Callable[[float], float]) -> tuple[float, float] | None:
    bounds = interval(record)
    return bounds and (x(bounds[0]), x(bounds[1]))


def _known(layers: list[dict[str, Any]], key: str) -> bool:
    return any(number((layer.get(key) or {}).get("value")) is not None for layer in layers)


def _curve(layers: list[dict[str, Any]], key: str) -> dict[str, list[str]]:
    """Lines and interval bands of one accuracy down the rows, broken where a value is missing."""
    lines: list[list[str]] = [[]]
    bands: list[tuple[list[str], list[str]]] = [([], [])]
    for position, layer in enumerate(layers):
        y = 10 * position + 5
        value = number(layer.get(key))
        bounds = interval((layer.get("intervals") or {}).get(key))
        if value is None:
            lines.append([])
        else:
            lines[-1].append(f"{100 * value:.2f},{y}")
        if bounds is None:
            bands.append(([], []))
        else:
            bands[-1][0].append(f"{100 * bounds[0]:.2f},{y}")
            bands[-1][1].append(f"{100 * bounds[1]:.2f},{y}")
    return {
        "lines": [" ".join(line) for line in lines if len(line) > 1],
        "bands": [" ".join([*lower, *reversed(upper)]) for lower, upper in bands if len(lower) > 1],
    }


# -------------------------------------------------------------------------------------------------- pictures


def check_examples(examples: dict[str, Any]) -> dict[str, Any]:
    """The examples as arrays of agreeing shapes, reduced to the first `MAX_EXAMPLES`.

    Raises:
        ImageError: An array is missing or its shape does not fit the others.
    """
    layers = [str(layer) for layer in examples["layers"]]
    images = np.asarray(examples["images"], dtype=np.float64)
    found: dict[str, Any] = {**examples, "layers": layers, "total": len(images)}
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ImageError(
            expected="example images of shape [N, C, H, W] with 1 or 3 channels",
            got=f"shape {list(images.shape)}",
            do="hand over the images as the classifier takes them",
        )
    wanted = {
        "images": images.shape,
        "adversarial": images.shape,
        "natural_explanations": (len(layers), *images.shape),
        "adversarial_explanations": (len(layers), *images.shape),
        "natural_predictions": (len(layers) + 1, len(images)),
        "adversarial_predictions": (len(layers) + 1, len(images)),
        "labels": (len(images),),
    }
    for key, shape in wanted.items():
        optional = key in ("natural_predictions", "adversarial_predictions", "labels")
        if optional and examples.get(key) is None:
            found[key] = None
            continue
        array = np.asarray(examples[key], dtype=np.int64 if optional else np.float64)
        if array.shape != shape:
            raise ImageError(
                expected=f"examples[{key!r}] of shape {list(shape)}",
                got=f"shape {list(array.shape)}",
                do="take all arrays from one explanation",
            )
        many = (..., slice(MAX_EXAMPLES)) if "predictions" in key else (slice(MAX_EXAMPLES),)
        found[key] = array[:, :MAX_EXAMPLES] if key.endswith("_explanations") else array[many]
    turns = list(examples.get("turns") or [None] * len(images))
    found["turns"] = turns[:MAX_EXAMPLES]
    return found


def picture(image: FloatArray, bounds: tuple[float, float]) -> ByteArray:
    """An image [C, H, W] in the classifier's bounds as RGB bytes [H, W, 3]."""
    low, high = bounds
    unit = np.clip((np.nan_to_num(image) - low) / (high - low), 0.0, 1.0)
    rgb = np.broadcast_to(unit, (3, *unit.shape[1:])).transpose(1, 2, 0)
    return np.round(255 * rgb).astype(np.uint8)


def difference_picture(difference: FloatArray, scale: float) -> ByteArray:
    """A signed difference [C, H, W] as RGBA bytes [H, W, 4]: orange up, blue down, transparent at zero.

    The mean over channels sets the opacity, full at ±`scale`, so that the picture suits any background.
    """
    mean = np.nan_to_num(difference).mean(axis=0)
    opacity = np.clip(np.abs(mean) / max(scale, 1e-12), 0.0, 1.0)
    rgba = np.empty((*mean.shape, 4), dtype=np.uint8)
    rgba[..., :3] = np.where((mean >= 0)[..., None], np.array(MORE), np.array(LESS))
    rgba[..., 3] = np.round(255 * opacity).astype(np.uint8)
    return rgba


def difference_scales(examples: dict[str, Any]) -> tuple[float, float]:
    """The largest difference over channels means: of the images themselves, and of the explanations."""

    def largest(left: FloatArray, right: FloatArray) -> float:
        return float(np.abs(np.nan_to_num(left - right).mean(axis=-3)).max(initial=0.0))

    return (
        largest(examples["adversarial"], examples["images"]),
        largest(examples["adversarial_explanations"], examples["natural_explanations"]),
    )


def png(pixels: ByteArray) -> bytes:
    """RGB or RGBA bytes [H, W, 3 or 4] as a PNG file, no side above `MAX_SIDE` pixels."""
    from PIL import Image

    image = Image.fromarray(pixels)
    if max(image.size) > MAX_SIDE:
        image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(file: bytes, kind: str = "image/png") -> str:
    """A file as a data: address."""
    return f"data:{kind};base64,{base64.b64encode(file).decode('ascii')}"


def grid(examples: dict[str, Any]) -> list[dict[str, Any]]:
    """The explanation grid, one record per example.

    Args:
        examples: What `check_examples` returned.

    Returns:
        For each example its true class, the layer where it turns and three rows (natural, adversarial,
        difference) of cells, the image first, each with pixels, reading and whether the reading is wrong.
    """
    bounds = (float(examples["bounds"][0]), float(examples["bounds"][1]))
    classes = [str(name) for name in examples.get("classes") or ()]
    scales = difference_scales(examples)
    columns = ["image", *examples["layers"]]

    def class_name(index: int) -> str:
        return classes[index] if 0 <= index < len(classes) else str(index)

    def rows_of(example: int) -> list[dict[str, Any]]:
        labels = examples["labels"]
        rows = []
        stacks = {
            kind: np.concatenate([examples[image][None, example], examples[f"{kind}_explanations"][:, example]])
            for kind, image in (("natural", "images"), ("adversarial", "adversarial"))
        }
        for kind, stack in stacks.items():
            predictions = examples[f"{kind}_predictions"]
            cells = []
            for column, name in enumerate(columns):
                prediction = None if predictions is None else int(predictions[column, example])
                cells.append(
                    {
                        "column": name,
                        "pixels": picture(stack[column], bounds),
                        "prediction": None if prediction is None else class_name(prediction),
                        "wrong": prediction is not None and labels is not None and prediction != int(labels[example]),
                    }
                )
            rows.append({"kind": kind, "cells": cells})
        cells = []
        for column, name in enumerate(columns):
            difference = stacks["adversarial"][column] - stacks["natural"][column]
            pixels = difference_picture(difference, scales[min(column, 1)])
            cells.append({"column": name, "pixels": pixels, "prediction": None, "wrong": False})
        rows.append({"kind": "difference", "cells": cells})
        return rows

    shown = []
    for example in range(len(examples["images"])):
        turn = examples["turns"][example]
        rows = rows_of(example)
        into = next((cell["prediction"] for cell in rows[1]["cells"] if cell["column"] == turn), None)
        label = examples["labels"]
        shown.append(
            {
                "label": None if label is None else class_name(int(label[example])),
                "turn": None if turn is None else str(turn),
                "into": into,
                "rows": rows,
            }
        )
    return shown


def explanation_sheet(shown: list[dict[str, Any]]) -> bytes:
    """The explanation grid as one PNG on white, for slides and README files.

    Args:
        shown: What `grid` returned, at least one example.

    Returns:
        The bytes of the file.
    """
    import matplotlib as mpl  # for its font, which knows most alphabets
    from PIL import Image, ImageDraw, ImageFont

    cell, caption, side = 96, 26, 150
    ink, quiet, wrong = (27, 31, 36), (92, 102, 112), (180, 60, 8)
    font = ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 17)
    captions = [
        str(entry["prediction"] or "") for example in shown for row in example["rows"] for entry in row["cells"]
    ]
    gap = max(10, int(max(font.getlength(f"✗ {text}") for text in captions)) + 8 - cell)
    columns = [str(entry["column"]) for entry in shown[0]["rows"][0]["cells"]]
    turned = any(font.getlength(name) > cell + gap - 8 for name in columns)
    head = int(max(font.getlength(name) for name in columns)) + 20 if turned else 40
    row_height, between = cell + caption + 4, 20
    width = side + len(columns) * (cell + gap) + gap
    sheet = Image.new("RGB", (width, head + len(shown) * (3 * row_height + between)), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        left = side + column * (cell + gap)
        if turned:
            strip = Image.new("RGB", (head - 12, 24), (255, 255, 255))
            ImageDraw.Draw(strip).text((0, 1), name, fill=ink, font=font)
            sheet.paste(strip.rotate(90, expand=True), (left + cell // 2 - 12, 0))
        else:
            draw.text((left + cell / 2, head / 2), name, fill=ink, font=font, anchor="mm")
    top = head
    for example in shown:
        for row in example["rows"]:
            draw.text((side - 14, top + cell / 2), row["kind"], fill=quiet, font=font, anchor="rm")
            for column, entry in enumerate(row["cells"]):
                left = side + column * (cell + gap)
                pixels = Image.fromarray(entry["pixels"]).convert("RGBA")
                pixels = pixels.resize((cell, cell), Image.Resampling.NEAREST)
                base = Image.new("RGBA", (cell, cell), (246, 246, 244, 255))
                base.alpha_composite(pixels)
                sheet.paste(base.convert("RGB"), (left, top))
                if example["turn"] == entry["column"]:
                    draw.rectangle((left - 4, top - 4, left + cell + 3, top + cell + 3), outline=wrong, width=3)
                if entry["prediction"] is not None:
                    text = f"✗ {entry['prediction']}" if entry["wrong"] else str(entry["prediction"])
                    place = (left + cell / 2, top + cell + caption / 2)
                    draw.text(place, text, fill=wrong if entry["wrong"] else ink, font=font, anchor="mm")
            top += row_height
        top += between
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
