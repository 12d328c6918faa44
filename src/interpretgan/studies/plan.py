"""The table of a study: one plain specification per run, with everything that its result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from interpretgan.data import load_data
from interpretgan.errors import ConfigError
from interpretgan.models import published_pool, read_card, source_file
from interpretgan.pipeline.config import Settings
from interpretgan.pipeline.instruments import TRAINED
from interpretgan.store.files import file_sha256, plain
from interpretgan.store.provenance import RECORDED_PACKAGES, package_version
from interpretgan.studies.config import UNTOUCHED, Case, Repair, StudyConfig, fine_tuning
from interpretgan.studies.repairs import KINDS

Spec = dict[str, Any]
MACHINE = ("device", "processor", "threads")
"""What is recorded of where a run was made."""

NOT_IN_A_RESULT = ("report", "studies", "cli.py", "terminal.py", "__main__.py")
"""Parts of the package that no number of a run depends on."""
IN_A_RESULT = ("studies/job.py", "studies/repairs.py", "studies/definitions.py")
"""And those below that one does."""


@cache
def code_version() -> dict[str, Any]:
    """Which code a run is made with: version of the package, hash of its sources, versions of what it stands on."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if name.parts[0] not in NOT_IN_A_RESULT or name.as_posix() in IN_A_RESULT:
            digest.update(name.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return {
        "version": version("interpretgan"),
        "sha256": digest.hexdigest(),
        "packages": {name: package_version(name) for name in RECORDED_PACKAGES},
    }


def code_of(settings: Settings) -> dict[str, Any]:
    """`code_version`, and hashes of what else a run is made with.

    Of the file that a model of the user's own is in, but not of what that imports, and of the weights of a recognition
    network and of a judge that come from elsewhere.
    """
    code, file, recognition_network = (
        code_version(),
        source_file(settings.model.model),
        settings.generator.recognition_network,
    )
    judge = settings.judge.judge_weights
    if file is not None:
        code = {**code, "model_sha256": file_sha256(file)}
    if recognition_network not in (None, TRAINED):
        code = {**code, "recognition_network_sha256": read_card(recognition_network).sha256}
    if judge is not None and judge.is_file():  # where it is missing, the first run is refused for it
        code = {**code, "judge_sha256": file_sha256(judge)}
    return code


def data_version(settings: Settings) -> dict[str, str]:
    """Hashes of the images that a run is made with."""
    options = settings.data
    return {
        name: load_data(options.data, split, data_dir=options.data_dir, image_size=options.image_size).sha256
        for name, split in (("sha256", "train"), ("test_sha256", "test"))
    }


def first_runs(config: StudyConfig) -> list[Spec]:
    """The runs that depend on no other: seed × variant × case, in a repair study seed × case.

    One seed after the other, so that what an interrupted study has is whole seeds.

    Raises:
        InterpretGANError: Data that are missing.
    """
    hashes = {case.name: data_version(case.settings) for case in config.cases}
    specs = []
    for seed in config.seeds:
        for variant in (UNTOUCHED,) if config.kind == "repair" else config.variants:
            for case in config.cases:
                if variant not in (UNTOUCHED, *case.variants):
                    continue
                model = case.settings.model
                pool = variant if variant != UNTOUCHED else model.pool or published_pool(model.model)
                settings = replace(
                    case.settings,
                    run=replace(case.settings.run, seed=seed),
                    model=replace(model, pool=pool),  # type: ignore[arg-type]  # checked
                )
                specs.append(_spec(config, case, settings, hashes[case.name], variant))
    return specs


def second_runs(config: StudyConfig, found: Mapping[str, Mapping[str, Any]]) -> tuple[list[Spec], dict[str, str]]:
    """The repairs of networks that have been diagnosed.

    Args:
        config: A repair study.
        found: Results of the first runs, by id.

    Returns:
        The runs, and of those that cannot be made the reason: a network that failed, or a diagnosis that leaves too
        few layers, or poolings, to tell the blamed from the cleared.
    """
    assert config.repair is not None
    specs, refused = [], {}
    for case in config.cases:
        for first in (spec for spec in first_runs(config) if spec["case"] == case.name):
            base = found.get(first["id"])
            for variant in case.variants:
                spec = _spec(config, case, read_settings(first["settings"]), first["data"], variant)
                spec |= {"base": first["id"], "base_state_sha256": None, "targets": []}
                spec["repair"] = plain(
                    {
                        "pool": config.repair.pool,
                        "epochs": config.repair.epochs,
                        "training": asdict(fine_tuning(config.repair, case)),
                    }
                )
                spec["parameters"] = []
                specs.append(spec)
                if base is None:
                    refused[spec["id"]] = f"{first['id']}, which it would repair, failed"
                    continue
                spec["base_state_sha256"] = base["classifier"]["state_sha256"]
                try:
                    spec["targets"] = targets(variant, base["units"], base["layers"], config.repair)
                    spec["parameters"] = [
                        name for unit in base["units"] if unit["name"] in spec["targets"] for name in unit["parameters"]
                    ]
                except ConfigError as error:
                    refused[spec["id"]] = str(error)
    return specs, refused


def targets(
    variant: str, units: Sequence[Mapping[str, Any]], layers: Sequence[Mapping[str, Any]], repair: Repair
) -> list[str]:
    """Names of what a variant changes: layers with weights to fine-tune, or the pooling to swap.

    Layers are ordered by their vulnerability; what cannot be read reliably is left out. Of equals the
    earlier counts as the more vulnerable: so none is both blamed and cleared.

    Args:
        variant: One of `ACTIONS`.
        units: Layers with weights: `name`, `vulnerability` (`None` where unreliable), `parameters`.
        layers: Rows of the diagnosis.
        repair: How many layers are fine-tuned, and what a pooling is swapped for; one of that kind is left alone.

    Raises:
        ConfigError: Too few of them to choose from.
    """
    action, _, chosen = variant.partition("-")
    count = repair.layers
    if action == "swap":
        count = 1
        pools = [
            row for row in layers if row["pooling"] and not row["unreliable"] and row["kind"] != KINDS[repair.pool]
        ]
        candidates = [(row["name"], row["vulnerability"]["value"]) for row in pools]
    else:
        candidates = [(unit["name"], unit["vulnerability"]) for unit in units if unit["vulnerability"] is not None]
    if chosen == "all":
        return [unit["name"] for unit in units]
    if len(candidates) < 2 * count:
        raise ConfigError(
            expected=f"at least {2 * count} {'poolings' if action == 'swap' else 'layers with weights'} that can be "
            f"read reliably, for {variant}",
            got=str(len(candidates)),
            do="train the generators longer, change fewer layers, or leave the variant out",
        )
    ranked = [name for name, _ in sorted(candidates, key=lambda one: -one[1])]
    return ranked[:count] if chosen == "blamed" else ranked[-count:]


def _spec(config: StudyConfig, case: Case, settings: Settings, hashes: Mapping[str, str], variant: str) -> Spec:
    seed = settings.run.seed
    return {
        "id": f"{case.name}-{variant}-s{seed}",
        "case": case.name,
        "variant": variant,
        "seed": seed,
        "threads": config.threads,
        "diagnosed": variant == UNTOUCHED or variant in case.diagnosed,
        "settings": plain(asdict(settings)),
        "code": code_of(settings),
        "data": dict(hashes),
    }


def read_settings(values: Mapping[str, Mapping[str, Any]]) -> Settings:
    """The settings of a specification."""
    kinds = {item.name: type(getattr(Settings(), item.name)) for item in fields(Settings)}
    read = Settings(**{name: kinds[name](**section) for name, section in values.items()})
    judge = read.judge.judge_weights
    return read if judge is None else replace(read, judge=replace(read.judge, judge_weights=Path(judge)))


def spec_hash(spec: Spec) -> str:
    """Hash of a specification."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def work_hash(spec: Spec) -> str:
    """Hash of what a run does, whatever a study calls it: two runs of the same hash have the same result."""
    return spec_hash({key: value for key, value in spec.items() if key not in ("id", "case", "variant")})
