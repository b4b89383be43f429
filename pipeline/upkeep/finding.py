"""A line of the diagnosis of ``ackd doctor``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis."""

    what: str
    usable: bool
    found: str
    missing: str
    """What its absence means, and what to do where something can be done."""
