"""A frozen network has the network's outputs, whatever the other images in the batch."""

import functools

import pytest
import torch
from torch import Tensor, nn

import models
from models.networks.backbone import Backbone
from stages.training.inference import FrozenNetwork


def settled(name: str) -> tuple[Backbone, Tensor]:
    """Build a network with changed running statistics, and images for it."""
    torch.manual_seed(0)
    network = models.build(name, 10).to(memory_format=torch.channels_last)
    images = torch.randn(70, 3, 32, 32).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for _ in range(3):
            network(images)
    return network.eval(), images


@pytest.mark.parametrize(
    "name",
    [
        *("resnet20", "resnet8x4", "wrn_16_1", "resnet18", "shufflenet_v1"),
        *("torchvision:mobilenet_v3_small", "timm:test_resnet"),
        *("timm:mobilenetv3_small_050", "timm:tf_efficientnet_lite0"),
    ],
)
def test_it_computes_the_same_function_with_less_and_leaves_the_network_as_it_was(name):
    network, images = settled(name)
    network.set_input([2.0, 1.0, 0.5], [0.1, 0.0, -0.1])
    network.input_size = 40 if name == "resnet20" else None
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    frozen = FrozenNetwork(network)
    logits = frozen(images)
    after = network.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    with torch.no_grad():
        wanted = network(images)
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
    assert not logits.requires_grad
    functions = [node.target for node in frozen.folded.graph.nodes if node.op == "call_function"]
    assert torch.nn.functional.batch_norm not in functions
    kept = sum(isinstance(module, nn.BatchNorm2d) for module in frozen.folded.modules())
    # A pre-activation network keeps the BatchNorms after additions: one per block, and the last.
    assert kept == (7 if name == "wrn_16_1" else 0)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize(
    ("name", "compiled"), [("resnet20", False), ("wrn_16_1", False), ("resnet8", True)]
)
def test_logits_do_not_depend_on_the_rest_of_the_batch(name, compiled, monkeypatch):
    # Skip code generation for the processor, which takes long and belongs to torch.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    network, images = settled(name)
    frozen = FrozenNetwork(network, compiled)
    wanted = frozen(images)
    with torch.no_grad():
        torch.testing.assert_close(wanted, network(images), rtol=1e-4, atol=1e-4)
    order = torch.randperm(len(images))
    assert torch.equal(frozen(images[order]), wanted[order])
    for size in (1, 7, 16, 31, 64):
        parts = [frozen(part) for part in torch.split(images, size)]
        assert torch.equal(torch.cat(parts), wanted), size


def test_what_cannot_be_traced_runs_as_it_is():
    class Choosy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    network, images = settled("resnet8")
    network.layer1.append(Choosy())
    frozen = FrozenNetwork(network)
    assert frozen.folded is network
    with torch.no_grad():
        torch.testing.assert_close(frozen(images[:32]), network(images[:32]))
