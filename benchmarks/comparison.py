"""Compare variants of distillation over several seeds, on identical images.

``python -m benchmarks.comparison benchmarks/comparisons/NAME.yaml --data SOURCE --work FOLDER``
trains one teacher and then, for each seed and each variant in the file, a student, using the
pipeline's own stages. All variants of a seed start from the same weights. Finished trainings are
kept; run the command again to resume.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.results import Json, check_checkout, command, publish, table
from benchmarks.study import Study
from models.errors import InputError
from pipeline.comparison.seeds import paired, spread
from stages.params import read_yaml

#: Variants trained by a peer's own loop, and the contender that starts it.
_PEERS = {"RepDistiller's loop": "repdistiller", "timm's train.py": "timm_train"}


def main(
    plan: Annotated[
        Path, typer.Argument(help="YAML file with params, baselines, seeds and variants.")
    ],
    data: Annotated[str, typer.Option(help="Data source, as data.source in params.yaml.")],
    work: Annotated[Path, typer.Option(help="Working folder; kept, so that runs can resume.")],
    teacher_checkpoint: Annotated[
        Path | None, typer.Option(help="Weights of a trained teacher, to skip its training.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Train only this variant; can be repeated.")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Only this seed; repeatable [default: all of the plan]")
    ] = None,
    repdistiller: Annotated[
        Path | None, typer.Option(help="RepDistiller checkout, for the variant that uses its loop.")
    ] = None,
) -> None:
    """Train the missing students and write the table."""
    peer = check_checkout(repdistiller) if repdistiller else None
    compare(plan.stem, read_yaml(plan), data, work, teacher_checkpoint, only, seed, peer)


def compare(
    plan: str,
    content: Json,
    data: str,
    work: Path,
    teacher_checkpoint: Path | None = None,
    only: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    checkout: str | None = None,
) -> None:
    """Run a comparison with the options of :func:`main`.

    ``plan`` is the name of the results and of the table, ``content`` the parsed plan, and
    ``checkout`` that of the plan's peer, without which the peer's variant is skipped.
    """
    variants: dict[str, Json] = content["variants"]
    unknown = set(only or []) - variants.keys()
    if unknown:
        raise InputError(f"--only: {plan} has no variant {', '.join(sorted(unknown))}")
    params = content["params"] | {"data": content["params"].get("data", {}) | {"source": data}}
    study = Study(plan, params, work)
    study.train_teacher(teacher_checkpoint)
    for seed in seeds or range(content["seeds"]):
        for name, variant in variants.items():
            if name not in (only or variants) or (name in _PEERS and checkout is None):
                continue
            peer = (_PEERS[name], checkout) if checkout and name in _PEERS else None
            study.distil(f"{name}, seed {seed}", sections(variant, seed), peer)
    publish(plan, markdown(study.results, content))


def sections(variant: Json, seed: int) -> dict[str, Json]:
    """Return a variant's settings by section; its keys belong to ``distill`` unless dotted."""
    changed: dict[str, Json] = {"distill": {"seed": seed}}
    for key, value in variant.items():
        section, _, name = key.rpartition(".")
        changed.setdefault(section or "distill", {})[name] = value
    return changed


def markdown(results: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """Return a table of each variant's mean, range, and paired difference from each baseline.

    Accuracies are those on test images, or on validation images if the plan has ``tuning: true``.
    """
    baselines = plan["baselines"]
    images = "validation" if plan.get("tuning", False) else "test"
    key = "val_accuracy" if images == "validation" else "accuracy"
    runs: dict[str, list[Json]] = {}
    found: dict[str, dict[int, float]] = {}  # accuracies in percent, by variant and seed
    for name, run in results["runs"].items():
        variant, _, seed = name.rpartition(", seed ")
        runs.setdefault(variant, []).append(run)
        found.setdefault(variant, {})[int(seed)] = 100 * run[key]
    # If a peer reports its speed, compare speeds as well.
    paced = any("images_per_second" in run for run in results["runs"].values())
    heads = ["", "accuracy, %", "range", *(["images/s"] if paced else [])]
    heads += [f"vs {name}, points (95 % interval)" for name in baselines]
    rows = []
    for variant in filter(found.get, plan["variants"]):
        mean, low, high, number = spread(found[variant].values())
        rows.append(
            [
                variant,
                f"{mean:.2f}",
                f"{low:.2f} to {high:.2f} ({number} {'seed' if number == 1 else 'seeds'})",
                *([_pace(runs[variant])] if paced else []),
                *(_over(variant, name, found) for name in baselines),
            ]
        )
    return f"{_describe(results, images)}\n\n{table(heads, rows)}\n"


def _pace(runs: Sequence[Json]) -> str:
    """Return images per second in the last epoch, averaged over seeds."""
    found = [run.get("images_per_second") or run["last_epoch"]["images_per_second"] for run in runs]
    return f"{statistics.mean(map(float, found)):.1f}"


def _over(variant: str, baseline: str, found: Mapping[str, Mapping[int, float]]) -> str:
    over = paired(found[variant], found.get(baseline, {})) if variant != baseline else None
    if over is None:
        return ""
    between = "" if over.low is None else f" ({over.low:+.2f} to {over.high:+.2f})"
    return f"{over.mean:+.2f}{between}"


def _describe(results: Mapping[str, Any], images: str) -> str:
    """Describe teacher, student and machines in one sentence."""
    teacher, distill = (results["params"][section] for section in ("teacher", "distill"))
    machines = "; ".join(sorted({run["machine"] for run in results["runs"].values()}))
    accuracies = ", ".join(f"{value:.2%}" for value in sorted(results["teachers"].values()))
    return (
        f"{teacher['network']} ({teacher['epochs']} epochs, {accuracies})"
        f" to {distill['network']} ({distill['epochs']} epochs), {images} accuracy after the last"
        f" epoch; {machines}."
    )


if __name__ == "__main__":
    command(main)
