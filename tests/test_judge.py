"""The judge: it learns, predicts and is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from interpretgan.attacks import ThreatModel, attack
from interpretgan.data import ImageSet, load_data
from interpretgan.errors import ConfigError, DataError, ImageError, RunFolderError
from interpretgan.judge import Judge, train_judge
from interpretgan.training import evaluate_accuracy

THREAT = ThreatModel("linf", 0.1, steps=5, restarts=3)


@pytest.fixture(scope="module")
def sets() -> tuple[ImageSet, ImageSet]:
    return load_data("digits", "train", image_size=16), load_data("digits", "test", image_size=16)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judge") / "judge.pt"


@pytest.fixture(scope="module")
def judge(sets: tuple[ImageSet, ImageSet], checkpoint: Path) -> Judge:
    return train_judge(*sets, threat_model=THREAT, seed=1, epochs=6, checkpoint=checkpoint)


def test_the_judge_predicts_natural_and_adversarial_images(judge: Judge, sets: tuple[ImageSet, ImageSet]) -> None:
    _, test = sets
    assert judge.natural > 0.95
    assert judge.adversarial > 0.75
    assert judge.natural == evaluate_accuracy(judge.classifier, test)
    x, y = test.batch(slice(0, 200))
    found = attack(judge.classifier, x, y, THREAT, seed=5)
    assert (judge.predict(found) == y).float().mean() > 0.7
    assert judge.adversarial <= judge.natural


def test_predictions_do_not_depend_on_the_batch(judge: Judge, sets: tuple[ImageSet, ImageSet]) -> None:
    x, _ = sets[1].batch(slice(0, 50))
    predictions = judge.predict(x)
    assert predictions.dtype == torch.int64
    assert predictions.shape == (50,)
    assert torch.equal(predictions, judge.predict(x, batch_size=7))
    assert judge.predict(x[:0]).shape == (0,)
    with pytest.raises(ImageError):
        judge.predict(x + 1)


def test_finished_judge_is_read_from_its_checkpoint(
    judge: Judge, sets: tuple[ImageSet, ImageSet], checkpoint: Path
) -> None:
    def fail(_: object) -> None:
        raise AssertionError("it trains again")

    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    again = train_judge(*sets, threat_model=THREAT, seed=1, epochs=6, checkpoint=checkpoint, on_progress=fail)
    assert torch.equal(torch.rand(1), expected)
    assert (again.natural, again.adversarial, again.name) == (judge.natural, judge.adversarial, "judge")


def test_tensors_and_datasets_train_the_judge_that_a_set_trains(sets: tuple[ImageSet, ImageSet]) -> None:
    train, test = (each.head(n) for each, n in zip(sets, (96, 40), strict=True))
    tensors = [each.batch(slice(None)) for each in (train, test)]
    states = [
        train_judge(*kind, threat_model=THREAT, seed=2, epochs=1).classifier.state_sha256()
        for kind in ((train, test), tensors, [TensorDataset(*pair) for pair in tensors])
    ]
    assert len(set(states)) == 1


def test_a_judge_is_kept_in_a_file_and_its_accuracy_beside_it(judge: Judge, tmp_path: Path) -> None:
    file = str(tmp_path / "judge.safetensors")
    judge.save(file)
    again = Judge.load(file, judge.classifier)
    assert (again.natural, again.adversarial, again.name) == (judge.natural, judge.adversarial, "judge")
    (tmp_path / "judge.json").write_text('{"name": "judge"}')
    with pytest.raises(RunFolderError, match="a judge's accuracy"):
        Judge.load(file, judge.classifier)
    (tmp_path / "judge.json").unlink()
    with pytest.raises(RunFolderError, match=r"delete .*safetensors too and train the judge again"):
        Judge.load(file, judge.classifier)


def test_refused_judges(sets: tuple[ImageSet, ImageSet]) -> None:
    train, test = sets
    with pytest.raises(DataError, match="same image_size"):
        train_judge(train, load_data("digits", "test"), threat_model=THREAT, seed=0)
    with pytest.raises(ConfigError, match="epochs"):
        train_judge(train, test, threat_model=THREAT, seed=0, epochs=0)
