"""Interprets the output of DVC commands."""

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
)  # prefixes of the lines that dvc writes around a stage's own output

_TRANSFER = re.compile(r"ERROR: failed to transfer '[^']*' - ")
_UNREACHABLE = re.compile(
    r"connection (was )?(refused|reset|aborted|closed|timed out)|connect(ion)? time(d )?out"
    r"|connectionerror|(failed|unable) to connect|could ?n[o']t (connect|reach|resolve)"
    r"|name resolution|(network is|host) unreachable|no route to host"
    r"|service unavailable|bad gateway|too many requests",
    re.IGNORECASE,
)  # network errors as git, DVC's remotes, the hub and the operating system word them


class StageError(RuntimeError):
    """A stage failed; the message is the reason that it gave."""


class StageBusyError(StageError):
    """Another DVC process holds the files of this stage; a retry may succeed."""


class RemoteError(StageError):
    """A remote did not respond; a retry may succeed."""


def outcome(stage: str, lines: Sequence[str]) -> Outcome:
    """Return what a successful ``dvc repro`` of one stage did."""
    # dvc's exit code does not distinguish these.
    if any(line.startswith(f"Stage '{stage}' didn't change, skipping") for line in lines):
        return "unchanged"
    if any(line.startswith(f"Stage '{stage}' is cached - skipping run") for line in lines):
        return "restored"
    return "ran"


def failure(lines: Sequence[str], code: int) -> StageError:
    """Return the error of a dvc command that exited with a status other than 0.

    Its message is, in this order of preference, the stage's ``error:`` line, why dvc could not
    transfer a file, the stage's last line, or dvc's own error.
    """
    text = "\n".join(lines)
    if "is busy, it is being blocked by" in text or "Unable to acquire lock" in text:
        return StageBusyError("another DVC process is using its files")
    sentences = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    transfers = [_TRANSFER.sub("", line) for line in lines if _TRANSFER.match(line)]
    own = [line for line in lines if line and not line.startswith(HOUSEKEEPING)]
    last = [line for line in lines if line.startswith("ERROR: ")]
    if code < 0:
        last.append(f"ended by {signal.Signals(-code).name}")
    found = (sentences or transfers or own or last or [f"exit status {code}"])[-1]
    message = re.sub(r"^ERROR: (unexpected error - )?|\[Errno -?\d+\] ", "", found).rstrip(".")
    # Check only this line: earlier network errors may not be the reason for the failure.
    kind = RemoteError if _UNREACHABLE.search(message) else StageError
    return kind(message)
