"""One run of a study: from its specification to its result, both plain JSON, in a folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Set
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from interpretgan.diagnosis.predictions import attacker
from interpretgan.diagnosis.reliability import is_unreliable
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.errors import InputError, RunFolderError
from interpretgan.models import load_weights, save_weights
from interpretgan.pipeline.config import Settings
from interpretgan.pipeline.options import TrainingOptions
from interpretgan.pipeline.run_diagnosis import Job, evaluate_subject
from interpretgan.pipeline.run_folder import RunFolder, differences
from interpretgan.pipeline.subject import Subject
from interpretgan.pipeline.workshop import Say, Workshop
from interpretgan.report import save_explanation
from interpretgan.robustness import Evaluation
from interpretgan.store.files import plain, read_json
from interpretgan.studies.config import UNTOUCHED
from interpretgan.studies.definitions import other_definitions
from interpretgan.studies.plan import Spec, code_of, read_settings
from interpretgan.studies.repairs import only, swap_pooling, swappable, unit_vulnerability, units_of
from interpretgan.training import train_classifier

WORK = "work"
"""Folder of what a run makes on its way."""
SETTLED = tuple(item.name for item in fields(Settings) if item.name not in ("training", "run"))
"""Sections of the settings that a run's folder must agree on."""


def check(spec: Spec) -> None:
    """Refuse at once what the run would be refused for once it is started.

    Args:
        spec: Of `plan.first_runs`.

    Raises:
        InputError: A model, judge, pooling, layer or attack that there is not, or that does not fit the data.
    """
    try:
        Job(read_settings(spec["settings"]), SETTLED, None, lambda line: None)
    except InputError as error:
        raise type(error)(expected=f"{error.expected} (for {spec['id']})", got=error.got, do=error.do) from error


def execute(spec: Spec, folder: Path, say: Say) -> dict[str, Any]:
    """Make a run.

    Args:
        spec: Of `plan`.
        folder: Of the run, beside those of the study's other runs. What an earlier attempt left there is used.
        say: Told in a line what happens.

    Returns:
        `classifier`, `accuracy` with an interval for each attack, `right` (which examples, bits as hexadecimal),
        `curve` over eps, `flags`; where the network is diagnosed, `layers`, `diagnosis` (accuracies, flags), and
        `units`, the layers with weights that could be repaired.

    Raises:
        InterpretGANError: Something cannot be made, or this is not the code or the data of the specification.
    """
    settings = read_settings(spec["settings"])
    if (found := code_of(settings)) != spec["code"]:
        raise RunFolderError(
            expected=f"the code of the study, {spec['code']['sha256'][:12]}",
            got=f"another one, that differs in {', '.join(list(differences(found, plain(spec['code'])))[:3])}",
            do="leave the code alone while a study runs, or start it in a new folder",
        )
    if spec["variant"] == UNTOUCHED or "base" not in spec:
        return _diagnosed(spec, settings, folder, say)
    return _repaired(spec, settings, folder, say)


def _diagnosed(spec: Spec, settings: Settings, folder: Path, say: Say) -> dict[str, Any]:
    """A network trained, evaluated and diagnosed."""
    job = Job(settings, SETTLED, folder / WORK, say)
    try:
        _check_data(spec, job.workshop)
        result = _evaluated(job.evaluation(), folder / WORK)
        if not spec["diagnosed"]:
            return _plain(result)
        _share_judge(folder, spec, job)
        diagnosis = job.diagnosis()
        result |= _layers(diagnosis, swappable(job.subject.classifier.model, job.instruments.layers))
        if not (folder / "explanations.npz").exists():
            save_explanation(folder / "explanations.npz", job.telling_explanation())
        others = other_definitions(
            job.subject.classifier,
            job.instruments.layers,
            job.workshop.train,
            job.workshop.test,
            int(diagnosis.data["examples"]),
            adversarial=attacker(job.subject.classifier, settings.attack.threat_model(), seed=settings.run.seed),
            seed=settings.run.seed,
        )
        for name, values in others.items():
            for row, value in zip(result["layers"], values, strict=True):
                row[name] = value
        rows = {row["name"]: row for row in result["layers"]}
        result["units"] = [
            {**asdict(unit), "vulnerability": unit_vulnerability(unit, rows)}
            for unit in units_of(job.subject.classifier, job.subject.anatomy(job.subject.classifier), list(rows))
        ]
        for weights in (*(folder / WORK).glob("generator-*.safetensors"), folder / WORK / "information.safetensors"):
            weights.unlink(missing_ok=True)  # tens of megabytes that the folder can make again
    finally:
        job.close()
    return _plain(result)


def _repaired(spec: Spec, settings: Settings, folder: Path, say: Say) -> dict[str, Any]:
    """A network that was diagnosed, changed where the specification says, and evaluated."""
    shop = Workshop(settings, say)
    shop.folder = RunFolder(folder / WORK).open({"spec": spec})
    try:
        _check_data(spec, shop)
        subject = Subject(shop)
        classifier = subject.built
        repair, targets = spec["repair"], list(spec["targets"])
        if spec["variant"].startswith("swap"):
            shapes = {layer.name: (layer.module, layer.shape[0]) for layer in subject.anatomy(classifier).layers}
            for name in targets:
                module, channels = shapes[name]
                swap_pooling(classifier.model, module, repair["pool"], channels)
            training, recipe = settings.training, subject.recipe
            learning = [name for name, _ in classifier.model.named_parameters()]
        else:
            base = folder.parent / spec["base"] / WORK / "classifier.safetensors"
            load_weights(classifier.model, base)
            if classifier.state_sha256() != spec["base_state_sha256"]:
                raise RunFolderError(
                    expected=f"the network that was diagnosed in {base}",
                    got="other weights",
                    do="delete the folder of that run and of its repairs, and run the study again",
                )
            training = TrainingOptions(**repair["training"])
            recipe = training.recipe(shop.train, repair["epochs"])
            learning = list(spec["parameters"])
        file = shop.path("classifier.safetensors")
        if file.exists():
            load_weights(classifier.model, file)
        else:
            label = f"{spec['variant']}: {', '.join(targets)}"
            with only(classifier.model, learning), shop.stage("repair", label) as log:
                train_classifier(
                    classifier,
                    shop.train,
                    objective=training.build(),
                    recipe=recipe,
                    seed=settings.run.seed,
                    device=shop.device,
                    checkpoint=shop.path("checkpoint-classifier.pt"),
                    on_progress=log,
                )
            save_weights(classifier.model, file)
            shop.drop("checkpoint-classifier.pt")
        result = _evaluated(evaluate_subject(classifier, shop), folder / WORK)
        sizes = {name: value.numel() for name, value in classifier.model.named_parameters()}
        result["classifier"] |= {"state_sha256": classifier.state_sha256()}
        result["repaired"] = {
            "layers": targets, "parameters": sum(sizes[name] for name in learning), "recipe": asdict(recipe),
        }  # fmt: skip
    finally:
        assert shop.folder is not None
        shop.folder.close()
    return _plain(result)


def _check_data(spec: Spec, shop: Workshop) -> None:
    found = {"sha256": shop.train.sha256, "test_sha256": shop.test.sha256}
    if found != spec["data"]:
        raise RunFolderError(
            expected=f"the data of the study, {spec['data']['sha256'][:12]}",
            got=f"{shop.data_name} with the hash {found['sha256'][:12]}",
            do="use the same files, or start the study in a new folder",
        )


def _share_judge(folder: Path, spec: Spec, job: Job) -> None:
    """The judge of a seed, data and attack is the same for all variants: whoever trained it first leaves it.

    Where two train it at the same time they get the same weights, so it does not matter whose are kept.
    """
    names, work = ("judge.safetensors", "judge.json"), folder / WORK
    key = {name: spec["settings"][name] for name in ("data", "judge", "attack", "run")}
    place = folder.parents[1] / "judges" / _hash({**key, "data_sha256": spec["data"], "code": spec["code"]})
    if not (work / names[0]).exists() and all((place / name).exists() for name in names):
        for name in names:
            shutil.copyfile(place / name, work / name)
    _ = job.instruments.judge
    if not (place / names[1]).exists() and all((work / name).exists() for name in names):
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            temporary = place / f".{name}.{spec['id']}.tmp"
            shutil.copyfile(work / name, temporary)
            temporary.replace(place / name)


def _hash(value: Mapping[str, Any]) -> str:
    import hashlib
    import json

    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _evaluated(evaluation: Evaluation, work: Path) -> dict[str, Any]:
    with np.load(work / "evaluation.npz", allow_pickle=False) as saved:
        right = {name: np.packbits(saved[name]).tobytes().hex() for name in saved.files if name != "labels"}
    record = evaluation.to_dict()
    known = ("name", "pool", "width", "parameters", "state_sha256", "test_accuracy", "checkpoint")
    return {
        "classifier": {name: record["classifier"][name] for name in known if name in record["classifier"]},
        "accuracy": record["accuracy"],
        "noise": record["controls"]["noise"],
        "examples": record["data"]["examples"],
        "right": right,
        "curve": record["curves"]["eps"],
        "flags": list(record["flags"]),
    }


def _layers(diagnosis: Diagnosis, poolings: Set[str]) -> dict[str, Any]:
    """The rows of a diagnosis that a study compares, the image left out; `poolings` can be swapped for others."""
    kept = ("name", "kind", "natural", "adversarial", "survival", "vulnerability", "vulnerability_bits",
            "information_loss", "class_information", "class_accuracy", "flags")  # fmt: skip
    record = diagnosis.to_dict()
    unreliable = {layer.name: is_unreliable(layer) for layer in diagnosis.layers}
    return {
        "layers": [
            {
                **{name: row[name] for name in kept if row.get(name) is not None},
                "pooling": row["name"] in poolings,
                "unreliable": unreliable[row["name"]],
            }
            for row in record["layers"][1:]
        ],
        "diagnosis": {
            "accuracy": record["accuracy"],
            "judge": record["judge"],
            "controls": record["controls"],
            "flags": list(record["flags"]),
            "class_information": record["layers"][0].get("class_information"),
        },
    }


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    value = plain(result)
    assert isinstance(value, dict)
    return value


def read_spec(folder: Path) -> Spec:
    """The specification in a run's folder."""
    value: Spec = read_json(folder / "spec.json")
    return value
