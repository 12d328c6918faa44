from __future__ import annotations

from typing import Any

import pytest

from tests.report.samples import deep_diagnosis, lenet_diagnosis


@pytest.fixture
def lenet() -> dict[str, Any]:
    return lenet_diagnosis()


@pytest.fixture
def deep() -> dict[str, Any]:
    return deep_diagnosis()
