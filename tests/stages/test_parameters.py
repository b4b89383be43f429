"""dvc.yaml lists exactly the parameters that each stage reads."""

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

import models
from models.networks.checkpoint import save_network
from stages import train_proxy, train_teacher
from stages.files import write_json
from stages.params import Params
from stages.sections.common import Section
from tests.stages import chain_files

STAGES = YAML(typ="safe").load(Path(__file__).parents[2] / "dvc.yaml")["stages"]
# Must not affect results, which the tests of training check.
UNTRACKED = {
    *("data.feed", "training.logits_store", "training.tracker"),
    *("training.checkpoint_every", "training.checkpoint_minutes"),
}
# Read if images are damaged, or with folds.
SELDOM = {"data.damaged", "data.fold"}

SHORT = {"epochs": 1, "batch_size": 16, "network": "resnet8"}
SMALL: dict[str, Any] = {
    "teacher": SHORT,
    "distill": SHORT,
    "export": {"precisions": ["fp32", "int8_u8s8"], "calibration_images": 8, "golden_images": 8},
    "validate": {"batch_sizes": [1]},
    "profile": {"threads": [1], "min_runs": 2, "max_runs": 2, "warmup_seconds": 0.0},
    "analyze": {"cka_images": 8, "grad_cam_images": 1},
    "gate": {"min_accuracy": 0.1},
}
EARLY_STOPPED = {"proxy": {"method": "early_stopped", "early_stopped": {"epochs": 1}}}
ASSISTANTS = {"proxy": {"method": "assistants", "assistants": {"networks": ["resnet8"]}}}
METHODS = [{"distill": SHORT | {"method": method}} for method in ("scratch", "kd", "crd")]
# Each stage with parameters for each of its code paths.
RUNS: dict[str, list[dict[str, Any]]] = {
    "identify_inputs": [{}, ASSISTANTS],
    "train_proxy": [{}, EARLY_STOPPED, ASSISTANTS],
    "distill": METHODS,
    "package": [EARLY_STOPPED, ASSISTANTS, *METHODS],
}
ONCE = ("prepare_data", "train_teacher", "export_onnx", "validate")
RUNS |= {stage: [{}] for stage in (*ONCE, "profile_latency", "analyze", "gate")}


def leaves(section: Section, prefix: str) -> set[str]:
    found = set()
    for name, field in type(section).model_fields.items():
        value, key = section.__dict__[name], f"{prefix}{field.alias or name}"
        found |= leaves(value, f"{key}.") if isinstance(value, Section) else {key}
    return found


@contextmanager
def reading(params: Params) -> Iterator[set[str]]:
    """Record the full names of the parameters that are read within the block."""
    found: set[str] = set()
    prefixes: dict[int, str] = {}
    known: list[Section] = []  # an id is unique while its section lives

    def know(section: Section, prefix: str) -> None:
        prefixes[id(section)] = prefix
        known.append(section)
        for name, field in type(section).model_fields.items():
            if isinstance(value := section.__dict__[name], Section):
                know(value, f"{prefix}{field.alias or name}.")

    know(params, "")
    get, dump, copy = Section.__getattribute__, Section.model_dump, Section.model_copy

    def read(section: Section, name: str) -> Any:
        value = get(section, name)
        known_field = name in type(section).model_fields and not isinstance(value, Section)
        if known_field and (prefix := prefixes.get(id(section))) is not None:
            found.add(prefix + name)
        return value

    def dumped(section: Section, include: set[str] | None = None, **options: Any) -> Any:
        if (prefix := prefixes.get(id(section))) is not None:
            names = set(type(section).model_fields) if include is None else include
            every = leaves(section, prefix)
            found.update(key for key in every if key[len(prefix) :].split(".")[0] in names)
        return dump(section, include=include, **options)

    def copied(section: Section, **options: Any) -> Any:
        made = copy(section, **options)
        if (prefix := prefixes.get(id(section))) is not None:
            know(made, prefix)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Section, "__getattribute__", read)
        patch.setattr(Section, "model_dump", dumped)
        patch.setattr(Section, "model_copy", copied)
        yield found


def declared(stage: str, params: Params) -> dict[str, set[str]]:
    """Return the names in dvc.yaml for ``params``, each with all parameters that it covers."""
    content = params.model_dump(by_alias=True)

    def value(match: re.Match[str]) -> str:
        section, key = match[1].split(".")
        return str(content[section][key])

    names = [re.sub(r"\$\{([\w.]+)\}", value, name) for name in STAGES[stage]["params"]]
    every = leaves(params, "")
    return {n: {key for key in every if key == n or key.startswith(f"{n}.")} for n in names}


@pytest.fixture
def trained_project(project, monkeypatch):
    """A project with all inputs of the stages up to ``profile_latency``."""
    monkeypatch.setenv("ACKD_LOGITS", str(project / "logits"))
    torch.manual_seed(0)
    for path in (train_teacher.TEACHER_FOLDER, train_proxy.PROXY_FOLDER):
        path.mkdir()
        save_network(path / "model.safetensors", models.build("resnet8", 3))
    figures = dict.fromkeys(("accuracy", "val_accuracy", "parameters", "macs"), 0.5)
    write_json(train_proxy.TEACHER_METRICS, {"network": "resnet8"} | figures)


@pytest.fixture
def finished_project(here):
    """A project with all inputs of the later stages."""
    chain_files.write_chain()
    chain_files.write_networks(Params().distill)
    for stage in ("report", "gate"):
        importlib.import_module(f"stages.{stage}").main(Params())


@pytest.mark.parametrize("stage", RUNS)
def test_a_stage_reads_the_parameters_that_it_declares(stage, request, monkeypatch):
    monkeypatch.setattr("stages.prepare_data.check", lambda _: None)  # checks all parameters
    after = stage in ("analyze", "gate", "package")
    request.getfixturevalue("finished_project" if after else "trained_project")
    ever_declared: set[str] = set()
    ever_read: set[str] = set()
    for changes in RUNS[stage]:
        params = Params.model_validate(SMALL | changes)
        names = declared(stage, params)
        with reading(params) as read:
            importlib.import_module(f"stages.{stage}").main(params)
        assert read - UNTRACKED <= set().union(*names.values()), changes
        ever_declared |= {name for name, keys in names.items() if keys}
        ever_read |= {name for name, keys in names.items() if keys & read}
    assert ever_declared - ever_read <= SELDOM


def test_every_stage_with_parameters_is_run_here():
    # LiteRT's packages are not installed by default.
    declaring = {name for name, stage in STAGES.items() if "params" in stage}
    assert RUNS.keys() | {"export_litert"} == declaring
