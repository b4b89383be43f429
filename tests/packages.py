"""Packages that a few tests need, fetched when these run; nothing of them lies in the project."""

import subprocess
import sys

import pytest

_SECONDS = 120


def run_or_skip(command: list[str], what: str, **settings: object) -> None:
    """Run a program that fetches or builds ``what``; skip the test with its words if it fails."""
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
    """As :func:`run_or_skip`; wheels alone, since what builds itself may fetch anything."""
    verb, *rest = arguments
    options = ["--quiet", "--disable-pip-version-check", "--timeout=20", "--retries=1"]
    run_or_skip(
        [sys.executable, "-m", "pip", verb, *options, "--only-binary=:all:", "--no-deps", *rest],
        what,
    )
