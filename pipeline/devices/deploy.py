"""Bundles on devices: proven, then served in one step; and back: `ackd deploy`, `ackd rollback`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from models.errors import InputError
from pipeline.bundles import open_bundle
from stages.bundle.keys import read_public_key
from stages.devices.base import Opening
from stages.devices.host import Host, files_below, new_token
from stages.devices.urls import open_device, parse_url


@dataclass(frozen=True)
class Served:
    """What a device serves.

    Attributes:
        folder: there; ``<folder>/served`` leads to the files.
        served: the record of the present release: ``version``, ``network``, ``key_id``,
            ``deployed``, ...; None where nothing is served.
        previous: of the one that a rollback would serve.
        problem: what is wrong with the files that are served; None where they are whole.
        key: that bundles must be signed with there, 64 hexadecimal digits; None where none is
            required.
    """

    folder: str
    served: dict[str, Any] | None
    previous: dict[str, Any] | None
    problem: str | None
    key: str | None


@dataclass(frozen=True)
class Deployment:
    """What became of a deployment.

    Attributes:
        state: of the device afterwards.
        results: of the parity check there; None where the bundle was served already.
        unverified_key: the key id that the bundle names but nobody checked.
    """

    state: Served
    results: list[dict[str, Any]] | None
    unverified_key: str | None


def deploy(
    bundle: Path, url: str, *, key: Path | None, allow_downgrade: bool, opening: Opening
) -> Deployment:
    """Serve a bundle on a device, after its files and its answers there were proven.

    What is served stays so until the last step, which is one rename on the device.

    Args:
        bundle: the file or the folder.
        url: of the device.
        key: the file of the public key whose signature the bundle must bear. A device that was
            given a bundle with a key wants that key from then on, where no other is named.
        allow_downgrade: whether an older version may replace a newer one.
        opening: what is allowed.

    Raises:
        InputError: the bundle is altered, not signed by the key, older than what is served, or
            does not give torch's answers on the device; or the device is not reached.
    """
    public = None if key is None else read_public_key(key)
    with open_bundle(bundle, public) as opened:
        host = _host(url, opening)
        state = _state(host)
        given = None if public is None else public.public_bytes_raw().hex()
        if public is None and state.key is not None:
            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(state.key))
            opened.require_signature(public)
        unverified = opened.signer if public is None else None
        if state.served is not None and state.problem is None:
            same = state.served["manifest_sha256"] == opened.manifest_sha256
            if same and given in (None, state.key):
                return Deployment(state, None, unverified)
        with host.received(files_below(opened.folder, "bundle")) as place:
            checked = host.ask_runner(place, "--check", place.models, "--json")
            if not checked["passed"]:
                raise InputError(f"{url}: {_failures(checked)}; nothing was changed there")
            order = {
                "manifest_sha256": opened.manifest_sha256,
                "allow_downgrade": allow_downgrade,
                "key": given,
                "record": {"network": checked["network"], "runtime": checked["runtime"]},
            }
            answer = host.ask_agent(
                "activate", str(host.folder), str(place.token), json.dumps(order)
            )
        return Deployment(Served(**answer), checked["results"], unverified)


def rollback(url: str, opening: Opening) -> Served:
    """Serve what the device served before.

    Raises:
        InputError: nothing is served there, nothing older is kept, or that is not whole.
    """
    host = _host(url, opening)
    return Served(**host.ask_agent("rollback", str(host.folder), new_token()))


def deployed(url: str, opening: Opening) -> Served:
    """What the device serves, with its sums checked there.

    Raises:
        InputError: the device is not reached, or its folder is not one that serves.
    """
    return _state(_host(url, opening))


def _host(url: str, opening: Opening) -> Host:
    # An Android device need not be there to be refused.
    device = None if parse_url(url).scheme == "adb" else open_device(url, opening)
    if not isinstance(device, Host):
        raise InputError(f"{url}: nothing can be deployed there; give local:/folder or ssh://host")
    if device.folder is None:
        raise InputError(f"{url}: names no folder to deploy to; give {url.rstrip('/')}/folder")
    return device


def _state(host: Host) -> Served:
    return Served(**host.ask_agent("status", str(host.folder)))


def _failures(checked: dict[str, Any]) -> str:
    failed = [
        f"{r['precision']}.{r['shape']} ({r['reason']})"
        for r in checked["results"]
        if r["status"] != "passed"
    ]
    return f"parity failed there, by {checked['runtime']}: {', '.join(failed)}"
