"""Tables of results, for the terminal, Prefect, the model card and the report page.

Their contents come from ``reports/summary.json`` and the other reports.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stages.formatting import count, drop, interval, millions, percent, points, significant, times

Record = dict[str, Any]
#: None means not measured.
Cell = str | None

#: What the summary calls latencies that the chain did not measure; they must not change the bundle.
BY_HAND = "latency by `ackd profile`"
#: Marks a latency that was measured on a noisy machine.
NOISY = " *"
NOISY_NOTE = "* The machine was noisy (coefficient of variation above 0.2) or throttled by heat."

_NON_COMMERCIAL = re.compile(r"\bnc\b|non-?commercial|research", re.IGNORECASE)
_FIGURE = re.compile(r"[+−]?\d")


class Table(NamedTuple):
    """A table's contents, independent of its rendering."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    """With as many cells as ``head``; the last cell of a shorter row spans the rest."""
    caption: str = ""
    reading: str = ""  # what the columns mean; not shown on a terminal
    notes: Sequence[str] = ()  # remarks on these rows, a sentence each

    def numeric(self) -> list[bool]:
        """Return which columns hold numbers and are right-aligned; the first never is."""
        rows = self.texts("")
        figures = [
            any(_FIGURE.match(row[place]) for row in rows) for place in range(len(self.head))
        ]
        return [False, *figures[1:]]

    def below(self) -> list[str]:
        """Return the texts below the rows."""
        return [text for text in (self.reading, *self.notes) if text]

    def texts(self, not_measured: str) -> list[list[str]]:
        """Return the rows, all of full length."""
        filled = [[*row, *[""] * (len(self.head) - len(row))] for row in self.rows]
        return [[not_measured if cell is None else cell for cell in row] for row in filled]


#: Heading and format of each key in a report's records.
_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "network": ("network", str),
    "status": ("status", str),
    "verdict": ("verdict", str),
    "accuracy": ("accuracy", percent),
    "top5_accuracy": ("top\u20115 accuracy", percent),
    "balanced_accuracy": ("balanced accuracy", percent),
    "drop": ("drop, points", str),
    "parameters": ("parameters", count),
    "macs": ("MACs", millions),
    "size_mb": ("size, MB", significant),
    "max_relative_error": ("parity", significant),
    "cosine": ("cosine", "{:.5f}".format),
    "top1_agreement": ("golden top\u20111", percent),
    "agreement": ("agreement", percent),
    "calibration_error": ("ECE", percent),
    "images": ("images", count),
    "threads": ("threads", count),
    "n": ("runs", count),
    "min_ms": ("min, ms", significant),
    "p50_ms": ("p50, ms", significant),
    "p90_ms": ("p90, ms", significant),
    "p99_ms": ("p99, ms", significant),
    "mean_ms": ("mean, ms", significant),
    "cv": ("variation", percent),
    "first_ms": ("first run, ms", significant),
    "init_ms": ("session start, ms", significant),
    "peak_rss_mb": ("peak memory, MB", significant),
    "speedup": ("speed, × fp32", significant),
}


def headings(*keys: str) -> list[str]:
    return [_COLUMNS[key][0] for key in keys]


def cells(record: Record, *keys: str) -> list[Cell]:
    """Format the values under ``keys``; a ``noisy`` p90 gets a mark."""
    found: list[Cell] = []
    for key in keys:
        value = record[key]
        text = None if value is None else _COLUMNS[key][1](value)
        found.append(f"{text}{NOISY}" if text and key == "p90_ms" and record.get("noisy") else text)
    return found


def of_records(
    caption: str,
    names: Sequence[str],
    records: Iterable[tuple[Sequence[str], Record]],
    keys: Sequence[str],
    reading: str = "",
    notes: Sequence[str] = (),
) -> Table:
    """Build a table with a row per record: its names, then its values under ``keys``."""
    found = list(records)
    rows = [[*called, *cells(record, *keys)] for called, record in found]
    noisy = "p90_ms" in keys and any(record["noisy"] for _, record in found)
    below = [*notes, NOISY_NOTE] if noisy else notes
    return Table([*names, *headings(*keys)], rows, caption, reading, below)


def of_latencies(
    caption: str,
    names: Sequence[str],
    records: Iterable[tuple[Sequence[str], Record]],
    keys: Sequence[str],
) -> Table:
    """As :func:`of_records`, with the status of each measurement and why a measured one failed."""
    found = list(records)
    failed = [item for item in found if item[1]["reason"] and item[1]["p50_ms"] is not None]
    notes = [f"{called[-1]}: {row['reason']}." for called, row in failed]
    return of_records(caption, names, found, ["status", *keys], notes=[*dict.fromkeys(notes)])


def networks(summary: Record) -> Table:
    """Compare teacher, proxy (if it is another network) and student."""
    teacher, student = summary["teacher"], summary["student"]
    keys = ("network", "accuracy", "parameters", "macs", "size_mb")
    origins = [
        f"The {name} starts from {weights['source']} ({weights['licence'] or 'no licence stated'})"
        f"{', for non-commercial use only' if is_non_commercial(weights) else ''}."
        for name in ("teacher", "student")
        if (weights := summary[name]["weights"])
    ]
    shown = of_records(
        "Teacher and student",
        [""],
        (
            ([name], summary[name])
            for name in ("teacher", "proxy", "student")
            if name != "proxy" or summary["proxy"]["method"] != "teacher"
        ),
        keys,
        f"Accuracy is top-1 on the {summary['data']['test']} test images; MACs are multiply-adds"
        f" for one image of {summary['data']['image_size']}×{summary['data']['image_size']} pixels;"
        " size is that of the weights in fp32 (1 MB = 10⁶ bytes).",
        origins,
    )
    ratios = [times(teacher[key] / student[key]) for key in keys[2:]]
    lost = f"{points(summary['drop_from_teacher'])} points"
    return shown._replace(rows=[*shown.rows, ["teacher / student", "", lost, *ratios]])


_SCORES = {
    "accuracy": "top\u20111 accuracy",
    "top5_accuracy": "top\u20115 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
}


def scores(summary: Record) -> Table:
    """Compare accuracies of teacher and student; the balanced one only if it differs."""
    found = [summary["scores"][name] for name in ("teacher", "student")]
    rows = []
    for key, name in _SCORES.items():
        values = [network[key] for network in found]
        if None in values:
            continue
        same = all(interval(one[key]) == interval(one["accuracy"]) for one in found)
        if key != "balanced_accuracy" or not same:
            rows.append([name, *map(interval, values)])
    return Table(
        ["", "teacher", "student"],
        rows,
        "Accuracy, with 95 % intervals",
        "Balanced accuracy and macro F1 are means over classes; balanced accuracy is shown only if"
        " it differs from top-1 accuracy.",
    )


def exports(summary: Record, packaged: Iterable[str] | None = None) -> Table:
    """Compare the exports for onnxruntime; ``packaged`` are the precisions to show, or None."""
    every = summary["exports"]
    found: Mapping[str, Record] = every if packaged is None else {p: every[p] for p in packaged}
    device = next(iter(summary["devices"].values()))
    reading = (
        "Drop is the accuracy lost against torch, with its paired 95 % interval on the test images."
        " Parity is the largest relative difference from torch’s logits on the golden batch;"
        " agreement is the fraction of test images with torch’s prediction. Latency is for one"
        f" image, with the static model and one thread on {processor(device)}"
        f" ({device['system']}, {device['runtime']}); speed is relative to fp32’s median there."
    )
    if any(export["dominated_by"] for export in found.values()):
        reading += (
            " A dominated export is no better than the named ones in accuracy, size and median"
            " latency, and worse in at least one of these; on another device it may be faster."
        )
    choice = summary["recommended"]
    notes = [
        f"Recommended on this device: {choice['precision']}, {choice['reason']}."
        if choice
        else "No export is recommended: none has accuracy, size and latency measured."
    ]
    notes += [f"{name}: {export['reason']}." for name, export in found.items() if export["reason"]]
    notes += [
        f"{name} keeps sensitive layers in float: {', '.join(export['in_float'])}."
        for name, export in found.items()
        if export["in_float"]
    ]
    rows = []
    for name, export in found.items():
        others = export["dominated_by"]
        verdict = f"dominated by {', '.join(others)}" if others else ""
        if choice and choice["precision"] == name:
            verdict = "recommended"
        shown = {"drop": drop(export), "verdict": verdict}
        rows.append(([name], export | shown))
    keys = ["status", "verdict", "accuracy", "drop", "size_mb", "p50_ms", "p90_ms", "speedup"]
    keys += ["max_relative_error", "agreement"]
    return of_records(
        "The student’s exports, in onnxruntime", ["precision"], rows, keys, reading, notes
    )


def litert(summary: Record) -> Table | None:
    """Compare the exports for LiteRT; None if LiteRT is off."""
    if summary["litert"] is None:
        return None
    found = summary["litert"]["exports"]
    keys = ["status", "accuracy", "drop", "size_mb", "p50_ms", "p90_ms", "speedup"]
    notes = [f"{n} in LiteRT: {one['reason']}." for n, one in found.items() if one["reason"]]
    return of_records(
        "The student in LiteRT, on the machine that ran the chain",
        ["precision"],
        (([name], export | {"drop": drop(export)}) for name, export in found.items()),
        [*keys, "max_relative_error", "agreement"],
        "Latency is for one image at one thread; speed is relative to the median of onnxruntime’s"
        " fp32 on the same machine, if measured. These files are in artifacts/litert, not in the"
        " bundle.",
        notes,
    )


def is_non_commercial(weights: Record) -> bool:
    """Return whether the licence that their publisher states forbids commercial use."""
    return bool(_NON_COMMERCIAL.search(weights["licence"] or ""))


def processor(device: Record) -> str:
    """Return the processor of a device in ``reports/summary.json``."""
    return str(device["cpu"] or f"an unknown {device['machine']} CPU")
