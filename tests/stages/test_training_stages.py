"""Run train_teacher, train_proxy, distill and prune in sequence on a small real data set."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import models
from models.errors import InputError
from models.learners import load_learners
from models.networks.backbone import Backbone
from models.networks.checkpoint import load_network, load_state
from models.weights import Normalization, Origin
from stages import analyze, distill, prune, train_proxy, train_teacher
from stages.checkpoints.checkpoint import fingerprint
from stages.data.arrays import load_data
from stages.files import read_csv, read_json, sha256, write_json
from stages.params import Params
from stages.training.inference import FrozenNetwork
from stages.training.run import weights_sha256
from tests.stages.conftest import made_once, normalized, normalized_test_images

SHORT = {"epochs": 2, "batch_size": 16, "learning_rate": 0.02}
CONTENT: dict[str, Any] = {
    "augmentation": {"crop_padding": 1},
    "teacher": SHORT | {"network": "resnet14"},
    "distill": SHORT | {"network": "resnet8"},
}


def params(**distill: Any) -> Params:
    return Params.model_validate(CONTENT | {"distill": CONTENT["distill"] | distill})


@pytest.fixture(scope="session")
def trained(tiny_origin):
    """A project in which all four stages ran, with ACKD; read-only."""

    def make() -> None:
        shutil.copytree(tiny_origin / "artifacts/data", "artifacts/data")
        for stage in (train_teacher, train_proxy, distill, prune):
            stage.main(params())

    return made_once("trained", make)


@pytest.fixture
def root(trained, tmp_path, monkeypatch):
    """A writable copy."""
    shutil.copytree(trained, tmp_path / "root")
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


def weights(folder: str) -> Path:
    return Path(f"artifacts/{folder}/model.safetensors")


def test_metrics_and_history(trained):
    for stage, network in (("teacher", "resnet14"), ("distill", "resnet8")):
        metrics = read_json(trained / "reports" / stage / "metrics.json")
        assert metrics["network"] == network
        assert 0 <= metrics["accuracy"] <= 1
        assert 1 <= metrics["best_epoch"] <= metrics["epochs"] == 2
        assert metrics["best_val_accuracy"] >= metrics["val_accuracy"]
        rows = read_csv(trained / "reports" / stage / "history.csv")
        assert [row["epoch"] for row in rows] == ["1", "2"]
        assert float(rows[-1]["val_accuracy"]) == pytest.approx(metrics["val_accuracy"], rel=1e-5)
    assert list(metrics["learners"]) == ["D3B1", "D2B2", "ensemble"]
    assert sha256(trained / weights("proxy")) == sha256(trained / weights("teacher"))
    proxy = read_json(trained / "reports/proxy/metrics.json")
    assert proxy["method"] == "teacher"
    assert proxy["accuracy"] == read_json(trained / "reports/teacher/metrics.json")["accuracy"]


def test_all_trained_modules_are_kept_and_the_student_is_extracted(trained):
    distilled = trained / weights("distilled")
    state, header = load_state(distilled)
    buffers = header.pop("buffers")
    assert "student.bn1.running_mean" in buffers
    assert not any(name.endswith("weight") for name in buffers)
    assert header == {
        "method": "ackd",
        "network": "resnet8",
        "num_classes": 3,
        "learners": ["D3B1", "D2B2"],
        "teacher": {"network": "resnet14", "num_classes": 3},
        "image_size": 16,
    }
    tops = {name.split(".")[0] for name in state}
    assert tops == {"student", "learners", "attention", "discriminators"}
    student = load_network(trained / weights("student"))
    assert set(student.state_dict()) == set(models.build("resnet8", 3).state_dict())
    images = torch.randn(4, 3, 16, 16)
    target, _ = load_learners(distilled)(images)
    assert torch.equal(student(images), target.logits)

    report = read_json(trained / "reports/prune.json")
    parts = {"attention", *(f"{part}.{n}" for part in ("learners", "discriminators") for n in "01")}
    assert report["dropped"] == {
        part: sum(
            tensor.numel()
            for name, tensor in state.items()
            if name.startswith(f"{part}.") and "running" not in name and "batches" not in name
        )
        for part in parts
    }
    sizes, macs = report["parameters"], report["macs"]
    beside = sum(report["dropped"].values())
    assert sizes["student"] == sizes["plain"] == sizes["training"] - beside
    assert macs["student"] == macs["plain"] < macs["training"]
    assert report["bit_equal"] is True
    assert report["images"] == 30


OWN = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}


def other_normalisation(root: Path) -> tuple[Backbone, torch.Tensor]:
    """Save a network for images normalised by OWN as teacher.pth; return its test logits."""
    torch.manual_seed(5)
    network = models.build("resnet14", 3).eval()
    torch.save({"model": network.state_dict()}, root / "teacher.pth")
    images = normalized(np.load(root / "artifacts/data/test_images.npy"), **OWN)
    with torch.no_grad():
        return network, network(images)


def loaded(proxy: dict[str, Any] | None = None, **teacher: Any) -> Params:
    settings = {"network": "resnet14", "weights": "teacher.pth", "train": "none"} | teacher
    return Params.model_validate(CONTENT | {"teacher": settings, "proxy": proxy or {}})


def test_a_teacher_with_a_normalisation_of_its_own_gets_it_everywhere(root, monkeypatch):
    network, wanted = other_normalisation(root)
    labels = np.load(root / "artifacts/data/test_labels.npy")
    right = float((wanted.argmax(1).numpy() == labels).mean())
    train_teacher.main(loaded(normalization=OWN, expect_accuracy=right))
    metrics = read_json(root / "reports/teacher/metrics.json")
    assert metrics["accuracy"] == right
    assert "epochs" not in metrics  # it is measured but not trained
    train_proxy.main(loaded(normalization=OWN))
    # Downstream it accepts images with the data's normalisation, and has the plain names.
    images = normalized_test_images()
    for name in ("teacher", "proxy"):
        again = load_network(weights(name))
        assert list(again.state_dict()) == list(network.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(again(images), wanted, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(FrozenNetwork(again)(images), wanted, rtol=1e-4, atol=1e-5)
    distill.main(params(method="kd", epochs=1))
    with_own = weights("distilled").read_bytes()

    def publish(fresh: Backbone, _: str, **given: bool) -> Origin:
        assert given == {"new_classifier": False}
        fresh.load_state_dict(network.state_dict())
        published = Normalization(tuple(OWN["mean"]), tuple(OWN["std"]))
        return Origin("published", "0", None, published, [])

    with monkeypatch.context() as patched:
        patched.setattr("stages.training.run.load_weights", publish)
        train_teacher.main(loaded(weights="pretrained"))
    known = weights_sha256(again)
    assert weights_sha256(load_network(weights("teacher"))) == known
    # A teacher of this project brings its own along.
    shutil.copy(weights("teacher"), "own.safetensors")
    train_teacher.main(loaded(weights="own.safetensors"))
    assert weights_sha256(load_network(weights("teacher"))) == known
    # Another input makes another teacher, also in the store of logits.
    train_teacher.main(loaded())
    assert weights_sha256(load_network(weights("teacher"))) != known
    train_proxy.main(loaded())
    distill.main(params(method="kd", epochs=1))
    assert weights("distilled").read_bytes() != with_own


def test_only_a_head_is_trained(root):
    network, _ = other_normalisation(root)
    head = {"train": "head", "normalization": OWN, "epochs": 1, "batch_size": 10}
    train_teacher.main(loaded(**head))
    train_proxy.main(
        loaded(**head, proxy={"method": "early_stopped", "early_stopped": {"epochs": 1}})
    )
    for name in ("teacher", "proxy"):
        trained = load_network(weights(name)).state_dict()
        changed = {n for n, t in network.state_dict().items() if not torch.equal(t, trained[n])}
        assert changed == {"fc.weight", "fc.bias"}
    origin = read_json(root / "reports/teacher/metrics.json")["weights"]
    assert (origin["source"], origin["sha256"]) == ("teacher.pth", sha256(root / "teacher.pth"))


def test_a_training_of_all_layers_is_not_resumed_as_one_of_the_head(root, monkeypatch):
    other_normalisation(root)
    seen: list[str] = []

    def note(*known: Any) -> str:
        seen.append(fingerprint(*known))
        return seen[-1]

    monkeypatch.setattr("stages.training.run.fingerprint", note)
    for part in ("all", "head"):
        train_teacher.main(loaded(train=part, epochs=1, batch_size=16))
    assert len(set(seen)) == 2


def test_a_student_starts_from_weights_of_other_classes(root, capsys):
    torch.manual_seed(6)
    network = models.build("resnet8", 7)
    torch.save(network.state_dict(), root / "student.pth")
    still = {"epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0}
    distill.main(params(weights="student.pth", normalization=OWN, **still))
    assert "student.pth: a new classifier of 3 classes (was 7)" in capsys.readouterr().out
    prune.main(params())
    student = load_network(weights("student"))
    for name, parameter in network.named_parameters():
        if not name.startswith("fc."):
            torch.testing.assert_close(student.get_parameter(name), parameter)
    # It accepts the data's normalisation, and converts it to that of its weights.
    found = student.renormalize(normalized_test_images())
    own = normalized(np.load(root / "artifacts/data/test_images.npy"), **OWN)
    torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-5)
    method = analyze.load_method(params().distill, load_data(), load_network(weights("teacher")))
    assert torch.equal(method.student.renormalize(normalized_test_images()), found)
    # Its learners start as copies of its stages.
    group = load_learners(weights("distilled"))
    own_stage = dict(group.target.layer3.named_parameters())
    for name, parameter in group.learners[0].layer3.named_parameters():
        torch.testing.assert_close(parameter, own_stage[name])


def test_a_teacher_below_its_published_accuracy_is_refused(root):
    other_normalisation(root)
    train_teacher.main(loaded())
    found = read_json(root / "reports/teacher/metrics.json")["accuracy"]
    before = weights("teacher").read_bytes()
    train_teacher.main(loaded(expect_accuracy=found + 0.009))
    with pytest.raises(
        InputError,
        match=rf"teacher.pth: accuracy {found:.2%} on the test images, expected"
        rf" {found + 0.011:.2%} .*; .*other data, .*normalisation .*order of classes",
    ):
        train_teacher.main(loaded(expect_accuracy=found + 0.011))
    assert weights("teacher").read_bytes() == before


def test_a_teacher_and_a_student_whose_stages_cannot_be_found(root):
    names = {"teacher": "timm:test_mambaout", "distill": "torchvision:squeezenet1_1"}
    data = root / "artifacts/data"
    for split in ("train", "val", "test"):  # 16 pixels are too few for them
        small = np.load(data / f"{split}_images.npy")
        np.save(data / f"{split}_images.npy", small.repeat(2, 1).repeat(2, 2))
    write_json(data / "manifest.json", read_json(data / "manifest.json") | {"image_size": 32})
    short = {"epochs": 1, "batch_size": 16, "learning_rate": 0.01}
    content = {stage: short | {"network": name} for stage, name in names.items()}
    content["distill"] |= {"method": "kd"}
    for stage in (train_teacher, train_proxy, distill, prune, analyze):
        stage.main(Params.model_validate(content))
    for folder in ("teacher", "student"):
        assert load_network(weights(folder)).num_stages == 0


OWN_CODE = """
from torch import nn

def build(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
"""


def test_a_transformer_at_its_own_size_teaches_a_student_of_own_code(root, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_student", raising=False)  # of another test
    (root / "own_student.py").write_text(OWN_CODE)
    torch.manual_seed(0)
    published = models.build("timm:test_vit", 7)
    torch.save(published.state_dict(), root / "vit.pth")
    vit = {"network": "timm:test_vit", "weights": "vit.pth", "image_size": 160}
    short = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3, "optimizer": "adamw"}
    content = {
        "teacher": short | vit | {"layer_decay": 0.75},
        "distill": short | {"network": "python:own_student:build", "method": "kd"},
    }
    params = Params.model_validate(content)
    train_teacher.main(params)
    # An assistant that starts from random weights does without the decay by layer.
    assistant = {"method": "assistants", "assistants": {"networks": ["resnet8"]}}
    train_proxy.main(Params.model_validate(content | {"proxy": assistant}))
    teacher = load_network(weights("teacher"))
    assert (teacher.input_size, teacher.num_stages) == (160, 0)
    for stage in (train_proxy, distill, prune, analyze):
        stage.main(params)
    student = load_network(weights("student"))
    assert student.input_size is None
    # With other code it is another network.
    known = weights_sha256(student)
    (root / "own_student.py").write_text(f"{OWN_CODE}\n# changed\n")
    assert weights_sha256(student) != known
    # It sees the student's images, resized; with another size it is another teacher.
    images = torch.randn(2, 3, 16, 16)
    large = torch.nn.functional.interpolate(images, (160, 160), mode="bicubic", antialias=True)
    seen = teacher(images)
    known = weights_sha256(teacher)
    teacher.input_size = None
    assert torch.equal(seen, teacher(large))
    assert weights_sha256(teacher) != known


def test_a_damaged_proxy_leaves_the_old_student(root):
    path, student = (root / weights(name) for name in ("proxy", "distilled"))
    path.write_bytes(path.read_bytes()[:-10])
    before = student.read_bytes()
    with pytest.raises(InputError, match="artifacts/proxy/model.safetensors: damaged"):
        distill.main(params())
    assert student.read_bytes() == before


def test_only_the_first_process_copies_the_teacher(root, monkeypatch):
    shutil.rmtree(root / "artifacts/proxy")
    monkeypatch.setenv("RANK", "1")
    train_proxy.main(params())
    assert not (root / "artifacts/proxy").exists()
    monkeypatch.setenv("RANK", "0")
    train_proxy.main(params())
    assert sha256(weights("proxy")) == sha256(weights("teacher"))


def proxy(method: str, **own: Any) -> Params:
    return Params.model_validate(CONTENT | {"proxy": {"method": method, method: own}})


def test_an_early_stopped_teacher_is_the_teacher_in_fewer_epochs(root):
    train_proxy.main(proxy("early_stopped", epochs=1))
    metrics = read_json(root / "reports/proxy/metrics.json")
    assert metrics["method"] == "early_stopped"
    assert (metrics["network"], metrics["epochs"]) == ("resnet14", 1)
    # It equals a teacher that is trained for one epoch.
    content = CONTENT | {"teacher": CONTENT["teacher"] | {"epochs": 1}}
    train_teacher.main(Params.model_validate(content))
    stopped, wanted = (load_network(weights(name)) for name in ("proxy", "teacher"))
    assert weights_sha256(stopped) == weights_sha256(wanted)


def test_assistants_learn_one_from_another(root):
    train_proxy.main(proxy("assistants", networks=["resnet14", "resnet8"]))
    metrics = read_json(root / "reports/proxy/metrics.json")
    assert [link["network"] for link in metrics["chain"]] == ["resnet14", "resnet8"]
    assert metrics["accuracy"] == metrics["chain"][-1]["accuracy"]
    assert load_network(weights("proxy")).name == "resnet8"
    assert not (root / ".checkpoints").exists()
    # Another first assistant leads to another second one.
    first = weights("proxy").read_bytes()
    train_proxy.main(proxy("assistants", networks=["resnet8x4", "resnet8"]))
    assert weights("proxy").read_bytes() != first


def test_the_candidate_in_the_middle_becomes_the_assistant(root):
    names = ["resnet8", "resnet14", "resnet8x4"]
    train_proxy.main(proxy("assistants", candidates=names))
    metrics = read_json(root / "reports/proxy/metrics.json")
    alone = {link["network"]: link["val_accuracy"] for link in metrics["candidates"]}
    assert list(alone) == names
    top = read_json(root / "reports/teacher/metrics.json")["val_accuracy"]
    distances = [abs(alone[name] - (alone["resnet8"] + top) / 2) for name in names[1:]]
    chosen = names[1 + distances.index(min(distances))]
    assert [link["network"] for link in metrics["chain"]] == [chosen]
    found = weights("proxy").read_bytes()
    # It equals the assistant that is named explicitly.
    train_proxy.main(proxy("assistants", networks=[chosen]))
    assert weights("proxy").read_bytes() == found
    assert not (root / ".checkpoints").exists()
