"""Studies as they are written: the committed ones are sound, and each mistake is told in one line."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from interpretgan.cli.app import run_command
from interpretgan.errors import ConfigError, InputError
from interpretgan.models import read_card
from interpretgan.store.files import file_sha256, plain
from interpretgan.studies import plan
from interpretgan.studies.config_file import load_config, parse_config
from interpretgan.studies.plan import first_runs, read_settings, work_hash
from interpretgan.studies.study import study
from tests.studies.tiny import STUDIES

COMMITTED = tuple(
    sorted(file.stem.removesuffix("-tiny") for file in STUDIES.glob("*-tiny.toml"))
)  # fmt: skip
RESULTS = STUDIES.parent / "results"
Tree = dict[str, Any]


def tiny(kind: str = "pooling") -> Tree:
    return tomllib.loads((STUDIES / f"{kind}-tiny.toml").read_text())


@pytest.mark.parametrize("name", COMMITTED)
def test_the_committed_studies_are_sound(name: str) -> None:
    kind = name.partition("-")[0]
    full, run, small = (load_config(STUDIES / f"{one}.toml", kind) for one in (f"full/{kind}", name, f"{name}-tiny"))
    networks, layer, toy = (
        {(case.settings.data.data, case.settings.model.model) for case in config.cases} for config in (full, run, small)
    )
    assert networks == {("mnist", "lenet5"), ("cifar10", "vgg-small")}
    assert layer < networks
    assert {data for data, _ in toy} == {"digits"}
    assert {model for _, model in toy} == {model for _, model in layer}
    goals = [[case.settings.training.objective for case in config.cases] for config in (run, small)]
    assert goals[0] == goals[1]
    assert len(full.seeds) >= 5
    assert len(run.seeds) >= 5
    assert len(small.seeds) == 2
    assert full.threads == run.threads == small.threads == 1
    assert {rule.claim for rule in small.rules if not name.endswith(kind)} <= {rule.claim for rule in run.rules}


def test_the_committed_studies_share_their_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "data_version", lambda settings: {"sha256": settings.data.data})  # MNIST may not be there
    made = {work_hash(spec) for spec in first_runs(load_config(STUDIES / "pooling.toml"))}
    for kind in ("information", "repair"):
        assert {work_hash(spec) for spec in first_runs(load_config(STUDIES / f"{kind}.toml"))} <= made


def test_the_file_of_a_users_model_is_part_of_the_code_of_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine_for_a_study.py"
    tree = tiny()
    tree["models"][0] |= {"model": "mine_for_a_study:make", "variants": ["max", "avg"]}
    codes = []
    for text in ("make = None", "make = 1", "make = None"):
        file.write_text(text)
        codes.append(first_runs(parse_config(tree))[0]["code"])
    assert codes[0] == codes[2] != codes[1]
    assert codes[0].keys() == {*plan.code_version(), "model_sha256"}
    assert first_runs(parse_config(tiny()))[0]["code"] == plan.code_version()


def test_the_weights_of_recognition_network_and_judge_are_part_of_the_code_of_their_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(RESULTS.parent)  # where the file of the judge is named from
    monkeypatch.setattr(
        plan, "data_version", lambda settings: {"sha256": settings.data.data}
    )  # CIFAR-10 may not be there
    config = load_config(STUDIES / "information-photographs.toml")
    code = first_runs(config)[0]["code"]
    judge = file_sha256(RESULTS / "cifar10-vgg-small-max" / "judge.safetensors")
    recognition_network = read_card("vgg-small-avg-pgd").sha256
    assert code == {**plan.code_version(), "recognition_network_sha256": recognition_network, "judge_sha256": judge}
    assert first_runs(load_config(STUDIES / "information-photographs-tiny.toml"))[0]["code"] == plan.code_version()


def test_each_committed_study_has_a_tiny_one() -> None:
    assert {file.stem for file in STUDIES.glob("*.toml") if not file.stem.endswith("-tiny")} == set(COMMITTED)


def test_a_section_is_that_of_the_command_line_and_a_network_may_have_its_own() -> None:
    config = load_config(STUDIES / "full" / "pooling.toml")
    mnist, cifar = config.cases[0].settings, config.cases[-1].settings
    assert (mnist.generator.generator_steps, cifar.generator.generator_steps) == (1000, 1800)
    assert (cifar.attack.eps, cifar.evaluation.eps, cifar.training.eps) == (8 / 255, 8 / 255, 8 / 255)
    assert config.cases[-1].variants == ("max", "avg")
    assert config.cases[0].settings == read_settings(asdict(config.cases[0].settings))
    judged = load_config(STUDIES / "information-photographs.toml").cases[0].settings
    specified: Any = plain(asdict(judged))  # a path is a text there
    assert judged == read_settings(specified)


def test_a_run_on_several_gpus_asks_a_cluster_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interpretgan.studies.config_file.find_device", lambda name: name)  # whatever this machine has
    text = (STUDIES / "pooling-tiny.toml").read_text()
    file = tmp_path / "study.toml"
    file.write_text("devices = 2\ngpus = 1\n" + text.replace('device = "cpu"', 'device = "cuda"'))
    assert {case.settings.run.devices for case in load_config(file).cases} == {2}
    with pytest.raises(ConfigError, match=r"gpus >= 2 on a Ray cluster, .* got gpus = 1; set gpus = 2"):
        study("pooling", file, tmp_path / "out", ray="auto")
    assert not (tmp_path / "out").exists()


def change(path: str, value: object) -> Callable[[Tree], None]:
    """Sets a value of the tree, or with `None` removes it."""

    def apply(tree: Tree) -> None:
        *places, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        node: Any = tree
        for place in places:
            node = node[place]
        if value is None:
            del node[last]
        else:
            node[last] = value

    return apply


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        ("pooling", "variants", ["max", "median"],
         "variants of a pooling study among max, avg, stride, blur, got 'median'"),
        ("pooling", "variants", ["max"], "at least two variants"),
        ("pooling", "variants", ["max", "max"], "variants, each once"),
        ("repair", "variants", ["avg"], "variants of a repair study among finetune-blamed"),
        ("pooling", "seeds", [3], "at least 2 different seeds, got [3]"),
        ("pooling", "seeds", [3, 3], "at least 2 different seeds"),
        ("pooling", "seeds", None, "expected the study.seeds, got none"),
        ("pooling", "seed", 3, "got 'seed'; did you mean seeds?"),
        ("pooling", "kind", "poolings", "a kind among information, pooling, repair"),
        ("pooling", "models.0.modle", "lenet5", "got 'modle'; did you mean model?"),
        ("pooling", "models.0.pool", "avg", "no pool in models 1: the variants are the poolings"),
        ("pooling", "models.0.variants", ["avg"], "the variant 'max' in models 1"),
        ("pooling", "models.0.variants", ["blur"], "among max, avg, got 'blur'"),
        ("information", "models.0.diagnosed", [], "diagnoses of models 1, which a study of kind information is"),
        ("pooling", "models.0.diagnosed", ["blur"], "diagnosed variants of models 1 among max, avg, got 'blur'"),
        ("pooling", "models.0.objectives.0.attack_eps", None, "objectives 1.attack_eps, got none"),
        ("pooling", "models.0.objectives.0.attack_eps", "eight", "as a number or a fraction like '8/255', got 'eight'"),
        ("pooling", "models.0.objectives.0.attack_eps", -1, "a finite eps > 0"),
        ("pooling", "models.0.objectives.0.objective", "pdg", "one of natural, fast, pgd, trades, got 'pdg'"),
        ("pooling", "models.0.objectives.0.objective", "pgd", "an eps for the objective pgd"),
        ("pooling", "models", [], "at least one table [[models]]"),
        ("pooling", "evaluation.eps", 0.1, "in evaluation, got 'eps'"),
        ("pooling", "evaluation.steps", "3", "evaluation.steps as a whole number, got '3'"),
        ("pooling", "judge.judge_weights", 3, "judge.judge_weights as a path in quotes, got 3"),
        ("pooling", "evaluation.attacks", "pdg", "pdg"),
        ("pooling", "rules", None, "at least one table [[rules]]"),
        ("pooling", "rules.0.quantity", "autoattack", "among natural, pgd, worst_case, test_accuracy, got"),
        ("pooling", "rules.0.variant", "blur", "a variant of the rule"),
        ("pooling", "rules.0.cases", ["mnist"], "among digits-lenet5-natural, got 'mnist'"),
        ("pooling", "rules.0.against", "avg",
         "something that this study measures, got variant = 'avg', against = 'avg'"),
        ("information", "rules.0.variant", "max", "name no variant with the case all"),
        ("pooling", "models.0.objectives.0.name", "a/b", "a name of letters, digits, dots and hyphens"),
        ("pooling", "models.0.objectives.0.name", "all", "not 'all', got 'all'"),
        ("pooling", "rules.0.direction", "up", "one of above, below, got 'up'"),
        ("pooling", "repair", {}, "a table [repair] in a study of kind repair"),
        ("repair", "repair", None, "a table [repair] in a study of kind repair"),
        ("repair", "repair.pool", "max", "a pool to swap for that digits-lenet5-natural has not, got max"),
        ("repair", "repair.layers", 0, "layers >= 1"),
        ("repair", "repair.norm", "l2", "an eps beside norm = 'l2' in repair, got none, and the attack's is of linf"),
        ("pooling", "models.0.variants", ["max"], "at least two variants in models 1"),
        ("pooling", "models.0.objectives.0.attack_eps", "1e400", "as a number or a fraction like '8/255', got '1e400'"),
        ("pooling", "replicates", 1, "replicates >= 100"),
        ("pooling", "threads", 0, "threads >= 1"),
        ("pooling", "devices", 0, "devices >= 1"),
        ("pooling", "threads", True, "the study.threads as a whole number, got True"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_line(kind: str, path: str, value: object, said: str) -> None:
    tree = tiny(kind)
    change(path, value)(tree)
    with pytest.raises(InputError) as caught:
        parse_config(tree)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rule_is_measured_in_every_case_that_it_names() -> None:
    tree = tiny()
    tree["variants"] = ["max", "avg", "blur"]
    tree["models"].append({**tree["models"][0], "variants": ["max", "avg"]})
    tree["models"][1]["objectives"] = [{**tree["models"][1]["objectives"][0], "name": "other"}]
    tree["rules"] = [{**tree["rules"][0], "variant": "blur", "cases": ["digits-lenet5-natural"]}]
    parse_config(tree)
    tree["rules"][0]["cases"].append("other")
    with pytest.raises(ConfigError, match="about something that this study measures"):
        parse_config(tree)


def test_the_pooling_that_is_swapped_is_that_of_the_published_network() -> None:
    tree = tiny("repair")
    tree["models"][0] |= {"model": "wrn-10-1"}
    tree["models"][0].pop("pool", None)
    tree["repair"]["pool"] = "stride"
    with pytest.raises(ConfigError, match="a pool to swap for that digits-wrn-10-1-natural has not, got stride"):
        parse_config(tree)
    tree["repair"]["pool"] = "max"
    parse_config(tree)


def test_a_cluster_is_asked_for_gpus_where_the_device_is_one(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text("gpus = 1\n" + (STUDIES / "pooling-tiny.toml").read_text())
    with pytest.raises(ConfigError, match=r"gpus > 0 .*, got gpus = 1 and device = cpu; set device, and gpus = 0"):
        study("pooling", file, tmp_path / "out", ray="auto")
    assert not (tmp_path / "out").exists()


def test_two_cases_of_one_name() -> None:
    tree = tiny()
    tree["models"][0]["objectives"] *= 2
    with pytest.raises(ConfigError, match="'digits-lenet5-natural' twice; give one of them a name"):
        parse_config(tree)
    tree["models"][0]["objectives"][1] = {**tree["models"][0]["objectives"][1], "name": "again"}
    assert [case.name for case in parse_config(tree).cases] == ["digits-lenet5-natural", "again"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pooling", "--config", str(STUDIES / "repair-tiny.toml")], 'expected kind = "pooling"'),
        (["pooling", "--config", "absent.toml"], "expected a readable file absent.toml"),
        (["pooling", "--config", str(STUDIES / "pooling-tiny.toml"), "--workers", "0"], "workers >= 1, got 0"),
        (
            ["pooling", "--config", str(STUDIES / "pooling-tiny.toml"), "--workers", "2", "--ray", "auto"],
            "either --workers or --ray, got both",
        ),
    ],
)
def test_a_wrong_command(arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["study", *arguments, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().split("\n")
    assert line.startswith("interpretgan: ")
    assert said in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('model = "lenet5"', 'model = "lenet6"', "lenet6"),
        ('layers = "pool1,pool2"', 'layers = "pool1,pool9"', "pool9"),
        ('variants = ["max", "avg"]', 'variants = ["max", "avg", "blurred"]', "blurred"),
        ("judge_epochs = 2", 'judge_epochs = 2\njudge = "lenet5"', "a judge of another architecture"),
        ("judge_epochs = 2", 'judge_weights = "absent.safetensors"', "no file at absent.safetensors"),
        ("attack_eps = 0.1", "attack_eps = 1.5", "1.5"),
    ],
)
def test_what_only_the_networks_know_is_refused_before_anything_is_trained(
    before: str, after: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (STUDIES / "pooling-tiny.toml").read_text()
    assert before in text
    (tmp_path / "wrong.toml").write_text(text.replace(before, after))
    command = ["study", "pooling", "--config", str(tmp_path / "wrong.toml"), "--out", str(tmp_path / "out")]
    assert run_command(command) == 2
    (line,) = capsys.readouterr().err.strip().split("\n")
    assert said in line
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("kind = ")
    with pytest.raises(ConfigError, match="expected TOML in"):
        load_config(tmp_path / "broken.toml")
