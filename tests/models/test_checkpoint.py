"""Networks on disk: equal networks give equal bytes, and errors are one sentence."""

import errno

import pytest
import torch
from safetensors.torch import save_file

import models
from models.errors import InputError
from models.networks.checkpoint import load_network, save_network
from tests.disk import small_disk


def test_a_file_names_its_network_and_equal_networks_give_equal_bytes(tmp_path):
    network = models.build("wrn_16_2", 12)
    contents = set()
    for index in range(8):
        save_network(tmp_path / str(index), network)
        contents.add((tmp_path / str(index)).read_bytes())
    assert len(contents) == 1
    again = load_network(tmp_path / "0")
    assert (again.name, again.num_classes, again.training) == ("wrn_16_2", 12, False)
    wanted, found = network.state_dict(), again.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())


@pytest.mark.parametrize("name", ["resnet8", "timm:test_resnet"])
def test_a_network_may_change_its_input(tmp_path, name):
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


def test_files_that_are_missing_damaged_or_of_something_else(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match="no such file"):
        load_network(path)
    save_network(path, models.build("resnet8", 10))
    whole = path.read_bytes()
    for size in (0, 4, 200, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="a.safetensors: damaged or not a safetensors file"):
            load_network(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="does not say which network it holds"):
        load_network(path)


def test_a_full_disk_is_the_systems_own_error(tmp_path):
    with (
        small_disk(tmp_path, "size=64k") as disk,
        pytest.raises(OSError, match="No space left") as caught,
    ):
        save_network(disk / "a", models.build("resnet8", 10))
    assert caught.value.errno == errno.ENOSPC
