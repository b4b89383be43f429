"""Whether a DVC remote answers: writes a small file there, reads it back and removes it.

A program of its own, as what such a remote starts (threads, an event loop, connections that never
come) can be left behind for sure with a process alone. It reads one JSON object from its stdin,
``{"root", "name", "settings": null or the remote's}``, and prints ``{"problem": null or why}``.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import sys
import threading
import uuid
from collections.abc import Iterator
from typing import Any

LIMIT_S = 30.0
"""For an answer; what is imported before is not counted."""

_CLIENTS = {"s3": "s3fs", "ssh": "sshfs"}
_CONTENT = b"ackd: this file can be removed\n"
_ERRNO = {
    errno.ENOSPC: "no space is left there",
    errno.EDQUOT: "the quota there is used up",
    errno.ECONNREFUSED: "nothing listens there",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
    errno.EROFS: "it can only be read there",
    errno.EHOSTUNREACH: "the host is not reached",
    errno.ENETUNREACH: "the network is not reached",
}
_KIND = {
    "NoCredentialsError": "no credentials were found; set AWS_ACCESS_KEY_ID and"
    " AWS_SECRET_ACCESS_KEY, or add it with --login",
    "PermissionDenied": "the login is refused; load the key into ssh-agent, or add it with"
    " --key-file",
    "gaierror": "no host has this name",
    "NoSuchBucket": "there is no such bucket",
    "AccessDenied": "these credentials may not write there",
    "InvalidAccessKeyId": "the access key is not known there",
    "SignatureDoesNotMatch": "the secret access key is not the right one",
    "ConnectionLost": "the connection was cut off",
    "SFTPFailure": "the server failed to write, as a full one does",
}


def main() -> None:
    request = json.load(sys.stdin)
    from dvc.repo import Repo

    settings, name = request["settings"], request["name"]
    config = None if settings is None else {"remote": {name: settings}}
    answer: list[str | None] = []

    def probe(remote: Any) -> None:
        try:
            _probe(remote)
            answer.append(None)
        except Exception as error:
            answer.append(_reason(error))

    try:
        with Repo(request["root"], config=config) as repo:
            remote = repo.cloud.get_remote(name)
        if remote.fs.protocol in _CLIENTS:
            importlib.import_module(_CLIENTS[remote.fs.protocol])
    except Exception as error:
        answer.append(_reason(error))
    else:
        thread = threading.Thread(target=probe, args=[remote], daemon=True)
        thread.start()
        thread.join(LIMIT_S)
    problem = answer[0] if answer else f"no answer within {LIMIT_S:g} s"
    print(json.dumps({"problem": problem}), flush=True)
    # Without the farewell of whatever still waits for the remote.
    os._exit(0)


def _probe(remote: Any) -> None:
    fs = remote.fs
    path = fs.join(remote.path, f".ackd-probe-{uuid.uuid4().hex}")
    if fs.protocol != "s3":  # whose folders need not be made
        fs.makedirs(remote.path, exist_ok=True)
    try:
        fs.pipe_file(path, _CONTENT)
        if fs.cat_file(path) != _CONTENT:
            raise OSError("what was written there is read back altered")  # noqa: TRY301
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to tell
            fs.remove(path)
        raise
    fs.remove(path)


def _reason(error: BaseException) -> str:
    chain = list(_chain(error))
    for each in chain:
        response = getattr(each, "response", None)
        code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
        known = _KIND.get(str(code)) or _KIND.get(type(each).__name__)
        known = known or _ERRNO.get(getattr(each, "errno", None) or 0)
        if known:
            return known
    text = " ".join(str(chain[-1]).split()) or type(chain[-1]).__name__
    return text.rstrip(".")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


if __name__ == "__main__":
    main()
