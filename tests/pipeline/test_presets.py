"""Presets laid over params.yaml: what changes, what stays, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from models.errors import InputError
from pipeline import presets
from stages.params import PARAMS_FILE, load_params, read_yaml
from tests.pipeline.conftest import ROOT

NAMES = [
    "cifar100/resnet110_resnet20",
    "cifar100/trial",
    "cifar100/wrn_40_2_wrn_40_1",
    "digits",
]
DEFAULT = (ROOT / PARAMS_FILE).read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the presets and the params.yaml of this project."""
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    (tmp_path / PARAMS_FILE).write_text(DEFAULT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


def test_presets_are_listed_with_their_descriptions() -> None:
    listed = presets.list_presets()
    assert list(listed) == NAMES
    assert all(text and not text.startswith("#") for text in listed.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_gives_valid_params_and_keeps_every_comment(name: str) -> None:
    presets.use(name, [])
    load_params()
    text = PARAMS_FILE.read_text(encoding="utf-8")
    assert comments(text) == comments(DEFAULT)
    assert all(
        line.partition("#")[0].rstrip(" ") + "  #" in line
        for line in text.splitlines()[2:]
        if "#" in line
    )
    found = dict(leaves(read_yaml(PARAMS_FILE)))
    wanted = dict(leaves(read_yaml(presets.PRESETS_FOLDER / f"{name}.yaml")))
    assert {key: found[key] for key in wanted} == wanted
    default = dict(leaves(read_yaml(ROOT / PARAMS_FILE)))
    assert {k: v for k, v in found.items() if k not in wanted} == {
        k: v for k, v in default.items() if k not in wanted
    }


def test_the_default_params_are_those_of_the_digits() -> None:
    assert presets.use("digits", []) == []
    assert PARAMS_FILE.read_text(encoding="utf-8") == DEFAULT


@pytest.mark.parametrize("name", [name for name in NAMES if name != "digits"])
def test_the_digits_take_every_other_preset_back(name: str) -> None:
    presets.use(name, [])
    assert PARAMS_FILE.read_text(encoding="utf-8") != DEFAULT
    presets.use("digits", [])
    assert PARAMS_FILE.read_text(encoding="utf-8") == DEFAULT


def test_every_preset_names_the_same_keys() -> None:
    # Or choosing one would leave something of the one before.
    keys = {
        name: [key for key, _ in leaves(read_yaml(Path(f"presets/{name}.yaml")))] for name in NAMES
    }
    assert all(found == keys["digits"] for found in keys.values())


@pytest.mark.parametrize("name", ["cifar100/resnet110_resnet20", "cifar100/wrn_40_2_wrn_40_1"])
def test_the_papers_schedule(name: str) -> None:
    presets.use(name, [])
    params = load_params()
    for training in (params.teacher, params.distill):
        assert (training.epochs, training.batch_size, training.learning_rate) == (200, 128, 0.1)
        assert (training.schedule, training.milestones) == ("multi_step", [100, 150])
        assert (training.momentum, training.weight_decay) == (0.9, 5e-4)
    assert (params.augmentation.crop_padding, params.augmentation.horizontal_flip) == (4, True)
    assert params.distill.method == "ackd"


def test_settings_come_after_the_preset_and_say_what_changed() -> None:
    changes = presets.use(
        "digits",
        ["distill.temperature=2.5", "gate.max_p90_ms=3e-1", "distill.ackd.learners=[D3B1]"],
    )
    assert changes == [
        "distill.temperature: 4.0 -> 2.5",
        "distill.ackd.learners: [D3B1, D2B2] -> [D3B1]",
        "gate.max_p90_ms: null -> 0.3",
    ]
    params = load_params()
    assert params.distill.temperature == 2.5
    assert params.gate.max_p90_ms == 0.3
    assert params.distill.ackd.learners == ["D3B1"]


def test_a_value_may_hold_an_equals_sign() -> None:
    presets.use(None, ["data.source=imagefolder:/a=b"])
    assert load_params().data.source == "imagefolder:/a=b"


def test_a_section_that_params_lacks_is_added() -> None:
    PARAMS_FILE.write_text("distill:\n  network: resnet8  # small\n", encoding="utf-8")
    presets.use(None, ["gate.min_accuracy=0.5"])
    assert PARAMS_FILE.read_text(encoding="utf-8") == (
        "distill:\n  network: resnet8  # small\ngate:\n  min_accuracy: 0.5\n"
    )


@pytest.mark.parametrize(
    ("preset", "settings", "sentence"),
    [
        ("cifar100/trail", [], r"presets/cifar100/trail.yaml: .*did you mean 'cifar100/trial'\?"),
        ("trial", [], r"did you mean 'cifar100/trial'\?"),
        ("../params", [], r"no such preset; use one of cifar100/resnet110_resnet20, "),
        (None, ["distill.temprature=2"], r"temprature .*did you mean 'temperature'\?"),
        (None, ["distil.temperature=2"], r"distil .*did you mean 'distill'\?"),
        (None, ["distill.epochs=many"], r"distill.epochs is 'many'"),
        (None, ["distill.epochs=2.5"], r"distill.epochs is 2.5"),
        (None, ["distill.epochs"], r"-S distill.epochs: expected section.key=value"),
        (None, ["=2"], r"-S =2: expected section.key=value"),
        (None, ["data.source=["], r"-S data.source=\[: .* is not a YAML value"),
        (None, ["data.source.name=x"], r"data.source: is 'digits' and has no keys"),
        ("digits", ["teacher.milestones=[9]"], r"milestones belong to schedule: multi_step"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    folder: Path, preset: str | None, settings: list[str], sentence: str
) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match=sentence) as caught:
        presets.use(preset, settings)
    assert "\n" not in str(caught.value)
    assert PARAMS_FILE.read_text(encoding="utf-8") == DEFAULT
    assert sorted(folder.rglob("*")) == before


def test_a_preset_with_a_wrong_key_writes_nothing() -> None:
    Path("presets/own.yaml").write_text("# mine\ndistill:\n  epoch: 3\n", encoding="utf-8")
    with pytest.raises(InputError, match="distill.epoch is not a parameter"):
        presets.use("own", [])
    assert PARAMS_FILE.read_text(encoding="utf-8") == DEFAULT
