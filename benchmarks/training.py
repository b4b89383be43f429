"""How many images a second are trained on: here, by the peers, and by the processor's limit.

``python -m benchmarks.training --repdistiller CHECKOUT`` measures all contenders in one run, on the
same images, networks, weights and batch size. Each has a process of its own; in a round every one
of them has its turn, so that a slow moment of the machine meets all. ``docs/benchmarks.md`` says
how to read the result.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.results import (
    FOLDER,
    ROOT,
    Json,
    check_checkout,
    command,
    describe,
    describe_run,
    last_line,
    publish,
    quotients,
    spread,
    summarize,
    table,
)
from benchmarks.worker import Task
from models.errors import InputError
from stages.data.arrays import DATA_FOLDER, DataSet, load_data
from stages.files import write_json
from stages.machine import cores

BATCH_SIZE = 128
#: Of RepDistiller's loader: its default, and the cores at hand. The faster one counts.
WORKERS = sorted({8, cores()})
#: The limits' names, and torch's.
LIMITS = {"fp32": "float32", "bf16": "bfloat16"}
NO_TORCHDISTILL = "torchdistill is not installed here"
_MODULES = "benchmarks.contenders"
_PAIRS = ("resnet110-resnet20", "wrn_40_2-wrn_40_1")
#: The ratios, what they are of, and what they are to reach.
_RATIOS = {
    "kd_live_vs_repdistiller": ("KD with a live teacher, of RepDistiller", "2 or more"),
    "kd_warm_store_vs_repdistiller": ("KD with a warm store, of RepDistiller", "4.5 or more"),
    "kd_live_vs_torchdistill": ("KD with a live teacher, of torchdistill", ""),
    "ackd_cost_vs_macs": (
        "ACKD's cost over KD's, of what its multiply-adds predict",
        "1.15 or less",
    ),
    "feed_share": ("the feed's share of a step, KD with a warm store", "below 0.03"),
}

Rounds = Mapping[str, Sequence[Json]]
"""What was measured, by the rows' keys."""


def main(
    repdistiller: Annotated[Path, typer.Option(help="A checkout of RepDistiller")],
    pair: Annotated[
        list[str], typer.Option(metavar="TEACHER-STUDENT", help="May be repeated")
    ] = list(_PAIRS),  # noqa: B006
    data: Annotated[Path, typer.Option(help="What prepare_data wrote")] = DATA_FOLDER,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    seconds: Annotated[float, typer.Option(help="Of each contender in a round")] = 2.5,
) -> None:
    """Measure all contenders, and write the tables."""
    images = load_data(data)
    images.split("train")
    rows = contenders(check_checkout(repdistiller))
    facts: Json = {}
    results: Json = {}
    for name in pair:
        with tempfile.TemporaryDirectory(prefix="ackd-benchmark-") as folder:
            facts, measured = measure(name, images, Path(folder), rows, rounds, seconds)
        results[name] = summarize_pair(facts, rows, measured)
    run = describe(rounds) | {"batch_size": BATCH_SIZE, "pairs": results}
    run["machine"] |= {"fast_bf16": facts["precision"] == "bf16", "torch": facts["torch"]}
    write_json(FOLDER / "training.json", run)
    publish("training", markdown(run))


@dataclass(frozen=True)
class Row:
    """A contender.

    Attributes:
        title: for the table.
        module: the one that trains it.
        options: what that module asks for.
        reason: why it cannot be measured here; None where it can.
    """

    title: str
    module: str
    options: dict[str, Any]
    reason: str | None = None

    @property
    def method(self) -> str:
        """Whose multiply-adds it makes."""
        return str(self.options.get("method", "kd"))


def contenders(checkout: str) -> dict[str, Row]:
    """All rows: large matrix products, our own, and the peers'.

    Their keys are ``limit_fp32``, ``kd_live``, ``ackd_warm_compiled``, ``repdistiller_<workers>``,
    ``torchdistill`` and so on.
    """
    rows = {
        f"limit_{name}": Row(f"limit in {name}", f"{_MODULES}.processor", {"dtype": dtype})
        for name, dtype in LIMITS.items()
    }
    for compiled, method, store in itertools.product((False, True), ("kd", "ackd"), (False, True)):
        key = f"{method}_{'warm' if store else 'live'}{'_compiled' if compiled else ''}"
        how = f"{'warm store' if store else 'live teacher'}{', compiled' if compiled else ''}"
        options = {"method": method, "store": store, "compile": compiled}
        rows[key] = Row(f"{method.upper()}, {how}", f"{_MODULES}.ours", options)
    for count in WORKERS:
        options = {"checkout": checkout, "workers": count}
        row = Row(f"RepDistiller, {count} workers", f"{_MODULES}.repdistiller", options)
        rows[f"repdistiller_{count}"] = row
    # Its loader is torch's, as RepDistiller's: what is learned there need not be measured again.
    reason = NO_TORCHDISTILL if importlib.util.find_spec("torchdistill") is None else None
    title, options = f"torchdistill, {cores()} workers", {"workers": cores()}
    return rows | {"torchdistill": Row(title, f"{_MODULES}.torchdistill", options, reason)}


def measure(
    pair: str, data: DataSet, folder: Path, rows: Mapping[str, Row], rounds: int, seconds: float
) -> tuple[Json, dict[str, list[Json]]]:
    """Let each contender have its turn, round after round.

    Args:
        pair: teacher and student, such as ``resnet110-resnet20``.
        data: the training images.
        folder: an empty one, for the weights and what the contenders write.
        rows: the contenders; those that have a reason not to be are left out.
        rounds: how many.
        seconds: of each contender in a round.

    Returns:
        What :func:`benchmarks.networks.write_pair` returns, and what was measured.

    Raises:
        InputError: ``pair`` is no pair of networks, or a contender failed.
    """
    teacher, separator, student = pair.partition("-")
    if not separator:
        raise InputError(f"--pair: {pair!r} is no pair; give one such as {_PAIRS[0]}")
    # In another process, so that this one stays small: a process's peak memory begins with that
    # of the one which started it.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as executor:
        names = (teacher, student, str(data.folder), str(folder))
        facts = executor.submit(_write_pair, *names).result()
    chosen = {key: row for key, row in rows.items() if row.reason is None}
    measured: dict[str, list[Json]] = {key: [] for key in chosen}
    for number in range(1, rounds + 1):
        for key, row in chosen.items():
            print(f"{pair}: round {number} of {rounds}, {row.title}", file=sys.stderr, flush=True)
            task = Task(
                module=row.module,
                teacher=teacher,
                student=student,
                data=str(data.folder.resolve()),
                weights=str(folder),
                classes=len(data.classes),
                batch_size=BATCH_SIZE,
                seconds=seconds,
                options=row.options,
            )
            # With a warm store the networks are those with a live teacher, compiled a row before.
            measured[key].append(run_contender(row.title, task, folder / f"compiled_{row.method}"))
    return facts, measured


def _write_pair(*arguments: str) -> Json:
    from benchmarks.networks import write_pair

    return write_pair(*arguments)


def run_contender(name: str, task: Task, compiled: Path, *, gpu: bool = False) -> Json:
    """What one contender's process measured.

    Args:
        name: for messages.
        task: what it trains.
        compiled: the folder of compiled code, which contenders may share; empty at first, or what
            was compiled before would be found again, and its compilation seem free.
        gpu: whether it sees GPUs.

    Raises:
        InputError: it failed, with the last line of its log.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        "PYTHONPATH": os.pathsep.join(paths),
        "TORCHINDUCTOR_CACHE_DIR": str(compiled),
    } | ({} if gpu else {"CUDA_VISIBLE_DEVICES": ""})
    with tempfile.TemporaryDirectory(prefix="ackd-contender-") as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(dataclasses.asdict(task))],
            cwd=folder,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise InputError(f"{name} failed: {last_line(done.stderr)}")
    measured: Json = json.loads(last_line(done.stdout))
    return measured


def rates(rounds: Sequence[Json]) -> list[float]:
    """Amount a second of each round: images, or floating-point operations."""
    return [measured["amount"] / measured["seconds"] for measured in rounds]


def waits(rounds: Sequence[Json]) -> list[float]:
    """The share of each round in which the loop waited for its next batch."""
    return [measured["waited_seconds"] / measured["seconds"] for measured in rounds]


def repdistiller_rates(measured: Rounds) -> list[float]:
    """Of that of its rows which has the best median."""
    found = [rates(rounds) for key, rounds in measured.items() if key.startswith("repdistiller_")]
    return max(found, key=statistics.median)


def ratios(
    measured: Rounds, macs: Mapping[str, float], suffix: str = ""
) -> dict[str, dict[str, float] | None]:
    """What has a target; None for what was not measured.

    Args:
        measured: of all rows.
        macs: multiply-adds of an image in a step without the teacher, by method.
        suffix: of our contenders' keys, for those that are compiled.
    """
    live, warm, ackd = (measured[f"{key}{suffix}"] for key in ("kd_live", "kd_warm", "ackd_warm"))
    reference, other = repdistiller_rates(measured), measured.get("torchdistill")
    predicted = macs["ackd"] / macs["kd"]
    cost = [quotient / predicted for quotient in quotients(rates(warm), rates(ackd))]
    return {
        "kd_live_vs_repdistiller": summarize(quotients(rates(live), reference)),
        "kd_warm_store_vs_repdistiller": summarize(quotients(rates(warm), reference)),
        "kd_live_vs_torchdistill": summarize(quotients(rates(live), rates(other)))
        if other
        else None,
        "ackd_cost_vs_macs": summarize(cost),
        # Of the shortest step, which is where it weighs most.
        "feed_share": summarize(waits(warm)),
    }


def summarize_pair(facts: Mapping[str, Any], rows: Mapping[str, Row], measured: Rounds) -> Json:
    """A pair's part of the results.

    Args:
        facts: what ``benchmarks.networks.write_pair`` returns.
        rows: all; one that was not measured is given with the reason.
        measured: round by round.
    """
    macs = facts["macs"]
    limits = {name: rates(measured[f"limit_{name}"]) for name in LIMITS}
    reference = repdistiller_rates(measured)
    summaries: Json = {}
    for key, row in rows.items():
        if key.startswith("limit_"):
            continue
        if row.reason is not None:
            summaries[key] = {"title": row.title, "reason": row.reason}
            continue
        precision = facts["precision"] if "store" in row.options else "fp32"
        cost = macs[row.method] + (0 if row.options.get("store") else macs["teacher"])
        first, images = measured[key][0], rates(measured[key])
        operations = [2 * cost * rate for rate in images]
        summaries[key] = {
            "title": row.title,
            "precision": precision,
            "macs_per_image": cost,
            "images_per_second": summarize(images),
            "ratio_to_repdistiller": summarize(quotients(images, reference)),
            "share_of_limit": summarize(quotients(operations, limits[precision])),
            "feed_share": summarize(waits(measured[key])),
            "peak_memory_mb": max(round_["peak_memory_mb"] for round_ in measured[key]),
            "compile_seconds": first["warm_up_seconds"] if row.options.get("compile") else None,
            "steps_per_round": first["steps"],
            "samples_images_per_second": images,
        }
    return {
        "macs": macs,
        "limit_gflops": {
            name: summarize([limit / 1e9 for limit in found]) for name, found in limits.items()
        },
        "rows": summaries,
        "ratios": ratios(measured, macs),
        "ratios_compiled": ratios(measured, macs, "_compiled"),
    }


def markdown(results: Mapping[str, Any]) -> str:
    """A table of ratios, then one of rows for each pair."""
    machine = results["machine"]
    bf16 = "bf16" if machine["fast_bf16"] else "fp32, the faster one here"
    head = (
        f"{describe_run(results)} Precision auto is {bf16}; torch {machine['torch']},"
        f" batch {results['batch_size']}."
    )
    columns = [
        (f"{pair}{name}", content[kind])
        for pair, content in results["pairs"].items()
        for name, kind in (("", "ratios"), (", compiled", "ratios_compiled"))
    ]
    rows = [
        [title, *(spread(found[key], 3) for _, found in columns), target]
        for key, (title, target) in _RATIOS.items()
    ]
    parts = [head, table(["ratio", *(name for name, _ in columns), "target"], rows)]
    heads = ["", "precision", "images/s", "RepDistiller = 1", "of the limit", "waits for images"]
    heads += ["peak memory, MB", "compiles, s"]
    for pair, content in results["pairs"].items():
        limits = (f"{name} {spread(v, 0)} GFLOPS" for name, v in content["limit_gflops"].items())
        found = [
            [*_cells(row), *[""] * len(heads)][: len(heads)] for row in content["rows"].values()
        ]
        products = f"Large matrix products: {', '.join(limits)}."
        parts += [f"### {pair}", products, table(heads, found)]
    return "\n\n".join(parts) + "\n"


def _cells(row: Mapping[str, Any]) -> Iterator[str]:
    yield row["title"]
    if "reason" in row:
        yield f"not measured: {row['reason']}"
        return
    yield row["precision"]
    yield spread(row["images_per_second"], 0)
    yield spread(row["ratio_to_repdistiller"], 2)
    yield f"{row['share_of_limit']['median']:.0%}"
    yield f"{row['feed_share']['median']:.1%}"
    yield f"{row['peak_memory_mb']:.0f}"
    yield "" if row["compile_seconds"] is None else f"{row['compile_seconds']:.0f}"


if __name__ == "__main__":
    command(main)
