"""Models and settings to measure with on devices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.sections.export import Profile
from tests.bundles import make_bundle
from tests.sshd import sshd

__all__ = ["sshd"]

PROFILE = Profile(
    threads=[1], warmup_runs=1, warmup_seconds=0.0, min_runs=5, min_seconds=0.0, max_runs=5
)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle's folder, not to be written to."""
    return make_bundle(tmp_path_factory.mktemp("models") / "bundle")


@pytest.fixture(scope="session")
def description(models: Path) -> dict[str, Any]:
    return dict(json.loads((models / "model.json").read_text()))
