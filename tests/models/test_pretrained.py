"""Published weights: the library's own, where they fit, or a sentence that says why not."""

import socket
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision

import models
from models.errors import InputError
from models.pretrained import load_pretrained


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No name resolves, and nothing was downloaded before."""

    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    # The hub's client would try again for most of a minute.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["torchvision:mobilenet_v3_small", "resnet18", "timm:resnet18"])
def test_offline_it_is_one_sentence(name: str) -> None:
    with pytest.raises(InputError, match=f"weights of {name} cannot be downloaded .*; go online"):
        load_pretrained(models.build(name, 1000))


@pytest.mark.parametrize("name", ["torchvision:mobilenet_v3_small", "resnet18", "timm:resnet18"])
def test_another_number_of_classes_is_refused_before_downloading(name: str) -> None:
    with pytest.raises(InputError, match="tell 1000 classes apart and the data have 10"):
        load_pretrained(models.build(name, 10))


@pytest.mark.parametrize("name", ["resnet20", "resnet18_cifar", "timm:resnet10t.untrained"])
def test_networks_without_published_weights(name: str) -> None:
    if name.startswith("timm"):
        name = next(
            f"timm:{known}"
            for known in timm.list_models("resnet*")
            if not timm.models.is_model_pretrained(known)
        )
    network = models.build("resnet20", 1000)
    network.name = name  # without building a large one
    with pytest.raises(InputError, match=f"no weights are published for {name}"):
        load_pretrained(network)


def test_torchvisions_weights_and_their_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = torchvision.models.mobilenet_v3_small()
    monkeypatch.setattr(
        torchvision.models.MobileNet_V3_Small_Weights,
        "get_state_dict",
        lambda *_, **__: theirs.state_dict(),
    )
    network = models.build("torchvision:mobilenet_v3_small", 1000)
    normalization = load_pretrained(network)
    assert normalization.mean == (0.485, 0.456, 0.406)
    assert normalization.std == (0.229, 0.224, 0.225)
    ours = network.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.state_dict().items())


def test_timms_weights_and_their_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = timm.create_model("test_vit")
    monkeypatch.setattr(
        "timm.models._builder.load_state_dict_from_hf", lambda *_, **__: theirs.state_dict()
    )
    network = models.build("timm:test_vit", 1000)
    normalization = load_pretrained(network)
    assert normalization == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    ours = network.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.state_dict().items())
