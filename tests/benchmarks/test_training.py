"""The training benchmark: contenders, computed ratios and written results."""

import dataclasses
import math
from typing import Any

import pytest

from benchmarks import training
from benchmarks.results import FOLDER
from benchmarks.worker import Task
from models.errors import InputError
from stages.files import read_json

FAKE = "tests.benchmarks.fake"
PEER = f"repdistiller_{training.WORKERS[0]}"  # depends on this machine's cores
MACS = {"teacher": 250.0, "kd": 100.0, "ackd": 200.0}


def rounds(*rates: float, waited: float = 0.0) -> list[dict[str, Any]]:
    """One second each."""
    shared = {"steps": 2, "seconds": 1.0, "waited_seconds": waited, "peak_memory_mb": 500.0}
    return [shared | {"amount": rate, "warm_up_seconds": 7.0} for rate in rates]


@pytest.fixture
def measured():
    """Two rounds, the second at half speed for all."""
    found = {
        "limit_fp32": rounds(2e6, 1e6),
        "limit_bf16": rounds(4e6, 2e6),
        f"repdistiller_{training.WORKERS[-1]}": rounds(90, 45),
        PEER: rounds(100, 50),
    }
    for suffix, factor in (("", 1), ("_compiled", 2)):
        found[f"kd_live{suffix}"] = rounds(factor * 200, factor * 100)
        found[f"kd_warm{suffix}"] = rounds(factor * 500, factor * 250, waited=0.02)
        found[f"ackd_live{suffix}"] = rounds(factor * 150, factor * 75)
        found[f"ackd_warm{suffix}"] = rounds(factor * 240, factor * 120)
    return found


def test_ratios_are_taken_round_by_round(measured):
    ratios = training.ratios(measured, MACS)
    for name, value in (
        ("kd_live_vs_repdistiller", 2.0),
        ("kd_warm_store_vs_repdistiller", 5.0),
        ("ackd_cost_vs_macs", (500 / 240) / (200 / 100)),
        ("feed_share", 0.02),
    ):
        assert ratios[name] == pytest.approx({"median": value, "min": value, "max": value})
    assert ratios["kd_live_vs_torchdistill"] is None
    compiled = training.ratios(measured, MACS, "_compiled")["kd_live_vs_repdistiller"]
    assert compiled == {"median": 4.0, "min": 4.0, "max": 4.0}


def test_a_row_states_its_fraction_of_the_precisions_limit(measured, checkout):
    every = training.contenders(str(checkout)).items()
    rows = {key: row for key, row in every if key in measured}
    facts = {"macs": MACS, "precision": "bf16"}
    found = training.summarize_pair(facts, rows, measured)["rows"]
    assert not [key for key in found if key.startswith("limit")]
    for key, precision, share in (
        ("kd_live", "bf16", 2 * 200 * (250 + 100) / 4e6),
        ("kd_warm", "bf16", 2 * 500 * 100 / 4e6),
        (PEER, "fp32", 2 * 100 * (250 + 100) / 2e6),
    ):
        assert found[key]["precision"] == precision
        assert math.isclose(found[key]["share_of_limit"]["median"], share)
    assert found["kd_live"]["images_per_second"] == {"median": 150.0, "min": 100.0, "max": 200.0}
    assert found["kd_live"]["compile_seconds"] is None
    assert found["kd_live_compiled"]["compile_seconds"] == 7.0


def test_the_command_measures_all_and_writes_json_and_page(
    data_folder, checkout, page, monkeypatch, capsys
):
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda _name: None)
    given = training.contenders(str(checkout)).items()
    rows = {key: dataclasses.replace(row, module=FAKE) for key, row in given}
    monkeypatch.setattr(training, "contenders", lambda _: rows)
    pair = ["resnet14-resnet8"]
    training.main(checkout, pair, data_folder, rounds=1, seconds=0)

    content = read_json(FOLDER / "training.json")
    assert content["n"] == 1
    assert content["machine"]["fast_bf16"] in {True, False}
    found = content["pairs"][pair[0]]["rows"]
    assert len(found["kd_warm"]["samples_images_per_second"]) == 1
    assert found["kd_warm"]["steps_per_round"] == 2
    assert found["kd_warm"]["ratio_to_repdistiller"]["min"] > 0
    assert "torchdistill" not in found
    text = page.read_text()
    assert "| KD, warm store, compiled |" in text
    assert "| KD, live teacher: speed relative to torchdistill | not measured |" in text
    assert "round 1 of 1" in capsys.readouterr().err


def test_a_mistake_is_one_sentence(tmp_path, data_folder, checkout):
    for where, data, pair, message in (
        (tmp_path, data_folder, "resnet14-resnet8", "expected a checkout of RepDistiller"),
        (checkout, tmp_path, "resnet14-resnet8", "manifest.json: no such file"),
        (checkout, data_folder, "resnet20", "'resnet20' is no pair"),
    ):
        with pytest.raises(InputError, match=message):
            training.main(where, [pair], data)


def test_a_failed_contender_is_named_with_its_last_line(tmp_path):
    task = Task(FAKE, "", "", "", "", 3, 4, 0.0, {"fails": True})
    with pytest.raises(InputError, match="the fake failed: RuntimeError: the fake is broken"):
        training.run_contender("the fake", task, tmp_path)
