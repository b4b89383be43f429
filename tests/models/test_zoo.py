"""Networks of torchvision and timm: same parameters and outputs, and detected stages."""

import copy

import pytest
import timm
import torch
import torchvision

import models
from models.errors import InputError
from models.learners import LearnerGroup, Learners
from models.measures import count_parameters
from models.networks import zoo

# Small networks of various structures: channels and size of the maps after the stem and each stage
# at 64 pixels, and the width of the embedding. None: the stages cannot be detected.
STAGES = {
    "torchvision:resnet18": ([(64, 16), (64, 16), (128, 8), (256, 4), (512, 2)], 512),
    "torchvision:mobilenet_v3_small": ([(16, 32), (16, 16), (24, 8), (48, 4), (576, 2)], 1024),
    "torchvision:mobilenet_v2": ([(16, 32), (24, 16), (32, 8), (96, 4), (1280, 2)], 1280),
    "torchvision:efficientnet_b0": ([(16, 32), (24, 16), (40, 8), (112, 4), (1280, 2)], 1280),
    "torchvision:shufflenet_v2_x0_5": ([(24, 16), (48, 8), (96, 4), (1024, 2)], 1024),
    "torchvision:mnasnet0_5": ([(8, 32), (16, 16), (24, 8), (48, 4), (1280, 2)], 1280),
    "torchvision:densenet121": ([(64, 16), (256, 16), (512, 8), (1024, 4), (1024, 2)], 1024),
    "torchvision:regnet_x_400mf": ([(32, 32), (32, 16), (64, 8), (160, 4), (400, 2)], 400),
    "torchvision:googlenet": (None, 1024),
    "torchvision:squeezenet1_1": (None, 512),
    "timm:test_resnet": ([(32, 16), (32, 16), (48, 8), (192, 4), (96, 2)], 96),
    "timm:test_efficientnet": ([(16, 32), (24, 16), (32, 8), (48, 4), (256, 2)], 256),
    "timm:mobilenetv3_small_050": ([(16, 32), (8, 16), (16, 8), (24, 4), (288, 2)], 1024),
    "timm:convnext_atto": ([(40, 16), (40, 16), (80, 8), (160, 4), (320, 2)], 320),
    "timm:resnetv2_18": ([(64, 16), (64, 16), (128, 8), (256, 4), (512, 2)], 512),
    "timm:test_mambaout": (None, 256),
}


def of_library(name: str, num_classes: int) -> torch.nn.Module:
    library, _, own = name.partition(":")
    if library == "timm":
        return timm.create_model(own, num_classes=num_classes)
    options = {"aux_logits": False, "init_weights": False} if own == "googlenet" else {}
    return torchvision.models.get_model(own, num_classes=num_classes, **options)


@pytest.mark.parametrize("name", STAGES)
def test_parameters_and_outputs_equal_the_librarys(name):
    theirs, ours = of_library(name, 7), models.build(name, 7)
    assert [*theirs.state_dict()] == [*ours.state_dict()]
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    if name.endswith("googlenet"):
        theirs.transform_input = True  # as its published weights expect
    assert ours.training
    with torch.no_grad():
        wanted = theirs.eval()(images)
        assert not ours.eval().network.training
        assert torch.equal(ours(images), wanted)
        features = ours.features(images)
    assert torch.equal(features.logits, wanted)
    maps, width = STAGES[name]
    found = [features.stem, *features.stages]
    if maps is None:
        assert (ours.num_stages, features.stages) == (0, ())
        assert found[0] is images
    else:
        assert [(f.shape[1], f.shape[2]) for f in found] == maps
        assert all(f.shape[2] == f.shape[3] for f in found)
    assert features.embedding.shape == (2, width)
    assert count_parameters(ours) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("name", ["torchvision:mobilenet_v3_small", "timm:mobilenetv3_small_050"])
def test_learners_attach_and_leave_no_trace(name):
    target = models.build(name, 7)
    keys = list(target.state_dict())
    group = LearnerGroup(target, Learners(target, ["D4B1", "D3B2", "D1B4"])).eval()
    images = torch.randn(2, 3, 64, 64)
    wanted = target(images)
    features, learners = group(images)
    assert torch.equal(features.logits, wanted)
    assert [len(learner.stages) for learner in learners] == [1, 2, 4]
    assert [learner.stages[-1].shape for learner in learners] == [features.stages[-1].shape] * 3
    sum(learner.logits.sum() for learner in learners).backward()
    assert all(p.grad is not None for p in target.get_submodule(target.stem_parts[0]).parameters())
    assert all(p.grad is None for p in target.get_submodule(target.stage_parts[3][0]).parameters())
    # A learner has its own stages and head, with their names, but not the trunk.
    own = {name for name, _ in group.learners[0].named_parameters()}
    trunk = [*target.stem_parts, *(part for parts in target.stage_parts[:3] for part in parts)]
    trunk = tuple(f"{part}." for part in trunk)
    assert own == {k for k, _ in target.named_parameters() if not k.startswith(trunk)}
    assert list(target.state_dict()) == keys


def test_shared_maps_are_not_modified_in_place():
    def in_place(network: torch.nn.Module) -> int:
        return sum(getattr(module, "inplace", False) for module in network.modules())

    name = "torchvision:mobilenet_v3_small"
    assert in_place(of_library(name, 7)) > 0
    assert in_place(models.build(name, 7)) == 0


def test_detecting_stages_keeps_the_random_state():
    zoo._trunks.pop("torchvision:mnasnet0_5", None)
    torch.manual_seed(3)
    first = models.build("torchvision:mnasnet0_5", 7)
    torch.manual_seed(3)
    second = models.build("torchvision:mnasnet0_5", 7)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    assert int(first.state_dict()["layers.1.num_batches_tracked"]) == 0


def test_a_copy_is_a_consistent_network():
    copied = copy.deepcopy(models.build("torchvision:mobilenet_v3_small", 7)).eval()
    images = torch.randn(2, 3, 32, 32)
    before = copied(images)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(0.1)
    assert not torch.equal(copied(images), before)
    assert not copied.network.training


def test_pooling_is_deterministic_where_a_gpu_trains(monkeypatch):
    network = models.build("torchvision:alexnet", 7).eval()
    calls = []
    network.get_submodule("avgpool").register_forward_hook(lambda *_: calls.append("adaptive"))
    last_map = torch.randn(2, 256, 7, 7)
    wanted = network.embed(last_map)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    torch.testing.assert_close(network.embed(last_map), wanted, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(network.embed(last_map), wanted)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("torchvision:mobilenet_v3_smal", "did you mean 'torchvision:mobilenet_v3_small'"),
        ("torchvision:fasterrcnn_resnet50_fpn", "no classification network"),
        ("timm:resnet_18", "did you mean 'timm:resnet18"),
        ("timm:hf-hub:someone/something", "is not known"),
        ("timm:resnet18.no_such_tag", "cannot be built"),
    ],
)
def test_unknown_names(name, hint):
    with pytest.raises(InputError, match=hint) as caught:
        models.build(name, 7)
    assert f"'{name}'" in str(caught.value)


def test_a_size_that_a_network_cannot_take():
    network = models.build("timm:vit_tiny_patch16_224", 7)
    with pytest.raises(InputError, match=r"'timm:vit_\S+' cannot take images of 32 pixels \(.*224"):
        network.probe(32)
