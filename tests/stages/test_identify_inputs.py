"""External inputs are identified by content, so replaced files are noticed."""

import sys
from pathlib import Path

import pytest

from stages import identify_inputs
from stages.params import Params


@pytest.fixture
def params(tmp_path, monkeypatch):
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    for name in ("a/0.png", "b/0.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        (tmp_path / "images" / name).write_text("pixels")
    (tmp_path / "teacher.pth").write_text("weights")
    teacher = {"weights": "../teacher.pth"}
    return Params.model_validate({"data": {"source": "imagefolder:../images"}, "teacher": teacher})


def identify(params: Params) -> tuple[str, str]:
    identify_inputs.main(params)
    return identify_inputs.IMAGES.read_text(), identify_inputs.TEACHER.read_text()


def test_a_replaced_input_changes_only_its_own_report(params):
    images, teacher = identify(params)
    assert identify(params) == (images, teacher)
    Path("../teacher.pth").write_text("other weights")
    assert identify(params)[0] == images
    assert (other := identify(params)[1]) != teacher
    for change in (
        lambda: Path("../images/a/1.png").write_text("pixels"),
        lambda: Path("../images/a/1.png").rename("../images/b/1.png"),
        lambda: Path("../images/b/1.png").write_text("more pixels"),
        lambda: Path("../images/a/1.bmp").write_text("pixels"),
        lambda: Path("../images/a/1.bmp").write_text("others"),
    ):
        change()
        assert identify(params)[0] != images
        assert identify(params)[1] == other
        images = identify(params)[0]
    more = Params.model_validate({"data": {"unlabeled": "imagefolder:../images"}})
    identify_inputs.main(more)
    assert identify_inputs.UNLABELED.read_text() == images
    before = identify(params)
    Path("../teacher.pth").unlink()
    Path("../images").rename("../elsewhere")
    assert identify(params) == before
    Path("../elsewhere").rename("../images")  # a copy has other times
    for path in Path("../images").rglob("*.png"):
        path.touch()
    assert identify(params) == before


def test_files_of_weights_and_the_baseline_are_known_by_their_bytes(params):
    Path("timm").mkdir()
    weights, baseline = Path("timm/model.safetensors"), Path("classes.csv")
    given = Params.model_validate(
        {"teacher": {"weights": "local-dir:timm"}, "analyze": {"baseline": "classes.csv"}}
    )
    for file, report in (
        (weights, identify_inputs.TEACHER),
        (baseline, identify_inputs.BASELINE),
    ):
        file.write_text("first")
        identify_inputs.main(given)
        before = report.read_text()
        file.write_text("other")
        identify_inputs.main(given)
        assert report.read_text() != before


@pytest.mark.parametrize(
    ("section", "report"),
    [
        ({"teacher": {"network": "python:nets:build"}}, identify_inputs.TEACHER),
        ({"distill": {"network": "python:nets:build"}}, identify_inputs.STUDENT),
        (
            {"proxy": {"method": "assistants", "assistants": {"networks": ["python:nets:build"]}}},
            identify_inputs.ASSISTANTS,
        ),
    ],
)
def test_code_of_a_network_changes_only_its_own_report(params, monkeypatch, section, report):
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("nets.py").write_text("def build(num_classes): ...")
    own = Params.model_validate(section)
    identify_inputs.main(own)
    before = identify_inputs.identify(own)
    Path("nets.py").write_text("def build(num_classes, width=8): ...")
    after = identify_inputs.identify(own)
    assert {path for path in after if after[path] != before[path]} == {report}
    assert "python:nets:build" in report.read_text()


def test_what_is_not_outside_has_no_sum(here):
    for teacher in ({}, {"weights": "pretrained"}):
        for source in ("digits", "hf:owner/name", "torchvision:MNIST:/data"):
            named = {"data": {"source": source}, "teacher": teacher}
            assert set(identify(Params.model_validate(named))) == {'{\n  "sha256": null\n}\n'}
