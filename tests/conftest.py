"""Isolates the tests from the user's settings and from what tools would send or keep."""

import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests import once
from tests.warm_python import warm_python

pytest_plugins = ["tests.pages", "tests.phone", "tests.sshd"]

# Set these before importing the tools, which read them on import.
_PRIVATE = Path(tempfile.mkdtemp(prefix="ackd-tests-"))
for _name in [name for name in os.environ if name.startswith(("ACKD_", "DVC_", "PREFECT_"))]:
    del os.environ[_name]
once.begin()
os.environ.update(
    ACKD_LOGITS=str(_PRIVATE / "logits"),
    DO_NOT_TRACK="1",
    DVC_NO_ANALYTICS="1",
    DVC_GLOBAL_CONFIG_DIR=str(_PRIVATE / "dvc-global"),
    DVC_SYSTEM_CONFIG_DIR=str(_PRIVATE / "dvc-system"),
    DVC_SITE_CACHE_DIR=str(_PRIVATE / "dvc-site"),
    GIT_CONFIG_GLOBAL=os.devnull,
    GIT_CONFIG_SYSTEM=os.devnull,
    HF_HUB_DISABLE_TELEMETRY="1",
    PREFECT_HOME=str(_PRIVATE / "prefect"),
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
    # Rich would take its width and colours from pytest's terminal.
    COLUMNS="200",
    TERM="dumb",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Fork the workers, because each would spend 13 seconds on imports."""
    # Use as many threads in total as there are cores, because more would wait for each other.
    threads = max(1, (os.cpu_count() or 1) // len(specs))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    for spec in specs:
        spec.python = str(warm_python())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Run the longest tests first, so that none is left for the end.
    longest = ("test_chain.py", "test_night.py", "test_dask.py")
    items.sort(key=lambda item: item.path.name not in longest)


def pytest_collection_finish() -> None:
    gc.freeze()  # or every full collection would also visit the imported modules


def pytest_unconfigure() -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        once.end()


@pytest.fixture(scope="session", autouse=True)
def _private_folders():
    yield
    shutil.rmtree(_PRIVATE, ignore_errors=True)


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    """Reset accelerate, which otherwise keeps one precision per process."""
    yield
    state = sys.modules.get("accelerate.state")
    if state is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)
