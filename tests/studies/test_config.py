"""Studies as they are written: the committed ones are sound, and each mistake is told in one line."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from interpretgan.cli.app import run_command
from interpretgan.errors import ConfigError, InputError
from interpretgan.store.files import plain
from interpretgan.studies.config import StudyConfig, read_record
from interpretgan.studies.config_file import load_config, parse_config
from interpretgan.studies.executors import executor_for
from interpretgan.studies.plan import code_version, first_runs, work_hash
from tests.studies.tiny import STUDIES

FILES = sorted(STUDIES.glob("**/*.toml"))
COMMITTED = sorted(file.stem.removesuffix("-tiny") for file in STUDIES.glob("*-tiny.toml"))
TINY = str(STUDIES / "pooling-tiny.toml")
Tree = dict[str, Any]


def tiny(kind: str = "pooling") -> Tree:
    return tomllib.loads((STUDIES / f"{kind}-tiny.toml").read_text())


def change(tree: Tree, path: str, value: object) -> Tree:
    """Sets a value of the tree, or with `None` removes it."""
    *places, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    node: Any = tree
    for place in places:
        node = node[place]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return tree


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_committed_study_is_read_and_recorded(file: Path) -> None:
    config = load_config(file)
    assert read_record(StudyConfig, json.loads(json.dumps(plain(asdict(config))))) == config


@pytest.mark.parametrize("name", COMMITTED)
def test_the_committed_studies_are_alike(name: str) -> None:
    kind = name.partition("-")[0]
    full, run, small = (load_config(STUDIES / f"{one}.toml", kind) for one in (f"full/{kind}", name, f"{name}-tiny"))
    networks, some, toy = (
        {(case.settings.data.data, case.settings.model.model) for case in config.cases} for config in (full, run, small)
    )
    assert networks == {("mnist", "lenet5"), ("cifar10", "vgg-small")}
    assert some < networks
    assert toy == {("digits", model) for _, model in some}
    goals = [[case.settings.training.objective for case in config.cases] for config in (run, small)]
    assert goals[0] == goals[1]
    assert len(full.seeds) >= 5
    assert len(run.seeds) >= 5
    assert full.threads == run.threads == small.threads == 1
    assert {rule.claim for rule in small.rules if not name.endswith(kind)} <= {rule.claim for rule in run.rules}


@pytest.mark.parametrize("name", [name for name in COMMITTED if "-" in name])
def test_a_tiny_study_could_begin(name: str) -> None:
    first_runs(load_config(STUDIES / f"{name}-tiny.toml"))


@pytest.mark.needs_data("mnist")
def test_the_committed_studies_share_their_networks(data_dir: Path) -> None:
    made = {work_hash(spec) for spec in first_runs(load_config(STUDIES / "pooling.toml"))}
    for kind in ("information", "repair"):
        assert {work_hash(spec) for spec in first_runs(load_config(STUDIES / f"{kind}.toml"))} <= made


def test_what_comes_from_files_is_part_of_what_a_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "mine_for_a_study.py"
    tree = tiny()
    tree["models"][0] |= {"model": "mine_for_a_study:make", "image_size": 28}
    tree["generator"].pop("layers")
    text = "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"
    hashes = []
    for text_now in (text, f"{text}# changed\n", text):
        file.write_text(text_now)
        hashes.append([work_hash(spec) for spec in first_runs(parse_config(tree))])
    assert hashes[0] == hashes[2] != hashes[1]
    specs = first_runs(load_config(STUDIES / "information-photographs-tiny.toml"))
    assert all(spec["code"] == code_version() for spec in specs)


def test_a_section_is_that_of_the_command_line_and_a_network_may_have_its_own() -> None:
    config = load_config(STUDIES / "full" / "pooling.toml")
    mnist, cifar = config.cases[0].settings, config.cases[-1].settings
    assert (mnist.generator.generator_steps, cifar.generator.generator_steps) == (1000, 1800)
    assert (cifar.attack.eps, cifar.evaluation.eps, cifar.training.eps) == (8 / 255, 8 / 255, 8 / 255)
    assert config.cases[-1].variants == ("max", "avg")
    judged = load_config(STUDIES / "information-photographs.toml").cases[0].settings
    assert judged.judge.judge_weights == Path("results/cifar10-vgg-small-max/judge.safetensors")


MISTAKES: list[tuple[str, str, object, str]] = [
    ("pooling", "variants", ["max", "median"], "variants of a pooling study among max, avg, stride, blur, each once"),
    ("pooling", "variants", ["max"], "each once, at least 2, got ('max',)"),
    ("pooling", "variants", ["max", "max"], "each once, got ('max', 'max')"),
    ("repair", "variants", ["avg"], "variants of a repair study among finetune-blamed"),
    ("pooling", "seeds", [3], "at least 2 different seeds, got (3,)"),
    ("pooling", "seeds", None, "expected seeds to be there, got none"),
    ("pooling", "seeds", [3, "4"], "seeds.2 to be a valid integer, got '4'"),
    ("pooling", "seed", 3, "in the study, got 'seed'; did you mean seeds?"),
    ("pooling", "kind", "poolings", "kind to be 'information', 'pooling' or 'repair', got 'poolings'"),
    ("pooling", "models.0.modle", "lenet5", "in models.1, got 'modle'; did you mean model?"),
    ("pooling", "models.0.pool", "avg", "no pool of the case digits-lenet5-natural: the variants are the poolings"),
    ("pooling", "models.0.variants", ["avg"], "each once, at least 2, got ('avg',)"),
    (
        "information",
        "models.0.diagnosed",
        [],
        "all variants of the case digits-lenet5-natural diagnosed in a study of kind",
    ),
    ("pooling", "models.0.diagnosed", ["blur"], "diagnosed variants of the case digits-lenet5-natural among max, avg"),
    ("pooling", "models.0.objectives.0.attack_eps", None, "models.1.objectives.1.attack_eps to be there, got none"),
    ("pooling", "models.0.objectives.0.attack_eps", "8/0", "a number or a fraction like '8/255', got '8/0'"),
    ("pooling", "models.0.objectives.0.objective", "pdg", "to be 'natural', 'fast', 'pgd' or 'trades', got 'pdg'"),
    ("pooling", "models.0.objectives.0.objective", "pgd", "an eps for the objective pgd"),
    ("pooling", "models.0.objectives.0.epochss", 3, "in models.1.objectives.1, got 'epochss'; did you mean epochs?"),
    ("pooling", "models.0.objectives.0.name", "a/b", "a name of letters, digits, dots and hyphens"),
    ("pooling", "models.0.objectives.0.name", "all", "not 'all' and not that of another case, got 'all'"),
    ("pooling", "models", 3, "models to be a valid array, got 3"),
    ("pooling", "models.0", 3, "models.1 to be a table, got 3"),
    ("pooling", "evaluation.eps", 0.1, "attack_eps beside each objective, got eps in a section"),
    ("pooling", "evaluation.steps", "3", "evaluation.steps to be a valid integer, got '3'"),
    ("pooling", "evaluation.attacks", "pdg", "pdg"),
    ("pooling", "judge.judge_weights", 3, "judge.judge_weights to be a valid string, got 3"),
    ("pooling", "rules.0.quantity", "autoattack", "among natural, pgd, worst_case, test_accuracy, each once"),
    (
        "pooling",
        "rules.0.variant",
        "blur",
        "got {'variant': 'blur', 'against': 'max', 'cases': ()}; it compares avg against max",
    ),
    ("pooling", "rules.0.cases", ["mnist"], "that the study makes, in digits-lenet5-natural, got"),
    ("information", "rules.0.variant", "max", "name no variant with the case all"),
    ("pooling", "rules.0.direction", "up", "rules.1.direction to be 'above' or 'below', got 'up'"),
    ("pooling", "repair", {}, "a table [repair] in a study of kind repair"),
    ("repair", "repair", None, "a table [repair] in a study of kind repair"),
    ("repair", "repair.pool", "max", "a pool to swap for that digits-lenet5-natural has not, got 'max'"),
    ("repair", "repair.layers", 0, "repair.layers to be greater than or equal to 1, got 0"),
    ("repair", "repair.layers", 2, "layers = 1 in repair with finetune-best, which tries them one by one, got 2"),
    ("repair", "repair.norm", "l2", "an eps beside norm = 'l2' in repair"),
    ("pooling", "threads", True, "threads to be a valid integer, got True"),
    ("pooling", "devices", 0, "devices to be greater than or equal to 1"),
]


@pytest.mark.parametrize(("kind", "path", "value", "said"), MISTAKES)
def test_a_mistake_is_told_in_one_line(kind: str, path: str, value: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_config(change(tiny(kind), path, value))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rule_is_measured_in_every_case_that_it_names() -> None:
    tree = tiny()
    tree["variants"] = ["max", "avg", "blur"]
    tree["models"].append({**tree["models"][0], "variants": ["max", "avg"]})
    tree["models"][1]["objectives"] = [{**tree["models"][1]["objectives"][0], "name": "other"}]
    tree["rules"] = [{**tree["rules"][0], "variant": "blur", "cases": ["digits-lenet5-natural"]}]
    assert [case.name for case in parse_config(tree).cases] == ["digits-lenet5-natural", "other"]
    tree["rules"][0]["cases"].append("other")
    with pytest.raises(ConfigError, match=r"a comparison of the rule .* that the study makes"):
        parse_config(tree)


def test_the_pooling_that_is_swapped_is_that_of_the_published_network() -> None:
    tree = change(tiny("repair"), "models.0.model", "wrn-10-1")
    with pytest.raises(ConfigError, match="a pool to swap for that digits-wrn-10-1-natural has not, got 'stride'"):
        parse_config(change(tree, "repair.pool", "stride"))
    parse_config(change(tree, "repair.pool", "max"))


@pytest.mark.parametrize(
    ("device", "devices", "gpus", "needed"), [("cpu", 1, 1, 0), ("cuda", 1, 0, 1), ("cuda", 2, 1, 2)]
)
def test_a_cluster_is_asked_for_the_gpus_that_a_run_needs(device: str, devices: int, gpus: float, needed: int) -> None:
    config = load_config(TINY)
    (case,) = config.cases
    run = replace(case.settings.run, device=device, devices=devices)
    config = replace(config, gpus=gpus, cases=(replace(case, settings=replace(case.settings, run=run)),))
    with pytest.raises(ConfigError, match=f"got gpus = {gpus}, .*; set device, and gpus = {needed}"):
        executor_for(config, address="auto").__enter__()


def test_a_file_of_an_editor_that_marks_its_encoding_is_read(tmp_path: Path) -> None:
    (tmp_path / "marked.toml").write_text(Path(TINY).read_text(), encoding="utf-8-sig")
    assert load_config(tmp_path / "marked.toml", "pooling") == load_config(TINY, "pooling")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", str(STUDIES / "repair-tiny.toml")], 'expected kind = "pooling"'),
        (["--config", "absent.toml"], "expected a readable file absent.toml"),
        (["--config", "broken.toml"], "expected TOML in broken.toml"),
        (["--config", TINY, "--workers", "0"], "workers >= 1, got 0"),
        (["--config", TINY, "--workers", "2", "--ray", "auto"], "either --workers or --ray, got both"),
    ],
)
def test_a_wrong_command(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.toml").write_text("kind = ")
    assert run_command(["study", "pooling", *arguments, "--out", "out"]) == 2
    (line,) = capsys.readouterr().err.strip().split("\n")
    assert line.startswith("interpretgan: ")
    assert said in line
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('model = "lenet5"', 'model = "lenet6"', "lenet6"),
        ('layers = "pool1,pool2"', 'layers = "pool1,pool9"', "pool9"),
        ("judge_epochs = 2", 'judge_epochs = 2\njudge = "lenet5"', "a judge of another architecture"),
        ("judge_epochs = 2", 'judge_weights = "absent.safetensors"', "no file at absent.safetensors"),
        ("attack_eps = 0.1", "attack_eps = 1.5", "1.5"),
    ],
)
def test_what_only_the_networks_know_is_refused_before_anything_is_trained(
    before: str, after: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path(TINY).read_text()
    assert before in text
    (tmp_path / "wrong.toml").write_text(text.replace(before, after))
    command = ["study", "pooling", "--config", str(tmp_path / "wrong.toml"), "--out", str(tmp_path / "out")]
    assert run_command(command) == 2
    (line,) = capsys.readouterr().err.strip().split("\n")
    assert said in line
    assert not (tmp_path / "out").exists()
