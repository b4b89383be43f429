"""Weights on disk: equal bytes for equal networks, and a sentence for everything that is wrong."""

import argparse
import collections
import errno
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import models
from models.errors import InputError
from models.networks.checkpoint import load_checkpoint, load_network, save_network
from tests.disk import small_disk


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in a.state_dict().items())


def test_a_file_names_its_network(tmp_path: Path) -> None:
    network = models.build("wrn_16_2", 12)
    save_network(tmp_path / "a", network)
    again = load_network(tmp_path / "a")
    assert (again.name, again.num_classes, again.training) == ("wrn_16_2", 12, False)
    assert same(network, again)


def test_equal_networks_give_equal_bytes(tmp_path: Path) -> None:
    network = models.build("resnet8", 12)
    contents = set()
    for index in range(8):
        save_network(tmp_path / str(index), network)
        contents.add((tmp_path / str(index)).read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {"student": {f"_orig_mod.{k}": v for k, v in state.items()}},
        lambda state: {"net": {f"architecture.{k}": v for k, v in state.items()}, "acc": 70.1},
        lambda state: {"opt": argparse.Namespace(lr=0.05, decay=[150, 180]), "model": state},
        # A method's file: the student's part is taken, not the teacher's.
        lambda state: {
            "model": {f"module.student.{k}": v for k, v in state.items()}
            | {f"module.teacher.{k}": v + 1 for k, v in state.items()}
        },
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {0: {}}}},
        # As in timm, averaged weights come first.
        lambda state: {
            "state_dict": {k: v + 1 for k, v in state.items()},
            "state_dict_ema": {f"_orig_mod.module.{k}": v for k, v in state.items()},
        },
        lambda state: (
            {"n_averaged": torch.tensor(7)} | {f"module.{k}": v for k, v in state.items()}
        ),
        lambda state: {"checkpoint": {"params": {f"net.model.{k}": v for k, v in state.items()}}},
        lambda state: {f"{'head' * ('fc.' in k) or 'backbone'}.{k}": v for k, v in state.items()},
        # Files older than torch 0.4.1, and profilers.
        lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
        lambda state: state | {"total_ops": torch.zeros(1), "layer1.total_params": torch.zeros(1)},
        lambda state: {
            "model": state,
            "best": np.float64(71.2),
            "classes": np.arange(3),
            "log": collections.defaultdict(list),
            "from": Path("/data"),
        },
    ],
)
def test_wrappers_of_the_public_zoos(tmp_path: Path, wrap) -> None:
    source, network = models.build("resnet8", 10), models.build("resnet8", 10)
    torch.save(wrap(source.state_dict()), tmp_path / "a.pth")
    load_checkpoint(tmp_path / "a.pth", network)
    assert same(source, network)


def test_what_was_taken_off_and_left_out_is_said(tmp_path: Path) -> None:
    network = models.build("resnet8", 10)
    state = network.state_dict()
    torch.save(state, tmp_path / "a.pth")
    assert load_checkpoint(tmp_path / "a.pth", network) == ""
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"net": wrapped, "loss": {"weight": torch.ones(3)}}, tmp_path / "a.pth")
    assert load_checkpoint(tmp_path / "a.pth", network) == (
        "weights are those under net.module; left out loss.weight"
    )


def script(path: Path) -> None:
    network = models.build("resnet8", 10).eval()
    torch.jit.trace(network, torch.zeros(1, 3, 32, 32)).save(path)


def not_finite(path: Path) -> None:
    state = models.build("resnet8", 10).state_dict()
    torch.save(state | {"fc.bias": torch.full((10,), torch.nan)}, path)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    ("write", "said"),
    [
        (script, "a TorchScript program, expected a state dict"),
        (
            lambda path: path.write_text("<!DOCTYPE html>\n<title>Sign in"),
            "a text file ('<!DOCTYPE",
        ),
        (
            lambda path: torch.save(models.build("resnet8", 10), path),
            "holds models.networks.resnet.ResNet besides tensors",
        ),
        (not_finite, "fc.bias has values that are not finite"),
        (lambda path: path.mkdir(), "Is a directory; correct the path"),
    ],
)
def test_files_are_named_for_what_they_are(tmp_path: Path, write, said: str) -> None:
    write(tmp_path / "a.pth")
    with pytest.raises(InputError, match=re.escape(f"a.pth: {said}")):
        load_checkpoint(tmp_path / "a.pth", models.build("resnet8", 10))


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    network = models.build("resnet8", 10)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    load_checkpoint(Path("~/a.pth"), network)


def test_resnets_of_another_code_for_cifar(tmp_path: Path) -> None:
    source, network = (models.build("resnet18_cifar", 10) for _ in range(2))
    renamed = {
        name.replace("downsample", "shortcut").replace("fc.", "linear."): tensor
        for name, tensor in source.state_dict().items()
    }
    assert {"layer2.0.shortcut.0.weight", "linear.bias"} < renamed.keys()
    torch.save({"net": renamed}, tmp_path / "a.pth")
    load_checkpoint(tmp_path / "a.pth", network)
    assert same(source, network)


def test_what_is_called_so_here_too_is_not_renamed(tmp_path: Path) -> None:
    for name in ("shufflenet_v1", "wrn_16_2"):  # which have a ``linear`` and a ``convShortcut``
        source, network = (models.build(name, 10) for _ in range(2))
        torch.save(source.state_dict(), tmp_path / "a.pth")
        load_checkpoint(tmp_path / "a.pth", network)
        assert same(source, network)


def test_densenets_of_torchvisions_files(tmp_path: Path) -> None:
    source, network = (models.build("torchvision:densenet121", 10) for _ in range(2))
    older = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): tensor
        for name, tensor in source.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in older
    torch.save(older, tmp_path / "a.pth")
    load_checkpoint(tmp_path / "a.pth", network)
    assert same(source, network)


@pytest.mark.parametrize("name", ["resnet8", "timm:test_resnet"])
def test_a_network_may_change_its_input(tmp_path: Path, name: str) -> None:
    network = models.build(name, 10).eval()
    plain = list(network.state_dict())
    images = torch.randn(2, 3, 32, 32)
    scale, shift = [2.0, 0.5, 1.0], [0.1, -0.2, 0.0]
    changed = images * torch.tensor(scale)[:, None, None] + torch.tensor(shift)[:, None, None]
    wanted = network(changed)
    network.set_input(scale, shift)
    assert list(network.state_dict()) == plain
    save_network(tmp_path / "a", network)
    again = load_network(tmp_path / "a")
    torch.testing.assert_close(again(images), wanted)
    torch.testing.assert_close(again.features(images).logits, wanted)


def test_safetensors_from_elsewhere(tmp_path: Path) -> None:
    source, network = models.build("resnet8", 10), models.build("resnet8", 10)
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    load_checkpoint(tmp_path / "a.safetensors", network)
    assert same(source, network)


def test_another_architecture_is_refused_with_the_differences(tmp_path: Path) -> None:
    torch.save(models.build("resnet20", 10).state_dict(), tmp_path / "a.pth")
    with pytest.raises(
        InputError, match=r"a.pth: not a checkpoint of resnet8: layer1.1.\S+ is unknown"
    ):
        load_checkpoint(tmp_path / "a.pth", models.build("resnet8", 10))
    with pytest.raises(InputError, match="not a checkpoint of resnet32: layer1.3.* is missing"):
        load_checkpoint(tmp_path / "a.pth", models.build("resnet32", 10))


def test_another_number_of_classes_is_a_difference_in_shape(tmp_path: Path) -> None:
    torch.save(models.build("resnet8", 10).state_dict(), tmp_path / "a.pth")
    network = models.build("resnet8", 100)
    before = network.fc.weight.clone()
    with pytest.raises(InputError, match=r"fc.weight is \[10, 64\] instead of \[100, 64\]"):
        load_checkpoint(tmp_path / "a.pth", network)
    assert torch.equal(before, network.fc.weight)


class Leaves:
    """Unpickled, it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("hidden", [False, True])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, hidden: bool) -> None:
    state = models.build("resnet8", 10).state_dict()
    code = Leaves(tmp_path / "was here")
    torch.save(
        {"opt": argparse.Namespace(lr=code) if hidden else code, "model": state}, tmp_path / "a.pth"
    )
    with pytest.raises(InputError, match="not loaded because that") as caught:
        load_checkpoint(tmp_path / "a.pth", models.build("resnet8", 10))
    assert not (tmp_path / "was here").exists()
    # torch's own message advises to switch the protection off.
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_files_are_named(tmp_path: Path) -> None:
    save_network(tmp_path / "a.safetensors", models.build("resnet8", 10))
    whole = (tmp_path / "a.safetensors").read_bytes()
    for size in (0, 4, 200, len(whole) - 1):
        (tmp_path / "a.safetensors").write_bytes(whole[:size])
        with pytest.raises(InputError, match="a.safetensors: damaged or not a safetensors file"):
            load_network(tmp_path / "a.safetensors")
    torch.save(models.build("resnet8", 10).state_dict(), tmp_path / "a.pth")
    whole = (tmp_path / "a.pth").read_bytes()
    for size in (0, 4, len(whole) // 2):
        (tmp_path / "a.pth").write_bytes(whole[:size])
        with pytest.raises(InputError, match="a.pth: "):
            load_checkpoint(tmp_path / "a.pth", models.build("resnet8", 10))


def test_missing_and_unlabelled_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_network(tmp_path / "absent.safetensors")
    with pytest.raises(InputError, match="No such file"):
        load_checkpoint(tmp_path / "absent.pth", models.build("resnet8", 10))
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="does not say which network it holds"):
        load_network(tmp_path / "a.safetensors")
    circle: dict[str, object] = {}
    circle["model"] = circle
    for content in ([1, 2], circle):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(InputError, match="holds no state dict"):
            load_checkpoint(tmp_path / "a.pth", models.build("resnet8", 10))


def test_a_full_disk_is_the_systems_own_error(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path, "size=64k") as disk,
        pytest.raises(OSError, match="No space left") as caught,
    ):
        save_network(disk / "a", models.build("resnet8", 10))
    assert caught.value.errno == errno.ENOSPC
