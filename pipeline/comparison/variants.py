"""From experiments to variants: what their seeds show together, on the same test images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from models.errors import InputError
from pipeline.comparison.experiments import HERE, Experiment, Found, Images, Place
from pipeline.comparison.seeds import Paired, Spread, paired, spread
from stages.report_page.recommendation import dominated_by
from stages.tables import Record

USUAL_BASELINE = "kd"


@dataclass(frozen=True)
class Variant:
    """Experiments that differ in nothing but the seed.

    Attributes:
        seeds: the experiments.
        over_baseline: None for the baseline, and where no seed is in both.
        recommended: the precision that most of them recommend; None where none does.
        agreed: how many of them do.
        costs: as :func:`_cost` gives them, by precision and device; the device is None where the
            group has none.
    """

    name: str
    seeds: Mapping[int, Experiment]
    accuracy: Spread
    over_baseline: Paired | None
    recommended: str | None
    agreed: int
    costs: Mapping[tuple[str, Place | None], Record]

    @property
    def first(self) -> Experiment:
        """For what all seeds have in common."""
        return next(iter(self.seeds.values()))

    def on(self, place: Place) -> Record | None:
        """Its cost in its recommended precision."""
        return self.costs.get((self.recommended or "", place))


@dataclass(frozen=True)
class Group:
    """Variants that were tested on the same images, the most accurate first.

    Attributes:
        baseline: a name of ``variants``; None where it was not tested on these images.
        places: the devices that measured any of them, this machine first.
    """

    images: Images
    variants: list[Variant]
    baseline: str | None
    places: list[Place]


@dataclass(frozen=True)
class Comparison:
    """All that was compared.

    Attributes:
        baseline: the variant that the others are set against.
        groups: by test images, the one with most experiments first.
        missing: experiments without results, each with its reason.
    """

    baseline: str
    groups: list[Group]
    missing: list[tuple[str, str]]


def compare(found: Found, baseline: str | None) -> Comparison:
    """Experiments by variant, and variants by test images.

    Without a ``baseline``, it is ``kd``, or the first by name.

    Raises:
        InputError: no experiment has results, or there is no such baseline.
    """
    experiments, missing = found
    if not experiments:
        name, reason = missing[0]
        raise InputError(f"no experiment has results: {name}: {reason}")
    if len({e.sweep for e in experiments if e.sweep}) > 1:
        experiments = [
            replace(e, variant=f"{e.sweep}.{e.variant}") if e.sweep else e for e in experiments
        ]
    chosen = _baseline(sorted({e.variant for e in experiments}), baseline)
    by_images: dict[Images, list[Experiment]] = {}
    for experiment in experiments:
        by_images.setdefault(experiment.images, []).append(experiment)
    largest_first = sorted(by_images.items(), key=lambda item: -len(item[1]))
    groups = [_group(images, own, chosen) for images, own in largest_first]
    return Comparison(chosen, groups, missing)


def beaten_by(costs: Mapping[str, Record | None]) -> dict[str, list[str]]:
    """For each name those that leave no reason to take it on a device, the fastest first.

    Args:
        costs: as :func:`_cost` gives them, all on one device. Only what was measured is judged, and
            a noisy latency neither beats nor is beaten.
    """
    judged = ("accuracy", "size_mb", "p50_ms")
    return dominated_by(
        {
            name: cost | {"status": "passed"}
            for name, cost in costs.items()
            if cost and not cost["noisy"] and all(cost[key] is not None for key in judged)
        }
    )


def _baseline(names: Sequence[str], wanted: str | None) -> str:
    if wanted is None:
        usual = (n for n in names if n.rpartition(".")[2] == USUAL_BASELINE)
        return next(usual, names[0])
    if wanted not in names:
        raise InputError(
            f"--baseline {wanted}: no such variant with results; expected one of {', '.join(names)}"
        )
    return wanted


def _group(images: Images, experiments: Sequence[Experiment], baseline: str) -> Group:
    by_name: dict[str, dict[int, Experiment]] = {}
    for experiment in experiments:
        by_name.setdefault(experiment.variant, {})[experiment.seed] = experiment
    rows = [item for e in experiments for item in e.latencies.items()]
    measured = {place for (_, place), row in rows if row["p50_ms"] is not None}
    places = sorted(measured, key=lambda place: (place.url != HERE, place))
    reference = by_name.get(baseline, {})
    variants = [
        _variant(name, seeds, {} if name == baseline else reference, places)
        for name, seeds in by_name.items()
    ]
    variants.sort(key=lambda v: (-v.accuracy.mean, v.name))
    return Group(images, variants, baseline if reference else None, places)


def _variant(
    name: str,
    seeds: Mapping[int, Experiment],
    reference: Mapping[int, Experiment],
    places: Sequence[Place],
) -> Variant:
    ours, theirs = ({seed: e.accuracy for seed, e in own.items()} for own in (seeds, reference))
    votes = Counter(e.recommended for e in seeds.values() if e.recommended is not None)
    recommended, agreed = next(iter(votes.most_common(1)), (None, 0))
    costs = {
        (precision, place): _cost(precision, place, list(seeds.values()))
        for precision in dict.fromkeys(name for e in seeds.values() for name in e.exports)
        for place in (places or (None,))
    }
    over = paired(ours, theirs)
    return Variant(name, seeds, spread(ours.values()), over, recommended, agreed, costs)


def _cost(precision: str, place: Place | None, seeds: Sequence[Experiment]) -> Record:
    """A variant in one precision on one device, in means over the seeds.

    ``accuracy`` is the exported model's, of those that passed; ``p50_ms`` and ``p90_ms`` are over
    the seeds that were measured while the machine was quiet, or over all where none was, which is
    ``noisy``. None stands where no seed has it, for which ``untested`` and ``untimed`` give the
    reasons. ``failed`` counts exports.
    """
    exports = [e.exports[precision] for e in seeds if precision in e.exports]
    there = [e.latencies[key] for e in seeds if (key := (precision, place)) in e.latencies]
    timed = [row for row in there if row["p50_ms"] is not None]
    quiet = [row for row in timed if not row["noisy"]]
    reasons = dict.fromkeys(export["reason"] for export in exports if export["reason"])
    nowhere = f"not measured on {place.title}" if place else ""
    means = {key: _mean(export[key] for export in exports) for key in ("accuracy", "size_mb")}
    means |= {key: _mean(row[key] for row in quiet or timed) for key in ("p50_ms", "p90_ms")}
    return means | {
        "noisy": bool(timed) and not quiet,
        "failed": sum(export["status"] == "failed" for export in exports),
        "untested": "; ".join(reasons) or "not validated",
        "untimed": next((row["reason"] for row in there if row["reason"]), nowhere),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return spread(found).mean if found else None
