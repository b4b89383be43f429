"""From experiments to variants: what their seeds say together, on the same test images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from models.errors import InputError
from pipeline.comparison.experiments import Experiment, Images
from pipeline.comparison.rows import HERE, Measured, Place, rows_of
from pipeline.comparison.seeds import Paired, Spread, paired, spread
from pipeline.summary_schema import Compared
from stages.report_page.choice import dominated_by

USUAL_BASELINE = "kd"


class Cost(NamedTuple):
    """A variant in one precision on one device, over its seeds.

    Attributes:
        place: None where no device measured any variant of the group.
        accuracy: of the exported model, over the seeds that passed; None where none did.
        size_mb: of the static file, in 10^6 bytes; None where none was made.
        p50_ms: of the seeds that were measured while the machine was quiet, or of all where none
            was; None where none was measured, as p90_ms.
        noisy: whether none was quiet.
        runtimes: that measured.
        failed: how many seeds' exports failed.
        untested: why there is no accuracy.
        untimed: why there is no latency.
    """

    variant: str
    precision: str
    place: Place | None
    accuracy: Spread | None
    size_mb: Spread | None
    p50_ms: Spread | None
    p90_ms: Spread | None
    noisy: bool
    runtimes: frozenset[str]
    failed: int
    untested: str
    untimed: str


@dataclass(frozen=True)
class Variant:
    """Experiments that differ in nothing but the seed.

    Attributes:
        experiments: by seed.
        recommended: the precision that most of them recommend; None where none does.
        agreed: how many of them do.
        over_baseline: fractions; None for the baseline, and where no seed is in both.
    """

    name: str
    experiments: Mapping[int, Experiment]
    accuracy: Spread
    recommended: str | None
    agreed: int
    over_baseline: Paired | None

    @property
    def results(self) -> Compared:
        """Of its first seed, for what all seeds have in common."""
        return next(iter(self.experiments.values())).measured

    @property
    def in_paper(self) -> float | None:
        """The paper's accuracy of its method."""
        paper = self.results.paper
        return None if paper is None else paper.accuracies.get(paper.method)


@dataclass(frozen=True)
class Group:
    """Variants that were tested on the same images, the most accurate first.

    Attributes:
        baseline: a name of ``variants``; None where it was not tested on these images.
        places: the devices that measured any of them.
        costs: of each variant, precision and place in turn.
    """

    images: Images
    variants: list[Variant]
    baseline: str | None
    places: list[Place]
    costs: list[Cost]

    def on(self, place: Place) -> list[Cost]:
        return [cost for cost in self.costs if cost.place == place]

    def recommended_on(self, place: Place) -> dict[str, Cost]:
        """By variant, its recommended precision there."""
        chosen = {(v.name, v.recommended) for v in self.variants}
        return {c.variant: c for c in self.on(place) if (c.variant, c.precision) in chosen}


@dataclass(frozen=True)
class Comparison:
    """All that was compared.

    Attributes:
        sweep: what was asked for; None where it is all of the project.
        baseline: the variant that the others are set against.
        groups: by test images, the one with most experiments first.
        left_out: experiments without results, each with its reason.
    """

    sweep: str | None
    baseline: str
    groups: list[Group]
    left_out: list[Experiment]


def compare(
    experiments: Sequence[Experiment], sweep: str | None, baseline: str | None
) -> Comparison:
    """Experiments by variant, and variants by test images.

    Args:
        experiments: as they are listed.
        sweep: that they are of, if only one was asked for.
        baseline: a variant's name; None takes ``kd``, or the first by name.

    Raises:
        InputError: no experiment has results, or there is no such baseline.
    """
    complete = [e for e in experiments if e.reason is None]
    left_out = [e for e in experiments if e.reason is not None]
    if not complete:
        first = left_out[0]
        raise InputError(
            f"none of {len(left_out)} experiment{'s' * (len(left_out) != 1)} has results:"
            f" {first.name}: {first.reason}"
        )
    if len({e.sweep for e in complete} - {None}) > 1:
        complete = [
            replace(e, variant=f"{e.sweep}.{e.variant}") if e.sweep else e for e in complete
        ]
    chosen = _baseline(sorted({e.variant for e in complete}), baseline)
    by_images: dict[Images, dict[str, dict[int, Experiment]]] = {}
    for experiment in complete:
        seeds = by_images.setdefault(experiment.images, {}).setdefault(experiment.variant, {})
        seeds[experiment.seed or 0] = experiment
    groups = [_group(images, variants, chosen) for images, variants in by_images.items()]
    groups.sort(key=lambda group: -sum(len(v.experiments) for v in group.variants))
    return Comparison(sweep, chosen, groups, left_out)


def beaten_by(group: Group, place: Place) -> dict[str, list[str]]:
    """For each variant those that leave no reason to take it on a device, the quickest first.

    Each stands for its recommended precision. Only those that were measured there are judged, and
    a noisy latency is no measurement to beat others by, or to be beaten in.
    """
    axes = ("accuracy", "size_mb", "p50_ms")
    found = {
        name: {axis: figure.mean for axis in axes if (figure := getattr(cost, axis))}
        for name, cost in group.recommended_on(place).items()
        if not cost.noisy
    }
    judged = {name: of | {"status": "passed"} for name, of in found.items() if len(of) == len(axes)}
    return dominated_by(judged)


def _baseline(names: Sequence[str], wanted: str | None) -> str:
    if wanted is None:
        usual = (n for n in names if n == USUAL_BASELINE or n.endswith(f".{USUAL_BASELINE}"))
        return next(usual, names[0])
    if wanted not in names:
        raise InputError(
            f"--baseline {wanted}: no such variant with results; expected one of {', '.join(names)}"
        )
    return wanted


def _group(
    images: Images, variants: Mapping[str, Mapping[int, Experiment]], baseline: str
) -> Group:
    reference = _accuracies(variants.get(baseline, {}))
    found = [
        _variant(name, dict(sorted(seeds.items())), {} if name == baseline else reference)
        for name, seeds in variants.items()
    ]
    found.sort(key=lambda v: (-v.accuracy.mean, v.name))
    rows = {v.name: [row for e in v.experiments.values() for row in rows_of(e)] for v in found}
    measured = {
        row.place for own in rows.values() for row in own if row.place and row.p50_ms is not None
    }
    places = sorted(measured, key=_by_url)
    costs = [
        _cost(name, precision, place, [row for row in own if row.precision == precision])
        for name, own in rows.items()
        for precision in dict.fromkeys(row.precision for row in own)
        for place in (places or (None,))
    ]
    return Group(images, found, baseline if reference else None, places, costs)


def _by_url(place: Place) -> tuple[bool, str, str, str, int]:
    """With this machine first."""
    url, machine, cpu = place.device
    return url != HERE, url, cpu or "", machine or "", place.threads


def _accuracies(seeds: Mapping[int, Experiment]) -> dict[int, float]:
    return {seed: experiment.measured.student.accuracy for seed, experiment in seeds.items()}


def _variant(name: str, seeds: Mapping[int, Experiment], reference: Mapping[int, float]) -> Variant:
    accuracies = _accuracies(seeds)
    choices = (experiment.measured.recommended for experiment in seeds.values())
    votes = Counter(choice.precision for choice in choices if choice is not None)
    recommended, agreed = votes.most_common(1)[0] if votes else (None, 0)
    over = paired(accuracies, reference)
    return Variant(name, seeds, spread(accuracies.values()), recommended, agreed, over)


def _cost(variant: str, precision: str, place: Place | None, rows: Sequence[Measured]) -> Cost:
    exports = [row for row in rows if row.place is None]
    there = [row for row in rows if row.place is not None and row.place == place]
    timed = [row for row in there if row.p50_ms is not None]
    quiet = [row for row in timed if not row.noisy]
    taken = quiet or timed
    nowhere = f"not measured on {place.title}" if place else ""
    return Cost(
        variant,
        precision,
        place,
        accuracy=_spread(row.accuracy for row in exports),
        size_mb=_spread(row.size_mb for row in exports),
        p50_ms=_spread(row.p50_ms for row in taken),
        p90_ms=_spread(row.p90_ms for row in taken),
        noisy=bool(timed) and not quiet,
        runtimes=frozenset(row.runtime for row in taken if row.runtime is not None),
        failed=sum(row.status == "failed" for row in exports),
        untested="; ".join(dict.fromkeys(r.reason for r in exports if r.reason)) or "not validated",
        untimed=next((row.reason for row in there if row.reason), nowhere),
    )


def _spread(figures: Iterable[float | None]) -> Spread | None:
    found = [figure for figure in figures if figure is not None]
    return spread(found) if found else None
