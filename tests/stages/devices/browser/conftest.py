"""A bundle to measure, a quick profile, and browsers as they describe themselves."""

import gzip
import shutil
from typing import Any

import pytest

from stages.devices.browser import web_runtime
from stages.devices.browser.measurement import Browser
from stages.sections.export import Profile
from tests.chromium import CHROMIUM

QUICK = Profile(
    threads=[1, 2], warmup_runs=2, warmup_seconds=0.0, min_runs=20, min_seconds=0.05, max_runs=500
)
PIXEL = (
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0"
    " Mobile Safari/537.36"
)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or not web_runtime.installed(),
    reason="chromium is not installed, or onnxruntime-web is not (ackd probe --install)",
)


@pytest.fixture
def bundle(tiny_exported, tmp_path):
    """A writable bundle of a resnet8: three classes, 16 x 16 pixels, four precisions."""
    return shutil.copytree(tiny_exported / "artifacts/onnx", tmp_path / "bundle")


@pytest.fixture
def no_runtime(tmp_path, monkeypatch):
    """Create files with the right names, for tests that do not run them."""
    monkeypatch.setenv("ACKD_ONNXRUNTIME_WEB", str(tmp_path / "web"))
    web_runtime.folder().mkdir(parents=True)
    for name in web_runtime.FILES:
        (web_runtime.folder() / f"{name}.gz").write_bytes(gzip.compress(name.encode()))


def make_browser(**given: Any) -> Browser:
    gpu = {"vendor": "arm", "architecture": "valhall", "description": "", "half_precision": True}
    known: dict[str, Any] = {"user_agent": PIXEL, "platform": "Android 16", "model": "Pixel 8"}
    known |= {"cores": 8, "isolated": True, "secure": True, "timer_ms": 0.005, "gpu": gpu}
    return Browser.model_validate(known | given)
