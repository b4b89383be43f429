"""From what was measured, round by round, to rates, shares and ratios."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from benchmarks.measure import BATCH_SIZE
from benchmarks.rows import LIMITS, Row
from benchmarks.worker import Measured
from stages.identify_device import identify

Rounds = Mapping[str, Sequence[Measured]]
"""What was measured, by the rows' keys."""


def summarize(samples: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples)}


def rates(rounds: Sequence[Measured]) -> list[float]:
    """Amount a second of each round: images, or floating-point operations."""
    return [measured["amount"] / measured["seconds"] for measured in rounds]


def waits(rounds: Sequence[Measured]) -> list[float]:
    """The share of each round in which the loop waited for its next batch."""
    return [measured["waited_seconds"] / measured["seconds"] for measured in rounds]


def quotients(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Round by round, so that a slow moment of the machine is in both."""
    return [x / y for x, y in zip(a, b, strict=True)]


def repdistiller_rates(measured: Rounds) -> list[float]:
    """Of that of its rows which has the best median."""
    found = [rates(rounds) for key, rounds in measured.items() if key.startswith("repdistiller_")]
    return max(found, key=statistics.median)


def ratios(
    measured: Rounds, macs: Mapping[str, float], suffix: str = ""
) -> dict[str, dict[str, float] | None]:
    """The figures that have a target; None for what was not measured.

    Args:
        measured: of all rows.
        macs: multiply-adds of an image in a step without the teacher, by method.
        suffix: of our contenders' keys, for those that are compiled.
    """
    live, warm, ackd = (measured[f"{key}{suffix}"] for key in ("kd_live", "kd_warm", "ackd_warm"))
    reference, other = repdistiller_rates(measured), measured.get("torchdistill")
    predicted = macs["ackd"] / macs["kd"]
    cost = [quotient / predicted for quotient in quotients(rates(warm), rates(ackd))]
    against_other = None if other is None else summarize(quotients(rates(live), rates(other)))
    return {
        "kd_live_vs_repdistiller": summarize(quotients(rates(live), reference)),
        "kd_warm_store_vs_repdistiller": summarize(quotients(rates(warm), reference)),
        "kd_live_vs_torchdistill": against_other,
        "ackd_cost_vs_macs": summarize(cost),
        # Of the shortest step, which is where it weighs most.
        "feed_share": summarize(waits(warm)),
    }


def summarize_pair(
    facts: Mapping[str, Any],
    rows: Mapping[str, Row],
    measured: Rounds,
    warm_up: Mapping[str, float],
) -> dict[str, Any]:
    """A pair's part of the results.

    Args:
        facts: what ``benchmarks.networks.write_pair`` says.
        rows: our own and the peers'; one that was not measured is given with the reason.
        measured: round by round, the limits as well.
        warm_up: seconds beyond the steps of the warm-up, which for compiled rows is compilation.
    """
    macs = facts["macs"]
    limits = {name: rates(measured[f"limit_{name}"]) for name in LIMITS}
    reference = repdistiller_rates(measured)
    summaries: dict[str, Any] = {}
    for key, row in rows.items():
        if row.reason is not None:
            summaries[key] = {"title": row.title, "reason": row.reason}
            continue
        precision = facts["precision"] if row.ours else "fp32"
        cost = macs[row.method] + (macs["teacher"] if row.teacher else 0)
        images = rates(measured[key])
        operations = [2 * cost * rate for rate in images]
        summaries[key] = {
            "title": row.title,
            "precision": precision,
            "macs_per_image": cost,
            "images_per_second": summarize(images),
            "ratio_to_repdistiller": summarize(quotients(images, reference)),
            "share_of_limit": summarize(quotients(operations, limits[precision])),
            "feed_share": summarize(waits(measured[key])),
            "peak_memory_mb": max(round_["peak_memory_mb"] for round_ in measured[key]),
            "compile_seconds": warm_up[key] if row.compiled else None,
            "steps_per_round": measured[key][0]["steps"],
            "samples_images_per_second": images,
        }
    gigaflops = {name: [sample / 1e9 for sample in samples] for name, samples in limits.items()}
    return {
        "macs": macs,
        "limit_gflops": {name: summarize(samples) for name, samples in gigaflops.items()},
        "rows": summaries,
        "ratios": ratios(measured, macs),
        "ratios_compiled": ratios(measured, macs, "_compiled"),
    }


def describe(rounds: int) -> dict[str, Any]:
    """``date``, ``n`` and ``machine``, with which every file of results begins."""
    device = identify()
    machine = {key: device[key] for key in ("cpu", "cores", "memory_gb", "system", "python")}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"date": date, "n": rounds, "machine": machine}


def collect(pairs: Mapping[str, Any], facts: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """The whole of the JSON file.

    Its ``ratios`` are medians, by name and then by pair; the spreads stand under ``pairs``.
    """
    run = describe(rounds)
    run["machine"] |= {"fast_bf16": facts["precision"] == "bf16", "torch": facts["torch"]}
    return run | {
        "batch_size": BATCH_SIZE,
        "ratios": _medians(pairs, "ratios"),
        "ratios_compiled": _medians(pairs, "ratios_compiled"),
        "pairs": dict(pairs),
    }


def _medians(pairs: Mapping[str, Any], kind: str) -> dict[str, dict[str, float | None]]:
    medians: dict[str, dict[str, float | None]] = {}
    for pair, content in pairs.items():
        for name, spread in content[kind].items():
            medians.setdefault(name, {})[pair] = None if spread is None else spread["median"]
    return medians
