"""What the page of findings says of one study, from its result file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interpretgan.attacks import fraction
from interpretgan.models import card_names, read_card
from interpretgan.report.pictures import explanation_sheet, load_explanation
from interpretgan.store.files import atomic_write_bytes
from interpretgan.studies import plots
from interpretgan.studies.claims import ERRATUM, HISTORY, Study, by_condition, condition_name, setting_of
from interpretgan.studies.config import ACTIONS, DEFINITIONS, DEPTH, LOSSES, TEST_ACCURACY, UNTOUCHED, correlation_name
from interpretgan.studies.effects import AT_EPS, profile
from interpretgan.studies.rules import SUPPORTED
from interpretgan.studies.statistics import POOLED, Floats, spearman_rows

Run = Mapping[str, Any]
"""One of the `runs` of a study."""
TITLES = {
    "information": "Information loss and vulnerability",
    "pooling": "Average against max pooling",
    "repair": "Does following the diagnosis pay?",
}
SHOWN = 2
"""Examples in the picture of all layers."""
WORST = "worst_case"
PICTURED = "What each layer of {} holds of an image, of its adversarial version, and the difference"


def measured(row: Mapping[str, Any]) -> str:
    """The number of a verdict, or of one of its conditions, with its interval."""
    value = row["measured"] if "measured" in row else row["value"]
    return "–" if value is None else f"{value:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def verdict(row: Mapping[str, Any]) -> str:
    """A verdict in words, with what was concluded at first, and in how many conditions the claim is supported."""
    words, conditions = f"**{row['verdict']}**", row["conditions"]
    if "before" in row:
        words += f" (at first **{row['before']['verdict']}**)"
    if len(conditions) > 1:
        words += f", supported in {sum(one['answer'] == SUPPORTED for one in conditions)} of {len(conditions)}"
    return words


def told(row: Mapping[str, Any], *, tested: bool) -> str:
    """What was measured in each condition, and in a single one its p.

    Args:
        row: One of a study's verdicts.
        tested: Whether its p is of the claim: that of a claim about zero.
    """
    if len(row["conditions"]) > 1:
        return "; ".join(f"{name} {measured(one)}" for name, one in by_condition(row).items())
    p = f", p {_p(row['conditions'][0]['p'], '= ')}" if len(row["conditions"]) == 1 and tested else ""
    return f"{measured(row)}{p}"


def _p(value: float | None, equals: str = "") -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{equals}{value:.3f}"


def picture(title: str, place: str) -> Iterator[str]:
    """A figure with its title below."""
    yield f"![{title}]({place})"
    yield ""
    yield f"*{title}*"


def notes_of(study: Study) -> list[str]:
    """What was found to be wrong with a study, and what came before it, in words."""
    return [f"**{key.capitalize()}.** {study[key]}" for key in (ERRATUM, HISTORY) if key in study]


def study_page(study: Study, folder: Path, place: Path, shown: set[bytes]) -> Iterator[str]:
    """A study: how it was made, what each rule says, what the rules leave out, figures, and reasons to doubt.

    Args:
        study: What is in its `study.json`.
        folder: Where that is; pictures of its explanations lie in `runs/ID/explanations.npz`.
        place: Where its page and figures are written.
        shown: Pictures that are on another page already, which are not shown again.
    """
    kind = str(study["kind"])
    done = [run for run in study["runs"] if run["status"] == "done"]
    yield f"# {TITLES[kind]}{'' if TITLES[kind].endswith('?') else ':'} {setting_of(study)}"
    yield ""
    for note in notes_of(study):
        yield note
        yield ""
    yield from _made(study, done)
    for rule, row in zip(study["provenance"]["config"]["rules"], study["verdicts"], strict=True):
        yield ""
        was = f" At first it was {row['before']['verdict']}: see the reasons to doubt." if "before" in row else ""
        yield f"**{row['claim']}**: {row['verdict']}.{was}"
        tested = rule["threshold"] == 0
        if len(row["conditions"]) < 2:
            yield ""
            yield f"Claimed is {row['claimed']}; measured is {told(row, tested=tested)}."
            continue
        yield ""
        yield f"| where | measured |{' p |' if tested else ''} {row['claimed']} is |"
        yield f"| --- | --- |{' --- |' if tested else ''} --- |"
        for one in row["conditions"]:
            p = f" {_p(one['p'])} |" if tested else ""
            yield f"| {condition_name(one)} | {measured(one)} |{p} {one['answer']} |"
    yield from {"information": _beyond_depth, "pooling": _which_layer, "repair": _repairs}[kind](study, done)
    for name, title, figure in plots.figures_of(study):
        file = place / f"{folder.name}-{name}.svg"
        atomic_write_bytes(file, plots.svg(figure))
        yield ""
        yield from picture(title, file.name)
    data = {case["name"]: case["settings"]["data"]["data"] for case in study["provenance"]["config"]["cases"]}
    for case, run in _pictured(done, folder).items():
        file = place / f"{folder.name}-{run}.png"
        explanation = load_explanation(folder / "runs" / run / "explanations.npz")
        sheet = explanation_sheet(explanation, _classes(data[case]), SHOWN)
        if sheet in shown:
            continue
        shown.add(sheet)
        atomic_write_bytes(file, sheet)
        yield ""
        yield from picture(PICTURED.format(run), file.name)
    if study["flags"]:
        yield ""
        yield "Reasons to doubt:"
        yield ""
        yield from (f"- {flag}" for flag in study["flags"])


def _made(study: Study, done: Sequence[Run]) -> Iterator[str]:
    """The settings of each case, and what the runs took."""
    provenance = study["provenance"]
    for case in provenance["config"]["cases"]:
        diagnosed = case["diagnosed"] if study["kind"] != "repair" else [UNTOUCHED]
        yield f"- **{case['name']}**: {_settings(case['settings'], diagnosed)}"
    if repair := provenance["config"]["repair"]:
        yield f"- **Repairs**: {_repair_settings(repair, provenance['config']['variants'])}"
    seeds, hours = ", ".join(map(str, provenance["seeds"])), sum(provenance["seconds"].values()) / 3600
    reused = provenance.get("reused", {})
    origins = ", ".join(sorted({origin.rpartition("/")[0] for origin in reused.values()}))
    before = f"made in {origins}, before this study began"
    took = f"{hours:.1f} hours of one process in all" if provenance["seconds"] else f"all of them {before}"
    taken = f" ({len(reused)} of them {before})" if reused and provenance["seconds"] else ""
    yield ""
    yield (
        f"{len(done)} of {len(study['runs'])} runs{taken}, seeds {seeds}; {took}, on "
        f"{provenance['processor']}. Version {provenance['version']}, code `{provenance['code']['sha256'][:12]}`."
    )
    results = [run["result"] for run in done if run["result"].get("layers")]
    if layers := [row["natural"] for result in results for row in result["layers"]]:
        images = [result["diagnosis"]["accuracy"]["judge_natural"] for result in results for _ in result["layers"]]
        worse = max(image - layer for image, layer in zip(images, layers, strict=True))
        yield ""
        yield (
            f"The judge reads natural explanations right in {100 * min(layers):.1f} % of the images or more, at each "
            f"of the {len(layers):,} layers of all runs: at most {100 * worse:.1f} points less often than the images "
            "themselves."
        )


def _settings(settings: Mapping[str, Any], diagnosed: Sequence[str]) -> str:
    """What the runs of a case have in common: training, attacks, and how they are diagnosed."""
    measures, attack = settings["evaluation"], settings["attack"]
    measured_on, generator = settings["diagnosis"], settings["generator"]
    text = (
        f"{settings['model']['model']} on {settings['data']['data']}, training: "
        f"{_training(settings['training'], settings['model']['epochs'])}. Attacked at "
        f"ε = {fraction(measures['eps'])} ({measures['norm']}) on {measures['examples']:,} test images: "
        f"{measures['attacks'].replace(',', ', ')}, with {measures['steps']} steps and {measures['restarts']} "
        f"start{'s' if measures['restarts'] > 1 else ''} of pgd. An image counts as right in the worst case if it "
        "withstands all of these."
    )
    if not diagnosed:
        return text
    recognition_network = (
        ""
        if generator.get("recognition_network") is None
        else f", {generator['recognition_network']} as recognition network"
    )
    weights = settings["judge"].get("judge_weights")
    judge = "" if weights is None else f", one judge for all ({weights})"
    return (
        f"{text} Diagnosed ({', '.join(diagnosed)}) with {attack['attack']} of {attack['steps']} steps at the "
        f"same ε on {measured_on['examples']:,} images, {generator['generator_steps']:,} generator steps"
        f"{recognition_network}{judge}."
    )


def _training(training: Mapping[str, Any], epochs: int | None) -> str:
    """Objective, size and steps of its attack where they are stated, and how long it is."""
    eps, steps = training["eps"], training["inner_steps"]
    goal = training["objective"] + ("" if eps is None else f" at ε = {fraction(eps)}")
    goal += "" if steps is None else f" with {steps} steps"
    return f"{goal}, " + ("epochs by the recipe" if epochs is None else f"{epochs} epoch{'s' * (epochs > 1)}")


def _repair_settings(repair: Mapping[str, Any], variants: Sequence[str]) -> str:
    """What is done to the layers that are blamed or cleared."""
    layers = repair["layers"]
    done = {
        "finetune": f"{layers} layer{'s' * (layers > 1)} fine-tuned (all in finetune-all), training: "
        f"{_training(repair['training'], repair['epochs'])}",
        "swap": f"one pooling swapped for {repair['pool']} and the network trained again, from the same first weights",
    }
    return (
        "; ".join(words for action, words in done.items() if any(variant.startswith(action) for variant in variants))
        + "."
    )


def _beyond_depth(study: Study, done: Sequence[Run]) -> Iterator[str]:
    """Whether loss and vulnerability go together because both grow with depth."""
    questions = {
        "image loss and V": (LOSSES[0], DEFINITIONS[0], None),
        "depth and V": (DEPTH, DEFINITIONS[0], None),
        "image loss and V, given depth": (LOSSES[0], DEFINITIONS[0], DEPTH),
        "class loss and V, given depth": (LOSSES[1], DEFINITIONS[0], DEPTH),
    }
    table: dict[str, dict[str, str]] = {}
    alone = len({(run["case"], run["variant"]) for run in done}) == 1  # then all together are these
    for title, names in questions.items():
        for one in study["effects"]:
            if one["quantity"] == correlation_name(*names) and not (alone and one["case"] == POOLED):
                cell = f"{one['value']:+.2f} [{one['corrected_low']:+.2f}, {one['corrected_high']:+.2f}]"
                table.setdefault(condition_name(one), {})[title] = cell
    if not any(len(row) > 1 for row in table.values()):
        return
    yield ""
    yield (
        "Is it depth alone? Deeper layers may both lose more and contribute more. The same rank correlations, and with "
        "each layer's place in the network held fixed; no rule was written for these:"
    )
    yield ""
    yield f"| ρ | {' | '.join(questions)} |"
    yield f"| --- |{' --- |' * len(questions)}"
    for where, row in table.items():
        yield f"| {where} | {' | '.join(row.get(title, '–') for title in questions)} |"
    yield from _repeats(done)


def _repeats(done: Sequence[Run]) -> Iterator[str]:
    """How alike networks of other seeds rank their layers: no two rankings can agree better than each repeats."""
    groups: dict[str, list[Mapping[str, Floats]]] = {}
    for run in done:
        groups.setdefault(f"{run['case']} {run['variant']}", []).append(profile(run["result"]))
    names = {"V": DEFINITIONS[0], "V in bits": DEFINITIONS[1], "V of probes": DEFINITIONS[2],
             "relative error": DEFINITIONS[3], "image loss": LOSSES[0], "class loss": LOSSES[1]}  # fmt: skip
    rows = []
    for where, profiles in groups.items():
        cells = []
        for name in names.values():
            pairs = list(itertools.combinations([one[name] for one in profiles], 2))
            found = (
                spearman_rows(*(np.array([pair[side] for pair in pairs]) for side in (0, 1))) if pairs else np.empty(0)
            )
            found = found[np.isfinite(found)]
            cells.append(f"{found.mean():+.2f} ({found.min():+.2f})" if len(found) else "–")
        rows.append(f"| {where} | {' | '.join(cells)} |")
    yield ""
    yield (
        "How well do these rankings repeat? ρ between two networks of other seeds, the mean over all pairs (and the "
        "lowest). Where it is small, a small ρ above says little:"
    )
    yield ""
    yield f"| | {' | '.join(names)} |"
    yield f"| --- |{' --- |' * len(names)}"
    yield from rows


def _which_layer(study: Study, done: Sequence[Run]) -> Iterator[str]:
    """The variants under each attack, and which layers differ."""
    columns = {name: name for run in done for name in run["result"]["accuracy"]}
    columns["natural, on all test images"] = TEST_ACCURACY
    pairs = dict.fromkeys((one["case"], one["variant"], one["against"]) for one in study["effects"])
    whole = {(*_pair(one), one["quantity"]): one for one in study["effects"] if one["layer"] is None}
    values = {
        quantity: [whole[*pair, quantity]["value"] for pair in pairs if (*pair, quantity) in whole]
        for quantity in columns.values()
    }
    if any(values[WORST] == found for quantity, found in values.items() if quantity != WORST):
        del columns[WORST]  # one attack is the worst case
    yield ""
    yield (
        "Under each attack, in points of accuracy, with corrected intervals, and in how many pairs it is ahead. "
        "The intervals hold for other trainings and other test images; those of all test images for other trainings."
    )
    yield ""
    yield f"| where | {' | '.join(columns)} |"
    yield f"| --- |{' --- |' * len(columns)}"
    for pair in pairs:
        cells = [
            f"{_points(whole[*pair, name])}, {_ahead(done, pair, name)}" if (*pair, name) in whole else "–"
            for name in columns.values()
        ]
        name = condition_name(dict(zip(("case", "variant", "against"), pair, strict=True)))
        yield f"| {name} | {' | '.join(cells)} |"
    for pair in pairs:
        points = [one for one in _effects(study, pair) if one["quantity"].startswith(AT_EPS)]
        if sure := [one for one in points if _excludes_zero(one)]:
            at = {fraction(float(one["quantity"].removeprefix(AT_EPS))): _points(one) for one in sure}
            yield ""
            yield (
                f"Where on the curve over ε, under PGD, is {condition_name(sure[0])} not 0 (points, for other "
                f"trainings alone, corrected for {sure[0]['comparisons']} comparisons)? "
                f"{', '.join(f'ε = {eps}: {difference}' for eps, difference in at.items())}. No rule was written for "
                "these."
            )
    for pair in pairs:
        of_layers = [one for one in _effects(study, pair) if one["layer"] is not None]
        for quantity, words in (("vulnerability", "vulnerability"), ("information_loss", "loss of the image")):
            rows = [one for one in of_layers if one["quantity"] == quantity]
            if not rows:
                continue
            sure = [one for one in rows if _excludes_zero(one)]
            told = ", ".join(f"{one['layer']} {_points(one)}" for one in sure)
            most = max(rows, key=lambda one: abs(one["value"]))
            yield ""
            yield (
                f"Which layer differs in its {words}, {condition_name(most)} (points, corrected for "
                f"{len(rows)} layers)? "
                + (
                    f"{told}."
                    if sure
                    else f"None surely; the largest difference is that of {most['layer']}, {_points(most)}."
                )
            )


def _effects(study: Study, pair: tuple[str, str, str]) -> list[Mapping[str, Any]]:
    return [one for one in study["effects"] if _pair(one) == pair]


def _excludes_zero(one: Mapping[str, Any]) -> bool:
    return bool(one["corrected_low"] > 0 or one["corrected_high"] < 0)


def _pair(one: Mapping[str, Any]) -> tuple[str, str, str]:
    return one["case"], one["variant"], one["against"]


def _points(one: Mapping[str, Any]) -> str:
    return f"{100 * one['value']:+.1f} [{100 * one['corrected_low']:+.1f}, {100 * one['corrected_high']:+.1f}]"


def _ahead(done: Sequence[Run], pair: tuple[str, str, str], quantity: str) -> str:
    """In how many seeds the variant is ahead."""
    case, variant, against = pair
    found = {
        (run["variant"], run["seed"]): run["result"]["classifier"][TEST_ACCURACY]
        if quantity == TEST_ACCURACY
        else run["result"]["accuracy"][quantity]["value"]
        for run in done
        if run["case"] == case
    }
    seeds = [seed for one, seed in found if one == variant and (against, seed) in found]
    return f"{sum(found[variant, seed] > found[against, seed] for seed in seeds)} of {len(seeds)}"


def _repairs(study: Study, done: Sequence[Run]) -> Iterator[str]:
    """What each repair gains, what it changed, and the accuracy that is left: a row for each seed."""
    variants = sorted({run["variant"] for run in done}, key=(UNTOUCHED, *ACTIONS).index)
    yield ""
    yield "What each repair gains over the network that is left alone, in points of worst-case accuracy:"
    yield ""
    yield "| where | gain | in how many networks |"
    yield "| --- | --- | --- |"
    for one in study["effects"]:
        if one["quantity"] == WORST and one["against"] == UNTOUCHED:
            pair = (one["case"], one["variant"], one["against"])
            yield f"| {condition_name(one)} | {_points(one)} | {_ahead(done, pair, WORST)} |"
    yield ""
    yield "What was changed, and the accuracy in the worst case after it:"
    yield ""
    yield f"| network | {' | '.join(variants)} |"
    yield f"| --- |{' --- |' * len(variants)}"
    for case, seed in sorted({(run["case"], run["seed"]) for run in done}):
        results = {run["variant"]: run["result"] for run in done if (run["case"], run["seed"]) == (case, seed)}
        cells = []
        for variant in variants:
            result = results.get(variant)
            changed = "" if result is None or variant.partition("-")[2] in ("", "all") else result["repaired"]["layers"]
            value = "–" if result is None else f"{100 * result['accuracy'][WORST]['value']:.1f} %"
            cells.append(f"{', '.join(changed)}: {value}" if changed else value)
        yield f"| {case}, seed {seed} | {' | '.join(cells)} |"


def _classes(data: str) -> tuple[str, ...]:
    """The names of the classes where a classifier of the package was trained on these data; else numbers do."""
    cards = (read_card(name) for name in card_names())
    return next((card.classes for card in cards if card.data["name"] == data), ())


def _pictured(done: Sequence[Run], folder: Path) -> dict[str, str]:
    """For each case one run that has its pictures: the first variant and seed."""
    chosen: dict[str, str] = {}
    for run in sorted(done, key=lambda one: (one["seed"], one["variant"] not in ("max", "untouched"))):
        if (folder / "runs" / run["id"] / "explanations.npz").exists():
            chosen.setdefault(run["case"], run["id"])
    return dict(sorted(chosen.items()))
