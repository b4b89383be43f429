"""Networks from the user's own code."""

import sys
from pathlib import Path

import pytest
import torch

import models
from models.errors import InputError
from models.networks.own import code_sha256

CODE = """
from torch import nn

def convolutional(num_classes):
    return nn.Sequential(*stage(3, 4, 1), *stage(4, 6, 2), *stage(6, 8, 2), *head(8, num_classes))

def stage(ins, outs, stride):
    return nn.Conv2d(ins, outs, 3, stride, 1), nn.BatchNorm2d(outs), nn.ReLU(inplace=True)

def head(width, num_classes):
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)

class Patches(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, num_classes)

    def forward(self, images):
        return self.head(self.embed(images).flatten(2).mean(2))

def transformer(num_classes):
    return Patches(num_classes)

def staged(num_classes):
    from models.networks.resnet import ResNet
    return ResNet(8, num_classes, 1)

def ten_convolutional(num_classes):
    return convolutional(10)

def ten_transformer(num_classes):
    return Patches(10)

def nothing(num_classes):
    return None

def broken(num_classes):
    raise RuntimeError("no such width")
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    (tmp_path / "own_nets.py").write_text(CODE)
    (tmp_path / "broken_nets").mkdir()
    (tmp_path / "broken_nets/__init__.py").write_text("1 / 0")


@pytest.mark.parametrize("name", ["convolutional", "transformer"])
def test_a_function_of_ones_own_makes_a_network(name):
    network = models.build(f"python:own_nets:{name}", 5)
    features = network.eval().features(torch.randn(2, 3, 16, 16))
    assert features.logits.shape == (2, 5)
    assert features.embedding.shape == (2, 8)
    assert (network.name, network.num_classes) == (f"python:own_nets:{name}", 5)


def test_a_file_is_identified_by_its_content():
    before = code_sha256("python:own_nets:transformer")
    assert before
    Path("own_nets.py").write_text(CODE + "# changed")
    assert code_sha256("python:own_nets:transformer") != before
    assert code_sha256("resnet20") is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_nets", "expected python:<module>:<function>; correct its name"),
        ("absent:build", "no module 'absent' is found; correct its name"),
        ("sys:exit", "no module 'sys' is found; correct its name"),
        ("broken_nets.tiny:build", r"no module 'broken_nets.tiny' .*ZeroDivisionError: division"),
        ("own_nets:absent", "cannot be built .*AttributeError.* correct the code"),
        ("own_nets:broken", "RuntimeError: no such width"),
        ("own_nets:nothing", "is NoneType, expected a torch.nn.Module"),
    ],
)
def test_anything_but_a_network_is_refused_in_one_sentence(name, said):
    with pytest.raises(InputError, match=said):
        models.build(f"python:{name}", 5)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ten_convolutional", r"gives logits \[1, 10\] for an image, expected \[1, 5\]; correct"),
        (
            "ten_transformer",
            "^network \\S+ has no embedding: no linear .* gives the 5 logits",
        ),
    ],
)
def test_another_number_of_logits_is_refused(name, said):
    with pytest.raises(InputError, match=said):
        models.build(f"python:own_nets:{name}", 5).probe(16)
