from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from interpretgan.data import ImageSet
from interpretgan.data.files import read_images
from interpretgan.errors import DataError, ImageError


@pytest.fixture
def grey() -> ImageSet:
    return ImageSet("own", "test", np.zeros((2, 1, 6, 5), dtype=np.uint8), np.array([0, 1]), ("a", "b"))


def test_files_become_images_of_the_set(grey: ImageSet, tmp_path: Path) -> None:
    pixels = np.arange(30, dtype=np.uint8).reshape(6, 5)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    Image.new("RGBA", (5, 6), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    files = [tmp_path / "grey.png", tmp_path / "clear.png"]
    found = read_images(files, grey.scaled((-1.0, 1.0)))
    np.testing.assert_allclose(found[0, 0], -1 + 2 * pixels / 255, atol=1e-6)
    assert (found[1] == 1).all()  # what is transparent is white


def test_files_that_do_not_fit_are_refused(grey: ImageSet, tmp_path: Path) -> None:
    Image.new("L", (7, 6)).save(tmp_path / "wide.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match=r"5x6 pixels, got 7x6 in .*wide.png"):
        read_images([tmp_path / "wide.png"], grey)
    for name in ("text.png", "none.png"):
        with pytest.raises(DataError, match=name):
            read_images([tmp_path / name], grey)
