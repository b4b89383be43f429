"""Deploys bundles to devices: `ackd deploy`, `ackd rollback`, `ackd deployed`."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from models.errors import InputError
from pipeline.bundles import open_bundle
from stages.devices.host import Host, new_token
from stages.devices.urls import open_device, parse_url

State = dict[str, Any]  # what a device serves, as returned by stages.devices.agent.status


class Deployment(NamedTuple):
    state: State  # of the device afterwards
    results: list[dict[str, Any]] | None  # of parity there; None if the bundle was already served
    unverified_key: str | None  # id of the bundle's signing key, if its signature was not checked


def deploy(
    bundle: Path,
    url: str,
    key: Ed25519PublicKey | None,
    *,
    allow_downgrade: bool = False,
) -> Deployment:
    """Serve a bundle on a device after verifying its files and its models' outputs there.

    The device serves its current bundle until the last step, a single rename. From then on it
    requires ``key``; by default, the key that it already requires applies.

    Raises:
        InputError: the bundle is altered, not signed by the key, older than what is served, or
            fails parity on the device; or the device cannot be reached.
    """
    with open_bundle(bundle, key) as opened:
        host = _host(url)
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
            where = str(host.folder), str(place.token)
            state = host.ask_agent("activate", *where, json.dumps(order))
        return Deployment(state, checked["results"], unverified)


def rollback(url: str) -> State:
    """Serve the previous bundle again; raises InputError if no intact one is left."""
    host = _host(url)
    return host.ask_agent("rollback", str(host.folder), new_token())


def deployed(url: str) -> State:
    """Verify and return what the device serves; raises InputError if it is out of reach."""
    host = _host(url)
    return host.ask_agent("status", str(host.folder))


def _host(url: str) -> Host:
    # Refuse Android devices without connecting to them.
    device = None if parse_url(url).scheme == "adb" else open_device(url)
    if not isinstance(device, Host):
        raise InputError(f"{url}: nothing can be deployed there; give local:/folder or ssh://host")
    if device.folder is None:
        raise InputError(f"{url}: names no folder to deploy to; give {url.rstrip('/')}/folder")
    return device


def _failures(checked: dict[str, Any]) -> str:
    failed = [r for r in checked["results"] if r["status"] != "passed"]
    listed = ", ".join(f"{r['precision']}.{r['shape']} ({r['reason']})" for r in failed)
    return f"parity failed there, by {checked['runtime']}: {listed}"
