from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from interpretgan.errors import ImageError, RunFolderError
from interpretgan.report import answer_sentence, figures, page, summary_table, wording, write_report
from interpretgan.robustness import attack_checks as trust
from tests.report.samples import examples_of, lenet_diagnosis

VOID = frozenset({"meta", "img", "br", "wbr"})


class Predictor(HTMLParser):
    """Collects tags and text, and refuses elements that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag, f"</{tag}> out of order"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


def read(path: Path) -> Predictor:
    reader = Predictor()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


def words(reader: Predictor) -> str:
    return " ".join("".join(reader.words).split())


@pytest.fixture(params=["lenet", "deep"])
def diagnosis(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.getfixturevalue(request.param)
    return found


def set_value(diagnosis: dict[str, Any], name: str, value: float, half: float = 0.02) -> None:
    layer = next(layer for layer in diagnosis["layers"] if layer["name"] == name)
    layer["vulnerability"] = {"value": value, "low": value - half, "high": value + half}


# ------------------------------------------------------------------------------------------------------ page


def test_page_is_well_formed_and_names_every_layer(diagnosis: dict[str, Any], tmp_path: Path) -> None:
    path = write_report(diagnosis, examples_of(diagnosis, count=2), tmp_path)
    assert path == tmp_path / "report.html"
    shown = words(read(path))
    for layer in diagnosis["layers"]:
        assert layer["name"] in shown
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == [
        "explanations.png",
        "report.html",
        "vulnerability.svg",
    ]


def test_page_loads_nothing_from_elsewhere(diagnosis: dict[str, Any], tmp_path: Path) -> None:
    reader = read(write_report(diagnosis, examples_of(diagnosis, count=2), tmp_path))
    links = []
    for tag, attributes in reader.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        assert (attributes.get("src") or "data:").startswith("data:")
        if "href" in attributes and not (attributes["href"] or "").startswith("#"):
            links.append((tag, attributes["href"]))
    assert links == [("a", "https://arxiv.org/abs/2007.08716")]
    styles = "".join(re.findall(r"<style>.*?</style>", (tmp_path / "report.html").read_text("utf-8"), re.S))
    assert "@import" not in styles
    assert set(re.findall(r"url\(([^)]*)\)", styles)) == {"#hatch"}


def test_page_is_accessible(lenet: dict[str, Any], tmp_path: Path) -> None:
    reader = read(write_report(lenet, examples_of(lenet), tmp_path))
    levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(attributes.get("scope") for tag, attributes in reader.tags if tag == "th")
    pictures = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert len(pictures) == 5 * 3 * 8
    assert all(attributes.get("alt") for attributes in pictures)
    targets = {attributes.get("id") for _, attributes in reader.tags}
    jumps = [str(attributes["href"])[1:] for tag, attributes in reader.tags if tag == "a"][:-1]
    assert set(jumps) <= targets


def test_names_from_outside_are_escaped(lenet: dict[str, Any], tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    lenet["data"]["classes"][7] = evil
    lenet["classifier"]["name"] = evil
    lenet["layers"][5]["name"] = evil
    lenet["flags"] = [evil]
    path = write_report(lenet, examples_of(lenet), tmp_path)
    reader = read(path)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert evil in words(reader)
    ElementTree.parse(tmp_path / "figures" / "vulnerability.svg")
    assert "<script" not in (tmp_path / "figures" / "vulnerability.svg").read_text("utf-8")


def test_unreliable_layers_are_marked_in_word_and_shape(deep: dict[str, Any], tmp_path: Path) -> None:
    content = write_report(deep, None, tmp_path).read_text("utf-8")
    assert content.count('class="bar hatched"') == 4  # in the chart, and beside the information loss
    assert content.count('<span class="tag">unreliable</span>') == 4  # in the chart and in the table
    assert "natural explanations read right at 0.40 &lt; 0.60" in content
    assert "neither this row nor the vulnerability of the layer" in content


def test_the_numbers_are_those_of_the_diagnosis(lenet: dict[str, Any], tmp_path: Path) -> None:
    shown = words(read(write_report(lenet, None, tmp_path)))
    for figure in ("98.4 %", "1.4 %", "98.1 %", "97.5 %", "93.5 %", "+58.0 [55.5, 60.6]", "ε = 0.2", "87.2 %"):
        assert figure in shown


def test_report_without_examples_or_optional_figures(lenet: dict[str, Any], tmp_path: Path) -> None:
    for layer in lenet["layers"]:
        for key in ("vulnerability_bits", "vulnerability_noise", "intervals", "transitions", "bits", "shape", "flags"):
            del layer[key]
        layer["vulnerability"] = {"value": layer["vulnerability"]["value"], "low": None, "high": float("nan")}
        layer["noise"] = float("nan")
    lenet["layers"][3]["adversarial"] = None
    for key in ("controls", "judge", "provenance", "flags"):
        del lenet[key]
    lenet["accuracy"]["noise"] = None
    shown = words(read(write_report(lenet, None, tmp_path)))
    assert "not measured" in shown
    assert "nan" not in re.findall(r"[a-z]+", shown.lower())
    assert "None" not in shown.replace("None was raised", "")
    assert "What the layers saw" not in shown
    assert not (tmp_path / "figures" / "explanations.png").exists()
    assert "no interval was computed" in answer_sentence(lenet)
    assert "fc1" in summary_table(lenet)


@pytest.mark.parametrize("empty", [{}, {"layers": []}, {"layers": [{"name": "image", "survival": 1.0}]}])
def test_a_diagnosis_of_nothing_still_has_a_page(empty: dict[str, Any], tmp_path: Path) -> None:
    assert "cannot be ranked" in words(read(write_report(empty, None, tmp_path)))
    assert "layer" in summary_table(empty)


def test_the_diagnosis_and_the_examples_are_left_as_they_were(lenet: dict[str, Any], tmp_path: Path) -> None:
    examples = examples_of(lenet)
    before, keys, images = copy.deepcopy(lenet), list(examples), examples["images"].copy()
    write_report(lenet, examples, tmp_path)
    answer_sentence(lenet)
    summary_table(lenet)
    assert json.dumps(lenet) == json.dumps(before)  # with the order of the keys
    assert list(examples) == keys
    assert np.array_equal(examples["images"], images)


def test_the_same_diagnosis_gives_the_same_bytes(lenet: dict[str, Any], tmp_path: Path) -> None:
    first = write_report(lenet, examples_of(lenet), tmp_path / "a").read_bytes()
    assert write_report(lenet, examples_of(lenet), tmp_path / "b").read_bytes() == first


def test_a_failed_write_leaves_the_old_page_and_no_remains(
    lenet: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write_report(lenet, None, tmp_path).read_bytes()
    lenet["classifier"]["name"] = "another"

    def full(path: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunFolderError):
        write_report(lenet, None, tmp_path)
    assert (tmp_path / "report.html").read_bytes() == old
    names = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert names == {"report.html", "vulnerability.svg"}


def test_many_classes_become_lists(lenet: dict[str, Any], tmp_path: Path) -> None:
    count = 40
    lenet["data"]["classes"] = [f"class {index}" for index in range(count)]
    table = np.eye(count, dtype=int) * 5
    table[3, 21] = 17
    lenet["layers"][5]["transitions"] = table.tolist()
    shown = words(read(write_report(lenet, None, tmp_path)))
    assert "class 3 → class 21: 17" in shown


def test_information_stands_beside_vulnerability_where_it_was_measured(lenet: dict[str, Any], tmp_path: Path) -> None:
    lenet["layers"][2]["flags"] = ["information loss below zero by more than its interval: -0.0080 [-0.0140, -0.0020]"]
    shown = words(read(write_report(lenet, None, tmp_path)))
    assert "What each layer forgets" in shown
    for figure in ("+30.2 [29.6, 30.8]", "−0.8 [−1.4, −0.2]", "3.10[3.06, 3.14]", "+12.1[11.6, 12.6]"):
        assert figure in shown
    assert "No layer can know more of the image" in shown
    picture = (tmp_path / "figures" / "vulnerability.svg").read_text("utf-8")
    assert "What each layer forgets" in picture
    assert "+30.2" in picture
    lines = summary_table(lenet).splitlines()
    assert lines[0].split()[-5:] == ["forgets", "%", "interval", "class", "bits"]
    assert lines[7].split()[-4:] == ["+30.2", "[29.6,", "30.8]", "3.10"]
    for layer in lenet["layers"]:
        for key in list(layer):
            if "information" in key or key in ("unexplained", "class_accuracy"):
                layer[key] = None
    lenet["layers"][2]["flags"] = []
    assert "forgets" not in words(read(write_report(lenet, None, tmp_path)))
    assert "forgets" not in (tmp_path / "figures" / "vulnerability.svg").read_text("utf-8")
    assert summary_table(lenet).splitlines()[0].endswith("V of noise")


# --------------------------------------------------------------------------------------------------- figures


def test_the_picture_of_the_charts_is_sound(diagnosis: dict[str, Any], tmp_path: Path) -> None:
    write_report(diagnosis, None, tmp_path)
    path = tmp_path / "figures" / "vulnerability.svg"
    content = path.read_text("utf-8")
    shown = "".join(ElementTree.parse(path).getroot().itertext())
    for layer in diagnosis["layers"]:
        assert layer["name"] in shown
    drawing = content.partition("</style>")[2]
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b", drawing) == []  # colours come from the scheme's variables
    assert "prefers-color-scheme:dark" in content
    assert "nan" not in drawing.lower()


def test_bars_start_at_zero_and_are_true_to_scale(lenet: dict[str, Any]) -> None:
    drawn = figures.chart(lenet)
    rows = {row["name"]: row for row in drawn["rows"]}
    assert rows["image"]["bar"] is None
    assert rows["fc1"]["bar"]["x"] == pytest.approx(drawn["zero"], abs=1e-3)
    values = {layer["name"]: layer["vulnerability"]["value"] for layer in lenet["layers"]}
    ratio = rows["fc1"]["bar"]["width"] / rows["relu2"]["bar"]["width"]
    assert ratio == pytest.approx(values["fc1"] / values["relu2"], rel=1e-3)
    for row in drawn["rows"][1:]:
        low, high = row["whisker"]
        assert 0 <= low <= row["bar"]["x"] + row["bar"]["width"] + 1e-3
        assert high <= 100


def test_class_information_has_its_bars_in_bits_the_image_included(lenet: dict[str, Any], tmp_path: Path) -> None:
    bits = [2.0 + 0.1 * place for place in range(len(lenet["layers"]))]
    for layer, value in zip(lenet["layers"], bits, strict=True):
        layer["class_information"] = {"value": value, "low": value - 0.05, "high": value + 0.05}
    drawn = figures.chart(lenet)
    assert drawn["bits"]["zero"] == 0
    parts = [row["bits"] for row in drawn["rows"]]
    assert [part["bar"]["width"] / parts[0]["bar"]["width"] for part in parts] == pytest.approx(
        [value / bits[0] for value in bits], rel=1e-3
    )
    assert all(part["whisker"][0] < part["bar"]["width"] < part["whisker"][1] <= 100 for part in parts)
    assert (parts[1]["value"], parts[1]["span"]) == ("2.10", "[2.05, 2.15]")
    for layer in lenet["layers"]:
        del layer["class_information"]
    assert figures.chart(lenet)["bits"] is None


def test_negative_bars_end_at_zero(lenet: dict[str, Any]) -> None:
    set_value(lenet, "pool1", -0.1)
    drawn = figures.chart(lenet)
    bar = next(row for row in drawn["rows"] if row["name"] == "pool1")["bar"]
    assert bar["x"] + bar["width"] == pytest.approx(drawn["zero"], abs=1e-2)


def test_a_gap_breaks_the_curve(lenet: dict[str, Any]) -> None:
    lenet["layers"][3]["adversarial"] = None
    assert len(figures.chart(lenet)["curves"]["adversarial"]["lines"]) == 2
    assert len(figures.chart(lenet)["curves"]["natural"]["lines"]) == 1


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.05), (-0.02, 0.61), (-1.0, 1.0), (0.0, 0.0)])
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    found = figures.ticks(low, high)
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    assert len(found) <= 8
    assert any(abs(tick) < 1e-12 for tick in found)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0)])
def test_pictures_keep_every_pixel(channels: int, bounds: tuple[float, float]) -> None:
    low, high = bounds
    image = np.linspace(low, high, channels * 2 * 3).reshape(channels, 2, 3)
    drawn = figures.picture(image, bounds)
    assert drawn.shape == (2, 3, 3)
    assert drawn.dtype == np.uint8
    assert drawn[0, 0].max() < 128 or channels == 3
    expected = np.round(255 * (image - low) / (high - low)).astype(np.uint8)
    assert np.array_equal(drawn[..., 0], expected[0])
    assert np.array_equal(drawn[..., -1], expected[-1])


def test_differences_have_a_colour_for_each_sign_and_none_at_zero() -> None:
    drawn = figures.difference_picture(np.array([[[0.5, 0.0, -0.25]]]), 0.5)
    assert drawn[0, :, 3].tolist() == [255, 0, 128]
    assert tuple(drawn[0, 0, :3]) == figures.MORE
    assert tuple(drawn[0, 2, :3]) == figures.LESS


def test_grid_marks_wrong_predictions_and_turns(lenet: dict[str, Any]) -> None:
    shown = figures.grid(figures.check_examples(examples_of(lenet)))
    assert len(shown) == 5
    assert shown[0]["turn"] == "fc1"
    assert (shown[0]["label"], shown[0]["into"]) == ("7", "0")
    assert [cell["wrong"] for cell in shown[0]["rows"][1]["cells"]] == [False] * 5 + [True] * 3
    assert shown[4]["turn"] is None
    assert [row["kind"] for row in shown[0]["rows"]] == ["natural", "adversarial", "difference"]


def test_examples_without_a_judge_have_no_captions(lenet: dict[str, Any], tmp_path: Path) -> None:
    examples = examples_of(lenet)
    for key in ("labels", "natural_predictions", "adversarial_predictions", "turns"):
        del examples[key]
    content = write_report(lenet, examples, tmp_path).read_text("utf-8")
    assert '<span class="reads' not in content
    assert 'class="turn"' not in content


def test_more_examples_than_fit_are_counted(lenet: dict[str, Any], tmp_path: Path) -> None:
    examples = examples_of(lenet, count=4)
    many = dict(examples)
    for key, value in examples.items():
        if isinstance(value, np.ndarray):
            many[key] = np.concatenate([value] * 3, axis=1 if value.ndim in (2, 5) else 0)
    many["turns"] = examples["turns"] * 3
    assert "The first 8 of 12 examples are shown." in words(read(write_report(lenet, many, tmp_path)))


@pytest.mark.parametrize("key", ["adversarial", "natural_explanations", "natural_predictions", "labels"])
def test_examples_that_do_not_fit_are_refused_by_name(key: str, lenet: dict[str, Any], tmp_path: Path) -> None:
    examples = examples_of(lenet)
    examples[key] = examples[key][:1]
    with pytest.raises(ImageError, match=key):
        write_report(lenet, examples, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_large_pictures_are_reduced() -> None:
    from PIL import Image

    file = figures.png(np.zeros((300, 200, 3), dtype=np.uint8))
    assert max(Image.open(io.BytesIO(file)).size) == figures.MAX_SIDE


# ------------------------------------------------------------------------------------------------------ text


def test_one_layer_stands_out(lenet: dict[str, Any]) -> None:
    assert answer_sentence(lenet) == (
        "fc1 contributes most to the vulnerability of lenet5: 58 points [55, 61] of survival, 62 % of the "
        "93 points lost between image and logits."
    )


def test_layers_whose_intervals_overlap_are_named_together(lenet: dict[str, Any]) -> None:
    set_value(lenet, "fc1", 0.30, 0.05)
    set_value(lenet, "pool2", 0.27, 0.05)
    sentence = answer_sentence(lenet)
    assert sentence.startswith(
        "fc1 and pool2 contribute most to the vulnerability of lenet5 and cannot be told apart: "
    )
    assert "30 points [25, 35] and 27 points [22, 32] of survival, together" in sentence


def test_many_layers_that_cannot_be_told_apart_are_counted(lenet: dict[str, Any]) -> None:
    for layer in lenet["layers"][1:]:
        set_value(lenet, layer["name"], 0.13, 0.05)
    sentence = answer_sentence(lenet)
    assert sentence.startswith("relu1, pool1, relu2 and 4 others contribute most")
    assert "for the first 3, all 7 together 98 % of" in sentence


def test_no_loss_names_no_layer(lenet: dict[str, Any]) -> None:
    for layer in lenet["layers"]:
        layer["survival"] = 0.97
        layer["intervals"]["survival"] = {"low": 0.96, "high": 0.98}
    lenet["layers"][-1]["survival"] = 0.965
    sentence = answer_sentence(lenet)
    assert sentence.startswith("No layer of lenet5 contributes a loss that can be measured: ")
    assert "from 97.0 % at image to 96.5 % at logits" in sentence


def test_a_loss_within_its_intervals_names_no_layer(lenet: dict[str, Any]) -> None:
    for layer, survival in zip(lenet["layers"], np.linspace(0.97, 0.92, 8), strict=True):
        layer["survival"] = float(survival)
        layer["intervals"]["survival"] = {"low": float(survival) - 0.04, "high": float(survival) + 0.04}
    assert "a difference within its intervals" in answer_sentence(lenet)


def test_a_top_layer_that_may_be_zero_does_not_stand_out(lenet: dict[str, Any]) -> None:
    for layer in lenet["layers"][1:]:
        set_value(lenet, layer["name"], 0.13, 0.14)
    assert answer_sentence(lenet).startswith("No single layer of lenet5 stands out: of the 93 points lost")


def test_a_share_above_the_whole_is_explained(lenet: dict[str, Any]) -> None:
    set_value(lenet, "fc1", 0.99)
    set_value(lenet, "relu2", -0.2)
    assert "more than the whole of the 93 points" in answer_sentence(lenet)


@pytest.mark.parametrize(("name", "where"), [("fc1", "at fc1"), ("pool2", "at pool2 (the layer before fc1)")])
def test_an_unreliable_layer_on_either_side_is_said(lenet: dict[str, Any], name: str, where: str) -> None:
    layer = next(layer for layer in lenet["layers"] if layer["name"] == name)
    layer["flags"] = ["unreliable: natural explanations read right at 0.83 < 0.95"]
    assert answer_sentence(lenet).endswith(
        f" Read this with care: {where}, natural explanations read right at 0.83 < 0.95."
    )


def test_an_unreliable_layer_elsewhere_is_not_said(lenet: dict[str, Any]) -> None:
    lenet["layers"][1]["flags"] = ["unreliable: natural explanations read right at 0.83 < 0.95"]
    assert "care" not in answer_sentence(lenet)


def test_flags_of_the_whole_diagnosis_are_said(lenet: dict[str, Any]) -> None:
    lenet["flags"] = ["first", "second", "third"]
    assert answer_sentence(lenet).endswith("Read this with care: first; second; 1 more among the flags.")


def test_summary_table_has_a_line_per_layer_and_the_flags(deep: dict[str, Any]) -> None:
    lines = summary_table(deep).splitlines()
    assert len(lines) == 2 + 26 + 3
    assert [line.split()[0] for line in lines if line.startswith("!")].count("!") == 5
    assert summary_table(deep).replace("×", "x").isascii()
    assert lines[-1] == "! few examples: intervals are wide"
    assert len({len(line) for line in lines[3:28]}) == 1  # the columns are aligned


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (wording.signed(0.551), "+55.1"),
        (wording.signed(-0.05), "−5.0"),
        (wording.signed(-0.0001), "0.0"),
        (wording.signed(None), "–"),
        (wording.percent(float("nan")), "–"),
        (wording.percent(1), "100.0 %"),
        (wording.span({"low": -0.0001, "high": 0.1}), "[0.0, 10.0]"),
        (wording.span({"low": None, "high": 0.1}), ""),
        (wording.join(["a", "b", "c"]), "a, b and c"),
        (page.threat_words({"norm": "linf", "eps": 8 / 255, "restarts": 5}), "L∞, ε = 8/255, 5 restarts"),
        (page.threat_words({"norm": "l2", "eps": 0.5, "attack": "fgsm"}), "L2, ε = 0.5, FGSM"),
        (page.threat_words({}), ""),
    ],
)
def test_numbers_in_words(found: str, expected: str) -> None:
    assert found == expected


@pytest.mark.parametrize("write", [answer_sentence, summary_table])
def test_text_is_free_of_null_and_nan(write: Callable[[dict[str, Any]], str], lenet: dict[str, Any]) -> None:
    lenet["layers"][2]["vulnerability"] = {"value": None, "low": None, "high": None}
    lenet["layers"][3]["natural"] = float("nan")
    assert not re.search(r"\b(nan|None)\b", write(lenet))


@pytest.mark.parametrize(
    ("flag", "word"),
    [
        ("unreliable: natural explanations read right at 0.83 < 0.95", "misreads"),
        ("PGD with 1 step: more steps of the attack win more", "too weak"),
        ("eps 0 gives a vulnerability of 0.01", "exactly zero"),
        ("few examples: intervals are wide", "wide intervals"),
        ("class information below zero by more than its interval: -0.2 [-0.3, -0.1]", "information-steps"),
        (trust.NOISE_AS_GOOD(value=0.5, threshold=0.5).message, "no more than chance"),
        (trust.ROBUST_AT_ANY_SIZE(value=0.4, eps=0.5).message, "nothing to recognise"),
        (trust.NOT_GROWING(value=0.4).message, "larger perturbation"),
        (trust.NOT_CONVERGED(value=0.4, threshold=0.5, what="steps").message, "more steps"),
        (trust.ONE_STEP_AS_GOOD(value=0.5, threshold=0.5).message, "more steps"),
        (trust.GRADIENT_ATTACKS_ONLY(attacks="pgd").message, "too weak"),
        (trust.FEW_EXAMPLES(value=20.0, threshold=1000.0).message, "wide intervals"),
        ("something new", ""),
    ],
)
def test_flags_are_explained(flag: str | None, word: str) -> None:
    assert flag is not None
    meaning = wording.flag_meaning(flag)
    assert word in meaning
    assert bool(meaning) == bool(word)


def test_the_agreement_of_several_generators_is_a_control(tmp_path: Path) -> None:
    diagnosis = lenet_diagnosis()
    assert "Generators of different seeds" not in write_report(diagnosis, None, tmp_path).read_text()
    diagnosis["controls"] |= {"seeds_spearman": 0.937, "seeds_same_top": 1.0}
    page = write_report(diagnosis, None, tmp_path).read_text()
    assert "ρ = 0.94, the same top layer" in page
