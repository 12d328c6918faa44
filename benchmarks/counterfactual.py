"""Which way towards a class ends in pictures that the judge, who has no part in it, takes for that class.

At layers of the pretrained LeNet, on MNIST, each image towards another class drawn at random. The ways: to the mean of
the class, to the mean of the ten nearest natural latents of it (`counterfactual_path`), and a descent on the margin in
the directions in which natural latents vary. Beside them a plain descent, which is an attack, and two controls: ten
nearest latents of a class as a network with random weights after the layer sees it, and a random direction among
natural latents, as long as the way to the ten nearest. `python -m benchmarks.counterfactual` needs MNIST, and takes two
minutes on one core.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import interpretgan as ig
from interpretgan.features.conductance import rest_of_network
from interpretgan.features.latent_paths import OF_CLASS, nearest
from interpretgan.models import build_model
from interpretgan.statistics import wilson
from interpretgan.store.files import write_json
from interpretgan.store.provenance import provenance

RESULT, JUDGE = Path("results/benchmarks/counterfactual.json"), Path("results/mnist-lenet5-max/judge.safetensors")
LAYERS, STEPS = ("pool1", "pool2", "fc1", "fc2"), 300
FIRST, IMAGES, REFERENCE = 100, 200, 2000  #: The first 100 test images were looked at while the ways were written.
STRIDES = 200  #: Of a descent at most, each one deviation of natural latents.


def margin(logits: Tensor, classes: Tensor) -> Tensor:
    """Of a class over the best other one."""
    others = logits.scatter(1, classes[:, None], -torch.inf).amax(dim=1)
    return logits.gather(1, classes[:, None])[:, 0] - others


def like(row: Tensor, latent: Tensor) -> Tensor:
    """A number for each image, in a shape that broadcasts with latents."""
    return row.view(-1, *[1] * (latent.ndim - 1))


def descend(
    logits: Callable[[Tensor], Tensor], z: Tensor, towards: Tensor, enough: Tensor, turned: Callable[[Tensor], Tensor]
) -> Tensor:
    """Raise the margin of a class to that of natural images of the class, along `turned` of its gradient."""
    point = z.clone()
    for _ in range(STRIDES):
        point.requires_grad_()
        reached = margin(logits(point), towards)
        if bool((reached >= enough).all()):
            break
        (gradient,) = torch.autograd.grad(reached.sum(), point)
        step = turned(gradient)
        size = (gradient * step).flatten(1).sum(dim=1).clamp_min(1e-30).sqrt()
        point = torch.where(like(reached < enough, z), point + step / like(size, z), point).detach()
    return point.detach()


def with_random_weights(classifier: ig.Classifier, layer: ig.Layer) -> ig.Classifier:
    """The same network, with random weights after the layer."""
    model = copy.deepcopy(classifier.model)
    modules = dict(model.named_modules())  # in the order of execution
    torch.manual_seed(0)
    for name in list(modules)[list(modules).index(layer.name) + 1 :]:
        if hasattr(modules[name], "reset_parameters"):
            modules[name].reset_parameters()
    return ig.Classifier(model, classifier.bounds, classifier.mean, classifier.std)


def of_layer(
    interpreter: ig.InterpretGAN, layer: ig.Layer, judge: ig.Judge, sets: tuple[ig.ImageSet, ig.ImageSet]
) -> dict[str, Any]:
    """For each way the share of ends that the judge takes for the class, and how far it goes."""
    classifier, index = interpreter.classifier, torch.arange(FIRST, FIRST + IMAGES)
    random = torch.Generator().manual_seed(0)
    images, labels = sets[1].batch(index)
    towards = (labels + torch.randint(1, 10, (IMAGES,), generator=random)) % 10
    kept = classifier.logits(images).argmax(dim=1) != towards
    images, towards, index = images[kept], towards[kept], index[kept]
    references, _ = sets[0].batch(torch.arange(REFERENCE))
    known, latents = ig.capture(classifier, references, [layer])
    z, natural = ig.capture(classifier, images, [layer])[1][layer.name], latents[layer.name]
    seen, spread = known.argmax(dim=1), (natural - natural.mean(dim=0)).flatten(1)
    rest, everyone = rest_of_network(classifier, layer, z, images), torch.arange(len(z))
    enough = torch.stack([margin(known, seen)[seen == number].median() for number in range(10)])[towards]
    unlike = ig.replay(with_random_weights(classifier, layer), layer, natural, references)
    few = (unlike - unlike.mean(dim=0)).topk(OF_CLASS, dim=0).indices  # of each class, as random weights have it

    def logits(latent: Tensor) -> Tensor:
        return rest(latent, everyone)

    def each(end: Callable[[int], Tensor]) -> Tensor:
        ends = torch.empty_like(z)
        for number in range(10):
            ends[towards == number] = end(number)
        return ends

    near = each(lambda number: nearest(z[towards == number], natural[seen == number]))
    away = (torch.randn(len(z), len(spread), generator=random) @ spread).view_as(z)
    length = (near - z).flatten(1).norm(dim=1)
    ends = {
        "mean of the class": each(lambda number: natural[seen == number].mean(dim=0)),
        "ten nearest": near,
        "descent where natural latents vary": descend(
            logits, z, towards, enough, lambda g: (g.flatten(1) @ spread.T @ spread / len(spread)).view_as(g)
        ),
        "plain descent": descend(logits, z, towards, enough, lambda g: g * float(spread.var(dim=0).mean())),
        "random weights": each(lambda number: nearest(z[towards == number], natural[few[:, number]])),
        "random direction": z + away * like(length / away.flatten(1).norm(dim=1), z),
    }
    found = {}
    for name, end in ends.items():
        right = judge.predict(interpreter.draw_from(layer, end, interpreter.noise_of(index))) == towards
        share = wilson(int(right.sum()), len(right), 0.95)
        with torch.no_grad():
            network = float((logits(end).argmax(dim=1) == towards).float().mean())
        far = float(((end - z).flatten(1).norm(dim=1) / length).mean())  # as a share of the way to the ten nearest
        found[name] = {"value": share.value, "low": share.low, "high": share.high, "network": network, "length": far}
        print(layer.name, name, found[name], flush=True)
    return {"images": len(z), "ways": found}


def main(result: Path = RESULT) -> None:
    """Train a generator, measure, print, and write the record."""
    classifier = ig.load_classifier("lenet5-max")
    sets = ig.load_data("mnist", "train"), ig.load_data("mnist", "test")
    judge = ig.Judge.load(
        JUDGE, ig.Classifier(build_model("judge", in_channels=1, num_classes=10, image_size=(28, 28)))
    )
    layers = [layer for layer in ig.find_layers(classifier, sets[0].batch([0, 1])[0]) if layer.name in LAYERS]
    config = ig.GANConfig(steps=STEPS)
    interpreter = ig.InterpretGAN(classifier, layers, config=config).fit(sets[0], on_progress=False)
    record = {"command": "python -m benchmarks.counterfactual", "first": FIRST, "judge": str(JUDGE)}
    found = {layer.name: of_layer(interpreter, layer, judge, sets) for layer in layers}
    write_json(result, {**record, "layers": found, "provenance": provenance(0)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--result", type=Path, default=RESULT)
    torch.set_num_threads(1)
    main(parser.parse_args().result)
