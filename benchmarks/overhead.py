"""Measure the overhead of dvc and Prefect per stage: ``python -m benchmarks.overhead``.

Runs chains of trivial stages with ``dvc repro`` and ``ackd run``. Two chain lengths separate the
cost of a run from the cost of a stage.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.results import (
    ROOT,
    Json,
    command,
    describe,
    describe_run,
    last_line,
    publish,
    run_python,
    spread,
    summarize,
    table,
)
from models.errors import InputError
from pipeline.prefect_server import require_server

LENGTHS = (2, 12)
RUNNERS = {
    "dvc": ("`dvc repro`", ["-m", "dvc", "repro"]),
    "flow": ("`ackd run` with a temporary server", ["-m", "pipeline.cli", "run"]),
    "served": ("`ackd run` with `ackd server` running", ["-m", "pipeline.cli", "run"]),
}
_SERVED = "served"
_STARTS_WITHIN_S = 300.0


def main(rounds: Annotated[int, typer.Option(min=1, help="Number of rounds.")] = 5) -> None:
    """Measure and write the table."""
    results = describe(rounds) | {"lengths": LENGTHS, "runners": measure(rounds)}
    publish("overhead", markdown(results), results)


def make_chain(folder: Path, length: int) -> None:
    """Create a repository with a chain of ``length`` stages that copy a file."""
    stages = [
        f"  s{i}:\n    cmd: cp f{i} f{i + 1}\n    deps: [f{i}]\n    outs: [f{i + 1}]\n"
        for i in range(length)
    ]
    (folder / "dvc.yaml").write_text("stages:\n" + "".join(stages))
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=folder, check=True)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[dict[str, str]]:
    """Run a server with an empty database in ``folder``; yield the environment that selects it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "server", "--port", str(port)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(folder / "prefect")},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url, end = f"http://127.0.0.1:{port}/api", time.monotonic() + _STARTS_WITHIN_S
        while True:
            with contextlib.suppress(InputError):
                require_server(url)
                break
            if process.poll() is not None or time.monotonic() > end:
                reason = last_line(log.read_text(encoding="utf-8"))
                raise InputError(f"`ackd server` did not start: {reason}")
            time.sleep(0.1)
        yield {"PREFECT_API_URL": url}
    finally:
        process.terminate()
        process.wait()


def seconds(runner: str, folder: Path, env: Mapping[str, str]) -> float:
    """Return the duration of one run in ``folder``, with ``env`` added to the environment."""
    start = time.perf_counter()
    title, arguments = RUNNERS[runner]
    run_python(title, *arguments, cwd=folder, env={"DVC_NO_ANALYTICS": "1", **env})
    return time.perf_counter() - start


def measure(rounds: int) -> Json:
    """Time runs of changed and of unchanged chains; return seconds per run and per stage."""
    measured: dict[str, dict[str, list[float]]] = {runner: {} for runner in RUNNERS}
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="ackd-benchmark-"))
        served = stack.enter_context(server(Path(name))) if _SERVED in RUNNERS else {}
        for length in LENGTHS:
            folder = Path(name, str(length))
            folder.mkdir()
            make_chain(folder, length)
            for number in range(rounds + 1):
                for runner, samples in measured.items():
                    print(f"{length} stages, {runner}, round {number} of {rounds}", file=sys.stderr)
                    (folder / "f0").write_text(f"{runner} {number}\n")
                    env = served if runner == _SERVED else {}
                    changed, unchanged = (seconds(runner, folder, env) for _ in range(2))
                    if number:  # the first round warms caches
                        samples.setdefault(f"{length}_changed", []).append(changed)
                        samples.setdefault(f"{length}_unchanged", []).append(unchanged)
    return {runner: _of_stages(samples) for runner, samples in measured.items()}


def _of_stages(samples: Mapping[str, Sequence[float]]) -> Json:
    short, long = LENGTHS
    found: Json = {key: summarize(values) for key, values in samples.items()}
    for state in ("changed", "unchanged"):
        pairs = zip(samples[f"{long}_{state}"], samples[f"{short}_{state}"], strict=True)
        found[f"stage_{state}"] = summarize([(b - a) / (long - short) for b, a in pairs])
    return found


def markdown(results: Mapping[str, Any]) -> str:
    """Return the table for ``docs/benchmarks.md``."""
    short, long = results["lengths"]
    heads = ["seconds", "one stage, run", "one stage, unchanged"]
    heads += [f"{long} stages, all run", f"{long} stages, unchanged"]
    keys = ("stage_changed", "stage_unchanged", f"{long}_changed", f"{long}_unchanged")
    rows = [
        [title, *(spread(results["runners"][runner][key], 2) for key in keys)]
        for runner, (title, _) in RUNNERS.items()
    ]
    stages = f"Times for one stage come from chains of {short} and {long} stages."
    return f"{describe_run(results)} {stages}\n\n{table(heads, rows)}\n"


if __name__ == "__main__":
    command(main)
