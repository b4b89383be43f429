"""Stage ``validate``: compare exported models with torch on the golden batch and the test split.

A precision fails if either of its shapes fails in any runtime. Unless ``export.required`` names it,
it is then left out of the bundle. A dynamic model is judged on the whole test split, a
static one, which takes images one by one, on its first :data:`STATIC_IMAGES`.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

from models.errors import InputError
from stages.devices.rules import outcome, statistics
from stages.entry import run_stage
from stages.files import write_json
from stages.params import Params
from stages.progress import track
from stages.runtimes import parity
from stages.runtimes.base import Job, Runtime, RuntimeFailureError
from stages.runtimes.exported import SHAPES, Exported, load_exported
from stages.runtimes.onnx_runtime import OnnxRuntime
from stages.runtimes.tensorrt_runtime import TensorRtRuntime
from stages.sections.export import Validate

REPORT = Path("reports/validation.json")

STATIC_IMAGES = 1000


def main(params: Params) -> None:
    settings = params.validate_
    tensorrt = TensorRtRuntime()
    absent = tensorrt.left_out(settings)
    exported = load_exported()
    for precision in params.export.required:
        if precision in exported.failed:
            raise InputError(
                f"params.yaml: export.required names {precision}, which was"
                f" {exported.failed[precision]}; remove it, or choose another student"
            )
    reference = parity.read_reference(exported, "validate")
    runtimes: list[tuple[Runtime, str | None]] = [(OnnxRuntime(), None), (tensorrt, absent)]
    work = [
        (runtime, reason, precision, shape)
        for runtime, reason in runtimes
        for precision in exported.precisions
        if precision in runtime.precisions
        for shape in SHAPES
    ]
    results = [validate(*one, exported, reference, settings) for one in track(work, "validate")]
    torch_accuracy = parity.accuracy(reference.test_logits, reference.test.labels)
    write_json(
        REPORT,
        {"torch": {"accuracy": torch_accuracy, "images": len(reference.test)}, "results": results},
    )
    failures: dict[str, list[str]] = defaultdict(list)
    for row in results:
        if row["status"] == "failed":
            failure = f"{row['file']} in {row['runtime']} ({row['reason']})"
            failures[row["precision"]].append(failure)
    for name, found in failures.items():
        if name not in params.export.required:
            print(f"validate: {name} is left out: {'; '.join(found)}", flush=True)
    missed = [found for name in params.export.required for found in failures[name]]
    if missed:
        raise InputError(
            f"{REPORT}: {len(missed)} of {len(results)} failed: {'; '.join(missed)};"
            f" export.required needs {', '.join(params.export.required)}: change that in"
            " params.yaml, or the limits of validate"
        )


def validate(
    runtime: Runtime,
    absent: str | None,
    precision: str,
    shape: str,
    exported: Exported,
    reference: parity.Reference,
    settings: Validate,
) -> dict[str, Any]:
    """Validate one model; ``skipped`` if the runtime is unavailable, with ``absent`` as reason."""
    row: dict[str, Any] = {
        "runtime": runtime.name,
        "version": runtime.version(),
        "provider": None,
        "dtypes": None,
        "layers": None,
        "precision": precision,
        "shape": shape,
        "file": exported.file(precision, shape).name,
        "status": "skipped",
        "reason": absent,
        "golden": None,
        **dict.fromkeys((*parity.OF_ANSWERS, "agreement", "images")),
        "latency": None,
    }
    if absent:
        return row
    golden, test = reference.golden_images, reference.test.images
    sizes, batch = (settings.batch_sizes, parity.BATCH) if shape == "dynamic" else ([1], 1)
    sizes = list(dict.fromkeys(min(size, len(golden)) for size in sizes))
    images = len(test) if shape == "dynamic" else min(STATIC_IMAGES, len(test))
    jobs = [*(Job(golden, size) for size in sizes), Job(test.first(images), batch)]
    try:
        execution = runtime.run(exported.file(precision, shape), jobs)
    except RuntimeFailureError as error:
        return row | outcome(str(error))
    row |= {"provider": execution.provider, "dtypes": execution.dtypes, "layers": execution.layers}
    if times := execution.times:
        gpu, wall = statistics(times.gpu_ms), statistics(times.wall_ms)
        row["latency"] = {"batch_size": 1, "gpu": gpu, "wall": wall}
    row |= parity.measurements(execution, sizes, reference, images)
    return row | outcome(", ".join(parity.breaches(row, precision, settings)) or None)


if __name__ == "__main__":
    run_stage(main)
