"""The commands that compare experiments: compare, choose."""

from pathlib import Path
from typing import Annotated

import typer

_Sweep = Annotated[
    str | None,
    typer.Argument(
        metavar="[SWEEP]", help="Name of a sweep; by default all experiments and the workspace."
    ),
]
_Revisions = Annotated[
    list[str] | None,
    typer.Option(
        "--rev",
        metavar="REVISION",
        help="Also include a commit, branch or tag, such as main. May be repeated.",
    ),
]


def compare(
    sweep: _Sweep = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="VARIANT",
            help="Variant that the others are compared with, seed by seed; by default kd, or the"
            " first by name.",
        ),
    ] = None,
    revisions: _Revisions = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, help="Write a page with charts that works offline."
        ),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Write the tables as Markdown."),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Write a row per variant, precision and device: accuracies as fractions,"
            " latencies in ms, sizes in MB (10^6 bytes).",
        ),
    ] = None,
) -> None:
    """Compare experiments: mean and spread over seeds, differences with intervals, costs.

    Experiments named SWEEP.VARIANT.seedN that differ only in the seed form a variant. Any other
    experiment is its own variant. Missing measurements are listed with their reasons.
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
            typer.echo(f"written  {path}")
    if csv is not None:
        write_csv(csv, text.csv_rows(comparison))
        typer.echo(f"written  {csv}")


def choose(
    sweep: _Sweep = None,
    max_p90: Annotated[
        str | None,
        typer.Option(
            "--max-p90",
            metavar="TIME",
            help="Largest 90th percentile of the latency, such as 5ms, 800us or 0.1s.",
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Largest file, such as 2MB (10^6 bytes), 500kB or 1.5MiB."
        ),
    ] = None,
    min_accuracy: Annotated[
        str | None,
        typer.Option(
            metavar="FRACTION", help="Lowest accuracy on the test images, such as 60% or 0.6."
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="URL, such as ssh://pi@board, or part of the processor's name; by default the only"
            " device or, without SWEEP, the first of this project's report.",
        ),
    ] = None,
    revisions: _Revisions = None,
) -> None:
    """Find the most accurate student within a device's budget, and how to get it.

    Judges each precision of all experiments and of the workspace. If none is within the budget, it
    names the nearest one and what it misses, with exit status 1.
    """
    from pipeline.comparison import choice
    from pipeline.comparison.experiments import find

    budget = choice.parse_budget(max_p90, max_size, min_accuracy)
    chosen = choice.choose(find(sweep, revisions or []), budget, device)
    for line in choice.lines(chosen, budget):
        typer.echo(line)
    if not chosen.best:
        raise typer.Exit(1)
