from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace

import numpy as np
import pytest

import interpretgan
from interpretgan.diagnosis.let_in import Pair
from interpretgan.diagnosis.reliability import (
    NOISE_CONTROL_FAILED,
    POSITIVE_CONTROL,
    UNRELIABLE,
    UNRELIABLE_BEFORE,
    won_back,
)
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.errors import Flag, FlagKind
from interpretgan.report import answer_sentence, summary_table, wording
from interpretgan.robustness.attack_checks import AT_CHANCE
from interpretgan.statistics import Interval
from tests.report.samples import around, changed, with_branches, with_heads, with_let_in


def with_survival(diagnosis: Diagnosis, values: list[float], half: float) -> Diagnosis:
    rows = [
        replace(layer, survival=value, intervals={**layer.intervals, "survival": around(value, half)})
        for layer, value in zip(diagnosis.layers, values, strict=True)
    ]
    return replace(diagnosis, layers=tuple(rows))


def all_alike(diagnosis: Diagnosis, vulnerability: Interval) -> Diagnosis:
    for layer in diagnosis.layers[1:]:
        diagnosis = changed(diagnosis, layer.name, vulnerability=vulnerability)
    return diagnosis


def claim(diagnosis: Diagnosis) -> str:
    return "".join(text for text, _ in wording.answer(diagnosis).claim)


def test_one_layer_stands_out(lenet: Diagnosis) -> None:
    answer = wording.answer(lenet)
    assert answer.layers == ("fc1",)
    assert answer.claim[0] == ("fc1", True)
    for figure in ("58 points [55, 61]", "62 % [59, 65] of the 93 points", "between image and logits"):
        assert figure in answer.detail
    assert answer.caveat == ""


def test_layers_whose_intervals_overlap_are_named_together(lenet: Diagnosis) -> None:
    lenet = changed(lenet, "fc1", vulnerability=around(0.30, 0.05))
    answer = wording.answer(changed(lenet, "pool2", vulnerability=around(0.27, 0.05)))
    assert answer.layers == ("fc1", "pool2")
    assert [text for text, is_name in answer.claim if is_name] == ["fc1", "pool2"]
    assert "30 points [25, 35] and 27 points [22, 32] of retained accuracy, together 61 % of" in answer.detail


def test_many_layers_that_cannot_be_told_apart_are_counted(lenet: Diagnosis) -> None:
    many = all_alike(lenet, around(0.13, 0.05))
    answer = wording.answer(many)
    assert len(answer.layers) == 7
    assert claim(many).startswith("relu1, pool1, relu2 and 4 others contribute most")
    assert "for the first 3, all 7 together 98 % of" in answer.detail


@pytest.mark.parametrize(
    ("values", "half"),
    [([0.97] * 7 + [0.965], 0.001), (np.linspace(0.97, 0.92, 8).tolist(), 0.04)],
    ids=["hardly anything is lost", "the loss is within its intervals"],
)
def test_no_layer_is_named_without_a_loss(lenet: Diagnosis, values: list[float], half: float) -> None:
    answer = wording.answer(with_survival(lenet, values, half))
    assert answer.layers == ()
    assert not any(is_name for _, is_name in answer.claim)
    assert f"97.0 % at image to {100 * values[-1]:.1f} % at logits" in answer.detail


def test_a_top_layer_that_may_be_zero_does_not_stand_out(lenet: Diagnosis) -> None:
    unsure = all_alike(lenet, around(0.13, 0.14))
    assert wording.answer(unsure).layers == ()
    assert claim(unsure).startswith("No single layer of lenet5 stands out")


def test_a_layer_that_may_contribute_nothing_is_not_named_beside_others(lenet: Diagnosis) -> None:
    lenet = changed(lenet, "fc1", vulnerability=around(0.30, 0.25))
    answer = wording.answer(changed(lenet, "pool2", vulnerability=around(0.01, 0.05)))
    assert answer.layers == ()
    assert "30 points [5, 55] at fc1, and 3 more cannot be told from it, of which some may" in answer.detail


def test_no_layer_is_named_for_what_later_layers_win_back(lenet: Diagnosis) -> None:
    names = [layer.name for layer in lenet.layers[1:]]
    given = dict.fromkeys(names, 0.0) | {"relu1": 0.5, "pool1": -0.47, "fc1": 0.05, "logits": -0.01}
    for name, value in given.items():
        lenet = changed(lenet, name, vulnerability=around(value, 0.05))
    back = dict(zip(["image", *names], won_back(lenet.layers), strict=True))
    assert {name: by for name, by in back.items() if by > 1e-9} == pytest.approx(
        {"relu1": 0.47, "fc1": 0.01} | dict.fromkeys(names[names.index("fc1") + 1 : -1], 0.01)
    )
    answer = wording.answer(lenet)
    assert answer.layers == ()
    assert "50 points [45, 55] at relu1, but later layers win 47.0 of them back" in answer.detail
    # What cannot be read proves nothing, and what comes back in part leaves a layer its name.
    misread = UNRELIABLE(layer="pool1", value=0.2, threshold=0.85)
    unreadable = changed(changed(lenet, "pool1", flags=(misread,)), "relu2", vulnerability=around(0.47, 0.01))
    assert won_back(unreadable.layers)[1] == 0
    assert wording.answer(changed(lenet, "pool1", vulnerability=around(-0.4, 0.05))).layers == ("relu1",)


def test_a_share_above_the_whole_is_no_percentage(lenet: Diagnosis) -> None:
    lenet = changed(lenet, "fc1", vulnerability=around(0.99, 0.02))
    assert "more than the whole of the 93 points" in wording.answer(lenet).detail


MISREAD = UNRELIABLE(layer="fc1", value=0.2, threshold=0.85)
MISREAD_BEFORE = UNRELIABLE_BEFORE(layer="fc1", value=0.2, threshold=0.85, before="pool2")


@pytest.mark.parametrize("flag", [MISREAD, MISREAD_BEFORE], ids=["the layer", "the layer before it"])
def test_no_layer_is_named_where_the_blamed_one_cannot_be_read(lenet: Diagnosis, flag: Flag) -> None:
    answer = wording.answer(changed(lenet, "fc1", flags=(flag,)))
    assert answer.layers == ()
    assert not any(is_name for _, is_name in answer.claim)
    assert "contribute" not in answer.sentence
    assert f"fc1 is {flag.message}" in answer.detail


def test_no_layer_is_named_where_one_of_those_that_cannot_be_told_apart_is_unreliable(lenet: Diagnosis) -> None:
    lenet = changed(lenet, "fc1", vulnerability=around(0.30, 0.05))
    unreliable = UNRELIABLE(layer="pool2", value=0.2, threshold=0.85)
    answer = wording.answer(changed(lenet, "pool2", vulnerability=around(0.27, 0.05), flags=(unreliable,)))
    assert answer.layers == ()
    assert unreliable.message in answer.detail


def test_that_nothing_is_lost_is_not_said_where_the_last_layer_cannot_be_read(lenet: Diagnosis) -> None:
    lenet = with_survival(lenet, [0.97] * 8, 0.01)
    assert "contributes a loss that can be measured" in claim(lenet)
    misread = changed(lenet, "logits", flags=(UNRELIABLE(layer="logits", value=0.1, threshold=0.85),))
    assert "can be named" in claim(misread)


def test_an_unreliable_layer_elsewhere_takes_no_name_away(lenet: Diagnosis) -> None:
    answer = wording.answer(changed(lenet, "relu1", flags=(UNRELIABLE(layer="relu1", value=0.2, threshold=0.85),)))
    assert (answer.layers, answer.caveat) == (("fc1",), "")


@pytest.mark.parametrize("layer", ["fc1", "relu1"])
def test_no_layer_is_named_where_a_control_fails(lenet: Diagnosis, layer: str) -> None:
    of_all = NOISE_CONTROL_FAILED(value=0.2, threshold=0.03, layers=layer)
    answer = wording.answer(replace(lenet, flags=(of_all,)))
    assert answer.layers == ()
    assert "can be named" in claim(replace(lenet, flags=(of_all,)))
    assert f"the largest vulnerability is that of fc1, but {of_all.message}" in answer.detail
    elsewhere = POSITIVE_CONTROL(layer=layer, value=0.5, threshold=0.95)
    assert "can be named" in claim(changed(lenet, layer, flags=(elsewhere,)))


def test_warnings_of_the_whole_are_a_caveat_and_notes_are_not(lenet: Diagnosis) -> None:
    flags = tuple(Flag(code, code) for code in ("weak_judge", "weak_model", "judge_fooled"))
    note = Flag("few_examples", "few examples", "note")
    answer = wording.answer(replace(lenet, flags=(note, *flags)))
    assert answer.caveat == "weak_judge; weak_model; judge_fooled."
    assert answer.sentence.endswith(answer.caveat)
    assert wording.answer(replace(lenet, flags=(note,))).caveat == ""
    failed = Flag("zero_eps_control", "zero_eps_control", "failure")
    unnamed = wording.answer(replace(lenet, flags=(*flags, failed)))
    assert "but zero_eps_control" in unnamed.detail
    assert unnamed.caveat == "weak_judge; weak_model; judge_fooled."  # what the detail says is not said twice


def test_the_worst_flag_comes_first_and_no_failure_is_counted_only(lenet: Diagnosis) -> None:
    flags = [Flag(f"code{number}", f"warning {number}") for number in range(4)]
    flags += [Flag(f"failed{number}", f"failure {number}", "failure") for number in range(4)]
    caveat = wording.answer(replace(lenet, flags=tuple(flags))).caveat
    assert caveat == "failure 0; failure 1; failure 2; failure 3; 4 more among the warnings."
    table = wording.summary_table(replace(lenet, flags=tuple(flags)))
    assert table.index("failure 3") < table.index("warning 0")


def test_no_layer_of_a_network_at_chance_is_named(lenet: Diagnosis) -> None:
    flag = AT_CHANCE(value=0.1, threshold=0.1, order="0 a, 1 b")
    answer = wording.answer(replace(lenet, flags=(flag,)))
    assert answer.layers == ()
    assert flag.message in answer.detail


def second(diagnosis: Diagnosis) -> str:
    return "".join(text for text, _ in wording.answer(diagnosis).let_in)


def test_the_layer_that_lets_the_perturbation_in_is_named_beside_that_where_the_class_turns(lenet: Diagnosis) -> None:
    sure = with_let_in(lenet, "pool1")
    assert second(sure) == "pool1 lets the perturbation in"
    assert claim(sure) == claim(lenet)
    assert wording.answer(sure).layers == ("fc1",)
    assert (
        "93 points lost between image and logits. pool1 lets the perturbation in: mending pool1 brings back 83.0 % "
        "[79.0, 87.0] of what the attack takes, mending relu1, the second, 30.0 %."
    ) in answer_sentence(sure)
    assert second(with_let_in(lenet, "pool1", sure=False)) == "No layer alone lets the perturbation in for sure"
    # No explanation took part in that.
    misread = changed(sure, "fc1", flags=(UNRELIABLE(layer="fc1", value=0.2, threshold=0.85),))
    assert (claim(misread), second(misread)) == ("No layer of lenet5 can be named", "pool1 lets the perturbation in")
    (row,) = [line.split() for line in summary_table(sure).splitlines() if line.split()[:1] == ["pool1"]]
    assert "83.0" in row


def test_two_layers_that_let_the_perturbation_in_together_are_named(lenet: Diagnosis) -> None:
    one = with_let_in(lenet, "pool1", sure=False)
    assert one.let_in is not None
    assert "together" not in answer_sentence(one)

    def paired(found: Diagnosis, lead: float, share: float = 0.95, other: str = "fc1") -> Diagnosis:
        assert found.let_in is not None
        pair = Pair(("pool1", "fc1") if other == "fc1" else ("conv1", other), around(share, 0.02), around(lead, 0.05))
        return replace(found, let_in=replace(found.let_in, pair=pair))

    told = "the second, 80.0 %, mending pool1 and fc1 together 95.0 % [93.0, 97.0]."
    assert second(paired(one, 0.16)) == "pool1 and fc1 together let the perturbation in"
    assert told in answer_sentence(paired(one, 0.16))
    # A second layer nearly always brings back a little more: that is no second way in.
    assert second(paired(one, 0.14)) == "No layer alone lets the perturbation in for sure"
    assert told in answer_sentence(paired(one, 0.14))
    # Of a layer that is surely the one nothing is said of pairs, unless its weights alone are no cure.
    alone = with_let_in(lenet, "pool1")
    assert "together" not in answer_sentence(paired(alone, 0.14))
    assert second(paired(alone, 0.16)) == "pool1 and fc1 together let the perturbation in"
    for less in (paired(alone, 0.16, share=0.74), paired(alone, 0.16, other="pool2")):
        assert second(less) == "pool1 lets the perturbation in"
        assert "together" in answer_sentence(less)


def test_no_layer_lets_in_an_attack_that_takes_nothing(lenet: Diagnosis) -> None:
    found = with_let_in(lenet, "pool1")
    assert found.let_in is not None
    faint = replace(found, let_in=replace(found.let_in, taken=0.002))
    assert second(faint) == "No layer alone lets the perturbation in for sure"
    assert "the attack takes 0.2 % from the probability of the true class, too little" in answer_sentence(faint)


def test_summary_table_has_a_line_per_layer_and_the_flags(deep: Diagnosis) -> None:
    deep = replace(deep, flags=(Flag("few_examples", "only 20 examples", "note"),))
    lines = summary_table(deep).splitlines()
    assert len(lines) == 2 + 26 + 3
    assert [line[0] == "!" for line in lines[2:28]] == [False] * 24 + [True] * 2
    assert lines[-1] == "note: only 20 examples"
    assert all(
        line.startswith(f"failure: {layer.name}: ") for line, layer in zip(lines[28:30], deep.layers[-2:], strict=True)
    )
    assert summary_table(deep).isascii()
    assert len({len(line) for line in lines[3:28]}) == 1  # the columns are aligned


def test_summary_table_has_the_figures_of_the_layer(lenet: Diagnosis) -> None:
    row = next(line for line in summary_table(lenet).splitlines() if "fc1" in line)
    assert row.split() == [
        "fc1", "96.7", "5.0", "5.2", "+58.0", "[55.5,", "60.6]", "-2.5", "+30.2", "[29.6,", "30.8]", "3.10",
    ]  # fmt: skip
    assert answer_sentence(lenet).startswith("fc1 ")


def test_the_branches_of_a_block_have_lines_of_their_own_and_one_that_stands_out_is_named(lenet: Diagnosis) -> None:
    found = with_branches(lenet, "fc1")
    lines = summary_table(found).splitlines()
    place = next(number for number, line in enumerate(lines) if line.split()[:1] == ["fc1"])
    assert [line.split()[0] for line in lines[place + 1 : place + 4]] == ["skip", "<b>mlp</b>", "attention"]
    indents = [len(line) - len(line.lstrip()) for line in lines[place : place + 4]]
    assert indents == [indents[0], *3 * [indents[0] + 2]]
    (block,) = [row for row in found.layers if row.branches]
    largest = max(block.branches, key=lambda branch: branch.vulnerability.value)
    assert f"{100 * largest.vulnerability.value:+.1f}" in lines[place + 2]
    assert f"{100 * largest.vulnerability.value:.0f} points" in answer_sentence(found).split("branch")[0]
    equal = tuple(replace(branch, vulnerability=block.branches[0].vulnerability) for branch in block.branches)
    assert "branch" not in answer_sentence(changed(found, "fc1", branches=equal))


def test_names_are_printed_as_they_are(lenet: Diagnosis) -> None:
    for name in ("blocks[0].relu:2", ":smile:", "[bold]x[/bold]"):
        assert f" {name} " in summary_table(changed(lenet, "fc1", name=name))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (wording.number(0.551, 100, sign=True), "+55.1"),
        (wording.number(-0.05, 100, sign=True), "−5.0"),
        (wording.number(-0.0001, 100, sign=True), "0.0"),
        (wording.number(3.0, 1, 2), "3.00"),
        (wording.percent(float("nan")), "– %"),
        (wording.percent(1), "100.0 %"),
        (wording.span(Interval(0.0, -0.0001, 0.1)), "[0.0, 10.0]"),
    ],
)
def test_numbers_in_words(found: str, expected: str) -> None:
    assert found == expected


def test_every_kind_of_flag_that_a_diagnosis_may_have_has_a_meaning() -> None:
    kinds: dict[str, FlagKind] = {}
    for module in pkgutil.walk_packages(interpretgan.__path__, "interpretgan."):
        if not module.name.startswith(("interpretgan.studies", "interpretgan.__main__")):  # studies explain their own
            values = vars(importlib.import_module(module.name)).values()
            kinds |= {kind.code: kind for kind in values if isinstance(kind, FlagKind)}
    assert len(kinds) >= 10
    assert [code for code in kinds if not wording.FLAG_MEANINGS.get(code)] == []


def test_heads_stand_below_their_branch(lenet: Diagnosis) -> None:
    found = with_heads(lenet, "fc1")
    lines = summary_table(found).splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.split()[:1] == ["attention"]]
    depth = len(lines[place]) - len(lines[place].lstrip())
    for line, name, points in zip(lines[place + 1 : place + 3], ("head 0", "head 1"), ("+1.0", "+33.0"), strict=True):
        assert line.startswith(f"{' ' * (depth + 2)}{name} ")
        assert points in line
    frame = found.to_frame()
    heads = frame[frame["kind"] == "group"]
    assert heads[["block", "branch", "name"]].to_numpy().tolist() == [["fc1", "attention", f"head {i}"] for i in (0, 1)]
    assert (frame["kind"] == "branch").sum() == 3
    assert "\u2003\u2003head 1" in found._repr_html_()


def test_a_group_of_a_layers_own_channels_that_stands_out_is_named(lenet: Diagnosis) -> None:
    (row,) = [layer for layer in with_branches(lenet, "fc1").layers if layer.name == "fc1"]
    groups = tuple(
        replace(branch, name=f"fc1[{4 * place}:{4 * place + 4}]", channels=(4 * place, 4 * place + 4))
        for place, branch in enumerate(row.branches)
    )
    assert "of it in its group fc1[4:8]" in answer_sentence(changed(lenet, "fc1", branches=groups))
