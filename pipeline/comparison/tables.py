"""Builds the tables of a comparison for the terminal, Markdown and the page."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.comparison.experiments import Place
from pipeline.comparison.seeds import Paired
from pipeline.comparison.variants import Comparison, Group, Variant, beaten_by
from pipeline.presets import leaves
from stages.formatting import percent, points, some_of
from stages.report_page.paper import title as title_in_paper
from stages.report_page.svg import Chart
from stages.tables import NOISY_NOTE, Cell, Table, cells, headings

_ACCURACY = (
    "Accuracy is top-1 on the test images after the last epoch, averaged over seeds. A difference"
    " is the mean over shared seeds, paired by seed, with Student’s 95 % interval: if the interval"
    " contains 0, the difference may be chance."
)
_COSTS = (
    "Each variant in the precision that its experiments recommend, batch 1. Accuracy is the"
    " exported model’s, MB are 10⁶ bytes of its file, and all values are means over seeds. A"
    " variant is beaten by those that are no worse in accuracy, size and p50, and better in at"
    " least one of them. Noisy latencies are not judged."
)
_PAPER = (
    "The paper’s accuracies are as printed. Compare gains over the baseline rather than"
    " accuracies, because a shorter schedule may lower all variants alike."
)
_PARAMETERS = "Differences between the variants’ params.yaml, except seeds."

#: The parameters that differ between the seeds of a variant.
_SEEDS = frozenset({"distill.seed", "teacher.seed", "data.fold"})


class Part(NamedTuple):
    """A table with its charts."""

    table: Table
    charts: list[Chart]


def lede(comparison: Comparison) -> str:
    """Summarise the result in one or two sentences."""
    group = comparison.groups[0]
    best, count = group.variants[0], len(group.variants)
    seeds, over = len(best.seeds), best.over_baseline
    text = (
        f"{best.name} is the most accurate of {count} variant{'s' * (count > 1)}:"
        f" {percent(best.accuracy.mean)}"
        f"{f', the mean of {seeds} seeds' if seeds > 1 else ' with one seed'}, on"
        f" {group.images.title}."
    )
    if over is None:
        return text
    between = f"95 % interval {_interval(over)}"
    if over.low is None:
        between = "a single shared seed gives no interval"
    return f"{text} That is {points(over.mean)} points over {group.baseline} ({between})."


def parts(comparison: Comparison, *, draw: bool = False) -> Iterator[Part]:
    """Yield the parts of a comparison in order; ``draw`` adds charts, which take seconds."""
    for group in comparison.groups:
        part = Part(accuracies(group), [])
        if draw:
            from pipeline.comparison import charts

            part.charts.extend(charts.over_baseline(group))
        yield part
        for place in group.places:
            part = Part(costs(group, place), [])
            if draw:
                part.charts.extend(charts.against_costs(group, place))
            yield part
        for table in (paper(group), parameters(group)):
            if table is not None:
                yield Part(table, [])


def accuracies(group: Group) -> Table:
    """Build a table with a row per variant, the most accurate first."""
    over = f"over {group.baseline or 'the baseline'}, points"
    head = ["variant", "rank", "accuracy", over, "95 % interval", "smallest to largest"]
    rows = [_accuracy(rank, variant, group) for rank, variant in enumerate(group.variants, 1)]
    notes = []
    if single := [v.name for v in group.variants if len(v.seeds) == 1]:
        notes.append(
            "A single seed gives no interval, and a second one may change the rank:"
            f" {', '.join(single)}."
        )
    for role in ("teacher", "student"):
        networks = sorted({getattr(v.first, role) for v in group.variants})
        if len(networks) > 1:
            notes.append(
                f"The variants have different {role}s ({', '.join(networks)}), so differences are"
                " not due to the method alone."
            )
    for variant in group.variants:
        if mixed := _differing([leaves(e.params) for e in variant.seeds.values()]):
            differ = f"differ in {some_of(mixed)}, not only in the seed"
            notes.append(f"The experiments of {variant.name} {differ}.")
    caption = f"Accuracy on {group.images.title}"
    return Table([*head, "seeds", "student"], rows, caption, _ACCURACY, notes)


def _accuracy(rank: int, variant: Variant, group: Group) -> list[Cell]:
    over, found = variant.over_baseline, variant.first
    mean, low, high, count = variant.accuracy
    difference: list[Cell] = [over and points(over.mean), _interval(over) if over else ""]
    if variant.name == group.baseline:
        difference = ["the baseline", ""]
    extremes = f"{percent(low)} to {percent(high)}" if count > 1 else "one seed"
    student = f"{found.student} ({found.method})"
    return [variant.name, str(rank), percent(mean), *difference, extremes, str(count), student]


def costs(group: Group, place: Place) -> Table:
    """Build a table of each variant's costs on a device, in its recommended precision."""
    keys = ("accuracy", "size_mb", "p50_ms", "p90_ms")
    head = ["variant", "precision", *headings(*keys), "beaten by"]
    beaten = beaten_by({variant.name: variant.on(place) for variant in group.variants})
    rows: list[list[Cell]] = []
    notes: list[str] = []
    for variant in group.variants:
        cost, seeds = variant.on(place), len(variant.seeds)
        if cost is None:
            rows.append([variant.name, "none is recommended"])
            continue
        agreed = "" if variant.agreed == seeds else f" ({variant.agreed} of {seeds} seeds)"
        # Name the fastest of those that beat it, and count the rest.
        first, *more = beaten.get(variant.name, ["not judged"]) or ["none"]
        if cost["noisy"]:
            notes = [NOISY_NOTE]
        verdict = f"{first} and {len(more)} more" if more else first
        precision = f"{variant.recommended}{agreed}"
        rows.append([variant.name, precision, *cells(cost, *keys), verdict])
    return Table(head, rows, f"Recommended precision on {place.title}", _COSTS, notes)


def paper(group: Group) -> Table | None:
    """Build a table of the paper's accuracies and ours; None if the paper has none of these."""
    reference = next((v.first for v in group.variants if v.name == group.baseline), None)
    over = f"over {group.baseline or 'the baseline'}"
    head = ["variant", "in the paper", "paper", "here", "difference, points"]
    rows: list[list[Cell]] = []
    differs: dict[str, list[str]] = {}
    for variant in group.variants:
        own, theirs, gain = variant.first, variant.first.in_paper, variant.over_baseline
        if own.paper is None or theirs is None:
            continue
        if own.paper["differs"]:
            differs.setdefault("; ".join(own.paper["differs"]), []).append(variant.name)
        gains: list[Cell] = ["", ""]
        if gain and reference:
            same = (own.teacher, own.student) == (reference.teacher, reference.student)
            base = reference.in_paper if same else None
            gains = ["" if base is None else points(theirs - base), points(gain.mean)]
        ours = variant.accuracy.mean
        called = title_in_paper(own.paper["method"])
        shown = [percent(theirs), percent(ours), points(ours - theirs)]
        rows.append([variant.name, called, *shown, *gains])
    head += [f"paper: {over}", f"here: {over}"]
    notes = [f"Not comparable: {', '.join(names)}: {why}." for why, names in differs.items()]
    return Table(head, rows, "Comparison with the paper", _PAPER, notes) if rows else None


def parameters(group: Group) -> Table | None:
    """Build a table of the parameters that differ between variants; None if none do."""
    found = {variant.name: leaves(variant.first.params) for variant in group.variants}
    differing = _differing(list(found.values()))
    rows = [[name, *(_value(own.get(key)) for key in differing)] for name, own in found.items()]
    head = ["variant", *differing]
    return Table(head, rows, "Parameters that differ", _PARAMETERS) if differing else None


def _differing(params: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys, except seeds, that do not have the same value everywhere."""
    keys = dict.fromkeys(key for own in params for key in own if key not in _SEEDS)
    return [key for key in keys if len({_value(own.get(key)) for own in params}) > 1]


def missing(comparison: Comparison) -> dict[str, list[str]]:
    """Return what was not measured, by reason."""
    found: dict[str, dict[str, list[str]]] = {}
    for what, name, reason in _missing(comparison):
        names = found.setdefault(reason, {}).setdefault(what, [])
        if name not in names:
            names.append(name)
    return {
        reason: [f"{what} {', '.join(names)}".strip() for what, names in lacking.items()]
        for reason, lacking in found.items()
    }


def _missing(comparison: Comparison) -> Iterator[tuple[str, str, str]]:
    """Yield what is missing, the variant or experiment, and the reason."""
    for name, reason in comparison.missing:
        yield "", name, reason
    for group in comparison.groups:
        for variant in group.variants:
            name, own = variant.name, variant.first
            if group.baseline is None:
                reason = f"{comparison.baseline} was not tested on {group.images.title}"
                yield "difference of", name, reason
            elif name != group.baseline and variant.over_baseline is None:
                yield "difference of", name, f"it shares no seed with {group.baseline}"
            for (precision, place), cost in variant.costs.items():
                if cost["accuracy"] is None:
                    yield f"accuracy in {precision} of", name, cost["untested"]
                if place is not None and cost["p50_ms"] is None:
                    yield f"latency in {precision} on {place.url} of", name, cost["untimed"]
            if own.paper is None:
                yield "the paper’s accuracy for", name, "report.paper is null"
            elif own.in_paper is None:
                method = title_in_paper(own.paper["method"])
                reason = f"the paper has none for {method}, {own.teacher} and {own.student}"
                yield "the paper’s accuracy for", name, reason


def _interval(over: Paired) -> str:
    """Format an interval in points, or state that there is none."""
    if over.low is None or over.high is None:
        return "none: one seed"
    return f"{points(over.low)} to {points(over.high)}"


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
