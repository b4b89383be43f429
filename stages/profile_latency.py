"""Stage ``profile_latency``: time every static model on each device of ``profile.devices``.

Each measurement runs in a fresh process. By default it takes about 4 seconds: half a second to warm
up, three to measure, the rest to start.
"""

import json
from pathlib import Path

from models.errors import InputError
from stages.devices.urls import open_device
from stages.entry import run_stage
from stages.files import new_folder, write_json
from stages.params import Params
from stages.runtimes.exported import load_exported

SAMPLES_FOLDER = Path("artifacts/latency")
REPORT = Path("reports/latency.json")


def main(params: Params) -> None:
    """Write the report and the raw samples; raises InputError if all measurements failed."""
    exported = load_exported()
    # Open all devices first, so that an unreachable one fails before any time is spent.
    devices = [open_device(url) for url in params.profile.devices]
    measured = [d.measure(exported, params.profile) for d in devices]
    samples = {key: times for found in measured for key, times in found.samples.items()}
    results = [row for found in measured for row in found.results]
    with new_folder(SAMPLES_FOLDER) as folder:
        (folder / "samples.json").write_text(json.dumps(samples, allow_nan=False) + "\n")
    described = [{"device": found.device, **found.description} for found in measured]
    write_json(REPORT, {"devices": described, "results": results})
    if all(result["n"] is None for result in results):
        raise InputError(
            f"{REPORT}: all measurements failed; the first reason: {results[0]['reason']}"
        )


if __name__ == "__main__":
    run_stage(main)
