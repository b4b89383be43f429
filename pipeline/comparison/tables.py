"""What a comparison shows, section by section, for a terminal, Markdown and the page alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from pipeline.comparison.rows import Place
from pipeline.comparison.seeds import Paired, Spread
from pipeline.comparison.variants import Comparison, Cost, Group, Variant, beaten_by
from pipeline.presets import leaves
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

#: Of ``params.yaml``: what the seeds of one variant differ in.
_SEEDS = frozenset({"distill.seed", "teacher.seed"})


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
        over: list[Chart] = []
        costs: list[list[Chart]] = [[] for _ in group.places]
        if draw:
            from pipeline.comparison import charts

            over = charts.over_baseline(group, f"differences-{number}")
            costs = [
                charts.accuracy_against_costs(group, place, f"costs-{number}-{at}")
                for at, place in enumerate(group.places)
            ]
        yield Part(accuracies(group), over)
        for place, drawn in zip(group.places, costs, strict=True):
            yield Part(trade_off(group, place), drawn)
            yield Part(precisions(group, place), folded=True)
        yield from map(Part, filter(None, (paper(group), parameters(group))))
    yield Part(experiments(comparison), folded=True)


def accuracies(group: Group) -> Table:
    """A row for each variant, the most accurate first."""
    against = f"over {group.baseline}, points" if group.baseline else "over the baseline"
    head = ["variant", "rank", "accuracy", against, "95 % interval", "smallest to largest"]
    rows: list[list[Cell]] = []
    for rank, variant in enumerate(group.variants, 1):
        student, over = variant.results.student, variant.over_baseline
        mean, low, high, count = variant.accuracy
        difference: list[Cell] = [over and points(over.mean), _interval(over) if over else ""]
        if variant.name == group.baseline:
            difference = ["the baseline", ""]
        extremes = f"{percent(low)} to {percent(high)}" if count > 1 else "one seed"
        of = f"{student.network} ({student.method})"
        rows.append([variant.name, str(rank), percent(mean), *difference, extremes, str(count), of])
    caption = f"Accuracy on {group.images.title}"
    return Table([*head, "seeds", "student"], rows, caption, _ACCURACY, _notes(group))


def trade_off(group: Group, place: Place) -> Table:
    """What each variant costs on a device, in the precision that it recommends."""
    head = ["variant", "precision", "accuracy", "MB", "p50, ms", "p90, ms", "beaten by"]
    costs, beaten = group.recommended_on(place), beaten_by(group, place)
    rows: list[list[Cell]] = []
    for variant in group.variants:
        name, seeds = variant.name, len(variant.experiments)
        if name not in costs:
            rows.append([name, "none is recommended"])
            continue
        agreed = "" if variant.agreed == seeds else f" ({variant.agreed} of {seeds} seeds)"
        # By whom it is beaten: the quickest, and how many more.
        first, *more = (beaten[name] or ["none"]) if name in beaten else ["not judged"]
        verdict = f"{first} and {len(more)} more" if more else first
        cells = _cells(costs[name], lambda figure: significant(figure.mean))
        rows.append([name, f"{variant.recommended}{agreed}", *cells, verdict])
    caption = f"Recommended precision on {place.title}"
    return Table(head, rows, caption, _TRADE_OFF, _notes_on(group, place))


def precisions(group: Group, place: Place) -> Table:
    """Every precision of every variant on a device."""
    head = ["variant", "precision", "accuracy", "MB", "p50, ms", "p90, ms", "seeds that failed"]
    rows = [
        [cost.variant, cost.precision, *_cells(cost, _range), str(cost.failed)]
        for cost in group.on(place)
    ]
    return Table(head, rows, f"Every precision on {place.title}", _PRECISIONS)


def paper(group: Group) -> Table | None:
    """The paper's accuracies beside these; None where it has none for any of these variants."""
    reference = next((v for v in group.variants if v.name == group.baseline), None)
    base = None if reference is None else reference.in_paper
    over = f"over {group.baseline}" if group.baseline else "over the baseline"
    head = ["variant", "in the paper", "paper", "here", "difference, points"]
    rows = []
    differs: dict[str, list[str]] = {}
    for variant in group.variants:
        theirs, found = variant.in_paper, variant.results.paper
        if theirs is None or found is None:
            continue
        ours, gain = variant.accuracy.mean, variant.over_baseline
        same = reference is not None and _pair(variant) == _pair(reference)
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
    head += [f"paper: {over}", f"here: {over}"]
    notes = [f"Not comparable: {', '.join(names)}: {why}." for why, names in differs.items()]
    return Table(head, rows, "The paper’s accuracies beside these", _PAPER, notes) if rows else None


def parameters(group: Group) -> Table | None:
    """What the variants differ in; None where in nothing."""
    trees = [leaves(next(iter(v.experiments.values())).params) for v in group.variants]
    found: dict[str, list[Any]] = {
        key: [tree.get(key) for tree in trees]
        for key in dict.fromkeys(key for tree in trees for key in tree)
        if key not in _SEEDS
    }
    differing = [key for key, values in found.items() if any(v != values[0] for v in values)]
    rows = [
        [variant.name, *(_value(found[key][place]) for key in differing)]
        for place, variant in enumerate(group.variants)
    ]
    head = ["variant", *differing]
    return Table(head, rows, "Parameters that differ", _PARAMETERS) if differing else None


def experiments(comparison: Comparison) -> Table:
    """Every experiment that was taken, with its own accuracy."""
    rows = [
        [
            experiment.name,
            experiment.revision[:7] if experiment.revision else "",
            str(seed),
            percent(experiment.measured.student.accuracy),
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
    timed = group.on(place)
    # Precisions that are there for another runtime are called after it.
    pairs = {(cost.precision, runtime) for cost in timed for runtime in cost.runtimes}
    runtimes = sorted({r for name, r in pairs if sum(n == name for n, _ in pairs) > 1})
    found = [NOISY_NOTE] if any(cost.noisy for cost in timed) else []
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
        yield "difference of", name, f"{baseline} was not tested on {group.images.title}"
    elif name != group.baseline and variant.over_baseline is None:
        yield "difference of", name, f"no seed is also one of {group.baseline}"
    for cost in (cost for cost in group.costs if cost.variant == name):
        if cost.accuracy is None:
            yield f"accuracy in {cost.precision} of", name, cost.untested
        if cost.place is not None and cost.p50_ms is None:
            on = cost.place.device.url
            yield f"latency in {cost.precision} on {on} of", name, cost.untimed
    own = variant.results.paper
    if own is None:
        yield "the paper’s figure for", name, "report.paper is null"
    elif variant.in_paper is None:
        teacher, student = _pair(variant)
        method = title_in_paper(own.method)
        reason = f"the paper has none for {method}, {teacher} and {student}"
        yield "the paper’s figure for", name, reason


def _interval(over: Paired) -> str:
    """In points, or that there is none."""
    if over.low is None or over.high is None:
        return "none: one seed"
    return f"{points(over.low)} to {points(over.high)}"


def _cells(cost: Cost, form: Callable[[Spread], str]) -> list[Cell]:
    mark = NOISY if cost.noisy else ""
    return [
        cost.accuracy and percent(cost.accuracy.mean),
        cost.size_mb and significant(cost.size_mb.mean),
        *(figure and f"{form(figure)}{mark}" for figure in (cost.p50_ms, cost.p90_ms)),
    ]


def _range(figure: Spread) -> str:
    """The mean, and what it lies between where that is not the same."""
    shown, low, high = (significant(value) for value in figure[:3])
    return shown if low == high else f"{shown} ({low} to {high})"


def _pair(variant: Variant) -> tuple[str, str]:
    return variant.results.teacher.network, variant.results.student.network


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
