"""Runs side by side: which layers are compared, and with which intervals."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interpretgan.cli import run_command
from interpretgan.diagnosis.reliability import UNRELIABLE
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.errors import Flag, RunFolderError
from interpretgan.report import compare_runs, write_comparison
from interpretgan.report.page import TEMPLATES
from tests.report.reading import read, words
from tests.report.samples import changed, finished, with_let_in


def test_differences_are_paired_on_the_same_images(lenet: Diagnosis, tmp_path: Path) -> None:
    first, other = finished(tmp_path / "a", lenet, 3), finished(tmp_path / "b", lenet, 5)
    found = compare_runs([first, other])
    assert found.head == ("layer", "a", "b", "b - a")
    (note,) = found.notes
    assert note.startswith("a and b have fewer than 5 generators: intervals cover the choice of images alone")
    gaps: dict[str, Any] = {str(row["layer"]): row for row in found.frame.to_dict("records")}
    names = [row.name for row in lenet.layers]
    assert [gaps[name]["b - a"] for name in names[1:]] == [
        {names[3]: -0.5, names[5]: 0.5}.get(name, 0.0) for name in names[1:]
    ]
    assert gaps[names[1]]["b - a low"] == gaps[names[1]]["b - a high"] == 0
    assert -0.7 < gaps[names[3]]["b - a low"] < -0.5 < gaps[names[3]]["b - a high"] < -0.3
    # each run alone, on the other hand, says what its own diagnosis says
    assert gaps["fc1"]["a"] == pytest.approx(lenet.layers[5].vulnerability.value)


def test_differences_of_five_generators_cover_their_training(lenet: Diagnosis, tmp_path: Path) -> None:
    several = replace(lenet, provenance={**lenet.provenance, "generator_seeds": [0, 1, 2, 3, 4]})
    folders = [finished(tmp_path / name, several, 3) for name in ("a", "b")]
    for folder, more in zip(folders, (0, 6), strict=True):
        with np.load(folder / "predictions.npz") as saved:
            arrays = dict(saved)
        drawn = np.stack([arrays["natural"]] * 5)
        for number, wrong in enumerate(np.array([20, 40, 60, 80, 100]) + more):  # of 200, at all rows from the third on
            drawn[number, 3:, :wrong] += 1
        natural = np.stack([arrays["natural"]] * 5)
        np.savez(folder / "predictions.npz", **arrays, natural_all=natural, adversarial_all=drawn)
    found = compare_runs(folders)
    assert found.notes == ()
    (gap,) = found.gaps[lenet.layers[3].name]
    assert gap is not None
    assert gap.value == pytest.approx(0.03)
    assert gap.low < -0.15 < 0.21 < gap.high  # the generators of each are 16 points apart
    assert "would draw otherwise" not in compared(folders, tmp_path / "c.csv")[1]
    finished(tmp_path / "one", lenet, 3)
    assert "would draw otherwise" in compared([folders[0], tmp_path / "one"], tmp_path / "c.csv")[1]


def test_other_images_and_other_layers_are_told(
    lenet: Diagnosis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path / "a", lenet, 3)
    renamed = changed(replace(lenet, data={**lenet.data, "sha256": "0"}), "fc2", name="mine")
    finished(tmp_path / "b", renamed, 3)
    assert run_command(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c.csv")]) == 0
    out = capsys.readouterr().out
    assert "! b has other images than a" in out
    assert "! a and b explain other layers" in out
    assert "mine" in out
    table = (tmp_path / "c.csv").read_text().splitlines()
    assert len(table) == 1 + 8  # fc2 of one, mine of the other
    value = next(line for line in table if line.startswith("fc1")).split(",")
    low, high = lenet.layers[5].vulnerability.low, lenet.layers[5].vulnerability.high
    assert float(value[-1]) == pytest.approx((high - low) / 2**0.5)  # of two independent runs


def test_images_of_one_run_that_were_made_elsewhere_are_told(lenet: Diagnosis, tmp_path: Path) -> None:
    given = replace(lenet, provenance={**lenet.provenance, "adversarial": "made elsewhere"})
    folders = [finished(tmp_path / "a", lenet, 3), finished(tmp_path / "b", given, 3)]
    _, shown = compared(folders, tmp_path / "c.csv")
    assert "b alone has adversarial images that were made elsewhere" in shown
    assert "ε = 0.2, adversarial images made elsewhere" in shown


@pytest.mark.parametrize("paired", [True, False])
def test_layers_after_different_ones_are_not_compared(lenet: Diagnosis, tmp_path: Path, *, paired: bool) -> None:
    folders = [finished(tmp_path / "a", lenet, 3), finished(tmp_path / "b", changed(lenet, "fc1", name="mine"), 3)]
    if not paired:
        (folders[1] / "predictions.npz").unlink()
    names = [row.name for row in lenet.layers[1:]]
    after = names[names.index("fc1") + 1]
    found = compare_runs(folders)
    assert [name for name in found.layers if found.gaps[name][0] is None] == ["mine", "fc1", after]
    assert "Of the 5 layers that both explain after the same one" in compared(folders, tmp_path / "c.csv")[1]


def test_what_cannot_be_compared_is_refused(
    lenet: Diagnosis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished(tmp_path / "a", lenet, 3)
    with pytest.raises(RunFolderError, match=r"no diagnosis\.json"):
        compare_runs([folder, tmp_path / "none"])
    assert run_command(["compare", str(folder)]) == 2
    with np.load(folder / "predictions.npz") as saved:
        fewer = {name: array if name == "labels" else array[1:] for name, array in saved.items()}
    np.savez(folder / "predictions.npz", **fewer)
    with pytest.raises(RunFolderError, match=r"classes by layer and image in .* natural of int64 of shape \(7, 200\)"):
        compare_runs([folder, finished(tmp_path / "b", lenet, 3)])
    (folder / "predictions.npz").write_bytes(b"PK\3\4 cut")
    with pytest.raises(RunFolderError, match="damaged file"):
        compare_runs([folder, finished(tmp_path / "b", lenet, 3)])
    capsys.readouterr()


def test_a_run_is_not_compared_with_itself(lenet: Diagnosis, tmp_path: Path) -> None:
    first = finished(tmp_path / "a", lenet, 3)
    with pytest.raises(RunFolderError, match="a twice; name another"):
        compare_runs([first, tmp_path / "b" / ".." / "a"])


def test_folders_may_be_texts_and_are_several(lenet: Diagnosis, tmp_path: Path) -> None:
    folders = [finished(tmp_path / name, lenet, 3) for name in "ab"]
    assert compare_runs(list(map(str, folders))).head == compare_runs(folders).head
    wrong: Any
    for wrong in (str(folders[0]), folders[0], []):
        with pytest.raises(RunFolderError, match="expected several run folders"):
            compare_runs(wrong)


def test_nothing_is_printed_where_the_table_cannot_be_written(
    lenet: Diagnosis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = finished(tmp_path / "a", lenet, 3), finished(tmp_path / "b", lenet, 5)
    there = tmp_path / "both"
    for folder, table in (("t.csv", there / "t.csv"), ("comparison.html", there / "t.csv"), ("", there), ("", ".")):
        shutil.rmtree(there, ignore_errors=True)
        (there / folder).mkdir(parents=True)
        assert run_command(["compare", str(first), str(other), "--out", str(table)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert [file.name for file in there.iterdir()] == [folder] * (folder != "")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b", "both"]


# --- the page


def compared(folders: list[Path], table: Path) -> tuple[Path, str]:
    """The page of these runs, and its words."""
    page = write_comparison(compare_runs(folders), table)
    return page, words(page)


def test_the_page_says_where_runs_differ_and_links_to_their_reports(lenet: Diagnosis, tmp_path: Path) -> None:
    folders = [finished(tmp_path / "runs" / name, lenet, wrong) for name, wrong in (("a", 3), ("b #2", 5), ("c", 5))]
    for folder in folders[:2]:
        (folder / "report.html").write_text("")
    page, shown = compared(folders[:2], tmp_path / "both" / "t.csv")
    assert sorted(file.name for file in page.parent.iterdir()) == ["comparison.html", "t.csv"]
    names = [row.name for row in lenet.layers]
    assert f"{names[3]} loses less in b #2 than in a" in shown
    assert re.search(r"−50\.0 points \[−5\d\.\d, −4\d\.\d\]: ", shown)
    assert "Of the 7 layers that both explain, 2 surely differ." in shown
    table = page.read_text().partition('aria-label="Table of layers"')[2].partition("</table>")[0]
    assert re.findall(r'<span class="name">(\w+)<', table) == names[1:]
    reader = read(page)
    links = [str(attributes["href"]) for tag, attributes in reader.tags if tag == "a"]
    assert [link for link in links if link[0] != "#"][:2] == ["../runs/a/report.html", "../runs/b%20%232/report.html"]
    heads = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch("h[1-6]", tag)]
    assert (heads[0], heads.count(1)) == (1, 1)
    assert {link[1:] for link in links if link[0] == "#"} <= {attributes.get("id") for _, attributes in reader.tags}

    page, shown = compared(folders, tmp_path / "three.csv")
    assert "How 2 runs differ from a" in shown
    assert page.read_text().count("Its report") == 2


def test_the_page_shows_which_settings_differ_and_every_warning_the_worst_first(
    lenet: Diagnosis, tmp_path: Path
) -> None:
    noted = replace(lenet, flags=(Flag("few_examples", "only 20 examples", "note"),))
    failed = changed(lenet, "fc2", flags=(UNRELIABLE(layer="fc2", value=0.2, threshold=0.9),))
    folders = [finished(tmp_path / "a", noted, 3), finished(tmp_path / "b", failed, 6)]
    for folder, steps, eps in zip(folders, (300, 1200), (0.2, 8 / 255), strict=True):
        settings = {
            "schema": 2,
            "seed": 0,
            "generator": {"steps": steps, "latent": None, "rate": 0.0 if steps == 300 else 0.1},
            "attack": {"eps": eps},
        }
        (folder / "config.json").write_text(json.dumps(settings))
    page, shown = compared(folders, tmp_path / "t.csv")
    assert shown.index("b: fc2 unreliable") < shown.index("a: only 20 examples")
    section = shown[shown.index("Settings that differ") : shown.index("Warnings of the runs")]
    assert re.search(r"generator: steps ?300 ?1200 ?generator: rate ?0 ?0\.1 ?attack: eps ?0\.2 ?8/255 ", section)
    assert "seed" not in section
    assert "latent" not in section
    # fc2 turns most, but cannot be read in one of the runs
    assert "relu2 loses less in b than in a" in shown
    assert "1 cannot be read, and 1 surely differs" in shown
    assert page.read_text().count('class="bar hatched"') == 2


def test_names_of_runs_and_layers_are_escaped_and_nothing_is_loaded(lenet: Diagnosis, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    hostile = with_let_in(changed(replace(lenet, classifier={"name": evil}), "fc1", name=evil), "fc2")
    folders = [finished(tmp_path / "a", lenet, 3), finished(tmp_path / evil, hostile, 4)]
    (folders[1] / "config.json").write_text(json.dumps({evil: evil}))
    page, shown = compared(folders, tmp_path / "t.csv")
    assert shown.count(evil) > 5
    tags = read(page).tags
    assert "img" not in {tag for tag, _ in tags}
    assert not [tag for tag, attributes in tags if "src" in attributes or tag in ("link", "iframe", "object", "base")]
    scripts = re.findall(r"<script>(.*?)</script>", page.read_text("utf-8"), re.S)
    assert scripts == [(TEMPLATES / "report.js").read_text("utf-8")]


def test_runs_without_a_layer_in_common_are_not_said_to_differ(lenet: Diagnosis, tmp_path: Path) -> None:
    image, *rows = lenet.layers
    renamed = replace(lenet, layers=(image, *(replace(row, name=f"{row.name}_") for row in rows)))
    folders = [finished(tmp_path / "a", lenet, 3), finished(tmp_path / "b", renamed, 5)]
    _, shown = compared(folders, tmp_path / "t.csv")
    assert "b and a have no layer in common" in shown
    _, shown = compared([folders[0], finished(tmp_path / "c", lenet, 3)], tmp_path / "t.csv")
    assert "No layer of c surely differs from that of a" in shown


def test_layers_that_are_mended_alike_keep_their_names(lenet: Diagnosis, tmp_path: Path) -> None:
    folders = [finished(tmp_path / name, with_let_in(lenet, "fc2"), 3) for name in "ab"]
    page, _ = compared(folders, tmp_path / "t.csv")
    section = page.read_text().partition('<section id="let_in">')[2].partition("</section>")[0]
    assert re.findall(r'<h3 class="name">(\w+)<', section) == [row.name for row in lenet.layers[1:]]


def test_layers_that_cannot_be_read_are_not_said_to_agree(lenet: Diagnosis, tmp_path: Path) -> None:
    unread = (UNRELIABLE(layer="x", value=0.2, threshold=0.9),)
    folders = [finished(tmp_path / "a", lenet, 3), finished(tmp_path / "b", changed(lenet, "relu2", flags=unread), 3)]
    folders.append(finished(tmp_path / "c", replace(lenet, layers=tuple(
        replace(row, flags=unread) for row in lenet.layers
    )), 5))  # fmt: skip
    _, shown = compared(folders, tmp_path / "t.csv")
    assert (
        "Of the 7 layers that both explain, 1 cannot be read, and no interval of the others leaves out zero." in shown
    )
    assert "No layer of c surely differs from that of a. No layer that both explain can be read in both." in shown


def test_a_table_in_place_of_the_page_or_of_a_run_s_own_file_is_refused(
    lenet: Diagnosis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [finished(tmp_path / "a", lenet, 3), finished(tmp_path / "b", lenet, 5)]
    table, kept = tmp_path / "out" / "comparison.html", (folders[0] / "diagnosis.json").read_bytes()
    for file in (table, folders[0] / "diagnosis.json", folders[1] / "explanation.csv"):
        assert run_command(["compare", *map(str, folders), "--out", str(file)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not table.parent.exists()
    assert (folders[0] / "diagnosis.json").read_bytes() == kept
    for damaged in ("{", "[1]"):
        (folders[1] / "config.json").write_text(damaged)
        assert run_command(["compare", *map(str, folders), "--out", str(tmp_path / "out" / "t.csv")]) == 2
        assert not table.parent.exists()
