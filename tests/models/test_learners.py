"""Auxiliary learners: their cost, their sharing, and their removal without a trace."""

import pytest
import torch
from torch import nn

import models
from models.errors import InputError
from models.learners import LearnerGroup, Learners, load_learners
from models.measures import count_parameters
from models.networks.backbone import Backbone
from models.networks.checkpoint import describe, save_network, save_state
from tests.models.distillers.tiny import settle


@pytest.mark.parametrize(
    ("student", "parameters"),
    [
        ("resnet20", {"D3B1": 212_196, "D2B2": 263_844, "D1B3": 277_860}),
        ("resnet56", {"D3B1": 656_100, "D2B2": 819_108, "D1B3": 861_156}),
        ("wrn_40_1", {"D3B1": 434_084, "D2B2": 541_316, "D1B3": 569_348}),
        ("mobilenet_v2_0.5", {"D4B1": 664_388, "D3B2": 795_780, "D1B4": 812_372}),
        ("resnet18", {"D4B1": 8_906_728, "D3B2": 11_006_440, "D1B4": 11_679_976}),
    ],
)
def test_extra_parameters(student, parameters):
    target = models.build(student, 1000 if student == "resnet18" else 100)
    assert {c: count_parameters(Learners(target, [c])) for c in parameters} == parameters


def test_the_trunk_is_computed_once():
    target = models.build("resnet8", 7)
    group = LearnerGroup(target, Learners(target, ["D3B1", "D2B2"])).eval()
    calls = []
    for name in ("conv1", "layer1", "layer2", "layer3"):
        target.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    group(torch.randn(2, 3, 32, 32))
    assert calls == ["conv1", "layer1", "layer2", "layer3"]


def test_learners_are_initialised_independently():
    target = models.build("resnet8", 7)
    learners = Learners(target, ["D3B1", "D3B1"])
    first, second = (tail.layer3[0].conv1.weight for tail in learners)
    assert not torch.equal(first, second)
    assert not torch.equal(first, target.layer3[0].conv1.weight)
    assert learners.names == ["D3B1", "D3B1#2"]


def test_copies_have_a_small_new_classifier():
    target = models.build("timm:test_efficientnet", 7)
    (tail,) = Learners(target, ["D4B1"], copies=True)
    assert torch.equal(tail.conv_head.weight, target.conv_head.weight)
    weight = tail.last_layer().weight
    assert 0 < weight.abs().max() <= weight.shape[1] ** -0.5


@pytest.mark.parametrize("code", ["D3B2", "D4B1", "D0B4", "D2B1"])
def test_a_code_that_does_not_fit_is_refused(code):
    with pytest.raises(InputError, match=f"'{code}' does not fit resnet8.*use D3B1, D2B2, D1B3"):
        Learners(models.build("resnet8", 7), [code])


def test_a_teacher_tail_on_the_teachers_trunk_equals_the_teacher():
    teacher = settled("resnet20")
    learners = Learners(teacher, ["D3T", "D1T"], teacher, 32).eval()
    features = teacher.features(torch.randn(4, 3, 32, 32))
    for learner in learners(features):
        assert torch.equal(learner.logits, features.logits)
        assert torch.equal(learner.stages[-1], features.stages[-1])


def test_a_teacher_tail_teaches_the_trunk_and_is_frozen():
    target, teacher = models.build("resnet8", 7), settled("resnet20")
    learners = Learners(target, ["D3T"], teacher, 32).train()
    before = {name: tensor.clone() for name, tensor in learners.state_dict().items()}
    learners(target.features(torch.randn(4, 3, 32, 32)))[0].logits.square().sum().backward()
    assert target.layer2[0].conv1.weight.grad.abs().sum() > 0
    assert target.layer3[0].conv1.weight.grad is None
    assert all(p.grad is None and not p.requires_grad for p in learners.parameters())
    assert all(p.requires_grad for p in teacher.parameters())
    # Its BatchNorm statistics do not change either.
    assert all(torch.equal(t, before[name]) for name, t in learners.state_dict().items())


def test_an_adapter_between_other_widths_is_trained():
    target, teacher = models.build("wrn_16_1", 7), settled("wrn_16_2")
    learners = Learners(target, ["D3T"], teacher, 32)
    (answer,) = learners(target.features(torch.randn(4, 3, 32, 32)))
    assert answer.stages[-1].shape == (4, 128, 8, 8)
    answer.logits.square().sum().backward()
    trained = {name for name, p in learners.named_parameters() if p.requires_grad}
    assert trained == {"0.adapt.0.weight", "0.adapt.1.weight", "0.adapt.1.bias"}
    assert all(p.grad is not None for p in learners[0].adapt.parameters())


def test_a_teacher_whose_stages_do_not_fit_is_refused():
    target = models.build("resnet8", 7)
    with pytest.raises(InputError, match="resnet18_cifar has 4, resnet8 has 3"):
        Learners(target, ["D3T"], models.build("resnet18_cifar", 7), 32)
    with pytest.raises(InputError, match="stages of timm:test_vit"):
        Learners(target, ["D3T"], models.build("timm:test_vit", 7), 32)
    with pytest.raises(InputError, match=r"'D4T' does not fit resnet8.*D3B1.*D3T, D2T, D1T"):
        Learners(target, ["D4T"], models.build("resnet20", 7), 32)
    other = models.build("resnet18_cifar", 7)
    with pytest.raises(InputError, match="D4T needs maps of one size.* 2 x 2 .* 8 x 8 in resnet18"):
        Learners(models.build("resnet18", 7), ["D4T"], other, 32)


def test_saved_learners_load_unchanged(tmp_path):
    target = models.build("wrn_16_1", 7)
    teacher = settled("wrn_16_2")
    learners = Learners(target, ["D3B1", "D3T"], teacher, 32)
    group = LearnerGroup(target, learners)
    group.train()(torch.randn(4, 3, 32, 32))  # updates the running statistics
    group.eval()
    whole = nn.ModuleDict({"student": group.target, "learners": group.learners})
    header = {"network": "wrn_16_1", "num_classes": 7, "learners": learners.names}
    header |= {"teacher": describe(teacher), "image_size": 32}
    save_state(tmp_path / "model.safetensors", whole.state_dict(), header)
    again = load_learners(tmp_path / "model.safetensors")
    images = torch.randn(4, 3, 32, 32)
    assert again.names == ["D3B1", "D3T"]
    assert not again.training
    assert torch.equal(again.target(images), group.target(images))
    for a, b in zip(again(images)[1], group(images)[1], strict=True):
        assert torch.equal(a.logits, b.logits)


def settled(name: str) -> Backbone:
    """Build a network with statistics that differ from the initial ones, in eval mode."""
    network = models.build(name, 7)
    settle(network)
    return network.eval()


def test_a_file_of_another_stage_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_network(path, models.build("resnet8", 7))
    with pytest.raises(InputError, match="expected a file that the stage distill wrote"):
        load_learners(path)
