"""One run of a study, in a process that an executor starts: `python -m interpretgan.studies.job FOLDER PARENT`."""

import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from interpretgan.diagnosis.predictions import attacker
from interpretgan.diagnosis.reliability import is_unreliable
from interpretgan.errors import InterpretGANError, RunFolderError
from interpretgan.models import load_weights
from interpretgan.models.architectures.pooling import pooling
from interpretgan.pipeline.inputs import Inputs
from interpretgan.pipeline.networks import say_to_stderr
from interpretgan.pipeline.run_diagnosis import Run
from interpretgan.pipeline.run_folder import WEIGHTS_FILE, differences
from interpretgan.pipeline.settings import Settings
from interpretgan.report import save_explanation
from interpretgan.store.child_processes import end_with_parent
from interpretgan.store.files import plain, read_json, write_json
from interpretgan.store.provenance import provenance
from interpretgan.studies.config import read_record
from interpretgan.studies.definitions import other_definitions
from interpretgan.studies.network_repairs import only, swappable, units_of
from interpretgan.studies.plan import MACHINE, SECTIONS, Spec, code_version, spec_hash

REFUSED = 2  #: Exit status where the run cannot be made, and could not be on a second attempt.
WORK = "work"  #: Folder of what a run makes on its way.
ROW = ("name", "kind", "natural", "adversarial", "survival", "vulnerability", "vulnerability_bits", "let_in",
       "information_loss", "class_information", "class_accuracy", "flags")  # fmt: skip
"""What a result says of a layer, where it was measured."""


def main(folder: Path) -> int:
    """Make the run whose `spec.json` is in the folder, and write `result.json` there; its exit status."""
    began = time.perf_counter()
    say_to_stderr(f"process {os.getpid()}")
    try:
        spec = read_json(folder / "spec.json")
        result = execute(spec, folder)
        made = provenance(spec["seed"], device=spec["settings"]["run"]["device"])
        record = {"schema": 2, "spec_sha256": spec_hash(spec), "result": result, "seconds": time.perf_counter() - began}
        write_json(folder / "result.json", {**record, "machine": {name: made[name] for name in MACHINE}})
    except InterpretGANError as error:
        say_to_stderr(" ".join(str(error).split()))
        return REFUSED
    return 0


def execute(spec: Spec, folder: Path) -> dict[str, Any]:
    """Make a run in its folder, beside those of the study's other runs. What an earlier attempt left there is used.

    Returns:
        `classifier`, `accuracy`, `noise`, `examples`, `right` (which examples each attack left right, bits as
        hexadecimal), `curve` over eps, `flags`; of a diagnosed network `layers`, `diagnosis` and `units` (see
        `units_of`); of a repair `repaired`.

    Raises:
        InterpretGANError: Something cannot be made, or this is not the code or the data of the specification.
    """
    with Run(Inputs(read_record(Settings, spec["settings"])), SECTIONS, folder / WORK) as run:
        wanted = {name: spec[name] for name in ("code", "config")}
        different = differences(wanted, plain({"code": code_version(), "config": run.config}))
        if different:
            got = f"others, that differ in {', '.join(list(different.values())[:3])}"
            do = "leave both alone while a study runs, or start it in a new folder"
            raise RunFolderError(expected="the code and the data of the study", got=got, do=do)
        if "base" in spec:
            return _repaired(run, spec, folder.parent)
        result = _evaluated(run)
        return result | _diagnosed(run, spec, folder) if spec["diagnosed"] else result


def _repaired(run: Run, spec: Spec, runs: Path) -> dict[str, Any]:
    """Train a network as the settings say, but not as it was built: changed where the specification says."""
    classifier = run.inputs.classifier
    if spec["variant"].startswith("swap"):
        channels = {layer.name: layer.shape[0] for layer in run.inputs.anatomy(classifier).layers}
        for name in spec["targets"]:
            classifier.model.set_submodule(name, pooling(spec["pool"], channels[name]))
    else:
        base = runs / spec["base"] / WORK / WEIGHTS_FILE
        load_weights(classifier.model, base)
        if classifier.state_sha256() != spec["base_state_sha256"]:
            do = "delete the folder of that run and of its repairs, and run the study again"
            raise RunFolderError(expected=f"the network that was diagnosed in {base}", got="other weights", do=do)
    run.say(f"{spec['variant']}: {', '.join(spec['targets'])}")
    with only(classifier.model, spec["parameters"]):
        _ = run.classifier  # trains it
    result = _evaluated(run)
    del result["classifier"]["test_accuracy"]  # repairs are compared on the attacked images alone
    size = sum(value.numel() for name, value in classifier.model.named_parameters() if name in spec["parameters"])
    repaired = {"layers": spec["targets"], "parameters": size, "recipe": run.config["model"]["training"]}
    return {**result, "repaired": repaired}


def _evaluated(run: Run) -> dict[str, Any]:
    record = run.evaluation().to_dict()
    with np.load(run.path("evaluation.npz"), allow_pickle=False) as saved:
        right = {name: np.packbits(saved[name]).tobytes().hex() for name in saved.files if name != "labels"}
    return {
        **{name: record[name] for name in ("classifier", "accuracy", "flags")},
        "noise": record["controls"]["noise"],
        "examples": record["data"]["examples"],
        "right": right,
        "curve": record["curves"]["eps"],
    }


def _diagnosed(run: Run, spec: Spec, folder: Path) -> dict[str, Any]:
    """What a study compares of a diagnosis; the image's row is left out."""
    _share_judge(run, spec, folder)
    diagnosis, classifier, seed = run.diagnosis(), run.classifier, spec["seed"]
    if not (folder / "explanations.npz").exists():
        save_explanation(folder / "explanations.npz", run.telling_explanation())
    record, poolings = diagnosis.to_dict(), swappable(classifier.model, run.layers)
    perturb, count = attacker(classifier, run.inputs.threat_model, seed=seed), record["data"]["examples"]
    train, test = run.inputs.train, run.inputs.test
    others = other_definitions(classifier, run.layers, train, test, count, adversarial=perturb, seed=seed)
    rows = [
        {
            **{name: row[name] for name in ROW if row.get(name) is not None},
            "pooling": layer.name in poolings,
            "unreliable": is_unreliable(layer),
            **{name: values[index] for name, values in others.items()},
        }
        for index, (layer, row) in enumerate(zip(diagnosis.layers[1:], record["layers"][1:], strict=True))
    ]
    for weights in [*run.path("").glob("generator-*.safetensors"), run.path("information.safetensors")]:
        weights.unlink(missing_ok=True)  # tens of megabytes that the folder can make again
    return {
        "layers": rows,
        "diagnosis": {
            **{name: record[name] for name in ("accuracy", "judge", "controls", "flags")},
            "class_information": record["layers"][0].get("class_information"),
        },
        "units": units_of(classifier, run.inputs.anatomy(classifier), rows),
    }


def _share_judge(run: Run, spec: Spec, folder: Path) -> None:
    """Take the judge that another variant trained, or leave it for them: variants of a seed have the same one."""
    names = ("data", "judge", "attack", "seed", "device")
    key = spec_hash({name: spec["config"][name] for name in names} | {"code": spec["code"]})
    place, work = folder.parents[1] / "judges" / key[:16], folder / WORK
    if place.exists():
        shutil.copytree(place, work, dirs_exist_ok=True)
    _ = run.judge
    if not place.exists() and (work / "judge.json").exists():
        temporary = place.with_name(f".{spec['id']}")
        temporary.mkdir(parents=True, exist_ok=True)
        for file in work.glob("judge.*"):
            shutil.copyfile(file, temporary / file.name)
        with suppress(OSError):  # another run was faster, and made the same
            temporary.rename(place)
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    end_with_parent(int(sys.argv[2]))
    sys.exit(main(Path(sys.argv[1])))
