"""What dvc's output means: whether a stage ran, and whether a failure may pass."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from typing import Literal

Outcome = Literal["ran", "unchanged", "restored"]

HOUSEKEEPING = (
    "Running stage '",
    "> ",
    "Updating lock file 'dvc.lock'",
    "Generating lock file 'dvc.lock'",
    "To track the changes with git, run:",
    "\tgit add ",
    "To enable auto staging, run:",
    "\tdvc config core.autostage true",
    "Use `dvc push` to send your updates",
    "Stage '",
    "Data and pipelines are up to date.",
    "ERROR: failed to reproduce",
    "Having any troubles?",
    "Reproducing experiment '",
    "WARNING: No file hash info found for '",
)
"""How the lines begin that dvc itself writes around a stage's own output."""

_UNREACHABLE = re.compile(
    r"connection (was )?(refused|reset|aborted|closed|timed out)|connect(ion)? time(d )?out"
    r"|connectionerror|(failed|unable) to connect|could ?n[o']t (connect|reach|resolve)"
    r"|name resolution|(network is|host) unreachable|no route to host"
    r"|service unavailable|bad gateway|too many requests",
    re.IGNORECASE,
)
"""What the network's errors are called by git, DVC's remotes, the hub and the system."""


class StageError(RuntimeError):
    """A stage did not come to its end; the message is its own last word."""


class StageBusyError(StageError):
    """Another DVC process holds the files of this stage; worth another try."""


class RemoteError(StageError):
    """Something on another machine did not answer; worth another try."""


def outcome(stage: str, lines: Sequence[str]) -> Outcome:
    """What a successful ``dvc repro`` of one stage did."""
    # dvc's exit code is about failure and success, and nothing more.
    if any(line.startswith(f"Stage '{stage}' didn't change, skipping") for line in lines):
        return "unchanged"
    if any(line.startswith(f"Stage '{stage}' is cached - skipping run") for line in lines):
        return "restored"
    return "ran"


def failure(lines: Sequence[str], code: int) -> StageError:
    """The error of a command of dvc that ended with an exit status other than 0."""
    text = "\n".join(lines)
    if "is busy, it is being blocked by" in text or "Unable to acquire lock" in text:
        return StageBusyError("another DVC process is at work on its files")
    own = [line for line in lines if line and not line.startswith(HOUSEKEEPING)]
    sentences = [line.removeprefix("error: ") for line in own if line.startswith("error: ")]
    dvc = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if code < 0:
        dvc.append(f"ended by {signal.Signals(-code).name}")
    message = (sentences or own[-1:] or dvc or [f"exit status {code}"])[-1].removeprefix("ERROR: ")
    # Its last word alone: it may have had such trouble on its way, and failed for another reason.
    kind = RemoteError if _UNREACHABLE.search(message) else StageError
    return kind(message)
