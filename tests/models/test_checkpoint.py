"""Weights on disk: equal bytes for equal networks, and a sentence for everything that is wrong."""

import argparse
import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import models
from models.checkpoint import load_checkpoint, load_network, save_network
from models.errors import InputError


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
    ],
)
def test_wrappers_of_the_public_zoos(tmp_path: Path, wrap) -> None:
    source, network = models.build("resnet8", 10), models.build("resnet8", 10)
    torch.save(wrap(source.state_dict()), tmp_path / "a.pth")
    load_checkpoint(tmp_path / "a.pth", network)
    assert same(source, network)


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


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    state = models.build("resnet8", 10).state_dict()
    torch.save({"opt": argparse.Namespace(lr=1), "model": state}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="not loaded because that") as caught:
        load_checkpoint(tmp_path / "a.pth", models.build("resnet8", 10))
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
    with pytest.raises(InputError, match="no such file"):
        load_checkpoint(tmp_path / "absent.pth", models.build("resnet8", 10))
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="does not say which network it holds"):
        load_network(tmp_path / "a.safetensors")
    torch.save([1, 2], tmp_path / "a.pth")
    with pytest.raises(InputError, match="holds no state dict"):
        load_checkpoint(tmp_path / "a.pth", models.build("resnet8", 10))


def test_a_full_disk_is_the_systems_own_error(tmp_path: Path) -> None:
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path]).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        with pytest.raises(OSError, match="No space left") as caught:
            save_network(tmp_path / "a", models.build("resnet8", 10))
        assert caught.value.errno == errno.ENOSPC
    finally:
        subprocess.run(["umount", tmp_path], check=True)
