"""Convert weights with other libraries' names, and plan trainings with them."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import models
from benchmarks import photos
from models.errors import InputError
from models.weights import load_weights
from stages.params import read_yaml

NETWORK = "tf_efficientnet_lite0"


def test_weights_under_other_names_become_timms(tmp_path, monkeypatch):
    theirs = timm.create_model(NETWORK)
    renamed = {f"other.{n}": t for n, t in enumerate(theirs.state_dict().values()) if t.ndim}
    torch.save(renamed, tmp_path / "student.pth")
    target = tmp_path / f"weights/{NETWORK}.safetensors"
    photos.convert(tmp_path / "student.pth", NETWORK, target)
    network = models.build(f"timm:{NETWORK}", 1000)
    load_weights(network, str(target))
    ours = network.state_dict()
    assert all(torch.equal(ours[n], t) for n, t in theirs.state_dict().items())
    with pytest.raises(InputError, match=r"student.pth: expected the parameters of tf_eff.*lite2"):
        photos.convert(tmp_path / "student.pth", "tf_efficientnet_lite2", target)

    ran: list[Any] = []
    monkeypatch.setattr(photos, "convert", lambda *_: None)
    monkeypatch.setattr(photos, "compare", lambda *given, **more: ran.append((given, more)))
    photos.main(Path("t.pth"), Path("s.pth"), "hf:images", tmp_path, only=["kd"], seed=[1])
    (((name, plan, data, work), more),) = ran
    assert (name, data, work) == ("photos", "hf:images", tmp_path)
    assert more == {"only": ["kd"], "seeds": [1], "checkout": None}
    assert plan["params"]["data"]["unlabeled"] == "hf:images"

    with pytest.raises(InputError, match="expected a checkout of pytorch-image-models, but there"):
        photos.main(Path("t.pth"), Path("s.pth"), "hf:images", tmp_path, timm=tmp_path)
    (tmp_path / "train.py").touch()
    photos.main(Path("t.pth"), Path("s.pth"), "hf:images", tmp_path, timm=tmp_path)
    (name, plan, *_), more = ran[-1]
    assert (name, more["checkout"]) == ("photos_timm", str(tmp_path))
    assert "unlabeled" not in plan["params"]["data"]
    # Both have the same teacher, which is trained once.
    same = read_yaml(Path("benchmarks/comparisons/photos.yaml"))["params"]["teacher"]
    assert plan["params"]["teacher"] == same
