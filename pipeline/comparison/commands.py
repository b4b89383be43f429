"""The commands that set experiments beside each other: compare, choose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    experiment of another name is a variant of its own. What was not measured is listed, with the
    reason.
    """
    from pipeline.comparison import text
    from pipeline.comparison.experiments import find
    from pipeline.comparison.variants import compare as compare_variants
    from pipeline.rich_tables import wide_console
    from stages.files import new_file, write_csv

    comparison = compare_variants(find(sweep, revisions or []), baseline)
    title = f"Sweep {sweep}" if sweep else "Experiments compared"
    text.show(title, comparison, wide_console())
    for path, write in ((html, text.page), (markdown, text.markdown)):
        if path is not None:
            with new_file(path) as partial:
                partial.write_text(write(title, comparison), encoding="utf-8")
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
        typer.Option(metavar="FRACTION", help="On the test images, such as 60% or 0.6."),
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
    from pipeline.comparison import choice
    from pipeline.comparison.experiments import find

    budget = choice.parse_budget(max_p90, max_size, min_accuracy)
    chosen = choice.choose(find(sweep, revisions or []), budget, device)
    for line in choice.lines(chosen, budget):
        typer.echo(line)
    if not chosen.best:
        raise typer.Exit(1)
