"""What must stand in a ``reports/summary.json``, which may be another version's, to be read."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from models.errors import InputError

Fraction = Annotated[FiniteFloat, Field(ge=0, le=1)]
Amount = Annotated[FiniteFloat, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    """Keys that nobody here reads are let pass: a newer version may write more."""

    model_config = ConfigDict(frozen=True, strict=True)


class Data(_Part):
    source: str
    train: Count
    val: Count
    test: Count
    classes: Count
    image_size: Count | None


class Network(_Part):
    network: str
    accuracy: Fraction
    parameters: Count
    macs: Count
    size_mb: Amount


class Student(Network):
    """The proxy too: both are of a method."""

    method: str


class Export(_Part):
    """A precision: its file and its answers; latencies are those of :class:`Row`."""

    status: str
    accuracy: Fraction | None
    size_mb: Amount | None
    """None where no file was made."""
    reason: str | None = None


class Row(_Part):
    """A precision on a device."""

    status: str
    threads: Count
    p50_ms: Amount | None
    p90_ms: Amount | None
    noisy: bool | None
    reason: str | None = None


class Device(_Part):
    machine: str | None
    cpu: str | None
    runtime: str | None
    exports: dict[str, Row]


class Recommended(_Part):
    precision: str
    reason: str


class Paper(_Part):
    method: str
    accuracies: dict[str, Fraction]
    differs: list[str]


class _Timed(Export, Row):
    """A precision with its latencies on the machine that ran the chain."""


class _LiteRTVersions(_Part):
    runtime: str = Field(alias="ai-edge-litert")


class LiteRT(_Part):
    versions: _LiteRTVersions
    exports: dict[str, _Timed]


class Compared(_Part):
    """What comparing and choosing read of a summary."""

    data: Data
    teacher: Network
    student: Student
    exports: dict[str, Export]
    recommended: Recommended | None
    devices: dict[str, Device]
    litert: LiteRT | None = None
    paper: Paper | None


def checked(content: dict[str, Any], remedy: str) -> Compared:
    """The parts of a summary that are compared.

    Args:
        content: of the file.
        remedy: what a user can do, the end of the sentence.

    Raises:
        InputError: a key lacks, or has another kind of value, as in a file of another version.
    """
    try:
        return Compared.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "missing":
            what = f"has no {key}, so another version of ackd wrote it"
        else:
            wanted = problem["msg"].removeprefix("Input should be ")
            if problem["type"] in ("dict_type", "model_type"):
                wanted = "a JSON object"
            what = f"{key} is {problem['input']!r}, expected {wanted}"
        raise InputError(f"reports/summary.json: {what}; {remedy}") from None
