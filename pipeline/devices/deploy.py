"""Bundles on devices: proven, then served in one step; and back: `ackd deploy`, `ackd rollback`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from models.errors import InputError
from pipeline.bundles import open_bundle
from stages.devices.base import Opening
from stages.devices.host import Host, new_token
from stages.devices.urls import open_device, parse_url

State = dict[str, Any]
"""What a device serves, as ``stages.devices.agent.status`` gives it."""


class Deployment(NamedTuple):
    """What became of a deployment.

    Attributes:
        state: of the device afterwards.
        results: of the parity check there; None if the bundle was served already.
        unverified_key: the id of a key that the bundle names but nobody checked.
    """

    state: State
    results: list[dict[str, Any]] | None
    unverified_key: str | None


def deploy(
    bundle: Path,
    url: str,
    key: Ed25519PublicKey | None,
    *,
    allow_downgrade: bool = False,
    opening: Opening,
) -> Deployment:
    """Serve a bundle on a device, once its files and its models' outputs there are verified.

    What is served stays so until the last step, which is one rename on the device. The device
    requires ``key`` from then on; without one here, the one that it requires already applies.

    Raises:
        InputError: the bundle is altered, not signed by the key, older than what is served, or
            misses torch's outputs on the device; or the device is not reached.
    """
    with open_bundle(bundle, key) as opened:
        host = _host(url, opening)
        state: State = host.ask_agent("status", str(host.folder))
        given = None if key is None else key.public_bytes_raw().hex()
        if key is None and state["key"] is not None:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(state["key"]))
            opened.require_signature(key)
        unverified = opened.signer if key is None else None
        served = state["served"] if state["problem"] is None else None
        same = served is not None and served["manifest_sha256"] == opened.manifest_sha256
        if same and given in (None, state["key"]):
            return Deployment(state, None, unverified)
        files = {f"bundle/{path.name}": path for path in sorted(opened.folder.iterdir())}
        with host.received(files) as place:
            checked = host.ask_runner(place, "--check", place.models, "--json")
            if not checked["passed"]:
                raise InputError(f"{url}: {_failures(checked)}; nothing was changed there")
            order = {
                "manifest_sha256": opened.manifest_sha256,
                "allow_downgrade": allow_downgrade,
                "key": given,
                "record": {"network": checked["network"], "runtime": checked["runtime"]},
            }
            state = host.ask_agent(
                "activate", str(host.folder), str(place.token), json.dumps(order)
            )
        return Deployment(state, checked["results"], unverified)


def rollback(url: str, opening: Opening) -> State:
    """Serve what the device served before.

    Raises:
        InputError: nothing is served there, or no older release is kept whole.
    """
    host = _host(url, opening)
    return host.ask_agent("rollback", str(host.folder), new_token())


def deployed(url: str, opening: Opening) -> State:
    """What the device serves, with its checksums verified there.

    Raises:
        InputError: the device is not reached, or its folder is not one that serves.
    """
    host = _host(url, opening)
    return host.ask_agent("status", str(host.folder))


def _host(url: str, opening: Opening) -> Host:
    # An Android device need not be there to be refused.
    device = None if parse_url(url).scheme == "adb" else open_device(url, opening)
    if not isinstance(device, Host):
        raise InputError(f"{url}: nothing can be deployed there; give local:/folder or ssh://host")
    if device.folder is None:
        raise InputError(f"{url}: names no folder to deploy to; give {url.rstrip('/')}/folder")
    return device


def _failures(checked: dict[str, Any]) -> str:
    failed = [
        f"{r['precision']}.{r['shape']} ({r['reason']})"
        for r in checked["results"]
        if r["status"] != "passed"
    ]
    return f"parity failed there, by {checked['runtime']}: {', '.join(failed)}"
