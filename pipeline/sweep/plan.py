"""Plans a sweep: reads a file of variants and seeds, and lists its experiments."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from models.errors import InputError, explain
from pipeline.git_command import git
from pipeline.presets import laid
from pipeline.sweep.chain import Chain
from pipeline.sweep.commits import check_committed, check_in_git
from stages.params import PARAMS_FILE, parse_params, parse_yaml, read_yaml
from stages.preflight import check
from stages.sections.common import of_pattern

SEED, FOLD = "distill.seed", "data.fold"
PAGE = "docs/how-to-sweep.md"
_MAX_SEEDS = 1000
_Word = Annotated[str, of_pattern(r"[a-z0-9_-]+", "small letters, digits, - and _")]


def _section_key(key: str) -> str:
    if not all(key.split(".")[:2]) or "." not in key:
        raise ValueError("expected a key such as distill.learning_rate")
    return key


_Key = Annotated[str, AfterValidator(_section_key)]


class Variant(BaseModel):
    """The settings of a variant, or at the top level of the file, of all variants."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    presets: list[str] = []
    settings: dict[_Key, Any] = Field(default={}, alias="set")
    """Values by ``section.key``, applied after the presets."""
    grid: dict[_Key, Annotated[list[Any], Field(min_length=1)]] = {}
    """Lists of values by ``section.key``; every combination becomes a variant."""

    @field_validator("grid")
    @classmethod
    def _not_set(cls, grid: dict[str, list[Any]], info: ValidationInfo) -> dict[str, list[Any]]:
        if both := grid.keys() & info.data.get("settings", {}):
            raise ValueError(f"{min(both)} is also in set; keep one of the two")
        return grid


class SweepFile(Variant):
    """The file of ``ackd sweep``."""

    name: _Word
    data: str | None = None  # replaces the presets' data.source, like ackd use --data
    epochs: int | None = Field(default=None, ge=1)
    """Epochs of the student in a shorter schedule, like ``ackd use --epochs``."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    """Seeds, or a number of seeds, which then count from 0."""
    until: str = "report"
    """The last stage to run. With ``gate``, experiments that miss a goal would be discarded."""
    variants: dict[_Word, Variant | None] = Field(min_length=1)

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, seeds: Any) -> Any:
        if type(seeds) is not int:
            return seeds
        if not 1 <= seeds <= _MAX_SEEDS:
            raise ValueError(
                f"{seeds} is the number of seeds, expected 1 to {_MAX_SEEDS}; for one seed of this"
                f" value write [{seeds}]"
            )
        return list(range(seeds))

    @field_validator("seeds")
    @classmethod
    def _differ(cls, seeds: list[int]) -> list[int]:
        if repeated := [seed for seed, count in Counter(seeds).items() if count > 1]:
            raise ValueError(f"seed {repeated[0]} is listed twice; list it once")
        return seeds


@dataclass(frozen=True)
class Experiment:
    """A variant with a seed."""

    name: str  # of the DVC experiment: SWEEP.VARIANT.seedN
    text: str  # of its params.yaml
    params: dict[str, Any]  # the same, parsed
    shared: frozenset[str]
    """Keys of the results that it shares with other experiments of the sweep, such as a teacher; no
    two experiments may compute the same one at the same time."""


@dataclass(frozen=True)
class Plan:
    """All experiments of a sweep, on one commit."""

    name: str
    commit: str
    until: str
    measuring: list[str]  # stages that measure time
    reads: set[str]  # what stages read, results of other stages included
    files: list[str]  # that stages read; changing them makes other experiments
    experiments: list[Experiment]


def load_plan(path: Path) -> Plan:
    """Read a sweep's file, and check that all its experiments are possible.

    Raises:
        InputError: a key or value is invalid, a variant is impossible, or files of the project are
            not committed.
    """
    content = _parse(path)
    check_committed()
    commit = git(Path(), "rev-parse", "HEAD")
    chain = Chain(content.until, path)
    texts = _texts(content, git(Path(), "show", f"{commit}:{PARAMS_FILE}"), path)
    params = {name: parse_yaml(text.encode(), str(path)) for name, text in texts.items()}
    # Complete, because params.yaml may leave out what DVC does not track.
    complete = {n: parse_params(own).model_dump(by_alias=True) for n, own in params.items()}
    results = {name: chain.results(own) for name, own in complete.items()}
    counts = Counter(itertools.chain.from_iterable(results.values()))
    return Plan(
        name=content.name,
        commit=commit,
        until=content.until,
        measuring=[stage.name for stage in chain.stages if stage.needs.alone],
        reads=chain.reads(),
        files=chain.files(complete.values()),
        experiments=[
            Experiment(
                name, text, params[name], frozenset(key for key in results[name] if counts[key] > 1)
            )
            for name, text in texts.items()
        ],
    )


def _parse(path: Path) -> SweepFile:
    if not path.is_file():
        raise InputError(f"{path}: no such file; write one as {PAGE} describes")
    try:
        return SweepFile.model_validate(read_yaml(path))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        raise InputError(f"{path}: {where}: {explain(problem)}; see {PAGE}") from None


def _texts(content: SweepFile, base: str, path: Path) -> dict[str, str]:
    """Return the text of each experiment's ``params.yaml`` by name."""
    found: dict[str, str] = {}
    for variant, presets, settings in _variants(content, path):
        for seed in content.seeds:
            name = f"{content.name}.{variant}.seed{seed}"
            if name in found:
                raise InputError(f"{path}: two experiments have the name {name}; rename one")
            own = {**settings, SEED: seed}
            try:
                lay = partial(laid, base, presets, source=content.data, epochs=content.epochs)
                text = lay(own)
                params = parse_params(parse_yaml(text.encode(), str(path)))
                if folds := params.data.folds:
                    text = lay({**own, FOLD: seed % folds})
                if seed == content.seeds[0]:
                    check_in_git(params)
                    check(params)
            except InputError as error:
                raise InputError(f"{path}: variant {variant}: {error}") from None
            found[name] = text
    return found


def _variants(content: SweepFile, path: Path) -> Iterator[tuple[str, list[str], dict[str, Any]]]:
    """Yield names, presets and settings; what is a variant's own overrides what is shared."""
    for name, given in content.variants.items():
        variant = given or Variant()
        shared = {k: v for k, v in content.grid.items() if k not in variant.settings}
        grid = {**shared, **variant.grid}
        settings = {**content.settings, **variant.settings}
        for key in (SEED, FOLD):
            if key in settings or key in grid:
                raise InputError(f"{path}: variant {name} sets {key}, which follows seeds")
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            parts = [f"{key.rpartition('.')[2]}_{_word(value)}" for key, value in point.items()]
            presets = [*content.presets, *variant.presets]
            yield "-".join([name, *parts]), presets, {**settings, **point}


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return re.sub(r"[^a-z0-9-]+", "_", text.lower()).strip("_")
