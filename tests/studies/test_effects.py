"""From results to effects, on results that are made up so that the answer is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from interpretgan.studies.config import StudyConfig
from interpretgan.studies.config_file import load_config
from interpretgan.studies.effects import measure, profile
from interpretgan.studies.rules import judge
from tests.studies.tiny import STUDIES

LOSS = [0.05, 0.3, 0.1, 0.6, 0.2, 0.01]


def row(name: str, vulnerability: float, **more: object) -> dict[str, Any]:
    interval = {"value": vulnerability, "low": vulnerability - 0.1, "high": vulnerability + 0.1}
    return {"name": name, "vulnerability": interval, "unreliable": False, **more}


def information_run(shift: float, **more: object) -> dict[str, Any]:
    rows = [
        row(
            f"layer{place}", loss**2 + shift, information_loss={"value": loss, "low": 0.0, "high": 1.0},
            class_information={"value": 3.0 - sum(LOSS[: place + 1])}, vulnerability_bits={"value": -loss},
            relative_error=float(place),
        )
        for place, loss in enumerate(LOSS)
    ]  # fmt: skip
    return {"layers": rows, "diagnosis": {"class_information": {"value": 3.0}}, **more}


def specs(config: StudyConfig) -> list[dict[str, Any]]:
    return [
        {"id": f"{case.name}-{variant}-s{seed}", "case": case.name, "variant": variant, "seed": seed}
        for case in config.cases
        for variant in case.variants
        for seed in config.seeds
    ]


def test_losses_that_follow_vulnerability_are_found() -> None:
    config = load_config(STUDIES / "information-tiny.toml")
    table = specs(config)
    effects = measure(config, table, {spec["id"]: information_run(spec["seed"] * 0.01) for spec in table})
    found = {(one.quantity, one.case): one.value for one in effects}
    assert found["spearman(information_loss, vulnerability)", "all"] == pytest.approx(1)
    assert found["spearman(class_loss, vulnerability)", "all"] == pytest.approx(1)
    assert found["spearman(information_loss, vulnerability_bits)", "all"] == pytest.approx(-1)
    assert ("spearman(information_loss, vulnerability_probe)", "all") not in found  # no run has it
    assert judge(config.rules[0], effects)["verdict"] == "confirmed"


@pytest.mark.parametrize("missing", ["failed", "unreadable"])
def test_networks_that_are_missing_leave_a_claim_about_layers_open(missing: str) -> None:
    """The seeds that are left vary less than all do; nor is what one variant shows true of both."""
    config = load_config(STUDIES / "information-tiny.toml")
    config = replace(config, variants=("max", "avg"), seeds=(0, 1, 2), replicates=500)
    config = replace(config, cases=tuple(replace(case, variants=config.variants) for case in config.cases))
    alone, pooled = (replace(config.rules[0], cases=cases) for cases in ((), ("all",)))
    runs = {spec["id"]: information_run(spec["seed"] * 0.01) for spec in specs(config)}
    effects = measure(config, specs(config), runs)
    assert [judge(rule, effects)["verdict"] for rule in (alone, pooled)] == ["confirmed", "confirmed"]
    if missing == "failed":
        del runs["digits-lenet5-natural-avg-s1"]
    else:
        for line in runs["digits-lenet5-natural-avg-s1"]["layers"][2:]:
            line["unreliable"] = True
    effects = measure(config, specs(config), runs)
    each, together = (judge(rule, effects) for rule in (alone, pooled))
    assert {one["variant"]: one["answer"] for one in each["conditions"]} == {"max": "supported", "avg": "open"}
    assert [one["answer"] for one in together["conditions"]] == ["open"]
    assert together["measured"] == pytest.approx(1)
    assert (together["low"], together["high"]) == (-1, 1)


def test_unreliable_rows_are_left_out() -> None:
    run = information_run(0.0)
    run["layers"][3] |= {"unreliable": True, "information_loss": {"value": -9.0}}
    table = profile(run)
    assert all(np.isnan(values[3]) for values in table.values())
    np.testing.assert_allclose(table["class_loss"][[0, 1, 2, 4, 5]], [0.05, 0.3, 0.1, 0.2, 0.01])
    config = load_config(STUDIES / "information-tiny.toml")
    effects = measure(config, specs(config), {spec["id"]: run for spec in specs(config)})
    assert effects[0].quantity == "spearman(information_loss, vulnerability)"
    assert effects[0].value == pytest.approx(1)


def pooling_run(
    right: list[int], vulnerability: float, *, of_all: float | None = None, **more: object
) -> dict[str, Any]:
    bits = np.packbits(np.array(right, dtype=bool)).tobytes().hex()
    share = {"value": sum(right) / len(right), "low": 0.0, "high": 1.0}
    return {
        "accuracy": {"natural": share, "worst_case": share}, "right": {"natural": bits, "worst_case": bits},
        "examples": len(right), "curve": [{"at": 0.1, "value": share["value"]}],
        "layers": [row("conv1", 0.1), row("pool1", vulnerability, **more)],
        "classifier": {} if of_all is None else {"test_accuracy": of_all},
    }  # fmt: skip


def test_variants_are_compared_seed_by_seed_and_layer_by_layer() -> None:
    config = replace(load_config(STUDIES / "pooling-tiny.toml"), seeds=(0, 1, 2))
    good, bad = [1, 1, 1, 1, 0, 1, 1, 1, 1, 1], [1, 0, 0, 1, 0, 1, 0, 0, 1, 0]
    results = {
        f"digits-lenet5-natural-{variant}-s{seed}": pooling_run(right, lost + 0.01 * seed, of_all=0.9 - lost)
        for variant, right, lost in (("max", bad, 0.5), ("avg", good, 0.2))
        for seed in config.seeds
    }
    effects = {(one.quantity, one.layer): one for one in measure(config, specs(config), results)}
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


def test_a_seed_without_its_partner_is_left_out() -> None:
    config = replace(load_config(STUDIES / "pooling-tiny.toml"), seeds=(0, 1, 2))
    results = {
        spec["id"]: pooling_run([1, 0, 1, 1] if spec["variant"] == "avg" else [0, 0, 1, 1], 0.1, unreliable=True)
        for spec in specs(config)
        if spec["id"] != "digits-lenet5-natural-max-s1"
    }
    effects = {(one.quantity, one.layer): one for one in measure(config, specs(config), results)}
    assert effects["worst_case", None].runs == 2
    assert ("vulnerability", "conv1") in effects
    assert ("vulnerability", "pool1") not in effects
    assert ("test_accuracy", None) not in effects  # as in repairs


def test_what_failed_does_not_make_the_rest_easier_to_confirm() -> None:
    config = replace(load_config(STUDIES / "pooling-tiny.toml"), variants=("max", "avg", "blur"), seeds=(0, 1))
    config = replace(
        config, cases=tuple(replace(case, variants=config.variants, diagnosed=config.variants) for case in config.cases)
    )
    right = {"max": [1, 0, 0, 1], "avg": [1, 1, 0, 1], "blur": [1, 1, 1, 1]}
    runs = {spec["id"]: pooling_run(right[spec["variant"]], 0.1) for spec in specs(config)}
    failed = {name: run for name, run in runs.items() if name != "digits-lenet5-natural-blur-s1"}
    whole, less = (
        {(one.quantity, one.variant): one for one in measure(config, specs(config), results)}
        for results in (runs, failed)
    )
    counts = {"worst_case": 2, "accuracy at eps 0.1": 2, "vulnerability": 4}
    for quantity, count in counts.items():
        assert (quantity, "blur") not in less
        for name in ("comparisons", "corrected_low", "corrected_high"):
            assert getattr(less[quantity, "avg"], name) == getattr(whole[quantity, "avg"], name)
        assert less[quantity, "avg"].p_holm >= whole[quantity, "avg"].p_holm
        assert less[quantity, "avg"].comparisons == count
    fewer = replace(config, cases=tuple(replace(case, diagnosed=("max", "avg")) for case in config.cases))
    for name, run in runs.items():
        if "blur" in name:
            del run["layers"]
    (layer, _) = (one for one in measure(fewer, specs(fewer), runs) if one.quantity == "vulnerability")
    assert layer.comparisons == 2  # of the variant that is diagnosed, and not of all
