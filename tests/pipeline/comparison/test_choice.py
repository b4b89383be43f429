"""`ackd choose` against an exhaustive search, and its units."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.errors import InputError
from pipeline.comparison.choice import Budget, Choice, choose, lines, misses, parse_budget
from pipeline.comparison.experiments import WORKSPACE, Experiment, Found
from tests.pipeline.comparison.exps import export, row
from tests.pipeline.comparison.test_variants import experiment, with_rows


def chosen_of(
    experiments: list[Experiment], *budget: float | None, on: str | None = None
) -> Choice:
    """Choose by ``max_p90_ms``, ``max_size_mb`` and ``min_accuracy``."""
    return choose(Found(experiments, []), Budget(*(*budget, None, None, None)[:3]), on)


def test_units():
    assert parse_budget("5 ms", "500kB", "60%") == pytest.approx((5.0, 0.5, 0.6))
    assert parse_budget("800us", "1MiB", "0.5") == pytest.approx((0.8, 1.048576, 0.5))
    assert parse_budget(None, None, None) == (None, None, None)
    for place, option, wrong in (
        (0, "--max-p90", ("5", "5MB", "5 Ms", "-5ms", "0ms", "5,0ms", "nan ms", "")),
        (1, "--max-size", ("2", "2mb", "2GB", "0MB", "MB", "2MBs")),
        (2, "--min-accuracy", ("60", "60%%", "101%", "-0.1", "high")),
    ):
        for text in wrong:
            given: list[str | None] = [None] * 3
            given[place] = text
            with pytest.raises(InputError, match=f"^{option} {text}: expected .*such as"):
                parse_budget(*given)


def student(name: str, *, ms: float, mb: float, accuracy: float, **more: Any) -> Experiment:
    """Create a student with int8 only; ``ms`` is its p90."""
    content = with_rows(0.5, int8=row(ms / 2, ms, **more))
    content["exports"] = {"int8": export(accuracy, mb)}
    return experiment(name, content)


def test_the_most_accurate_of_many_within_the_budget():
    random = np.random.default_rng(2)
    results = random.uniform((1, 0.1, 0.5), (10, 4, 0.9), (60, 3))
    many = [
        student(f"night.v{n}.seed0", ms=ms, mb=mb, accuracy=accuracy)
        for n, (ms, mb, accuracy) in enumerate(results)
    ]
    for limit_ms, limit_mb, least in random.uniform((1, 0.1, 0.5), (10, 4, 0.9), (40, 3)):
        over = [
            max(0, ms / limit_ms - 1) + max(0, mb / limit_mb - 1) + max(0, 1 - a / least)
            for ms, mb, a in results
        ]
        chosen = chosen_of(many, limit_ms, limit_mb, least)
        if fits := [n for n, missed in enumerate(over) if not missed]:
            best = max(fits, key=lambda n: results[n][2])
            assert chosen.best["int8"].experiment is many[best]
        else:
            assert chosen.best == {}
            assert chosen.nearest is not None
            assert chosen.nearest.experiment is many[int(np.argmin(over))]


def test_limits_are_inclusive_and_misses_are_named():
    found = chosen_of([student("a", ms=6.0, mb=2.5, accuracy=0.55)]).best["int8"]
    assert misses(found, Budget(6.0, 2.5, 0.55)) == {}
    assert list(misses(found, Budget(5.0, 2.0, 0.6))) == [
        "p90 6.00 ms is 1.00 ms, 20.0% too much",
        "size 2.50 MB is 0.500 MB, 25.0% too much",
        "accuracy 55.00 % is 5.00 points too little",
    ]


def test_folds_are_judged_by_their_mean_because_their_images_differ():
    accuracies = {"kd": (0.5, 0.9), "ackd": (0.72, 0.76)}
    students = [
        student(f"night.{name}.seed{seed}", ms=2.0, mb=1.0, accuracy=accuracy)
        for name, own in accuracies.items()
        for seed, accuracy in enumerate(own)
    ]
    images = students[0].images._replace(number=None, digest="2 folds, seed 0")
    budget = Budget(None, None, 0.72)
    chosen = choose(Found([replace(s, images=images) for s in students], []), budget, None)
    assert chosen.best["int8"].experiment.variant == "ackd"
    assert chosen.best["int8"].accuracy == pytest.approx(0.74)
    assert "  accuracies are means over the folds of a variant" in list(lines(chosen, budget))


def test_noisy_and_failed_exports_are_left_out_by_name():
    students = [
        student("quiet", ms=2.0, mb=1.0, accuracy=0.6),
        student("loud", ms=1.0, mb=1.0, accuracy=0.8, noisy=True),
        student("failed_there", ms=1.0, mb=1.0, accuracy=0.9, status="failed"),
    ]
    content = with_rows(0.5, int8=row(1.0, 1.0))
    content["exports"] = {"int8": export(0.95, 1.0, status="failed", reason="parity")}
    students.append(experiment("failed_export", content))
    chosen = choose(Found(students, [("broken", "it stopped")]), Budget(5.0, None, None), None)
    assert chosen.best["int8"].experiment.name == "quiet"
    assert chosen.left_out == {
        "an experiment without results, see `ackd compare`": 1,
        "an export that has failed": 1,
        "not measured on this device, or failed there": 1,
        "timed on a noisy machine: measure it again": 1,
    }
    # Without a limit on latency, noise does not matter.
    assert chosen_of(students, None, 1.0).best["int8"].accuracy == 0.9


def test_the_device_is_given_by_url_or_processor_and_never_guessed():
    def on(name: str, cpu: str, accuracy: float) -> Experiment:
        content = with_rows(accuracy, int8=row(1.0, 1.5), cpu=cpu)
        content["devices"]["ssh://pi@board"] = content["devices"]["local:"] | {"cpu": "Board 4"}
        return experiment(name, content)

    students = [on("a", "Slow CPU", 0.9), on("b", "Quick CPU", 0.6)]
    for wanted, name in (("quick", "b"), ("ssh://pi@board", "a")):
        assert chosen_of(students, 5.0, on=wanted).best["int8"].experiment.name == name
    several = r"several devices match; expected one of local: \(Slow CPU\), 1 thread, "
    for wanted, message in (
        (None, f"--device: {several}ssh"),
        ("local:", f"--device local:: {several}local: "),
        ("phone", "--device phone: no latency was measured there; expected one of local:"),
    ):
        with pytest.raises(InputError, match=message):
            chosen_of(students, 5.0, on=wanted)
    place = chosen_of([*students, on(WORKSPACE, "Slow CPU", 0.5)], 5.0).place
    assert place is not None
    assert place.title == "local: (Slow CPU), 1 thread"


def test_accuracies_on_other_images_are_not_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = (student(name, ms=1.0, mb=1.0, accuracy=0.6) for name in "ab")
    b = replace(b, images=b.images._replace(digest="bb"))
    with pytest.raises(InputError, match="tested on different images .* name one sweep"):
        chosen_of([a, b])
    here = replace(b, name=WORKSPACE, command=None)
    chosen = chosen_of([a, b, here])
    assert chosen.left_out == {"tested on other images": 1}
    assert chosen.best["int8"].experiment is here, "of equals what is at hand"
    *_, last = lines(chosen, Budget(None, None, None))
    assert last.endswith(": artifacts/onnx/int8.static.onnx, which `ackd run` creates")
    with pytest.raises(InputError, match="no experiment has results to choose by: a: it stopped"):
        choose(Found([], [("a", "it stopped")]), Budget(None, None, None), None)
