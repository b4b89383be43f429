"""Fixtures for tests of devices."""

import json

import pytest

from stages.devices.browser import web_runtime
from tests.bundles import make_bundle
from tests.stages.devices.conftest import PROFILE


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The working directory, with an empty chain, short measurements and a bundle."""
    folder = tmp_path / "project"
    make_bundle(folder / "artifacts/bundle")
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / "params.yaml").write_text(json.dumps({"profile": PROFILE.model_dump()}))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def stand_in_runtime(tmp_path, monkeypatch):
    """Create files with the right names, for pages that no browser opens."""
    monkeypatch.setenv("ACKD_ONNXRUNTIME_WEB", str(tmp_path / "web"))
    web_runtime.folder().mkdir(parents=True)
    for name in web_runtime.FILES:
        (web_runtime.folder() / f"{name}.gz").write_bytes(b"")
