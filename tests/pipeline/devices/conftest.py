"""What the tests of the browser's page share."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.devices.browser import web_runtime


@pytest.fixture
def stand_in_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the right names, for pages that no browser opens."""
    monkeypatch.setenv("ACKD_ONNXRUNTIME_WEB", str(tmp_path / "web"))
    web_runtime.folder().mkdir(parents=True)
    for name in web_runtime.FILES:
        (web_runtime.folder() / f"{name}.gz").write_bytes(b"")
