"""The networks match those of public zoos in size, cost, names and shapes."""

import pytest
import torch
import torchvision

import models
from models.errors import InputError
from models.measures import count_macs, count_parameters

RESNET18 = [(64, 32), (128, 16), (256, 8), (512, 4)]
RESNET50 = [(256, 32), (512, 16), (1024, 8), (2048, 4)]
# name: parameters, MACs at 32x32 with 100 classes, state-dict keys, stage shapes, embedding
TABLE = {
    "resnet8": (83_892, 12_507_392, 56, [(16, 32), (32, 16), (64, 8)], 64),
    "resnet14": (181_108, 26_663_168, 92, [(16, 32), (32, 16), (64, 8)], 64),
    "resnet20": (278_324, 40_818_944, 128, [(16, 32), (32, 16), (64, 8)], 64),
    "resnet32": (472_756, 69_130_496, 200, [(16, 32), (32, 16), (64, 8)], 64),
    "resnet44": (667_188, 97_442_048, 272, [(16, 32), (32, 16), (64, 8)], 64),
    "resnet56": (861_620, 125_753_600, 344, [(16, 32), (32, 16), (64, 8)], 64),
    "resnet110": (1_736_564, 253_155_584, 668, [(16, 32), (32, 16), (64, 8)], 64),
    "resnet8x4": (1_233_540, 177_071_104, 62, [(64, 32), (128, 16), (256, 8)], 256),
    "resnet32x4": (7_433_860, 1_083_040_768, 206, [(64, 32), (128, 16), (256, 8)], 256),
    "wrn_16_2": (703_284, 101_118_464, 83, [(32, 32), (64, 16), (128, 8)], 128),
    "wrn_40_1": (569_780, 83_286_272, 226, [(16, 32), (32, 16), (64, 8)], 64),
    "wrn_40_2": (2_255_156, 327_610_880, 227, [(32, 32), (64, 16), (128, 8)], 128),
    "wrn_28_2": (1_479_220, 214_364_672, 155, [(32, 32), (64, 16), (128, 8)], 128),
    "wrn_28_4": (5_872_180, 845_620_224, 155, [(64, 32), (128, 16), (256, 8)], 256),
    "wrn_28_10": (36_536_884, 5_243_386_368, 155, [(160, 32), (320, 16), (640, 8)], 640),
    "mobilenet_v2_0.5": (812_836, 6_523_648, 320, [(12, 16), (16, 8), (48, 4), (160, 2)], 1280),
    "mobilenet_v2_0.75": (1_475_692, 13_269_632, 320, [(18, 16), (24, 8), (72, 4), (240, 2)], 1280),
    "mobilenet_v2_1.0": (2_353_060, 22_381_056, 320, [(24, 16), (32, 8), (96, 4), (320, 2)], 1280),
    "mobilenet_v2_1.4": (4_470_904, 42_233_072, 320, [(33, 16), (44, 8), (134, 4), (448, 2)], 1792),
    "shufflenet_v1": (949_258, 38_691_456, 296, [(240, 16), (480, 8), (960, 4)], 960),
    "resnet18_cifar": (11_220_132, 555_468_800, 122, RESNET18, 512),
    "resnet34_cifar": (21_328_292, 1_159_448_576, 218, RESNET18, 512),
    "resnet50_cifar": (23_705_252, 1_298_014_208, 320, RESNET50, 2048),
}
# The same at 224x224 with 1000 classes.
LARGE50 = [(256, 56), (512, 28), (1024, 14), (2048, 7)]
IMAGENET = {
    "resnet18": (11_689_512, 1_814_073_344, 122, [(64, 56), (128, 28), (256, 14), (512, 7)], 512),
    "resnet34": (21_797_672, 3_663_761_408, 218, [(64, 56), (128, 28), (256, 14), (512, 7)], 512),
    "resnet50": (25_557_032, 4_089_184_256, 320, LARGE50, 2048),
}


@pytest.mark.parametrize("name", TABLE | IMAGENET)
def test_size_cost_and_shapes(name):
    parameters, macs, keys, stages, width = (TABLE | IMAGENET)[name]
    size, classes = (224, 1000) if name in IMAGENET else (32, 100)
    with torch.device("meta"):  # computes shapes only
        network = models.build(name, classes).eval()
        features = network.features(torch.zeros(2, 3, size, size))
    assert count_parameters(network) == parameters
    assert count_macs(network, size) == macs
    assert len(network.state_dict()) == keys
    assert [(f.shape[1], f.shape[2]) for f in features.stages] == stages
    assert all(f.shape[2] == f.shape[3] for f in features.stages)
    assert features.embedding.shape == (2, width)


def test_state_dict_names_of_the_zoos():
    for name, keys in {
        "resnet20": "conv1.weight bn1.running_mean layer1.0.conv1.weight layer3.2.bn2.bias fc.bias"
        " layer2.0.downsample.0.weight layer3.0.downsample.1.running_var fc.weight",
        "wrn_40_2": "conv1.weight block1.layer.0.bn1.weight block3.layer.5.conv2.weight fc.bias"
        " block1.layer.0.convShortcut.weight bn1.running_var",
        "mobilenet_v2_0.5": "conv1.0.weight conv1.1.running_mean blocks.0.0.conv.0.weight"
        " blocks.1.1.conv.1.bias blocks.3.3.conv.3.weight blocks.5.2.conv.4.running_var"
        " blocks.6.0.conv.6.weight blocks.6.0.conv.7.bias conv2.0.weight conv2.1.bias"
        " classifier.0.weight classifier.0.bias",
        "shufflenet_v1": "conv1.weight bn1.bias layer1.0.conv1.weight layer1.3.bn1.running_mean"
        " layer2.7.conv2.weight layer2.7.bn2.bias layer3.3.conv3.weight layer3.0.bn3.running_var"
        " linear.weight linear.bias",
    }.items():
        assert set(keys.split()) <= set(models.build(name, 100).state_dict())
    # With width 1, the first stage keeps the channels and needs no shortcut convolution.
    assert "block1.layer.0.convShortcut.weight" not in models.build("wrn_40_1", 100).state_dict()


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvisions_checkpoints_give_its_outputs(depth):
    theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None, num_classes=10).eval()
    ours = models.build(f"resnet{depth}", 10).eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        images = torch.randn(2, 3, 65, 65)
        torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize(("name", "depth"), [("resnet152", 152), ("resnet50_cifar", 50)])
def test_names_of_torchvision(name, depth):
    # 152 is also a depth of CIFAR's, and CIFAR's stem keeps the names.
    with torch.device("meta"):
        ours = models.build(name, 10)
        theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None, num_classes=10)
    assert list(ours.state_dict()) == list(theirs.state_dict())


FAMILIES = "resnet8 resnet8x4 wrn_16_2 mobilenet_v2_0.5 shufflenet_v1 resnet18 resnet18_cifar"


@pytest.mark.parametrize("name", FAMILIES.split())
def test_any_input_size_and_features_that_end_in_the_logits(name):
    # A reference code's fixed pooling window turned one 64x64 image into four samples.
    network = models.build(name, 10).eval()
    with torch.no_grad():
        for size in (48, 64):
            images = torch.randn(3, 3, size, size)
            logits = network(images)
            assert logits.shape == (3, 10)
            assert torch.equal(network.features(images).logits, logits)


def test_counting_does_not_change_the_network():
    network = models.build("resnet8", 10).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    count_macs(network, 32)
    assert network.training
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


UNKNOWN = "resnet21 resnet101_cifar resnet wrn_41_2 wrn_40_0 mobilenet_v2 mobilenet_v2_0.01 vgg"


@pytest.mark.parametrize("name", UNKNOWN.split())
def test_an_unknown_name_is_refused(name):
    with pytest.raises(InputError, match=f"'{name}' is not known: use .*resnet20"):
        models.build(name, 10)


@pytest.mark.parametrize("name", ["wrn_16_2", "timm:test_resnet"])
def test_entering_at_a_stage_gives_the_rest(name):
    network = models.build(name, 10).eval()
    with torch.no_grad():
        whole = network.features(torch.randn(2, 3, 64, 64))
        for stage in range(1, network.num_stages + 1):
            rest = network.features_from(whole.stage_input(stage), stage)
            assert torch.equal(rest.logits, whole.logits)
            assert len(rest.stages) == network.num_stages + 1 - stage
