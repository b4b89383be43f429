"""Published weights and weight files: loaded if they fit, else refused in one sentence."""

import argparse
import collections
import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.models import save_for_hf

import models
from models.errors import InputError
from models.networks.checkpoint import save_network
from models.weights import load_checkpoint, load_weights


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in a.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {"student": {f"_orig_mod.{k}": v for k, v in state.items()}},
        lambda state: {"net": {f"architecture.{k}": v for k, v in state.items()}, "acc": 70.1},
        lambda state: {"opt": argparse.Namespace(lr=0.05, decay=[150, 180]), "model": state},
        # From a method's file, the student is loaded, not the teacher.
        lambda state: {
            "model": {f"module.student.{k}": v for k, v in state.items()}
            | {f"module.teacher.{k}": v + 1 for k, v in state.items()}
        },
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {0: {}}}},
        # As in timm, averaged weights are preferred.
        lambda state: {
            "state_dict": {k: v + 1 for k, v in state.items()},
            "state_dict_ema": {f"_orig_mod.module.{k}": v for k, v in state.items()},
        },
        lambda state: (
            {"n_averaged": torch.tensor(7)} | {f"module.{k}": v for k, v in state.items()}
        ),
        lambda state: {"checkpoint": {"params": {f"net.model.{k}": v for k, v in state.items()}}},
        lambda state: {f"{'head' * ('fc.' in k) or 'backbone'}.{k}": v for k, v in state.items()},
        # From files older than torch 0.4.1, and from profilers.
        lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
        lambda state: state | {"total_ops": torch.zeros(1), "layer1.total_params": torch.zeros(1)},
        lambda state: (
            {"model": state, "best": np.float64(71.2), "classes": np.arange(3)}
            | {"log": collections.defaultdict(list), "from": Path("/data")}
        ),
    ],
)
def test_wrappers_of_the_public_zoos(tmp_path, wrap):
    source, network = models.build("resnet8", 10), models.build("resnet8", 10)
    torch.save(wrap(source.state_dict()), tmp_path / "a.pth")
    load_checkpoint(tmp_path / "a.pth", network)
    assert same(source, network)


def test_stripped_prefixes_and_skipped_keys_are_reported(tmp_path):
    network = models.build("resnet8", 10)
    state = network.state_dict()
    torch.save(state, tmp_path / "a.pth")
    assert load_checkpoint(tmp_path / "a.pth", network) == []
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"net": wrapped, "loss": {"weight": torch.ones(3)}}, tmp_path / "a.pth")
    assert load_checkpoint(tmp_path / "a.pth", network) == [
        "weights are those under net.module",
        "left out loss.weight",
    ]


def script(path: Path) -> None:
    network = models.build("resnet8", 10).eval()
    torch.jit.trace(network, torch.zeros(1, 3, 32, 32)).save(path)


def whole_network(path: Path) -> None:
    torch.save(models.build("resnet8", 10), path)


def not_finite(path: Path) -> None:
    state = models.build("resnet8", 10).state_dict()
    torch.save(state | {"fc.bias": torch.full((10,), torch.nan)}, path)


def sparse(path: Path) -> None:
    state = models.build("resnet8", 10).state_dict()
    torch.save(state | {"fc.bias": torch.ones(10).to_sparse()}, path)


def without_values(path: Path) -> None:
    state = models.build("resnet8", 10).state_dict()
    torch.save(state | {"fc.bias": torch.ones(10, device="meta")}, path)


@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::torch.jit.TracerWarning", "ignore:Validating sparse"
)
@pytest.mark.parametrize(
    ("write", "said"),
    [
        (script, "a TorchScript program, expected a state dict"),
        (lambda path: path.write_text("<!DOCTYPE html>\n<title>"), "a text file ('<!DOCTYPE"),
        (whole_network, "holds models.networks.resnet.ResNet besides tensors"),
        (not_finite, "fc.bias has values that are not finite"),
        (sparse, "fc.bias is sparse, quantized or without values; save it as a dense tensor"),
        (without_values, "fc.bias is sparse, quantized or without values"),
        (lambda path: path.mkdir(), "Is a directory; correct the path"),
    ],
)
def test_unusable_files_are_described(tmp_path, write, said):
    write(tmp_path / "a.pth")
    with pytest.raises(InputError, match=re.escape(f"a.pth: {said}")):
        load_checkpoint(tmp_path / "a.pth", models.build("resnet8", 10))


def renamed(state: dict[str, torch.Tensor], *pairs: tuple[str, str]) -> dict[str, torch.Tensor]:
    for pattern, by in pairs:
        state = {re.sub(pattern, by, name): tensor for name, tensor in state.items()}
    return state


@pytest.mark.parametrize(
    ("name", "pairs", "found"),
    [
        ("resnet18_cifar", [("downsample", "shortcut"), (r"fc\.", "linear.")], "linear.bias"),
        (
            "torchvision:densenet121",
            [(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2")],
            "features.denseblock1.denselayer1.norm.1.weight",
        ),
        # These have their own ``linear`` and ``convShortcut``.
        ("shufflenet_v1", [], "linear.bias"),
        ("wrn_16_2", [], "block1.layer.0.convShortcut.weight"),
    ],
)
def test_key_names_of_other_codes(tmp_path, name, pairs, found):
    source, network = (models.build(name, 10) for _ in range(2))
    state = renamed(source.state_dict(), *pairs)
    assert found in state
    torch.save({"net": state}, tmp_path / "a.pth")
    load_checkpoint(tmp_path / "a.pth", network)
    assert same(source, network)


def test_safetensors_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    source, network = (models.build("resnet8", 10) for _ in range(2))
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    load_weights(network, "~/a.safetensors")
    assert same(source, network)


def test_auxiliary_classifiers_are_dropped(tmp_path):
    source, network = (models.build("resnet8", 10) for _ in range(2))
    beside = ("AuxLogits.fc.weight", "aux1.conv.bn.bias", "aux2.fc1.weight")
    torch.save(source.state_dict() | {name: torch.ones(3) for name in beside}, tmp_path / "a.pth")
    load_checkpoint(tmp_path / "a.pth", network)
    assert same(source, network)


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("timm:deit_tiny_distilled_patch16_224", ("head.", "head_dist.")),
        ("timm:volo_d1_224", ("aux_head.", "head.")),
    ],
)
def test_both_heads_of_a_network_are_its_classifier(tmp_path, name, heads):
    source, network = models.build(name, 1000), models.build(name, 10)
    torch.save(source.state_dict(), tmp_path / "a.pth")
    load_weights(network, str(tmp_path / "a.pth"))
    for own, tensor in network.state_dict().items():
        assert own.startswith(heads) or torch.equal(tensor, source.state_dict()[own])
    network.freeze_trunk()
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert trained == [head + kind for head in heads for kind in ("weight", "bias")]


def test_how_a_network_transforms_images_is_kept(tmp_path):
    source, network = (models.build("resnet8", 10).eval() for _ in range(2))
    source.set_input([2, 3, 4], [0.1, 0.2, 0.3])
    source.input_size = 24
    save_network(tmp_path / "a.safetensors", source)
    origin = load_weights(network, str(tmp_path / "a.safetensors"))
    assert origin.notes == ["images are scaled and shifted as the file says"]
    assert network.input_size is None  # it is trained further, with images of another size
    load_weights(network, str(tmp_path / "a.safetensors"), new_classifier=False)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(images), source(images))


def test_another_architecture_is_refused_with_the_differences(tmp_path):
    torch.save(models.build("resnet20", 10).state_dict(), tmp_path / "a.pth")
    for name, difference in (
        ("resnet8", r"layer1.1.\S+ is unknown"),
        ("resnet32", "layer1.3.* is missing"),
    ):
        with pytest.raises(InputError, match=f"a.pth: not a checkpoint of {name}: {difference}"):
            load_checkpoint(tmp_path / "a.pth", models.build(name, 10))


def test_a_classifier_for_other_classes_is_refused(tmp_path):
    torch.save(models.build("resnet8", 10).state_dict(), tmp_path / "a.pth")
    network = models.build("resnet8", 100)
    before = network.fc.weight.clone()
    with pytest.raises(InputError, match="the classifier is of 10 classes, expected 100"):
        load_checkpoint(tmp_path / "a.pth", network)
    assert torch.equal(before, network.fc.weight)


class Leaves:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("hidden", [False, True])
def test_code_in_a_pickle_is_not_run(tmp_path, hidden):
    network, code = models.build("resnet8", 10), Leaves(tmp_path / "was here")
    options = argparse.Namespace(lr=code) if hidden else code
    torch.save({"opt": options, "model": network.state_dict()}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="not loaded because that") as caught:
        load_checkpoint(tmp_path / "a.pth", network)
    assert not (tmp_path / "was here").exists()
    # torch's own message advises to switch the protection off.
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_cut_or_empty(tmp_path):
    path, network = tmp_path / "a.pth", models.build("resnet8", 10)
    with pytest.raises(InputError, match="No such file"):
        load_checkpoint(path, network)
    torch.save(network.state_dict(), path)
    whole = path.read_bytes()
    for size in (0, 4, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="a.pth: "):
            load_checkpoint(path, network)
    circle: dict[str, object] = {}
    circle["model"] = circle
    for content in ([1, 2], circle):
        torch.save(content, path)
        with pytest.raises(InputError, match="holds no state dict"):
            load_checkpoint(path, network)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Without name resolution and without earlier downloads."""

    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    # The hub's client would retry for most of a minute.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["torchvision:mobilenet_v3_small", "resnet18", "timm:resnet18"])
def test_offline_it_is_one_sentence(name):
    with pytest.raises(InputError, match=f"{name[-8:]} cannot be downloaded .*; go online"):
        load_weights(models.build(name, 1000), "pretrained")


def test_a_folder_as_in_timm(tmp_path, monkeypatch):
    source, network = models.build("timm:test_resnet", 10), models.build("timm:test_resnet", 3)
    save_for_hf(source.network, tmp_path / "known", model_config={"num_classes": 10})
    monkeypatch.setenv("HOME", str(tmp_path))
    origin = load_weights(network, "local-dir:~/known")
    assert origin.source == "local-dir:~/known"
    assert origin.notes == ["a new classifier of 3 classes (was 10)"]
    assert torch.equal(network.conv1[0].weight, source.conv1[0].weight)
    with pytest.raises(InputError, match="weights: local-dir:absent: no such folder; correct"):
        load_weights(models.build("timm:test_resnet", 10), "local-dir:absent")


@pytest.mark.parametrize("name", ["resnet20", "resnet18_cifar", "timm:resnet10t.untrained"])
def test_networks_without_published_weights(name):
    if name.startswith("timm"):
        name = next(
            f"timm:{known}"
            for known in timm.list_models("resnet*")
            if not timm.models.is_model_pretrained(known)
        )
    network = models.build("resnet20", 1000)
    network.name = name  # without building a large one
    with pytest.raises(InputError, match=r"none (are published )?for"):
        load_weights(network, "pretrained")


PUBLISHED = {
    "torchvision:mobilenet_v3_small": (
        torchvision.models.mobilenet_v3_small,
        "torchvision.models.MobileNet_V3_Small_Weights.get_state_dict",
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ),
    "timm:test_vit": (
        lambda: timm.create_model("test_vit"),
        "timm.models._builder.load_state_dict_from_hf",
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_and_their_normalisation(name, monkeypatch):
    build, downloads, normalization = PUBLISHED[name]
    theirs = build()
    monkeypatch.setattr(downloads, lambda *_, **__: theirs.state_dict())
    network = models.build(name, 1000)
    origin = load_weights(network, "pretrained")
    assert (origin.normalization, origin.notes) == (normalization, [])
    assert same(theirs, network)
    # For other classes, everything except the classifier is loaded, unless it must be kept.
    network = models.build(name, 10)
    again = load_weights(network, "pretrained")
    assert again.notes == ["a new classifier of 10 classes (was 1000)"]
    assert again.sha256 == origin.sha256
    differ = [
        n for n, t in network.state_dict().items() if not torch.equal(t, theirs.state_dict()[n])
    ]
    classifier = network.last_layer().state_dict()
    assert len(differ) == len(classifier)
    # Initial weights are small, or gradients would ruin the trunk; timm's are up to 0.3 here.
    bound = classifier["weight"][0].numel() ** -0.5
    assert all(0 < t.abs().max() <= bound for t in classifier.values())
    with pytest.raises(InputError, match="the classifier is of 1000 classes, expected 10"):
        load_weights(network, "pretrained", new_classifier=False)
