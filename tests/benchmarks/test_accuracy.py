"""A small study by the real stages, as a table."""

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import accuracy
from benchmarks.page import markers
from models.errors import InputError


@pytest.mark.usefixtures("forked_stages")
def test_each_way_is_trained_once_and_becomes_a_row(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACKD_LOGITS", str(tmp_path / "logits"))
    for number in range(180):  # so that a batch is full, and no more
        path = tmp_path / f"images/{number % 3}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32), number).save(path)
    page, output = tmp_path / "page.md", tmp_path / "accuracy.json"
    begin, end = markers("accuracy")
    page.write_text(f"{begin}\n{end}\n")

    def measure(*only: str) -> list[str]:
        """The trainings that ran."""
        accuracy.main(
            f"imagefolder:{tmp_path / 'images'}",
            tmp_path / "work",
            teacher="resnet8",
            teacher_epochs=1,
            student="resnet8",
            epochs=5,
            only=list(only),
            seeds=1,
            output=output,
            page=page,
        )
        shown = capfd.readouterr().out.splitlines()
        return [line.split(":")[0] for line in shown if line.startswith(("fp32 0:", "bf16 0:"))]

    assert measure("fp32") == ["fp32 0"]
    assert measure("fp32", "bf16") == ["bf16 0"]
    runs = json.loads(output.read_text())["runs"]
    assert runs["bf16 0"]["settings"]["training"] == {"precision": "bf16"}
    rows = [line for line in page.read_text().splitlines() if line.startswith(("| fp32", "| bf16"))]
    for row, way in zip(rows, ("fp32", "bf16"), strict=True):
        figure = f"{100 * runs[f'{way} 0']['accuracy']:.2f}"
        assert row == f"| {way} | {figure} | {figure} |"

    with pytest.raises(InputError, match="--only: expected fp32, bf16, repdistiller, not fp64"):
        measure("fp64")
