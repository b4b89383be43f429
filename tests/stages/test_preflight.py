"""Impossible settings are refused before anything runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from models.errors import InputError
from stages.params import Params
from stages.preflight import check, check_training, downloads


def assistants(*names: str, kind: str = "networks") -> dict[str, Any]:
    return {"method": "assistants", "assistants": {kind: list(names)}}


TAIL = {"ackd": {"learners": ["D3T", "D2B2"]}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"teacher": {"network": "resnet9"}}, "network 'resnet9' is not known"),
        ({"proxy": assistants("wrn")}, "network 'wrn' is not known"),
        ({"distill": {"ackd": {"learners": ["D2B1"]}}}, "'D2B1' does not fit resnet8"),
        (
            {
                "teacher": {"network": "resnet18_cifar"},
                "proxy": assistants("resnet32") | {"method": "teacher"},
                "distill": {"ackd": {"learners": ["D3T"]}},
            },
            "resnet18_cifar has 4, resnet8 has 3",
        ),
        (
            {
                "proxy": assistants("resnet8", "resnet18_cifar", "resnet14", kind="candidates"),
                "distill": {"ackd": {"learners": ["D3T"]}},
            },
            "resnet18_cifar has 4, resnet8 has 3",
        ),
        (
            {"teacher": {"network": "timm:vit_tiny_patch16_224", "image_size": 160}},
            "cannot take images of 160 .* to 224 pixels, the only size that it takes, or choose",
        ),
        (
            {"distill": {"network": "torchvision:squeezenet1_0"}, "data": {"image_size": 8}},
            "8 pixels",
        ),
        (
            {"data": {"unlabeled": "digits"}, "distill": {"method": "crd"}},
            "method crd learns from labels only.* one of kd, dkd, dist, rld, at, .*, ackd, or set",
        ),
        (
            {
                "teacher": {"network": "timm:test_vit", "image_size": 160},
                "distill": {"method": "at"},
            },
            "distill.method at needs the stages of timm:test_vit, which cannot be found",
        ),
        ({"distill": {"weights": "pretrained"}}, "pretrained: none are published for resnet8; the"),
        (
            {
                "teacher": {"network": "resnet18", "weights": "pretrained"},
                "proxy": assistants("resnet14"),
            },
            "pretrained: none are published for resnet14",
        ),
        ({"teacher": {"layer_decay": 0.5}}, "layer_decay is 0.5, but the layers of resnet20 are"),
        ({"distill": {"layer_decay": 0.5}}, "layer_decay is 0.5, but the layers of resnet8 are"),
        (
            {
                "teacher": {"network": "timm:test_resnet", "weights": "pretrained"}
                | {"layer_decay": 0.5},
                "proxy": assistants("resnet18"),
            },
            "layer_decay is 0.5, but the layers of resnet18 are",
        ),
        (
            {"data": {"image_size": 32}, "teacher": {"image_size": 64}, "distill": TAIL},
            "D3T needs maps of one size",
        ),
        (
            {"augmentation": {"crop_padding": 32, "pad_mode": "reflect"}},
            "crop_padding is 32, too large to reflect images of 32 pixels; use less or pad_mode",
        ),
        ({"validate": {"tensorrt": "required"}}, "tensorrt is required, but no NVIDIA GPU"),
        (
            {"proxy": {"method": "early_stopped"}, "teacher": {"epochs": 5}},
            "proxy.early_stopped.epochs: a schedule of 5 epochs cannot be compressed into 10",
        ),
    ],
)
def test_impossible_settings_are_refused(content, said):
    with pytest.raises(InputError, match=said):
        check(Params.model_validate(content))


def test_a_folder_without_classes_is_refused(tmp_path):
    source = {"source": f"imagefolder:{tmp_path}"}
    for name in ("cat", "dog", "test/cat"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(InputError, match="test may be splits or classes"):
        check(Params.model_validate({"data": source}))
    with pytest.raises(InputError, match=f"data.unlabeled: {tmp_path}: no images found; add"):
        check(Params.model_validate({"data": {"unlabeled": f"imagefolder:{tmp_path}"}}))
    # A data set of the hub is left to prepare_data, as converting it may take long.
    check(Params.model_validate({"data": {"unlabeled": f"hf:{tmp_path}"}}))
    # Images prepared elsewhere need no folder here; networks of other libraries have stages.
    zoo = {"network": "torchvision:resnet18", "ackd": {"learners": ["D4B1", "D3B2"]}}
    check(Params.model_validate({"distill": zoo}))
    check(Params.model_validate({"data": {"source": "imagefolder:/no/such/folder"}}))
    # Assistants of a proxy that is not selected do not matter.
    unused = assistants("resnet14", "absent", kind="candidates") | {"method": "teacher"}
    check(Params.model_validate({"proxy": unused}))
    check(Params.model_validate({"teacher": {"network": "timm:test_vit", "image_size": 160}}))


@pytest.mark.parametrize(
    ("content", "processes", "said"),
    [
        ({"distill": {"batch_size": 49}}, 1, "distill.batch_size needs 49 labeled images per step"),
        (
            {"distill": {"batch_size": 48}, "teacher": {"batch_size": 49}},
            1,
            "teacher.batch_size needs 49 labeled images per step, more than the 48 training images",
        ),
        (
            {
                "data": {"unlabeled": "digits"},
                "distill": {"batch_size": 98, "unlabeled_share": 0.5, "method": "kd"},
            },
            1,
            "distill.batch_size needs 49 labeled images per step",
        ),
        (
            {"distill": {"batch_size": 3, "method": "semckd"}},
            1,
            "distill.batch_size is 3, expected at least 4 images for each of 1 processes",
        ),
        (
            {"distill": {"batch_size": 16, "method": "semckd"}},
            3,
            "distill.batch_size is 16, which this method cannot divide evenly among 3 processes",
        ),
        (
            {"distill": {"batch_size": 16}, "teacher": {"batch_size": 7}},
            4,
            "teacher.batch_size is 7, expected at least 2 images for each of 4 processes; use a",
        ),
        (
            {
                "training": {"sync_batchnorm": True},
                "distill": {"network": "timm:test_efficientnet", "batch_size": 8, "method": "kd"},
                "teacher": {"batch_size": 8},
            },
            2,
            "sync_batchnorm is true, but torch cannot convert the custom BatchNorms of timm:test_e",
        ),
    ],
)
def test_what_training_cannot_use(tiny_origin, monkeypatch, content, processes, said):
    monkeypatch.chdir(tiny_origin)
    with pytest.raises(InputError, match=said):
        check_training(Params.model_validate(content), processes)


def test_a_missing_signing_key(monkeypatch):
    monkeypatch.setenv("ACKD_SIGNING_KEY", "absent.key")
    with pytest.raises(InputError, match="absent.key: no such file; ACKD_SIGNING_KEY names it"):
        check(Params())


@pytest.mark.usefixtures("student_project")
def test_candidates_are_not_compared_on_test_images():
    candidates = assistants("resnet8", "resnet14", kind="candidates")
    content = {"proxy": candidates, "distill": {"batch_size": 8}, "teacher": {"batch_size": 8}}
    check_training(Params.model_validate(content))
    manifest = Path("artifacts/data/manifest.json")
    text = json.loads(manifest.read_text())
    text["splits"]["val"] = text["splits"]["test"]
    manifest.write_text(json.dumps(text))
    with pytest.raises(InputError, match="would be compared on the test images; set data.val_frac"):
        check_training(Params.model_validate(content))


class Unexportable(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3)))


def test_a_student_that_cannot_be_exported(tiny_origin, monkeypatch):
    monkeypatch.chdir(tiny_origin)
    name = f"python:{__name__}:Unexportable"
    student = {"network": name, "batch_size": 8, "method": "kd"}
    params = Params.model_validate({"distill": student, "teacher": {"batch_size": 8}})
    with pytest.raises(InputError, match=f"distill.network: {name} cannot be exported to ONNX"):
        check_training(params)


def test_what_will_be_downloaded_is_known_beforehand(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    content = {
        "teacher": {"network": "timm:mobilenetv3_small_100", "weights": "pretrained"},
        "distill": {"network": "resnet18", "weights": "pretrained"},
    }
    params = Params.model_validate(content)
    teacher = "timm:mobilenetv3_small_100.lamb_in1k (about 10 MB, apache-2.0)"
    student = "torchvision:resnet18 IMAGENET1K_V1 (47 MB, no licence stated)"
    both = ["train_teacher", "distill", "report"]
    assert downloads(params, both) == [teacher, student]
    assert downloads(params, ["distill"]) == [student]
    proxy = assistants("timm:mobilenetv3_small_100")
    params = Params.model_validate(content | {"proxy": proxy})
    assert downloads(params, ["train_proxy"]) == [teacher]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/resnet18-f37072fd.pth").touch()
    snapshot = tmp_path / "models--timm--mobilenetv3_small_100.lamb_in1k/snapshots/0"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("0")
    assert downloads(params, both) == []
    content["distill"]["weights"] = "hf-hub:somebody/network"
    assert downloads(Params.model_validate(content), both) == ["hf-hub:somebody/network"]
    content["distill"]["weights"] = "student.pth"
    assert downloads(Params.model_validate(content), both) == []


@pytest.mark.usefixtures("student_project")
def test_before_training_the_size_of_the_images_is_known():
    content = {"teacher": {"network": "resnet8x4"}, "distill": TAIL}
    content["data"] = {"source": "imagefolder:/no/such/folder", "image_size": None}
    check(Params.model_validate(content))
    with pytest.raises(InputError, match="last maps have 64 and 256 channels"):
        check_training(Params.model_validate(content))


@pytest.mark.usefixtures("student_project")
@pytest.mark.parametrize(
    "content",
    [
        {"distill": {"weights": "local-dir:absent.pt"}},
        {"distill": {"weights": "absent.pt"}},
        {"analyze": {"baseline": "absent.csv"}},
        {"analyze": {"baseline": "other.csv"}},
        {"profile": {"devices": ["local:", "adb:?runner=absent.elf"]}},
    ],
)
def test_files_of_later_stages_are_missed_before_training(content):
    # A pulled teacher does without the file that it came from.
    pulled = {"teacher": {"weights": "absent.pt", "batch_size": 8}, "distill": {"batch_size": 8}}
    check_training(Params.model_validate(pulled))
    Path("other.csv").write_text("class,images,images_digest,student_right\ncat,1,0,80\n")
    message = r"absent\.\w+: no such file|baseline: other.csv has 1 classes \(cat\)"
    with pytest.raises(InputError, match=message):
        check_training(Params.model_validate(content))


@pytest.mark.usefixtures("student_project")
def test_the_students_weights_are_downloaded_before_training(monkeypatch):
    def offline(network: nn.Module, weights: str) -> None:
        raise InputError(f"the weights of {network.name} cannot be downloaded")

    monkeypatch.setattr("stages.preflight.load_weights", offline)
    student = {"network": "resnet18", "weights": "pretrained", "method": "kd", "batch_size": 8}
    content = {"distill": student, "teacher": {"batch_size": 8}}
    with pytest.raises(InputError, match="weights of resnet18 cannot be downloaded"):
        check_training(Params.model_validate(content))
