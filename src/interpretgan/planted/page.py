"""The page of a benchmark, written from its JSON: what was planted, what verified, each score, where a rival wins."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interpretgan.errors import RunFolderError
from interpretgan.planted.columns import OURS, about_rivals
from interpretgan.planted.kinds import KINDS
from interpretgan.planted.summary import CLEAR_OF
from interpretgan.report.chart_style import COLOURS, GREY, panels, svg
from interpretgan.report.wording import number, percent
from interpretgan.store.files import atomic_write_bytes, atomic_write_text, reading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE_FILE, CHART_FILE = "planted.md", "planted.svg"
RESULTS = "## Results"  #: The heading from which on a page is generated.
TITLES = {"turns": "Where does the class turn?", "let in": "Where is the perturbation let in?"}
CHECKS = {
    "natural": "natural accuracy moved", "robust": "robust accuracy did not fall by enough",
    "mended": "mending the layer did not bring it back", "alone": "mending another layer brought it back",
}  # fmt: skip


def write_page(summary: Mapping[str, Any], folder: Path) -> Path:
    """Write `planted.svg`, then `planted.md`, which shows it."""
    atomic_write_bytes(folder / CHART_FILE, svg(chart(summary)))
    atomic_write_text(folder / PAGE_FILE, "# Planted networks\n\n" + results(summary, CHART_FILE))
    return folder / PAGE_FILE


def insert(summary: Mapping[str, Any], page: Path, chart_file: Path) -> None:
    """Put the results, and their chart, into a page that has the heading `RESULTS`, in place of what follows it."""
    with reading(page):
        text = page.read_text(encoding="utf-8")
    before, found, _ = text.partition(f"{RESULTS}\n")
    if not found:
        do = "add it where the results are to stand"
        raise RunFolderError(expected=f"the heading {RESULTS} in {page}", got="a page without it", do=do)
    atomic_write_bytes(chart_file, svg(chart(summary)))
    shown = os.path.relpath(chart_file, page.parent)
    atomic_write_text(page, before + results(summary, shown))


def results(summary: Mapping[str, Any], chart_file: str) -> str:
    """The results as Markdown, from the heading on."""
    parts = [
        RESULTS, _made(summary), f"![How often each score blames the planted layer]({chart_file})",
        *(part for name in TITLES for part in _question(summary, name)), _readable(summary), _controls(summary),
        _cost(summary),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


# --- its parts ---------------------------------------------------------------------------------------------------


def _made(summary: Mapping[str, Any]) -> str:
    counts, settings = summary["counts"], summary["settings"]
    lines = [f"{_count(counts['planned'], 'network')} of {', '.join(settings['networks'])}; kinds: "]
    lines[0] += f"{', '.join(settings['kinds'])}."
    if settings["held_out"]:
        lines.append(f"{settings['held_out']} of them are held out: their kinds, layers and seeds were drawn from the")
        lines.append(f"seed {settings['draw_seed']}.")
    lines.append(f"{counts['verified']} were verified on {settings['verified_on']} images. {counts['unmade']} could")
    lines.append(f"not be made, {counts['missing']} are not there yet.")
    if counts["unverified"]:
        failed = "; ".join(f"{CHECKS[name]}: {count}" for name, count in counts["unverified"].items())
        lines.append(f"{sum(counts['unverified'].values())} were not verified and are left out ({failed}).")
    if counts["noise_alone"]:
        lines.append(f"In {counts['noise_alone']} of them random noise of the same size is enough, without an attack.")
    lines.append(
        f"{counts['diagnosed']} were diagnosed on {settings['examples']} images. The training of the generator "
        f"collapsed in {counts['collapsed']}, the diagnosis was refused in {counts['refused']}, and its sentence named "
        f"no layer in {counts['unnamed']}."
    )
    return " ".join(lines)


def _question(summary: Mapping[str, Any], name: str) -> Iterator[str]:
    found = summary["questions"][name]
    ours, scores = found["column"], found["scores"]
    yield f"### {TITLES[name]}"
    if not scores:
        yield "No verified network has a known answer to this question."
        return
    several = f", and in {_count(found['two'], 'network')} with two" if found["two"] else ""
    yield f"The answer is known in {_count(found['networks'], 'network')} with one planted layer{several}."
    rows = []
    for score, figures in _ranked(scores):
        against = found["against"].get(score)
        shown = "" if against is None else f"{_signed(against)}{' **ahead of us**' if against['high'] < 0 else ''}"
        title = f"**{_name(score)}**" if score == ours else _name(score)
        rows.append((title, *(_share(figures[key]) for key in ("top", "near", "two")), shown, str(figures["failed"])))
    head = ("score", "planted layer on top", "at most one layer off", "both of two on top", "ours minus it, points")
    yield _table((*head, "could not run"), rows)
    if ours not in scores:
        yield f"There is no column `{ours}` in these records."
        return
    ahead = [_name(score) for score, value in found["against"].items() if value and value["value"] < 0]
    sure = [_name(score) for score, value in found["against"].items() if value and value["high"] < 0]
    level = [_name(s) for s, value in found["against"].items() if value and value["low"] <= 0 <= value["high"]]
    if sure:
        yield f"Ahead of ours by an interval that excludes zero: {', '.join(sure)}."
    elif ahead:
        yield f"Ahead of ours, within the interval: {', '.join(ahead)}."
    if level:
        yield f"Not told apart from ours: {', '.join(level)}."
    groups = scores[ours]["by"]
    rows = [(group, key, _share(figure)) for group, parts in groups.items() for key, figure in parts.items()]
    if rows:
        best = _best_rivals(scores, ours)
        cells = [
            (group, key, shown, *(_share(scores[rival]["by"][group].get(key)) for rival in best))
            for group, key, shown in rows
        ]
        yield _table(("", "", "ours", *map(_name, best)), cells)


def _best_rivals(scores: Mapping[str, Any], ours: str) -> list[str]:
    """The three rivals that blame the planted layer most often."""
    return [score for score, _ in _ranked(scores) if score != ours][:3]


def _ranked(scores: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(scores.items(), key=lambda item: -1.0 if item[1]["top"] is None else -item[1]["top"]["value"] - 1)


def _readable(summary: Mapping[str, Any]) -> str:
    read, blamed = summary["readable"], summary["blamed"]
    rows = [(name, _share(figure, "layers")) for name, figure in read.items()]
    text = "### Is there anything to read?"
    if rows:
        head = ("data", "layers whose natural explanations are predicted right within 5 points of the image")
        text += "\n\n" + _table(head, rows)
    if blamed is not None:
        text += f"\n\nWithout a plant, a layer is blamed (its interval above {CLEAR_OF}) in {_share(blamed)} networks."
    return text


def _controls(summary: Mapping[str, Any]) -> str:
    rows = [
        (f"`{name}`", *(number(value[key], 1, 3) for key in ("least", "middle", "greatest")), str(value["networks"]))
        for name, value in summary["controls"].items()
    ]
    if not rows:
        return ""
    return "### Controls\n\n" + _table(("control", "least", "median", "greatest", "networks"), rows)


def _cost(summary: Mapping[str, Any]) -> str:
    seconds, machine = summary["seconds"], summary["machine"]
    rows = [
        (name, *(number(value[key], 1, 1) for key in ("least", "middle", "greatest")), number(value["total"] / 60))
        for name, value in seconds.items()
    ]
    for data, judge in summary["judges"].items():
        if judge["seconds"] is not None:
            rows.append((f"judge of {data}, once", "", number(judge["seconds"]), "", number(judge["seconds"] / 60)))
    known = about_rivals()
    rivals = [(name, known[name]["what"], known[name]["source"], known[name]["cost"]) for name in known]
    rivals = [(_name(name), *rest) for name, *rest in rivals if f"score: {name}" in seconds]
    kinds = [(name, KINDS[name].description) for name in summary["settings"]["kinds"]]
    where = f"{machine['processor']}, {machine['cores']} cores, one thread a process"
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items() if value)
    parts = [
        "### What it costs", f"Seconds on {where}; {versions}; interpretgan {machine['version']}.",
        _table(("", "least", "median", "greatest", "minutes in all"), rows), "### What was planted",
        _table(("kind", "what it is"), kinds),
    ]  # fmt: skip
    if rivals:
        parts += ["### The rivals", _table(("score", "what it measures", "source", "what it needs"), rivals)]
    return "\n\n".join(parts)


def chart(summary: Mapping[str, Any]) -> Figure:
    """How often each score has the planted layer on top, with intervals, a panel for each question."""
    ranked = {name: _ranked(summary["questions"][name]["scores"]) for name in TITLES}
    heights = max([1.5, *(0.6 + 0.24 * len(scores) for scores in ranked.values())])
    figure, axes = panels(list(TITLES.values()), width=4.2, heights=[heights], columns=2)
    for panel, (name, scores) in zip(axes, ranked.items(), strict=True):
        shown = [(score, figures["top"]) for score, figures in scores if figures["top"] is not None]
        for place, (score, figure_) in enumerate(shown):
            colour = COLOURS[1] if score in OURS.values() else COLOURS[0]
            panel.plot([100 * figure_["low"], 100 * figure_["high"]], [place, place], color=colour, linewidth=1.2)
            panel.plot([100 * figure_["value"]], [place], "o", color=colour, markersize=4)
        panel.set_yticks(range(len(shown)), [_name(score) for score, _ in shown])
        panel.set(xlim=(-2, 102), xlabel=f"planted layer on top, % of {summary['questions'][name]['networks']}")
        panel.set_ylim(max(1, len(shown)) - 0.5, -0.5)
        panel.grid(axis="x", color=GREY, alpha=0.3, linewidth=0.5)
    return figure


# --- words -------------------------------------------------------------------------------------------------------


def _name(score: str) -> str:
    ours = {"vulnerability": "V, ours", "let_in": "let in, ours"}
    return ours.get(score, score.replace("_", " "))


def _count(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _share(figure: Mapping[str, Any] | None, of: str = "networks") -> str:
    """`95.0 % [86.1, 99.0] (57 of 60)`."""
    if figure is None:
        return "–"
    ends = f"[{number(figure['low'], 100)}, {number(figure['high'], 100)}]"
    return f"{percent(figure['value'])} {ends} ({figure['right']} of {figure[of]})"


def _signed(figure: Mapping[str, Any]) -> str:
    low, high = (number(figure[name], 100) for name in ("low", "high"))
    return f"{number(figure['value'], 100, sign=True)} [{low}, {high}]"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
