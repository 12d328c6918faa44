"""The HTML report: what the page shows is computed here; how it looks and what it says stands in the templates."""

import base64
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from interpretgan.attacks import fraction
from interpretgan.diagnosis.reliability import QUIET, failed_kinds, is_unreliable
from interpretgan.diagnosis.result import Diagnosis, LayerResult
from interpretgan.errors import RunFolderError
from interpretgan.interpreter import Explanation
from interpretgan.report import explanation_grid, vulnerability_chart, wording
from interpretgan.report.gallery import Gallery, on_the_page
from interpretgan.statistics import Interval
from interpretgan.store.files import atomic_write_text, plain
from interpretgan.store.progress import duration

if TYPE_CHECKING:
    import pandas as pd

NORMS = {"linf": "L∞", "l2": "L2"}
TEMPLATES = Path(__file__).parent / "templates"
LARGEST_JSON = 2**21  #: Bytes of the figures that the page itself holds; more are in diagnosis.json alone.
CASES = 6  #: Images, at most, that a cell of a confusion table names.
CLASSES_IN_A_TABLE = 16  #: Confusion tables of more classes become lists of the commonest changes.


def write_report(
    diagnosis: Diagnosis,
    folder: str | Path = ".",
    explanation: Explanation | Mapping[str, Any] | None = None,
    predictions: Mapping[str, Any] | None = None,
    gallery: Gallery | None = None,
) -> Path:
    """Write the report of one diagnosis: a page that needs no other file and no network.

    Args:
        diagnosis: The diagnosis.
        folder: Where to write; made if missing.
        explanation: Natural and adversarial explanations for the grid of pictures, or their arrays under the names of
            `Explanation`. `None`: the page has no pictures.
        predictions: Arrays `labels` `[N]` and `adversarial` `[L + 1, N]` of a run's predictions.npz: which images a
            cell of a confusion table counts. `None`: the page does not say.
        gallery: Many images at every layer, to be filtered by class and turn. `None`: the page has none.

    Returns:
        The path of report.html. Beside it lie figures/vulnerability.svg and, with an explanation,
        figures/explanations.png. Every file is complete or absent.

    Raises:
        ConfigError, ImageError: The explanation has no adversarial images, or arrays that do not fit each other.
        RunFolderError: A file cannot be written.
    """
    folder = Path(folder)
    answer = wording.answer(diagnosis)
    classes = [str(name) for name in diagnosis.data.get("classes") or ()]
    explanation = None if explanation is None else explanation_grid.as_explanation(explanation)
    examples, scales = ([], None) if explanation is None else explanation_grid.grid(explanation, classes)
    shown = None if gallery is None else on_the_page(gallery, classes)
    known = {image["number"] for image in shown["images"]} if shown else set()
    listed = json.dumps(plain(diagnosis.to_dict()), ensure_ascii=False, allow_nan=False).encode()
    context = {
        "diagnosis": diagnosis, "answer": answer, "model": str(diagnosis.classifier["name"]),
        "threat": attack_words(diagnosis), "level": wording.level(diagnosis), "quiet": QUIET,
        "names": [layer.name for layer in diagnosis.layers],
        "top": [layer.name in answer.layers for layer in diagnosis.layers],
        "lets_in": [layer.name in (diagnosis.let_in.named if diagnosis.let_in else ()) for layer in diagnosis.layers],
        "failed": failed_kinds(diagnosis.layers, diagnosis.accuracy),
        "unreliable": [is_unreliable(layer) for layer in diagnosis.layers],
        "panels": vulnerability_chart.panels(diagnosis), "curves": vulnerability_chart.curves(diagnosis),
        "inside": vulnerability_chart.inside_blocks(diagnosis, answer.layers),
        "explanation": explanation, "examples": examples, "scales": scales, "gallery": shown,
        "confusions": [
            _confusion(layer, classes, _cases(predictions, row, known)) for row, layer in enumerate(diagnosis.layers)
        ],
        "flags": [("", flag) for flag in wording.all_flags(diagnosis)],
        "csv": csv_address(diagnosis.to_frame()), **script(),
        "json": f"data:application/json;base64,{_base64(listed)}" if len(listed) <= LARGEST_JSON else "",
    }  # fmt: skip
    environment = templates()
    drawing = environment.get_template("vulnerability.svg.j2").render(context)
    page = environment.get_template("report.html.j2").render(context)
    if explanation is not None:
        explanation_grid.draw_explanation(explanation, folder / "figures" / "explanations.png", classes)
    atomic_write_text(folder / "figures" / "vulnerability.svg", drawing)
    atomic_write_text(folder / "report.html", page)
    return folder / "report.html"


def finished_diagnosis(run: Path) -> Diagnosis:
    """The diagnosis that a run folder has; a `RunFolderError` where there is none."""
    if not (run / Diagnosis.file_name).exists():
        expected, do = f"a finished diagnosis in {run}", "run `interpretgan diagnose` first"
        raise RunFolderError(expected=expected, got=f"no {Diagnosis.file_name}", do=do)
    return Diagnosis.load(run)


def redraw_report(diagnosis: Diagnosis, run: Path, out: Path | None = None) -> Path:
    """Write the report of a run from what its folder has, there or into the folder `out`; see `write_report`."""
    pictures, gallery = run / "explanations.npz", run / "gallery.npz"
    return write_report(
        diagnosis,
        out or run,
        explanation_grid.load_explanation(pictures) if pictures.exists() else None,
        explanation_grid.load_predictions(run, len(diagnosis.layers)),
        Gallery.load(gallery) if gallery.exists() else None,
    )


def script() -> dict[str, str]:
    """The script of the pages that answer clicks, and its hash, for a template."""
    text = (TEMPLATES / "report.js").read_text("utf-8")
    return {"script": text, "script_sha256": _base64(hashlib.sha256(text.encode()).digest())}


def csv_address(frame: "pd.DataFrame") -> str:
    """The address that a page offers a table at, as CSV."""
    return f"data:text/csv;base64,{_base64(frame.to_csv(index=False).encode())}"


def templates() -> jinja2.Environment:
    """The templates of all pages, with their filters."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined,
        autoescape=True, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        percent=wording.percent, number=wording.number, figure=_figure, breakable=_breakable, duration=duration,
        fact=_fact, significant=_significant, named=_named, capitalize_first=lambda text: text[:1].upper() + text[1:],
        picture=explanation_grid.data_uri, meaning=lambda flag: wording.FLAG_MEANINGS.get(flag.code, ""),
    )  # fmt: skip
    return environment


def _figure(interval: Interval | None, scale: float = 100, digits: int = 1, *, sign: bool = False) -> Markup:
    """The cell of a table: a value with its interval, and the deviation between generators if known; or a dash."""
    if interval is None:
        return Markup("–")
    value = wording.number(interval.value, scale, digits, sign=sign) + (" %" if scale == 100 and not sign else "")
    spread = "" if interval.spread is None else f" ± {wording.number(interval.spread, scale, digits)}"
    return Markup("{}<small>{}{}</small>").format(value, wording.span(interval, scale, digits), spread)


def _significant(value: float | None) -> str:
    """A number with three significant digits, or a dash."""
    return "–" if value is None else f"{value:.3g}".replace("-", "−")


def _named(score: str) -> str:
    """The name of a score in words: `mlp_probe` is `MLP probe`."""
    spelt = {"mlp": "MLP", "lipschitz": "Lipschitz", "jacobian": "Jacobian"}
    return " ".join(spelt.get(word, word) for word in score.split("_"))


def _breakable(name: str) -> Markup:
    """A text whose names of layers may break after their separators; numbers stay whole."""
    return Markup(re.sub(r"([._:/])(?<!\d.)|([._:/])(?!\d)", r"\g<0><wbr>", str(escape(name))))


def threat_words(threat: Mapping[str, Any]) -> str:
    """A threat model in words, for instance `L∞, ε = 0.2, PGD, 20 steps, 1 restart`."""
    counts = [f"{threat[key]} {key if threat[key] != 1 else key[:-1]}" for key in ("steps", "restarts")]
    return ", ".join([NORMS[threat["norm"]], f"ε = {fraction(threat['eps'])}", threat["attack"].upper(), *counts])


def attack_words(diagnosis: Diagnosis) -> str:
    """What a diagnosis was attacked with: its threat model, of images that were made elsewhere norm and size alone."""
    threat = diagnosis.threat_model
    if "adversarial" not in diagnosis.provenance:
        return threat_words(threat)
    return f"{NORMS[threat['norm']]}, ε = {fraction(threat['eps'])}, adversarial images made elsewhere"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _cases(predictions: Mapping[str, Any] | None, place: int, known: Set[int]) -> dict[tuple[int, int], list[int]]:
    """Images of each true class and the class that a row shows them as: those in the gallery, then the first ones."""
    found: dict[tuple[int, int], list[int]] = {}
    if predictions is not None:
        for image, cell in enumerate(zip(predictions["labels"], predictions["adversarial"][place], strict=True)):
            found.setdefault((int(cell[0]), int(cell[1])), []).append(image)
    return {cell: sorted(images, key=lambda image: image not in known)[:CASES] for cell, images in found.items()}


def _confusion(layer: LayerResult, classes: list[str], cases: Mapping[tuple[int, int], list[int]]) -> dict[str, Any]:
    """One layer's confusion table, with its commonest changes first; `rows` is empty where there are many classes."""
    found = [(int(true), int(to), count) for true, row in layer.transitions.items() for to, count in row.items()]
    size = 1 + max(max(true, shown) for true, shown, _ in found)
    counts = np.zeros((size, size), dtype=np.int64)
    for true, shown, count in found:
        counts[true, shown] = count
    names = [*classes, *map(str, range(len(classes), len(counts)))]
    turned = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    order = np.argsort(-turned, axis=None, kind="stable")[: np.count_nonzero(turned)]
    listed = len(counts) > CLASSES_IN_A_TABLE
    return {
        "name": layer.name,
        "cases": defaultdict(list, cases),
        "total": int(counts.sum()),
        "right": int(np.trace(counts)),
        "classes": names[: len(counts)],
        "rows": [] if listed else list(zip(names, counts.tolist(), strict=False)),
        "changes": [
            (names[true], names[shown], int(counts[true, shown]), cases.get((true, shown), []))
            for true, shown in (divmod(int(place), len(counts)) for place in order[: 24 if listed else 3])
        ],
    }


def _fact(value: object) -> str:
    """A value of the record in words: numbers with six digits or with commas, a dash where there is none."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if value >= 10_000 else str(value)
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
