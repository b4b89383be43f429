"""Presets: short YAML files that are laid over ``params.yaml``, whose comments stay."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from models.errors import InputError, did_you_mean
from stages.files import new_file
from stages.params import PARAMS_FILE, Params, parse_params, read_yaml
from stages.schedule import compressed

PRESETS_FOLDER = Path("presets")
SHORT_EPOCHS = 20
"""Of the student in a short schedule, where no other number is given."""

# What of the data section names a part of one source.
_OF_A_SOURCE = (
    *("config", "image_column", "label_column"),
    *("train_split", "val_split", "test_split"),
)


class _PlainNull(RoundTripRepresenter):
    """Writes null as ``null``, where ruamel would leave the value out."""


_PlainNull.add_representer(
    type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
)


def list_presets() -> dict[str, str]:
    """The presets of this project: names, such as ``cifar100/trial``, to descriptions."""
    names = {
        path.relative_to(PRESETS_FOLDER).with_suffix("").as_posix(): path
        for path in sorted(PRESETS_FOLDER.rglob("*.yaml"))
    }
    return {name: _first_line(path).removeprefix("#").strip() for name, path in names.items()}


def use(
    names: Sequence[str],
    settings: Sequence[str] = (),
    *,
    source: str | None = None,
    short: int | None = None,
) -> list[str]:
    """Lay presets, one after the other, and then single settings over ``params.yaml``.

    Args:
        names: of :func:`list_presets`; none changes the rest alone.
        settings: ``section.key=value``, the value as in YAML; they are laid last.
        source: takes the place of the presets' ``data.source``. Splits and columns are found
            anew, as their names belong to a source.
        short: the student's epochs in a compressed schedule; the epochs of teacher and proxy
            shrink in proportion, and milestones with them. The goals of accuracy are taken away.

    Returns:
        What changed, one ``section.key: old -> new`` a line.

    Raises:
        InputError: a preset, a setting or the result is not right; nothing is written.
    """
    before = read_yaml(PARAMS_FILE)
    # With \n alone, as comments would keep the \r that new lines have not.
    params = _yaml().load(PARAMS_FILE.read_text(encoding="utf-8-sig"))
    newline = "\r\n" if b"\r\n" in PARAMS_FILE.read_bytes() else "\n"
    _lay_all(params, names, source, short)
    for text in settings:
        _lay(_setting(text), params, "")
    after = _plain(params)
    parse_params(after)
    with new_file(PARAMS_FILE) as partial:
        partial.write_text(_dumped(params), encoding="utf-8", newline=newline)
    old, new = dict(_leaves(before, "")), dict(_leaves(after, ""))
    return [
        f"{key}: {_shown(old.get(key))} -> {_shown(value)}"
        for key, value in new.items()
        if key not in old or old[key] != value
    ]


def laid(
    content: str,
    names: Sequence[str],
    settings: Mapping[str, Any],
    *,
    source: str | None = None,
    short: int | None = None,
) -> dict[str, Any]:
    """What :func:`use` would make of a ``params.yaml`` with this content; nothing is written.

    Args:
        content: the text of the file.
        names: as for :func:`use`, and so are ``source`` and ``short``.
        settings: ``section.key`` to value, laid last.

    Raises:
        InputError: as :func:`use`.
    """
    params = _yaml().load(content)
    _lay_all(params, names, source, short)
    for key, value in settings.items():
        _lay(_nested(key, value), params, "")
    after = _plain(params)
    parse_params(after)
    return after


def leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
    """``section.key`` to value."""
    return dict(_leaves(tree, ""))


def _lay_all(
    params: MutableMapping[str, Any], names: Sequence[str], source: str | None, short: int | None
) -> None:
    overlays = [_overlay(name) for name in names]
    if source is not None:
        overlays.append({"data": dict.fromkeys(_OF_A_SOURCE) | {"source": source}})
    for overlay in overlays:
        _lay(overlay, params, "")
    if short is not None:
        _lay(_shortened(parse_params(_plain(params)), short), params, "")


def short_epochs(schedule: Literal["paper", "short"], epochs: int | None) -> int | None:
    """What ``--schedule`` and ``--epochs`` say together, for :func:`use`.

    Raises:
        InputError: they contradict each other.
    """
    if schedule == "short":
        return SHORT_EPOCHS if epochs is None else epochs
    if epochs is not None:
        raise InputError(
            f"--epochs {epochs}: the paper's schedule has its own; add --schedule short"
        )
    return None


def _shortened(params: Params, epochs: int) -> Mapping[str, Any]:
    """The overlay that compresses every schedule in proportion to the student's."""
    if epochs < 1:
        raise InputError(f"--epochs is {epochs}, expected 1 or more")

    def scaled(own: int) -> int:
        return max(1, round(own * epochs / params.distill.epochs))

    student = compressed(params.distill, epochs)
    teacher = compressed(params.teacher, scaled(params.teacher.epochs))
    proxy = scaled(params.proxy.early_stopped.epochs)
    if params.proxy.method == "early_stopped":
        compressed(teacher, proxy)  # or this would be found when the teacher is trained
    content: dict[str, dict[str, Any]] = {
        "teacher": {"epochs": teacher.epochs, "milestones": teacher.milestones},
        "proxy": {"early_stopped": {"epochs": proxy}},
        "distill": {"epochs": student.epochs, "milestones": student.milestones},
        # Goals for the whole schedule.
        "gate": {"min_accuracy": None, "max_drop_from_teacher": None},
    }
    overlay: Mapping[str, Any] = YAML().load(_dumped(content, flow=True))  # lists in one line
    return overlay


def _plain(params: Any) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load(_dumped(params))
    return content


def _yaml() -> YAML:
    yaml = YAML()
    yaml.Representer = _PlainNull
    yaml.width = 10_000
    return yaml


def _dumped(content: Any, flow: bool = False) -> str:
    yaml = _yaml()
    yaml.default_flow_style = flow
    text = io.StringIO()
    yaml.dump(content, text)
    return text.getvalue()


def _overlay(preset: str) -> Mapping[str, Any]:
    path = PRESETS_FOLDER / f"{preset}.yaml"
    known = list(list_presets())
    if preset not in known:
        raise InputError(f"{path}: no such preset; {did_you_mean(preset, known)}")
    read_yaml(path)
    overlay: Mapping[str, Any] = YAML().load(path)
    return overlay


def _setting(text: str) -> Mapping[str, Any]:
    key, equals, value = text.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise InputError(
            f"-S {text}: expected section.key=value, for example -S distill.temperature=2"
        )
    try:
        content: Any = YAML().load(value)
    except YAMLError:
        raise InputError(f"-S {text}: {value!r} is not a YAML value; quote or correct it") from None
    return _nested(key, content)


def _nested(key: str, value: Any) -> Mapping[str, Any]:
    content: Any = value
    for part in reversed(key.split(".")):
        content = {part: content}
    setting: Mapping[str, Any] = content
    return setting


def _lay(overlay: Mapping[str, Any], params: MutableMapping[str, Any], prefix: str) -> None:
    for key, value in overlay.items():
        old = params.get(key)
        if isinstance(value, Mapping) and isinstance(old, MutableMapping):
            _lay(value, old, f"{prefix}{key}.")
        elif isinstance(value, Mapping) and old is not None:
            raise InputError(f"{prefix}{key}: is {old!r} and has no keys; set it as a whole")
        elif key not in params or old != value:
            params[key] = _without_comment(value)
            _move_comment(params, key)


def _without_comment(value: Any) -> Any:
    """A copy; a list would bring the comment that stands behind it in the preset."""
    if isinstance(value, list):
        return YAML().load(_dumped(list(value), flow=True))
    return copy.deepcopy(value)


def _move_comment(params: MutableMapping[str, Any], key: str) -> None:
    """Keep the comment two columns behind the new value; ruamel would leave it where it was."""
    assert isinstance(params, CommentedMap)
    comment = params.ca.items.get(key)
    if comment and comment[2]:
        _, column = params.lc.key(key)
        comment[2].start_mark.column = column + len(f"{key}: {_shown(params[key])}  ")


def _shown(value: Any) -> str:
    return _dumped(value, flow=True).removesuffix("...\n").strip()


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8") as handle:
        return handle.readline()
