"""Applies presets, short YAML files, to ``params.yaml`` and keeps its comments."""

import copy
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.emitter import Emitter, ScalarAnalysis
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from models.errors import InputError, did_you_mean
from stages.files import new_file
from stages.params import PARAMS_FILE, Params, parse_params, parse_yaml, read_yaml
from stages.schedule import compressed

PRESETS_FOLDER = Path("presets")

#: The preset that sets every key that a preset of a whole chain may change.
_DEFAULT = "digits"
# Keys of the data section that are specific to a source.
_OF_A_SOURCE = ["config", "image_column", "label_column"]
_OF_A_SOURCE += ["train_split", "val_split", "test_split"]


class _PlainNull(RoundTripRepresenter):
    """Writes null as ``null``; ruamel would write nothing."""


_PlainNull.add_representer(
    type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
)


class _QuotedColons(Emitter):
    """Quotes texts with a colon in ``[...]`` and ``{...}``; DVC's loader rejects them plain."""

    def analyze_scalar(self, scalar: Any) -> ScalarAnalysis:
        analysis: ScalarAnalysis = super().analyze_scalar(scalar)
        analysis.allow_flow_plain &= ":" not in scalar
        return analysis


def list_presets() -> dict[str, str]:
    """Return the descriptions of this project's presets by name, such as ``cifar100/trial``."""
    return {
        path.relative_to(PRESETS_FOLDER).with_suffix("").as_posix(): (
            path.read_text(encoding="utf-8", errors="replace")
            .partition("\n")[0]
            .removeprefix("#")
            .strip()
        )
        for path in sorted(PRESETS_FOLDER.rglob("*.yaml"))
    }


def use(
    names: Sequence[str],
    settings: Sequence[str] = (),
    *,
    source: str | None = None,
    epochs: int | None = None,
) -> list[str]:
    """Apply presets in order, and then single settings, to ``params.yaml`` with :func:`laid`.

    Returns:
        The changes, as ``section.key: old -> new``.

    Raises:
        InputError: a preset, a setting or the result is invalid; nothing is written.
    """
    old = read_yaml(PARAMS_FILE)
    before = leaves(old)
    text = PARAMS_FILE.read_text(encoding="utf-8-sig")
    newline = "\r\n" if b"\r\n" in PARAMS_FILE.read_bytes() else "\n"
    text = laid(text, names, dict(map(_setting, settings)), source=source, epochs=epochs)
    with new_file(PARAMS_FILE) as partial:
        partial.write_text(text, encoding="utf-8", newline=newline)
    return [
        f"{key}: {_shown(value_at(old, key))} -> {_shown(value)}"
        for key, value in leaves(read_yaml(PARAMS_FILE)).items()
        if key not in before or before[key] != value
    ]


def laid(
    text: str,
    names: Sequence[str],
    settings: Mapping[str, Any],
    *,
    source: str | None = None,
    epochs: int | None = None,
) -> str:
    """Return the text of ``params.yaml`` with presets and settings applied.

    Args:
        text: content of ``params.yaml``.
        names: of presets; may be empty.
        settings: values by ``section.key``; applied last.
        source: replaces ``data.source``, and resets the names of splits and columns, which are
            specific to a source.
        epochs: epochs of the student. Epochs of teacher and proxy, and milestones, scale in
            proportion. Accuracy goals become null.

    Raises:
        InputError: a preset, a setting or the result is invalid.
    """
    params: CommentedMap = _yaml().load(text)
    for place, name in enumerate(names):
        overlay = _overlay(name)
        if overlay.keys() >= {"teacher", "distill"}:  # replaces the previous preset entirely
            if place > 0:
                raise InputError(
                    f"{names[0]} would have no effect, because {name} replaces it; leave it"
                    f" out, or put {name} first"
                )
            _lay(_overlay(_DEFAULT), params)
        elif name.startswith("methods/"):
            _reset_method(params)
        _lay(overlay, params)
    if source is not None:
        _lay({"data": dict.fromkeys(_OF_A_SOURCE) | {"source": source}}, params)
    if epochs is not None:
        for key in settings.keys() & {"teacher.milestones", "distill.milestones"}:
            _lay(_nested(key, []), params)  # they are set for the shortened schedule
        _lay(_shortened(_checked(params), epochs), params)
    for key, value in settings.items():
        _lay(_nested(key, value), params)
    _checked(params)
    return _dumped(params)


def value_at(tree: Mapping[str, Any], key: str) -> Any:
    """Return the value or mapping of a dotted key, or None if there is none."""
    first, _, rest = key.partition(".")
    value = tree.get(first)
    if not rest:
        return value
    return value_at(value, rest) if isinstance(value, Mapping) else None


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a tree to values by ``section.key``."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inner = isinstance(value, Mapping)
        found |= leaves(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found


def _reset_method(params: CommentedMap) -> None:
    """Reset the options of another method's preset if it was applied before.

    They get the values of the whole chain's preset, which is recognised by its networks.
    """
    networks = ("teacher.network", "distill.network")
    default = leaves(Params().model_dump(by_alias=True)) | leaves(_overlay(_DEFAULT))
    for name in list_presets():
        preset = {} if name.startswith("methods/") else leaves(read_yaml(_path(name)))
        if all(preset.get(key) == value_at(params, key) for key in networks):
            default |= preset
    for path in (PRESETS_FOLDER / "methods").glob("*.yaml"):
        # Only options of a method, such as distill.kd.standardize.
        own = leaves(read_yaml(path)).items()
        options = {k: v for k, v in own if k in default and k.count(".") == 2}
        if all(value_at(params, key) == value for key, value in options.items()):
            for key in options:
                _lay(_nested(key, default[key]), params)


def _shortened(params: Params, epochs: int) -> Mapping[str, Any]:
    """Return an overlay that compresses all schedules in proportion to the student's."""
    if epochs < 1:
        raise InputError(f"--epochs is {epochs}, expected 1 or more")

    def scaled(own: int) -> int:
        return max(1, round(own * epochs / params.distill.epochs))

    student = compressed(params.distill, epochs)
    teacher = compressed(params.teacher, scaled(params.teacher.epochs))
    proxy = scaled(params.proxy.early_stopped.epochs)
    if params.proxy.method == "early_stopped":
        compressed(teacher, proxy)  # fail now rather than after training the teacher
    return {
        "teacher": {"epochs": teacher.epochs, "milestones": teacher.milestones},
        "proxy": {"early_stopped": {"epochs": proxy}},
        "distill": {"epochs": student.epochs, "milestones": student.milestones},
        # Accuracy goals apply to the full schedule.
        "gate": {"min_accuracy": None, "max_drop_from_teacher": None},
    }


def _checked(params: CommentedMap) -> Params:
    return parse_params(parse_yaml(_dumped(params).encode(), str(PARAMS_FILE)))


def _yaml() -> YAML:
    yaml = YAML()
    yaml.Representer = _PlainNull
    yaml.Emitter = _QuotedColons
    yaml.width = 10_000
    return yaml


def _dumped(content: Any, flow: bool = False) -> str:
    yaml = _yaml()
    yaml.default_flow_style = flow
    text = io.StringIO()
    yaml.dump(content, text)
    return text.getvalue()


def _overlay(preset: str) -> Mapping[str, Any]:
    path = _path(preset)
    known = list(list_presets())
    if preset not in known:
        raise InputError(f"{path}: no such preset; {did_you_mean(preset, known)}")
    read_yaml(path)
    overlay: Mapping[str, Any] = YAML().load(path)
    return overlay


def _path(preset: str) -> Path:
    return PRESETS_FOLDER / f"{preset}.yaml"


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise InputError(
            f"-S {text}: expected section.key=value, for example -S distill.temperature=2"
        )
    try:
        loaded = YAML().load(value)
    except (YAMLError, ValueError):  # ValueError: an impossible date
        raise InputError(f"-S {text}: {value!r} is not valid YAML; quote or correct it") from None
    if isinstance(loaded, Mapping) and not value.lstrip().startswith("{"):
        raise InputError(f"-S {text}: {value!r} is a mapping in YAML; correct it, or quote a text")
    return key, loaded


def _nested(key: str, value: Any) -> dict[str, Any]:
    first, _, rest = key.partition(".")
    return {first: _nested(rest, value) if rest else value}


def _lay(overlay: Mapping[str, Any], params: CommentedMap, prefix: str = "") -> None:
    for key, value in overlay.items():
        old = params.get(key)
        if isinstance(value, Mapping) and isinstance(old, CommentedMap):
            _lay(value, old, f"{prefix}{key}.")
        elif isinstance(value, Mapping) and old is not None:
            raise InputError(f"{prefix}{key} is {old!r} and has no keys; set it as a whole")
        elif key not in params or old != value:
            params[key] = _without_comment(value)
            _move_comment(params, key)


def _without_comment(value: Any) -> Any:
    """Copy a value without the comment that follows a list in the preset."""
    if isinstance(value, list):
        return YAML().load(_dumped(list(value), flow=True))
    if isinstance(value, Mapping):  # later settings may add keys
        return YAML().load(_dumped(value))
    return copy.deepcopy(value)


def _move_comment(params: CommentedMap, key: str) -> None:
    """Move the comment to two columns after the new value; ruamel keeps its old column."""
    comment = params.ca.items.get(key)
    if comment and comment[2]:
        comment[3] = None  # of a list over several lines; ruamel would omit the next line break
        _, column = params.lc.key(key)
        comment[2].start_mark.column = column + len(f"{key}: {_shown(params[key])}  ")


def _shown(value: Any) -> str:
    return _dumped(value, flow=True).removesuffix("...\n").strip()
