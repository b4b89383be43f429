"""From experiments to variants: what their seeds say together, on the same test images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from models.errors import InputError
from pipeline.comparison.experiments import Experiment
from pipeline.comparison.seeds import Paired, Spread, paired, spread
from pipeline.presets import leaves
from pipeline.summary_schema import Compared, Export, Row
from stages.report_page.choice import dominated_by

USUAL_BASELINE = "kd"

#: Of ``params.yaml``: what the seeds of one variant differ in.
_SEEDS = frozenset({"distill.seed", "teacher.seed"})


class Images(NamedTuple):
    """The test images that an accuracy is of.

    Attributes:
        digest: of their pixels and labels; None where an older version did not keep it, so that
            they count as the same only for one another.
    """

    source: str
    number: int
    classes: int
    size: int | None
    digest: str | None

    @property
    def title(self) -> str:
        size = f" of {self.size}×{self.size}" if self.size is not None else ""
        return f"{self.source}, {self.number:,} test images{size} in {self.classes:,} classes"


class Place(NamedTuple):
    """What a latency holds for: the same URL may be another machine elsewhere."""

    url: str
    machine: str | None
    cpu: str | None
    threads: int

    @property
    def title(self) -> str:
        by = self.cpu or self.machine or "an unnamed processor"
        return f"{self.url} ({by}), {self.threads} thread{'' if self.threads == 1 else 's'}"


@dataclass(frozen=True)
class Latency:
    """Of one precision on one device, over the seeds.

    Attributes:
        p50_ms: of the seeds that were measured while the machine was quiet, or of all where none
            was.
        p90_ms: likewise.
        noisy: whether none was quiet.
        runtimes: that measured.
    """

    p50_ms: Spread
    p90_ms: Spread
    noisy: bool
    runtimes: frozenset[str]


@dataclass(frozen=True)
class Precision:
    """One precision of a variant.

    Attributes:
        accuracy: of the exported model, over the seeds that passed; None where none did.
        size_mb: of the static file, in 10^6 bytes; None where none was made.
        failed: how many seeds' exports failed.
        reason: why there is no accuracy.
        latencies: by device.
        reasons: why a latency is missing, by device.
    """

    accuracy: Spread | None
    size_mb: Spread | None
    failed: int
    reason: str
    latencies: Mapping[Place, Latency]
    reasons: Mapping[Place, str]


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
    precisions: Mapping[str, Precision]
    recommended: str | None
    agreed: int
    over_baseline: Paired | None

    @property
    def taken(self) -> Precision | None:
        """The recommended precision."""
        return self.precisions.get(self.recommended or "")

    @property
    def results(self) -> Compared:
        """Of its first seed, for what all seeds share."""
        return results_of(next(iter(self.experiments.values())))


@dataclass(frozen=True)
class Group:
    """Variants that were tested on the same images, the most accurate first.

    Attributes:
        baseline: a name of ``variants``; None where it was not tested on these images.
        places: the devices that measured any of them.
    """

    images: Images
    variants: list[Variant]
    baseline: str | None
    places: list[Place]

    @property
    def reference(self) -> Variant | None:
        return next((v for v in self.variants if v.name == self.baseline), None)


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
    names = _names(complete)
    chosen = _baseline(sorted(set(names.values())), baseline)
    by_images: dict[Images, dict[str, dict[int, Experiment]]] = {}
    for experiment in complete:
        variants = by_images.setdefault(images_of(experiment), {})
        seeds = variants.setdefault(names[experiment.name], {})
        seeds[0 if experiment.seed is None else experiment.seed] = experiment
    groups = [_group(images, variants, chosen) for images, variants in by_images.items()]
    groups.sort(key=lambda group: -sum(len(v.experiments) for v in group.variants))
    return Comparison(sweep, chosen, groups, left_out)


def results_of(experiment: Experiment) -> Compared:
    """Of an experiment that has results."""
    assert experiment.results is not None
    return experiment.results


def images_of(experiment: Experiment) -> Images:
    data = results_of(experiment).data
    digest = experiment.test_images
    return Images(data.source, data.test, data.classes, data.image_size, digest)


def place_of(experiment: Experiment, url: str, row: Row) -> Place:
    device = results_of(experiment).devices[url]
    return Place(url, device.machine, device.cpu, row.threads)


def differing(group: Group) -> dict[str, list[Any]]:
    """The parameters that the variants differ in, with the value of each variant."""
    trees = [leaves(next(iter(v.experiments.values())).params) for v in group.variants]
    keys = dict.fromkeys(key for tree in trees for key in tree)
    values = {key: [tree.get(key) for tree in trees] for key in keys if key not in _SEEDS}
    return {key: found for key, found in values.items() if any(v != found[0] for v in found)}


def beaten_by(group: Group, place: Place) -> dict[str, list[str]]:
    """For each variant those that leave no reason to take it on a device, the quickest first.

    Each stands for its recommended precision. Only those that were measured there are judged, and
    a noisy latency is no measurement to beat others by, or to be beaten in.
    """
    judged = {}
    for variant in group.variants:
        precision = variant.taken
        latency = precision.latencies.get(place) if precision else None
        if precision and precision.accuracy and precision.size_mb and latency and not latency.noisy:
            judged[variant.name] = {
                "status": "passed",
                "accuracy": precision.accuracy.mean,
                "size_mb": precision.size_mb.mean,
                "p50_ms": latency.p50_ms.mean,
            }
    return dominated_by(judged)


def _names(experiments: Sequence[Experiment]) -> dict[str, str]:
    """Variants' names by those of experiments; with their sweep's where there are several."""
    several = len({e.sweep for e in experiments} - {None}) > 1
    return {
        e.name: f"{e.sweep}.{e.variant}" if several and e.sweep else e.variant for e in experiments
    }


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
    reference = {seed: _accuracy(e) for seed, e in variants.get(baseline, {}).items()}
    found = [
        _variant(name, dict(sorted(seeds.items())), None if name == baseline else reference)
        for name, seeds in variants.items()
    ]
    found.sort(key=lambda v: (-v.accuracy.mean, v.name))
    places = dict.fromkeys(
        place for v in found for p in v.precisions.values() for place in p.latencies
    )
    return Group(images, found, baseline if reference else None, sorted(places, key=_by_url))


def _by_url(place: Place) -> tuple[bool, str, str, int]:
    """With this machine first."""
    return place.url != "local:", place.url, place.cpu or "", place.threads


def _accuracy(experiment: Experiment) -> float:
    return results_of(experiment).student.accuracy


def _variant(
    name: str, seeds: Mapping[int, Experiment], reference: Mapping[int, float] | None
) -> Variant:
    accuracies = {seed: _accuracy(experiment) for seed, experiment in seeds.items()}
    names = dict.fromkeys(p for e in seeds.values() for p in results_of(e).exports)
    choices = (results_of(e).recommended for e in seeds.values())
    votes = Counter(choice.precision for choice in choices if choice is not None)
    recommended, agreed = votes.most_common(1)[0] if votes else (None, 0)
    return Variant(
        name=name,
        experiments=seeds,
        accuracy=spread(accuracies.values()),
        precisions={p: _precision(p, list(seeds.values())) for p in names},
        recommended=recommended,
        agreed=agreed,
        over_baseline=paired(accuracies, reference) if reference else None,
    )


def _precision(name: str, experiments: Sequence[Experiment]) -> Precision:
    exports: list[Export] = []
    rows: dict[Place, list[tuple[Row, str | None]]] = {}
    reasons: dict[Place, str] = {}
    for experiment in experiments:
        results = results_of(experiment)
        if name not in results.exports:
            continue
        exports.append(results.exports[name])
        for url, device in results.devices.items():
            row = device.exports.get(name)
            if row is None:
                continue
            place = place_of(experiment, url, row)
            if row.status != "passed" or row.p50_ms is None or row.p90_ms is None:
                reasons[place] = row.reason or f"it has {row.status}"
            elif results.exports[name].status == "failed":
                reasons[place] = results.exports[name].reason or "its export failed"
            else:
                rows.setdefault(place, []).append((row, row.runtime or device.runtime))
    accuracies = [e.accuracy for e in exports if e.status == "passed" and e.accuracy is not None]
    sizes = [e.size_mb for e in exports if e.size_mb is not None]
    why = dict.fromkeys(e.reason for e in exports if e.reason)
    return Precision(
        accuracy=spread(accuracies) if accuracies else None,
        size_mb=spread(sizes) if sizes else None,
        failed=sum(e.status == "failed" for e in exports),
        reason="; ".join(why) or "not validated",
        latencies={place: _latency(found) for place, found in rows.items()},
        reasons=reasons,
    )


def _latency(rows: Sequence[tuple[Row, str | None]]) -> Latency:
    quiet = [(row, runtime) for row, runtime in rows if not row.noisy]
    taken = quiet or rows
    return Latency(
        p50_ms=spread([row.p50_ms for row, _ in taken if row.p50_ms is not None]),
        p90_ms=spread([row.p90_ms for row, _ in taken if row.p90_ms is not None]),
        noisy=not quiet,
        runtimes=frozenset(runtime for _, runtime in taken if runtime is not None),
    )
