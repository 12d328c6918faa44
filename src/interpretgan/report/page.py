"""The HTML report: what the page shows is computed here; how it looks and what it says stands in the templates."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interpretgan.attacks import fraction
from interpretgan.diagnosis.reliability import QUIET, is_unreliable
from interpretgan.diagnosis.result import Diagnosis, LayerResult
from interpretgan.interpreter import Explanation
from interpretgan.report import figures, pictures, wording
from interpretgan.statistics import Interval
from interpretgan.store.files import atomic_write_text

if TYPE_CHECKING:
    import jinja2
    import markupsafe

NORMS = {"linf": "L∞", "l2": "L2"}
CLASSES_IN_A_TABLE = 16
"""Confusion tables of more classes become lists of the commonest changes."""


def write_report(
    diagnosis: Diagnosis, folder: str | Path = ".", explanation: Explanation | Mapping[str, Any] | None = None
) -> Path:
    """Write the report of one diagnosis: a page that needs no other file and no network.

    Args:
        diagnosis: The diagnosis.
        folder: Where to write; made if missing.
        explanation: Natural and adversarial explanations for the grid of pictures, or their arrays under the names of
            `Explanation`. `None`: the page has no pictures.

    Returns:
        The path of report.html. Beside it lie figures/vulnerability.svg and, with an explanation,
        figures/explanations.png. Every file is complete or absent.

    Raises:
        ConfigError: The explanation has no adversarial images.
        ImageError: The arrays of the explanation do not fit each other.
        RunFolderError: A file cannot be written.
    """
    folder = Path(folder)
    answer = wording.answer(diagnosis)
    classes = [str(name) for name in diagnosis.data.get("classes") or ()]
    explanation = None if explanation is None else pictures.as_explanation(explanation)
    examples, scales = ([], None) if explanation is None else pictures.grid(explanation, classes)
    context = {
        "diagnosis": diagnosis,
        "model": str(diagnosis.classifier["name"]),
        "answer": answer,
        "names": [layer.name for layer in diagnosis.layers],
        "top": [layer.name in answer.layers for layer in diagnosis.layers],
        "unreliable": [is_unreliable(layer) for layer in diagnosis.layers],
        "panels": figures.panels(diagnosis),
        "curves": figures.curves(diagnosis),
        "explanation": explanation,
        "examples": examples,
        "scales": scales,
        "threat": threat_words(diagnosis.threat_model),
        "confusions": [_confusion(layer, classes) for layer in diagnosis.layers],
        "provenance": _provenance(diagnosis),
        "level": wording.level(diagnosis),
        "quiet": QUIET,
    }
    templates = _templates()
    drawing = templates.get_template("vulnerability.svg.j2").render(context)
    page = templates.get_template("report.html.j2").render(context)
    if explanation is not None:
        pictures.draw_explanation(explanation, folder / "figures" / "explanations.png", classes)
    atomic_write_text(folder / "figures" / "vulnerability.svg", drawing)
    atomic_write_text(folder / "report.html", page)
    return folder / "report.html"


def _templates() -> jinja2.Environment:
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(
        percent=wording.percent,
        number=wording.number,
        figure=_figure,
        meaning=lambda flag: wording.FLAG_MEANINGS.get(flag.code, ""),
        breakable=_breakable,
        picture=pictures.data_uri,
    )
    return templates


def _figure(interval: Interval | None, scale: float = 100, digits: int = 1, *, sign: bool = False) -> markupsafe.Markup:
    """The cell of a table: a value with its interval, or a dash."""
    from markupsafe import Markup

    if interval is None:
        return Markup("–")
    value = wording.number(interval.value, scale, digits, sign=sign) + (" %" if scale == 100 and not sign else "")
    return Markup("{}<small>{}</small>").format(value, wording.span(interval, scale, digits))


def _breakable(name: str) -> markupsafe.Markup:
    """The name of a layer that may break after its separators."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([._:/])", r"\1<wbr>", str(escape(name))))


def threat_words(threat: Mapping[str, Any]) -> str:
    """A threat model in words, for instance `L∞, ε = 0.2, PGD, 20 steps, 1 restart`."""
    counts = [f"{threat[key]} {key if threat[key] != 1 else key[:-1]}" for key in ("steps", "restarts")]
    return ", ".join([NORMS[threat["norm"]], f"ε = {fraction(threat['eps'])}", threat["attack"].upper(), *counts])


def _confusion(layer: LayerResult, classes: list[str]) -> dict[str, Any]:
    """One layer's confusion table, with its commonest changes first; `rows` is empty where there are many classes."""
    counts = np.array(layer.transitions)
    names = [*classes, *map(str, range(len(classes), len(counts)))]
    turned = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    order = np.argsort(-turned, axis=None, kind="stable")[: np.count_nonzero(turned)]
    listed = len(counts) > CLASSES_IN_A_TABLE
    return {
        "name": layer.name,
        "total": int(counts.sum()),
        "right": int(np.trace(counts)),
        "classes": names[: len(counts)],
        "rows": [] if listed else list(zip(names, counts.tolist(), strict=False)),
        "changes": [
            (names[true], names[shown], int(counts[true, shown]))
            for true, shown in (divmod(int(place), len(counts)) for place in order[: 24 if listed else 3])
        ],
    }


def _provenance(diagnosis: Diagnosis) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything that identifies the run, as titled lists of names and values."""
    record = dict(diagnosis.provenance)
    versions, seconds = record.pop("versions", {}), record.pop("seconds", {})
    groups = {
        "Model": diagnosis.classifier,
        "Data": diagnosis.data,
        "Threat model": diagnosis.threat_model,
        "Judge": diagnosis.judge,
        "Run": record,
        "Software": versions,
        "Time": {name: f"{s:.1f} s" if s < 100 else f"{s / 60:.1f} min" for name, s in seconds.items()},
    }
    return [(title, list(_flat(values))) for title, values in groups.items() if values]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}: ")
        elif isinstance(value, list | tuple):
            yield name, ", ".join(map(str, value)) or "–"
        elif isinstance(value, float):
            yield name, f"{value:.6g}"
        elif isinstance(value, int) and not isinstance(value, bool) and value >= 10_000 and key != "seed":
            yield name, f"{value:,}"
        else:
            yield name, "–" if value is None else str(value)
