from __future__ import annotations

import pytest

from interpretgan.diagnosis.result import Diagnosis
from tests.report.samples import deep_diagnosis, lenet_diagnosis


@pytest.fixture(scope="session")
def lenet() -> Diagnosis:
    return lenet_diagnosis()


@pytest.fixture(scope="session")
def deep() -> Diagnosis:
    return deep_diagnosis()


@pytest.fixture(scope="session", params=["lenet", "deep"])
def diagnosis(request: pytest.FixtureRequest) -> Diagnosis:
    found: Diagnosis = request.getfixturevalue(request.param)
    return found
