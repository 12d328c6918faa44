"""The table of a study: one plain specification per run, with everything that its result depends on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from interpretgan.errors import ConfigError, InputError
from interpretgan.models import published_pool
from interpretgan.pipeline.inputs import Inputs
from interpretgan.pipeline.settings import DIAGNOSE, Settings
from interpretgan.store.files import plain
from interpretgan.store.provenance import RECORDED_PACKAGES, package_version
from interpretgan.studies.config import BEST, UNTOUCHED, StudyConfig, fine_tuning, read_record
from interpretgan.studies.network_repairs import targets

Spec = dict[str, Any]
SECTIONS = (*DIAGNOSE, "evaluation")  #: Sections of the settings that a result depends on.
MACHINE = ("device", "processor", "threads")  #: What is recorded of where a run was made.
NOT_IN_A_RESULT = ("cli", "report", "studies", "__main__.py")  #: Rooms that no number of a run depends on,
IN_A_RESULT = (
    "studies/job.py",
    "studies/network_repairs.py",
    "studies/definitions.py",
)  #: but for these of their files.


@cache
def code_version() -> dict[str, Any]:
    """Which code a run is made with: version of the package, hash of its sources, versions of what it stands on."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if name.parts[0] not in NOT_IN_A_RESULT or name.as_posix() in IN_A_RESULT:
            digest.update(name.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    packages = {name: package_version(name) for name in RECORDED_PACKAGES}
    return {"version": version("interpretgan"), "sha256": digest.hexdigest(), "packages": packages}


def first_runs(config: StudyConfig) -> list[Spec]:
    """The runs that depend on no other: seed × variant × case, in a repair study seed × case.

    One seed comes after the other, so that an interrupted study has whole seeds.

    Raises:
        InterpretGANError: What a run would be refused for once it is started: data that are missing; a model, judge,
            pooling, layer or attack that there is not, or that does not fit the data.
    """
    specs: list[Spec] = []
    variants = (UNTOUCHED,) if config.kind == "repair" else config.variants
    for seed, variant, case in product(config.seeds, variants, config.cases):
        if variant in (UNTOUCHED, *case.variants):
            model = case.settings.model
            pool: Any = variant if variant != UNTOUCHED else model.pool or published_pool(model.model)
            run = replace(case.settings.run, seed=seed)
            spec = {
                "id": f"{case.name}-{variant}-s{seed}",
                "case": case.name,
                "variant": variant,
                "seed": seed,
                "threads": config.threads,
                "diagnosed": variant in (UNTOUCHED, *case.diagnosed),
                "settings": plain(asdict(replace(case.settings, run=run, model=replace(model, pool=pool)))),
                "code": code_version(),
            }
            specs.append(_resolved(spec, specs))
    return specs


def _resolved(spec: Spec, others: Sequence[Spec]) -> Spec:
    """The specification with what its settings come to: all defaults, and hashes of data and files. Checked thereby."""
    # The seed does not change it.
    same = [other["config"] for other in others if all(other[name] == spec[name] for name in ("case", "variant"))]
    try:
        config = same[0] if same else Inputs(read_record(Settings, spec["settings"])).config(SECTIONS)
    except InputError as error:
        raise type(error)(expected=f"{error.expected} (for {spec['id']})", got=error.got, do=error.do) from error
    return {**spec, "config": plain({**config, "seed": spec["seed"]})}


def second_runs(
    config: StudyConfig, first: Sequence[Spec], results: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Spec], dict[str, str]]:
    """The repairs of networks that have been diagnosed: of the first runs of a repair study, whose results are by id.

    `finetune-best` has a run for each of the layers with weights. Beside all runs there is the reason of those that
    cannot be made: a network that failed, or a diagnosis that leaves too few layers, or poolings, to tell the blamed
    from the cleared.
    """
    assert config.repair is not None
    specs: list[Spec] = []
    refused = {}
    for base, variant in product(first, config.variants):
        (case,) = (case for case in config.cases if case.name == base["case"])
        if variant not in case.variants:
            continue
        name, swap = f"{case.name}-{variant}-s{base['seed']}", variant.startswith("swap")
        result = results.get(base["id"])
        spec = {**base, "id": name, "variant": variant, "base": base["id"], "pool": config.repair.pool}
        spec |= {"base_state_sha256": None, "targets": [], "parameters": []}
        if not swap:
            model = {**base["settings"]["model"], "epochs": config.repair.epochs}
            training = plain(asdict(fine_tuning(config.repair, case)))
            spec["settings"] = {**base["settings"], "model": model, "training": training}
        if result is None:
            refused[name] = f"{base['id']}, which it would repair, failed"
            specs.append(_resolved(spec, specs))
            continue
        spec["base_state_sha256"], chosen = result["classifier"]["state_sha256"], []
        try:
            chosen = targets(variant, result["units"], result["layers"], config.repair, seed=base["seed"])
        except ConfigError as error:
            refused[name] = str(error)
        for names in [[unit] for unit in chosen] if variant == BEST else [chosen]:
            own = f"{case.name}-{variant}-{names[0]}-s{base['seed']}" if variant == BEST else name
            units = [unit for unit in result["units"] if swap or unit["name"] in names]
            parameters = [parameter for unit in units for parameter in unit["parameters"]]
            specs.append(_resolved({**spec, "id": own, "targets": names, "parameters": parameters}, specs))
    return specs, refused


def spec_hash(spec: Spec) -> str:
    """Hash of a specification."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def work_hash(spec: Spec) -> str:
    """Hash of what a run does, whatever a study calls it: two runs of the same hash have the same result."""
    return spec_hash({key: value for key, value in spec.items() if key not in ("id", "case", "variant")})
