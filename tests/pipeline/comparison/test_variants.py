"""Statistics of variants against scipy and plain arithmetic."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from models.errors import InputError
from pipeline.comparison import charts, tables
from pipeline.comparison.experiments import Experiment, Found, parse
from pipeline.comparison.seeds import spread
from pipeline.comparison.variants import Comparison, Group, beaten_by, compare
from tests.pipeline.comparison.exps import export, row, summary


def experiment(name: str, content: dict[str, Any], images: str = "aa", **params: Any) -> Experiment:
    return parse(name, f"dvc exp apply {name}", {"distill": params}, content, images)


def sweep_of(**variants: list[float]) -> list[Experiment]:
    return [
        experiment(f"night.{name}.seed{seed}", summary(accuracy))
        for name, accuracies in variants.items()
        for seed, accuracy in enumerate(accuracies)
    ]


def compared(experiments: list[Experiment], baseline: str | None = None) -> Comparison:
    return compare(Found(experiments, []), baseline)


def one_group(experiments: list[Experiment], baseline: str | None = None) -> Group:
    (group,) = compared(experiments, baseline).groups
    return group


def test_means_ranks_and_paired_intervals():
    random = np.random.default_rng(0)
    results = {name: list(random.uniform(0.6, 0.8, 5)) for name in ("kd", "ackd", "at")}
    group = one_group(sweep_of(**results))
    assert group.baseline == "kd"
    by_mean = sorted(results, key=lambda name: -np.mean(results[name]))
    assert [variant.name for variant in group.variants] == by_mean
    for variant in group.variants:
        own = results[variant.name]
        assert variant.accuracy == pytest.approx((np.mean(own), min(own), max(own), 5))
        if variant.name == "kd":
            assert variant.over_baseline is None
            continue
        expected = stats.ttest_rel(own, results["kd"]).confidence_interval(0.95)
        difference = np.mean(np.subtract(own, results["kd"]))
        assert variant.over_baseline == pytest.approx((difference, *expected, 5))


def test_the_mean_of_equal_values_is_exact():
    results = [n / 1000 for n in range(1, 1000)]
    assert [spread([one] * 3).mean for one in results] == results


def test_the_baseline_is_kd_or_the_first_or_the_requested_one():
    assert one_group(sweep_of(zeta=[0.5], kd=[0.5])).baseline == "kd"
    assert one_group(sweep_of(zeta=[0.5], alpha=[0.6])).baseline == "alpha"
    assert one_group(sweep_of(zeta=[0.5], kd=[0.6]), "zeta").baseline == "zeta"
    message = r"^--baseline ackd: no such variant with results; expected one of kd, zeta$"
    with pytest.raises(InputError, match=message):
        compared(sweep_of(zeta=[0.5], kd=[0.6]), "ackd")
    # With several sweeps, or an experiment of the same name, variants have their sweep's prefix.
    names = ("workspace", "night.kd.seed0", "day.kd.seed0")
    several = [experiment(name, summary(0.7 - n / 10)) for n, name in enumerate(names)]
    comparison = compared(several)
    assert [v.name for v in comparison.groups[0].variants] == ["workspace", "night.kd", "day.kd"]
    assert comparison.baseline == "day.kd"
    single = experiment("kd", summary(0.9))
    means = {v.name: v.accuracy.mean for v in one_group([*sweep_of(kd=[0.5]), single]).variants}
    assert means == {"kd": 0.9, "night.kd": 0.5}


def test_a_single_seed_has_no_interval_and_disjoint_seeds_no_difference():
    experiments = sweep_of(kd=[0.5, 0.6], ackd=[0.7])
    experiments.append(experiment("night.at.seed7", summary(0.55)))
    comparison = compared(experiments)
    table = tables.accuracies(comparison.groups[0])
    assert {row[0]: row[3:7] for row in table.rows} == {
        "ackd": ["+20.00", "none: one seed", "one seed", "1"],
        "kd": ["the baseline", "", "50.00 % to 60.00 %", "2"],
        "at": [None, "", "one seed", "1"],
    }
    assert tables.missing(comparison)["it shares no seed with kd"] == ["difference of at"]
    assert table.notes[0].endswith("may change the rank: ackd, at.")


def test_results_on_different_test_images_are_ranked_separately():
    same = summary(0.9)
    other = same | {"data": same["data"] | {"test": 80}}
    experiments = [*sweep_of(kd=[0.5, 0.6], ackd=[0.7]), experiment("night.big.seed0", other, "bb")]
    comparison = compared(experiments)
    names = [[v.name for v in g.variants] for g in comparison.groups]
    assert names == [["ackd", "kd"], ["big"]]
    assert [g.baseline for g in comparison.groups] == ["kd", None]
    reason = "kd was not tested on digits, 80 test images of 8×8 in 2 classes"
    assert tables.missing(comparison)[reason] == ["difference of big"]


def test_folds_are_compared_with_each_other():
    def fold(name: str, seed: int, accuracy: float) -> Experiment:
        params = {"data": {"folds": 2, "fold": seed, "seed": 7}}
        return parse(f"night.{name}.seed{seed}", None, params, summary(accuracy), f"image {seed}")

    folds = [fold("kd", 0, 0.5), fold("kd", 1, 0.6), fold("ackd", 0, 0.55), fold("ackd", 1, 0.66)]
    group = one_group(folds)
    assert group.images.title == "digits, 2 folds, seed 7, images of 8×8 in 2 classes"
    assert [(v.name, v.accuracy.mean) for v in group.variants] == [
        ("ackd", pytest.approx(0.605)),
        ("kd", pytest.approx(0.55)),
    ]
    assert group.variants[0].over_baseline is not None
    assert group.variants[0].over_baseline.mean == pytest.approx(0.055)


def with_rows(accuracy: float, *, cpu: str = "Desk CPU", **rows: Any) -> dict[str, Any]:
    device = summary(accuracy)["devices"]["local:"] | {"cpu": cpu, "exports": rows}
    return summary(accuracy, devices={"local:": device})


def test_noisy_latencies_are_marked_or_replaced_by_quiet_ones():
    loud = row(9.0, 9.5, noisy=True)
    experiments = [
        experiment("night.kd.seed0", with_rows(0.5, int8=row(1.0, 1.5), fp32=loud)),
        experiment("night.kd.seed1", with_rows(0.5, int8=row(2.0, 3.0), fp32=loud)),
        experiment("night.kd.seed2", with_rows(0.5, int8=loud, fp32=loud)),
    ]
    group = one_group(experiments)
    ((place,), (variant,)) = group.places, group.variants
    quiet = variant.costs["int8", place]
    assert (quiet["p50_ms"], quiet["p90_ms"], quiet["noisy"]) == (1.5, 2.25, False)
    assert tables.costs(group, place).rows[0][4:6] == ["1.50", "2.25"]
    noisy = one_group([replace(e, recommended="fp32") for e in experiments])
    assert tables.costs(noisy, place).rows[0][4:] == ["9.00", "9.50 *", "not judged"]


def test_what_failed_is_not_measured_and_says_why():
    failed = row(None, None, status="failed", reason="it ran out of memory")
    content = with_rows(0.5, int8=failed, fp32=row(1.0, 1.5))
    content["exports"]["fp32"] = export(None, None, status="failed", reason="parity is 0.5")
    comparison = compared([experiment("night.kd.seed0", content)])
    (group,) = comparison.groups
    assert group.places == []
    assert tables.missing(comparison)["parity is 0.5"] == ["accuracy in fp32 of kd"]
    cost = group.variants[0].costs["fp32", None]
    assert (cost["accuracy"], cost["failed"]) == (None, 1)


def test_the_charts_have_every_export():
    group = one_group([experiment("night.kd.seed0", summary(0.5))])
    latency, size = charts.against_costs(group, group.places[0])
    assert latency.describes.endswith("kd, int8 49.00 % at 1.00; kd, fp32 50.00 % at 2.00")
    assert size.describes.endswith("kd, int8 49.00 % at 0.100; kd, fp32 50.00 % at 0.300")
    assert [name for name, *_ in latency.legend] == ["1 kd, int8", "2 kd, fp32"]


def test_different_machines_with_one_url_are_different_devices():
    experiments = [
        experiment("night.kd.seed0", with_rows(0.5, int8=row(5.0, 5.5), cpu="Slow CPU")),
        experiment("night.ackd.seed0", with_rows(0.6, int8=row(1.0, 1.5), cpu="Quick CPU")),
    ]
    comparison = compared(experiments)
    (group,) = comparison.groups
    assert [place.title for place in group.places] == [
        "local: (Quick CPU), 1 thread",
        "local: (Slow CPU), 1 thread",
    ]
    for place in group.places:
        costs = {variant.name: variant.on(place) for variant in group.variants}
        assert all(not others for others in beaten_by(costs).values())
    quick = {cells[0]: cells[4:] for cells in tables.costs(group, group.places[0]).rows}
    assert quick == {"ackd": ["1.00", "1.50", "none"], "kd": [None, None, "not judged"]}


def test_the_papers_accuracies_are_compared_with_a_note_on_differences():
    results = {"teacher": 0.74, "kd": 0.7073, "ackd": 0.7238}

    def paper_of(method: str) -> dict[str, Any]:
        return {"method": method, "accuracies": results, "differs": ["distill.epochs is 20"]}

    experiments = [
        experiment("night.kd.seed0", summary(0.6, paper=paper_of("kd"))),
        experiment("night.ackd.seed0", summary(0.63, paper=paper_of("ackd"))),
        experiment("night.warm.seed0", summary(0.61, paper=paper_of("one"))),
        experiment("night.plain.seed0", summary(0.59)),
    ]
    comparison = compared(experiments)
    (group,) = comparison.groups
    table = tables.paper(group)
    assert table is not None
    assert table.rows == [
        ["ackd", "ACKD", "72.38 %", "63.00 %", "−9.38", "+1.65", "+3.00"],
        ["kd", "KD", "70.73 %", "60.00 %", "−10.73", "", ""],
    ]
    assert table.notes == ["Not comparable: ackd, kd: distill.epochs is 20."]
    lacking = tables.missing(comparison)
    assert lacking["report.paper is null"] == ["the paper’s accuracy for plain"]
    reason = "the paper has none for ONE, resnet20 and resnet8"
    assert lacking[reason] == ["the paper’s accuracy for warm"]


def test_parameters_that_differ_except_seeds():
    experiments = [
        experiment("night.kd.seed0", summary(0.5), method="kd", epochs=2, weights=[1, 2]),
        experiment("night.warm.seed3", summary(0.6), method="kd", epochs=2, weights=[2], t=8.0),
    ]
    table = tables.parameters(one_group(experiments))
    assert table is not None
    assert table.head == ["variant", "distill.weights", "distill.t"]
    assert table.rows == [["warm", "[2]", "8.0"], ["kd", "[1, 2]", "null"]]


def test_a_variant_of_different_settings_is_noted():
    experiments = [
        experiment(f"night.kd.seed{seed}", summary(0.5), seed=seed, epochs=2 + seed)
        for seed in (0, 1)
    ]
    (note,) = tables.accuracies(one_group(experiments)).notes
    assert note == "The experiments of kd differ in distill.epochs, not only in the seed."


def test_comparing_without_results_is_refused():
    broken = [("night.kd.seed0", "it stopped"), ("night.kd.seed1", "it stopped")]
    with pytest.raises(InputError, match=r"^no experiment has results: night.kd.seed0: it"):
        compare(Found([], broken), None)
    whole = compare(Found(sweep_of(ackd=[0.5]), broken), None)
    assert tables.missing(whole)["it stopped"] == ["night.kd.seed0, night.kd.seed1"]
