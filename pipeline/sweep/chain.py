"""Derives from ``dvc.yaml`` what the stages of a sweep read and write."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from models.errors import InputError
from pipeline.dvc_runner import load_graph
from pipeline.presets import value_at
from stages.params import PARAMS_FILE, read_yaml

_TEMPLATE = re.compile(r"\$\{([\w.]+)\}")
_DVC_YAML = "dvc.yaml"


class Chain:
    """A sweep's last stage and all its upstream stages; raises InputError if it does not exist."""

    def __init__(self, until: str, path: Path) -> None:
        graph = load_graph(Path())
        names = [stage.name for stage in graph]
        if until not in names:
            raise InputError(
                f"{path}: until: {until} is no stage of {_DVC_YAML}; use one of {', '.join(names)}"
            )
        wanted = {until}
        for stage in reversed(graph):
            if stage.name in wanted:
                wanted.update(stage.upstream)
        self.stages = [stage for stage in graph if stage.name in wanted]
        self._declared: dict[str, dict[str, Any]] = read_yaml(Path(_DVC_YAML)).get("stages", {})

    def results(self, params: Mapping[str, Any]) -> set[str]:
        """Return a key per stage result, made of its name and all parameters it depends on.

        The keys decide which experiments wait for each other. DVC's run cache knows which results
        already exist.
        """
        made: dict[str, dict[str, Any]] = {}
        for stage in self.stages:
            if stage.always_runs:  # identify_inputs reads parameters for other stages
                continue
            names = [_fill(name, params) for name in self._entries(stage.name, "params")]
            made[stage.name] = {name: value_at(params, name) for name in names}
            for above in stage.upstream:
                made[stage.name] |= made.get(above, {})
        if "train_proxy" in made and _reads_logits(params):
            # Logits are no stage's output: the first student that needs them stores them.
            made["logits"] = made["train_proxy"] | {"augmentation": params["augmentation"]}
        return {json.dumps([name, made[name]], sort_keys=True, default=str) for name in made}

    def reads(self) -> set[str]:
        """Return what stages read, results of other stages included, as ``dvc.yaml`` names it."""
        return {path for stage in self.stages for path in self._entries(stage.name, "deps")}

    def files(self, params: Iterable[Mapping[str, Any]]) -> list[str]:
        """Return the files that stages read but no stage writes."""
        made = {PARAMS_FILE.as_posix()}
        for stage in self.stages:
            for kind in ("outs", "metrics", "plots"):
                made.update(self._entries(stage.name, kind))
        read = {_fill(path, own) for own in params for path in self.reads()}
        return sorted({_DVC_YAML, *read} - made)

    def _entries(self, stage: str, kind: str) -> list[str]:
        """Return paths or parameters; those with options are mappings with one key."""
        entries = self._declared.get(stage, {}).get(kind, [])
        return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def _reads_logits(params: Mapping[str, Any]) -> bool:
    from models import distillers

    stored = bool(params["training"]["logits_store"])
    return stored and distillers.load(params["distill"]["method"]).needs == "logits"


def _fill(text: str, params: Mapping[str, Any]) -> str:
    return _TEMPLATE.sub(lambda match: str(value_at(params, match[1])), text)
