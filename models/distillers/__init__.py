"""Distillation methods, one file each."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from models.errors import InputError

if TYPE_CHECKING:
    from models.distillers.base import Distiller, Setting
    from models.networks.backbone import Backbone

# By the name of the method, which is also that of its file.
_CLASSES = {
    name.lower(): name
    for name in (
        *("Scratch", "Kd", "Dkd", "Dist", "Rld", "At", "Sp", "Cc", "Vid", "Crd"),
        *("SemCkd", "ReviewKd", "One", "Ackd"),
    )
}


def build(name: str, student: Backbone, setting: Setting, options: Mapping[str, Any]) -> Distiller:
    """Build a method; raises InputError if there is none."""
    return load(name)(student, setting, **options)


def check_unlabeled(name: str) -> None:
    """Raise InputError, naming the others, if a method cannot learn from unlabelled images."""
    if load(name).needs_labels:
        fitting = [other for other in _CLASSES if not load(other).needs_labels]
        raise InputError(
            f"distill.method {name} learns from labels only, but data.unlabeled is set; choose one"
            f" of {', '.join(fitting)}, or set distill.unlabeled_share to 0"
        )


def load(name: str) -> type[Distiller]:
    """Return a method's class, importing only its own file; raises InputError if there is none."""
    if name not in _CLASSES:
        raise InputError(f"method {name!r} is not known: use one of {', '.join(_CLASSES)}")
    module = importlib.import_module(f"models.distillers.{name}")
    found: type[Distiller] = getattr(module, _CLASSES[name])
    return found
