"""Presets: short YAML files that are laid over ``params.yaml``, whose comments stay."""

from __future__ import annotations

import copy
import difflib
import io
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from models.errors import InputError
from stages.files import new_file
from stages.params import PARAMS_FILE, parse_params, read_yaml

PRESETS_FOLDER = Path("presets")


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


def use(preset: str | None, settings: Sequence[str]) -> list[str]:
    """Lay a preset, then single settings, over ``params.yaml``.

    Args:
        preset: a name of :func:`list_presets`; None changes the settings alone.
        settings: ``section.key=value``, the value as in YAML.

    Returns:
        What changed, one ``section.key: old -> new`` a line.

    Raises:
        InputError: the preset, a setting or the result is not right; nothing is written.
    """
    overlays = [] if preset is None else [_overlay(preset)]
    overlays += [_setting(text) for text in settings]
    before = read_yaml(PARAMS_FILE)
    params = _yaml().load(PARAMS_FILE)
    for overlay in overlays:
        _lay(overlay, params, "")
    text = _dumped(params)
    after = YAML(typ="safe").load(text)
    parse_params(after)
    with new_file(PARAMS_FILE) as partial:
        partial.write_text(text, encoding="utf-8")
    old, new = dict(_leaves(before, "")), dict(_leaves(after, ""))
    return [
        f"{key}: {_shown(old.get(key))} -> {_shown(value)}"
        for key, value in new.items()
        if key not in old or old[key] != value
    ]


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
        near = difflib.get_close_matches(preset, known, n=1)
        near = near or [name for name in known if preset in name][:1]
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known) or 'none'}"
        raise InputError(f"{path}: no such preset; {hint}")
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
    for part in reversed(parts):
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
            params[key] = copy.deepcopy(value)
            _move_comment(params, key, value)


def _move_comment(params: MutableMapping[str, Any], key: str, value: Any) -> None:
    """Keep the comment two columns behind the new value; ruamel would leave it where it was."""
    assert isinstance(params, CommentedMap)
    comment = params.ca.items.get(key)
    if comment and comment[2]:
        _, column = params.lc.key(key)
        comment[2].start_mark.column = column + len(f"{key}: {_shown(value)}  ")


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
