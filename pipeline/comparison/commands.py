"""The commands that set experiments beside each other: compare, choose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.comparison.choice import Budget, Choice

_Sweep = Annotated[
    str | None,
    typer.Argument(
        metavar="[SWEEP]",
        help="The name of a sweep; without it, all experiments and the workspace.",
    ),
]
_Revisions = Annotated[
    list[str] | None,
    typer.Option(
        "--rev",
        metavar="REVISION",
        help="A commit, branch or tag besides, such as main. May be repeated.",
    ),
]


def compare(
    sweep: _Sweep = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="VARIANT",
            help="What the others are set against, seed by seed; kd, or the first by name, if not"
            " given.",
        ),
    ] = None,
    revisions: _Revisions = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with charts, which works offline."),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the tables as Markdown.")
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a row for each variant, precision and device: accuracies as fractions,"
            " latencies in ms, sizes in MB (10^6 bytes).",
        ),
    ] = None,
) -> None:
    """Compare experiments: mean and spread over seeds, differences with intervals, costs.

    A variant is what experiments share that differ in the seed alone: SWEEP.VARIANT.seedN. An
    experiment of another name is a variant of its own. Figures come from what the chain measured,
    and what was not measured is said to be so.
    """
    from rich.console import Console

    from pipeline.comparison import experiments, text
    from pipeline.comparison.variants import compare as compared
    from pipeline.project import require_project
    from stages.files import new_file, write_csv

    require_project()
    listed = experiments.list_experiments(revisions or [])
    comparison = compared(experiments.of_sweep(listed, sweep), sweep, baseline)
    # What is written to a pipe is not to be cut to the width of a terminal.
    console = Console(emoji=False)
    text.show(comparison, console if console.is_terminal else Console(width=200, emoji=False))
    if html is not None:
        from pipeline.comparison.page import render

        with new_file(html) as partial:
            partial.write_text(render(comparison), encoding="utf-8")
    if markdown is not None:
        with new_file(markdown) as partial:
            partial.write_text(text.markdown(comparison), encoding="utf-8")
    if csv is not None:
        write_csv(csv, text.csv_rows(comparison))
    for path in (html, markdown, csv):
        if path is not None:
            typer.echo(f"written  {path}")


def choose(
    sweep: _Sweep = None,
    max_p90: Annotated[
        str | None,
        typer.Option(
            "--max-p90",
            metavar="TIME",
            help="Nine of ten images must take no longer, such as 5ms, 800us or 0.1s.",
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="The file must be no larger, such as 2MB (10^6 bytes), 500kB or 1.5MiB.",
        ),
    ] = None,
    min_accuracy: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="On the test images, such as 60% or 0.6."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="Its URL, such as ssh://pi@board, or a part of its processor's name; without it,"
            " the first of this project's report.",
        ),
    ] = None,
    revisions: _Revisions = None,
) -> None:
    """Name the most accurate student that a device can carry, and how to get it.

    All experiments and the workspace are judged, each precision by itself. Where none is within the
    budget, the nearest is named with what it misses, and the exit status is 1.
    """
    from pipeline.comparison import choice, experiments
    from pipeline.project import require_project

    require_project()
    budget = choice.parse_budget(max_p90, max_size, min_accuracy)
    listed = experiments.of_sweep(experiments.list_experiments(revisions or []), sweep)
    chosen = choice.choose(listed, budget, device)
    for line in _told(chosen, budget):
        typer.echo(line)
    if not chosen.best:
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Make them commands of ``ackd``."""
    for command in (compare, choose):
        app.command()(command)


def _told(chosen: Choice, budget: Budget) -> list[str]:
    from pipeline.comparison.choice import Candidate, misses
    from stages.formatting import percent, significant, threads

    def figures(candidate: Candidate) -> str:
        shown = f"{percent(candidate.accuracy)}, {significant(candidate.size_mb)} MB"
        if candidate.p90_ms is None or candidate.place is None:
            return f"{shown}, latency not measured"
        noisy = ", noisy" if candidate.noisy else ""
        at = threads(candidate.place.threads)
        return f"{shown}, p90 {significant(candidate.p90_ms)} ms at {at}{noisy}"

    where = chosen.device.title if chosen.device else "no device: no latency was measured"
    lines = [f"on {where}; {chosen.images.title}"]
    for candidate in chosen.best.values():
        name, precision = candidate.experiment.name, candidate.precision
        lines.append(f"  {precision}: {name}, {figures(candidate)}")
    for candidate in chosen.nearest.values():
        name, precision = candidate.experiment.name, candidate.precision
        missed = " and ".join(misses(candidate, budget))
        lines.append(f"  {precision}: none; the nearest is {name}: {missed}")
    for candidate in chosen.noisy:
        name, precision = candidate.experiment.name, candidate.precision
        lines.append(
            f"  noisy: {name} in {precision} would be within the budget, {figures(candidate)};"
            " measure it again on a quiet machine"
        )
    for reason, number in chosen.left_out.items():
        lines.append(f"  left out: {number}, {reason}")
    if not chosen.best:
        if not chosen.nearest:
            return [*lines, "nothing to choose: no export has all that the budget asks for"]
        nearest = next(iter(chosen.nearest.values()))
        missed = " and ".join(misses(nearest, budget))
        name = nearest.experiment.name
        return [
            *lines,
            f"nothing is within the budget; nearest {name}, {nearest.precision}: {missed}",
        ]
    best = next(iter(chosen.best.values()))
    lines.append(f"best     {best.experiment.name}, {best.precision}: {figures(best)}")
    if best.experiment.command is None:
        return [*lines, f"get it   it is the student of this workspace: {best.file}"]
    return [*lines, f"get it   {best.experiment.command}", f"         its file is then {best.file}"]
