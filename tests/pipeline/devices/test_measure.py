from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.errors import InputError
from pipeline.devices.measure import file_for, measure
from stages.files import read_json
from tests.bundles import flip_byte, make_bundle
from tests.stages.devices.conftest import PROFILE


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_bundle(tmp_path / "bundle")


def test_a_failing_device_does_not_affect_the_others(bundle):
    urls = ["ssh://127.0.0.1:1", "local:?threads=2", "local:"]
    with pytest.raises(InputError, match=r"^ssh://127\.0\.0\.1:1: "):
        list(measure(urls, bundle, PROFILE))
    kept = [read_json(path) for path in Path("reports/devices").iterdir()]
    assert {file["device"] for file in kept} == set(urls[1:])


def test_mistakes_are_found_before_anything_runs(bundle):
    with pytest.raises(InputError, match="'telnet://x' has no known scheme"):
        list(measure(["local:", "telnet://x"], bundle, PROFILE))
    with pytest.raises(InputError, match="a folder is only for deploying bundles; measure on l"):
        list(measure(["local:/srv/model"], bundle, PROFILE))
    key = Ed25519PrivateKey.generate().public_key()
    with pytest.raises(InputError, match="not signed, but the key .* is required"):
        list(measure(["local:"], bundle, PROFILE, key))
    flip_byte(bundle / "runner.py")
    with pytest.raises(InputError, match=r"^runner\.py: altered since it was packaged"):
        list(measure(["local:"], bundle, PROFILE))
    with pytest.raises(InputError, match="--key: only bundles are signed; name one with --bundle"):
        list(measure(["local:"], None, PROFILE, key))
    assert not Path("reports").exists()


def test_names_of_files(bundle):
    names = {
        "local:": "local.json",
        "local:?cpus=0,1": "local-cpus-0-1.json",
        "ssh://pi@board.lan:2222/srv": "ssh-pi-board-lan-2222-srv.json",
    }
    for url, name in names.items():
        assert file_for(url).name == name
    list(measure(["local:?cpus=0"], bundle, PROFILE))
    assert file_for("local:?cpus=0").name == "local-cpus-0.json"
    assert file_for("local:/cpus/0").name.startswith("local-cpus-0-")
