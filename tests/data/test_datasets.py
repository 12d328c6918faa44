"""Image sets: what is loaded, how it is cached, and what is refused."""

from __future__ import annotations

import io
import json
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from interpretgan.data import load_data
from interpretgan.errors import DataError


def picture(value: int, *, size: tuple[int, int] = (6, 5), mode: str = "L", kind: str = "PNG") -> bytes:
    """An encoded image of one value with a gradient; size is (width, height)."""
    width, height = size
    grey = (np.arange(height * width).reshape(height, width) + value).astype(np.uint8)
    pixels = grey if mode == "L" else np.stack([grey, 255 - grey, grey // 2], axis=2)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def write_parquet(
    path: Path,
    images: Sequence[bytes],
    labels: Sequence[int | None],
    *,
    column: str = "image",
    names: Sequence[str] | None = None,
    row_group: int = 4,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({column: [{"bytes": data, "path": None} for data in images], "label": list(labels)})
    if names is not None:
        info = {"info": {"features": {"label": {"names": list(names)}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path, row_group_size=row_group)


def mnist_like(folder: Path, count: int = 10) -> Path:
    for split in ("train", "test"):
        write_parquet(
            folder / "mnist" / f"{split}-00000-of-00001.parquet",
            [picture(7 * i) for i in range(count)],
            [i % 10 for i in range(count)],
        )
    return folder


def image_folder(root: Path, *, split: bool, per_class: int = 10) -> Path:
    for part in ("train", "test") if split else ("",):
        for number, label in enumerate(("cat", "dog")):
            folder = root / part / label
            folder.mkdir(parents=True)
            for i in range(per_class):
                (folder / f"{i}.png").write_bytes(picture(10 * i + number, size=(6, 5), mode="RGB"))
    return root


# digits and the set itself


def test_digits_are_stratified_and_fixed() -> None:
    train, test = load_data("digits", "train"), load_data("digits", "test")
    assert (len(train), len(test)) == (1347, 450)
    assert train.shape == (1, 28, 28)
    assert train.images.dtype == np.uint8
    assert train.labels.dtype == np.int64
    for data in (train, test):
        shares = np.bincount(data.labels, minlength=10) / len(data)
        assert shares.min() > 0.09
        assert shares.max() < 0.11
    assert load_data("digits", "train").sha256 == train.sha256 != test.sha256
    seen = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in seen for image in test.images), "a test image is also a training image"


def test_a_name_may_be_a_path_and_a_size_must_be_whole_numbers() -> None:
    assert load_data(Path("digits"), "test").sha256 == load_data("digits", "test").sha256
    wrong: Any
    for wrong in ("8", 8.0, (8,), (8, 8.0), True, (8, True)):
        with pytest.raises(DataError, match="an image size in whole numbers"):
            load_data("digits", "test", image_size=wrong)
    with pytest.raises(DataError, match="1 channel, grey, or 3, RGB, got True"):
        load_data("digits", "test", channels=True)


def test_digits_can_be_resized() -> None:
    data = load_data("digits", "test", image_size=(16, 20))
    assert data.shape == (1, 16, 20)
    native = load_data("digits", "test", image_size=8)
    assert native.images.max() == 255
    assert len(np.unique(native.images)) == 17


# parquet and its cache


def test_parquet_is_decoded_exactly_and_mapped(tmp_path: Path) -> None:
    folder = mnist_like(tmp_path)
    data = load_data("mnist", "train", data_dir=folder, cache_dir=tmp_path / "cache")
    assert data.shape == (1, 5, 6)
    assert len(data) == 10
    assert isinstance(data.images, np.memmap)
    for i in range(10):
        expected = np.asarray(Image.open(io.BytesIO(picture(7 * i))))
        assert np.array_equal(data.images[i, 0], expected)
    assert data.labels.tolist() == list(range(10))
    assert "train-00000" in data.note
    assert "PNG" in data.note
    with pytest.raises(ValueError, match="read-only"):
        data.images[0] = 0


def test_jpeg_is_said_so_and_class_names_are_read(tmp_path: Path) -> None:
    images = [picture(i, size=(8, 8), mode="RGB", kind="JPEG") for i in range(5)]
    write_parquet(tmp_path / "cifar10" / "test-0.parquet", images, [0, 1, 2, 0, 1], column="img", names=["a", "b", "c"])
    data = load_data("cifar10", "test", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert data.shape == (3, 8, 8)
    assert data.classes == ("a", "b", "c")
    assert "JPEG" in data.note


@pytest.mark.parametrize("victim", ["images.npy", ".json"])
@pytest.mark.parametrize("damage", ["truncate", "empty", "remove"])
def test_damaged_cache_is_rebuilt(tmp_path: Path, victim: str, damage: str) -> None:
    folder, cache = mnist_like(tmp_path), tmp_path / "cache"
    before = np.array(load_data("mnist", "train", data_dir=folder, cache_dir=cache).images)
    file = next(path for path in cache.iterdir() if path.name.endswith(victim))
    content = file.read_bytes()
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(content[:-3] if damage == "truncate" else b"")
    again = load_data("mnist", "train", data_dir=folder, cache_dir=cache)
    assert np.array_equal(again.images, before)
    assert again.labels.tolist() == list(range(10))
    assert file.read_bytes() == content, "the cache was not written again"
    assert not [path for path in cache.iterdir() if path.name.startswith(".")], "a temporary file is left"


def test_stale_cache_is_not_used(tmp_path: Path) -> None:
    folder, cache = mnist_like(tmp_path), tmp_path / "cache"
    first = load_data("mnist", "train", data_dir=folder, cache_dir=cache)
    write_parquet(folder / "mnist" / "train-00000-of-00001.parquet", [picture(99)] * 10, [1] * 10)
    second = load_data("mnist", "train", data_dir=folder, cache_dir=cache)
    assert second.sha256 != first.sha256
    assert set(second.labels.tolist()) == {1}
    resized = load_data("mnist", "train", data_dir=folder, cache_dir=cache, image_size=12)
    assert resized.shape == (1, 12, 12)


def test_hash_depends_on_content_alone(tmp_path: Path) -> None:
    one = load_data("mnist", "train", data_dir=mnist_like(tmp_path / "a"), cache_dir=tmp_path / "x")
    two = load_data("mnist", "train", data_dir=mnist_like(tmp_path / "b"), cache_dir=tmp_path / "y")
    assert one.sha256 == two.sha256
    assert (
        one.head(5).sha256
        == load_data("mnist", "train", data_dir=tmp_path / "a", cache_dir=tmp_path / "x").head(5).sha256
    )


def test_decoding_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        data = [picture(i % 200, size=(32, 32)) for i in range(100)] * (count // 100)
        write_parquet(folder / "mnist" / "test-0.parquet", data, [0] * count, row_group=500)
        tracemalloc.start()
        load_data("mnist", "test", data_dir=folder, cache_dir=folder / "cache")
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(100)  # imports
    assert peak(8000) < peak(2000) + 2**20, "6,000 more images of 1 kB each must not be held"


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_truncated_parquet_is_named(tmp_path: Path, part: float) -> None:
    folder = mnist_like(tmp_path)
    file = folder / "mnist" / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[: int(part * file.stat().st_size)])
    with pytest.raises(DataError, match=r"train-00000.*cannot be read"):
        load_data("mnist", "train", data_dir=folder, cache_dir=tmp_path / "cache")


def test_corrupt_pages_and_images_are_refused(tmp_path: Path) -> None:
    folder = mnist_like(tmp_path, count=50)
    file = folder / "mnist" / "train-00000-of-00001.parquet"
    content = bytearray(file.read_bytes())
    content[8:200] = b"\xff" * 192
    file.write_bytes(bytes(content))
    with pytest.raises(DataError):
        load_data("mnist", "train", data_dir=folder, cache_dir=tmp_path / "cache")
    for broken in (picture(1)[:40], b"", b"no image"):
        write_parquet(file, [picture(0), broken], [0, 1])
        with pytest.raises(DataError, match="damaged one, example 1"):
            load_data("mnist", "train", data_dir=folder, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").glob("*.json"))


@pytest.mark.parametrize("labels", [[0, 10], [0, -1], [0, None]])
def test_labels_out_of_range(tmp_path: Path, labels: list[int | None]) -> None:
    write_parquet(tmp_path / "mnist" / "train-0.parquet", [picture(0), picture(1)], labels)
    with pytest.raises(DataError, match="labels from 0 to 9"):
        load_data("mnist", "train", data_dir=tmp_path, cache_dir=tmp_path / "cache")


def test_empty_and_missing_parquet(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mnist.train-\*.parquet"):
        load_data("mnist", "train", data_dir=tmp_path)
    write_parquet(tmp_path / "mnist" / "train-0.parquet", [picture(0)], [0])
    with pytest.raises(DataError, match=r"test-\*"):
        load_data("mnist", "test", data_dir=tmp_path)
    table = pq.read_table(tmp_path / "mnist" / "train-0.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "mnist" / "train-0.parquet")
    with pytest.raises(DataError, match="got none"):
        load_data("mnist", "train", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    pq.write_table(table.rename_columns(["photo", "label"]), tmp_path / "mnist" / "train-0.parquet")
    with pytest.raises(DataError, match="photo"):
        load_data("mnist", "train", data_dir=tmp_path)


def test_hub_without_the_package_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INTERPRETGAN_DATA", raising=False)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"INTERPRETGAN_DATA.*pip install"):
        load_data("cifar10", "train")


@pytest.mark.parametrize(("name", "hint"), [("mnsit", "mnist"), ("CIFAR-10", "cifar10"), ("no/such/folder", "path")])
def test_unknown_names(name: str, hint: str) -> None:
    with pytest.raises(DataError, match=hint):
        load_data(name, "train")
    with pytest.raises(DataError, match="train or test"):
        load_data("digits", "validation")


def test_unwritable_cache_is_named(tmp_path: Path) -> None:
    folder = mnist_like(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="INTERPRETGAN_CACHE"):
        load_data("mnist", "train", data_dir=folder, cache_dir=tmp_path / "file")


# folders


def test_folder_with_given_splits(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", split=True)
    train, test = (load_data(str(root), split, cache_dir=tmp_path / "c") for split in ("train", "test"))
    assert train.shape == test.shape == (3, 5, 6)
    assert len(train) == len(test) == 20
    assert train.classes == ("cat", "dog")
    assert np.bincount(train.labels).tolist() == [10, 10]
    assert set(train.head(12).labels.tolist()) == {0, 1}


def test_folder_is_split_the_same_way_every_time(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", split=False)
    parts = [load_data(str(root), split, cache_dir=tmp_path / "c") for split in ("train", "test")]
    assert [len(part) for part in parts] == [16, 4]
    assert np.bincount(parts[1].labels).tolist() == [2, 2]
    seen = {image.tobytes() for part in parts for image in part.images}
    assert len(seen) == 20, "the splits overlap"
    copy = image_folder(tmp_path / "elsewhere" / "set", split=False)
    assert load_data(str(copy), "test", cache_dir=tmp_path / "c").sha256 == parts[1].sha256


def test_changed_folder_is_read_again(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", split=True)
    before = load_data(str(root), "test", cache_dir=tmp_path / "c")
    (root / "test" / "dog" / "3.png").write_bytes(picture(200, mode="RGB"))
    assert load_data(str(root), "test", cache_dir=tmp_path / "c").sha256 != before.sha256


def test_sixteen_bit_grey_is_scaled(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", split=True)
    values: npt.NDArray[np.uint16] = np.full((5, 6), 0x8000, dtype=np.uint16)
    for file in (root / "train" / "cat").iterdir():
        Image.fromarray(values).save(file)
    data = load_data(str(root), "train", cache_dir=tmp_path / "c")
    assert data.shape == (3, 5, 6)
    assert set(np.unique(data.images[data.labels == 0]).tolist()) == {0x80}


def test_broken_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="at least two classes"):
        load_data(str(tmp_path / "empty"), "train")
    root = image_folder(tmp_path / "set", split=True)
    (root / "train" / "cat" / "5.png").write_bytes(picture(0)[:30])
    with pytest.raises(DataError, match=r"5\.png"):
        load_data(str(root), "train", cache_dir=tmp_path / "c")
    (root / "test" / "dog").rename(root / "test" / "wolf")
    with pytest.raises(DataError, match="wolf"):
        load_data(str(root), "test", cache_dir=tmp_path / "c")


# the real thing


@pytest.mark.needs_data("mnist")
def test_mnist(data_dir: Path, cache_dir: Path) -> None:
    test = load_data("mnist", "test")
    assert test.shape == (1, 28, 28)
    assert len(test) == 10_000
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    began = time.perf_counter()
    again = load_data("mnist", "test")
    assert time.perf_counter() - began < 0.5
    assert again.sha256 == test.sha256


@pytest.mark.needs_data("cifar10")
def test_cifar10(data_dir: Path, cache_dir: Path) -> None:
    test = load_data("cifar10", "test")
    assert test.shape == (3, 32, 32)
    assert len(test) == 10_000
    assert test.classes[3] == "cat"
    assert "JPEG" in test.note
    assert np.bincount(test.labels).tolist() == [1000] * 10
