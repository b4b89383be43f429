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
    for name in DISTRIBUTIONS[runtime]:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None
