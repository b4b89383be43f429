"""Measure real dvc runs; the flow, which needs a server, is tested elsewhere."""

import pytest

from benchmarks import overhead
from benchmarks.results import FOLDER
from stages.files import read_json


@pytest.fixture(autouse=True)
def _dvc_alone(monkeypatch):
    monkeypatch.setattr(overhead, "RUNNERS", {"dvc": overhead.RUNNERS["dvc"]})
    monkeypatch.setattr(overhead, "LENGTHS", (1, 3))


def test_a_round_of_real_runs_becomes_a_table(page, capsys):
    overhead.main(rounds=1)
    measured = read_json(FOLDER / "overhead.json")["runners"]["dvc"]
    whole = measured["3_changed"]["median"]
    assert measured["stage_changed"]["median"] == pytest.approx(
        (whole - measured["1_changed"]["median"]) / 2
    )
    assert measured["3_unchanged"]["median"] > 0
    row = next(line for line in page.read_text().splitlines() if line.startswith("| `dvc repro`"))
    assert f"{whole:.2f} ({whole:.2f} to {whole:.2f})" in row
    assert row in capsys.readouterr().out


def test_a_failed_run_is_named_with_its_last_line(tmp_path):
    overhead.make_chain(tmp_path, 1)
    with pytest.raises(overhead.InputError, match="`dvc repro` failed: .*f0"):
        overhead.seconds("dvc", tmp_path, {})
