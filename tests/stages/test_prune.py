import pytest
import torch

import models
from models.errors import InputError
from models.networks import zoo
from models.networks.checkpoint import load_network, save_state
from stages import prune
from stages.files import read_json
from tests.shallow import build_shallow
from tests.stages.conftest import normalized_test_images

NETWORK = "timm:repghostnet_050"


@pytest.fixture(autouse=True)
def _shallow_networks(student_project, monkeypatch):
    monkeypatch.setattr(zoo, "_build_timm", build_shallow)
    monkeypatch.setattr(zoo, "_trunks", {})  # of whole networks


def save_distilled(network: str) -> torch.Tensor:
    """Save a student like ``distill``, with statistics as after a training; return its logits."""
    generator = torch.Generator().manual_seed(0)
    student = models.build(network, 3).eval()
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    state = {f"student.{name}": tensor for name, tensor in student.state_dict().items()}
    parameters = {f"student.{name}" for name, _ in student.named_parameters()}
    header = {"method": "kd", "network": network, "num_classes": 3, "learners": []}
    prune.DISTILLED.parent.mkdir(parents=True, exist_ok=True)
    save_state(prune.DISTILLED, state, header | {"buffers": sorted(state.keys() - parameters)})
    with torch.no_grad():
        return student(normalized_test_images())


def test_branches_are_fused(tiny_params):  # tests/stages/test_families.py exports one
    wanted = save_distilled(NETWORK)
    prune.main(tiny_params)
    sizes = read_json(prune.REPORT)
    parameters, macs = sizes["parameters"], sizes["macs"]
    assert parameters["student"] < parameters["plain"] == parameters["training"]
    assert macs["student"] <= macs["plain"] == macs["training"]
    fused = sizes["fused"]
    assert 0 < fused["largest_difference"] <= fused["tolerance"]
    assert fused["changed_answers"] == 0

    student = load_network(prune.STUDENT_FOLDER / "model.safetensors")
    assert sum(p.numel() for p in student.parameters()) == sizes["parameters"]["student"]
    images = normalized_test_images()
    with torch.no_grad():
        torch.testing.assert_close(student(images), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(student.features(images).logits, wanted, rtol=1e-4, atol=1e-5)


def test_what_fusing_changes_by_more_than_rounding_is_refused(monkeypatch, tiny_params):
    before = (prune.STUDENT_FOLDER / "model.safetensors").read_bytes()
    save_distilled(NETWORK)
    monkeypatch.setattr(prune, "_TOLERANCE", 1e-9)
    with pytest.raises(InputError, match=rf"fusing the branches of {NETWORK} changes its logits"):
        prune.main(tiny_params)
    assert (prune.STUDENT_FOLDER / "model.safetensors").read_bytes() == before


def test_a_student_without_branches_stays_bit_for_bit(tiny_params):
    wanted = save_distilled("timm:test_byobnet")
    prune.main(tiny_params)
    assert read_json(prune.REPORT)["fused"] is None
    student = load_network(prune.STUDENT_FOLDER / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(student(normalized_test_images()), wanted)
