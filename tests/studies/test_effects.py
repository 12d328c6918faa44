"""From results to effects, on results that are made up so that the answer is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from interpretgan.statistics import paired
from interpretgan.studies.config import StudyConfig
from interpretgan.studies.config_file import load_config
from interpretgan.studies.effects import Effect, correct, layer_table, measure
from interpretgan.studies.rules import judge
from tests.studies.tiny import STUDIES

LOSS = [0.05, 0.3, 0.1, 0.6, 0.2, 0.01, 0.4, 0.15, 0.5, 0.02]
Run = dict[str, Any]


def row(name: str, vulnerability: float, **more: object) -> Run:
    return {"name": name, "vulnerability": {"value": vulnerability}, "unreliable": False, **more}


def information_run(shift: float = 0.0) -> Run:
    rows = [
        row(
            f"layer{place}", loss**2 + shift, information_loss={"value": loss}, vulnerability_bits={"value": -loss},
            class_information={"value": 3.0 - sum(LOSS[: place + 1])}, relative_error=float(place),
        )
        for place, loss in enumerate(LOSS)
    ]  # fmt: skip
    return {"layers": rows, "diagnosis": {"class_information": {"value": 3.0}}}


def pooling_run(right: list[int], lost: float, *, of_all: float | None = None, **more: object) -> Run:
    bits = np.packbits(np.array(right, dtype=bool)).tobytes().hex()
    share = {"value": sum(right) / len(right)}
    return {
        "accuracy": {"natural": share, "worst_case": share}, "right": {"natural": bits, "worst_case": bits},
        "examples": len(right), "curve": [{"at": 0.1, **share}], "diagnosis": {},
        "layers": [row("conv1", 0.1), row("pool1", lost, **more)],
        "classifier": {} if of_all is None else {"test_accuracy": of_all},
    }  # fmt: skip


def configured(kind: str, **changes: Any) -> StudyConfig:
    config = replace(load_config(STUDIES / f"{kind}-tiny.toml"), **changes)
    cases = (replace(case, variants=config.variants, diagnosed=config.variants) for case in config.cases)
    return replace(config, cases=tuple(cases))


def made(config: StudyConfig, results: dict[tuple[str, int], Run]) -> list[Run]:
    """Runs of all variants and seeds, those without a result failed."""
    return [
        {"id": f"{variant}-{seed}", "case": case.name, "variant": variant, "seed": seed}
        | ({"status": "done", "result": found} if (found := results.get((variant, seed))) else {"status": "failed"})
        for case in config.cases for variant in case.variants for seed in config.seeds
    ]  # fmt: skip


def by_name(effects: list[Effect]) -> dict[tuple[str, str | None], Effect]:
    return {(one.quantity, one.layer): one for one in effects}


def test_losses_that_follow_vulnerability_are_found() -> None:
    config = configured("information")
    results = {(variant, seed): information_run(seed * 0.01) for variant in config.variants for seed in config.seeds}
    effects = measure(config, made(config, results))
    found = {one.quantity: one.value for one in effects if one.case == "all"}
    assert found["spearman(information_loss, vulnerability)"] == pytest.approx(1)
    assert found["spearman(class_loss, vulnerability)"] == pytest.approx(1)
    assert found["spearman(information_loss, vulnerability_bits)"] == pytest.approx(-1)
    assert "spearman(information_loss, vulnerability_probe)" not in found  # no run has it
    assert judge(config.rules[0], effects)["verdict"] == "confirmed"


@pytest.mark.parametrize("missing", ["failed", "unreadable"])
def test_networks_that_are_missing_leave_a_claim_about_layers_open(missing: str) -> None:
    """The seeds that are left vary less than all do; nor is what one variant shows true of both."""
    config = configured("information", variants=("max", "avg"), seeds=(0, 1, 2), replicates=500)
    rules = [replace(config.rules[0], cases=cases) for cases in ((), ("all",))]
    results = {(variant, seed): information_run(seed * 0.01) for variant in config.variants for seed in config.seeds}
    effects = measure(config, made(config, results))
    assert [judge(rule, effects)["verdict"] for rule in rules] == ["confirmed", "confirmed"]
    if missing == "failed":
        del results["avg", 1]
    else:
        for line in results["avg", 1]["layers"][5:]:
            line["unreliable"] = True
    each, together = (judge(rule, measure(config, made(config, results))) for rule in rules)
    assert {one["variant"]: one["answer"] for one in each["conditions"]} == {"max": "supported", "avg": "open"}
    assert [one["answer"] for one in together["conditions"]] == ["open"]
    assert (together["measured"], together["low"], together["high"]) == (pytest.approx(1), -1, 1)


def test_unreliable_rows_are_left_out() -> None:
    run = information_run()
    run["layers"][3] |= {"unreliable": True, "information_loss": {"value": -9.0}}
    table = layer_table(run)
    assert table.loc["layer3"].isna().all()
    np.testing.assert_allclose(table["class_loss"].dropna(), [loss for loss in LOSS if loss != 0.6])
    config = configured("information")
    results = {(variant, seed): run for variant in config.variants for seed in config.seeds}
    first = measure(config, made(config, results))[0]
    assert first.quantity == "spearman(information_loss, vulnerability)"
    assert first.value == pytest.approx(1)


def test_variants_are_compared_seed_by_seed_and_layer_by_layer() -> None:
    config = configured("pooling", seeds=(0, 1, 2), variants=("max", "avg"))
    good, bad = [1, 1, 1, 1, 0, 1, 1, 1, 1, 1], [1, 0, 0, 1, 0, 1, 0, 0, 1, 0]
    results = {
        (variant, seed): pooling_run(right, lost + 0.01 * seed, of_all=0.9 - lost)
        for variant, right, lost in (("max", bad, 0.5), ("avg", good, 0.2))
        for seed in config.seeds
    }
    effects = by_name(measure(config, made(config, results)))
    worst = effects["worst_case", None]
    assert worst.value == pytest.approx(0.5)
    assert worst.runs == 3
    assert worst.size is None  # the seeds do not vary
    assert worst.low < 0.5 < worst.high  # the examples do
    assert effects["vulnerability", "pool1"].value == pytest.approx(-0.3)
    assert effects["vulnerability", "conv1"].value == 0
    assert effects["vulnerability", "pool1"].comparisons == 2
    assert effects["accuracy at eps 0.1", None].value == pytest.approx(0.5)
    assert effects["test_accuracy", None].value == pytest.approx(0.3)
    assert ("information_loss", "pool1") not in effects
    del results["max", 1]
    for (variant, _), run in results.items():
        run["classifier"] = {}  # as in repairs
        run["layers"][1]["unreliable"] = variant == "avg"
    effects = by_name(measure(config, made(config, results)))
    assert effects["worst_case", None].runs == 2  # a seed without its partner is left out
    assert ("vulnerability", "conv1") in effects
    assert ("vulnerability", "pool1") not in effects
    assert ("test_accuracy", None) not in effects


def test_what_failed_does_not_make_the_rest_easier_to_confirm() -> None:
    config = configured("pooling", variants=("max", "avg", "blur"), seeds=(0, 1))
    right = {"max": [1, 0, 0, 1], "avg": [1, 1, 0, 1], "blur": [1, 1, 1, 1]}
    runs = {(variant, seed): pooling_run(right[variant], 0.1) for variant in config.variants for seed in config.seeds}
    failed = {key: run for key, run in runs.items() if key != ("blur", 1)}
    whole, less = (
        {(one.quantity, one.variant): one for one in measure(config, made(config, results))}
        for results in (runs, failed)
    )
    for quantity, count in {"worst_case": 2, "accuracy at eps 0.1": 2, "vulnerability": 4}.items():
        assert (quantity, "blur") not in less
        one, other = less[quantity, "avg"], whole[quantity, "avg"]
        assert (one.corrected_low, one.corrected_high) == (other.corrected_low, other.corrected_high)
        assert one.comparisons == other.comparisons == count
        assert one.p_holm >= other.p_holm
    fewer = replace(config, cases=tuple(replace(case, diagnosed=("max", "avg")) for case in config.cases))
    for seed in config.seeds:
        del runs["blur", seed]["layers"]
    layers = [one for one in measure(fewer, made(config, runs)) if one.quantity == "vulnerability"]
    assert [one.comparisons for one in layers] == [2, 2]  # of the variant that is diagnosed, and not of all


def test_more_comparisons_widen_the_corrected_interval_alone() -> None:
    one = (("q", "c", None, None, None), paired([0.02, 0.05, -0.01, 0.03, 0.04]))
    (alone,), many = correct([one], 0.95), correct([one] * 4, 0.95)
    assert (alone.corrected_low, alone.corrected_high) == (alone.low, alone.high)
    assert many[0].corrected_low < alone.low < alone.high < many[0].corrected_high
    assert (many[0].low, many[0].high, many[0].comparisons) == (alone.low, alone.high, 4)
