"""What dvc and Prefect cost around a stage: ``python -m benchmarks.overhead``.

Chains of stages that do next to nothing are run to their end, by ``dvc repro`` and by ``ackd run``.
Two lengths tell what a run costs from what each stage costs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import describe, summarize
from benchmarks.page import describe_run, spread, table, write_section
from benchmarks.training import positive
from models.errors import InputError
from stages.files import write_json

LENGTHS = (2, 12)
RUNNERS = {
    "dvc": ("`dvc repro`", ["-m", "dvc", "repro"]),
    "flow": ("`ackd run`, which starts a server for itself", ["-m", "pipeline.cli", "run"]),
    "served": ("`ackd run` under `ackd server`", ["-m", "pipeline.cli", "run"]),
}
_SERVED = "served"
_STARTS_WITHIN_S = 300.0
_ROOT = Path(__file__).parents[1]


def make_chain(folder: Path, length: int) -> None:
    """A repository whose ``length`` stages copy a file, one after the other."""
    stages = [
        f"  s{i}:\n    cmd: cp f{i} f{i + 1}\n    deps: [f{i}]\n    outs: [f{i + 1}]\n"
        for i in range(length)
    ]
    (folder / "dvc.yaml").write_text("stages:\n" + "".join(stages))
    (folder / "params.yaml").write_bytes((_ROOT / "params.yaml").read_bytes())
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=folder, check=True)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[dict[str, str]]:
    """A standing server with an empty database in ``folder``, as the variables that name it.

    Raises:
        InputError: it does not start, with the last line that it said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "server", "--port", str(port)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(_ROOT), "PREFECT_HOME": str(folder / "prefect")},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + _STARTS_WITHIN_S
        while "pages are at" not in (said := log.read_text(encoding="utf-8")):
            if process.poll() is not None or time.monotonic() > end:
                last = said.strip().splitlines() or ["nothing was said"]
                raise InputError(f"`ackd server` did not start: {last[-1]}")
            time.sleep(0.1)
        yield {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    finally:
        process.terminate()
        process.wait()


def seconds(runner: str, folder: Path, env: Mapping[str, str]) -> float:
    """Of one run in ``folder``, with ``env`` besides this process's own variables.

    Raises:
        InputError: it failed, with the last line that it said.
    """
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "DVC_NO_ANALYTICS": "1", **env}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *RUNNERS[runner][1]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    elapsed = time.perf_counter() - start
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing was said"]
        raise InputError(f"{RUNNERS[runner][0]} failed: {said[-1]}")
    return elapsed


def measure(rounds: int) -> dict[str, Any]:
    """Seconds of whole runs, all stages run and all up to date, and what they say of a stage."""
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
                    if number:  # the first one fills caches
                        samples.setdefault(f"{length}_changed", []).append(changed)
                        samples.setdefault(f"{length}_unchanged", []).append(unchanged)
    return {runner: _shares(samples) for runner, samples in measured.items()}


def _shares(samples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    short, long = LENGTHS
    shares: dict[str, Any] = {key: summarize(values) for key, values in samples.items()}
    for state in ("changed", "unchanged"):
        pairs = zip(samples[f"{long}_{state}"], samples[f"{short}_{state}"], strict=True)
        shares[f"stage_{state}"] = summarize([(b - a) / (long - short) for b, a in pairs])
    return shares


def markdown(results: Mapping[str, Any]) -> str:
    """The table of ``docs/benchmarks.md``."""
    short, long = results["lengths"]
    heads = ["seconds", "a stage that runs", "an unchanged stage"]
    heads += [f"{long} stages, all run", f"{long} stages, none runs"]
    keys = ("stage_changed", "stage_unchanged", f"{long}_changed", f"{long}_unchanged")
    rows = [
        [title, *(spread(results["runners"][runner][key], 2) for key in keys)]
        for runner, (title, _) in RUNNERS.items()
    ]
    head = (
        f"{describe_run(results)} A stage's share comes from chains of {short} and {long} stages."
    )
    return f"{head}\n\n{table(heads, rows)}\n"


def main(argv: Sequence[str] | None = None) -> None:
    """As a command; a failure is one sentence and status 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--rounds", type=positive, default=5, help="default: %(default)s")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/overhead.json"), metavar="FILE"
    )
    parser.add_argument(
        "--page", type=Path, default=Path("docs/benchmarks.md"), metavar="FILE", help="see training"
    )
    arguments = parser.parse_args(argv)
    try:
        results = describe(arguments.rounds) | {"lengths": LENGTHS}
        results["runners"] = measure(arguments.rounds)
        write_json(arguments.output, results)
        print(markdown(results))
        write_section(arguments.page, "overhead", markdown(results))
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
