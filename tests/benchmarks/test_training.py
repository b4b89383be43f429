"""The command: who is compared, what is computed from it, and what is written."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import figures, rows, training
from benchmarks.page import markers, write_section
from benchmarks.process import Contender
from benchmarks.worker import Task
from models.errors import InputError
from stages.machine import cores

FAKE = "tests.benchmarks.fake"
BEGIN, END = markers("training")
PEER = f"repdistiller_{rows.WORKERS[0]}"  # by the cores of this machine
MACS = {"teacher": 250.0, "kd": 100.0, "ackd": 200.0}


def rounds(*rates: float, waited: float = 0.0) -> list[dict[str, Any]]:
    """One second each."""
    shared = {"steps": 2, "seconds": 1.0, "waited_seconds": waited, "peak_memory_mb": 500.0}
    return [shared | {"amount": rate} for rate in rates]


@pytest.fixture
def measured() -> dict[str, list[dict[str, Any]]]:
    """Two rounds; the second is half as fast for all."""
    found = {
        "limit_fp32": rounds(2e6, 1e6),
        "limit_bf16": rounds(4e6, 2e6),
        f"repdistiller_{rows.WORKERS[-1]}": rounds(90, 45),
        PEER: rounds(100, 50),
    }
    for suffix, factor in (("", 1), ("_compiled", 2)):
        found[f"kd_live{suffix}"] = rounds(factor * 200, factor * 100)
        found[f"kd_warm{suffix}"] = rounds(factor * 500, factor * 250, waited=0.02)
        found[f"ackd_live{suffix}"] = rounds(factor * 150, factor * 75)
        found[f"ackd_warm{suffix}"] = rounds(factor * 240, factor * 120)
    return found


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What passes for one, as nothing is imported from it."""
    (tmp_path / "rep/helper").mkdir(parents=True)
    (tmp_path / "rep/helper/loops.py").touch()
    return tmp_path / "rep"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nThe end.\n")
    return page


def test_ratios_are_taken_round_by_round(measured: dict[str, Any]) -> None:
    ratios = figures.ratios(measured, MACS)
    assert ratios["kd_live_vs_repdistiller"] == {"median": 2.0, "min": 2.0, "max": 2.0}
    assert ratios["kd_warm_store_vs_repdistiller"] == {"median": 5.0, "min": 5.0, "max": 5.0}
    assert ratios["kd_live_vs_torchdistill"] is None
    cost = ratios["ackd_cost_vs_macs"]
    assert cost is not None
    assert math.isclose(cost["median"], (500 / 240) / (200 / 100))
    assert ratios["feed_share"] == {"median": 0.02, "min": 0.02, "max": 0.02}
    compiled = figures.ratios(measured, MACS, "_compiled")
    assert compiled["kd_live_vs_repdistiller"] == {"median": 4.0, "min": 4.0, "max": 4.0}


def test_a_row_says_what_share_of_its_precisions_limit_it_reaches(
    measured: dict[str, Any], checkout: Path
) -> None:
    contenders = rows.our_rows() | {
        key: row for key, row in rows.peer_rows(checkout, None).items() if key in measured
    }
    facts = {"macs": MACS, "precision": "bf16"}
    warm_up = dict.fromkeys(contenders, 7.0)
    content = figures.summarize_pair(facts, contenders, measured, warm_up)
    live, warm = content["rows"]["kd_live"], content["rows"]["kd_warm"]
    assert live["precision"] == "bf16"
    assert math.isclose(live["share_of_limit"]["median"], 2 * 200 * (250 + 100) / 4e6)
    assert math.isclose(warm["share_of_limit"]["median"], 2 * 500 * 100 / 4e6)
    peer = content["rows"][PEER]
    assert peer["precision"] == "fp32"
    assert math.isclose(peer["share_of_limit"]["median"], 2 * 100 * (250 + 100) / 2e6)
    assert live["images_per_second"] == {"median": 150.0, "min": 100.0, "max": 200.0}
    assert live["compile_seconds"] is None
    assert content["rows"]["kd_live_compiled"]["compile_seconds"] == 7.0


def test_the_command_measures_all_and_writes_json_and_page(
    data_folder: Path,
    checkout: Path,
    page: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def faked(found: dict[str, rows.Row]) -> dict[str, rows.Row]:
        return {key: dataclasses.replace(row, module=FAKE) for key, row in found.items()}

    monkeypatch.setattr(training, "our_rows", lambda: faked(rows.our_rows()))
    monkeypatch.setattr(training, "limit_rows", lambda: faked(rows.limit_rows()))
    monkeypatch.setattr(training, "peer_rows", lambda *given: faked(rows.peer_rows(*given)))
    monkeypatch.setattr(rows.importlib.util, "find_spec", lambda _name: None)
    output = page.with_name("training.json")
    arguments = ["--repdistiller", str(checkout), "--pairs", "resnet14-resnet8"]
    arguments += ["--data", str(data_folder), "--rounds", "3", "--steps", "2"]
    training.main([*arguments, "--output", str(output), "--page", str(page)])

    content = json.loads(output.read_text())
    assert content["n"] == 3
    assert content["machine"]["fast_bf16"] in {True, False}
    pair = content["pairs"]["resnet14-resnet8"]
    names = ["kd_live_vs_repdistiller", "kd_warm_store_vs_repdistiller"]
    names += ["kd_live_vs_torchdistill", "ackd_cost_vs_macs", "feed_share"]
    for kind in ("ratios", "ratios_compiled"):
        assert list(content[kind]) == names
        for name, ratio in content[kind].items():
            spread = pair[kind][name]
            assert ratio == {"resnet14-resnet8": spread and spread["median"]}
    row = pair["rows"]["kd_warm"]
    assert len(row["samples_images_per_second"]) == 3
    assert row["steps_per_round"] == 2
    assert row["ratio_to_repdistiller"]["min"] > 0
    absent = {"title": f"torchdistill, {cores()} workers", "reason": rows.NO_TORCHDISTILL}
    assert pair["rows"]["torchdistill"] == absent

    text = page.read_text()
    assert text.startswith(f"# Title\n\n{BEGIN}\n")
    assert text.endswith(f"{END}\n\nThe end.\n")
    assert "old" not in text
    assert "| KD, warm store, compiled |" in text
    assert f"not measured: {rows.NO_TORCHDISTILL}" in text
    shown = capsys.readouterr()
    assert "| KD, live teacher |" in shown.out
    assert "round 3 of 3" in shown.err


def message(arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as error:
        training.main(arguments)
    return str(error.value)


def test_a_missing_checkout_or_data_is_one_sentence(
    tmp_path: Path, data_folder: Path, checkout: Path
) -> None:
    data = ["--data", str(data_folder)]
    assert "expected a checkout of RepDistiller" in message(["--repdistiller", "nowhere", *data])
    given = ["--repdistiller", str(checkout)]
    assert "manifest.json: no such file" in message([*given, "--data", str(tmp_path)])
    assert "'resnet20' is no pair" in message([*given, *data, "--pairs", "resnet20"])
    assert "network 'x' is not known" in message([*given, *data, "--pairs", "x-resnet8"])
    python = ["--torchdistill-python", "no-such-python"]
    assert "no-such-python is no program" in message([*given, *data, *python])


@pytest.mark.parametrize("arguments", [[], ["--repdistiller", ".", "--rounds", "0"]])
def test_wrong_arguments_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert message(arguments) == "2"
    assert "error: " in capsys.readouterr().err


def test_a_contender_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    task = Task(FAKE, "", "", "", "", 3, 4, {"fails": True})
    with Contender("the fake", task, tmp_path, tmp_path) as contender:
        with pytest.raises(InputError, match="the fake ended: RuntimeError: the fake is broken"):
            contender.warm_up()
        with pytest.raises(InputError, match="the fake is broken"):
            contender.run(1)


def test_a_page_without_its_marker_lines_is_refused(tmp_path: Path, page: Path) -> None:
    page.write_text(f"{BEGIN}\n")
    with pytest.raises(InputError, match="put them back"):
        write_section(page, "training", "new\n")
    with pytest.raises(InputError, match="no such file"):
        write_section(tmp_path / "none.md", "training", "new\n")
