"""Time one LiteRT file at batch 1 and print one line of JSON, with parity in the same run.

``python -m stages.litert.timing MODEL GOLDEN PRECISION THREADS PROFILE``, where ``PROFILE`` is the
section of ``params.yaml`` as JSON. Times and their figures are those of ``stages.devices.runner``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from stages.devices.runner import (
    NOISY_CV,
    breach,
    compare,
    load_average,
    load_golden,
    statistics,
    temperature,
    time_run,
    time_runs,
)
from stages.runtimes.litert_runtime import INPUT, Session
from stages.sections.export import Profile


def measure(
    model: Path, golden: Path, precision: str, threads: int, profile: Profile
) -> dict[str, Any]:
    """A row of ``latency`` in ``reports/litert.json``, and its raw ``samples_ms``.

    Raises:
        RuntimeFailureError: LiteRT does not take the file.
    """
    load_before, temperature_before = load_average(), temperature()
    images, reference = load_golden(golden)
    start = time.perf_counter_ns()
    session = Session(model, threads)
    init_ms = (time.perf_counter_ns() - start) / 1e6
    feed = {INPUT: images[:1]}
    first_ms = time_run(session, feed)
    parity = compare(session.logits(images), reference)
    time_runs(session, feed, profile.warmup_runs, profile.warmup_seconds, sys.maxsize)
    samples = time_runs(session, feed, profile.min_runs, profile.min_seconds, profile.max_runs)
    figures = statistics(samples)
    reason = breach(precision, parity)
    return {
        "threads": threads,
        "init_ms": round(init_ms, 4),
        "first_ms": round(first_ms, 4),
        **figures,
        "load_before": load_before,
        "load_after": load_average(),
        "temperature_before": temperature_before,
        "temperature_after": temperature(),
        "noisy": figures["cv"] > NOISY_CV,
        "golden": parity,
        "status": "failed" if reason else "passed",
        "reason": reason,
        "samples_ms": [round(sample, 4) for sample in samples],
    }


if __name__ == "__main__":
    file, batch, kind, count, given = sys.argv[1:]
    settings = Profile.model_validate_json(given)
    print(json.dumps(measure(Path(file), Path(batch), kind, int(count), settings), allow_nan=False))
