from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from interpretgan.data import load_data
from interpretgan.data.folders import class_names
from interpretgan.errors import ConfigError, RunFolderError, ThreatModelError
from interpretgan.models import POOLS
from interpretgan.pipeline import options as groups
from interpretgan.pipeline.options import (
    AttackOptions,
    DataOptions,
    EvaluationOptions,
    GeneratorOptions,
    JudgeOptions,
    ModelOptions,
    TrainingOptions,
)
from interpretgan.pipeline.settings import Settings
from interpretgan.training import OBJECTIVES, Trades, default_recipe
from interpretgan.training.recipes import AUGMENTATIONS


def choices(options: type, name: str) -> set[Any]:
    """What the command line offers for an option."""
    elsewhere = dict.fromkeys(("Objective", "Recipe", "ImageSet"), object)  # imported for type checkers alone
    hint = get_type_hints(options, vars(groups) | elsewhere)[name]
    (literal,) = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
    return set(get_args(literal))


def test_the_command_line_offers_what_there_is() -> None:
    assert choices(TrainingOptions, "objective") == set(OBJECTIVES)
    assert choices(TrainingOptions, "augmentation") == set(AUGMENTATIONS)
    assert choices(ModelOptions, "pool") == set(POOLS)


@pytest.mark.parametrize("name", ["optimizer", "schedule"])
def test_each_choice_of_a_recipe_is_one_that_it_knows(name: str) -> None:
    data = load_data("digits", "train")
    for choice in choices(TrainingOptions, name):
        assert getattr(TrainingOptions(**{name: choice}).recipe(data), name) == choice


def test_a_recipe_is_the_default_with_what_was_chosen() -> None:
    data = load_data("digits", "train")
    default = default_recipe(data, "pgd")
    recipe = TrainingOptions(objective="pgd", lr=0.5, averaging=0.0, validation=0).recipe(data, epochs=3)
    assert (recipe.lr, recipe.averaging, recipe.validation, recipe.epochs) == (0.5, 0.0, 0, 3)
    assert (recipe.batch_size, recipe.weight_decay) == (default.batch_size, default.weight_decay)
    assert TrainingOptions(objective="pgd").recipe(data) == default


def test_all_images_held_out_are_too_many() -> None:
    data = load_data("digits", "train")
    with pytest.raises(ConfigError, match="at most 1346 of the 1347 training images"):
        TrainingOptions(validation=1347).recipe(data)
    assert TrainingOptions(validation=1346).recipe(data).validation == 1346


def test_an_objective_gets_its_parameters() -> None:
    objective = TrainingOptions(objective="trades", eps=0.1, norm="l2", inner_steps=4, step_size=0.05, beta=2).build()
    assert isinstance(objective, Trades)
    assert objective.beta == 2
    threat_model = objective.threat_model
    assert (threat_model.norm, threat_model.eps, threat_model.steps, threat_model.step_size) == ("l2", 0.1, 4, 0.05)
    with pytest.raises(ThreatModelError):
        TrainingOptions(objective="pgd", eps=-1.0).build()


@pytest.mark.parametrize(
    ("options", "given", "shipped", "as_returned"),
    [
        (ModelOptions(), False, False, False),
        (ModelOptions(weights=Path("w.pt")), True, False, False),
        (ModelOptions("lenet5-avg", weights="pretrained"), True, True, False),
        (ModelOptions("a:b"), False, False, False),
        (ModelOptions("a:b", weights="pretrained"), True, False, True),
        (ModelOptions("a:b", pretrained=True), True, False, True),
        (ModelOptions("a:b", weights=Path("pretrained.pt")), True, False, False),
    ],
)
def test_where_weights_come_from(options: ModelOptions, *, given: bool, shipped: bool, as_returned: bool) -> None:
    assert (options.given, options.shipped, options.as_returned) == (given, shipped, as_returned)
    assert (options.file is None) == (not given or shipped or as_returned)
    resolved = Settings(model=options).resolve(("model",))["model"]
    assert (resolved["weights"], resolved["pretrained"]) == ("pretrained" if shipped else None, as_returned)


@pytest.mark.parametrize("given", [{"weights": Path("net.pt")}, {"weights": "pretrained"}, {"model": "hf:a/b"}])
def test_epochs_of_a_model_that_has_its_weights_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="weights or epochs of a classifier, got both"):
        ModelOptions(epochs=3, **given)


def test_options_of_a_run_that_are_refused_now_are_told_and_can_be_said_anew(tmp_path: Path) -> None:
    Settings(model=ModelOptions(epochs=3)).save(tmp_path)
    kept = tmp_path / "options.json"
    kept.write_text(kept.read_text().replace('"weights": null', '"weights": "net.pt"'))
    with pytest.raises(RunFolderError, match="weights or epochs of a classifier, got both"):
        Settings.load(tmp_path)
    Settings(model=ModelOptions(weights=Path("net.pt"))).save(tmp_path, ("data", "model"))
    assert Settings.load(tmp_path).model.epochs is None


def test_a_folder_called_like_a_data_set_and_a_long_list_of_classes_are_kept_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    names = ",".join(f"the class {number}" for number in range(100))
    for data in (DataOptions("mnist"), DataOptions("mnist", classes=names), DataOptions("shapes")):
        Settings(data=data).save(tmp_path)
        assert Settings.load(tmp_path).data == data
    assert class_names(names) == names.split(",")


@pytest.mark.parametrize("name", ["judge.pt2", "hf:./judge", "elsewhere.pt2", "judge"])
def test_files_of_both_networks_are_kept_as_they_are_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("judge").mkdir()
    Path("judge.pt2").touch()
    Settings(model=ModelOptions(model=name), judge=JudgeOptions(judge=name)).save(tmp_path)
    kept = Settings.load(tmp_path)
    expected = {"judge.pt2": f"{tmp_path}/judge.pt2", "hf:./judge": f"hf:{tmp_path}/judge"}.get(name, name)
    assert (kept.model.model, kept.judge.judge) == (expected, expected)


def test_a_command_without_a_section_keeps_what_another_chose_in_it(tmp_path: Path) -> None:
    generator, evaluation = GeneratorOptions(generator_steps=5), EvaluationOptions(examples=7)
    Settings(generator=generator).save(tmp_path)
    Settings(evaluation=evaluation).save(tmp_path, ("data", "model", "evaluation"))
    kept = Settings.load(tmp_path)
    assert (kept.generator, kept.evaluation) == (generator, evaluation)


def test_eps_has_a_default_only_where_it_is_usual() -> None:
    assert AttackOptions().threat_model("digits").eps == EvaluationOptions().threat_model("mnist").eps == 0.2
    assert AttackOptions().threat_model("cifar10").eps == 8 / 255
    assert AttackOptions(eps=0.1).threat_model("photographs").eps == 0.1
    for options, data in (
        (AttackOptions(), "photographs"), (EvaluationOptions(), "runs/set"), (AttackOptions(norm="l2"), "digits"),
    ):  # fmt: skip
        with pytest.raises(ThreatModelError, match="--eps 8/255"):
            options.threat_model(data)
    with pytest.raises(ThreatModelError, match="eps > 0"):
        AttackOptions(eps=0.0).threat_model("digits")
