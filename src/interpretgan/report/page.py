"""The HTML report: what the page shows, computed here, and how it looks, in report.html.j2."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interpretgan.report import figures, wording
from interpretgan.store.files import atomic_write_bytes, atomic_write_text

if TYPE_CHECKING:
    import jinja2
    import markupsafe

HERE = Path(__file__).parent
NOISE_LIMIT = 0.03  # vulnerability under random noise that counts as near zero
CLASSES_IN_A_TABLE = 16  # confusion tables of more classes become lists of the commonest changes


def write_report(diagnosis: dict[str, Any], examples: dict[str, Any] | None, folder: Path) -> Path:
    """Write the report of one diagnosis: a page that needs no other file and no network.

    Args:
        diagnosis: The content of diagnosis.json. Missing, null and NaN figures are shown as a dash.
        examples: Arrays for the explanation grid, or None to leave it out: `layers`, `images` and
            `adversarial` [N, C, H, W] in `bounds`, `natural_explanations` and `adversarial_explanations`
            [L, N, C, H, W], `labels` [N], `natural_predictions` and `adversarial_predictions` [L+1, N] (the image
            first), `turns` (a layer or None per example), `bounds` and `classes`.
        folder: Where to write; made if missing.

    Returns:
        The path of report.html. Beside it lie figures/vulnerability.svg and, with examples,
        figures/explanations.png. Every file is complete or absent.

    Raises:
        ImageError: The arrays of the examples do not fit each other.
    """
    answer = wording.answer(diagnosis)
    chart = figures.chart(diagnosis, answer.layers)
    checked = None if examples is None else figures.check_examples(examples)
    shown = figures.grid(checked) if checked else []
    templates = _templates()
    page = templates.get_template("report.html.j2").render(
        answer=answer,
        chart=chart,
        grid=shown,
        scales=figures.difference_scales(checked) if checked else None,
        examples=checked,
        **_context(diagnosis),
    )
    files = {
        "figures/vulnerability.svg": templates.get_template("vulnerability.svg.j2").render(
            chart=chart, answer=answer, **_context(diagnosis)
        ),
        "report.html": page,
    }
    if shown:
        atomic_write_bytes(folder / "figures" / "explanations.png", figures.explanation_sheet(shown))
    for name, content in files.items():
        atomic_write_text(folder / name, content)
    return folder / "report.html"


def _templates() -> jinja2.Environment:
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(
        percent=wording.percent,
        signed=wording.signed,
        span=wording.span,
        meaning=wording.flag_meaning,
        unreliable=wording.is_unreliable,
        breakable=_breakable,
        picture=lambda pixels: figures.data_uri(figures.png(pixels)),
    )
    return templates


def _breakable(name: str) -> markupsafe.Markup:
    """The name of a layer that may break after its separators."""
    import markupsafe

    return markupsafe.Markup(re.sub(r"([._:/])", r"\1<wbr>", str(markupsafe.escape(name))))


def _context(diagnosis: dict[str, Any]) -> dict[str, Any]:
    """What the templates need beside the figures."""
    layers = list(diagnosis.get("layers") or ())
    return {
        "model": str((diagnosis.get("classifier") or {}).get("name") or "the model"),
        "data": diagnosis.get("data") or {},
        "threat": diagnosis.get("threat_model") or {},
        "threat_words": threat_words(diagnosis.get("threat_model") or {}),
        "accuracy": diagnosis.get("accuracy") or {},
        "judge": diagnosis.get("judge") or {},
        "layers": layers,
        "flags": [str(flag) for flag in diagnosis.get("flags") or ()],
        "controls": _controls(diagnosis),
        "confusions": [found for found in (_confusion(layer, diagnosis) for layer in layers) if found],
        "provenance": _provenance(diagnosis),
        "level": wording.level(diagnosis),
    }


def threat_words(threat: dict[str, Any]) -> str:
    """A threat model in words, for instance `L∞, ε = 0.2, PGD, 20 steps, 1 restart`."""
    norms = {"linf": "L∞", "l2": "L2"}
    words = [norms.get(str(threat["norm"]), str(threat["norm"]))] if threat.get("norm") else []
    eps = wording.number(threat.get("eps"))
    if eps is not None:
        steps = eps * 255
        pixels = abs(steps - round(steps)) < 1e-3 and 1 <= round(steps) <= 32
        words.append(f"ε = {round(steps)}/255" if pixels else f"ε = {eps:.4g}")
    if threat.get("attack"):
        words.append(str(threat["attack"]).upper())
    for key in ("steps", "restarts"):
        count = wording.number(threat.get(key))
        if count is not None:
            words.append(f"{count:g} {key if count != 1 else key.removesuffix('s')}")
    return ", ".join(words)


def _controls(diagnosis: dict[str, Any]) -> list[dict[str, Any]]:
    """The controls: what was measured, whether it holds (None: a figure without a verdict), what it means."""
    controls = diagnosis.get("controls") or {}
    accuracy, judge = diagnosis.get("accuracy") or {}, diagnosis.get("judge") or {}
    zero = wording.number(controls.get("eps0_max_abs_vulnerability"))
    noise = wording.number(controls.get("noise_max_abs_vulnerability"))
    before, after = (wording.percent(accuracy.get(key)) for key in ("judge_natural", "judge_adversarial"))
    found: list[tuple[str, str, bool | None, str]] = [
        (
            "No perturbation (ε = 0)",
            "–" if zero is None else f"{100 * zero:.3g} points",
            None if zero is None else zero == 0,
            (
                "The largest vulnerability that the same measurement reports when nothing was attacked. "
                "It must be exactly 0."
            ),
        ),
        (
            "Random noise of the same size",
            "–" if noise is None else f"{100 * noise:.1f} points",
            None if noise is None else noise <= NOISE_LIMIT,
            (
                "The largest vulnerability, in size, when random noise of the same norm takes the "
                f"attack's place. Up to {100 * NOISE_LIMIT:.0f} points count as near zero: the layers then "
                "respond to the attack and not to any change of the image."
            ),
        ),
        *_seeds(controls),
        (
            "The judge on images it was not trained on",
            wording.percent(judge.get("natural")),
            None,
            "Its accuracy on natural images. Explanations can hardly be read better than this.",
        ),
        (
            "The judge under attacks against itself",
            wording.percent(judge.get("adversarial")),
            None,
            (
                "How hard the judge itself is to fool. A judge that is easily fooled would blame layers "
                "for its own mistakes."
            ),
        ),
        (
            "The judge on the attacked images",
            "–" if before == after == "–" else f"{before} → {after}",
            None,
            (
                "Its accuracy on the images before and after the attack on the model. What it loses here "
                "is visible in the image itself and is charged to no layer."
            ),
        ),
    ]
    return [dict(zip(("name", "value", "holds", "meaning"), row, strict=True)) for row in found]


def _seeds(controls: dict[str, Any]) -> list[tuple[str, str, bool | None, str]]:
    """How well generators of different seeds agree, where several were trained."""
    agreement = wording.number(controls.get("seeds_spearman"))
    if agreement is None:
        return []
    same = bool(controls.get("seeds_same_top"))
    return [
        (
            "Generators of different seeds",
            f"ρ = {agreement:.2f}, {'the same' if same else 'another'} top layer",
            same,
            (
                "The lowest rank correlation between the vulnerabilities that two generators find, and whether they "
                "blame the same layer first. The intervals cover what they disagree on."
            ),
        )
    ]


def _confusion(layer: dict[str, Any], diagnosis: dict[str, Any]) -> dict[str, Any] | None:
    """One layer's confusion table, with its commonest changes; None if it was not recorded."""
    counts = layer.get("transitions")
    if not counts:
        return None
    names = [str(name) for name in (diagnosis.get("data") or {}).get("classes") or ()]
    names += [str(index) for index in range(len(names), len(counts))]
    total = sum(sum(row) for row in counts)
    changes = sorted(
        ((count, true, shown) for true, row in enumerate(counts) for shown, count in enumerate(row) if true != shown),
        key=lambda change: -change[0],
    )
    listed = len(counts) > CLASSES_IN_A_TABLE
    rows = [
        {
            "name": names[true],
            "cells": [
                {
                    "count": count,
                    "share": round(100 * count / max(sum(row), 1)),
                    "right": true == shown,
                    "title": f"{names[true]} shown as {names[shown]}: {count}",
                }
                for shown, count in enumerate(row)
            ],
        }
        for true, row in enumerate(counts)
    ]
    return {
        "name": str(layer["name"]),
        "total": total,
        "right": sum(row[index] for index, row in enumerate(counts)),
        "classes": names[: len(counts)],
        "rows": [] if listed else rows,
        "changes": [
            {"true": names[true], "shown": names[shown], "count": count}
            for count, true, shown in changes[: 24 if listed else 3]
            if count
        ],
    }


def _provenance(diagnosis: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything that identifies the run, as titled lists of names and values."""
    record = diagnosis.get("provenance") or {}
    timings = record.get("seconds") or {}
    groups: list[tuple[str, dict[str, Any]]] = [
        ("Model", diagnosis.get("classifier") or {}),
        ("Data", diagnosis.get("data") or {}),
        ("Threat model", diagnosis.get("threat_model") or {}),
        ("Judge", diagnosis.get("judge") or {}),
        ("Run", {key: value for key, value in record.items() if key not in ("versions", "seconds")}),
        ("Software", record.get("versions") or {}),
        ("Time", {key: _duration(value) for key, value in timings.items()}),
    ]
    return [(title, list(_flat(values))) for title, values in groups if values]


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, dict):
            pairs += _flat(value, f"{name}: ")
        elif isinstance(value, (list, tuple)):
            pairs.append((name, ", ".join(map(str, value)) or "–"))
        elif isinstance(value, float):
            found = wording.number(value)
            pairs.append((name, "–" if found is None else f"{found:.6g}"))
        elif isinstance(value, int) and not isinstance(value, bool) and value >= 10_000 and key != "seed":
            pairs.append((name, f"{value:,}"))
        else:
            pairs.append((name, "–" if value is None else str(value)))
    return pairs


def _duration(value: Any) -> str:
    seconds = wording.number(value)
    if seconds is None:
        return "–"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
