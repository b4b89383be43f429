"""Format numbers and findings as text, the same on the terminal, the page and the card."""

from collections.abc import Iterable, Sequence
from typing import Any

#: Methods whose student does not learn from the teacher.
WITHOUT_TEACHER = ("scratch", "one")


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def points(fraction: float) -> str:
    """Format a difference of two fractions in percentage points; 0 has no sign."""
    value = round(100 * fraction, 2)
    return f"{value:+.2f}".replace("-", "−") if value else "0.00"


def drop(export: dict[str, Any]) -> str | None:
    """Format the drop of an export in ``reports/summary.json``, with its 95 % interval."""
    if export["drop"] is None:
        return None
    low, high = (points(export[key]) for key in ("drop_low", "drop_high"))
    return f"{points(export['drop'])} ({low} to {high})"


def interval(share: dict[str, float]) -> str:
    """Format a fraction with its 95 % interval."""
    return f"{percent(share['value'])} ({100 * share['low']:.1f} to {100 * share['high']:.1f})"


def significant(value: float) -> str:
    """Format with three significant digits: ``0.0312``, ``4.05``, ``1,230``."""
    rounded = float(f"{value:.3g}")
    if rounded == 0 or abs(rounded) >= 1e-3:
        return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:#.3g}"
    return f"{rounded:.1e}".replace("e-0", "e-").replace("-", "−")


def millions(count: int) -> str:
    return f"{significant(count / 1e6)} M"


def times(factor: float) -> str:
    return f"{significant(factor)}×"


def count(number: int) -> str:
    return f"{number:,}"


def some_of(names: Sequence[str]) -> str:
    """List names, as in ``a, b, c and 2 more``."""
    left = len(names) - 3
    return ", ".join(names[:3]) + f" and {left} more" * (left > 0)


def threads(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"


def duration(seconds: float) -> str:
    """Format a duration with two digits in a natural unit."""
    for limit, size, unit in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{seconds / 86400:.2g} days"


def between(least: int, most: int) -> str:
    """Return ``14 to 15``, or ``14`` if both are the same."""
    return count(least) if least == most else f"{count(least)} to {count(most)}"


def origin(summary: dict[str, Any]) -> str:
    """Say how the student of ``reports/summary.json`` was trained."""
    method: str = summary["student"]["method"]
    if method in WITHOUT_TEACHER:
        return "trained from scratch" if method == "scratch" else f"trained by {method.upper()}"
    return f"distilled from {summary['teacher']['network']} by {method.upper()}"


def by_reason(skipped: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """Group ``skipped`` of ``reports/summary.json`` by reason, with the devices."""
    found: dict[str, list[str]] = {}
    for item in skipped:
        device = item.get("device")
        what = f"{item['what']} on {device}" if device else str(item["what"])
        found.setdefault(item["reason"], []).append(what)
    return found
