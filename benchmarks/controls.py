"""Whether perturbations that aim at nothing leave a diagnosis alone: its controls, over seeds of the generator.

LeNet-5, trained naturally, on PGD and with TRADES, is diagnosed at several sizes; the robust ones were trained against
0.3. Each generator is trained once for all sizes. The result has V of every layer under the attack and under each
control. What it has already is not measured again. The record is of the default, and for the robust networks of
`--sizes 0.3 --steps 600`. Two older ones are kept beside it, `controls.json` (with `--image-noise 0` as well) and
`controls_look_again.json`: their noise had uniform sizes, and half of its pixels moved up.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from interpretgan import GANConfig, InterpretGAN, Judge, ThreatModel, diagnose, load_classifier, load_data
from interpretgan.classifier import Classifier
from interpretgan.diagnosis.controls import CONTROLS
from interpretgan.diagnosis.reliability import failed_kinds
from interpretgan.gan.image_noise import GREY_NOISE
from interpretgan.gan.train import GREY_STEPS
from interpretgan.models import build_model
from interpretgan.store.files import read_json, write_json
from interpretgan.store.provenance import provenance

NETWORKS = ("lenet5-max", "lenet5-max-pgd", "lenet5-max-trades")
SIZES, EXAMPLES = "0.2,0.3", 1000
JUDGE = Path("results/mnist-lenet5-max/judge.safetensors")
RESULT = Path("results/benchmarks/controls_any_share.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder that holds mnist/ as parquet")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--sizes", default=SIZES, help="of the perturbations")
    parser.add_argument("--image-noise", type=float, default=GREY_NOISE, help="in the training of the generators")
    parser.add_argument("--steps", type=int, default=GREY_STEPS, help="of that training")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()

    train, test = (load_data("mnist", split, data_dir=options.data_dir) for split in ("train", "test"))
    judge = Judge.load(JUDGE, Classifier(build_model("judge", in_channels=1, num_classes=10, image_size=28)))
    found: list[dict[str, Any]] = read_json(options.out)["diagnoses"] if options.out.exists() else []
    measured = {tuple(row[name] for name in ("network", "seed", "eps", "image_noise", "steps")) for row in found}
    for network in options.networks.split(","):
        classifier = load_classifier(network)
        for seed in range(options.seeds):
            sizes = [float(size) for size in options.sizes.split(",")]
            trained = (options.image_noise, options.steps)
            if not (left := [eps for eps in sizes if (network, seed, eps, *trained) not in measured]):
                continue
            config = GANConfig(image_noise=options.image_noise, steps=options.steps)
            interpreter = InterpretGAN(classifier, config=config, seed=seed).fit(train)
            for eps in left:
                threat_model = ThreatModel("linf", eps, steps=20)
                diagnosis = diagnose(
                    interpreter, judge, test, threat_model=threat_model, examples=EXAMPLES, bootstrap=500
                )
                names = {"attack": "vulnerability", **{control: f"vulnerability_{control}" for control in CONTROLS}}
                layers = [
                    {
                        "name": layer.name, "natural": layer.natural,
                        **{name: asdict(getattr(layer, field)) for name, field in names.items()},
                    }
                    for layer in diagnosis.layers
                ]  # fmt: skip
                failed = sorted(failed_kinds(diagnosis.layers, diagnosis.accuracy))
                row = {"network": network, "seed": seed, "eps": eps}
                row |= {"image_noise": options.image_noise, "steps": options.steps, "failed": failed, "layers": layers}
                found.append({**row, "accuracy": dict(diagnosis.accuracy), "controls": dict(diagnosis.controls)})
                print(f"{network}, seed {seed}, eps {eps}: {', '.join(failed) or 'all controls hold'}", flush=True)
                write_json(options.out, {"diagnoses": found, "provenance": provenance(seed=0)})
    print(f"result: {options.out}")


if __name__ == "__main__":
    main()
