"""What a model that comes with its weights decides, unless the user does: size and kind of images, scaling, classes.

A model of this package decides all of it, and is refused where options or images say otherwise.
"""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet, class_order, load_data, renumbered
from interpretgan.errors import ConfigError, InputError, WeightsError
from interpretgan.models import Card, NamedModel, card_names, find_named, load_weights, read_card
from interpretgan.models.weights import NormalisationLeftOut
from interpretgan.pipeline.options import JudgeOptions, ModelOptions
from interpretgan.pipeline.settings import Settings


def load_split(settings: Settings, split: str, model: NamedModel | None) -> ImageSet:
    """The images of a split, as the model wants them where the settings leave it open.

    Where the model has all classes of the images by name, they get its numbers.
    """
    options, size = settings.data, settings.data.image_size
    images = load_data(
        options.data,
        split,
        data_dir=options.data_dir,
        image_size=model.image_size if size is None and model is not None else size,
        channels=options.channels or (None if model is None else model.channels),
        classes=options.classes,
    )
    names = _classes(settings, model)
    if model is None or not names:
        return images
    order, _ = class_order(images.classes, names, model.ids)
    return images if order is None else renumbered(images, order, names)


def normalised(model: NamedModel, settings: Settings, classes: int) -> Classifier:
    """The classifier with its weights, or with those of the user's own file, for as many classes."""
    options = settings.model
    module = model.load(None if options.file is None else classes)
    mean, std = options.mean or model.mean, options.std or model.std
    if options.file is not None:
        load_own(module, options.file, stated=mean is not None or std is not None)
    return Classifier(module, mean=mean, std=std)


def load_own(module: nn.Module, file: Path, *, stated: bool) -> None:
    """Load a file of the user's; a `WeightsError` where it has a normalisation as well, and none is stated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if stated else "error", NormalisationLeftOut)
        try:
            load_weights(module, file)
        except NormalisationLeftOut as error:
            expected, got = "the normalisation in a weights file to be stated", str(error).partition(": ")[0]
            raise WeightsError(expected=expected, got=got, do="say --mean and --std") from None


def named_judge(options: JudgeOptions, images: ImageSet, bounds: tuple[float, float]) -> Classifier:
    """A judge that comes with its weights, or has those of the user's own file; of these images and their classes."""
    found = find_named(options.judge)
    fits = (found.channels or images.shape[0], *(found.image_size or images.shape[1:]))
    if fits != images.shape or list(bounds) != [0, 1]:
        expected = f"images {in_words(fits)} of pixels in [0, 1] for the judge {found.name}"
        do = "bring them to that size with --image-size, or choose another judge"
        raise ConfigError(expected=expected, got=f"{in_words(images.shape)} of pixels in {list(bounds)}", do=do)
    names = list(found.classes if options.judge_weights is None else ())
    order, _ = class_order(images.classes, names, found.ids)
    if names and order != list(range(len(names))):
        expected = f"a judge of the classes of {images.name}, in their order ({_some(tuple(images.classes))})"
        got = f"{found.name}, of {len(names):,} classes ({_some(found.classes)})"
        raise ConfigError(expected=expected, got=got, do="choose another judge, or leave --judge out: one is trained")
    module = found.load(None if options.judge_weights is None else len(images.classes))
    if options.judge_weights is not None:
        load_weights(module, options.judge_weights)
    return Classifier(module, mean=found.mean, std=found.std)


def require_judge(judge: Classifier, classifier: Classifier, images: ImageSet, probe: Tensor) -> None:
    """Refuse (`ConfigError`) a judge that comes trained for other classes, or that is the classifier itself."""
    do = "choose another judge, or leave it out: one is trained"
    logits, classes = judge.logits(probe).shape[1], len(images.classes)
    if logits != classes:
        expected, got = f"a judge of the {classes:,} classes of {images.name}", f"one of {logits:,}"
        raise ConfigError(expected=expected, got=got, do=do)
    if judge.identity() == classifier.identity() and judge.state_sha256() == classifier.state_sha256():
        expected = "a judge of its own, which does not see as the classifier does"
        raise ConfigError(expected=expected, got="one network for both", do=do)


def model_lines(settings: Settings, model: NamedModel, images: ImageSet, logits: int) -> list[str]:
    """What is taken from the model, in one line, and in another where its classes are not those of the images."""
    chosen, found = vars(settings.data) | vars(settings.model), len(images.classes)
    lines = [
        replace(model, classes=_classes(settings, model)).described([k for k in model.preset() if chosen[k] is None])
    ]
    stranger = _stranger(settings, model, images)
    if stranger or logits != found:
        first = "" if found == logits else f"the first {found:,} of "
        why = f": it has no {stranger!r}" if stranger else ""
        lines.append(f"classes: the {found:,} of {images.name} are taken for {first}the model's {logits:,}{why}")
    return lines


def require_its_classes(settings: Settings, model: NamedModel | None, images: ImageSet) -> None:
    """Refuse (`ConfigError`) images of other classes than the model's, unless as many and in their places."""
    stranger = _stranger(settings, model, images)
    if model is None or not stranger:
        return
    places = [class_order([name], model.classes, model.ids)[0] for name in images.classes]
    misplaced = any(place not in (None, [number]) for number, place in enumerate(places))
    if misplaced or len(images.classes) != len(model.classes):
        expected = f"images of the {len(model.classes):,} classes of {model.name} ({_some(model.classes)})"
        got = f"the {len(images.classes):,} of {images.name}, of which it has no {stranger!r}"
        do = "name the class folders as the model does, or state all its classes in order with --classes FILE"
        raise ConfigError(expected=expected, got=got, do=do)


def shipped_card(options: ModelOptions, images: ImageSet, data_name: str) -> Card | None:
    """The card of a classifier that comes with the package, checked against options and images; `None`: another."""
    if options.model not in card_names() and not options.shipped:
        return None
    card = read_card(options.model)
    if not options.shipped:
        raise ConfigError(
            expected=f"--weights pretrained with {card.name}",
            got=f"--weights {options.weights}" if options.weights else "no weights",
            do=f"add --weights pretrained, or name the architecture alone: "
            f"--model {card.architecture} --pool {card.pool}",
        )
    for name in ("pool", "width"):
        if getattr(options, name) not in (None, getattr(card, name)):
            expected = f"--{name} {getattr(card, name)}, as {card.name} was trained"
            do = "leave it out, or choose another of `interpretgan models`"
            raise ConfigError(expected=expected, got=f"--{name} {getattr(options, name)}", do=do)
    wanted = (card.in_channels, *card.image_size)
    if images.shape != wanted or len(images.classes) != card.num_classes:
        expected = f"images {in_words(wanted)} of {card.num_classes} classes for {card.name}"
        got = f"{in_words(images.shape)} of {len(images.classes)} classes in {data_name}"
        do = f"say --data {card.data['name']}, or bring the images to that size with --image-size"
        raise ConfigError(expected=expected, got=got, do=do)
    return card


def robust_card(name: str, classifier: str, images: ImageSet, data_name: str, do: str) -> Card:
    """The card of a recognition network, robust, of the images' classes and another one than the classifier."""
    card = read_card(name)
    if card.eps is None or name == classifier:
        expected = "a recognition network that is robust, and not the classifier under diagnosis"
        got = f"{name}, {'naturally trained' if card.eps is None else 'for both'}"
        raise ConfigError(expected=expected, got=got, do=do)
    if (card.in_channels, *card.image_size) != images.shape or list(card.classes) != list(images.classes):
        expected = f"a recognition network of the classes of {data_name}"
        raise ConfigError(expected=expected, got=f"{name}, of {card.data['name']}", do=do)
    return card


def recognition_identity(network: Classifier, file: Path, probe: Tensor) -> dict[str, Any]:
    """What decides a recognition network from a file; it must answer to images."""
    try:
        network.logits(probe)
    except InputError as error:
        do = "name another --recognition-network"
        raise WeightsError(expected=error.expected, got=f"{error.got} with {file}", do=do) from None
    return {"recognition_network": file.name, "recognition_network_sha256": network.state_sha256()}


def require_another(network: Classifier | None, other: Classifier, name: str) -> None:
    """Refuse (`ConfigError`) a recognition network that is another network of the run as well."""
    if network is not None and network.state_sha256() == other.state_sha256():
        expected, do = f"a recognition network that is not the {name}", "train another one, with another seed"
        raise ConfigError(expected=expected, got="one network for both", do=do)


def in_words(shape: tuple[int, ...]) -> str:
    """`3x32x32`."""
    return "x".join(map(str, shape))


def _classes(settings: Settings, model: NamedModel | None) -> tuple[str, ...]:
    """Names of the model's classes that those of the images are looked up in; none where the user has decided."""
    if model is None or settings.data.classes is not None or settings.model.file is not None:
        return ()
    return model.classes


def _stranger(settings: Settings, model: NamedModel | None, images: ImageSet) -> str | None:
    """The first class of the images that the model does not have, where it has names at all."""
    names = _classes(settings, model)
    if model is None or not names:
        return None
    return class_order(images.classes, names, model.ids)[1]


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(name.partition(",")[0] for name in names[:3]) + ", ..."
