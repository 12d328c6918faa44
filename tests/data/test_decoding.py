"""From encoded images to the pixels that people see: colour, size, transparency, orientation."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from interpretgan.data import ImageSet, load_data
from interpretgan.data.decoding import decode_files
from interpretgan.errors import DataError, ImageError


def pictures(root: Path, *images: Image.Image, kind: str = "png") -> Path:
    """A folder of two classes, whose training images are these and whose test image is black."""
    for split in ("train", "test"):
        for label in "ab":
            (root / split / label).mkdir(parents=True)
            Image.new("L", images[0].size).save(root / split / label / f"black.{kind}")
    for number, image in enumerate(images):
        image.save(root / "train" / "a" / f"{number}.{kind}")
    return root


def loaded(root: Path, *, image_size: int | None = None, channels: int | None = None) -> ImageSet:
    return load_data(str(root), "train", cache_dir=root.parent / "cache", image_size=image_size, channels=channels)


def square(mode: str) -> Image.Image:
    """A black square on a transparent black background."""
    image = Image.new("RGBA", (12, 12), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((2, 2, 6, 6), fill=(0, 0, 0, 255))
    return image.quantize() if mode == "P" else image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_laid_on_white(tmp_path: Path, mode: str) -> None:
    data = loaded(pictures(tmp_path / "set", square(mode)))
    drawn = next(image for image in data.images if image.max() > 0)
    expected = np.full((12, 12), 255)
    expected[2:7, 2:7] = 0
    assert (drawn == expected).all()
    assert "laid on white" in data.note


def test_opaque_images_keep_their_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.putalpha(255)
    data = loaded(pictures(tmp_path / "set", image))
    assert any((each == pixels.transpose(2, 0, 1)).all() for each in data.images)


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("alone", [False, True])
def test_orientation_is_honoured(tmp_path: Path, kind: str, alone: bool) -> None:
    upright = np.zeros((8, 16), np.uint8)
    upright[:, :8] = 255  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned: to be turned by 90 degrees clockwise
    root = pictures(tmp_path / "set", Image.new("L", (16, 8)), kind=kind)
    for file in root.glob("**/*.*") if alone else [root / "train" / "a" / f"0.{kind}"]:
        Image.fromarray(np.rot90(upright)).save(file, exif=exif, quality=95)
    data = loaded(root, channels=1)
    assert data.shape == (1, 8, 16)
    shown = next(image[0] for image in data.images if image.max() > 128)
    alone_read = decode_files([root / "train" / "a" / f"0.{kind}"], (1, 8, 16), (0.0, 255.0))[0, 0].numpy()
    for found in (shown, alone_read):
        assert np.abs(found.astype(int) - upright).max() < 20


def test_colour_anywhere_makes_the_set_colour(tmp_path: Path) -> None:
    colour, grey = Image.new("RGB", (6, 6), (200, 10, 10)), Image.new("L", (6, 6), 90)
    root = pictures(tmp_path / "set", grey, grey, colour)
    assert loaded(root).shape == (3, 6, 6)
    assert loaded(root, channels=1).shape == (1, 6, 6)
    assert loaded(pictures(tmp_path / "grey", grey), channels=3).shape == (3, 6, 6)
    with pytest.raises(DataError, match="1 channel, grey, or 3, RGB, got 4"):
        loaded(root, channels=4)


def test_sizes_that_differ_ask_for_one(tmp_path: Path) -> None:
    root = pictures(tmp_path / "set", Image.new("RGB", (6, 6)), Image.new("RGB", (3, 2)))
    with pytest.raises(DataError, match=r"one size, got .*--image-size"):
        loaded(root)
    data = loaded(root, image_size=6)
    assert data.shape == (3, 6, 6)
    assert "1 resized to 6x6" in data.note


def test_pixels_of_unknown_range_are_refused(tmp_path: Path) -> None:
    root = pictures(tmp_path / "set", Image.new("L", (6, 6)), kind="tif")
    Image.fromarray(np.ones((6, 6), np.float32)).save(root / "train" / "a" / "0.tif")
    with pytest.raises(DataError, match="known range, got 32-bit"):
        loaded(root)


def test_sixteen_bits_are_scaled_in_every_format(tmp_path: Path) -> None:
    root = pictures(tmp_path / "set", Image.new("L", (8, 8)), kind="pgm")
    (root / "train" / "a" / "0.pgm").write_bytes(b"P5 8 8 65535\n" + np.full(64, 0x8000, ">u2").tobytes())
    assert set(np.unique(loaded(root).images)) == {0, 0x80}


def test_a_set_that_is_dark_throughout_is_told(tmp_path: Path) -> None:
    root = pictures(tmp_path / "set", Image.new("L", (8, 8)), kind="pgm")
    (root / "train" / "a" / "0.pgm").write_bytes(b"P5 8 8 65535\n" + np.full(64, 0x0FFF, ">u2").tobytes())
    assert "no pixel brighter than 15 of 255" in loaded(root).note
    assert "brighter" not in loaded(pictures(tmp_path / "other", Image.new("L", (8, 8), 64))).note


def test_first_frames_are_told(tmp_path: Path) -> None:
    root = pictures(tmp_path / "set", Image.new("L", (6, 6)), kind="gif")
    frames = [Image.new("L", (6, 6), level) for level in (50, 100)]
    frames[0].save(root / "train" / "a" / "0.gif", save_all=True, append_images=frames[1:])
    assert "1 with several frames" in loaded(root).note


@pytest.mark.parametrize("pixels", [np.full((2, 1, 4, 4), 1, np.uint8), np.full((2, 1, 4, 4), 0.0039, np.float32)])
def test_pixels_that_were_scaled_twice_are_refused(pixels: npt.NDArray[np.generic]) -> None:
    with pytest.raises(ImageError, match="do not divide by 255 twice"):
        ImageSet("mine", "test", pixels, np.array([0, 1]), ("a", "b"))


# --- single files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_of_masks_of_0_and_1_is_told_what_is_wrong_with_it(tmp_path: Path, again: bool) -> None:
    mask = Image.fromarray(np.eye(6, dtype=np.uint8))
    root = pictures(tmp_path / "set", mask, mask)
    for _ in range(1 + again):
        with pytest.raises(ImageError, match="multiply masks of 0 and 1 by 255"):
            loaded(root)
    assert set(np.unique(loaded(pictures(tmp_path / "bits", square("1"), square("1"))).images)) <= {0, 255}


def test_files_become_images_of_the_set(tmp_path: Path) -> None:
    pixels = np.arange(30, dtype=np.uint8).reshape(6, 5)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    Image.new("RGBA", (5, 6), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    files = [tmp_path / "grey.png", tmp_path / "clear.png"]
    found = decode_files(files, (1, 6, 5), (-1.0, 1.0))
    np.testing.assert_allclose(found[0, 0], -1 + 2 * pixels / 255, atol=1e-6)
    assert (found[1] == 1).all()  # what is transparent is white


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    Image.new("L", (7, 6)).save(tmp_path / "wide.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match=r"5x6 pixels, got 7x6 in .*wide.png"):
        decode_files([tmp_path / "wide.png"], (1, 6, 5), (0.0, 1.0))
    Image.new("F", (5, 6)).save(tmp_path / "float.tiff")  # which would become black
    os.mkfifo(tmp_path / "pipe.png")  # which might never end
    for name in ("text.png", "none.png", "float.tiff", "pipe.png"):
        with pytest.raises(DataError, match=name):
            decode_files([tmp_path / name], (1, 6, 5), (0.0, 1.0))
