"""Models of transformers from small folders of the layout of its hub; timm and torchvision where they can be had."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError, ModelError
from interpretgan.models import NamedModel, build_model, find_named, is_named, load_classifier
from interpretgan.models.named import absolute, library, loading
from interpretgan.pipeline.inputs import Inputs
from interpretgan.pipeline.model_preset import load_split, model_lines, require_its_classes
from interpretgan.pipeline.options import AttackOptions, DataOptions, JudgeOptions, ModelOptions
from interpretgan.pipeline.settings import Settings

DIGITS = {number: str(number) for number in range(10)}


def vit(**more: Any) -> Any:
    """A tiny transformer for 12x12 images in colour."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.ViTConfig(**sizes, image_size=12, patch_size=4, id2label=DIGITS, **more)
    torch.manual_seed(0)
    return transformers.ViTForImageClassification(config)


def saved(folder: Path, processor: dict[str, Any] | None = None, model: Any = None) -> Path:
    (model or vit()).save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


# --- transformers


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ViT", {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}),
        ("ViT", {"do_rescale": False, "image_mean": [99.0, 100.0, 101.0], "image_std": [50.0, 60.0, 70.0]}),
        ("ViT", {"do_normalize": False}),
        ("EfficientNet", {"rescale_offset": True, "rescale_factor": 1 / 127.5, "do_normalize": False}),
        ("EfficientNet", {"include_top": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.5, 0.6, 0.7]}),
    ],
)
def test_pixels_are_scaled_as_its_processor_does(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    size = {"height": 12, "width": 12}
    processor = getattr(transformers, f"{kind}ImageProcessorPil")(size=size, do_center_crop=False, **settings)
    folder, model = saved(tmp_path / "vit", model=vit()), vit().eval()
    processor.save_pretrained(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    wanted = model(torch.tensor(np.stack(processor(list(pixels))["pixel_values"]))).logits
    found = load_classifier(f"hf:{folder}").logits(torch.tensor(pixels).permute(0, 3, 1, 2) / 255)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-5)


def test_a_folder_of_transformers_says_size_classes_and_normalisation(tmp_path: Path) -> None:
    processor = {"do_center_crop": True, "crop_size": {"height": 12, "width": 16}, "size": {"shortest_edge": 20}}
    model = find_named(f"hf:{saved(tmp_path / 'vit', processor)}")
    assert (model.name, model.image_size, model.channels) == ("hf:vit", (12, 16), 3)
    assert (model.mean, model.std, model.classes) == ((0.0,) * 3, (1.0,) * 3, tuple(DIGITS.values()))
    plain = find_named(f"hf:{saved(tmp_path / 'plain')}")
    assert (plain.image_size, plain.mean, plain.std) == ((12, 12), None, None)
    said = plain.described(["image_size", "channels", "mean", "std"])
    wanted = "model: hf:plain; from its preset: images of 12x12 pixels, RGB, 10 classes (0, 1, 2, ...)"
    assert said == f"{wanted}; it says nothing of mean, std"
    assert plain.load(7).get_submodule("classifier").get_parameter("weight").shape == (7, 8)


def test_what_is_incomplete_or_of_another_task_is_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    bare = saved(tmp_path / "bare", model=vit().vit)
    bert = saved(tmp_path / "bert", model=transformers.BertConfig())
    bgr = saved(tmp_path / "bgr", {"do_flip_channel_order": True})
    with pytest.raises(ModelError, match=r"none for classifier.bias and 1 more; choose one that was trained"):
        load_classifier(f"hf:{bare}")
    for name, words in {
        f"hf:{bert}": "expected an image classifier as hf:bert, got one of the kind bert",
        f"hf:{bgr}": "of BGR",
        f"hf:{tmp_path}/none": "expected the folder of a model, got none",
        f"hf:{tmp_path}": "expected a model that loads as hf:",
    }.items():
        with pytest.raises(ModelError, match=words):
            find_named(name)


def test_nothing_that_a_folder_holds_is_run(tmp_path: Path) -> None:
    folder, mark = saved(tmp_path / "code"), tmp_path / "mark"
    config = json.loads((folder / "config.json").read_text())
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')")
    config |= {"model_type": "unheard-of", "auto_map": {"AutoConfig": "own.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="got one that brings code; read that code") as error:
        load_classifier(f"hf:{folder}")
    assert "trust_remote_code" not in str(error.value)
    folder = saved(tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save({"vit": Opens(str(mark))}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="weights of tensors alone for hf:pickled, got a file that may run code"):
        load_classifier(f"hf:{folder}")
    assert not mark.exists()


class Opens:
    """Writes a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def test_size_channels_and_classes_reach_images_and_classifier_unless_the_user_says_others(tmp_path: Path) -> None:
    normalised = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "size": 12}
    folder = saved(tmp_path / "vit", normalised)
    inputs = Inputs(Settings(model=ModelOptions(f"hf:{folder}")))
    assert (inputs.test.shape, inputs.classifier.mean) == ((3, 12, 12), (0.4, 0.5, 0.6))
    assert inputs.config(("data", "model", "generator"))["model"]["preset"]["std"] == (0.2, 0.3, 0.4)
    mine = Settings(DataOptions(image_size=16, channels=1), ModelOptions(f"hf:{folder}", mean=(0.3,), std=(0.2,)))
    changed = Inputs(mine)
    assert (changed.test.shape, changed.classifier.mean, changed.classifier.std) == ((1, 16, 16), (0.3,), (0.2,))
    (said,) = inputs.model_lines()
    assert said.endswith("12x12 pixels, RGB, mean 0.4,0.5,0.6, std 0.2,0.3,0.4, 10 classes (0, 1, 2, ...)")
    with pytest.raises(ConfigError, match=r"as it was trained, got a pooling or a width"):
        ModelOptions(f"hf:{folder}", pool="avg")


def test_a_judge_comes_by_name_with_its_normalisation_and_its_classes_must_be_those_of_the_images(
    tmp_path: Path,
) -> None:
    folder = saved(tmp_path / "vit", {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "size": 12})

    def judged(data: DataOptions, **more: Any) -> Inputs:
        return Inputs(Settings(data=data, judge=JudgeOptions(f"hf:{folder}", **more), attack=AttackOptions(eps=0.1)))

    fitting = DataOptions(image_size=12, channels=3)
    inputs = judged(fitting)
    judge = inputs.judge_network
    assert (judge.mean, judge.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    assert judge.state_sha256() == load_classifier(f"hf:{folder}").state_sha256()
    config = inputs.config(("data", "model", "attack", "judge"))
    assert config["judge"]["judge_state_sha256"] == judge.state_sha256()
    with pytest.raises(ConfigError, match=r"images 3x12x12 .* for the judge hf:vit, got 1x28x28"):
        _ = judged(DataOptions()).judge_network
    with pytest.raises(ConfigError, match="leave --judge-epochs out"):
        judged(fitting, judge_epochs=3)
    with pytest.raises(ConfigError, match="a judge of another architecture"):  # a network does not judge itself
        _ = Inputs(
            Settings(data=fitting, model=ModelOptions(f"hf:{folder}"), judge=JudgeOptions(f"hf:{folder}"))
        ).judge_network
    unnamed = vit()
    unnamed.config.id2label = {number: f"LABEL_{number}" for number in range(10)}
    unnamed.classifier, unnamed.config.num_labels = nn.Linear(8, 5), 5
    few = saved(tmp_path / "few", model=unnamed)
    with pytest.raises(ConfigError, match="a judge of the 10 classes of digits, got one of 5"):
        _ = Inputs(Settings(data=fitting, judge=JudgeOptions(f"hf:{few}"))).judge_network
    turned = vit()
    turned.config.id2label = {number: str(9 - number) for number in range(10)}
    other = saved(tmp_path / "other", model=turned)
    with pytest.raises(
        ConfigError, match=r"a judge of the classes of digits, in their order \(0, 1, 2, ...\), got hf:"
    ):
        _ = Inputs(Settings(data=fitting, judge=JudgeOptions(f"hf:{other}"))).judge_network


# --- classes, whichever the library


def named(*classes: str, ids: tuple[str, ...] = ()) -> NamedModel:
    return NamedModel("hf:pets", lambda _: nn.Identity(), image_size=(8, 8), channels=3, classes=classes, ids=ids)


def pets(root: Path, *names: str) -> Settings:
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (10, 10), (40 * number, 0, 0)).save(root / name / f"{number}.png")
    return Settings(DataOptions(str(root)))


def test_class_folders_get_the_numbers_of_their_names(tmp_path: Path) -> None:
    settings = pets(tmp_path / "pets", "German_Shepherd", "n01", "tabby")
    model = named("tench", "tabby, tabby cat", "fox", "german shepherd, alsatian", ids=("n01", "n02", "n03", "n04"))
    images = load_split(settings, "train", model)
    assert images.shape == (3, 8, 8)
    assert images.classes == ("n01", "tabby", "fox", "German_Shepherd")
    assert {images.classes[label] for label in images.labels} == {"n01", "tabby", "German_Shepherd"}
    plain = load_split(settings, "train", named())
    assert [images.classes[label] for label in images.labels] == [plain.classes[label] for label in plain.labels]
    assert images.sha256 != plain.sha256
    require_its_classes(settings, model, images)
    assert model_lines(settings, model, images, 4) == [model.described(("image_size", "channels", "mean", "std"))]


def test_other_classes_than_the_models_are_told_or_refused(tmp_path: Path) -> None:
    settings, model = pets(tmp_path / "pets", "cat", "dog", "eel"), named("tench", "goldfish", "shark", "ray")
    images = load_split(settings, "train", model)
    assert images.classes == ("cat", "dog", "eel")
    told = model_lines(settings, model, images, 4)[1]
    assert told.endswith("are taken for the first 3 of the model's 4: it has no 'cat'")
    with pytest.raises(ConfigError, match=r"the 4 classes of hf:pets \(tench, goldfish, shark, ...\), got the 3 of"):
        require_its_classes(settings, model, images)
    require_its_classes(settings, named("a", "b", "c"), images)  # as many, in their order
    require_its_classes(settings, named("cat", "hound", "eel"), images)  # those that it knows are in their places
    with pytest.raises(ConfigError, match="of which it has no 'eel'"):
        require_its_classes(settings, named("dog", "cat", "fish"), images)
    own = Settings(DataOptions(settings.data.data, classes="eel,cat,dog,owl"))
    require_its_classes(own, model, load_split(own, "train", model))


# --- names


def test_names_with_a_colon_are_public_only_under_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [is_named(name) for name in ("hf:a/b", "timm:x", "net.pt2", "mine:make", "hf.py", "lenet5")] == [
        True, True, True, False, False, False
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit").mkdir()
    assert absolute("hf:./vit") == f"hf:{tmp_path}/vit"
    assert absolute("timm:vit") == "timm:vit"  # the hub's, whatever folder there is
    assert [absolute(name) for name in ("hf:a/b", "mine:vit", "lenet5")] == ["hf:a/b", "mine:vit", "lenet5"]
    with pytest.raises(ModelError, match=r"got hf:a/b, a trained model; name it as the classifier"):
        build_model("hf:a/b", in_channels=1, num_classes=10, image_size=28)


@pytest.mark.parametrize("hub", ["hf", "timm", "torchvision"])
def test_a_hub_without_a_name_asks_for_one(hub: str) -> None:
    with pytest.raises(ModelError, match=f"the name of a model after {hub}:, got none"):
        find_named(f"{hub}:")


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("interpretgan.models.named.importlib.import_module", missing)
    with pytest.raises(ModelError, match=r"No module named 'timm'; pip install '\.\[timm\]' in a clone"):
        library("timm")


def other(kind: str, text: str = "") -> Callable[[], Exception]:
    return lambda: type(kind, (Exception,), {})(text)


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (other("LocalEntryNotFoundError"), "the weights of hf:a/b in the cache or on the hub, got neither .*; copy it"),
        (other("URLError"), "got neither there: no network; copy it"),
        (other("RepositoryNotFoundError"), "a public model of the name hf:a/b, got none on the hub"),
        (lambda: pickle.UnpicklingError("set weights_only=False"), "got a file that may run code; choose other"),
        (other("Odd", "two\nlines"), "got Odd: two lines; check"),
    ],
)
def test_whatever_a_library_raises_is_one_line(cause: Callable[[], Exception], words: str) -> None:
    def fails() -> None:
        with loading("hf:a/b", "copy it"):
            try:
                raise cause()
            except Exception as inner:
                raise inner if words.startswith("got Odd") else OSError("cannot load") from inner

    with pytest.raises(ModelError, match=words) as error:
        fails()
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)


# --- timm and torchvision themselves


@pytest.mark.extra
def test_timm_builds_what_its_names_and_folders_say(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from timm.models import save_for_hf

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", **sizes)
    preset = {**model.pretrained_cfg, "input_size": (3, 32, 32), "num_classes": 3}
    config = {"label_names": ["a", "b", "c"], "pretrained_cfg": preset}
    save_for_hf(model, tmp_path / "vit", model_config=config, model_args=sizes, safe_serialization=True)
    found = find_named(f"timm:{tmp_path}/vit")
    assert (found.name, found.image_size, found.mean, found.classes) == (
        "timm:vit",
        (32, 32),
        (0.5,) * 3,
        ("a", "b", "c"),
    )
    images = torch.rand(2, 3, 32, 32)
    wanted = Classifier(model, mean=(0.5,) * 3, std=(0.5,) * 3).logits(images)
    torch.testing.assert_close(load_classifier(f"timm:{tmp_path}/vit").logits(images), wanted)
    known = find_named("timm:resnet18")
    assert (known.image_size, len(known.classes), known.ids[0], known.classes[0]) == (
        (224, 224), 1000, "n01440764", "tench, Tinca tinca"
    )  # fmt: skip
    assert known.load(5)(torch.rand(1, 3, 64, 64)).shape == (1, 5)
    for name, words in {
        "timm:resnet1": "did you mean resnet18",
        "timm:resnet18.a1": "or resnet18.a1_in1k",
        "timm:vit_small_patch14_dinov2": "a model without classes",
    }.items():
        with pytest.raises(ModelError, match=words):
            find_named(name)


@pytest.mark.extra
def test_torchvision_builds_what_its_names_say() -> None:
    pytest.importorskip("torchvision")
    found = find_named("torchvision:resnet18/IMAGENET1K_V1")
    assert (found.image_size, found.mean, found.classes[0]) == ((224, 224), (0.485, 0.456, 0.406), "tench")
    assert found.load(5)(torch.rand(1, 3, 64, 64)).shape == (1, 5)
    for name, words in {
        "torchvision:resnte18": "a classifier of torchvision, got 'resnte18'; did you mean resnet18",
        "torchvision:resnet50/V2": "choose one of IMAGENET1K_V1, IMAGENET1K_V2",
    }.items():
        with pytest.raises(ModelError, match=words):
            find_named(name)
