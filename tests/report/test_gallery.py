"""The gallery of a run: which images it takes, what it keeps of them, and what the page does with a choice."""

from __future__ import annotations

import dataclasses
import io
import re
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from interpretgan.data.pictures import picture
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.errors import ConfigError, RunFolderError
from interpretgan.report import Gallery, redraw_report, save_explanation, write_report
from interpretgan.report.explanation_grid import as_explanation
from interpretgan.report.gallery import CELLS, LARGEST, varied
from interpretgan.store.files import write_arrays
from tests.report.samples import deep_diagnosis, explanation_of, lenet_diagnosis
from tests.report.test_browser import DESKTOP, Browser

LAYERS = ("a", "b", "c")


def gallery_of(count: int, layers: tuple[str, ...] = LAYERS, *, side: int = 28, channels: int = 1) -> Gallery:
    """Images of class 0 to 9 that become the third or fifth next at one of the layers, each of which has a grey."""
    columns, labels = len(layers) + 1, np.arange(count) % 10
    natural = np.tile(labels, (columns, 1))
    attacked = natural.copy()
    for image in range(count):
        attacked[1 + image % (columns - 1) :, image] = (labels[image] + 3 + 2 * (image % 2)) % 10
    grey = (20 * np.arange(columns, dtype=np.uint8))[None, :, None, None, None]
    pictures = np.broadcast_to(grey, (count, columns, side, side, channels)).copy()
    return Gallery(layers, np.arange(count) + 100, labels, natural, attacked, pictures, pictures + 100)


def test_a_gallery_takes_every_kind_before_it_takes_one_twice() -> None:
    labels = np.array([0] * 50 + [1] * 4)
    natural = np.tile(labels, (3, 1))
    adversarial = natural.copy()
    adversarial[1:, 10:] = 2  # turns at the first layer
    adversarial[1, 20] = 0  # turns at the second
    adversarial[2, 30] = 3  # turns at the first, too
    adversarial[1:, 53] = 4
    chosen = varied(labels, natural, adversarial, count=5)
    assert chosen == [0, 10, 20, 50, 53]
    assert varied(labels, natural, adversarial, count=6) == [0, 10, 11, 20, 50, 53]
    assert varied(labels, natural, adversarial, count=99) == list(range(54))


def test_networks_of_many_layers_have_fewer_images() -> None:
    labels = np.zeros(200, dtype=np.int64)
    predictions = np.zeros((250, 200), dtype=np.int64)
    assert len(varied(labels, predictions, predictions)) == CELLS // 500


@pytest.mark.parametrize("channels", [1, 3])
def test_a_gallery_keeps_pixels_and_predictions(lenet: Diagnosis, channels: int, tmp_path: Path) -> None:
    parts = [explanation_of(lenet, count=5, channels=channels) | {"indices": np.arange(5) + 7 * n} for n in range(2)]
    gallery = Gallery.of([as_explanation(part) for part in parts])
    assert gallery.indices.tolist() == [*range(5), *range(7, 12)]
    pixels = np.round(255 * parts[1]["adversarial_explanations"][3, 2].astype(np.float64)).transpose(1, 2, 0)
    assert np.array_equal(gallery.adversarial[7, 4], pixels)
    assert gallery.natural.shape == (10, 8, 24, 24, channels)
    assert gallery.turns[:5] == list(as_explanation(parts[0]).turns)
    gallery.save(tmp_path / "gallery.npz")
    again = Gallery.load(tmp_path / "gallery.npz")
    for field in dataclasses.fields(Gallery):
        assert np.array_equal(getattr(gallery, field.name), getattr(again, field.name))


@pytest.mark.parametrize("channels", [2, 5])
def test_a_gallery_shows_other_channels_in_colour(lenet: Diagnosis, channels: int) -> None:
    explanation = as_explanation(explanation_of(lenet, count=3, channels=channels) | {"indices": np.arange(3)})
    gallery = Gallery.of([explanation])
    assert gallery.natural.shape == (3, 8, 24, 24, 3)
    assert np.array_equal(gallery.natural[1, 0], picture(explanation.images[1].numpy(), explanation.bounds))


def test_explanations_without_numbers_make_no_gallery(lenet: Diagnosis) -> None:
    with pytest.raises(ConfigError, match="explanations with indices"):
        Gallery.of([as_explanation(explanation_of(lenet))])


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("labels", None, "no labels"),
        ("labels", np.arange(6), "indices of"),  # which do not fit then
        ("layers", np.array(["a"]), "natural_predictions of"),
        ("natural", np.zeros((5, 4, 28, 28, 2), np.uint8), "natural of"),
        ("adversarial", np.zeros((5, 4, 20, 28, 1), np.uint8), "adversarial of"),
        ("natural", np.zeros((5, 4, 28, 28, 1), np.float32), "natural of"),
        ("adversarial_predictions", np.full((4, 5), -1), "adversarial_predictions of"),
        ("indices", np.array(["a"] * 5), "indices of"),
    ],
)
def test_a_damaged_gallery_is_refused_by_name(
    name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None, named: str, tmp_path: Path
) -> None:
    arrays = {each.name: np.asarray(getattr(gallery_of(5), each.name)) for each in dataclasses.fields(Gallery)}
    arrays |= {} if value is None else {name: value}
    write_arrays(tmp_path / "gallery.npz", {k: v for k, v in arrays.items() if value is not None or k != name})
    with pytest.raises(RunFolderError, match=named):
        Gallery.load(tmp_path / "gallery.npz")


def test_a_report_is_drawn_again_with_its_gallery(lenet: Diagnosis, tmp_path: Path) -> None:
    save_explanation(tmp_path / "explanations.npz", as_explanation(explanation_of(lenet)))
    without = redraw_report(lenet, tmp_path, tmp_path / "without").read_text()
    names = tuple(layer.name for layer in lenet.layers[1:])
    gallery_of(20, names).save(tmp_path / "gallery.npz")
    page = redraw_report(lenet, tmp_path).read_text()
    assert 'id="gallery"' not in without
    assert page.count("<tbody data-image=") == 20
    assert re.findall(r'<option value="2">2 \((\d)\)', page) == ["2", "2"]  # as a class, and as what others turn into


def test_the_page_stays_below_five_megabytes(tmp_path: Path) -> None:
    deep, rng = deep_diagnosis(), np.random.default_rng(0)
    gallery = gallery_of(96, tuple(layer.name for layer in deep.layers[1:]), side=32, channels=3)
    noise = rng.integers(0, 256, (2, *gallery.natural.shape), dtype=np.uint8)
    gallery = dataclasses.replace(gallery, natural=noise[0], adversarial=noise[1])  # no picture is larger
    page = write_report(deep, tmp_path, explanation_of(deep), gallery=gallery)
    shown = page.read_text().count("<tbody data-image=")
    assert 0 < shown < 96
    assert f"{shown} of 96 test images" in page.read_text()
    assert LARGEST < page.stat().st_size < 5 * 10**6


@pytest.mark.needs_browser
def test_choices_leave_the_images_that_they_name(browser: str, tmp_path: Path) -> None:
    lenet, names = lenet_diagnosis(), tuple(layer.name for layer in lenet_diagnosis().layers[1:])
    gallery = gallery_of(40, names)
    predictions = {"labels": np.arange(140) % 10, "adversarial": np.zeros((8, 140), dtype=np.int64)}
    predictions["adversarial"][:, 100:] = gallery.adversarial_predictions
    page = write_report(lenet, tmp_path, None, predictions, gallery)
    shown = "[...document.querySelectorAll('#gallery tbody')].filter(e => !e.hidden).map(e => +e.dataset.image)"

    def choose(name: str, value: str) -> str:
        return (
            f"(s => {{ s.value = '{value}'; s.dispatchEvent(new Event('change')) }})"
            f"(document.querySelector('#gallery select[name={name}]'))"
        )

    with closing(Browser(browser, tmp_path / "profile")) as tab:
        tab.open(page, width=DESKTOP, scheme="dark")
        assert tab.run(shown) == list(range(100, 112))
        tab.run("document.querySelector('#gallery button.more').click()")
        assert tab.run(shown) == list(range(100, 136))
        tab.run(choose("label", "4"))
        assert tab.run(shown) == [104, 114, 124, 134]
        tab.run(choose("turn", names[2]))
        turned = [100 + image for image in range(40) if image % 10 == 4 and gallery.turns[image] == names[2]]
        assert tab.run(shown) == turned
        said = "1 image" if len(turned) == 1 else f"{len(turned)} images"
        assert tab.run("document.querySelector('#gallery output').innerText") == said
        tab.run(choose("turn", "") + ";" + choose("label", ""))

        # A picture is that of its layer and kind: each has a grey of its own.
        tab.run("document.getElementById('gallery').scrollIntoView()")
        places = tab.run(
            "[...document.querySelectorAll('#gallery tbody')].slice(0, 1).flatMap(e => [...e.querySelectorAll('.cut')])"
            ".map(e => e.getBoundingClientRect()).map(r => [r.left, r.top, r.right, r.bottom])"
        )
        screen = np.asarray(Image.open(io.BytesIO(tab.picture())).convert("L"), dtype=np.float64)
        for number, (left, top, right, bottom) in enumerate(places):
            part = screen[int(top) + 3 : int(bottom) - 3, int(left) + 3 : int(right) - 3]
            assert abs(part - (20 * (number % 8) + 100 * (number // 8))).max() <= 3

        # A cell of a confusion table shows the images of the gallery that it counts.
        cell = f"table.heat[data-layer={names[6]}] tbody tr:nth-child(5) td:nth-child(9)"
        tab.run(f"document.querySelector('{cell}').click()")
        found = tab.run("[...document.querySelectorAll('.cases figcaption')].map(e => +e.textContent.match(/\\d+/)[0])")
        assert found == [104, 114, 124, 134]
        assert tab.run("document.querySelectorAll('.cases .cut').length") == 4 * 4
