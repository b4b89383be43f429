"""The plan of a sweep: a file of variants and seeds, and the experiments that it asks for."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from models.errors import InputError
from pipeline.dvc_runner import Stage, load_graph
from pipeline.git_command import git
from pipeline.presets import laid
from pipeline.sweep.commits import check_committed, check_in_git
from stages.params import PARAMS_FILE, parse_params, parse_yaml, read_yaml
from stages.preflight import check

SEED = "distill.seed"
_Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class Variant(_Part):
    """What sets one variant apart."""

    presets: list[str] = []
    settings: dict[str, Any] = Field(default={}, alias="set")
    """``section.key`` to value, laid over the presets."""
    grid: dict[str, list[Any]] = {}
    """``section.key`` to values, of which every combination is a variant of its own."""


class SweepFile(_Part):
    """The file of ``ackd sweep``."""

    name: _Word
    presets: list[str] = []
    """Of every variant, laid before its own."""
    data: str | None = None
    """Takes the place of the presets' ``data.source``, as ``ackd use --data``."""
    epochs: int | None = Field(default=None, ge=1)
    """Of the student in a short schedule, as ``ackd use --epochs``."""
    settings: dict[str, Any] = Field(default={}, alias="set")
    grid: dict[str, list[Any]] = {}
    seeds: Annotated[int, Field(ge=1)] | list[Annotated[int, Field(ge=0)]] = 1
    """How many, counted from 0, or which."""
    until: str = "report"
    """The last stage to run. ``gate`` would throw away what misses a goal."""
    variants: dict[_Word, Variant | None] = Field(min_length=1)


@dataclass(frozen=True)
class Experiment:
    """One variant with one seed.

    Attributes:
        name: of the DVC experiment, ``SWEEP.VARIANT.seedN``.
        text: of its ``params.yaml``.
        params: the same, parsed.
        shared: what it has in common with other experiments of the sweep, such as a teacher; those
            with something in common must not make it side by side.
    """

    name: str
    text: str
    params: dict[str, Any]
    shared: frozenset[str]


@dataclass(frozen=True)
class Plan:
    """All experiments of a sweep, on one commit.

    Attributes:
        stages: those that an experiment runs, in the order of the chain.
        files: what the stages read of the repository: a change in them makes other experiments.
    """

    name: str
    commit: str
    until: str
    stages: tuple[Stage, ...]
    files: tuple[str, ...]
    experiments: tuple[Experiment, ...]


def load_plan(path: Path) -> Plan:
    """Read the file, and make sure that every experiment that it asks for is possible.

    Raises:
        InputError: a key or a value is not right, a variant is not possible, or files of the
            project are not committed.
    """
    content = _parse(path)
    check_committed()
    commit = git(Path(), "rev-parse", "HEAD")
    stages = _until(load_graph(Path()), content.until, path)
    texts = _texts(content, git(Path(), "show", f"{commit}:{PARAMS_FILE}"), path)
    params = {name: parse_yaml(text.encode(), str(path)) for name, text in texts.items()}
    _check_different(params, path)
    definitions: dict[str, Any] = read_yaml(Path("dvc.yaml")).get("stages", {})
    made = {name: _made(stages, definitions, own) for name, own in params.items()}
    counts = Counter(itertools.chain.from_iterable(made.values()))
    return Plan(
        name=content.name,
        commit=commit,
        until=content.until,
        stages=tuple(stages),
        files=_files(stages, definitions, list(params.values())),
        experiments=tuple(
            Experiment(
                name, text, params[name], frozenset(key for key in made[name] if counts[key] > 1)
            )
            for name, text in texts.items()
        ),
    )


def _parse(path: Path) -> SweepFile:
    if not path.is_file():
        raise InputError(f"{path}: no such file; write one as docs/how-to-sweep.md says")
    try:
        return SweepFile.model_validate(read_yaml(path))
    except ValidationError as error:
        raise InputError(f"{path}: {'; '.join(dict.fromkeys(_sentences(error)))}") from None


def _sentences(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        if problem["loc"][0] == "seeds":  # one sentence, not one for each of its two forms
            yield "seeds takes a count from 1, or a list of numbers from 0"
        elif where == "variants" and problem["type"] == "too_short":
            yield "variants is empty; name one"
        elif problem["type"] == "model_type":
            yield f"{where} is {problem['input']!r}, expected {_keys_of(Variant)}"
        elif problem["type"] == "extra_forbidden":
            section = Variant if where.startswith("variants.") else SweepFile
            yield f"{where} is not a key here; use one of {_keys_of(section)}"
        elif problem["type"] == "missing":
            yield f"{where} is missing; every sweep has one"
        elif problem["type"] == "string_pattern_mismatch":
            yield f"{where}: names are of a-z, 0-9, _ and -, not {problem['input']!r}"
        else:
            message = problem["msg"].removeprefix("Input should be ")
            yield f"{where} is {problem['input']!r}, expected {message}"


def _keys_of(section: type[BaseModel]) -> str:
    return ", ".join(field.alias or key for key, field in section.model_fields.items())


def _texts(content: SweepFile, base: str, path: Path) -> dict[str, str]:
    """The ``params.yaml`` of each experiment, by its name."""
    seeds = list(range(content.seeds)) if isinstance(content.seeds, int) else content.seeds
    if len(set(seeds)) != len(seeds) or not seeds:
        raise InputError(f"{path}: seeds: {seeds}, expected a count, or numbers that differ")
    found: dict[str, str] = {}
    for variant, presets, settings in _variants(content, path):
        for seed in seeds:
            name = f"{content.name}.{variant}.seed{seed}"
            if name in found:
                raise InputError(f"{path}: two variants have the name {variant}; rename one")
            try:
                found[name] = laid(
                    base,
                    presets,
                    {**settings, SEED: seed},
                    source=content.data,
                    epochs=content.epochs,
                )
                if seed == seeds[0]:
                    params = parse_yaml(found[name].encode(), str(path))
                    check_in_git(params)
                    check(parse_params(params))
            except InputError as error:
                raise InputError(f"{path}: variant {variant}: {error}") from None
    return found


def _variants(content: SweepFile, path: Path) -> Iterator[tuple[str, list[str], dict[str, Any]]]:
    for name, given in content.variants.items():
        variant = given or Variant()
        grid = {**content.grid, **variant.grid}
        settings = {**content.settings, **variant.settings}
        if SEED in settings or SEED in grid:
            raise InputError(f"{path}: variant {name} sets {SEED}; list it under seeds")
        for key, values in grid.items():
            if not values:
                raise InputError(f"{path}: grid: {key} has no values; list some")
            if key in settings:
                raise InputError(f"{path}: variant {name} has {key} in set and in grid; keep one")
        for chosen in itertools.product(*grid.values()):
            point = dict(zip(grid, chosen, strict=True))
            parts = [f"{key.rpartition('.')[2]}_{_word(value)}" for key, value in point.items()]
            yield (
                "-".join([name, *parts]),
                [*content.presets, *variant.presets],
                {**settings, **point},
            )


def _word(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return re.sub(r"[^a-z0-9-]+", "_", text.lower()).strip("_")


def _until(stages: Sequence[Stage], until: str, path: Path) -> list[Stage]:
    """The stages that end in ``until``, in order."""
    if until not in (stage.name for stage in stages):
        names = ", ".join(stage.name for stage in stages)
        raise InputError(f"{path}: until: {until} is no stage of dvc.yaml; use one of {names}")
    wanted = {until}
    for stage in reversed(stages):
        if stage.name in wanted:
            wanted.update(stage.upstream)
    return [stage for stage in stages if stage.name in wanted]


def _check_different(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    seen: dict[str, str] = {}
    for name, params in found.items():
        other = seen.setdefault(json.dumps(params, sort_keys=True, default=str), name)
        if other != name:
            raise InputError(f"{path}: {other} and {name} have the same parameters; leave one out")


def _made(
    stages: Sequence[Stage], definitions: Mapping[str, Any], params: Mapping[str, Any]
) -> set[str]:
    """For each stage its name and all parameters that its result depends on; for logits, too.

    This says who waits for whom. What is made already, DVC's run cache knows.
    """
    read: dict[str, dict[str, Any]] = {}
    for stage in stages:
        declared = definitions.get(stage.name.partition("@")[0], {}).get("params", [])
        names = [_filled(name, params) for item in declared for name in _names(item)]
        read[stage.name] = {name: _value(params, name) for name in names}
        for above in stage.upstream:
            read[stage.name] |= read[above]
    kept = {stage.name: read[stage.name] for stage in stages if not stage.always_runs}
    if "train_proxy" in kept and _reads_logits(params):
        # They are no stage: the first student that needs them leaves them for the others.
        kept["logits"] = kept["train_proxy"] | {"augmentation": params["augmentation"]}
    return {json.dumps([name, kept[name]], sort_keys=True, default=str) for name in kept}


def _names(item: str | Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Of parameters, as an entry of ``params`` in ``dvc.yaml`` has them: a name, or a file's."""
    return [item] if isinstance(item, str) else [name for own in item.values() for name in own]


def _reads_logits(params: Mapping[str, Any]) -> bool:
    from models import distillers

    stored = bool(params["training"]["logits_store"])
    return stored and distillers.needs(params["distill"]["method"]) == "logits"


def _value(params: Mapping[str, Any], name: str) -> Any:
    value: Any = params
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _filled(text: str, params: Mapping[str, Any]) -> str:
    return re.sub(r"\$\{([\w.]+)\}", lambda match: str(_value(params, match[1])), text)


def _files(
    stages: Sequence[Stage], definitions: Mapping[str, Any], found: Sequence[Mapping[str, Any]]
) -> tuple[str, ...]:
    """What the stages read that no stage makes."""
    made = {PARAMS_FILE.as_posix()}
    read = {"dvc.yaml"}
    for stage in stages:
        definition = definitions.get(stage.name.partition("@")[0], {})
        for kind in ("outs", "metrics", "plots"):
            for item in definition.get(kind, []):
                made.update([item] if isinstance(item, str) else item)
        for dep in definition.get("deps", []):
            read.update(_filled(dep, params) for params in found)
    return tuple(sorted(read - made))
