"""What a comparison shows, section by section, for a terminal, Markdown and the page alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pipeline.comparison.seeds import Paired, Spread
from pipeline.comparison.variants import (
    Comparison,
    Group,
    Place,
    Precision,
    Variant,
    beaten_by,
    differing,
    results_of,
)
from stages.formatting import percent, points, significant
from stages.report_page.paper import title as title_in_paper
from stages.report_page.svg import Chart
from stages.tables import NOISY, NOISY_NOTE, Cell, Table

_ACCURACY = (
    "Accuracy is top-1 on the test images after the last epoch, the mean over the seeds. A"
    " difference is the mean over the seeds that both have, seed by seed, with Student’s 95 %"
    " interval: one that has 0 in it may be chance."
)
_TRADE_OFF = (
    "Each variant in the precision that its experiments recommend, batch 1; accuracy is the"
    " exported model’s, MB are 10⁶ bytes of its file, and all are means over the seeds. A variant"
    " is beaten by those that are no worse in accuracy, size and p50, and better in one of them at"
    " least; a noisy latency is not judged."
)
_PRECISIONS = (
    "Every export of every variant; in brackets stand the smallest and the largest of the seeds."
)
_PAPER = (
    "The paper’s accuracies are as printed. Its gains over the baseline say more than its heights,"
    " as a shorter schedule may lower all variants alike."
)
_PARAMETERS = "Where the variants’ params.yaml differ, but for the seeds."
_EXPERIMENTS = (
    "Every experiment that the tables are made of; dvc exp apply NAME gets it into the workspace."
)


class Part(NamedTuple):
    """A table with its charts.

    Attributes:
        folded: whether the page opens the table on request.
    """

    table: Table
    charts: Sequence[Chart] = ()
    folded: bool = False


def title(comparison: Comparison) -> str:
    if comparison.sweep is not None:
        return f"Sweep {comparison.sweep}"
    return "Experiments compared"


def lede(comparison: Comparison) -> str:
    """The result in one or two sentences."""
    group = comparison.groups[0]
    best, count = group.variants[0], len(group.variants)
    seeds = best.accuracy.seeds
    text = (
        f"{best.name} is the most accurate of {count} variant{'s' * (count > 1)}:"
        f" {percent(best.accuracy.mean)}"
        f"{f', the mean of {seeds} seeds' if seeds > 1 else ' with one seed'}, on"
        f" {group.images.title}."
    )
    if best.over_baseline is not None:
        over = best.over_baseline
        between = ", with one seed in both, which gives no interval"
        if over.low is not None:
            between = f" (95 % interval {_interval(over)})"
        text += f" That is {points(over.mean)} points over {group.baseline}{between}."
    return text


def parts(comparison: Comparison, *, draw: bool = False) -> Iterator[Part]:
    """All of a comparison, in order; with ``draw`` also its charts, which take seconds."""
    for number, group in enumerate(comparison.groups, 1):
        yield Part(accuracies(group), _charts(group, number, None) if draw else ())
        for place in group.places:
            yield Part(trade_off(group, place), _charts(group, number, place) if draw else ())
            yield Part(precisions(group, place), folded=True)
        yield from map(Part, filter(None, (paper(group), parameters(group))))
    yield Part(experiments(comparison), folded=True)


def _charts(group: Group, number: int, place: Place | None) -> Sequence[Chart]:
    from pipeline.comparison import charts

    if place is not None:
        name = f"costs-{number}-{group.places.index(place)}"
        return charts.accuracy_against_costs(group, place, name)
    over = charts.over_baseline(group, f"differences-{number}")
    return [over] if over else []


def accuracies(group: Group) -> Table:
    """A row for each variant, the most accurate first."""
    rows: list[list[Cell]] = []
    against = f"over {group.baseline}, points" if group.baseline else "over the baseline"
    head = ["variant", "rank", "accuracy", against, "95 % interval", "smallest to largest"]
    head += ["seeds", "student"]
    for rank, variant in enumerate(group.variants, 1):
        student = variant.results.student
        mean, low, high, count = variant.accuracy
        rows.append(
            [
                variant.name,
                str(rank),
                percent(mean),
                *_difference(variant, group),
                f"{percent(low)} to {percent(high)}" if count > 1 else "one seed",
                str(count),
                f"{student.network} ({student.method})",
            ]
        )
    return Table(head, rows, f"Accuracy on {group.images.title}", _ACCURACY, _notes(group))


def trade_off(group: Group, place: Place) -> Table:
    """What each variant costs on a device, in the precision that it recommends."""
    head = ["variant", "precision", "accuracy", "MB", "p50, ms", "p90, ms", "beaten by"]
    beaten = beaten_by(group, place)
    rows: list[list[Cell]] = []
    for variant in group.variants:
        if (precision := variant.taken) is None:
            rows.append([variant.name, "none is recommended"])
            continue
        seeds = len(variant.experiments)
        agreed = "" if variant.agreed == seeds else f" ({variant.agreed} of {seeds} seeds)"
        cells = _costs(precision, place, lambda figure: significant(figure.mean))
        name = f"{variant.recommended}{agreed}"
        rows.append([variant.name, name, *cells, _verdict(variant, beaten)])
    caption = f"Recommended precision on {place.title}"
    return Table(head, rows, caption, _TRADE_OFF, _notes_on(group, place))


def precisions(group: Group, place: Place) -> Table:
    """Every precision of every variant on a device."""
    head = ["variant", "precision", "accuracy", "MB", "p50, ms", "p90, ms", "seeds that failed"]
    rows = [
        [variant.name, name, *_costs(precision, place, _range), str(precision.failed)]
        for variant in group.variants
        for name, precision in variant.precisions.items()
    ]
    return Table(head, rows, f"Every precision on {place.title}", _PRECISIONS)


def paper(group: Group) -> Table | None:
    """The paper's accuracies beside these; None where it has none for any of these variants."""
    reference = group.reference
    base = None if reference is None else _in_paper(reference)
    over = f"over {group.baseline}" if group.baseline else "over the baseline"
    head = ["variant", "in the paper", "paper", "here", "difference, points"]
    head += [f"paper: {over}", f"here: {over}"]
    rows = []
    differs: dict[str, list[str]] = {}
    for variant in group.variants:
        theirs, found = _in_paper(variant), variant.results.paper
        if theirs is None or found is None:
            continue
        ours = variant.accuracy.mean
        same = reference is not None and _pair(variant) == _pair(reference)
        gain = variant.over_baseline
        if found.differs:
            differs.setdefault("; ".join(found.differs), []).append(variant.name)
        rows.append(
            [
                variant.name,
                title_in_paper(found.method),
                percent(theirs),
                percent(ours),
                points(ours - theirs),
                points(theirs - base) if same and base is not None and gain else "",
                points(gain.mean) if gain else "",
            ]
        )
    notes = [f"Not comparable: {', '.join(names)}: {why}." for why, names in differs.items()]
    return Table(head, rows, "The paper’s accuracies beside these", _PAPER, notes) if rows else None


def parameters(group: Group) -> Table | None:
    """What the variants differ in; None where in nothing."""
    found = differing(group)
    if not found:
        return None
    rows = [
        [variant.name, *(_value(values[place]) for values in found.values())]
        for place, variant in enumerate(group.variants)
    ]
    return Table(["variant", *found], rows, "Parameters that differ", _PARAMETERS)


def experiments(comparison: Comparison) -> Table:
    """Every experiment that was taken, with its own accuracy."""
    rows = [
        [
            experiment.name,
            experiment.revision[:7] if experiment.revision else "",
            str(seed),
            percent(results_of(experiment).student.accuracy),
        ]
        for group in comparison.groups
        for variant in group.variants
        for seed, experiment in variant.experiments.items()
    ]
    head = ["experiment", "revision", "seed", "accuracy"]
    return Table(head, rows, "Experiments", _EXPERIMENTS)


def missing(comparison: Comparison) -> dict[str, list[str]]:
    """What lacks, by its reason."""
    names: dict[tuple[str, str], dict[str, None]] = {}
    for what, name, reason in _missing(comparison):
        names.setdefault((reason, what), {})[name] = None
    found: dict[str, list[str]] = {}
    for (reason, what), of in names.items():
        found.setdefault(reason, []).append(f"{what} {', '.join(of)}".strip())
    return found


def _notes(group: Group) -> list[str]:
    """Sentences that keep a reader from a wrong conclusion."""
    found = []
    single = [v.name for v in group.variants if len(v.experiments) == 1]
    if single:
        found.append(
            "One seed gives no interval, and a second one may change the rank:"
            f" {', '.join(single)}."
        )
    for name in ("teacher", "student"):
        networks = sorted({getattr(v.results, name).network for v in group.variants})
        if len(networks) > 1:
            found.append(
                f"The variants have different {name}s ({', '.join(networks)}): a difference is that"
                " of the whole, not of the method alone."
            )
    return found


def _notes_on(group: Group, place: Place) -> list[str]:
    precisions = [(name, p) for v in group.variants for name, p in v.precisions.items()]
    timed = [(name, p.latencies[place]) for name, p in precisions if place in p.latencies]
    # Precisions that are there for another runtime are called after it.
    pairs = {(name, runtime) for name, latency in timed for runtime in latency.runtimes}
    runtimes = sorted({r for name, r in pairs if sum(n == name for n, _ in pairs) > 1})
    found = [NOISY_NOTE] if any(latency.noisy for _, latency in timed) else []
    if runtimes:
        found.append(
            f"They ran in {' and '.join(runtimes)}: a difference in latency may be the runtime’s."
        )
    return found


def _missing(comparison: Comparison) -> Iterator[tuple[str, str, str]]:
    """What, of which variant or experiment, and why."""
    for experiment in comparison.left_out:
        yield "", experiment.name, experiment.reason or ""
    for group in comparison.groups:
        for variant in group.variants:
            yield from _missing_of(variant, group, comparison.baseline)


def _missing_of(variant: Variant, group: Group, baseline: str) -> Iterator[tuple[str, str, str]]:
    name = variant.name
    if group.baseline is None:
        reason = f"{baseline} was not tested on {group.images.title}"
        yield "difference of", name, reason
    elif name != group.baseline and variant.over_baseline is None:
        yield "difference of", name, f"no seed is also one of {group.baseline}"
    for precision, found in variant.precisions.items():
        if found.accuracy is None:
            yield f"accuracy in {precision} of", name, found.reason
        for place in group.places:
            if place not in found.latencies:
                reason = found.reasons.get(place, f"not measured on {place.title}")
                yield f"latency in {precision} on {place.url} of", name, reason
    own = variant.results.paper
    if own is None:
        yield "the paper’s figure for", name, "report.paper is null"
    elif _in_paper(variant) is None:
        teacher, student = _pair(variant)
        method = title_in_paper(own.method)
        reason = f"the paper has none for {method}, {teacher} and {student}"
        yield "the paper’s figure for", name, reason


def _difference(variant: Variant, group: Group) -> list[Cell]:
    if variant.name == group.baseline:
        return ["the baseline", ""]
    over = variant.over_baseline
    return [None, ""] if over is None else [points(over.mean), _interval(over)]


def _interval(over: Paired) -> str:
    """In points, or that there is none."""
    if over.low is None or over.high is None:
        return "none: one seed"
    return f"{points(over.low)} to {points(over.high)}"


def _verdict(variant: Variant, beaten: Mapping[str, Sequence[str]]) -> str:
    """By whom it is beaten: the quickest, and how many more."""
    if variant.name not in beaten:
        return "not judged"
    first, *more = beaten[variant.name] or ["none"]
    return f"{first} and {len(more)} more" if more else first


def _costs(precision: Precision, place: Place, form: Callable[[Spread], str]) -> list[Cell]:
    accuracy, size = precision.accuracy, precision.size_mb
    cells = [accuracy and percent(accuracy.mean), size and significant(size.mean)]
    latency = precision.latencies.get(place)
    if latency is None:
        return [*cells, None, None]
    mark = NOISY if latency.noisy else ""
    return [*cells, *(f"{form(figure)}{mark}" for figure in (latency.p50_ms, latency.p90_ms))]


def _range(figure: Spread) -> str:
    """The mean, and what it lies between where that is not the same."""
    shown, low, high = (significant(value) for value in figure[:3])
    return shown if low == high else f"{shown} ({low} to {high})"


def _in_paper(variant: Variant) -> float | None:
    own = variant.results.paper
    return None if own is None else own.accuracies.get(own.method)


def _pair(variant: Variant) -> tuple[str, str]:
    return variant.results.teacher.network, variant.results.student.network


def _value(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return str(value)
