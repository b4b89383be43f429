"""Which failures are retried, given the output of git, DVC, the hub and stages."""

import pytest

from pipeline.dvc_command import RemoteError, StageBusyError, StageError, failure


@pytest.mark.parametrize(
    "line",
    [
        "error: data.source: 'a/b' is not read (ConnectionError: Couldn't reach 'a/b' on the Hub)",
        "ERROR: failed to connect to s3 (bucket/files/md5) - Could not connect to the endpoint URL",
        "ERROR: unexpected error - [Errno 111] Connection refused",
        "ssh: connect to host nas port 22: No route to host",
        "fatal: unable to access 'https://host/': Could not resolve host: host",
        "OSError: [Errno -3] Temporary failure in name resolution",
        "requests.exceptions.ConnectTimeout: connect timed out",
        "botocore.exceptions.ClientError: 503 Service Unavailable",
    ],
)
def test_an_unreachable_remote_is_retried(line):
    error = failure(["epoch 1", line, "ERROR: failed to reproduce 'left': it failed"], 255)
    assert type(error) is RemoteError
    assert not str(error).startswith(("error: ", "ERROR: "))


@pytest.mark.parametrize(
    "lines",
    [
        ["error: distill.epochs: expected a number of 1 or more"],
        ["a remote was slow: connection reset, trying again", "error: the loss is not finite"],
        ["torch.OutOfMemoryError: CUDA out of memory"],
        ["error: the device took longer than 1800 s"],
    ],
)
def test_permanent_failures_are_not_retried(lines):
    assert type(failure(lines, 255)) is StageError


def test_a_crash_carries_its_last_line():
    lines = ["Traceback (most recent call last):", '  File "x.py", line 1, in <module>']
    lines += ["ModuleNotFoundError: No module named 'x'", "ERROR: failed to reproduce 'left': x"]
    assert str(failure(lines, 255)) == "ModuleNotFoundError: No module named 'x'"


def test_a_lock_takes_precedence():
    busy = "ERROR: '/a' is busy, it is being blocked by: (PID 1): dvc repro"
    assert type(failure([busy, "connection refused"], 255)) is StageBusyError
    assert str(failure([], -9)) == "ended by SIGKILL"
