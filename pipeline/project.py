"""Checks that commands run in the root of a project."""

from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from models.errors import InputError


class InProject(TyperCommand):
    """A command that runs only in the root of a project."""

    def invoke(self, ctx: Any) -> Any:
        require_project()
        return super().invoke(ctx)


def require_project() -> None:
    """Raise InputError outside the root of a project."""
    for name in ("dvc.yaml", "params.yaml"):
        if not Path(name).is_file():
            raise InputError(
                f"{name}: not found in {Path.cwd().name or '/'}; run ackd in the project's root"
            )
