"""Time a LiteRT file at batch 1 and print one line of JSON, like ``stages.devices.runner``.

Run as ``python -m stages.litert.timing MODEL GOLDEN PRECISION THREADS PROFILE``, where ``PROFILE``
is that section of ``params.yaml`` as JSON.
"""

import json
import sys
from pathlib import Path

from stages.devices.rules import breach, outcome
from stages.devices.runner import time_model
from stages.runtimes.litert_runtime import Session
from stages.sections.export import Profile

if __name__ == "__main__":
    model, golden, precision, threads, profile = sys.argv[1:]
    settings = Profile.model_validate_json(profile)
    _, timed = time_model(lambda: Session(Path(model), int(threads)), Path(golden), settings)
    row = {"threads": int(threads), **timed, **outcome(breach(precision, timed["golden"]))}
    print(json.dumps(row, allow_nan=False))
