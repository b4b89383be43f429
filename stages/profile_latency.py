"""Latency of every static model on this machine, each in a fresh process.

With the default parameters one measurement takes about 4 seconds: half a second to warm up, three
to measure, the rest to start.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from models.errors import InputError
from stages.entry import run_stage
from stages.files import new_folder, write_json
from stages.params import Params, Profile
from stages.progress import track
from stages.runtimes.exported import Exported, load_exported

RUNNER = Path(__file__).parent / "devices" / "runner.py"
SAMPLES_FOLDER = Path("artifacts/latency")
REPORT = Path("reports/latency.json")
DEVICE = "local:"

# What a process that ended too early could not tell.
_UNMEASURED = (
    *("version", "provider", "init_ms", "first_ms", "n", "min_ms", "p50_ms", "p90_ms", "p99_ms"),
    *("mean_ms", "cv", "peak_rss_mb", "load_before", "load_after", "temperature_before"),
    *("temperature_after", "noisy", "golden"),
)


def main(params: Params) -> None:
    exported = load_exported()
    results, samples = [], {}
    pairs = [
        (precision, threads)
        for precision in exported.precisions
        for threads in params.profile.threads
    ]
    for precision, threads in track(pairs, "profile"):
        result = measure(exported, precision, threads, params.profile)
        key = f"{DEVICE}|{result['runtime']}|{precision}|{threads}"
        samples[key] = result.pop("samples_ms", [])
        results.append(result)
    with new_folder(SAMPLES_FOLDER) as folder:
        (folder / "samples.json").write_text(
            json.dumps(samples, allow_nan=False) + "\n", encoding="utf-8"
        )
    write_json(REPORT, {"results": results})
    if all(result["n"] is None for result in results):
        raise InputError(
            f"{REPORT}: nothing could be measured; the first reason: {results[0]['reason']}"
        )


def measure(exported: Exported, precision: str, threads: int, profile: Profile) -> dict[str, Any]:
    """One row of ``reports/latency.json`` with its raw samples, by the runner in a fresh process.

    A runner that fails or crashes gives a row with status ``failed``, null figures and its reason.
    """
    model = exported.file(precision, "static")
    command = [sys.executable, str(RUNNER), "--profile", "--model", str(model)]
    command += ["--golden", str(exported.golden), "--threads", str(threads)]
    for option in ("warmup_runs", "warmup_seconds", "min_runs", "min_seconds", "max_runs"):
        command += [f"--{option.replace('_', '-')}", str(getattr(profile, option))]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode == 0:
        measured: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
        return {"device": DEVICE, **measured}
    said = process.stderr.strip().splitlines()
    return {
        "device": DEVICE,
        "runtime": "onnxruntime",
        "precision": precision,
        "file": model.name,
        "model_sha256": exported.description["files"][precision]["static"]["sha256"],
        "threads": threads,
        **dict.fromkeys(_UNMEASURED),
        "status": "failed",
        "reason": said[-1] if said else f"the runner ended with status {process.returncode}",
    }


if __name__ == "__main__":
    run_stage(main)
