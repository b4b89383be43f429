"""Find installed runtimes without importing them."""

import contextlib
import importlib.metadata

#: A runtime may have several distributions; the first installed one counts.
DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "torch": ("torch",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "litert": ("ai-edge-litert",),
}


def version_of(runtime: str) -> str | None:
    """Return the installed version of a key of :data:`DISTRIBUTIONS`; None if there is none."""
    return next(filter(None, map(installed_version, DISTRIBUTIONS[runtime])), None)


def installed_version(distribution: str) -> str | None:
    """Return the version of a distribution; None if it is not installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(distribution)
    return None
