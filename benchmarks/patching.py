"""Whether the units that are blamed bring the class back, at every layer of the pretrained networks.

The most responsible tenth of the units of the adversarial latent gets its natural values; so does the tenth that
changed most, and a random one. `python -m benchmarks.patching` needs MNIST and CIFAR-10.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import interpretgan as ig
from interpretgan.features.activation_patching import ORDERS
from interpretgan.features.modified import LayerUnits
from interpretgan.models import read_card
from interpretgan.report.chart_style import svg
from interpretgan.statistics import Interval
from interpretgan.store.files import atomic_write_bytes, write_json
from interpretgan.store.provenance import provenance

RESULT, FIGURE = Path("results/benchmarks/patching.json"), Path("docs/patching.svg")
DRAWN = ("lenet5-max", "fc1")  #: The network and the layer, where its class turns, that the figure shows.
#: Pretrained network, data, eps, images, and layers. `None`: all.
NETWORKS = (
    ("lenet5-max", "mnist", 0.2, 1000, None),
    ("vgg-small-max", "cifar10", 2 / 255, 100, ("relu1_2", "relu2_2", "relu3_2", "relu4_1", "mean", "fc")),
)
LEVEL = 0.95


def of_layer(layer: LayerUnits) -> dict[str, Any]:
    """The figures of one layer, each with its interval."""
    proof, record = layer.patching, dict[str, Any](name=layer.name, units=layer.units)
    assert proof is not None
    within = float((layer.error <= 1e-3).mean())
    record |= {"completeness": {"largest_error": float(layer.error.max()), "within_1e-3": within}}
    record |= {
        "tenth": proof.tenth,
        "smallest": {
            str(share): float(np.quantile(proof.smallest(), share, method="inverted_cdf")) for share in (0.5, 0.9)
        },
    }
    for name, reverse in (("returned", False), ("turned", True)):
        shares = {order: proof.share(order, proof.tenth, reverse=reverse, confidence=LEVEL) for order in ORDERS}
        record[name] = {order: _interval(share) for order, share in shares.items() if share is not None}
    areas = {order: proof.faithfulness(order, confidence=LEVEL) for order in ORDERS[1:]}
    record["faithfulness"] = {order: _interval(area) for order, area in areas.items() if area is not None}
    record["sizes"] = proof.sizes
    record["curves"] = {order: proof.returned[order].mean(axis=0).round(4) for order in ORDERS}
    return record


def _interval(share: Interval) -> dict[str, float]:
    return {name: getattr(share, name) for name in ("value", "low", "high")}


def main(images: int | None = None, result: Path = RESULT, figure: Path = FIGURE) -> None:
    """Measure, write the record, and draw the first network's layer."""
    networks = {}
    for name, data, eps, count, layers in NETWORKS:
        began, classifier = time.perf_counter(), ig.load_classifier(name)
        x, y = ig.load_data(data, "test").batch(range(images or count))
        threat_model = ig.ThreatModel("linf", eps)
        adversarial = ig.attack(classifier, x, y, threat_model, seed=0)
        found = ig.modified_features(classifier, x, adversarial, y, layers=layers)
        networks[name] = {
            "data": data, "threat_model": threat_model.to_dict(), "images": len(x), "turned": int(found.turned.sum()),
            "layers": [of_layer(layer) for layer in found.layers], "seconds": time.perf_counter() - began,
        }  # fmt: skip
        print(name)
        print(found.patching_frame().to_string(), flush=True)
        if name == DRAWN[0]:
            atomic_write_bytes(figure, svg(found.plot(DRAWN[1], classes=read_card(name).classes)))
    command = "python -m benchmarks.patching"
    write_json(result, {"command": command, "networks": networks, "provenance": provenance(0)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, help="of each network, to try it out")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    given = parser.parse_args()
    main(given.images, given.result, given.figure)
