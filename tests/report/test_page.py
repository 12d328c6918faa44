from __future__ import annotations

import copy
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from interpretgan.attacks import ThreatModel
from interpretgan.diagnosis.controls import CONTROLS
from interpretgan.diagnosis.reliability import UNRELIABLE, UNRELIABLE_BEFORE
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.errors import Flag, RunFolderError
from interpretgan.report import answer_sentence, page, summary_table, write_report
from interpretgan.report.wording import FLAG_MEANINGS
from interpretgan.statistics import Interval
from tests.report.reading import Reader, read, words
from tests.report.samples import (
    changed,
    counted,
    explanation_of,
    with_baselines,
    with_branches,
    with_heads,
    with_let_in,
    without_information,
)


def test_page_is_well_formed_and_names_every_layer(diagnosis: Diagnosis, tmp_path: Path) -> None:
    path = write_report(diagnosis, tmp_path, explanation_of(diagnosis, count=2))
    assert path == tmp_path / "report.html"
    shown = words(path)
    for layer in diagnosis.layers:
        assert layer.name in shown
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == [
        "explanations.png",
        "report.html",
        "vulnerability.svg",
    ]


def test_page_loads_nothing_from_elsewhere(diagnosis: Diagnosis, tmp_path: Path) -> None:
    reader = read(write_report(diagnosis, tmp_path, explanation_of(diagnosis, count=2)))
    links = []
    for tag, attributes in reader.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert (attributes.get("src") or "data:").startswith("data:")
        if "href" in attributes and not (attributes["href"] or "").startswith("#"):
            links.append((tag, str(attributes["href"]).partition(";")[0]))
    downloads = [("a", "data:text/csv"), ("a", "data:application/json")]
    assert links == [*downloads, ("a", "https://arxiv.org/abs/2007.08716")]
    styles = "".join(re.findall(r"<style>.*?</style>", (tmp_path / "report.html").read_text("utf-8"), re.S))
    assert "@import" not in styles
    assert set(re.findall(r"url\(([^)]*)\)", styles)) == {"#hatch"}


def test_page_is_accessible(lenet: Diagnosis, tmp_path: Path) -> None:
    reader = read(write_report(lenet, tmp_path, explanation_of(lenet)))
    levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(attributes.get("scope") for tag, attributes in reader.tags if tag == "th")
    pictures = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert len(pictures) == 5 * 3 * 8
    assert all(attributes.get("alt") for attributes in pictures)
    targets = {attributes.get("id") for _, attributes in reader.tags}
    jumps = [to[1:] for _, attributes in reader.tags if (to := str(attributes.get("href"))).startswith("#")]
    assert len(jumps) == 8
    assert set(jumps) <= targets


def test_names_from_outside_are_escaped(lenet: Diagnosis, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    classes = [*lenet.data["classes"][:7], evil, *lenet.data["classes"][8:]]
    lenet = replace(
        changed(lenet, "fc1", name=evil),
        data={**lenet.data, "classes": classes},
        classifier={"name": evil},
        judge={**lenet.judge, "name": evil},
        flags=(Flag("few_examples", evil),),
    )
    path = write_report(lenet, tmp_path, explanation_of(lenet))
    scripts = re.findall(r"<script>(.*?)</script>", path.read_text("utf-8"), re.S)
    assert scripts == [(page.TEMPLATES / "report.js").read_text("utf-8")]
    assert [tag for tag, _ in read(path).tags].count("script") == 1
    assert evil in words(path)
    ElementTree.parse(tmp_path / "figures" / "vulnerability.svg")
    assert "<script" not in (tmp_path / "figures" / "vulnerability.svg").read_text("utf-8")


def test_unreliable_layers_are_marked_in_word_and_shape(deep: Diagnosis, tmp_path: Path) -> None:
    content = write_report(deep, tmp_path).read_text("utf-8")
    assert content.count('class="bar hatched"') == 4  # in the chart, and beside the information loss
    assert content.count('<span class="tag">unreliable</span>') == 4  # in the chart and in the table
    for layer in deep.layers[-2:]:
        assert layer.flags[0].message in content


def test_the_numbers_are_those_of_the_diagnosis(lenet: Diagnosis, tmp_path: Path) -> None:
    shown = words(write_report(lenet, tmp_path))
    for figure in (
        "98.4 %",
        "1.4 %",
        "98.1 %",
        "97.5 %",
        "93.5 %",
        "+58.0 [55.5, 60.6]",
        "ε = 0.2",
        "87.2 %",
        "2.1 points",
    ):
        assert figure in shown
    for layer in lenet.layers:
        assert f"{100 * layer.survival:.1f} %" in shown
        assert f"{layer.bits:.2f}" in shown


def test_how_far_generators_are_apart_stands_beside_their_mean(lenet: Diagnosis, tmp_path: Path) -> None:
    apart = [
        replace(row, vulnerability=replace(row.vulnerability, spread=0.01 * place))
        for place, row in enumerate(lenet.layers)
    ]
    several = words(write_report(replace(lenet, layers=tuple(apart)), tmp_path))
    assert "+58.0[55.5, 60.6] ± 5.0" in several
    note = "in brackets, ± the standard deviation between generators."
    assert note in several
    assert note not in words(write_report(lenet, tmp_path))


def test_what_is_not_known_is_left_out(lenet: Diagnosis, tmp_path: Path) -> None:
    bare = replace(without_information(lenet), classifier={"name": "net"}, data={"examples": 7}, provenance={})
    path = write_report(bare, tmp_path)
    shown = words(path)
    assert "None" not in shown.replace("None was raised", "")
    ids = {attributes.get("id") for _, attributes in read(path).tags}
    assert ids.isdisjoint({"explanations", "information"})
    assert not (tmp_path / "figures" / "explanations.png").exists()
    assert "information" not in summary_table(bare)


def test_the_explanation_is_left_as_it_was_and_the_same_diagnosis_gives_the_same_bytes(
    lenet: Diagnosis, tmp_path: Path
) -> None:
    explanation = explanation_of(lenet)
    before = copy.deepcopy(explanation)
    first = write_report(lenet, tmp_path / "a", explanation).read_bytes()
    assert list(explanation) == list(before)
    assert all(np.array_equal(explanation[name], before[name]) for name in before)
    assert write_report(lenet, tmp_path / "b", explanation).read_bytes() == first


def test_a_failed_write_leaves_the_old_page_and_no_remains(
    lenet: Diagnosis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write_report(lenet, tmp_path).read_bytes()

    def full(path: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunFolderError):
        write_report(replace(lenet, classifier={"name": "another"}), tmp_path)
    assert (tmp_path / "report.html").read_bytes() == old
    names = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert names == {"report.html", "vulnerability.svg"}


def test_classes_that_turn_are_counted_in_tables_and_many_in_lists(lenet: Diagnosis, tmp_path: Path) -> None:
    table = np.eye(40, dtype=int) * 5
    table[3, 21], table[4, 4] = 17, 0
    few = np.array([[90, 7, 3], [0, 95, 5], [1, 0, 99]])
    lenet = changed(lenet, "fc1", transitions=counted(table))
    lenet = changed(lenet, "fc2", transitions=counted(few))
    lenet = replace(lenet, data={**lenet.data, "classes": [f"class {index}" for index in range(40)]})
    shown = words(write_report(lenet, tmp_path))
    assert "class 3 → class 21: 17" in shown
    assert "212 of" not in shown
    assert "195 of 212 right; most often class 3 → class 21 (17)" in shown
    assert "284 of 300 right; most often class 0 → class 1 (7), class 1 → class 2 (5), class 0 → class 2 (3)" in shown


def test_flags_of_layers_and_of_the_whole_stand_among_the_warnings_with_their_meaning(
    lenet: Diagnosis, tmp_path: Path
) -> None:
    at_layer = UNRELIABLE_BEFORE(layer="fc2", value=0.5, threshold=0.9, before="fc1")
    lenet = replace(changed(lenet, "fc2", flags=(at_layer,)), flags=(Flag("few_examples", "only 20 examples", "note"),))
    shown = words(write_report(lenet, tmp_path))
    assert f"only 20 examples note{FLAG_MEANINGS['few_examples']}" in shown
    assert f"fc2 {at_layer.message} failure{FLAG_MEANINGS['unreliable_before']}" in shown


def test_no_layer_is_set_off_where_none_can_be_named(lenet: Diagnosis, tmp_path: Path) -> None:
    assert 'class="top"' in write_report(lenet, tmp_path).read_text()
    misread = changed(lenet, "fc1", flags=(UNRELIABLE(layer="fc1", value=0.2, threshold=0.9),))
    content = write_report(misread, tmp_path).read_text()
    assert 'class="top"' not in content
    assert 'class="bar top"' not in (tmp_path / "figures" / "vulnerability.svg").read_text()
    assert "contributes most" not in content


def test_what_comes_back_when_a_layer_is_mended_has_its_chart(lenet: Diagnosis, tmp_path: Path) -> None:
    assert "Where the perturbation is let in" not in write_report(lenet, tmp_path).read_text()
    content = write_report(with_let_in(lenet, "pool1"), tmp_path).read_text()
    (chart,) = re.findall(r"What comes back when one layer is mended.*?</figure>", content, re.DOTALL)
    (top,) = re.findall(r'<li class="top">\s*<span class="name">(\w+)<', chart)
    assert top == "pool1"
    assert re.findall(r"\S*83\.0", re.sub("<[^>]*>", " ", chart)) == ["83.0"]
    drawing = (tmp_path / "figures" / "vulnerability.svg").read_text()
    ElementTree.fromstring(drawing)
    assert "Mended alone" in drawing


def test_heads_stand_indented_below_their_branch(lenet: Diagnosis, tmp_path: Path) -> None:
    page = write_report(with_heads(lenet, "fc1"), tmp_path).read_text()
    assert page.count('<tr class="branch part">') == 2 * 2  # in the table of all figures, and in that of blocks
    assert "add up to their branch, or to their layer" in page


def test_the_branches_of_a_block_stand_indented_below_it(lenet: Diagnosis, tmp_path: Path) -> None:
    found = with_branches(lenet, "fc1")
    text = write_report(found, tmp_path).read_text()
    Reader().feed(text)
    assert "Inside the blocks" in text
    assert "Inside the blocks" not in write_report(lenet, tmp_path / "without").read_text()
    table = text[text.index("Table of layers") : text.index("The same in bits")]
    names = re.findall(r'<th scope="row"><span class="name">(.*?)</span>', table)
    place = names.index("fc1")
    assert names[place + 1 : place + 4] == ["skip", "&lt;b&gt;mlp&lt;/<wbr>b&gt;", "attention"]
    assert table.count('<tr class="branch">') == 3
    (block,) = [row for row in found.layers if row.branches]
    for branch in block.branches:
        assert f"{100 * branch.vulnerability.value:+.1f}<small>" in table
    assert "of it in its branch &lt;b&gt;mlp&lt;/<wbr>b&gt;" in text
    assert "<b>mlp" not in text


def test_layers_that_are_left_out_are_counted(lenet: Diagnosis, tmp_path: Path) -> None:
    for chosen, told in (("by depth", True), ("by the user", False)):
        layers = {"explained": 7, "of": 22, "chosen": chosen}
        text = write_report(replace(lenet, provenance={**lenet.provenance, "layers": layers}), tmp_path).read_text()
        assert ("Of its 22 layers these are 7, chosen by depth" in text) == told


def test_controls_hold_or_do_not(lenet: Diagnosis, tmp_path: Path) -> None:
    shown = words(write_report(lenet, tmp_path))
    assert shown.count("✓ holds") == 5
    assert "Generators of different seeds" not in shown
    failed = {"eps0_max_abs_vulnerability": 0.01, "noise_max_abs_vulnerability": 0.2, "seeds_spearman": 0.937,
              "seeds_same_top": 0.0}  # fmt: skip
    shown = words(write_report(replace(lenet, controls=failed), tmp_path))
    assert shown.count("✗ does not hold") == 2
    assert "ρ = 0.94, another top layer" in shown
    for control in CONTROLS:
        moved = changed(lenet, "relu2", **{f"vulnerability_{control}": Interval(0.05, 0.02, 0.08)})
        assert words(write_report(moved, tmp_path)).count("✗ does not hold") == 1
    assert words(write_report(changed(lenet, "relu2", positive=0.5), tmp_path)).count("✗ does not hold") == 1


def test_the_picture_of_the_charts_is_sound(diagnosis: Diagnosis, tmp_path: Path) -> None:
    write_report(diagnosis, tmp_path)
    path = tmp_path / "figures" / "vulnerability.svg"
    content = path.read_text("utf-8")
    shown = "".join(ElementTree.parse(path).getroot().itertext())
    for layer in diagnosis.layers:
        assert layer.name in shown
    drawing = content.partition("</style>")[2]
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b", drawing) == []  # colours come from the scheme's variables
    assert "prefers-color-scheme:dark" in content
    assert "nan" not in drawing.lower()
    assert (
        drawing.count('class="bar') == 3 * len(diagnosis.layers) - 2
    )  # the image loses neither accuracy nor information
    assert answer_sentence(diagnosis) in shown


@pytest.mark.parametrize(
    ("threat", "expected"),
    [
        (ThreatModel("linf", 8 / 255, restarts=5), "L∞, ε = 8/255, PGD, 20 steps, 5 restarts"),
        (ThreatModel("l2", 0.5, "fgsm"), "L2, ε = 0.5, FGSM, 1 step, 1 restart"),
    ],
)
def test_threat_models_in_words(threat: ThreatModel, expected: str) -> None:
    assert page.threat_words(threat.to_dict()) == expected


def test_of_images_that_were_made_elsewhere_no_attack_is_named(lenet: Diagnosis, tmp_path: Path) -> None:
    given = replace(lenet, provenance={**lenet.provenance, "adversarial": "made elsewhere"})
    (about,) = (line for line in words(write_report(given, tmp_path)).split(". ") if "attacked under L∞" in line)
    assert "adversarial images made elsewhere" in about
    assert "PGD" not in about


def test_information_stands_beside_vulnerability_where_it_was_measured(lenet: Diagnosis, tmp_path: Path) -> None:
    lenet = changed(lenet, "logits", class_information=Interval(1.0, 0.75, 1.375))
    shown = words(write_report(lenet, tmp_path))
    for figure in (
        "+30.2 [29.6, 30.8]",
        "−0.8 [−1.4, −0.2]",
        "3.10[3.06, 3.14]",
        "+12.1[11.6, 12.6]",
        "1.00[0.75, 1.38]",
    ):
        assert figure in shown
    assert "+30.2" in (tmp_path / "figures" / "vulnerability.svg").read_text("utf-8")


def test_other_scores_stand_beside_ours_with_their_top_layers_marked(lenet: Diagnosis, tmp_path: Path) -> None:
    plain = write_report(lenet, tmp_path).read_text("utf-8")
    assert 'id="baselines"' not in plain
    path = write_report(found := with_baselines(lenet), tmp_path)
    content = path.read_text("utf-8")
    (section,) = re.findall(r'<section id="baselines">.*?</section>', content, re.S)
    rows = re.findall(r"<tr[^>]*><th scope=\"row\">.*?</tr>", section, re.S)
    cells = [re.findall(r"<td.*?</td>", row, re.S) for row in rows]
    measured = [score for score in found.baselines if score.error is None]
    assert [len(row) for row in cells] == [1 + len(measured)] * (len(lenet.layers) - 1)
    for column, score in enumerate(measured, start=1):
        blamed = [number for number, row in enumerate(cells) if 'class="blamed"' in row[column]]
        values = [value if value is not None else np.nan for value in score.values]
        assert blamed == [int((np.nanargmax if score.direction == "high" else np.nanargmin)(values))]
        assert ("▲" if score.direction == "high" else "▼") in cells[blamed[0]][column]
    ours = [row[0] for row in cells]
    assert [lenet.layers[1 + number].name for number, cell in enumerate(ours) if "blamed" in cell] == ["fc1"]
    assert section.count("<td>–</td>") == 1
    shown = words(path)
    assert all(score.source in shown and score.cost in shown for score in found.baselines)
    assert "Not measured: expected an image that the attack turns" in shown
    reader = read(path)
    assert "#baselines" in {attributes.get("href") for tag, attributes in reader.tags if tag == "a"}


def test_no_layer_of_ours_is_marked_among_other_scores_where_none_can_be_named(
    lenet: Diagnosis, tmp_path: Path
) -> None:
    misread = changed(lenet, "fc1", flags=(UNRELIABLE(layer="fc1", value=0.2, threshold=0.9),))
    content = write_report(with_baselines(misread), tmp_path).read_text("utf-8")
    (section,) = re.findall(r'<section id="baselines">.*?</section>', content, re.S)
    assert all("blamed" not in row for row in re.findall(r"</th>\s*(<td.*?</td>)", section, re.S))


def test_of_many_classes_the_commonest_changes_name_their_images(lenet: Diagnosis, tmp_path: Path) -> None:
    many = changed(lenet, "fc1", transitions={"3": {"17": 9}})
    shown = np.full((len(lenet.layers), 12), 17)
    labels = np.array([3, 0] * 6)
    content = write_report(many, tmp_path, predictions={"labels": labels, "adversarial": shown}).read_text("utf-8")
    assert "3 → 17: 9 <small>test images 0, 2, 4, 6, 8, 10</small>" in content
