"""Groups experiments into variants, and compares variants tested on the same images."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from models.errors import InputError
from pipeline.comparison.experiments import HERE, Experiment, Found, Images, Place
from pipeline.comparison.seeds import Paired, Spread, paired, spread
from stages.report_page.recommendation import dominated_by
from stages.tables import Record


@dataclass(frozen=True)
class Variant:
    """Experiments that differ only in the seed."""

    name: str
    seeds: Mapping[int, Experiment]
    accuracy: Spread
    over_baseline: Paired | None  # None for the baseline itself, and without a shared seed
    recommended: str | None  # by most experiments
    agreed: int  # number of experiments that recommend it
    costs: Mapping[tuple[str, Place | None], Record]
    """Results of :func:`_cost` by precision and device; None if the group has no device."""

    @property
    def first(self) -> Experiment:
        """An arbitrary experiment, for properties that all seeds share."""
        return next(iter(self.seeds.values()))

    def on(self, place: Place) -> Record | None:
        """Return the cost on a device in the recommended precision."""
        return self.costs.get((self.recommended or "", place))


@dataclass(frozen=True)
class Group:
    """Variants that were tested on the same images, the most accurate first."""

    images: Images
    variants: list[Variant]
    baseline: str | None  # None if it was not tested on these images
    places: list[Place]  # the devices that measured any of them, this machine first


@dataclass(frozen=True)
class Comparison:
    """Variants compared with a baseline, in a group per set of test images, the largest first."""

    baseline: str
    groups: list[Group]
    missing: list[tuple[str, str]]  # names of experiments without results, and why


def compare(found: Found, baseline: str | None) -> Comparison:
    """Group experiments by variant, and variants by test images.

    The default ``baseline`` is ``kd``, or the first variant by name.

    Raises:
        InputError: no experiment has results, or there is no such baseline.
    """
    experiments, missing = found
    if not experiments:
        name, reason = missing[0]
        raise InputError(f"no experiment has results: {name}: {reason}")
    sweeps = {e.sweep for e in experiments if e.sweep}
    single = {e.variant for e in experiments if e.sweep is None}
    if len(sweeps) > 1 or any(e.sweep and e.variant in single for e in experiments):
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
    """Return for each name the names that dominate it, fastest first; noisy ones are not judged."""
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
        usual = (name for name in names if name.rpartition(".")[2] == "kd")
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
    """Average a variant's costs in one precision on one device over its seeds.

    ``accuracy`` averages the exports that passed. ``p50_ms`` and ``p90_ms`` average the seeds that
    were measured on a quiet machine, or all seeds if none was (``noisy``). Values that no seed has
    are None, for the reasons in ``untested`` and ``untimed``. ``failed`` counts exports.
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
