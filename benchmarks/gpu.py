"""Measure and check the chain on a GPU in less than eight minutes: ``python -m benchmarks.gpu``.

Needs a CUDA GPU, torch 2.9 or newer and the packages that training imports, but no internet:
weights and images are random. Each part runs in its own process with a time limit. If a part fails,
its reason is reported and the others continue.
"""

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks import gpu_checks, gpu_speed
from benchmarks.gpu_plan import Pair, Plan, reason
from benchmarks.results import FOLDER, Json, check_checkout, command, describe, publish, table
from models.errors import InputError
from stages.files import write_json
from stages.identify_device import gpu

PAIRS = {
    "CIFAR": Pair("resnet20", "resnet8", 32, 10240, ("D3B1", "D2B2")),
    "photographs": Pair(
        "timm:tf_efficientnet_lite2", "timm:tf_efficientnet_lite0", 160, 2048, ("D4B1", "D3B2")
    ),
}

Part = Callable[[Plan], Iterator[Json]]
#: The parts with their time limits in seconds; unused time goes to later parts.
PARTS: dict[str, tuple[Part, float]] = {
    "losses": (gpu_checks.losses, 35),
    "repeats": (gpu_checks.repeats, 45),
    "peer": (gpu_speed.peer, 30),
    "tensorrt": (gpu_checks.tensorrt, 35),
    "idle": (gpu_speed.idle, 78),
}
#: Time limit of the speed part for each pair and precision, which run last.
SPEED_SECONDS = 61


def main(
    repdistiller: Annotated[
        Path | None, typer.Option(help="RepDistiller checkout, to compare with.")
    ] = None,
) -> None:
    """Measure on this machine's GPU and write the tables."""
    if (found := gpu()) is None:
        raise InputError("nvidia-smi shows no GPU; run this on a machine that has one")
    with tempfile.TemporaryDirectory(prefix="ackd-benchmark-") as work:
        checkout = check_checkout(repdistiller) if repdistiller else None
        plan = Plan(work, PAIRS, checkout)
        results = describe(1) | {"plan": dataclasses.asdict(plan), "parts": {}}
        results["plan"] |= {"work": None, "repdistiller": None}
        results["machine"] |= {"gpu": found, "torch": torch.__version__}
        for name, measured in measure(plan):
            results["parts"][name] = measured
            write_json(FOLDER / "gpu.json", results)
    publish("gpu", markdown(results))


def parts(plan: Plan) -> dict[str, tuple[Part, float]]:
    """Return all parts by name, with their time limits in seconds."""
    found = dict(PARTS)
    for pair in plan.pairs:
        for precision in plan.precisions:
            part = functools.partial(gpu_speed.speed, name=pair, precision=precision)
            found[f"{pair}, {precision}"] = (part, SPEED_SECONDS)
    return found


def measure(plan: Plan) -> Iterator[tuple[str, Json]]:
    """Run all parts; yield each name with rows, duration, and the reason if it ended early."""
    end = time.monotonic()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(plan.work, "compiled"))
    for name, (part, seconds) in parts(plan).items():
        print(f"{name}: {seconds} s", file=sys.stderr, flush=True)
        start, end = time.monotonic(), end + seconds
        rows, reason = run_part(plan, part, end)
        took = round(time.monotonic() - start, 1)
        yield name, {"seconds": took, "rows": rows, "reason": reason}


def run_part(plan: Plan, part: Part, end: float) -> tuple[list[Json], str | None]:
    """Run a part until the monotonic time ``end``; return its rows and why it ended early."""
    context: Any = multiprocessing.get_context(plan.start)
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(writer, part, plan))
    process.start()
    writer.close()
    rows: list[Json] = []
    try:
        while reader.poll(max(0.0, end - time.monotonic())):
            rows.append(reader.recv())
    except EOFError:
        process.join()
        if rows and rows[-1].keys() == {"reason"}:
            return rows[:-1], rows[-1]["reason"]
        return rows, f"ended with {process.exitcode}" if process.exitcode else None
    finally:
        with contextlib.suppress(ProcessLookupError):  # its whole group has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    return rows, "stopped at its time limit"


def _run(writer: Any, part: Part, plan: Plan) -> None:
    """Run a part in its process, which leads a process group that can be killed at once."""
    os.setsid()
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory(dir=plan.work) as folder:
        os.chdir(folder)
        try:
            for row in part(plan):
                writer.send(row)
        except Exception as error:  # reported like the failure of a row
            writer.send({"reason": reason(error)})
        os.chdir(plan.work)


def markdown(results: Mapping[str, Any]) -> str:
    """Return the tables of all parts."""
    machine, plan, parts = results["machine"], results["plan"], results["parts"]
    device = machine["gpu"]
    text = [
        f"{device['name']}, driver {device['driver']}, torch {machine['torch']}, {machine['cpu']},"
        f" {machine['cores']} cores, {results['date'][:10]}; one run of {plan['seconds']:g} s per"
        f" row after a warm-up, batch {plan['batch_size']}, random images."
    ]
    for name, pair in plan["pairs"].items():
        own = [part for key, part in parts.items() if key.startswith(f"{name}, ")]
        peers = parts["peer"]["rows"] if name == next(iter(plan["pairs"])) else []
        text += [f"### {pair['teacher']} to {pair['student']}, {pair['image_size']} pixels"]
        text += [_speeds([row for part in own for row in part["rows"]], peers)]
    student, precision = next(iter(plan["pairs"].values()))["student"], plan["precisions"][-1]
    text += [f"### Idle GPU: {student} by KD, logits stored, {precision}"]
    rates = [row.get("images_per_second") for row in parts["idle"]["rows"]]
    base = next(filter(None, rates), 1.0)
    idle = [
        row | ({"images/s": f"{rate:,.0f}", "the first = 1": f"{rate / base:.2f}"} if rate else {})
        for row, rate in zip(parts["idle"]["rows"], rates, strict=True)
    ]
    text += [_table(idle, ["images/s", "the first = 1"], "{}")]
    accuracy = ["max_relative_error", "top1_agreement"]
    for title, name, columns, form in (
        ("Repeatability", "repeats", ["second run", "killed and resumed"], "{}"),
        ("Losses on CPU and GPU", "losses", ["without TF32", "as in training"], "{:.1e}"),
        ("TensorRT", "tensorrt", ["gpu_ms", "wall_ms", *accuracy], "{:.3g}"),
    ):
        text += [f"### {title}", _table(parts[name]["rows"], columns, form)]
    if ended := [f"- {name}: {part['reason']}" for name, part in parts.items() if part["reason"]]:
        text += ["Parts that did not finish:", "\n".join(ended)]
    return "\n\n".join(text) + "\n"


def _speeds(rows: Sequence[Json], peers: Sequence[Json]) -> str:
    """Return a table of images per second, shares of the limit and ratios to the best peer."""
    rows = [*rows, *({"precision": "fp32", "compile": False} | row for row in peers)]
    best = max((row.get("images_per_second", 0.0) for row in peers), default=0.0)
    rate = {
        (row["title"], row["precision"], row["compile"]): row["images_per_second"]
        for row in rows
        if "images_per_second" in row
    }
    shown = []
    for row in rows:
        title, precision, compiled = how = row["title"], row["precision"], row["compile"]
        cells = {"title": f"{title}, {precision}{', compiled' if compiled else ''}"}
        if how in rate:
            limit = rate.get((gpu_speed.LIMIT, precision, compiled))
            cells["images/s"] = f"{rate[how]:,.0f}"
            cells["share of the limit"] = f"{rate[how] / limit:.0%}" if limit else ""
            cells["RepDistiller = 1"] = f"{rate[how] / best:.2f}" if best else ""
            cells["memory, MB"] = f"{row.get('device_memory_mb', row['peak_memory_mb']):,.0f}"
            cells["compilation, s"] = f"{row['warm_up_seconds']:.0f}" if compiled else ""
        else:
            cells["reason"] = row["reason"]
        shown.append(cells)
    columns = ["images/s", "share of the limit", "RepDistiller = 1", "memory, MB", "compilation, s"]
    return _table(shown, columns, "{}")


def _table(rows: Sequence[Json], columns: Sequence[str], form: str) -> str:
    """Format rows as a table; a failed row has the reason in its first column."""
    if not rows:
        return "Not measured; see below."
    cells = []
    for row in rows:
        found = [row.get(key) for key in columns]
        values = ["" if value is None else form.format(value) for value in found]
        cells.append([row["title"], row.get("reason", values[0]), *values[1:]])
    return table(["", *(key.replace("_", " ") for key in columns)], cells)


if __name__ == "__main__":
    command(main)
