"""Fetches packages that a few tests need, when they run."""

import subprocess
import sys

import pytest

_SECONDS = 120


def run_or_skip(command: list[str], what: str, **settings: object) -> None:
    """Run a program that fetches or builds ``what``; if it fails, skip the test with its output."""
    try:
        process = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
            **settings,
        )
    except FileNotFoundError:
        pytest.skip(f"{what} cannot be had: {command[0]} is not installed")
    except subprocess.TimeoutExpired:
        pytest.skip(f"{what} cannot be had within {_SECONDS} s")
    if process.returncode != 0:
        lines = process.stdout.strip().splitlines() or [f"status {process.returncode}"]
        errors = [line for line in lines if line.lower().startswith(("error", "e:"))]
        pytest.skip(f"{what} cannot be had: {(errors or lines)[-1]}")


def pip(*arguments: str, what: str) -> None:
    """Run pip like :func:`run_or_skip`, for wheels only, because builds may fetch anything."""
    verb, *rest = arguments
    options = ["--quiet", "--disable-pip-version-check", "--timeout=20", "--retries=1"]
    run_or_skip(
        [sys.executable, "-m", "pip", verb, *options, "--only-binary=:all:", "--no-deps", *rest],
        what,
    )
