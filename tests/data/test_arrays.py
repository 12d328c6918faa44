"""Images that other tools saved as arrays: taken as they are, or refused in a line, and nothing in the file runs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from interpretgan.data import read_images
from interpretgan.errors import DataError

IMAGES = np.random.default_rng(0).random((3, 1, 4, 5), dtype=np.float32)


@pytest.mark.parametrize("file", ["one.npy", "one.npz", "several.npz", "one.safetensors", "several.safetensors"])
def test_every_kind_of_file(tmp_path: Path, file: str) -> None:
    path, several = tmp_path / file, file.startswith("several")
    arrays = {"labels": np.arange(3), "adversarial": IMAGES} if several else {"anything": IMAGES}
    if path.suffix == ".npy":
        np.save(path, IMAGES)
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    assert torch.equal(read_images(str(path)), torch.from_numpy(IMAGES))


def test_other_files_are_refused(tmp_path: Path) -> None:
    for name, array in {"bytes": (255 * IMAGES).astype(np.uint8), "one": IMAGES[0], "none": IMAGES[:0]}.items():
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(DataError, match=r"floating point images \[N, C, H, W\]"):
            read_images(tmp_path / f"{name}.npy")
    np.save(tmp_path / "object.npy", np.array([Path("x")], dtype=object), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "bytes.npy").read_bytes()[:40])
    for name in ("object.npy", "cut.npy"):
        with pytest.raises(DataError, match="cannot be read"):
            read_images(tmp_path / name)
    with pytest.raises(DataError, match="no file"):
        read_images(tmp_path / "absent.npy")


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["images", "adv", "labels"], "adv"),
        (["x", "X_adv", "y"], "X_adv"),
        (["images", "labels"], "images"),
        (["perturbed", "labels", "eps"], "perturbed"),
        (["a", "b"], None),
        (["images", "x"], None),
        (["images", "images_pgd", "labels"], None),
        (["adv", "adversarial"], None),
    ],
)
def test_of_several_arrays_one_is_taken_that_can_be_no_other(
    tmp_path: Path, names: list[str], taken: str | None, suffix: str
) -> None:
    path, arrays = tmp_path / f"file.{suffix}", {name: IMAGES + place for place, name in enumerate(names)}
    arrays |= {name: np.arange(len(IMAGES), dtype=np.float32) for name in names if name in ("labels", "y", "eps")}
    if suffix == "npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's own argument is among the names to its types
    else:
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    if taken is not None:
        assert torch.equal(read_images(path), torch.from_numpy(arrays[taken]))
        return
    with pytest.raises(DataError, match=f"one array that is called .*got {len(names)} in .*: {', '.join(names)}; save"):
        read_images(path)


def test_adversarial_images_of_the_wrong_shape_are_refused_for_that(tmp_path: Path) -> None:
    np.savez(tmp_path / "file.npz", adversarial=IMAGES[:, 0], labels=np.arange(len(IMAGES)))
    with pytest.raises(DataError, match=r"floating point images \[N, C, H, W\]"):
        read_images(tmp_path / "file.npz")
