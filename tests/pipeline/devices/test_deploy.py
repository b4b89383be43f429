"""Deployment to this machine.

test_pages.py deploys over ssh; tests/stages/devices/test_agent.py interrupts deployments.
"""

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from models.errors import InputError
from pipeline.devices.deploy import Deployment, State, deploy, deployed, rollback
from stages.bundle.keys import key_id
from stages.devices import runner
from stages.files import sha256
from tests.bundles import KEY, flip_byte, make_bundle, pack


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """``1.0.0``, ``1.1.0``, ``signed`` (2.0.0) and ``wrong`` (3.0.0); read-only."""
    folder = tmp_path_factory.mktemp("bundles")
    for version in ("1.0.0", "1.1.0"):
        make_bundle(folder / version, version)
    make_bundle(folder / "signed", "2.0.0", KEY)
    make_bundle(folder / "wrong", "3.0.0", wrong=True)
    return folder


def put(bundle: Path, url: str, key: Ed25519PublicKey | None = None) -> Deployment:
    return deploy(bundle, url, key)


def version(state: State, which: str = "served") -> str:
    return str(state[which]["version"])


def test_deploy_update_and_roll_back(bundles, tmp_path):
    url = f"local:{tmp_path}/model"
    assert deployed(url)["served"] is None
    first = put(pack(shutil.copytree(bundles / "1.0.0", tmp_path / "b")), url)
    assert first.results is not None
    assert [r["status"] for r in first.results] == ["passed"] * 8
    served = tmp_path / "model/served"
    assert sha256(served / "manifest.json") == sha256(bundles / "1.0.0/manifest.json")
    assert {p.name for p in served.iterdir()} == {p.name for p in (bundles / "1.0.0").iterdir()}
    second = put(bundles / "1.1.0", url).state
    assert (version(second), version(second, "previous")) == ("1.1.0", "1.0.0")
    assert second["served"]["network"] == "resnet8"
    assert second["served"]["runtime"].startswith("onnxruntime ")
    assert runner.check(served)["passed"]
    # Failed parity changes nothing.
    before = served.readlink()
    with pytest.raises(InputError, match=r"parity failed there, by onnxruntime .*: fp32\.dynamic"):
        put(bundles / "wrong", url)
    assert served.readlink() == before
    assert {p.name for p in (tmp_path / "model").iterdir()} == {"served", "releases"}
    back = rollback(url)
    assert version(back) == "1.0.0"
    assert deployed(url) == back
    with pytest.raises(InputError, match=r"no version before 1\.0\.0 is kept"):
        rollback(url)


def test_an_already_served_bundle_is_not_sent_again(bundles, tmp_path):
    url = f"local:{tmp_path}/model"
    put(bundles / "1.0.0", url)
    before = (tmp_path / "model/served").readlink()
    assert put(bundles / "1.0.0", url).results is None
    assert (tmp_path / "model/served").readlink() == before
    # Damaged files are repaired.
    flip_byte(tmp_path / "model/served/labels.json")
    assert "labels.json: altered" in deployed(url)["problem"]
    repaired = put(bundles / "1.0.0", url)
    assert repaired.results is not None
    assert repaired.state["problem"] is None


def test_signatures(bundles, tmp_path):
    url, public = f"local:{tmp_path}/model", KEY.public_key()
    unchecked = put(bundles / "signed", url)
    assert (unchecked.unverified_key, unchecked.state["key"]) == (key_id(public), None)
    # A served bundle is sent again if its key becomes required.
    assert put(bundles / "signed", url, public).state["key"] == public.public_bytes_raw().hex()
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(InputError, match=r"not signed, but the key .* is required"):
        put(bundles / "1.0.0", url, public)
    assert not (tmp_path / "model").exists()
    done = put(bundles / "signed", url, public)
    assert done.unverified_key is None
    assert done.state["served"]["key_id"] == key_id(public)
    # The device requires that key from then on.
    newer = make_bundle(tmp_path / "unsigned", "4")
    with pytest.raises(InputError, match=r"not signed, but the key .* is required"):
        put(newer, url)
    foreign = Ed25519PrivateKey.generate()
    newer = make_bundle(tmp_path / "foreign", "4", foreign)
    with pytest.raises(InputError, match=r"signed with the key .*, expected "):
        put(newer, url)
    changed = put(newer, url, foreign.public_key()).state
    assert changed["served"]["key_id"] == key_id(foreign.public_key())


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("local:", "names no folder to deploy to; give local:/folder"),
        ("local:x", "is not valid; expected local:"),
        ("adb:", "nothing can be deployed there; give local:/folder or ssh://host"),
    ],
)
def test_devices_without_deployment_are_refused(bundles, url, sentence):
    with pytest.raises(InputError, match=sentence):
        put(bundles / "1.0.0", url)
