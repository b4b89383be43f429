"""Models and settings to measure with on devices."""

import pytest

from stages.runtimes.exported import Exported, load_exported
from stages.sections.export import Profile
from tests.bundles import make_bundle
from tests.sshd import sshd

__all__ = ["sshd"]

PROFILE = Profile(
    threads=[1], warmup_runs=1, warmup_seconds=0.0, min_runs=5, min_seconds=0.0, max_runs=5
)


def only(exported: Exported, *precisions: str) -> Exported:
    """Select some of the models."""
    description = exported.description
    files = {name: description["files"][name] for name in precisions}
    return Exported(exported.folder, {**description, "files": files})


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The models of a bundle; read-only."""
    return load_exported(make_bundle(tmp_path_factory.mktemp("models") / "bundle"))
