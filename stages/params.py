"""Load and validate ``params.yaml``, which holds everything that changes a result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from models.errors import InputError, did_you_mean, explain
from stages.devices.urls import parse_url
from stages.sections.common import Section
from stages.sections.data import Augmentation, Data
from stages.sections.export import Export, Litert, Profile, Validate
from stages.sections.methods import Distill, Proxy
from stages.sections.result import Analyze, Gate, Package, Report
from stages.sections.training import EngineSettings, Teacher

PARAMS_FILE = Path("params.yaml")


class Params(Section):
    """All sections of ``params.yaml``."""

    data: Data = Data()
    augmentation: Augmentation = Augmentation()
    training: EngineSettings = EngineSettings()
    teacher: Teacher = Teacher()
    proxy: Proxy = Proxy()
    distill: Distill = Distill()
    export: Export = Export()
    validate_: Annotated[Validate, Field(alias="validate")] = Validate()
    litert: Litert = Litert()
    profile: Profile = Profile()
    analyze: Analyze = Analyze()
    report: Report = Report()
    gate: Gate = Gate()
    package: Package = Package()

    @property
    def unlabeled_per_batch(self) -> int:
        """Unlabeled images in each of the student's batches; at least one image has a label."""
        size = self.distill.batch_size
        count = min(round(size * self.distill.unlabeled_share), size - 1)
        return 0 if self.data.unlabeled is None else count

    @model_validator(mode="after")
    def _candidates_begin_with_the_student(self) -> Params:
        candidates, student = self.proxy.assistants.candidates, self.distill.network
        if self.proxy.method == "assistants" and candidates and candidates[0] != student:
            raise ValueError(
                f"proxy.assistants.candidates begins with {candidates[0]}, expected the student"
                f" {student}"
            )
        return self

    @model_validator(mode="after")
    def _the_goal_for_latency_is_measured(self) -> Params:
        threads = parse_url(self.profile.devices[0]).threads or self.profile.threads
        if self.gate.max_p90_ms is not None and 1 not in threads:
            raise ValueError(
                f"gate.max_p90_ms is for one thread, but {self.profile.devices[0]} is measured with"
                f" {threads}; add 1 to profile.threads or the device's URL, or set the goal to null"
            )
        return self


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML 1.2 mapping, as DVC does (PyYAML would read ``1e-3`` as a string).

    Raises:
        InputError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        return parse_yaml(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run from the project's root") from None


def parse_yaml(text: bytes, path: str) -> dict[str, Any]:
    """As :func:`read_yaml`, for the bytes of a file; messages name ``path``."""
    try:
        content = YAML(typ="safe").load(text.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8; save it as UTF-8") from None
    except (YAMLError, RecursionError, ValueError) as error:  # ValueError: an impossible date
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f"line {mark.line + 1}: "
        detail = place + " ".join(str(getattr(error, "problem", error)).split())
        plain_colon = detail.endswith("found unexpected ':'")
        remedy = "correct the file"
        if plain_colon:
            remedy = "quote the text with the colon, or write a space after the colon of a key"
        raise InputError(f"{path}: not readable as YAML ({detail}); {remedy}") from None
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: expected a mapping of sections, as in this project's params.yaml"
        )
    return content


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Load the parameters; raises InputError with all that are unknown or invalid."""
    return parse_params(read_yaml(path), path)


def parse_params(content: dict[str, Any], path: Path = PARAMS_FILE) -> Params:
    """As :func:`load_params`, for a mapping; messages name ``path``."""
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        problems = [_sentence(dict(item)) for item in error.errors()]
        raise InputError(f"{path}: {'; '.join(problems)}") from None


def _sentence(problem: dict[str, Any]) -> str:
    keys = [str(part) for part in problem["loc"]]
    where = ".".join(keys)
    if problem["type"] == "extra_forbidden":
        known = sorted(_known_keys(keys[:-1]))
        return f"{where} is not a parameter; {did_you_mean(keys[-1], known)}"
    if problem["type"] == "model_type":
        return f"{where} is {problem['input']!r}, expected keys with values; add some or remove it"
    message = explain(problem)
    if problem["type"] == "value_error":  # the input is a whole section, too long to show
        return f"{where}: {message}" if keys else message
    return f"{where} is {problem['input']!r}, {message}"


def _known_keys(path: list[str]) -> list[str]:
    section: type[BaseModel] = Params
    for key in path:
        fields = {field.alias or name: field for name, field in section.model_fields.items()}
        annotation = fields[key].annotation
        either = get_args(annotation) or (annotation,)
        sections = [a for a in either if isinstance(a, type) and issubclass(a, BaseModel)]
        if not sections:
            return []
        section = sections[0]
    return [field.alias or name for name, field in section.model_fields.items()]
