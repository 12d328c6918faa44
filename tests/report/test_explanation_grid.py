from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from interpretgan.diagnosis.result import Diagnosis
from interpretgan.errors import ConfigError, ImageError, RunFolderError
from interpretgan.interpreter import Explanation
from interpretgan.report import draw_explanation, explanation_grid, load_explanation, save_explanation, write_report
from tests.report.samples import explanation_of


def test_the_grid_marks_wrong_predictions_and_turns(lenet: Diagnosis) -> None:
    examples, scales = explanation_grid.grid(
        explanation_grid.as_explanation(explanation_of(lenet)), lenet.data["classes"]
    )
    assert len(examples) == 5
    assert 0 < scales[0] <= 0.2 + 1e-6 < scales[1] <= 1
    first, *_, last = examples
    assert (first.label, first.turn, first.into) == ("7", "fc1", "0")
    assert list(first.rows) == ["natural", "adversarial", "difference"]
    assert [cell.layer for cell in first.rows["difference"]] == [layer.name for layer in lenet.layers]
    assert [cell.wrong for cell in first.rows["adversarial"]] == [False] * 5 + [True] * 3
    assert [cell.prediction for cell in first.rows["adversarial"]] == ["7"] * 5 + ["0"] * 3
    assert (last.turn, last.into) == (None, None)


@pytest.mark.parametrize(
    ("natural", "attacked", "said"),
    [
        ([2, 2, 2, 2], [2, 2, 2, 2], "2 stays 2 at every layer"),
        ([2, 2, 7, 2], [2, 2, 7, 2], "2 stays 2 at every layer that can be read"),
        ([1, 1, 1, 1], [1, 1, 1, 1], "not even the natural 2 is predicted right, as an image or at a layer"),
        ([2, 2, 2, 2], [2, 1, 1, 2], "2 turns for a while, into 1 at b and 1 more, and is 2 again at d"),
        ([2, 2, 2, 1], [2, 5, 2, 1], "2 turns for a while, into 5 at b, and is 2 again at c"),
    ],
)
def test_an_image_that_turns_at_no_layer_is_told_as_it_is(natural: list[int], attacked: list[int], said: str) -> None:
    drawn, images = torch.zeros(3, 1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    explanation = Explanation(
        ("b", "c", "d"), images, images, drawn, drawn, (0.0, 1.0), torch.tensor([2]),
        torch.tensor(natural)[:, None], torch.tensor(attacked)[:, None],
    )  # fmt: skip
    assert explanation.turns == (None,)
    assert explanation_grid.no_turn(explanation, 0, [str(number) for number in range(10)]) == said


def test_predictions_stand_below_the_pictures_of_the_page(lenet: Diagnosis, tmp_path: Path) -> None:
    content = write_report(lenet, tmp_path, explanation_of(lenet)).read_text("utf-8")
    assert content.count('<span class="prediction') == 5 * 2 * 8
    assert content.count('<span class="prediction wrong">') == 4 * 3
    assert content.count('<td class="turn">') == 4 * 3


def test_explanations_without_a_judge_have_no_captions(lenet: Diagnosis, tmp_path: Path) -> None:
    arrays = explanation_of(lenet)
    for key in ("labels", "natural_predictions", "adversarial_predictions"):
        del arrays[key]
    content = write_report(lenet, tmp_path, arrays).read_text("utf-8")
    assert '<span class="prediction' not in content
    assert 'class="turn"' not in content
    assert "no turn" not in content


def test_more_examples_than_fit_are_counted(lenet: Diagnosis, tmp_path: Path) -> None:
    arrays = explanation_of(lenet, count=4)
    for key, value in arrays.items():
        if isinstance(value, np.ndarray):
            arrays[key] = np.concatenate([value] * 3, axis=1 if value.ndim in (2, 5) else 0)
    content = write_report(lenet, tmp_path, arrays).read_text("utf-8")
    assert "The first 8 of 12 examples are shown." in content
    assert content.count("<img") == 8 * 3 * 8


@pytest.mark.parametrize(
    "key", ["adversarial", "natural_explanations", "adversarial_explanations", "natural_predictions", "labels"]
)
def test_arrays_that_do_not_fit_are_refused_by_name(key: str, lenet: Diagnosis, tmp_path: Path) -> None:
    arrays = explanation_of(lenet)
    arrays[key] = arrays[key][:1]
    with pytest.raises(ImageError, match=key):
        write_report(lenet, tmp_path, arrays)
    assert list(tmp_path.iterdir()) == []


def test_images_that_are_no_pictures_and_natural_ones_alone_are_refused(lenet: Diagnosis) -> None:
    arrays = explanation_of(lenet)
    with pytest.raises(ImageError, match="N, C, H, W"):
        explanation_grid.grid(explanation_grid.as_explanation({**arrays, "images": arrays["images"][:, 0]}))
    with pytest.raises(ImageError, match="adversarial of shape"):
        explanation_grid.grid(explanation_grid.as_explanation({**arrays, "images": arrays["images"].repeat(2, axis=1)}))
    alone = {**arrays, "adversarial": None, "adversarial_explanations": None}
    with pytest.raises(ConfigError, match="expected adversarial images"):
        explanation_grid.grid(explanation_grid.as_explanation(alone))


@pytest.mark.parametrize("channels", [2, 4])
def test_a_report_shows_images_of_any_number_of_channels(channels: int, lenet: Diagnosis, tmp_path: Path) -> None:
    shown = []
    for number in (3, channels):
        write_report(lenet, tmp_path / str(number), explanation_of(lenet, channels=number))
        shown.append((tmp_path / str(number) / "report.html").read_text().count("data:image/"))
    assert shown[0] == shown[1] > len(lenet.layers)


@pytest.mark.parametrize("channels", [1, 3])
def test_saving_and_loading_an_explanation_is_an_identity(channels: int, lenet: Diagnosis, tmp_path: Path) -> None:
    explanation = explanation_grid.as_explanation(explanation_of(lenet, channels=channels))
    file = tmp_path / "explanations.npz"
    save_explanation(file, explanation)
    again = load_explanation(file)
    assert (again.layers, again.bounds, again.turns) == (explanation.layers, explanation.bounds, explanation.turns)
    for name, value in vars(explanation).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(again, name), value)
    drawn = draw_explanation(again, tmp_path / "sheet.png", lenet.data["classes"])
    with Image.open(drawn) as sheet:
        assert sheet.width > 8 * 96


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no more"])
def test_a_damaged_file_of_explanations_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "explanations.npz").write_bytes(content)
    with pytest.raises(RunFolderError, match="damaged file"):
        load_explanation(tmp_path / "explanations.npz")
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(RunFolderError, match="damaged file"):
        load_explanation(tmp_path / "other.npz")


@pytest.mark.parametrize(("side", "expected"), [(300, explanation_grid.MAX_SIDE), (28, 28)])
def test_large_pictures_are_reduced_and_small_ones_kept(side: int, expected: int) -> None:
    kind, _, content = explanation_grid.data_uri(np.zeros((side, side - 5, 3), dtype=np.uint8)).partition("base64,")
    assert kind == "data:image/png;"
    assert max(Image.open(io.BytesIO(base64.b64decode(content))).size) == expected


def test_an_explanation_is_drawn_as_its_arrays_are(lenet: Diagnosis, tmp_path: Path) -> None:
    arrays = explanation_of(lenet)
    explanation = explanation_grid.as_explanation(arrays)
    assert isinstance(explanation, Explanation)
    pages = [write_report(lenet, tmp_path / name, given).read_bytes() for name, given in
             (("arrays", arrays), ("explanation", explanation))]  # fmt: skip
    assert pages[0] == pages[1]
