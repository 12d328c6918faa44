"""Folders of images: layouts, the numbers of classes, and what is left out."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from interpretgan.data import load_data
from interpretgan.data.folders import folder_source
from interpretgan.errors import DataError


def folder(root: Path, places: Iterable[str], count: int = 3, suffix: str = ".png") -> Path:
    """Images of a few grey levels in folders below the root."""
    for place in places:
        (root / place).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((6, 6), 40 * i, np.uint8)).save(root / place / f"{i}{suffix}")
    return root


def labels_of(root: Path, split: str = "train", classes: list[str] | None = None) -> dict[str, int]:
    """The number that each class folder got."""
    found = folder_source(str(root), split, classes)
    return {Path(where).parent.name: label for _, label, where in found.examples()}


@pytest.mark.parametrize("content", [None, "notes.txt", "image.heic", ".hidden.png"])
def test_a_class_without_images_is_refused(tmp_path: Path, content: str | None) -> None:
    root = folder(tmp_path, "bc")
    (root / "a").mkdir()
    if content is not None:
        (root / "a" / content).write_bytes(b"x")
    with pytest.raises(DataError, match=r"images in each class folder.*none in a"):
        folder_source(str(root), "train")


def test_every_suffix_that_can_be_decoded_is_an_image(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", "b")
    folder(root, "a", suffix=".jfif")
    assert labels_of(root) == {"a": 0, "b": 1}
    assert "JPEG, PNG" in load_data(str(root), "train", cache_dir=tmp_path / "c").note


def test_subfolders_are_read_and_other_files_counted(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", ("a", "b", "a/more/deep", "b/more"))
    (root / "a" / "list.csv").write_text("")
    (root / "readme.md").write_text("")
    (root / "a" / "more" / "up").symlink_to(root / "a")  # a loop
    parts = [load_data(str(root), split, cache_dir=tmp_path / "c") for split in ("train", "test")]
    assert sum(map(len, parts)) == 12
    assert "2 other files left out (" in parts[0].note
    told = [re.search(r"set/, (\d) of them in folders inside those of the classes", part.note) for part in parts]
    assert sum(int(found[1]) for found in told if found) == 6
    assert "1 .csv" in parts[0].note


def test_folders_beside_the_two_splits_are_told(tmp_path: Path) -> None:
    root, cache = folder(tmp_path / "set", ("train/a", "train/b", "test/a", "test/b")), tmp_path / "c"
    assert "left out" not in load_data(str(root), "test", cache_dir=cache).note
    for name, told in (("val", "set/test/, val/ left out"), ("more", "set/test/, more/, val/ left out")):
        folder(root / name, "ab")
        assert told in load_data(str(root), "test", cache_dir=cache).note


@pytest.mark.parametrize(
    ("places", "classes"),
    [
        (("bus", "car", "train"), ("bus", "car", "train")),
        (("bus", "test"), ("bus", "test")),
        (("train/a", "train/b", "val/a", "val/b"), ("a", "b")),
        (("Training/a", "Training/b", "Validation/a"), ("a", "b")),
        (("train/a", "train/b", "test/a", "val/b"), ("a", "b")),
        (("train/a", "train/b", "dev/a"), ("a", "b")),
    ],
)
def test_train_is_a_split_only_beside_one_of_tests(
    tmp_path: Path, places: tuple[str, ...], classes: tuple[str, ...]
) -> None:
    root = folder(tmp_path, places)
    train, test = (folder_source(str(root), split) for split in ("train", "test"))
    assert train.classes == test.classes == classes
    assert {where for *_, where in train.examples()}.isdisjoint(where for *_, where in test.examples())


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (("train/a", "train/b"), "got train/, and no test/"),
        (("train/a", "train/b", "test"), "got test/, train/, and no test/ with folders"),
        (("train", "test"), "and no train/ with folders"),
        (("set/a", "set/b"), "whose folder set holds 2 folders"),
        (("train/a", "train/b", "test/wolf"), "got 'wolf'"),
        (("fit/a", "fit/b/c", "held/a", "held/b"), "got fit/, held/, each with the folders a, b, as splits"),
        (("images/a", "images/b", "masks/a", "masks/b"), "as of a segmentation"),
        (("images", "masks"), "got images/, masks/, as of a segmentation; sort the images"),
        (("train/image", "train/labels", "test/image", "test/labels"), "as of a segmentation"),
    ],
)
def test_other_layouts_are_told(tmp_path: Path, places: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        folder_source(str(folder(tmp_path, places)), "test")


@pytest.mark.parametrize(
    ("places", "classes"),
    [
        (("cat/indoors", "cat/outdoors", "dog/indoors", "dog/outdoors"), ["cat", "dog"]),
        (("images", "masks"), ["masks", "images"]),
        (("cat/indoors", "cat/outdoors", "dog/indoors"), None),
        (("cat/indoors", "cat/outdoors", "cat", "dog/indoors", "dog/outdoors", "dog"), None),
        (("cat/photos", "dog/photos"), None),
        (("mask", "no_mask"), None),
    ],
)
def test_folders_inside_those_of_classes_that_are_stated_or_can_be_nothing_else(
    tmp_path: Path, places: tuple[str, ...], classes: list[str] | None
) -> None:
    for place in places:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 6)).save(tmp_path / place / "0.png")
    wanted = classes or sorted({place.partition("/")[0] for place in places})
    assert folder_source(str(tmp_path), "train", classes).classes == tuple(wanted)


def test_classes_are_numbered_by_size_or_as_stated(tmp_path: Path) -> None:
    root = folder(tmp_path, map(str, range(1, 13)))
    assert labels_of(root) == {str(number): number - 1 for number in range(1, 13)}
    stated = ["0", *map(str, range(12, 0, -1))]
    assert labels_of(root, classes=stated) == {str(number): 13 - number for number in range(1, 13)}
    assert folder_source(str(root), "test", stated).classes == tuple(stated)
    with pytest.raises(DataError, match="none for 10"):
        labels_of(root, classes=["1", "2"])
    with pytest.raises(DataError, match="13 names, 12 of them different"):
        labels_of(root, classes=[*map(str, range(1, 13)), "1"])


@pytest.mark.parametrize(
    "given",
    [
        "c, a,b", ["c", "a", "b"], np.array(["c", "a", "b"]), {"a": 1, "b": 2, "c": 0}, {2: "b", 0: "c", 1: "a"},
        {"a": np.int64(1), "b": np.int64(2), "c": np.int64(0)}, b"c\na\n\nb\n", "\ufeffc\r\na\r\nb".encode(),
    ],
)  # fmt: skip
def test_classes_are_stated_in_many_ways(tmp_path: Path, given: Any) -> None:
    root, file = folder(tmp_path / "set", "abc"), tmp_path / "names.txt"
    if isinstance(given, bytes):
        file.write_bytes(given)
    for stated in (file, str(file)) if isinstance(given, bytes) else (given,):
        assert load_data(root, "train", classes=stated, cache_dir=tmp_path / "c").classes == ("c", "a", "b")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": 0, "b": 2}, "expected classes numbered from 0 to 1, each once, got {'a': 0, 'b': 2}"),
        ({"a": 0, "b": 0}, "each once"),
        ({"a": [0], "b": True}, "each once"),
        ({0: "a", 1: None}, "each once"),
        ({"a", "b"}, "expected the names of classes in a list.*, got a set; pass"),
        (3, "got an int; pass"),
        (Path("absent.txt"), r"a complete file absent\.txt"),
    ],
)
def test_classes_without_an_order_are_refused(tmp_path: Path, given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(folder(tmp_path, "ab"), "train", classes=given)


def test_names_that_no_report_could_show_and_links_to_nowhere_are_told(tmp_path: Path) -> None:
    root = folder(tmp_path / "links", "ab")
    (root / "a" / "gone.png").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"gone\.png"):
        folder_source(str(root), "train")
    root = folder(tmp_path / "names", "ab")
    (root / "a" / "0.png").rename(root / "a" / "\udcff.png")
    with pytest.raises(DataError, match="names in UTF-8"):
        folder_source(str(root), "train")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of POSIX")
def test_a_pipe_among_images_is_told_and_not_waited_for(tmp_path: Path) -> None:
    root = folder(tmp_path, "ab")
    os.mkfifo(root / "a" / "pipe.png")
    with pytest.raises(DataError, match=r"expected files in .*a, got pipe\.png, which is none; move it away"):
        folder_source(str(root), "train")
