"""Compare a runtime's outputs with torch's, on the golden batch and on test images."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import InputError
from models.networks.checkpoint import load_network
from stages.analysis.calibration import calibration, confidence
from stages.analysis.intervals import gain
from stages.analysis.scores import TOP5, balanced_accuracy, ranks
from stages.data.arrays import Images, load_data
from stages.devices.rules import breach, compare
from stages.files import sha256
from stages.progress import track
from stages.runtimes.base import Execution, Job
from stages.runtimes.exported import Exported
from stages.runtimes.torch_runtime import DeployedNetwork, run_torch
from stages.sections.export import Validate

STUDENT = Path("artifacts/student/model.safetensors")

#: None if a logit is not finite.
OF_ANSWERS = (
    *("accuracy", "top5_accuracy", "balanced_accuracy"),
    *("drop", "drop_low", "drop_high", "calibration_error"),
)
#: Batch size for dynamic models.
BATCH = 128


@dataclass(frozen=True)
class Reference:
    """The reference for runtimes: torch's logits on the test split and the golden batch."""

    test: Images
    test_logits: npt.NDArray[np.float32]  # [N, K]
    golden_images: npt.NDArray[np.uint8]  # [G, H, W, 3]
    golden_logits: npt.NDArray[np.float32]  # [G, K]


def read_reference(exported: Exported, stage: str) -> Reference:
    """Compute torch's outputs; raises InputError if another student was exported."""
    if sha256(STUDENT) != exported.description["student_sha256"]:
        raise InputError(f"{STUDENT}: not the exported student; run `dvc repro export_onnx`")
    golden_images, golden_logits = exported.golden_batch()
    data = load_data()
    network = DeployedNetwork(load_network(STUDENT), data.mean, data.std).eval()
    test = data.split("test")
    parts = [
        run_torch(network, Job(test.images[start : start + BATCH], BATCH))
        for start in track(range(0, len(test), BATCH), f"{stage} torch")
    ]
    return Reference(test, np.concatenate(parts), golden_images, golden_logits)


def measurements(
    execution: Execution, batch_sizes: list[int], reference: Reference, images: int
) -> dict[str, Any]:
    """Compute ``golden``, ``images``, ``agreement`` and :data:`OF_ANSWERS` of a report's row.

    Args:
        execution: of the golden batch at each of ``batch_sizes``, of which the worst counts, then
            of the first ``images`` of the test split.
    """
    *golden, logits = execution.logits
    parities = [compare(found, reference.golden_logits) for found in golden]
    theirs = reference.test_logits[:images]
    whole = compare(logits, theirs)
    row: dict[str, Any] = {"images": images, "agreement": whole["top1_agreement"]}
    row |= dict.fromkeys(OF_ANSWERS)
    if row["agreement"] is not None:
        labels = reference.test.labels[:images]
        row["accuracy"] = accuracy(logits, labels)
        right = logits.argmax(1) == labels
        row["balanced_accuracy"] = balanced_accuracy(right, labels)
        if logits.shape[1] > TOP5:
            row["top5_accuracy"] = float((ranks(logits, labels) < TOP5).mean())
        lost = gain(theirs.argmax(1) == labels, right, paired=True)
        row |= {"drop": lost.gain, "drop_low": lost.low, "drop_high": lost.high}
        row["calibration_error"] = calibration(confidence(logits), right)["error"]
    worst: dict[str, Any] = {}
    for key, choose in (("max_relative_error", max), ("cosine", min), ("top1_agreement", min)):
        values: list[Any] = [parity[key] for parity in parities]
        worst[key] = None if None in values else choose(values)
    row["golden"] = {**worst, "batch_sizes": batch_sizes}
    return row


def breaches(row: dict[str, Any], precision: str, settings: Validate) -> Iterator[str]:
    """Yield the limits that ``row`` misses for its precision."""
    error, agreement = row["golden"]["max_relative_error"], row["agreement"]
    if error is None or agreement is None:
        yield "logits are not finite, or their shape is not torch's"
        return
    if precision == "fp32":
        if error > (limit := settings.max_relative_error_fp32):
            yield f"relative error {error:.1e} is above {limit:.1e}"
        return
    limit = settings.min_agreement_fp16 if precision == "fp16" else settings.min_agreement_int8
    if agreement < limit:
        yield f"agreement with torch {agreement:.3f} is below {limit}"
    elif reason := breach(precision, row["golden"]):
        yield f"{reason} on the golden batch, so devices would refuse it"


def accuracy(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Return the fraction of ``logits`` ``[N, K]`` whose maximum is at the label."""
    return float((logits.argmax(1) == labels).mean())
