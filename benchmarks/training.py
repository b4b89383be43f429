"""Compare training throughput with that of the peers and with the processor's limit.

``python -m benchmarks.training --repdistiller CHECKOUT`` measures all contenders on the same
images, networks, weights and batch size, each in its own process. They take turns in rounds, so
that a slow phase of the machine affects all of them. ``docs/benchmarks.md`` explains how to read
the result.
"""

import dataclasses
import importlib.util
import itertools
import json
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.results import (
    Json,
    check_checkout,
    command,
    describe,
    describe_run,
    publish,
    quotients,
    run_python,
    spread,
    summarize,
    table,
)
from benchmarks.worker import Task
from models.errors import InputError
from stages.data.arrays import DATA_FOLDER, DataSet, load_data
from stages.machine import cores

BATCH_SIZE = 128
#: Numbers of workers for RepDistiller's loader: its default, and one per core. The faster counts.
WORKERS = sorted({8, cores()})
#: The limits, and torch's names of their types.
LIMITS = {"fp32": "float32", "bf16": "bfloat16"}
_MODULES = "benchmarks.contenders"
_PAIRS = ("resnet110-resnet20", "wrn_40_2-wrn_40_1")
#: The ratios, with their titles and targets.
_RATIOS = {
    "kd_live_vs_repdistiller": ("KD, live teacher: speed relative to RepDistiller", "2 or more"),
    "kd_warm_store_vs_repdistiller": (
        "KD, warm store: speed relative to RepDistiller",
        "4.5 or more",
    ),
    "kd_live_vs_torchdistill": ("KD, live teacher: speed relative to torchdistill", ""),
    "ackd_cost_vs_macs": ("ACKD's slowdown over KD, relative to its multiply-adds", "1.15 or less"),
    "feed_share": ("KD, warm store: share of a step spent waiting for data", "below 0.03"),
}

Rounds = Mapping[str, Sequence[Json]]  # the measurements of all rounds, by row key


def main(
    repdistiller: Annotated[Path, typer.Option(help="RepDistiller checkout.")],
    pair: Annotated[
        list[str],
        typer.Option(metavar="TEACHER-STUDENT", help="Pair of networks; can be repeated."),
    ] = list(_PAIRS),  # noqa: B006
    data: Annotated[Path, typer.Option(help="Folder written by prepare_data.")] = DATA_FOLDER,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds.")] = 5,
    seconds: Annotated[float, typer.Option(help="Seconds per contender and round.")] = 2.5,
) -> None:
    """Measure all contenders and write the tables."""
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
    publish("training", markdown(run), run)


@dataclass(frozen=True)
class Row:
    title: str  # of its row
    module: str  # trains it
    options: dict[str, Any]  # of that module

    @property
    def method(self) -> str:
        """The distillation method, which determines the multiply-adds of a step."""
        return str(self.options.get("method", "kd"))


def contenders(checkout: str) -> dict[str, Row]:
    """Return all rows by key: large matrix products, our own trainings, and the peers'.

    Keys are ``limit_fp32``, ``kd_live``, ``ackd_warm_compiled``, ``repdistiller_<workers>``,
    ``torchdistill`` (if it is installed) and so on.
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
    if importlib.util.find_spec("torchdistill") is not None:
        # Like RepDistiller it uses torch's loader, so a single number of workers is enough.
        title, options = f"torchdistill, {cores()} workers", {"workers": cores()}
        rows["torchdistill"] = Row(title, f"{_MODULES}.torchdistill", options)
    return rows


def measure(
    pair: str, data: DataSet, folder: Path, rows: Mapping[str, Row], rounds: int, seconds: float
) -> tuple[Json, dict[str, list[Json]]]:
    """Measure every contender once per round, for some seconds, in an empty ``folder``.

    Returns:
        The result of :func:`benchmarks.networks.write_pair`, and the measurements by row key.

    Raises:
        InputError: ``pair`` is no pair of networks, or a contender failed.
    """
    teacher, separator, student = pair.partition("-")
    if not separator:
        raise InputError(f"--pair: {pair!r} is no pair; use one such as {_PAIRS[0]}")
    # Use another process to keep this one small, because the peak memory that is measured for a
    # contender's process starts at that of its parent.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as executor:
        names = (teacher, student, str(data.folder), str(folder))
        facts = executor.submit(_write_pair, *names).result()
    shared = (teacher, student, str(data.folder.resolve()), str(folder), len(data.classes))
    measured: dict[str, list[Json]] = {key: [] for key in rows}
    for number in range(1, rounds + 1):
        for key, row in rows.items():
            print(f"{pair}: round {number} of {rounds}, {row.title}", file=sys.stderr, flush=True)
            task = Task(row.module, *shared, BATCH_SIZE, seconds, row.options)
            # Rows with a warm store reuse the networks compiled for the row with a live teacher.
            measured[key].append(run_contender(row.title, task, folder / f"compiled_{row.method}"))
    return facts, measured


def _write_pair(*arguments: str) -> Json:
    from benchmarks.networks import write_pair

    return write_pair(*arguments)


def run_contender(name: str, task: Task, compiled: Path, *, gpu: bool = False) -> Json:
    """Run a contender in its own process and return its measurements.

    The cache of compiled code, which contenders may share, must be empty at first, or the measured
    compilation time would be too short.

    Raises:
        InputError: the contender failed; the message has the last line of its log.
    """
    env = {"TORCHINDUCTOR_CACHE_DIR": str(compiled)} | ({} if gpu else {"CUDA_VISIBLE_DEVICES": ""})
    given = json.dumps(dataclasses.asdict(task))
    with tempfile.TemporaryDirectory(prefix="ackd-contender-") as folder:
        text = run_python(name, "-m", "benchmarks.worker", given, cwd=folder, env=env)
    measured: Json = json.loads(text)
    return measured


def rates(rounds: Sequence[Json]) -> list[float]:
    """Return images, or floating-point operations, per second of each round."""
    return [measured["amount"] / measured["seconds"] for measured in rounds]


def waits(rounds: Sequence[Json]) -> list[float]:
    """Return the share of each round that the loop spent waiting for its next batch."""
    return [measured["waited_seconds"] / measured["seconds"] for measured in rounds]


def repdistiller_rates(measured: Rounds) -> list[float]:
    """Return the rates of the RepDistiller row with the best median."""
    found = [rates(rounds) for key, rounds in measured.items() if key.startswith("repdistiller_")]
    return max(found, key=statistics.median)


def ratios(
    measured: Rounds, macs: Mapping[str, float], suffix: str = ""
) -> dict[str, dict[str, float] | None]:
    """Return the ratios that have a title in the table; None for those not measured.

    ``macs`` are those of a step without the teacher, by method; ``suffix`` selects compiled rows.
    """
    live, warm, ackd = (measured[f"{key}{suffix}"] for key in ("kd_live", "kd_warm", "ackd_warm"))
    reference, other = repdistiller_rates(measured), measured.get("torchdistill")
    predicted = macs["ackd"] / macs["kd"]
    cost = [quotient / predicted for quotient in quotients(rates(warm), rates(ackd))]
    torchdistill = summarize(quotients(rates(live), rates(other))) if other else None
    return {
        "kd_live_vs_repdistiller": summarize(quotients(rates(live), reference)),
        "kd_warm_store_vs_repdistiller": summarize(quotients(rates(warm), reference)),
        "kd_live_vs_torchdistill": torchdistill,
        "ackd_cost_vs_macs": summarize(cost),
        # The shortest step is the one in which waiting weighs most.
        "feed_share": summarize(waits(warm)),
    }


def summarize_pair(facts: Mapping[str, Any], rows: Mapping[str, Row], measured: Rounds) -> Json:
    """Return the results of a pair; ``facts`` is the result of ``write_pair``."""
    macs = facts["macs"]
    limits = {name: rates(measured[f"limit_{name}"]) for name in LIMITS}
    reference = repdistiller_rates(measured)
    summaries: Json = {}
    for key, row in rows.items():
        if key.startswith("limit_"):
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
    """Return a table of ratios, followed by a table of rows for each pair."""
    machine = results["machine"]
    bf16 = "bf16" if machine["fast_bf16"] else "fp32, the faster of the two here"
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
    heads = ["", "precision", "images/s", "RepDistiller = 1", "share of the limit"]
    heads += ["waiting for data", "peak memory, MB", "compilation, s"]
    for pair, content in results["pairs"].items():
        limits = (f"{name} {spread(v, 0)} GFLOPS" for name, v in content["limit_gflops"].items())
        products = f"Large matrix products: {', '.join(limits)}."
        parts += [f"### {pair}", products, table(heads, map(_cells, content["rows"].values()))]
    return "\n\n".join(parts) + "\n"


def _cells(row: Mapping[str, Any]) -> list[str]:
    cells = [row["title"], row["precision"], spread(row["images_per_second"], 0)]
    cells += [spread(row["ratio_to_repdistiller"], 2), f"{row['share_of_limit']['median']:.0%}"]
    cells += [f"{row['feed_share']['median']:.1%}", f"{row['peak_memory_mb']:.0f}"]
    seconds = row["compile_seconds"]
    return [*cells, "" if seconds is None else f"{seconds:.0f}"]


if __name__ == "__main__":
    command(main)
