"""The commands in the pages on own images and teachers do what the pages say.

They run unchanged, with small folders of images in place of /data.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import models
from models.networks.resnet import ResNet
from pipeline.git_command import git
from pipeline.sweep.plan import load_plan
from stages import prepare_data
from stages.files import read_json
from stages.params import load_params, parse_params, read_yaml
from stages.preflight import check
from tests.pages import ROOT, blocks, inline, make_project, sections, type_in

IMAGES, TEACHER = "how-to-own-images.md", "how-to-own-teacher.md"
UNLABELED = "how-to-unlabelled-images.md"
CLASSES = ["daisy", "iris", "poppy", "tulip"]


def photograph(size: tuple[int, int], seed: int) -> Image.Image:
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_photographs(folder: Path) -> Path:
    """Write 25 image files per class."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(25):
            picture = photograph((70 + number, 90 - number), 100 * label + number)
            picture.save(folder / name / f"{number}.png")
    return folder


def shape(project: Path, split: str) -> tuple[int, ...]:
    return tuple(np.load(project / f"artifacts/data/{split}_images.npy", mmap_mode="r").shape)


@pytest.mark.usefixtures("programs", "prefect_server")
def test_own_images(tmp_path):
    flowers = write_photographs(tmp_path / "flowers")
    project = make_project(tmp_path / "project", "identify_inputs", "prepare_data")
    [start] = blocks(IMAGES, "")
    said = type_in(project, start, ("/data/flowers", str(flowers)))
    assert f"data.source: digits -> imagefolder:{flowers}" in said
    assert re.search(r"prepare_data +will run", said)
    manifest = read_json(project / "artifacts/data/manifest.json")
    assert manifest["classes"] == CLASSES
    # A fifth of each class is for testing, and a tenth of the rest for validation.
    counts = {name: part["per_class"][0] for name, part in manifest["splits"].items()}
    assert counts == {"train": 18, "val": 2, "test": 5}
    assert shape(project, "train") == (72, 182, 182, 3)
    assert shape(project, "test") == (20, 160, 160, 3)


def test_cross_validation(tmp_path, monkeypatch):
    flowers = write_photographs(tmp_path / "flowers")
    project = make_project(tmp_path / "project", *read_yaml(ROOT / "dvc.yaml")["stages"])
    monkeypatch.chdir(project)
    [file] = blocks(IMAGES, "Splits and labels")
    Path("sweep.yaml").write_text(file.replace("/data/flowers", str(flowers)))
    git(project, "add", ".")
    git(project, "commit", "-qm", "all")
    plan = load_plan(Path("sweep.yaml"))
    methods = [experiment.params["distill"]["method"] for experiment in plan.experiments]
    assert methods == ["scratch"] * 5 + ["kd"] * 5
    tested = []
    for experiment in plan.experiments[:5]:
        prepare_data.main(parse_params(experiment.params))
        tested += [image.tobytes() for image in np.load("artifacts/data/test_images.npy")]
    assert len(tested) == len(set(tested)) == 25 * len(CLASSES)


@pytest.mark.usefixtures("programs", "prefect_server")
def test_unlabelled_images(tmp_path):
    flowers = write_photographs(tmp_path / "flowers")
    more = tmp_path / "more"
    more.mkdir()
    for number in range(5):
        photograph((64, 64), 1000 + number).save(more / f"{number}.png")
    (more / "twin.png").write_bytes((flowers / "iris/3.png").read_bytes())
    project = make_project(tmp_path / "project", "identify_inputs", "prepare_data")
    [start] = blocks(UNLABELED, "")
    type_in(project, start, ("/data/flowers", str(flowers)), ("/data/more", str(more)))
    assert shape(project, "unlabeled") == (5, 32, 32, 3)
    said = type_in(project, "ackd status")
    assert "images of 4 classes, 32x32; 5 unlabeled, 1 left out as duplicates" in said
    photograph((64, 64), 2000).save(more / "new.png")
    assert "reports/inputs/unlabeled.json modified" in type_in(project, "ackd status")
    type_in(project, blocks(UNLABELED, "What the student sees")[0])
    params = load_params(project / "params.yaml")
    assert (params.distill.unlabeled_share, params.unlabeled_per_batch) == (0.75, 48)


def test_photographs_of_many_sizes(programs, tmp_path, monkeypatch):
    photos = write_photographs(tmp_path / "photos")
    project = make_project(tmp_path / "project", "identify_inputs", "prepare_data")
    monkeypatch.chdir(project)
    crops, networks = blocks(IMAGES, "Photographs of many sizes")
    [start] = blocks(IMAGES, "")
    use = start.splitlines()[0].replace("/data/flowers", str(photos))
    type_in(project, f"{use} {crops}")
    prepare_data.main(load_params())
    assert shape(project, "train")[1:] == (146, 146, 3)
    assert shape(project, "test")[1:] == (128, 128, 3)

    type_in(project, networks, ("/data/photos", str(photos)))
    params = load_params()
    assert (params.data.image_size, params.gate.min_accuracy) == (128, None)
    check(params)
    for name in (params.teacher.network, params.distill.network):
        assert len(models.build(name, len(CLASSES)).stage_parts) == 4
    prepare_data.main(params)
    assert shape(project, "train")[1:] == (146, 146, 3)
    type_in(project, blocks(IMAGES, "Classes of uneven size")[0])
    data = load_params().data
    assert (data.sampling, data.class_weights) == ("balanced", "balanced")


def write_teacher(path: Path) -> None:
    """Save a resnet56 that classifies every image as a daisy."""
    network = models.build("resnet56", len(CLASSES))
    assert isinstance(network, ResNet)
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    torch.save({"model": network.state_dict()}, path)


@pytest.mark.usefixtures("programs", "prefect_server")
def test_own_teacher(tmp_path):
    images = tmp_path / "images"
    for split in ("train", "test"):
        write_photographs(images / split)
    checkpoint = tmp_path / "teacher.pth"
    write_teacher(checkpoint)
    stages = ("identify_inputs", "prepare_data", "train_teacher")
    project = make_project(tmp_path / "project", *stages)
    start, pretrained, transformer = blocks(TEACHER, "")
    said = type_in(
        project,
        start,
        ("/data/resnet56.pth", str(checkpoint)),
        ("0.7234", "0.25"),
        # The preset's own images would be downloaded.
        ("cifar100/trial", f"cifar100/trial -S data.source=imagefolder:{images}"),
    )
    assert "teacher.expect_accuracy: null -> 0.25" in said
    metrics = read_json(project / "reports/teacher/metrics.json")
    assert (metrics["network"], metrics["accuracy"]) == ("resnet56", 0.25)
    history = (project / "reports/teacher/history.csv").read_text()
    assert history.splitlines()[1].startswith("0,"), "nothing is trained"
    torch.save({"model": models.build("resnet56", len(CLASSES)).state_dict()}, checkpoint)
    said = type_in(project, "ackd status")
    assert re.search(r"train_teacher +will run +reports/inputs/teacher.json modified", said)
    *code, use = blocks(TEACHER, "Your own code")
    (project / "nets").mkdir()
    (project / "nets/tiny.py").write_text("\n".join(code))
    said = type_in(project, use)
    assert "distill.network: resnet20 -> python:nets.tiny:build" in said
    assert "distill.weights: null -> pretrained" in type_in(project, pretrained)
    assert "teacher.image_size: null -> 224" in type_in(project, transformer)


def test_no_command_of_the_pages_is_left_out():
    titles = ["Splits and labels", "Photographs of many sizes", "Classes of uneven size"]
    assert sections(IMAGES) == ["", *titles]
    assert sections(TEACHER) == ["", "Your own code"]
    assert sections(UNLABELED) == ["", "What the student sees"]
    # Explanations of replaced files and of -S.
    noticing = {"ackd run", "ackd status", "dvc repro", "dvc status"}
    assert set(inline(IMAGES)) - noticing == {
        *("ackd predict picture.jpg", "ackd show", "dvc exp run -S"),
        "dvc repro --force prepare_data",
    }
    assert set(inline(TEACHER)) | set(inline(UNLABELED)) <= noticing
