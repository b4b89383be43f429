"""dvc.yaml lists exactly the files that each stage depends on."""

import tomllib
from pathlib import Path
from typing import get_args

import grimp
import pytest
from ruamel.yaml import YAML

from stages.params import load_params
from stages.sections.methods import Distill

ROOT = Path(__file__).parent.parent
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]

# Code that does not affect results, or only through params.yaml, which DVC tracks.
PLUMBING = {
    "models/errors.py",
    "stages/checkpoints",
    "stages/devices/urls.py",
    "stages/display.py",
    "stages/entry.py",
    "stages/files.py",
    "stages/launch.py",
    "stages/machine.py",
    "stages/params.py",
    "stages/progress.py",
    "stages/sections",
}
METHOD = "models/distillers/${distill.method}.py"
_NAMES = get_args(Distill.model_fields["method"].annotation)
METHODS = {f"models/distillers/{name}.py" for name in _NAMES}
# Not imported: methods and devices selected by name, other processes, files that are read.
BY_NAME: dict[str, set[str]] = {
    "train_teacher": {"models/distillers/scratch.py"},
    "train_proxy": {"models/distillers/scratch.py", "models/distillers/kd.py"},
    "distill": METHODS,
    "validate": {"stages/runtimes/tensorrt_engine.py"},
    "profile_latency": {"stages/devices/local.py", "stages/devices/runner.py"},
    "export_litert": {"stages/litert/converter.py", "stages/litert/timing.py"},
    "analyze": METHODS,
    "report": {f"stages/report_page/{name}" for name in ("page.html", "macros.html", "style.css")},
    "package": {"stages/bundle/card.md.jinja", "stages/devices/runner.py"},
}
# Files that a stage does not use of a folder that it depends on.
UNUSED = {"validate": {"stages/runtimes/litert_runtime.py"}}


@pytest.fixture(scope="module")
def graph():
    """Return the graph of all run-time imports, at any level of indentation."""
    graph = grimp.build_graph(
        "models", "stages", exclude_type_checking_imports=True, cache_dir=None
    )
    graph.remove_module("stages.preflight")  # rejects parameters but affects no result
    return graph


def code_of(stage: str, graph: grimp.ImportGraph) -> set[str]:
    """Return the files of this project that a stage runs or reads, except ``__init__.py``."""
    start = {f"stages/{stage}.py"} | BY_NAME.get(stage, set())
    modules = {path[:-3].replace("/", ".") for path in start if path.endswith(".py")}
    imported = {up for module in modules for up in graph.find_upstream_modules(module)}
    files = {f"{module.replace('.', '/')}.py" for module in imported}
    return start | {path for path in files if (ROOT / path).is_file()}


def files_in(place: str) -> set[str]:
    """Return a file, or the files of a folder, except ``__init__.py``."""
    if place == METHOD:
        return METHODS
    if (ROOT / place).is_file():
        return {place}
    files = [path for path in (ROOT / place).rglob("*") if path.is_file()]
    return {
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.name != "__init__.py" and path.suffix != ".pyc"
    }


def test_the_stages_are_those_that_meet_only_through_their_files():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = {c["name"]: c["modules"] for c in project["tool"]["importlinter"]["contracts"][1:3]}
    modules = contracts["Stages meet only through their files"]
    assert {f"stages.{name}" for name in STAGES} == set(modules)
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"exec sh stages/python.sh -m stages.{name}"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_exactly_the_code_that_it_runs(name, graph):
    places = [dep for dep in STAGES[name]["deps"] if dep.startswith(("models/", "stages/"))]
    declared = [files_in(place) for place in places]
    plumbing = set().union(*map(files_in, PLUMBING))
    used = code_of(name, graph) - plumbing
    together = set().union(*declared)
    assert used - together == set(), "not declared"
    assert together - used == UNUSED.get(name, set())
    assert sum(map(len, declared)) == len(together), "declared twice"
    for place, files in zip(places, declared, strict=True):
        assert files & used, f"{place} is of no use"


def test_every_training_has_a_gpu_of_its_own():
    training = {name for name, stage in STAGES.items() if "stages/training" in stage["deps"]}
    needs = {name: stage.get("meta", {}).get("prefect", {}) for name, stage in STAGES.items()}
    assert {name for name in needs if needs[name].get("gpu") == 1} == training


def flat(content: dict, prefix: str = "") -> set[str]:
    found = set()
    for key, value in content.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found


def test_params_yaml_is_valid_and_has_every_key():
    # DVC would not notice a changed default of a missing key.
    content = load_params(ROOT / "params.yaml").model_dump(by_alias=True)
    assert flat(YAML(typ="safe").load(ROOT / "params.yaml")) == flat(content)
