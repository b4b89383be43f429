"""Judge a measurement: parity with torch, and statistics of times.

Needs only Python 3.8 or newer and numpy; inlined into ``runner.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

MAX_RELATIVE_ERROR_FP32 = 1e-4
# Wide limits, which catch wrong arithmetic on a device: the export was validated on the whole test
# split, and a few golden images estimate agreement poorly. fp16 has no limit on the relative error,
# which grows with depth while the answers stay the same.
MIN_COSINE_FP16, MIN_COSINE_INT8 = 0.999, 0.95
MIN_AGREEMENT = 0.75

#: With fewer samples, fewer than five would determine the 99th percentile.
MIN_SAMPLES_P99 = 500
#: Coefficient of variation above which a measurement is called noisy.
NOISY_CV = 0.2


def compare(logits: Array, reference: Array) -> dict[str, float | None]:
    """Compare ``logits`` ``[N, K]`` with ``reference`` ``[N, K]``.

    Returns:
        ``max_relative_error`` (``max|a-b| / max|b|``), ``cosine`` (of the two arrays as vectors)
        and ``top1_agreement`` (a fraction of N); all None if a logit is not finite.
    """
    if logits.shape != reference.shape or logits.dtype.kind != "f" or not np.isfinite(logits).all():
        return {"max_relative_error": None, "cosine": None, "top1_agreement": None}
    ours, theirs = logits.astype(np.float64), reference.astype(np.float64)
    largest, norm = np.abs(theirs).max(), np.linalg.norm(ours) * np.linalg.norm(theirs)
    return {
        "max_relative_error": float(np.abs(ours - theirs).max() / (largest or 1.0)),
        "cosine": float((ours * theirs).sum() / (norm or 1.0)),
        "top1_agreement": float((ours.argmax(1) == theirs.argmax(1)).mean()),
    }


def breach(precision: str, parity: dict[str, float | None]) -> str | None:
    """Return why ``parity`` on the golden batch misses the limits of ``precision``, or None."""
    relative_error, cosine = parity["max_relative_error"], parity["cosine"]
    agreement = parity["top1_agreement"]
    if relative_error is None or cosine is None or agreement is None:
        return "logits are not finite, or their shape is not torch's"
    min_cosine = MIN_COSINE_FP16 if precision == "fp16" else MIN_COSINE_INT8
    if precision == "fp32":
        if relative_error > MAX_RELATIVE_ERROR_FP32:
            return f"relative error {relative_error:.1e} is above {MAX_RELATIVE_ERROR_FP32:.0e}"
    elif cosine < min_cosine:
        return f"cosine {cosine:.4f} is below {min_cosine}"
    elif agreement < MIN_AGREEMENT:
        return f"top-1 agreement {agreement:.3f} is below {MIN_AGREEMENT}"
    return None


def outcome(reason: str | None) -> dict[str, str | None]:
    """Return ``status`` and ``reason`` of a row."""
    return {"status": "failed" if reason else "passed", "reason": reason}


def statistics(samples: list[float]) -> dict[str, Any]:
    """Compute percentiles (linear between ranks), mean and coefficient of variation, in ms."""
    times = np.asarray(samples)
    p50, p90, p99 = (round(float(q), 4) for q in np.percentile(times, [50, 90, 99]))
    return {
        "n": len(samples),
        "min_ms": round(float(times.min()), 4),
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99 if len(samples) >= MIN_SAMPLES_P99 else None,
        "mean_ms": round(float(times.mean()), 4),
        "cv": round(float(times.std() / times.mean()), 4),
    }
