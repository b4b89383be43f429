"""Distillation methods, one file each."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from models.errors import InputError

if TYPE_CHECKING:
    from models.distillers.base import Distiller, Needs, Setting
    from models.networks.backbone import Backbone

_CLASSES = {
    "scratch": "Scratch",
    "kd": "Kd",
    "dkd": "Dkd",
    "dist": "Dist",
    "rld": "Rld",
    "at": "At",
    "sp": "Sp",
    "cc": "Cc",
    "vid": "Vid",
    "crd": "Crd",
    "semckd": "SemCkd",
    "reviewkd": "ReviewKd",
    "one": "One",
    "ackd": "Ackd",
}


def build(name: str, student: Backbone, setting: Setting, options: Mapping[str, Any]) -> Distiller:
    """Build a method by name, importing only its own file.

    Args:
        name: the name of the method and of its file.
        student: the target learner, which becomes part of the distiller.
        setting: the training that the method is built for.
        options: the keyword arguments of the method's class.

    Raises:
        InputError: there is no such method.
    """
    distiller: Distiller = _load(name)(student, setting, **options)
    return distiller


def needs(name: str) -> Needs:
    """Return what a method needs from the teacher.

    Raises:
        InputError: there is no such method.
    """
    needed: Needs = _load(name).needs
    return needed


def check_unlabeled(name: str) -> None:
    """Reject a method that cannot learn from unlabelled images.

    Raises:
        InputError: names the methods that can.
    """
    if _load(name).needs_labels:
        fitting = [other for other in _CLASSES if not _load(other).needs_labels]
        raise InputError(
            f"distill.method {name} learns from labels only, but data.unlabeled is set; choose one"
            f" of {', '.join(fitting)}, or set distill.unlabeled_share to 0"
        )


def _load(name: str) -> Any:
    if name not in _CLASSES:
        raise InputError(f"method {name!r} is not known: use one of {', '.join(_CLASSES)}")
    return getattr(importlib.import_module(f"models.distillers.{name}"), _CLASSES[name])
