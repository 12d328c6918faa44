"""The committed results: what the documentation rests on holds in the files, by the names of their fields."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from interpretgan.diagnosis.let_in import EVERYWHERE
from interpretgan.diagnosis.reliability import failed_kinds
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.features.activation_patching import ORDERS
from interpretgan.models import card_names, read_card
from interpretgan.report.wording import answer
from interpretgan.robustness import Evaluation
from interpretgan.studies.pages import write_pages

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
FIGURE = r"(?<![\w.])[+−-]?\d+\.\d+"
"""A figure as tables have it."""


def read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def missing(row: str) -> list[str]:
    """Figures in a row of a table that are in none of the files that the row links to."""
    linked = [ROOT / place for place in re.findall(r"\]\(((?:docs|results)/[^)#]+)", row)]
    known = {figure for file in linked for figure in re.findall(FIGURE, file.read_text())}
    return [figure for figure in re.findall(FIGURE, re.sub(r"\]\([^)]*\)", "", row)) if figure not in known]


def test_figures_in_tables_of_the_readme_are_in_the_pages_that_they_link_to() -> None:
    row = "| average pooling after PGD | +0.015 [+0.002, +0.028] | [study](docs/findings/pooling-robust.md) |"
    assert missing(row) == []
    assert missing(row.replace("0.028", "0.029")) == ["+0.029"]
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if re.match(r"\|.*\]\(docs/findings", line)]
    assert {line: missing(line) for line in rows} == {line: [] for line in rows}


def test_the_page_of_findings_follows_from_the_committed_studies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    committed = Path("docs/findings.md").read_text()
    command = committed.rpartition("python -m interpretgan.studies.pages")[2]
    folders = [Path(name) for name in re.findall(r"results/[\w/.-]+", command.split("--out")[0])]
    assert {file.parent for file in Path("results/studies").glob("*/study.json")} <= set(folders)
    made = write_pages(*folders, out=tmp_path / "findings.md").read_text()
    assert made.replace(str(tmp_path), "docs") == committed
    there, here = ({path.name: path for path in (at / "findings").iterdir()} for at in (tmp_path, Path("docs")))
    assert there.keys() == here.keys()
    for name in there:
        if name.endswith(".md"):
            assert there[name].read_text() == here[name].read_text()


def test_the_mnist_diagnosis_is_sound_and_follows_from_its_predictions() -> None:
    folder = RESULTS / "mnist-lenet5-max"
    found = Diagnosis.load(folder)
    assert abs(sum(layer.vulnerability.value for layer in found.layers) - found.loss) < 1e-9
    assert found.controls["eps0_max_abs_vulnerability"] == 0.0
    assert found.controls["noise_max_abs_vulnerability"] <= 0.03
    assert min(layer.natural for layer in found.layers) >= 0.94
    with np.load(folder / "predictions.npz", allow_pickle=False) as saved:
        natural, adversarial = (
            (saved[f"{kind}_all"] == saved["labels"]).mean(axis=2) for kind in ("natural", "adversarial")
        )
        assert saved["layers"].tolist() == [layer.name for layer in found.layers]
    survival = adversarial / natural  # of each generator
    np.testing.assert_allclose([layer.natural for layer in found.layers], natural.mean(axis=0))
    np.testing.assert_allclose([layer.survival for layer in found.layers], survival.mean(axis=0))
    seconds, told = found.provenance["seconds"], (ROOT / "README.md").read_text()
    assert f"took {seconds['total'] / 60:.0f} minutes" in told
    page, one = (ROOT / "docs" / "results.md").read_text(), read("mnist-lenet5-max/one_generator.json")
    assert f"took {seconds['total'] / 60:.0f} minutes" in page
    alone = one["provenance"]["seconds"]
    assert f"took\n{alone['total']:.0f} s there" in page
    others = (alone["generator-0"], alone["information"], alone["judge"], alone["diagnosis"])
    assert (
        "the generator {:.0f}, decoders and probes {:.0f}, the judge {:.0f}, the\nexplanations {:.0f})".format(*others)
        in page
    )
    assert f"{(seconds['total'] - seconds['baselines']) / alone['total']:.1f} times one" in page
    # Each generator puts relu3 first; with a blind trunk it and fc1 could not be told apart.
    names = [layer.name for layer in found.layers[1:]]
    falls = -np.diff(survival, axis=1)
    orders = [[names[place] for place in np.argsort(-of_one)[:3]] for of_one in falls]
    assert orders == [["relu3", "fc1", "relu4"]] * 5
    first, second, third = (whole(100 * falls[:, names.index(name)]) for name in orders[0])
    told_of = "puts it first, with {} to {} points. Then come fc1, with {} to {}, and relu4, with {} to {}, in each."
    assert told_of.format(*first, *second, *third) in page
    assert found.controls["seeds_same_top"] == 1.0
    alike = np.mean([spearmanr(one, other).statistic for one, other in itertools.combinations(falls, 2)])
    assert f"have a rank correlation of {alike:.2f} on average" in " ".join(page.split())
    quiet = [
        max(record["controls"][f"{name}_max_abs_vulnerability"] for name in ("noise", "smooth", "foreign"))
        for record in (
            read(f"mnist-lenet5-max/{name}.json")
            for name in ("diagnosis", "uniform_noise", "grid_alone", "without_image_noise")
        )
    ]
    told_of = (
        "by more than {:.1f} points. That was {:.1f} with noise of uniform sizes, {:.1f} with the coarse grid "
        "alone, {:.1f} without noise,"
    )
    assert told_of.format(*(100 * value for value in quiet)) in " ".join(page.split())
    uniform = read("mnist-lenet5-max/uniform_noise.json")
    v = next(row["vulnerability"] for row in uniform["layers"] if row["name"] == "relu3")
    assert f"relu3 had {100 * v['value']:.1f} [{100 * v['low']:.1f}, {100 * v['high']:.1f}]\n([record]" in page
    grid = {row["name"]: row["vulnerability"] for row in read("mnist-lenet5-max/grid_alone.json")["layers"]}
    assert (
        "fc1 had {value:.1f} [{low:.1f}, {high:.1f}] points".format(
            **{key: 100 * grid["fc1"][key] for key in ("value", "low", "high")}
        )
        in page
    )
    assert f"relu3 {100 * grid['relu3']['value']:.1f} ([record](../results/mnist-lenet5-max/grid_alone.json))" in page
    distances = dict(zip(names, found.realism.layers, strict=True)) if found.realism else {}
    assert [name for name in names if distances[name].low > 0] == names[names.index("fc1") :]
    largest = max(distances, key=lambda name: distances[name].value)
    then = {row["name"]: row["realism"]["value"] for row in uniform["layers"]}
    was = (
        "{:.2f} at `relu3`, where it was {:.2f} with noise of uniform sizes, and largest at `{}` with "
        "{:.2f} [{:.2f}, {:.2f}], where it was {:.2f}; at `relu4` it is {:.2f}, where it was {:.2f}."
    )
    worst = distances[largest]
    assert was.format(
        distances["relu3"].value, then["relu3"], largest, worst.value, worst.low, worst.high, then[largest],
        distances["relu4"].value, then["relu4"],
    ) in " ".join(page.split())  # fmt: skip
    # The picture of the README and its caption are of this run.
    with np.load(folder / "explanations.npz", allow_pickle=False) as saved:
        (seven, _, _, _, four, _), names = (
            saved["adversarial_predictions"].T.tolist(),
            ["image", *saved["layers"].tolist()],
        )
    assert [name for name, seen in zip(names, seven, strict=True) if seen == 3] == names[names.index("fc2") :]
    assert [name for name, seen in zip(names, four, strict=True) if seen == 9] == names[names.index("fc1") :]
    assert "attacked 7, and from `fc2` on a 3. The 4 turns into a 9 at `fc1`." in told
    blind = {row["name"]: row["vulnerability"] for row in read("mnist-lenet5-max/blind_trunk.json")["layers"]}
    assert blind["relu3"]["low"] < blind["fc1"]["value"] < blind["relu3"]["high"]


def test_what_the_page_says_of_speed_was_measured() -> None:
    page, record = (ROOT / "docs" / "results.md").read_text(), read("benchmarks/speed.json")
    equal, machine = record["equal_quality"], record["machine"]
    ours, alone, peak = equal["ours"], equal["one_by_one"], machine["matmul_gflops"]
    steps = {row["layer"]: row["steps"] for row in alone["trained"]}
    assert alone["reached"] == len(equal["layers"]) == len(steps) == 11
    cost = next(case["cost"] for case in record["cases"] if (case["layers"], case["pixels"]) == (11, 28))
    deep = next(case for case in record["cases"] if case["layers"] == 30)
    assert steps["conv1"] == min(steps.values())
    assert steps["relu2"] == max(steps.values())
    for told in (
        f"trains {equal['speedup']:.1f} times as fast as one generator a layer, at equal quality**",
        f"{ours['seconds']:.0f} s against {alone['seconds']:.0f} s",
        f"`conv1` after {steps['conv1']} steps, `relu2` after {max(steps.values()):,}",
        f"of ours runs at {100 * ours['share_of_matmul_peak']:.0f} % of the peak",
        f"Ours held at most {ours['memory_mib']:,} MiB, the others {alone['memory_mib']:,}.",
        "Ours ran twice and took {:.0f} and {:.0f} s.".format(*sorted(ours["all_seconds"])),
        f"takes {cost['invertible']['step_seconds']:.1f} s, one of ours {cost['ours']['step_seconds']:.2f} s.",
        f"reached {peak['bf16']:.0f} GFLOP/s in bf16 and {peak['fp32']:.0f} in fp32",
        f"a load of {machine['load']:.1f} just before",
        f"as many steps as above, {ours['steps']} of ours and {alone['steps']:.0f} on average",
        f"{alone['steps']:.0f} here",
        f"where 20 was the aim,\n  it is {deep['training_speedup']:.1f}.",
    ):
        assert told in page, told
    for case in record["cases"]:
        seconds = [row["seconds"] for row in case["cost"].values()]
        shown = [f"{value:.1f}" if value < 100 else f"{value:,.0f}" for value in seconds]
        cells = [case["layers"], case["pixels"], f"{case['parameters']:,}", *shown, f"{case['training_speedup']:.1f}"]
        assert f"| {' | '.join(map(str, cells))} |" in page
    row = f"| one generator a layer, as in the paper, takes {equal['speedup']:.1f} times as long to equal quality |"
    assert f"| {ours['seconds']:.0f} s on two cores {row}" in (ROOT / "README.md").read_text()


def whole(values: Iterable[float]) -> tuple[int, int]:
    """The least and the greatest, as whole numbers."""
    low, *_, high = sorted(values)
    return round(low), round(high)


TRAINED = {"lenet5-max": "naturally", "lenet5-max-pgd": "against PGD", "lenet5-max-trades": "with TRADES"}


def runs_of_controls(name: str) -> dict[tuple[str, float, float, int], list[dict[str, Any]]]:
    """Diagnoses by network, size of the perturbation, noise in the training and its steps."""
    found = defaultdict(list)
    for run in read(f"benchmarks/{name}.json")["diagnoses"]:
        found[run["network"], run["eps"], run["image_noise"], run["steps"]].append(run)
    return found


def of_layer(runs: list[dict[str, Any]], name: str, under: str) -> list[float]:
    return [row[under]["value"] for run in runs for row in run["layers"] if row["name"] == name]


def held(runs: Iterable[dict[str, Any]], control: str) -> int:
    return sum(control not in run["failed"] for run in runs)


def test_what_the_page_says_of_controls_over_seeds_was_measured() -> None:
    page, now, before = (
        " ".join((ROOT / "docs" / "method.md").read_text().split()),
        runs_of_controls("controls_any_share"),
        runs_of_controls("controls_look_again"),
    )
    assert now.keys() == before.keys()
    for (network, eps, noise, steps), runs in now.items():
        assert (noise, len(runs)) == (0.3, 5)
        lost = np.mean([sum(layer["attack"]["value"] for layer in run["layers"]) for run in runs])
        cells = []
        tried = [
            *((control, runs) for control in ("noise", "smooth", "foreign")),
            ("smooth", before[network, eps, noise, steps]),
        ]
        for control, of in tried:
            most = max(abs(layer[control]["value"]) for run in of for layer in run["layers"])
            cells.append(f"{100 * most:.1f}, {held(of, control)} of 5")
        assert f"| {TRAINED[network]} | {eps} | {steps} | {100 * lost:.0f} | {' | '.join(cells)} |" in page
    good = {
        steps: [not run["failed"] for key, runs in now.items() for run in runs if key[3] == steps]
        for steps in (300, 600)
    }
    usual, longer = (f"{oks.count(True)} of {len(oks)}" for oks in good.values())
    told = f"in {usual} diagnoses with the default of 300 steps, and in {longer} with 600."
    assert [*good] == [300, 600]
    assert f"**All controls hold {told}**" in page
    robust = [run for key, runs in now.items() for run in runs if key[1] == 0.3 and key[0] != "lenet5-max"]
    lasting = []
    for run in robust:
        attack = [row["attack"] for row in run["layers"]]
        survival = -np.cumsum([v["value"] for v in attack])
        assert run["layers"][1]["name"] == "conv1"
        back = max(0.0, survival[2:].max() - survival[1])
        assert attack[1]["low"] <= back
        lasting.append(attack[1]["value"] - back)
    at_pool1 = of_layer(now["lenet5-max-pgd", 0.3, 0.3, 300], "pool1", "attack")
    lost, lasts, pool1 = (
        whole(100 * value for value in of) for of in (of_layer(robust, "conv1", "attack"), lasting, at_pool1)
    )
    assert len(robust) == 20
    assert "`conv1` seems to lose {} to {} points,".format(*lost) in page
    assert "which later layers win back but for {} to {}.".format(*lasts) in page
    assert "Now it has {} to {}.".format(*pool1) in page


def test_what_the_page_says_of_controls_without_noise_in_the_images_was_measured() -> None:
    found = runs_of_controls("controls")
    robust = [read_card(network).objective["threat_model"]["eps"] for network in list(TRAINED)[1:]]
    assert robust == [0.3, 0.3]
    without = {eps: [found[network, eps, 0.0, 300] for network in TRAINED] for eps in (0.2, 0.3)}
    assert [[held(runs, "smooth") for runs in of] for of in without.values()] == [[5, 3, 4], [3, 0, 0]]
    pgd = without[0.3][1]
    assert all(max(run["layers"], key=lambda row: row["attack"]["value"])["name"] == "pool1" for run in pgd)
    assert whole(100 * value for value in of_layer(pgd, "pool1", "attack")) == (14, 18)
    every = [run for runs in found.values() for run in runs]
    beyond = [run for run in every if run["eps"] == 0.4]
    assert {tuple(run["failed"]) for run in beyond} == {("foreign", "noise", "smooth")}
    assert max(run["accuracy"]["judge_adversarial"] for run in beyond) == pytest.approx(0.4, abs=5e-3)
    assert min(run["controls"]["positive_least"] for run in every) == pytest.approx(0.995, abs=5e-4)
    right = {
        (network, noise): np.mean([[row["natural"] for row in run["layers"]] for run in runs], axis=0)
        for (network, eps, noise, steps), runs in found.items() if (eps, steps) == (0.2, 300)
    }  # fmt: skip
    moved = max(np.abs(right[network, 0.3] - right[network, 0.0]).max() for network in TRAINED)
    page = " ".join((ROOT / "docs" / "method.md").read_text().split())
    assert f"changes by {100 * moved:.1f} points at most, up or down," in page


def test_one_generator_for_all_layers_is_faster_and_blames_the_same() -> None:
    result = read("benchmarks/shared_trunk.json")
    trunk = result["shared"]["steps"] * result["shared"]["fp32_step_seconds"]
    for variant in result["one_by_one"].values():
        assert variant["speedup"] == pytest.approx(variant["seconds"] / result["shared"]["seconds"])
        assert variant["speedup"] > variant["seconds"] / trunk > 1
        assert variant["same_top"]
        assert variant["spearman"] > 0.85


def test_what_a_gpu_did_is_told_as_it_was() -> None:
    page, record = (ROOT / "docs" / "results.md").read_text(), read("benchmarks/gpu.json")
    checks, lenet = record["checks"], record["checks"]["lenet5_mnist"]
    stages = lenet["stages"]
    vgg, rows = checks["vgg16_cifar10"], checks["throughput"]["rows"]
    assert (record["card"], record["small"]) == ("NVIDIA H200", False)
    assert {name for name, check in checks.items() if not check["done"]} == {"wrn_28_10"}
    assert not checks["agreement"]["agrees"]
    times = [f"{1000 * row['step_seconds']:.0f}" for row in rows]
    shares = [100 * row["share_of_matmul_peak"] for row in rows]
    for told in (
        f"by {checks['agreement']['mean_differences']['explanations']:.3f} of the range",
        f"images by {checks['agreement']['mean_differences']['adversarial']:.4f}",
        f"the judge {stages['judge']:.0f} of them, the generator {stages['generator-0']:.0f}",
        f"LeNet-5 on MNIST took {lenet['seconds']:.0f} s",
        f"decoders and probes {stages['information']:.0f}, the reading {stages['diagnosis']:.0f}.",
        f"took {vgg['seconds']:.0f} s at the {vgg['layers']} layers",
        f"{vgg['stages']['let in']:.0f} of them to mend",
        f"takes {times[0]} ms at 8 images a layer, {times[1]} at 32 and {times[2]} at 96",
        f"{min(shares):.0f} to {max(shares):.0f} % of the",
        f"{checks['throughput']['machine']['matmul_gflops']['bf16'] / 1000:.0f} TFLOP/s",
    ):
        assert told in page.replace("\n  ", " ")
    assert (lenet["flags"], len(lenet["natural"])) == ([], 12)


def test_planted_networks_on_photographs_are_told_as_they_were() -> None:
    page, summary = (ROOT / "docs" / "planted.md").read_text(), read("planted-cifar10/planted.json")
    assert "with 8 of 52 networks" in page
    assert (summary["counts"]["planned"] - summary["counts"]["missing"], summary["counts"]["planned"]) == (8, 52)
    assert summary["counts"]["unverified"] == {"natural": 3, "robust": 1}
    files = (RESULTS / "planted-cifar10" / "records").rglob("*.json")
    found = [record for record in map(json.loads, map(Path.read_text, files)) if record["status"] == "diagnosed"]
    values = [record["columns"]["vulnerability"]["values"] for record in found]
    blamed = [record["layers"][one.index(max(one))] for record, one in zip(found, values, strict=True)]
    assert [[layer] for layer in blamed] == [record["planted"] for record in found]
    assert {*blamed} == {"conv1_1", "conv2_1", "pool2", "conv3_1"}
    highest, second = ([round(100 * sorted(one)[place]) for one in values] for place in (-1, -2))
    assert f"by {min(highest)} to {max(highest)} points; the next layer has {min(second)} to {max(second)}" in page
    assert sorted(sum(record["unreliable"]) for record in found) == [19, 19, 20, 20]
    failed = [flag for record in found for flag in record["flags"] if flag["code"] == "noise_control_failed"]
    (worst,) = [flag for flag in failed if "conv2_1" in flag["details"]["layers"] and flag["value"] > 0.1]
    assert (len(failed), worst["details"]["layers"]) == (4, "conv2_1, pool2, relu4_1")
    assert f"by up to {100 * worst['value']:.0f} points)" in page
    assert [record["lets_in"] for record in found].count(None) == 2
    right = {name: score["top"]["right"] for name, score in summary["questions"]["turns"]["scores"].items()}
    assert {name for name, count in right.items() if count == 4} == {
        "vulnerability", "linear_probe", "mlp_probe", "secant_lipschitz"
    }  # fmt: skip
    assert max(count for count in right.values() if count < 4) == 2


MISSED = ["residual/twin/conv1/0", "residual/substitution/conv1/0"]  # by the let-in score


def test_what_the_page_on_plants_says_of_its_records() -> None:
    page, summary = (ROOT / "docs" / "planted.md").read_text(), read("planted/planted.json")
    files = (RESULTS / "planted" / "records").rglob("*.json")
    now = {record["key"]: record for record in map(json.loads, map(Path.read_text, files))}
    diagnosed = {key for key, record in now.items() if record["status"] == "diagnosed"}
    assert len(diagnosed) == summary["counts"]["diagnosed"]

    one = [now[key] for key in diagnosed if len(now[key]["planted"]) == 1]
    for question, said, last in (("turns", "named", "in {} of them"), ("let in", "lets_in", "in all {}")):
        known = [record for record in one if record["truth"].get(question)]
        named = [([record[said]] if said == "lets_in" else record[said], record) for record in known if record[said]]
        wrong = [record for layers, record in named if layers != record["truth"][question][: len(layers)]]
        assert {record["key"] for record in wrong} == set([] if question == "turns" else MISSED)
        words = f"is known {last.format(len(known))}. The sentence names a layer in {len(named)}, the planted one "
        assert words + ("each time." if not wrong else f"in {len(named) - len(wrong)}.") in page
    mended = [
        f"{100 * dict(zip(now[key]['layers'], now[key]['columns']['let_in']['values'], strict=True))[name]:.0f} %"
        for key in MISSED for name in ("conv1", "block1.layer.0")
    ]  # fmt: skip
    assert "mending `conv1` brings\n  {} back, mending `block1.layer.0` {}; ".format(*mended[:2]) in page
    assert "swapped (the substitution), {} and {}.".format(*mended[2:]) in page
    leads = {}
    for layers, record in named:
        highest, next_one = sorted(record["columns"]["let_in"]["values"])[:-3:-1]
        leads[record["key"]] = 100 * (highest - next_one)
        assert layers == (["block1.layer.0"] if record["key"] in MISSED else record["planted"])
    assert "The leads, {:.0f} and {:.0f} points,".format(*(leads.pop(key) for key in MISSED)) in page
    assert f"the least lead is {min(leads.values()):.1f} points." in page

    calm = [now[key] for key in sorted(diagnosed) if not now[key]["planted"]]
    noisy = read("planted/image_noise.json")["networks"]
    told_of = [[record["named"] for record in calm], [noisy.get(r["key"], r)["named"] for r in calm]]
    assert not any(layers for named in told_of for layers in named)
    tops = [100 * max(r["columns"]["vulnerability"]["values"]) for r in calm]
    assert f"no sentence names a layer. Their largest V is {min(tops):.1f} to {max(tops):.1f} points" in page
    assert (len(calm), {record["lets_in"] for record in calm}) == (7, {None})

    two = {name: summary["questions"][question]["scores"][name]["two"] for question, name in (
        ("turns", "vulnerability"), ("let in", "let_in")
    )}  # fmt: skip
    V, let_in = two["vulnerability"], two["let_in"]
    assert f"on top in {V['right']} of {V['networks']}, the let-in score in {let_in['right']}." in page
    points = [
        {name: f"{100 * value:.0f}" for name, value in zip(
            now[key]["layers"], now[key]["columns"]["vulnerability"]["values"], strict=True
        )}
        for key in ("lenet5-max-pgd/two/relu1+fc1/0", "mnist-wide/two/pool1+fc1/0")
    ]  # fmt: skip
    max_pgd, wide = points
    told = f"`relu1` has {max_pgd['relu1']} points, and `fc1`, with {max_pgd['fc1']}, comes after `relu2`, with "
    assert (
        told + f"{max_pgd['relu2']}; in `mnist-wide` `pool1` has {wide['pool1']}, and `fc1`, with {wide['fc1']}" in page
    )

    shorter = read("planted/two_hundred_steps.json")["networks"]
    both = diagnosed & shorter.keys()
    assert f"\n{len(both)} of the networks below were diagnosed after 200 steps" in page
    readable, alone = [], []
    for records in (shorter, now):
        rows = [right >= records[key]["image"] - 0.05 for key in both for right in records[key]["natural"]]
        readable.append(f"{sum(rows)} of {len(rows)}")
        alone.append(sum(len(records[key]["named"]) == 1 for key in both))
    assert f"{readable[0]} rows had natural" in page
    assert f"and {readable[1]} have after 300." in page
    assert f"The sentence named one layer alone in {alone[0]}, and does in {alone[1]} now." in page


def test_what_was_planned_and_not_measured_is_told() -> None:
    assert "information_loss" not in read("planted/planted.json")["questions"]["turns"]["scores"]
    assert "Information loss was not measured in these records" in (ROOT / "docs" / "planted.md").read_text()


def test_what_mending_the_blamed_layer_gains_is_told_as_it_was_measured() -> None:
    study, page = read("studies/repair-controls/study.json"), (ROOT / "docs" / "results.md").read_text()
    rows = ("none fine-tuned", "the layer that is cleared, .*", "one that is drawn", "another of about its size")
    for row, verdict in zip((*rows, "the best of all layers, .*"), study["verdicts"], strict=True):
        gain, low, high = (100 * verdict[key] for key in ("measured", "low", "high"))
        told = re.escape(f"{gain:+.1f} [{low:+.1f}, {high:+.1f}] | {verdict['verdict']} |")
        assert re.search(rf"\n\| {row} \| {told}\n", page), row
    runs = {
        (run["seed"], run["variant"], *run["result"].get("repaired", {"layers": ()})["layers"]): run["result"]
        for run in study["runs"]
    }
    worse, agree, instead = list[float](), list[float](), list[float]()
    for seed in range(5):
        before = runs[seed, "untouched"]
        units = before["units"]
        blamed = max(units, key=lambda unit: unit["let_in"])
        assert (blamed["name"], blamed["size"], sum(unit["size"] for unit in units)) == ("conv1", 156, 61706)
        left = [runs[seed, "finetune-best", unit["name"]]["accuracy"]["worst_case"]["value"] for unit in units]
        gains = [value - before["accuracy"]["worst_case"]["value"] for value in left]
        worse.append(round(100 * (max(gains) - gains[0]), 1))
        for kind, found in (("let_in", agree), ("vulnerability", instead)):
            found.append(round(float(spearmanr([unit[kind] for unit in units], gains).statistic), 1))
    assert worse == [0, 0, 0, 1.5, 0]
    assert "the best of all layers in four networks; in the fifth\n`conv2` gains 1.5 points more" in page
    assert sorted(agree) == [0.9, 1, 1, 1, 1]
    assert "Spearman's ρ is 1.0 in four networks, 0.9 in the fifth" in page
    assert f"is {min(instead)} to {max(instead)}: it says where the class turns" in page


def test_which_checks_of_a_plant_could_not_fail_is_told() -> None:
    page = " ".join((ROOT / "docs" / "planted.md").read_text().split())
    files = [file for name in ("planted", "planted-cifar10") for file in (RESULTS / name / "records").rglob("*.json")]
    found = [record for record in map(json.loads, map(Path.read_text, files)) if record["planted"]]
    proofs = [(len(one["planted"]), one["verification"]) for one in found if not one["verification"]["failed"]]
    assert all(proof["mended"] == proof["original_robust"] for _, proof in proofs)
    single, double = ([[value == proof["robust"] for value in proof["alone"].values()]
                       for count, proof in proofs if count == plants] for plants in (1, 2))  # fmt: skip
    same = [unchanged for layers in single for unchanged in layers]
    assert all(same)
    assert f"all {len(proofs)} mended networks are the robust one again, and all {len(same)} other layers are" in page
    assert f"at {[unchanged for layers in double for unchanged in layers].count(False)} layers." in page


def test_what_the_small_benchmark_gave_is_that_of_its_file() -> None:
    text, found = " ".join((ROOT / "docs" / "planted.md").read_text().split()), read("planted/small.json")
    assert f"it took {found['wall_seconds'] / 60:.0f} minutes" in text
    turns, let_in = (
        found["questions"][question]["scores"][ours]["top"]
        for question, ours in (("turns", "vulnerability"), ("let in", "let_in"))
    )
    said = "V blamed the planted layer in {right} of {networks} networks".format(**turns)
    assert f"{said}, the let-in score in {{right}} of {{networks}}.".format(**let_in) in text


def test_the_rows_of_the_readme_on_plants_are_those_of_the_summary() -> None:
    page, summary = (ROOT / "README.md").read_text(), read("planted/planted.json")
    for question, ours, others in (("turns", "vulnerability", "have"), ("let in", "let_in", "has")):
        tops = {name: score["top"] for name, score in summary["questions"][question]["scores"].items()}
        top = tops.pop(ours)
        interval = f"{100 * top['value']:.1f} % [{100 * top['low']:.1f}, {100 * top['high']:.1f}]"
        assert f"| {interval}, {top['right']} of {top['networks']} | yes; " in page
        assert f" {others} {max(each['right'] for each in tops.values())} |" in page
    counts = summary["counts"]
    assert f"a benchmark of {counts['planned']} small networks on MNIST, of which {counts['verified']} passed" in page


def test_what_noise_in_the_images_does_where_no_turn_is_known() -> None:
    page, record = " ".join((ROOT / "docs" / "planted.md").read_text().split()), read("planted/image_noise.json")
    files = [json.loads(file.read_text()) for file in (RESULTS / "planted" / "records").rglob("*.json")]
    known = [one for one in files if one["status"] == "diagnosed" and one["truth"]["turns"] is None]
    plain = {one["key"]: one | {"vulnerability": one["columns"]["vulnerability"]["values"]} for one in known}
    for one in plain.values():
        one["failed"] = [flag for flag in one["flags"] if flag["code"] == "noise_control_failed"]
    noisy, without = record["others"]["networks"], record["others"]["without"]
    assert {*noisy, *without} == {*plain}
    assert not {*noisy} & {*without}
    now = plain | noisy

    def counted(found: dict[str, Any]) -> tuple[int, int, int]:
        rows = [right >= one["image"] - 0.05 for one in found.values() for right in one["natural"]]
        return sum(bool(one["failed"]) for one in found.values()), sum(rows), len(rows)

    (failed, readable, rows), (still, read_now, _) = counted(plain), counted(now)
    tops = [[one["layers"][int(np.argmax(one["vulnerability"]))] for one in (plain[key], noisy[key])] for key in noisy]
    least, most = whole(100 * share for share in without.values())
    assert (
        f"Of the other {len(plain)}, {len(noisy)} have noise, and in {len(without)} it changes {least} to {most} %"
        in page
    )
    assert f"A control fails in {still}, where it failed in {failed}; {read_now} of {rows} rows are read," in page
    assert f"where {readable} were." in page
    assert f"The largest V is at another layer in {sum(a != b for a, b in tops)} of the {len(noisy)}" in page
    alone = [sum(len(one["named"]) == 1 for one in found.values()) for found in (now, plain)]
    assert f"In {alone[0]} the sentence names one alone, where it did in {alone[1]}." in page


def test_noise_in_the_images_lets_more_sentences_name_a_layer() -> None:
    page, record = " ".join((ROOT / "docs" / "planted.md").read_text().split()), read("planted/image_noise.json")
    files = [json.loads(file.read_text()) for file in (RESULTS / "planted" / "records").rglob("*.json")]
    plain = {
        one["key"]: {
            **one, "vulnerability": one["columns"]["vulnerability"]["values"],
            "failed": [flag for flag in one["flags"] if flag["code"] == "noise_control_failed"],
        }
        for one in files if one["status"] == "diagnosed" and one["truth"]["turns"] is not None
    }  # fmt: skip
    noisy, without = record["networks"], record["without"]
    assert {*noisy, *without} == {*plain}
    assert not {*noisy} & {*without}
    least, most = whole(100 * share for share in without.values())
    assert f"known in {len(plain)} of the networks below" in page
    assert f"{len(noisy)} have noise. In four it changes {least} to {most} % of the predictions" in page
    assert len(without) == 4
    now = plain | noisy

    def on_top(found: dict[str, Any], count: int) -> list[bool]:
        keys = [key for key in plain if len(plain[key]["planted"]) == count]
        ranked = [sorted(zip(found[key]["vulnerability"], found[key]["layers"], strict=True)) for key in keys]
        return [
            {name for _, name in rows[-count:]} == {*plain[key]["truth"]["turns"]}
            for key, rows in zip(keys, ranked, strict=True)
        ]

    assert f"planted layer in {sum(on_top(now, 1))} of {len(on_top(now, 1))} again." in page
    both = f"on top in {sum(on_top(now, 2))} of {len(on_top(now, 2))}, where they were in {sum(on_top(plain, 2))}:"
    assert both in page
    failed, still = (sum(bool(one["failed"]) for one in found.values()) for found in (plain, now))
    assert f"A control fails in {still} of the {len(plain)}, where it failed in {failed}." in page
    one = [key for key in plain if len(plain[key]["planted"]) == 1]
    named = [{key for key in one if found[key]["named"]} for found in (now, plain)]
    assert all(now[key]["named"] == plain[key]["planted"] for key in named[0])
    said = f"names a layer in {len(named[0])} of the {len(one)}, where it named one in {len(named[1])}, the planted one"
    assert said in page
    assert (len(named[0] - named[1]), len(named[1] - named[0])) == (5, 2)
    assert all(now[key]["failed"] for key in named[1] - named[0])
    read_right = {
        (sum(right >= each["image"] - 0.05 for each in found.values() for right in each["natural"]),
         sum(len(each["natural"]) for each in found.values()))
        for found in (plain, now)
    }  # fmt: skip
    assert [f"{right} of {rows} rows." in page for right, rows in read_right] == [True]
    ((key, anyway),) = record["anyway"].items()
    values = [each["vulnerability"][each["layers"].index("conv2")] for each in (plain[key], anyway)]
    assert f"`conv2` of `mnist-wide`, falls from {100 * values[0]:.0f} points to {100 * values[1]:.0f}." in page
    assert key in without


def test_few_planted_records_name_a_layer_whose_loss_is_won_back() -> None:
    page, silent = (ROOT / "docs" / "planted.md").read_text(), dict[str, int]()
    for file in (RESULTS / "planted" / "records").rglob("*.json"):
        if not (one := json.loads(file.read_text())).get("named"):
            continue
        found, readable = one["columns"]["vulnerability"], [name not in one["unreliable"] for name in one["layers"]]
        survival, low = -np.cumsum(found["values"]), dict(zip(one["layers"], found["low"], strict=True))
        for at, name in enumerate(one["layers"][:-1]):
            back = max([0.0, *(survival - survival[at])[at + 1 :][readable[at + 1 :]]])
            if name in one["named"] and low[name] <= back:
                silent[one["key"]] = len(one["named"])
    assert [*silent.values()] == [4, 4], silent
    assert "Two sentences name four layers together, and\nwould name none now," in page


def test_a_trunk_that_looks_again_blames_the_same_layers() -> None:
    page, found = (
        " ".join((ROOT / "docs" / "planted.md").read_text().split()),
        read("planted/look_again.json")["networks"],
    )
    files = [json.loads(file.read_text()) for file in (RESULTS / "planted" / "records").rglob("*.json")]
    plain = {
        one["key"]: {**one, "failed": [flag for flag in one["flags"] if flag["code"] == "noise_control_failed"]}
        for one in files if one["status"] == "diagnosed"
    }  # fmt: skip
    before = {key: read("planted/image_noise.json")["networks"].get(key, plain.get(key)) for key in found}
    none, one, two = ([key for key in found if len(found[key]["planted"]) == count] for count in range(3))

    def on_top(score: str, question: str, keys: list[str], count: int) -> int:
        ranked = [sorted(zip(found[key][score], found[key]["layers"], strict=True))[-count:] for key in keys]
        truths = [{*found[key]["truth"][question]} for key in keys]
        return sum({name for _, name in rows} == truth for rows, truth in zip(ranked, truths, strict=True))

    def readable(all_of: Iterable[dict[str, Any]]) -> int:
        return sum(right >= each["image"] - 0.05 for each in all_of for right in each["natural"])

    rows = sum(len(each["natural"]) for each in found.values())
    named, named_before = (sum(bool(all_of[key]["named"]) for key in one) for all_of in (found, before))
    assert all(found[key]["named"] in ([], found[key]["planted"]) for key in one)
    assert all(found[key]["lets_in"] in (None, *found[key]["planted"]) for key in one)
    assert not any(found[key]["named"] for key in none)
    failed = [sum(bool(all_of[key]["failed"]) for key in found) for all_of in (found, before)]
    for told in (
        f"{len(found)} of these 40 networks, ",
        f"planted layer in {on_top('vulnerability', 'turns', one, 1)} of {len(one)} again,",
        f"the let-in score, in {on_top('let_in', 'let in', one, 1)} of {len(one)}.",
        f"both on top in {on_top('vulnerability', 'turns', two, 2)} of {len(two)},",
        f"the let-in score in {on_top('let_in', 'let in', two, 2)}.",
        f"A control fails in {failed[0]}, where it failed in {failed[1]}.",
        f"names a layer in {named} of the {len(one)}, where it named one in {named_before},",
        f"{readable(found.values())} of {rows} rows are read, where {readable(before.values())} were.",
    ):
        assert told in page, told


def test_what_the_page_on_plants_says_of_noise_of_any_share_was_measured() -> None:
    page = " ".join((ROOT / "docs" / "planted.md").read_text().split())
    now, before = (read(f"planted/{name}.json")["networks"] for name in ("any_share", "look_again"))
    none, one, two = ([key for key in now if len(now[key]["planted"]) == count] for count in range(3))

    def on_top(found: dict[str, Any], keys: list[str], count: int) -> int:
        ranked = {key: sorted(zip(found[key]["vulnerability"], found[key]["layers"], strict=True)) for key in keys}
        return sum({name for _, name in ranked[key][-count:]} == {*found[key]["planted"]} for key in keys)

    def failing(found: dict[str, Any]) -> list[str]:
        return [key for key in now if found[key]["failed"]]

    noisy, read_right, named = (
        [sum(map(counted, (found[key] for key in keys))) for found in (now, before)]
        for counted, keys in (
            (lambda each: each["image_noise"] > 0, [*now]),
            (lambda each: sum(right >= each["image"] - 0.05 for right in each["natural"]), [*now]),
            (lambda each: bool(each["named"]), one),
        )
    )
    assert not any(now[key]["image_noise"] for key in failing(now))
    anyway = read("planted/any_share.json")["anyway"]
    assert on_top(anyway, [*anyway], 1) == len(anyway) == 5
    assert {key for key in anyway if anyway[key]["failed"]} < {*failing(now)}
    moved, without = (
        whole(100 * found[key]["failed"][0]["value"] for key in anyway if anyway[key]["failed"])
        for found in (anyway, now)
    )
    assert "moves other layers by {} to {} points in three, where it is {} without.".format(*moved, without[0]) in page
    assert without[0] == without[1]
    rows = sum(len(each["natural"]) for each in now.values())
    assert all(now[key]["named"] in ([], now[key]["planted"]) for key in one)
    assert not any(now[key]["named"] for key in none)
    for told in (
        f"{len(now)} of these networks, LeNets",
        f"planted layer in {on_top(now, one, 1)} of {len(one)} again.",
        f"both on top in {on_top(now, two, 2)} of {len(two)}, where it was {on_top(before, two, 2)}.",
        f"{noisy[0]} have noise, where {noisy[1]} had.",
        f"A control fails in {len(failing(now))}, none of which has noise, where it failed in {len(failing(before))}.",
        f"names a layer in {named[0]} of the {len(one)}, where it named one in {named[1]},",
        f"{read_right[0]} of {rows} rows are read, where {read_right[1]} were.",
    ):
        assert told in page, told


def test_what_the_page_on_plants_says_of_two_ways_in_was_measured() -> None:
    page, found = (
        (ROOT / "docs" / "planted.md").read_text(),
        list(read("planted/two_ways_in.json")["networks"].values()),
    )
    none, one, two = ([each for each in found if len(each["planted"]) == count] for count in range(3))

    def both(names: Iterable[str], each: dict[str, Any]) -> bool:
        return {*names} == {*each["planted"]}

    best = sum(both(each["pair"]["layers"], each) for each in two)
    ranked = [sorted(zip(each["let_in"], each["layers"], strict=True))[-2:] for each in two]
    alone = sum(both([name for _, name in rows], each) for rows, each in zip(ranked, two, strict=True))
    named = [each for each in two if len(each["named"]) == 2]
    assert all(both(each["named"], each) for each in named)
    single = [each for each in two if len(each["named"]) == 1]
    assert all({*each["named"]} < {*each["planted"]} for each in single)
    assert not any(each["named"] for each in none)
    assert all(each["named"] in ([], each["planted"]) for each in one)
    silent = [each for each in one if not each["named"]]
    close = [100 * each["pair"]["lead"]["value"] for each in silent if each["pair"]["lead"]["low"] > 0]
    sure = [100 * each["pair"]["lead"]["value"] for each in named]
    for told in (
        f"the two that bring back most are the planted ones in {best} of {len(two)}, ",
        f"the scores of single layers have both on top in {alone}.",
        f"The sentence names both in {len(named)}, one of them alone in {len(single)}, and no other layer.",
        f"Without a plant none is named, in {len(none)} of {len(none)}.",
        f"no second layer is named, in {len(one)} of {len(one)}; in {len(silent)} none is at all.",
        f"by {min(close):.0f} points more" if len(close) == 1 else f"{min(close):.0f} and {max(close):.0f} points",
        f"Those that are named have {min(sure):.0f} points or more.",
    ):
        assert told in page, told


def test_how_often_intervals_hold_and_the_null_errs_is_told_as_it_was_measured() -> None:
    method, studies = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("method", "studies"))
    measured = read("benchmarks/coverage.json")["rows"]

    def held(generators: int, examples: int, figure: str, rule: str = "now") -> float:
        rows = [row[rule] for row in measured if (row["generators"], row["examples"]) == (generators, examples)]
        return float(np.mean([row[figure]["covered"] for row in rows if figure in row]))

    for count in range(1, 6):
        shares = [held(count, 1000, figure) for figure in ("vulnerability", "survival", "share", "bits")]
        shares.append(held(count, 1000, "vulnerability", "before"))
        found = re.search(rf"\n\| {count} \| (0\.9.*) \|\n", method)
        assert found is not None
        np.testing.assert_allclose([float(cell) for cell in found[1].split(" | ")], shares, atol=5.1e-4)
    ends = [[f(held(count, 300, figure) for count in range(1, 6)) for f in (min, max)]
            for figure in ("vulnerability", "natural", "bits")]  # fmt: skip
    page = " ".join(method.split())
    assert "images V holds in {:.3f} to {:.3f}, and the share that is right".format(*ends[0]) in page
    assert "natural explanations, which is near one, in {:.3f} to {:.3f}.".format(*ends[1]) in page
    assert "their intervals hold in {:.2f} to {:.2f} of cases".format(*ends[2]) in method
    rows = read("benchmarks/smooth_profiles.json")["rows"]
    names = {"independent": "independent layers", "autoregressive": "autoregressive, 0.8",
             "mean of five": "mean of five neighbours", "one peak": "one peak"}  # fmt: skip
    for row in rows:
        if row["layers"] == 11:
            cells = " | ".join(f"{row[figure]:.3f}" for figure in ("errs", "before_errs", "finds"))
            assert f"| {names[row['kind']]} | {cells} |" in studies
    most, before = (100 * max(row[figure] for row in rows) for figure in ("errs", "before_errs"))
    assert f"it errs in 0 to {most:.0f} % (permutations: up to {before:.0f} %)" in studies
    holds = {row["holds"]: row["kind"] for row in rows}
    assert f"mean correlation in {100 * min(holds):.0f} to {100 * max(holds):.0f} % of cases" in studies
    assert holds[min(holds)] == "one peak"


def test_start_and_limit_keep_a_training_from_collapsing() -> None:
    page = (ROOT / "docs" / "method.md").read_text()
    rows = {
        "as in 0.1": "settings of 0.1, neither start nor limit", "neither start nor limit": "neither",
        "limit alone": "the limit alone", "start alone": "the start alone", "both, the default": "both, the default",
        "both, little noise": "both, less noise before recognition",
    }  # fmt: skip
    found = {(each["network"], each["variant"]): each for each in read("benchmarks/collapse.json")["variants"]}
    assert len(found) == 2 * len(rows)
    for variant, told in rows.items():
        cells = []
        for network in ("a gate at pool2", "plain"):
            layers, error = (found[network, variant].get(kind) for kind in ("layers", "error"))
            if error:
                assert len(found[network, variant]["discriminator_losses"]) == 2
                assert not set(re.findall(r"after (\d+) steps", error)) - {"40", "60"}
                cells.append("zero loss" if "zero loss" in error else "one picture")
            else:
                cells.append(f"{min(layer['natural']['value'] for layer in layers):.2f}")
        assert f"| {told} | {' | '.join(cells)} |" in page

    def losses(variant: str) -> list[float]:
        return list(found["a gate at pool2", variant]["discriminator_losses"][0])

    text = " ".join(page.split())
    assert f"a loss of {max(losses('start alone')[39:]):.3f} at most from the 40th step on" in text
    usual, quieter = (min(losses(variant)[8:]) for variant in ("both, the default", "both, little noise"))
    assert "never falls below 1.185 there after the first eight steps, with less noise not below 0.229" in text
    assert 1.185 <= usual < 1.187
    assert 0.229 <= quieter < 0.23


def test_any_layer_mends_a_network_without_a_plant_and_none_with_one() -> None:
    """What the bound of `LetIn.everywhere` was chosen by."""
    least: dict[bool, list[float]] = {True: [], False: []}
    for file in sorted((RESULTS / "planted" / "records").rglob("*.json")):
        record = json.loads(file.read_text())
        if record["status"] == "diagnosed":
            scores = zip(record["layers"], record["columns"]["let_in"]["values"], strict=True)
            mended = [score for name, score in scores if name.startswith(("conv", "fc"))]
            least[bool(record["planted"])].append(min(mended))
    assert round(max(least[True]), 2) == 0.61 < EVERYWHERE < 0.75 == round(max(least[False]), 2)
    page = (ROOT / "docs" / "planted.md").read_text()
    assert "mends 0.75 to 0.90" in page
    assert "some layer mends 0.61 or less" in page


def test_smoothing_takes_the_checkerboards_away() -> None:
    page, record = (ROOT / "docs" / "method.md").read_text(), read("benchmarks/checkerboards.json")
    image, (smoothed, plain, short) = record["image"], record["variants"].values()
    shown = [layer for layer in smoothed if f"| {layer} |" in page.partition("without checkerboards")[2][:1800]]
    assert len(shown) == 9
    for variant, quantity, form in (
        (smoothed, "checkerboard", ".2f"), (plain, "checkerboard", ".2f"), (smoothed, "error", ".3f"),
        (plain, "error", ".3f"), (smoothed, "right", ".2f"), (plain, "right", ".2f"), (short, "right", ".2f"),
    ):  # fmt: skip
        assert " | ".join(format(variant[layer][quantity], form) for layer in shown) in page
    for layer, found in smoothed.items():
        assert found["checkerboard"] < 1.2 * image["checkerboard"] < plain["fc"]["checkerboard"]
        assert found["error"] < plain[layer]["error"]


def test_smoothing_takes_the_dots_out_of_enlarged_digits() -> None:
    page, record = (ROOT / "docs" / "method.md").read_text(), read("benchmarks/checkerboards_digits.json")
    image, smoothed, plain = record["image"], record["variants"]["smoothed"], record["variants"]["plain"]
    shown = ("conv1", "pool1", "relu2", "pool2", "fc1", "relu3", "fc2", "relu4", "fc3")
    for variant, quantity, form in (
        (smoothed, "checkerboard", ".2f"), (plain, "checkerboard", ".1f"), (smoothed, "error", ".3f"),
        (plain, "error", ".3f"), (smoothed, "right", ".2f"), (plain, "right", ".2f"),
    ):  # fmt: skip
        assert " | ".join(format(variant[layer][quantity], form) for layer in shown) in page
    assert f"in the images the checkerboard is {image['checkerboard']:.2f})" in page
    for layer, found in smoothed.items():
        assert found["checkerboard"] < 1.1 * image["checkerboard"] < plain[layer]["checkerboard"] / 2
        assert found["error"] < plain[layer]["error"]
        assert found["right"] > plain[layer]["right"] - 0.005


def test_smoothing_costs_sharp_digits_what_the_page_says() -> None:
    page = (ROOT / "docs" / "method.md").read_text()
    smooth, usual = (read(f"mnist-lenet5-max/{name}.json") for name in ("smoothed", "without_image_noise"))
    pairs = list(zip(smooth["layers"], usual["layers"], strict=True))
    fewer = max(before["natural"] - after["natural"] for after, before in pairs)
    assert f"up to {100 * fewer:.1f} points fewer" in page
    deep = [[each["value"] for each in record["realism"]["layers"][6:]] for record in (smooth, usual)]
    (least, most), (less, more) = ((f"{abs(min(one)):.2f}", f"{max(one):.2f}") for one in deep)
    assert f"is {least} to {most} in place of {less} to {more}." in page
    tops = [max(record["layers"][1:], key=lambda row: row["vulnerability"]["value"]) for record in (smooth, usual)]
    assert [top["name"] for top in tops] == ["relu3", "relu3"]
    with_it, without = (f"{100 * top['vulnerability']['value']:.0f}" for top in tops)
    assert f"with {with_it} points in place of {without}." in page


def test_the_first_run_on_photographs_said_what_its_history_says() -> None:
    first = read("studies/pooling-photographs/first_run.json")["verdicts"][0]
    history = (RESULTS / "studies" / "pooling-photographs" / "history.md").read_text()
    for row in (first, first["before"]):
        assert f"[{row['low']:+.3f}, {row['high']:+.3f}]" in history


def test_a_better_judge_does_not_mend_the_controls_after_trades() -> None:
    for run in read("studies/information-trades/other_judge.json")["runs"].values():
        assert run["judge"]["adversarial"] > 0.85
        assert run["controls"]["noise_max_abs_vulnerability"] > 0.25
        (back,) = (row["vulnerability"]["high"] for row in run["layers"] if row["name"] == "relu1")
        assert back < -0.1
    for run in read("studies/information-trades/first_run.json")["runs"]:
        assert run["result"]["diagnosis"]["judge"]["adversarial"] < 0.3


def test_another_generator_puts_another_layer_on_top_and_ranks_loss_and_vulnerability_alike() -> None:
    first, second = (read(f"studies/information/{name}.json") for name in ("first_run", "study"))
    tops, networks = [], []
    for study in (first, second):
        results = {run["id"]: run["result"] for run in study["runs"]}
        networks.append({name: result["classifier"]["state_sha256"] for name, result in results.items()})
        best = [max(one["layers"], key=lambda row: float(row["vulnerability"]["value"])) for one in results.values()]
        tops.append(Counter(row["name"] for row in best))
    assert networks[0] == networks[1]
    assert tops == [{"fc1": 10}, {"relu3": 7, "relu4": 3}]
    page = " ".join((ROOT / "docs" / "results.md").read_text().split())
    history = (RESULTS / "studies" / "information" / "history.md").read_text()
    assert "`fc1` contributed most in all ten. Now it is `relu3` in seven and `relu4` in three," in page
    assert "had `fc1` on top in ten of ten networks;" in history
    for study, text in ((first, history), (second, page)):
        for row in study["verdicts"][1:3]:
            assert "{measured:+.3f} [{low:+.3f}, {high:+.3f}]".format(**row) in text


def test_controls_hold_after_trades_on_the_networks_where_they_failed() -> None:
    folder = "studies/information-trades"
    first, second = (
        [run["result"] for run in read(f"{folder}/{name}.json")["runs"]] for name in ("first_run", "study")
    )
    assert [one["classifier"]["state_sha256"] for one in first] == [one["classifier"]["state_sha256"] for one in second]

    def moved(results: list[dict[str, Any]], name: str) -> tuple[int, int]:
        rows = [row for one in results for row in one["layers"] if row["name"] == name]
        return whole(100 * abs(row["vulnerability"]["value"]) for row in rows)

    def noise(results: list[dict[str, Any]]) -> float:
        return max(100 * float(one["diagnosis"]["controls"]["noise_max_abs_vulnerability"]) for one in results)

    def failed(results: list[dict[str, Any]]) -> int:
        return sum("noise_control_failed" in {flag["code"] for flag in one["diagnosis"]["flags"]} for one in results)

    history = (RESULTS / folder / "history.md").read_text()
    method, page = (" ".join((ROOT / "docs" / f"{name}.md").read_text().split()) for name in ("method", "results"))
    assert (failed(first), failed(second), len(first)) == (5, 0, 5)
    told = "by up to {:.0f} points, `conv1` seemed to lose {} to {} points, and `relu1` won back {} to {}."
    assert told.format(noise(first), *moved(first, "conv1"), *moved(first, "relu1")) in history
    (of_image, of_class) = read(f"{folder}/first_run.json")["verdicts"][:2]
    for row in (of_image, of_class):
        assert "{measured:+.3f} [{low:+.3f}, {high:+.3f}]".format(**row) in history
    told = "`conv1` loses {} to {} points, `relu1` wins back {} to {}, and noise moves no layer by more than {:.0f}"
    assert told.format(*moved(second, "conv1"), *moved(second, "relu1"), noise(second)) in method
    tops = {max(one["layers"], key=lambda row: float(row["vulnerability"]["value"]))["name"] for one in second}
    lost = whole(100 * sum(row["vulnerability"]["value"] for row in one["layers"]) for one in second)
    assert tops == {"relu3"}
    told = "lose {} to {} points, most at `relu3` in each of the five, with {} to {}."
    assert told.format(*lost, *moved(second, "relu3")) in page
    row = read(f"{folder}/study.json")["verdicts"][0]
    assert "**: undecided, {measured:+.3f} [{low:+.3f}, {high:+.3f}]. The networks lose".format(**row) in page


def test_a_robust_recognition_network_makes_deep_explanations_readable() -> None:
    result = read("benchmarks/deep_layers.json")
    floor = result["image"]["judge"]["value"] - 0.05
    last = {variant["name"]: variant["layers"]["fc"]["judge"]["value"] for variant in result["variants"]}
    assert last["the method, λ_z = 10"] < floor <= last["robust recognition network, λ_z = 2"]


def test_a_slow_discriminator_tells_explanations_from_images_and_makes_deep_ones_sharper() -> None:
    page, result = (ROOT / "docs" / "method.md").read_text(), read("benchmarks/discriminator.json")
    found = result["variants"]
    for name, variant in found.items():
        right, sharp = [each["value"] for each in variant["judge"]], variant["sharpness"]
        assert f"| predicted right, {name} | {' | '.join(f'{share:.2f}' for share in right)} |" in page
        assert f"| sharpness, {name} | {' | '.join(f'{each:.3f}' for each in sharp)} |" in page
    fast, slow, moved = found.values()
    assert [f"{loss:.2f}" for loss in fast["discriminator_loss"]].count("2.00") * 25 >= 120
    told = (f"{variant['discriminator_loss'][-1]:.2f}" for variant in (fast, slow, moved))
    assert "ends at {} at the same\nrate, {} at a twentieth, {} with momentum".format(*told) in page
    deep = slice(result["layers"].index("pool3"), None)
    assert all(new > old for new, old in zip(moved["sharpness"][deep], fast["sharpness"][deep], strict=True))
    config = moved["config"]
    assert (config["learning_rate"] / config["discriminator_rate"], config["momentum"]) == (20.0, 0.5)


def test_layers_of_photographs_can_be_read() -> None:
    page, folder = (ROOT / "docs" / "results.md").read_text(), RESULTS / "cifar10-vgg-small-max"
    diagnosis = Diagnosis.load(folder)
    image, *layers = diagnosis.layers
    worst = min(layers, key=lambda layer: layer.natural)
    assert worst.natural >= image.natural - 0.05
    assert f"`{worst.name}` is the worst, with {100 * worst.natural:.1f} %." in page
    below = [layer for layer in layers if layer.flags]
    assert [(layer.name, {flag.code for flag in layer.flags}) for layer in below] == [
        ("pool1", {"negative_information"})
    ]
    assert below[0].information_loss is not None
    assert f"hold {-100 * below[0].information_loss.value:.1f} points more" in page
    assert len(layers) == 12
    assert diagnosis.controls["noise_max_abs_vulnerability"] < 0.015
    assert f"The run took {diagnosis.provenance['seconds']['total'] / 60:.0f} minutes" in page
    distances = []
    for name in ("diagnosis", "blind_trunk", "equal_rates", "training_of_0.1"):
        rows = {row["name"]: row for row in json.loads((folder / f"{name}.json").read_text())["layers"]}
        right = ", ".join(f"{100 * rows[layer]['natural']:.1f} %" for layer in ("pool2", "relu3_1", "relu3_2"))
        points = "{value:.1f} [{low:.1f}, {high:.1f}]".format(
            **{key: 100 * (rows["relu4_1"]["vulnerability"][key] or 0) for key in ("value", "low", "high")}
        )
        if rows["fc"].get("realism"):
            distances.append([rows[layer]["realism"]["value"] for layer in ("pool3", "relu4_1", "mean", "fc")])
            points += " | " + ", ".join(f"{distance:.2f}" for distance in distances[-1])
        assert f"| {right} | {points} |" in page
    assert all(new < 0.75 * old for new, old in zip(distances[1][1:], distances[2][1:], strict=True))
    assert [new < 0.75 * old for new, old in zip(distances[0], distances[1], strict=True)] == [True, True, False, True]
    shares = [new / old for new, old in zip(distances[0], distances[3], strict=True)]
    assert shares == pytest.approx([1 / 5, 1 / 2, 3 / 4, 3 / 5], abs=0.02)  # as the page says
    results = [run["result"] for run in read("studies/information-photographs/study.json")["runs"]]
    floors = [result["diagnosis"]["accuracy"]["judge_natural"] - 0.05 for result in results]
    short = [floor - row["natural"] for floor, one in zip(floors, results, strict=True) for row in one["layers"]]
    assert (sum(one <= 0 for one in short), len(short)) == (56, 60)
    assert max(short) < 0.0205
    for result in results:
        for name in ("information_loss", "vulnerability"):
            assert max(result["layers"], key=lambda row: float(row[name]["value"]))["name"] == "relu4_1"
    left_out = [row["unreliable"] for result in results for row in result["layers"] if row["name"] == "relu4_1"]
    assert sum(left_out) == 3


@pytest.mark.parametrize("name", card_names())
def test_a_shipped_classifier_has_its_record(name: str) -> None:
    card, folder = read_card(name), RESULTS / "zoo" / name
    record = read(f"zoo/{name}/classifier.json")
    assert (card.recipe, card.objective, card.training) == (record["recipe"], record["objective"], record["training"])
    evaluation = Evaluation.load(folder / "evaluation")
    assert evaluation.classifier["state_sha256"] == card.state_sha256
    for attack, measured in evaluation.accuracy.items():
        shown = card.figure(attack)
        assert shown is not None
        assert (shown["value"], shown["low"], shown["high"]) == (measured.value, measured.low, measured.high)


def seen_start(name: str) -> dict[str, dict[str, list[float]]]:
    """What was measured at each layer, the mean over seeds, by what the trunk sees."""
    page, runs = (ROOT / "docs" / "method.md").read_text(), read(f"benchmarks/{name}.json")["runs"]
    means: dict[str, dict[str, list[float]]] = {}
    for sees in dict.fromkeys(run["sees"] for run in runs):
        layers = zip(*(run["layers"] for run in runs if run["sees"] == sees), strict=True)
        rows = [{key: float(np.mean([one[key] for one in of])) for key in of[0] if key != "name"} for of in layers]
        means[sees] = {key: [row[key] for row in rows] for key in rows[0]}
        for key in ("error", "latent", "natural"):
            form = ".3f" if key == "latent" and len(rows) == 11 else ".2f"
            assert " | ".join(format(value, form) for value in means[sees][key]) in page
    assert f"{runs[0]['image']:.2f} " in page
    return means


def test_a_trunk_that_sees_its_start_draws_nearer_to_the_image() -> None:
    means = seen_start("seen_start")
    every, grid, nothing = (means[sees] for sees in ("every size", "the grid", "nothing"))
    assert np.less(every["error"], grid["error"]).all()
    assert np.less(grid["error"], nothing["error"]).all()
    assert np.less(every["latent"], grid["latent"])[:-1].all()
    assert np.greater(every["unexplained"], grid["unexplained"])[5:].all()
    np.testing.assert_allclose(every["natural"], grid["natural"], atol=0.01)
    page = (ROOT / "docs" / "method.md").read_text()
    retained = [one["retained"][6] for one in (every, nothing, grid)]
    assert "retains {:.2f}, where it had {:.2f} with nothing seen and {:.2f} with the grid".format(*retained) in page
    photographs = seen_start("seen_start_photographs")
    every, grid = photographs["every size"], photographs["the grid"]
    assert np.less(every["error"], grid["error"]).tolist() == [False] * 3 + [True] * 6
    assert np.less(every["latent"], grid["latent"]).tolist() == [False] * 3 + [True] * 6
    np.testing.assert_allclose(every["unexplained"], grid["unexplained"], atol=0.004)


def test_the_table_of_layers_that_wait_is_that_of_the_file() -> None:
    page, runs = (ROOT / "docs" / "method.md").read_text(), read("benchmarks/waiting.json")["runs"]
    for run in runs:
        assert run["errors"][0] == 0.5
        figures = " | ".join(f"{layer['judge']:.2f}" for layer in run["layers"])
        assert f"from {'an error of ' * (run is runs[0])}{run['errors'][1]} | {figures} |" in page
    first = {layer["name"]: layer["judge"] for layer in runs[0]["layers"]}
    assert " | ".join(f"{layer['latent']:.2f}" for layer in runs[0]["layers"]) in page
    assert (
        f"{runs[0]['images']} test images, of which the judge predicts {runs[0]['judge_of_images']:.3f} right" in page
    )
    near = [name for name, right in first.items() if right >= runs[0]["judge_of_images"] - 0.05]
    others = [right for name, right in first.items() if name not in (*near, "relu5_2", "pool5")]
    assert f"So {len(near)} of {len(first)} layers are within 5 points" in page
    assert len(others) == 8
    assert f"read in {100 * min(others):.0f} to {100 * max(others):.0f} % of the cases" in page


def test_the_tables_of_patches_are_those_of_the_file() -> None:
    page, result = (ROOT / "docs" / "method.md").read_text(), read("benchmarks/patches.json")
    rows: dict[tuple[str | None, bool], list[str]] = {}
    for kind in ("sizes", "networks"):
        for found in result[kind]:
            shares = [layer["natural"]["value"] for layer in found.get("layers", [])[1:]]
            figures = [f"{share:.2f}" for share in shares] or [f"{np.mean(found['errors']):.3f}"]
            rows.setdefault((found.get("data"), found["patches"]), []).extend(figures)
    for (_, patches), figures in rows.items():
        assert f"| {'with patches' if patches else 'without'} | {' | '.join(figures)} |" in page


def test_the_tables_of_diversity_are_those_of_the_file_and_draws_vary_where_they_should() -> None:
    page, variants = (ROOT / "docs" / "method.md").read_text(), read("benchmarks/diversity.json")["variants"]
    shares, right = dict[str, list[float]](), dict[str, list[float]]()
    for name, layers in variants.items():
        shares[name] = [layer["varies"] / layer["left_open"] for layer in layers]
        right[name] = [layer["natural"]["value"] for layer in layers]
        misses = [layer["misses"] for layer in layers]
        for figures, form in ((shares[name], ".2f"), (right[name], ".3f"), (misses, ".2f")):
            assert f"| {name} | {' | '.join(format(figure, form) for figure in figures)} |" in page
    longer = ("100, 1,000 steps", "100, 1,500 steps, held", "50, 1,500 steps, held", "the same, another seed")
    assert [sum(0.75 <= share <= 1.25 for share in shares[name]) for name in longer] == [8, 10, 10, 10]
    text = " ".join(page.split())
    held = [share for name in longer[2:] for share in shares[name][1:]]
    assert f"vary by {100 * min(held):.0f} to {100 * max(held):.0f} % of what they leave open" in text
    first = [100 * shares[name][0] for name in longer[2:]]
    assert f"`conv1` varies by {min(first):.0f} and {max(first):.0f} %" in text
    price = [100 * np.subtract(right["0, the default"], right[name]).max() for name in longer]
    assert f"{price[2]:.1f} points of readability at most, with another seed {price[3]:.1f}" in text
    assert f"With a weight of 100 it is {price[1]:.1f} points" in text


@pytest.mark.parametrize("network", ["wrn-16-1", "vit-small"])
def test_the_table_of_branches_is_that_of_its_file(network: str) -> None:
    page = (ROOT / "docs" / "results.md").read_text()
    split = [layer for layer in Diagnosis.load(RESULTS / "branches" / network).layers if layer.branches]
    assert len(split) == 6
    for layer in split:
        shares = [(branch.name, branch.vulnerability) for branch in layer.branches]
        parts = [f"{name} {100 * v.value:+.1f} [{100 * v.low:.1f}, {100 * v.high:.1f}]" for name, v in shares]
        own = layer.vulnerability
        whole = f"{100 * own.value:+.1f} [{100 * own.low:.1f}, {100 * own.high:.1f}]"
        assert f"| {layer.name} | {100 * layer.natural:.1f} % | {whole} | {'; '.join(parts)} |" in page


def test_what_the_page_says_of_a_residual_network_is_that_of_its_file() -> None:
    page = " ".join((ROOT / "docs" / "results.md").read_text().split())
    found = Diagnosis.load(RESULTS / "branches" / "wrn-16-1")
    image, *layers = found.layers
    (worst,) = [layer for layer in layers if layer.natural < image.natural - 0.05]
    assert f"`{worst.name}` misses by {100 * (image.natural - 0.05 - worst.natural):.1f}." in page
    assert f"predicts {100 * image.natural:.1f} % of the images right" in page
    top = max(layers, key=lambda layer: layer.vulnerability.value)
    assert answer(found).layers == (top.name,)
    share = "{:.0f} points [{:.0f}, {:.0f}] of survival".format(
        *(100 * value for value in (top.vulnerability.value, top.vulnerability.low, top.vulnerability.high))
    )
    assert f"`{top.name}` contributes most: {share}" in page
    assert f"{100 * max(branch.vulnerability.value for branch in top.branches):.0f} points of it in its branch" in page
    assert not failed_kinds(found.layers, found.accuracy)
    moved = max(found.controls[f"{name}_max_abs_vulnerability"] for name in ("noise", "smooth", "foreign"))
    assert f"moves no layer by more than {100 * moved:.1f} points" in page
    seconds = found.provenance["seconds"]
    told = "it took {:.0f} minutes on one of two cores that were busy with other work, {:.0f} of them for the generator"
    assert told.format(seconds["total"] / 60, seconds["generator-0"] / 60) in page


def test_the_table_of_128_pixels_is_that_of_its_file() -> None:
    page, found = (ROOT / "docs" / "results.md").read_text(), Diagnosis.load(RESULTS / "shapes" / "128")
    layers, text = found.layers[1:], " ".join(page.split())
    for head, cells in (
        ("", [layer.name for layer in layers]),
        ("natural, %", [f"{100 * layer.natural:.1f}" for layer in layers]),
        ("vulnerability, points", [f"{100 * layer.vulnerability.value:+.1f}" for layer in layers]),
    ):
        assert f"| {head} | {' | '.join(cells)} |".replace("|  |", "| |") in page
    image = found.layers[0].natural
    assert f"predicts {100 * image:.1f} % of the images right" in text
    assert f"at {sum(layer.natural >= image - 0.05 for layer in layers)} of the 14 layers within five points" in text
    names = {layer.name: image - 0.05 - layer.natural for layer in layers if layer.natural < image - 0.05}
    assert f"by {100 * names.pop('layer1.0'):.1f}, and `layer1.1` by {100 * names.pop('layer1.1'):.1f}" in text
    assert not names
    most = next(layer for layer in layers if layer.name == "layer1.0").vulnerability
    assert "{:.1f} points [{:.1f}, {:.1f}]".format(*(100 * v for v in (most.value, most.low, most.high))) in text
    assert most.value == max(layer.vulnerability.value for layer in layers)
    least = min(layer.natural for layer in layers)
    assert f"at least {100 * least:.1f} % are predicted right" in (ROOT / "docs" / "method.md").read_text()
    noise = max(abs(found.controls[f"{name}_max_abs_vulnerability"]) for name in ("noise", "smooth", "foreign"))
    assert f"within {100 * noise:.1f} points" in text
    assert f"the positive control has {100 * found.controls['positive_least']:.0f} % at least" in text
    assert f"the rest took {found.provenance['seconds']['total'] / 60:.0f} minutes" in text


def test_the_tables_of_explainers_are_those_of_the_file() -> None:
    page, record = (ROOT / "docs" / "features.md").read_text(), read("benchmarks/explainers.json")

    def cell(found: dict[str, float]) -> str:
        return "{value:.2f} [{low:.2f}, {high:.2f}]".format(**found)

    def has(*cells: str) -> None:
        assert f"| {' | '.join(cells)} |" in page

    moved = {"the perturbation itself": record["perturbation"]}
    assert [name for name, found in record["methods"].items() if "refused" in found] == ["CAM"]
    for name, found in record["methods"].items():
        if "refused" in found:
            continue
        shown = (*(found["natural"][way] for way in ("deletion", "insertion")), found["judged"]["deletion"])
        cells = (*shown, found["attacked"]["deletion"], found["random_weights"]["conv1"])
        has(name, *map(cell, cells), f"{1000 * found['seconds_per_image']:.2g}")
        moved[name] = found["moves"]
    assert [
        name
        for name, found in record["methods"].items()
        if found.get("random_weights", {}).get("conv1", {}).get("undefined")
    ] == ["Grad-CAM"]
    figures = ("right", "shown", "apart", "apart_attacked", "kernel_distance")
    themselves = record["drawn"].pop("the images themselves")
    has("the images themselves", "", *(cell(themselves[name]) for name in figures))
    for name, layers in record["drawn"].items():
        for layer, found in layers.items():
            has(name, layer, *(cell(found[figure]) for figure in figures))
            broken = [each[name][layer] for each in record["random_weights"].values()]
            left = [f"{each['agrees']['value']:.2f}, {each['right']['value']:.2f}" for each in broken]
            has(name, layer, *left, f"{found['of_another_image']['value']:.2f}")
            moved[f"{name}, {layer}"] = found["moves"]
    for name, found in moved.items():
        has(name, cell(found["own"]), cell(found["another"]))
    apart = {name: found["own"]["value"] - found["another"]["value"] for name, found in moved.items()}
    assert max(apart, key=lambda name: apart[name]) == "the perturbation itself"
    ours, best = ([apart[name] for name in apart if name.startswith(kind)] for kind in ("ours", ("int", "Deep", "occ")))
    assert f"{min(ours):.2f} to {max(ours):.2f}, and the decoders'" in page
    assert f"occlusion do so by {min(best):.2f} to {max(best):.2f}," in " ".join(page.split())


def test_the_table_of_ways_is_that_of_the_file_and_its_controls_fail() -> None:
    page, layers = (ROOT / "docs" / "features.md").read_text(), read("benchmarks/counterfactual.json")["layers"]
    for way in layers["fc1"]["ways"]:
        found = [layer["ways"][way] for layer in layers.values()]
        cells = ["{:.1f} % [{:.1f}, {:.1f}]".format(*(100 * share[name] for name in ("value", "low", "high")))
                 for share in found]  # fmt: skip
        assert f"| {way} | {' | '.join(cells)} |" in page
    for layer in layers.values():
        ways = layer["ways"]
        assert min(share["network"] for share in list(ways.values())[:4]) >= 0.99 - 1e-6
        controls = max(ways[name]["high"] for name in ("random weights", "random direction"))
        assert controls < 0.5 < ways["ten nearest"]["low"]
        assert 1.195 < ways["mean of the class"]["length"] < 1.395


def test_the_tables_of_patching_are_those_of_the_file() -> None:
    page, networks = (ROOT / "docs" / "features.md").read_text(), read("benchmarks/patching.json")["networks"]

    def cell(share: dict[str, float]) -> str:
        return "{:.1f} % [{:.1f}, {:.1f}]".format(*(100 * share[name] for name in ("value", "low", "high")))

    for network in networks.values():
        for layer in network["layers"]:
            shares = [*(layer["returned"][order] for order in ORDERS), layer["turned"][ORDERS[0]]]
            row = [layer["name"], str(layer["units"]), str(layer["tenth"]), *map(cell, shares)]
            assert f"| {' | '.join(row)} |" in page
            assert layer["completeness"]["largest_error"] < 1e-3
    (blamed,) = (layer for layer in networks["lenet5-max"]["layers"] if layer["name"] == "fc1")
    assert blamed["returned"]["responsible"]["low"] > 0.8
    assert blamed["returned"]["random"]["high"] < 0.2


def test_what_finding_layers_costs_is_told_as_it_was_measured() -> None:
    page, found = " ".join((ROOT / "docs" / "results.md").read_text().split()), read("benchmarks/finding_layers.json")
    assert found["image"] == [3, 224, 224]
    assert {(row["passes"], row["images"]) for row in found["networks"].values()} == {(8, 20)}
    first, second = (f"{row['seconds']:.1f} s with {row['memory_mib']} MiB" for row in found["networks"].values())
    assert f"those of ResNet-50 are found in {first} beside the network, those of ViT-B/16 in {second}" in page
