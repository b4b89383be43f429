"""The plan of a sweep: a file of variants and seeds, and the experiments that it asks for."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from models.errors import InputError
from pipeline.dvc_runner import Stage, load_graph
from pipeline.presets import laid, leaves
from pipeline.sweep.commits import check_committed, check_in_git, committed
from stages.params import PARAMS_FILE, parse_params, read_yaml
from stages.preflight import check

SEED = "distill.seed"
_TEMPLATE = r"\$\{([\w.]+)\}"
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
    """Of the student in a short schedule, as ``ackd use --schedule short --epochs``."""
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
        params: all of its ``params.yaml``.
        overrides: what of that differs from the commit, as ``dvc exp run -S`` takes it.
        keys: of each stage, equal where all is equal that its outputs depend on; and of the
            teacher's logits.
        shared: the keys of what it has in common with other experiments of the sweep, such as a
            teacher; experiments with one of them in common must not make it side by side.
        epochs: of its student.
    """

    name: str
    params: dict[str, Any]
    overrides: tuple[str, ...]
    keys: dict[str, str]
    shared: frozenset[str]
    epochs: int


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
    commit, text = committed(PARAMS_FILE.as_posix())
    base = leaves(laid(text, [], {}))
    order = _until(load_graph(Path()), content.until, path)
    definitions: dict[str, Any] = read_yaml(Path("dvc.yaml")).get("stages", {})
    seeds = list(range(content.seeds)) if isinstance(content.seeds, int) else content.seeds
    if len(set(seeds)) != len(seeds) or not seeds:
        raise InputError(f"{path}: seeds: {seeds}, expected a count, or numbers that differ")
    found: dict[str, dict[str, Any]] = {}
    for variant, presets, settings in _variants(content, path):
        for seed in seeds:
            name = f"{content.name}.{variant}.seed{seed}"
            if name in found:
                raise InputError(f"{path}: two variants have the name {variant}; rename one")
            try:
                found[name] = laid(
                    text,
                    presets,
                    {**settings, SEED: seed},
                    source=content.data,
                    short=content.epochs,
                )
                if seed == seeds[0]:
                    check(parse_params(found[name]))
                    check_in_git(found[name])
            except InputError as error:
                raise InputError(f"{path}: variant {variant}: {error}") from None
    _check_different(found, path)
    keys = {name: _keys(order, definitions, params) for name, params in found.items()}
    counts: dict[str, int] = {}
    for key in itertools.chain.from_iterable(own.values() for own in keys.values()):
        counts[key] = counts.get(key, 0) + 1
    always = {stage.name for stage in order if stage.always_runs}
    experiments = tuple(
        Experiment(
            name=name,
            params=params,
            overrides=tuple(
                f"++{key}={as_override(value)}"
                for key, value in leaves(params).items()
                if key not in base or base[key] != value
            ),
            keys=keys[name],
            shared=frozenset(
                key for stage, key in keys[name].items() if counts[key] > 1 and stage not in always
            ),
            epochs=params["distill"]["epochs"],
        )
        for name, params in found.items()
    )
    files = _files(order, definitions, found.values())
    return Plan(content.name, commit, content.until, tuple(order), files, experiments)


def as_override(value: Any) -> str:
    """A value in the grammar of ``dvc exp run -S``, which is Hydra's.

    Raises:
        InputError: the value cannot be written there.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        if "\\" in value or "${" in value:
            raise InputError(f"{value!r}: a backslash or ${{ cannot be set in a sweep")
        return "'" + value.replace("'", "\\'") + "'"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_override(item)}" for key, item in value.items()) + "}"
    return "[" + ",".join(as_override(item) for item in value) + "]"


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
    by_name = {stage.name: stage for stage in stages}
    if until not in by_name:
        raise InputError(
            f"{path}: until: {until} is no stage of dvc.yaml; use one of {', '.join(by_name)}"
        )
    wanted, todo = {until}, [until]
    while todo:
        for above in by_name[todo.pop()].upstream:
            if above not in wanted:
                wanted.add(above)
                todo.append(above)
    return [stage for stage in stages if stage.name in wanted]


def _check_different(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    seen: dict[str, str] = {}
    for name, params in found.items():
        text = json.dumps(params, sort_keys=True, default=str)
        if text in seen:
            raise InputError(
                f"{path}: {seen[text]} and {name} have the same parameters; leave one out"
            )
        seen[text] = name


def _keys(
    stages: Sequence[Stage], definitions: Mapping[str, Any], params: Mapping[str, Any]
) -> dict[str, str]:
    """A key for what each stage makes, equal where all is equal that it depends on."""
    keys: dict[str, str] = {}
    for stage in stages:
        definition = definitions.get(stage.name.partition("@")[0], {})
        text = json.dumps(definition, sort_keys=True, default=str)
        names = {_filled(name, params) for name in _declared(definition)}
        names |= {*re.findall(_TEMPLATE, text)}
        everything = PARAMS_FILE.as_posix() in definition.get("deps", [])
        content = [
            stage.name,
            {name: value_of(params, name) for name in sorted(names)},
            params if everything else None,
            [keys[above] for above in stage.upstream],
        ]
        keys[stage.name] = _hash(content)
    if "train_proxy" in keys and "distill" in keys and _reads_logits(params):
        # They are no stage: the first student that needs them leaves them for the others.
        keys["logits"] = _hash(["logits", keys["train_proxy"], params["augmentation"]])
    return keys


def _reads_logits(params: Mapping[str, Any]) -> bool:
    from models import distillers

    stored = bool(params["training"]["logits_store"])
    return stored and distillers.needs(params["distill"]["method"]) == "logits"


def _hash(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _declared(definition: Mapping[str, Any]) -> Iterator[str]:
    for item in definition.get("params", []):
        if isinstance(item, str):
            yield item
        else:
            for names in item.values():
                yield from names or []


def value_of(params: Mapping[str, Any], name: str) -> Any:
    """The value of ``section.key``; None where there is none."""
    value: Any = params
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _filled(text: str, params: Mapping[str, Any]) -> str:
    return re.sub(_TEMPLATE, lambda match: str(value_of(params, match.group(1))), text)


def _files(
    stages: Sequence[Stage],
    definitions: Mapping[str, Any],
    found: Iterable[Mapping[str, Any]],
) -> tuple[str, ...]:
    """What the stages read that no stage makes."""
    made: set[str] = set()
    read: set[str] = {"dvc.yaml"}
    for stage in stages:
        definition = definitions.get(stage.name.partition("@")[0], {})
        for kind in ("outs", "metrics", "plots"):
            for item in definition.get(kind, []):
                made.update([item] if isinstance(item, str) else item)
        for dep in definition.get("deps", []):
            read.update(_filled(dep, params) for params in found)
    return tuple(sorted(read - made - {PARAMS_FILE.as_posix()}))
