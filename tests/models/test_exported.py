"""Programs of torch.export in files."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interpretgan.classifier import Classifier
from interpretgan.errors import ModelError
from interpretgan.layers import find_layers
from interpretgan.models import find_named, load_classifier
from tests.models.test_named import Opens

# torch warns about its own parts
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
ANY_BATCH = ({0: torch.export.Dim("batch")},)


class Small(nn.Module):
    """A residual block, so that not every call is a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.inner = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.fc = nn.ReLU(), nn.Linear(4 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        logits: Tensor = self.fc(self.relu(x + self.inner(x)).flatten(1))
        return logits


def exported(file: Path, *inputs: Tensor, shapes: Any = ANY_BATCH, model: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = (model or Small()).eval()
    torch.export.save(torch.export.export(model, inputs or (torch.zeros(2, 3, 8, 8),), dynamic_shapes=shapes), file)
    return model


def test_a_program_has_the_layers_and_logits_of_its_model(tmp_path: Path) -> None:
    model, images = exported(tmp_path / "net.pt2"), torch.rand(5, 3, 8, 8)
    found = find_named(str(tmp_path / "net.pt2"))
    assert (found.name, found.image_size, found.channels, found.mean) == ("net.pt2", (8, 8), 3, None)
    classifier = load_classifier(str(tmp_path / "net.pt2"))
    torch.testing.assert_close(classifier.logits(images), Classifier(model).logits(images))
    torch.testing.assert_close(copy.deepcopy(classifier).logits(images), classifier.logits(images))
    layers = [[(x.name, x.kind) for x in find_layers(each, images)] for each in (classifier, Classifier(model))]
    assert layers[0] == layers[1] == [("conv", "Conv2d"), ("relu", "ReLU"), ("fc", "Linear")]


class Two(Small):
    """Takes more than images."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]  # that is the point
        return super().forward(x + y)


class Flat(Small):
    """Asks for the size of the batch, which an export without dynamic shapes makes a number."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv(x).reshape(x.shape[0], -1))
        return logits


def test_programs_that_cannot_be_diagnosed_say_what_to_export_instead(tmp_path: Path) -> None:
    exported(tmp_path / "fixed.pt2", shapes=None)
    two = torch.zeros(2, 3, 8, 8)
    exported(tmp_path / "two.pt2", two, two, shapes=({0: torch.export.Dim("n")},) * 2, model=Two())
    (tmp_path / "text.pt2").write_text("no program")
    for name, words in {
        "fixed.pt2": r"batches of any size, got one for 2 images in fixed.pt2; export it with .*Dim\('batch'\)",
        "two.pt2": r"of images \[N, C, H, W\] alone, got two.pt2 of",
        "text.pt2": "which is none, or damaged",
        "none.pt2": "no file at",
    }.items():
        with pytest.raises(ModelError, match=words):
            find_named(str(tmp_path / name))
    exported(tmp_path / "net.pt2")
    fixed = torch.export.export(Flat().eval(), (torch.zeros(2, 3, 8, 8),))
    with pytest.raises(ModelError, match=r"if it was exported for batches of one size, export it with") as error:
        Classifier(fixed).logits(torch.rand(5, 3, 8, 8))
    assert "--image-size" not in str(error.value)
    with pytest.raises(ModelError, match="leave --weights out"):
        find_named(str(tmp_path / "net.pt2")).load(5)


def replaced_by_a_pickle(content: dict[str, bytes], mark: str) -> None:
    name = next(name for name in content if "sample_inputs" in name)
    buffer = io.BytesIO()
    torch.save(((Opens(mark),), {}), buffer)
    content[name] = buffer.getvalue()


def with_formula(content: dict[str, bytes], formula: str) -> None:
    name = next(name for name in content if name.endswith("models/model.json"))
    program = json.loads(content[name])
    values = program["graph_module"]["graph"]["tensor_values"].values()
    sizes = [size for value in values for size in value["sizes"] if "as_expr" in size]
    sizes[0]["as_expr"]["expr_str"] = formula
    content[name] = json.dumps(program).encode()


def with_pickled_weights(content: dict[str, bytes], mark: str) -> None:
    name = next(name for name in content if name.endswith("model_weights_config.json"))
    config = json.loads(content[name])
    next(iter(config["config"].values()))["use_pickle"] = True
    content[name] = json.dumps(config).encode()


def test_a_file_that_is_twice_in_a_program_is_refused(tmp_path: Path) -> None:
    exported(tmp_path / "net.pt2")
    with zipfile.ZipFile(tmp_path / "net.pt2", "a") as archive:
        name = next(name for name in archive.namelist() if name.endswith("model.json"))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(name, archive.read(name))
    with pytest.raises(ModelError, match=r"'model\.json' in"):
        find_named(str(tmp_path / "net.pt2"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content, mark: with_formula(content, f"open({mark!r}, 'w')"), "sizes as formulas of numbers"),
        (lambda content, mark: with_formula(content, "exec(chr(49))"), "sizes as formulas of numbers"),
        (lambda content, mark: with_formula(content, "s77.__class__"), "sizes as formulas of numbers"),
        (lambda content, mark: content.update({"net/data/constants/custom_obj_0": b"x"}), "'custom_obj_0' in"),
        (lambda content, mark: content.update({"net/data/aotinductor/model/code.so": b"x"}), "'code.so' in"),
        (lambda content, mark: content.update({"net/data/constants/opaque_obj_/x": b"x"}), "'x' in"),
        (lambda content, mark: content.update({"net/data/constants/OPAQUE_OBJ_0": b"x"}), "'OPAQUE_OBJ_0' in"),
        (lambda content, mark: content.update({"net/models/model.jsox": b"{}"}), "'model.jsox' in"),
        (lambda content, mark: content.update({"net/Models/model.json": b"{}"}), "'model.json' in"),
        (with_pickled_weights, "a program of plain tensors"),
        (replaced_by_a_pickle, "got a file that may run code"),
    ],
)
def test_no_code_of_a_program_is_run(
    change: Callable[[dict[str, bytes], str], None], words: str, tmp_path: Path
) -> None:
    exported(tmp_path / "net.pt2")
    with zipfile.ZipFile(tmp_path / "net.pt2") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    mark = tmp_path / "mark"
    change(content, str(mark))
    with zipfile.ZipFile(tmp_path / "bad.pt2", "w", zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    with pytest.raises(ModelError, match=words):
        find_named(str(tmp_path / "bad.pt2"))
    assert not mark.exists()
