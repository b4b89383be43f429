"""Keeps what a run in a clone has made: the clone itself is thrown away after the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from pipeline.dvc_runner import Runner, has_default_remote


def experiment_name(planned: datetime) -> str:
    """Of the run that was planned for this time: ``nightly-2026-11-26-0200``, by local time."""
    return f"nightly-{planned.astimezone():%Y-%m-%d-%H%M}"


def publish(
    root: Path, runner: Runner, name: str, done: Sequence[str], log: Callable[[str], None]
) -> None:
    """Save the results in ``root`` as a DVC experiment, and push it to where ``root`` comes from.

    The figures go to the git remote ``origin``, as ``refs/exps``, which no branch notices. What is
    in DVC's cache goes to its default remote, where there is one; without, those who share the
    cache have it.

    Args:
        root: the clone.
        runner: of ``root``.
        name: of the experiment; one of the same name is replaced.
        done: the stages that are up to date.
        log: takes each line that dvc writes.

    Raises:
        StageError: it could not be saved or pushed; a RemoteError or a StageBusyError where a later
            try may do better.
    """
    # Without names, dvc takes every stage for done, and stops at one whose outputs are missing.
    runner.dvc(["exp", "save", "--force", "--name", name, *done], log)
    only_figures = [] if has_default_remote(root) else ["--no-cache"]
    runner.dvc(["exp", "push", *only_figures, "origin", name], log)
