"""The tables of a comparison, the same on a terminal, in Markdown and on the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from pipeline.comparison.experiments import Experiment
from pipeline.comparison.variants import (
    Comparison,
    Group,
    Latency,
    Place,
    Precision,
    Variant,
    beaten_by,
    differing,
    figures_of,
)
from stages.analysis.seeds import Paired, Spread
from stages.formatting import percent, points, significant
from stages.report_page.paper import title
from stages.tables import Table

NOT_MEASURED = "not measured"
#: Behind a latency of which no seed was measured while the machine was quiet.
NOISY = "*"


def accuracies(group: Group) -> Table:
    """A row for each variant, the most accurate first."""
    against = f"over {group.baseline}, points" if group.baseline else "over the baseline"
    head = ["variant", "rank", "accuracy", against, "95 % interval", "smallest to largest"]
    head += ["seeds", "student"]
    rows = []
    for rank, variant in enumerate(group.variants, 1):
        student = variant.figures.student
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
    return Table(head, rows, "Accuracy over the seeds")


def trade_off(group: Group, place: Place) -> Table:
    """What each variant costs on a device, in the precision that it recommends."""
    head = ["variant", "precision", "accuracy", "MB", "p50, ms", "p90, ms", "beaten by"]
    beaten = beaten_by(group, place)
    rows = []
    for variant in group.variants:
        name = variant.recommended
        precision = variant.precisions.get(name or "")
        if name is None or precision is None:
            rows.append([variant.name, "none is recommended"])
            continue
        seeds = len(variant.experiments)
        agreed = "" if variant.agreed == seeds else f" ({variant.agreed} of {seeds} seeds)"
        cells = _costs(precision, place, _mean)
        rows.append([variant.name, f"{name}{agreed}", *cells, _verdict(variant, beaten)])
    return Table(head, rows, f"Recommended precision on {place.title}")


def precisions(group: Group, place: Place) -> Table:
    """Every precision of every variant on a device."""
    head = ["variant", "precision", "accuracy", "MB", "p50, ms", "p90, ms", "seeds that failed"]
    rows = [
        [variant.name, name, *_costs(precision, place, _range), str(precision.failed)]
        for variant in group.variants
        for name, precision in variant.precisions.items()
    ]
    return Table(head, rows, f"Every precision on {place.title}")


def paper(group: Group) -> Table | None:
    """The paper's accuracies beside these; None where it has none for any of these variants."""
    reference = group.reference
    base = None if reference is None else _in_paper(reference)
    over = f"over {group.baseline}" if group.baseline else "over the baseline"
    head = ["variant", "in the paper", "paper", "here", "difference, points"]
    head += [f"paper: {over}", f"here: {over}"]
    rows = []
    for variant in group.variants:
        theirs = _in_paper(variant)
        if theirs is None:
            continue
        ours, found = variant.accuracy.mean, variant.figures.paper
        assert found is not None
        same = reference is not None and _pair(variant) == _pair(reference)
        gain = variant.over_baseline
        rows.append(
            [
                variant.name,
                title(found.method),
                percent(theirs),
                percent(ours),
                points(ours - theirs),
                points(theirs - base) if same and base is not None and gain else "",
                points(gain.mean) if gain else "",
            ]
        )
    return Table(head, rows, "The paper’s accuracies beside these") if rows else None


def not_comparable_with_paper(group: Group) -> dict[str, list[str]]:
    """Variants by what keeps them from being compared with the paper."""
    found: dict[str, list[str]] = {}
    for variant in group.variants:
        told = variant.figures.paper
        if told is not None and told.differs and _in_paper(variant) is not None:
            found.setdefault("; ".join(told.differs), []).append(variant.name)
    return found


def parameters(group: Group) -> Table | None:
    """What the variants differ in; None where in nothing."""
    found = differing(group)
    if not found:
        return None
    rows = [
        [variant.name, *(_value(values[place]) for values in found.values())]
        for place, variant in enumerate(group.variants)
    ]
    return Table(["variant", *found], rows, "Parameters that differ")


def experiments(comparison: Comparison) -> Table:
    """Every experiment that was taken, with its own accuracy."""
    head = ["experiment", "revision", "seed", "accuracy"]
    rows = [
        [
            experiment.name,
            experiment.revision[:7] if experiment.revision else "",
            str(seed),
            percent(figures_of(experiment).student.accuracy),
        ]
        for group in comparison.groups
        for variant in group.variants
        for seed, experiment in variant.experiments.items()
    ]
    return Table(head, rows, "Experiments")


def missing(comparison: Comparison) -> dict[str, list[str]]:
    """What lacks, by its reason."""
    names: dict[tuple[str, str], list[str]] = {}
    for what, name, reason in _missing(comparison):
        of = names.setdefault((reason, what), [])
        if name not in of:
            of.append(name)
    found: dict[str, list[str]] = {}
    for (reason, what), of in names.items():
        found.setdefault(reason, []).append(f"{what} {', '.join(of)}".strip())
    return found


def notes(comparison: Comparison) -> list[str]:
    """Sentences that keep a reader from a wrong conclusion."""
    found = []
    if len(comparison.groups) > 1:
        found.append(
            "The experiments were tested on different images; each set has tables of its own, and"
            " accuracies are not compared across them."
        )
    for group in comparison.groups:
        found += _notes(group)
    return list(dict.fromkeys(found))


def _notes(group: Group) -> Iterator[str]:
    single = [v.name for v in group.variants if len(v.experiments) == 1]
    if single:
        yield (
            "One seed gives no interval, and a second one may change the rank:"
            f" {', '.join(single)}."
        )
    if len(group.places) > 1:
        yield (
            "Latencies were measured on different devices; each has a table of its own, and none is"
            " ranked against those of another."
        )
    for name in ("teacher", "student"):
        networks = sorted({getattr(v.figures, name).network for v in group.variants})
        if len(networks) > 1:
            yield (
                f"The variants have different {name}s ({', '.join(networks)}): a difference is that"
                " of the whole, not of the method alone."
            )
    for place in group.places:
        by_precision: dict[str, list[Latency]] = {}
        for variant in group.variants:
            for name, precision in variant.precisions.items():
                if place in precision.latencies:
                    by_precision.setdefault(name, []).append(precision.latencies[place])
        found = [latency for latencies in by_precision.values() for latency in latencies]
        # Precisions that are there for another runtime are called after it.
        ran_in = ({r for one in several for r in one.runtimes} for several in by_precision.values())
        runtimes = sorted(set().union(*(names for names in ran_in if len(names) > 1)))
        if runtimes:
            yield (
                f"On {place.title} they ran in {' and '.join(runtimes)}: a difference in latency"
                " may be the runtime’s."
            )
        left_out = sum(latency.left_out for latency in found)
        if left_out:
            yield (
                f"On {place.title}, noisy measurements were left out where other seeds had quiet"
                f" ones: {left_out}."
            )
        if any(latency.noisy for latency in found):
            yield (
                f"{NOISY} on {place.title}: the machine was noisy (coefficient of variation above"
                " 0.2) at every seed; measure again before relying on it."
            )


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
            reason = _reasons(variant.experiments.values(), precision)
            yield f"accuracy in {precision} of", name, reason
        for place in group.places:
            if place not in found.latencies:
                reason = found.reasons.get(place, f"not measured on {place.title}")
                yield f"latency in {precision} on {place.url} of", name, reason
    told = variant.figures.paper
    if told is None:
        yield "the paper’s figure for", name, "report.paper is null"
    elif _in_paper(variant) is None:
        teacher, student = _pair(variant)
        reason = f"the paper has none for {title(told.method)}, {teacher} and {student}"
        yield "the paper’s figure for", name, reason


def _reasons(taken: Iterable[Experiment], precision: str) -> str:
    found = [
        export.reason
        for e in taken
        if e.figures and (export := e.figures.exports.get(precision)) and export.reason
    ]
    return "; ".join(dict.fromkeys(found)) or "not validated"


def _difference(variant: Variant, group: Group) -> list[str]:
    if variant.name == group.baseline:
        return ["the baseline", ""]
    over = variant.over_baseline
    if over is None:
        return [NOT_MEASURED, ""]
    return [points(over.mean), interval(over)]


def interval(over: Paired) -> str:
    """In points, or that there is none."""
    if over.low is None or over.high is None:
        return "none: one seed"
    return f"{points(over.low)} to {points(over.high)}"


def _verdict(variant: Variant, beaten: Mapping[str, Sequence[str]]) -> str:
    """By whom it is beaten: the quickest, and how many more."""
    if variant.name not in beaten:
        return "not judged"
    others = beaten[variant.name]
    if not others:
        return "none"
    more = len(others) - 1
    return f"{others[0]} and {more} more" if more else others[0]


def _costs(precision: Precision, place: Place, form: Callable[[Spread], str]) -> list[str]:
    accuracy = precision.accuracy
    latency = precision.latencies.get(place)
    cells = [NOT_MEASURED if accuracy is None else percent(accuracy.mean)]
    size = precision.size_mb
    cells.append(NOT_MEASURED if size is None else significant(size.mean))
    if latency is None:
        return [*cells, NOT_MEASURED, NOT_MEASURED]
    mark = f" {NOISY}" if latency.noisy else ""
    return [*cells, *(f"{form(figure)}{mark}" for figure in (latency.p50_ms, latency.p90_ms))]


def _mean(figure: Spread) -> str:
    return significant(figure.mean)


def _range(figure: Spread) -> str:
    """The mean, and what it lies between where that is not the same."""
    shown, low, high = (significant(value) for value in figure[:3])
    return shown if low == high else f"{shown} ({low} to {high})"


def _in_paper(variant: Variant) -> float | None:
    told = variant.figures.paper
    return None if told is None else told.accuracies.get(told.method)


def _pair(variant: Variant) -> tuple[str, str]:
    return variant.figures.teacher.network, variant.figures.student.network


def _value(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return str(value)
