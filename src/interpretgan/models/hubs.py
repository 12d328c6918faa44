"""Public models: what transformers, timm and torchvision know of theirs, and how each loads them."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn

from interpretgan.errors import ModelError
from interpretgan.models.named import NamedModel, loading

PIXELS = 255  # processors of transformers take pixels up to this one


def find_transformers(name: str, transformers: Any) -> NamedModel:
    """An image classifier of the hub of Hugging Face, or a folder that `save_pretrained` wrote.

    Its processor says how pixels are scaled: `(p × rescale - offset - mean) / std` for p up to 255.
    """
    folder = _folder(name)
    place, said = (str(folder), f"hf:{folder.name}") if folder else (name, f"hf:{name}")
    fetch = f"where there is a network, hf download {name} --local-dir FOLDER, and say --model hf:FOLDER"
    with loading(said, fetch), _quiet(transformers if folder else None):
        config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
        kinds = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
        if type(config) not in kinds:
            got = f"one of the kind {config.model_type}"
            raise ModelError(expected=f"an image classifier as {said}", got=got, do="choose one of that task")
        file = transformers.utils.cached_file(
            place, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False
        )
        processor = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
        channels = getattr(config, "num_channels", 3)
        mean, std = _normalisation(processor, channels, said) if processor else (None, None)

    def load(num_classes: int | None) -> nn.Module:
        automatic = transformers.AutoModelForImageClassification
        with loading(said, fetch), _quiet(transformers if folder else None):
            if num_classes is not None:
                config.num_labels = num_classes
                fresh: nn.Module = automatic.from_config(config, trust_remote_code=False, dtype=torch.float32)
                return fresh
            model: nn.Module
            model, report = automatic.from_pretrained(
                place, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
            )
        if missing := sorted(str(key) for key in (*report["missing_keys"], *report["mismatched_keys"])):
            got = f"none for {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            do = "choose one that was trained to classify: what is missing would be random"
            raise ModelError(expected=f"all weights of {type(model).__name__} in {said}", got=got, do=do)
        return model

    names = [str(config.id2label[number]) for number in range(len(config.id2label))]
    if all(label == f"LABEL_{number}" for number, label in enumerate(names)):
        names = []
    return NamedModel(
        said, load, image_size=_size_of(processor, config), channels=channels, mean=mean, std=std, classes=tuple(names)
    )


def _normalisation(
    processor: Mapping[str, Any], channels: int, name: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of pixels in [0, 1] that do what the processor does with pixels up to 255."""
    if processor.get("do_flip_channel_order"):
        do = "turn its channels around in a function of your own: --model package.module:factory"
        raise ModelError(expected="a model of RGB images", got=f"{name}, of BGR", do=do)
    rescaled, normalised = processor.get("do_rescale", True), processor.get("do_normalize", "image_mean" in processor)
    scale = PIXELS * processor.get("rescale_factor", 1 / PIXELS) if rescaled else PIXELS
    offset = 1.0 if rescaled and processor.get("rescale_offset") else 0.0
    means, stds = (np.broadcast_to(processor.get(key, 1.0), channels) for key in ("image_mean", "image_std"))
    mean = (offset + (means if normalised else np.zeros(channels))) / scale
    # EfficientNet's processor divides a second time.
    std = (stds if normalised else np.ones(channels)) * (stds if processor.get("include_top") else 1.0) / scale
    return tuple(mean.tolist()), tuple(std.tolist())


def _size_of(processor: Mapping[str, Any], config: Any) -> tuple[int, int] | None:
    """Height and width of the images that a processor makes; else those in the configuration."""
    sizes: list[Any] = [processor.get("crop_size")] if processor.get("do_center_crop") else []
    sizes += [processor.get("size")] if processor.get("do_resize", True) else []
    for size in (*sizes, getattr(config, "image_size", None)):
        if isinstance(size, Mapping):
            edge = size.get("shortest_edge")
            height, width = size.get("height", edge), size.get("width", edge)
        else:
            height, width = size if isinstance(size, list | tuple) and len(size) == 2 else (size, size)
        if isinstance(height, int) and isinstance(width, int):
            return height, width
    return None


def find_timm(name: str, timm: Any) -> NamedModel:
    """A model of timm: by its name there (with or without a tag), on the hub as OWNER/NAME, or in a folder of one."""
    folder = _folder(name)
    said = f"timm:{folder.name}" if folder else f"timm:{name}"
    fetch = "where there is a network, load it once, and copy the cache; or download its folder: --model timm:./FOLDER"
    source = f"local-dir:{folder}" if folder else f"hf-hub:{name}" if "/" in name and ":" not in name else name
    with loading(said, fetch), _quiet():
        from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_data_config
        from timm.models import load_model_config_from_hf

        if folder:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            beside = {key: config[key] for key in ("num_classes", "label_names", "label_descriptions") if key in config}
            found = {**config.get("pretrained_cfg", {}), **beside}
        elif ":" in source:
            found = load_model_config_from_hf(source.partition(":")[2])[0]
        else:
            architecture, _, tag = name.partition(".")
            known = timm.list_pretrained(f"{architecture}.*") if timm.is_model(architecture) else timm.list_models()
            if not timm.is_model(architecture) or (tag and name not in known):
                _refuse_unknown("a model of timm", name, known)
            found = timm.get_pretrained_cfg(name).to_dict()
            if not any(found.get(key) for key in ("url", "file", "hf_hub_id")):
                found["weightless"] = True
        values = resolve_data_config(pretrained_cfg=found)
        if not found.get("num_classes"):
            do = "choose one that was trained to classify"
            raise ModelError(expected=f"a classifier as {said}", got="a model without classes", do=do)
        labels, ids = _labels(found), []
        if not labels and (subset := infer_imagenet_subset(found)):
            labels, ids = ImageNetInfo(subset).label_descriptions(), ImageNetInfo(subset).label_names()

    def load(num_classes: int | None) -> nn.Module:
        if num_classes is None and "weightless" in found:
            do = "choose another of timm.list_pretrained(), or give yours with --weights FILE"
            raise ModelError(expected=f"public weights of {said}", got="none in timm", do=do)
        with loading(said, fetch), _quiet():
            mine = {} if num_classes is None else {"num_classes": num_classes}
            model: nn.Module = timm.create_model(source, pretrained=num_classes is None, **mine)
        return model

    channels, *size = values["input_size"]
    return NamedModel(
        said,
        load,
        image_size=(size[0], size[1]),
        channels=channels,
        mean=tuple(values["mean"]),
        std=tuple(values["std"]),
        classes=tuple(labels),
        ids=tuple(ids),
    )


def _labels(found: Mapping[str, Any]) -> list[str]:
    """Names of the classes in a configuration of timm, best those that people read."""
    names, described = found.get("label_names") or [], found.get("label_descriptions") or {}
    ordered = [names[key] for key in sorted(names, key=int)] if isinstance(names, Mapping) else list(names)
    return [str(described.get(name, name)) if isinstance(described, Mapping) else str(name) for name in ordered]


def find_torchvision(name: str, torchvision: Any) -> NamedModel:
    """A classifier of torchvision, with its best weights or, as NAME/WEIGHTS, with others."""
    models, said = torchvision.models, f"torchvision:{name}"
    architecture, _, chosen = name.partition("/")
    fetch = "where there is a network, load it once, and copy the folder torch.hub.get_dir()"
    known = models.list_models(module=models)
    if architecture not in known:
        _refuse_unknown("a classifier of torchvision", architecture, known)
    choice = models.get_model_weights(architecture)
    if chosen and chosen not in choice.__members__:
        _refuse_unknown(f"weights of torchvision's {architecture}", chosen, [weights.name for weights in choice])
    weights = choice[chosen] if chosen else choice.DEFAULT
    transform = weights.transforms()

    def load(num_classes: int | None) -> nn.Module:
        mine = {} if num_classes is None else {"num_classes": num_classes}
        with loading(said, fetch):
            model: nn.Module = models.get_model(architecture, weights=weights if num_classes is None else None, **mine)
        return model

    height = width = int(transform.crop_size[0])
    return NamedModel(
        said,
        load,
        image_size=(height, width),
        channels=len(transform.mean),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        classes=tuple(weights.meta["categories"]),
    )


def _refuse_unknown(expected: str, name: str, known: Iterable[str]) -> NoReturn:
    known = list(known)
    near = get_close_matches(name, known, n=3, cutoff=0.6) or [other for other in known if other.startswith(name)][:3]
    do = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known[:8])}"
    raise ModelError(expected=expected, got=repr(name), do=do + (", ..." if not near and len(known) > 8 else ""))


def _folder(name: str) -> Path | None:
    """The folder that a name means; a `ModelError` for a path that is none."""
    path = Path(name).expanduser()
    if path.is_dir() and ("/" in name or name.startswith(".")):
        return path
    if name.startswith((".", "/", "~")):
        do = "check the path; it holds config.json and model.safetensors, as on the hub"
        raise ModelError(expected="the folder of a model", got=f"none at {name}", do=do)
    return None


@contextmanager
def _quiet(transformers: Any = None) -> Iterator[None]:
    """No words of the libraries' own in between, nor the progress of files that are here: what matters is an error."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "transformers", "timm")]
    levels = [logger.level for logger in loggers]
    shown = transformers is not None and transformers.utils.logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    if shown:
        transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if shown:
            transformers.utils.logging.enable_progress_bar()
