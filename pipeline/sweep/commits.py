"""What of a sweep git knows: the commit that it starts from, and the experiments that exist."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from models.errors import InputError
from pipeline.git_refs import changed_files, git
from stages.params import PARAMS_FILE

if TYPE_CHECKING:
    from pipeline.sweep.plan import Experiment, Plan

_REFS = "refs/exps/"
_UNTIL = "until: "


@dataclass(frozen=True)
class Found:
    """A DVC experiment.

    Attributes:
        ref: its full name in git, ``refs/exps/<the commit that it started from>/<name>``.
        revision: its own commit.
    """

    ref: str
    revision: str

    @property
    def baseline(self) -> str:
        """The commit that it started from."""
        return "".join(self.ref.split("/")[2:4])


def check_committed() -> None:
    """Raises InputError where a tracked file is not committed, or the clone is a shallow one."""
    if git(Path(), "rev-parse", "--is-shallow-repository") == "true":
        raise InputError(
            "git: this is a shallow clone, which takes no experiments from the clones that they"
            " run in; run `git fetch --unshallow` first"
        )
    if changed := changed_files(Path()):
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise InputError(
            f"{', '.join(changed[:3])}{more}: changed and not committed; commit first, for every"
            " experiment of a sweep starts from the last commit"
        )


def committed(path: str) -> tuple[str, str]:
    """The last commit, and the text of a file in it."""
    commit = git(Path(), "rev-parse", "HEAD")
    return commit, git(Path(), "show", f"{commit}:{path}")


def check_in_git(params: Mapping[str, Any]) -> None:
    """Refuse a path of this folder that git does not know: experiments run in other folders.

    Raises:
        InputError: a parameter names one.
    """
    from pipeline.presets import leaves

    for key, value in leaves(params).items():
        if not isinstance(value, str) or not value:
            continue
        place = Path(value.partition(":")[2] or value)
        if place.is_absolute() or not place.exists() or place == Path():
            continue
        if not git(Path(), "ls-files", "--", place.as_posix()):
            raise InputError(
                f"{key} is {value!r}, which git does not know; an experiment runs in a folder of"
                " its own: give the whole path, beginning with /"
            )


def list_experiments(remote: str | None = None, root: Path = Path()) -> dict[str, list[Found]]:
    """Every DVC experiment here, or in a git remote, by name."""
    if remote is None:
        text = git(root, "for-each-ref", "--format=%(objectname)\t%(refname)", _REFS)
    else:
        text = git(root, "ls-remote", remote, f"{_REFS}*")
    found: dict[str, list[Found]] = {}
    for line in text.splitlines():
        revision, ref = line.split("\t")
        parts = ref.removeprefix(_REFS).split("/")
        # The others, such as refs/exps/stash, are DVC's own.
        if len(parts) == 3 and len(parts[0] + parts[1]) == 40:
            found.setdefault(parts[2], []).append(Found(ref, revision))
    return found


def message(plan_name: str, until: str) -> str:
    """Of an experiment's commit: whose it is, and how far its chain went."""
    return f"ackd sweep {plan_name}\n\n{_UNTIL}{until}"


def is_done(plan: Plan, experiment: Experiment, found: Iterable[Found]) -> bool:
    """Whether one of these is this experiment.

    Raises:
        InputError: there are some, and none of them is.
    """
    reasons = [_difference(plan, experiment, item) for item in found]
    if not reasons:
        return False
    if None in reasons:
        return True
    raise InputError(
        f"{experiment.name} exists {reasons[0]}; give the sweep another name, or remove it by"
        f" `dvc exp remove {experiment.name}`"
    )


def _difference(plan: Plan, experiment: Experiment, found: Found) -> str | None:
    text = git(Path(), "show", f"{found.revision}:{PARAMS_FILE.as_posix()}")
    params = _flat(YAML(typ="safe").load(text))
    wanted = _flat(experiment.params)
    other = [
        f"{key}: {params.get(key)}, not {wanted.get(key)}"
        for key in sorted({*params, *wanted})
        if params.get(key) != wanted.get(key)
    ]
    if other:
        return f"with other settings ({'; '.join(other[:3])})"
    lines = git(Path(), "show", "--no-patch", "--format=%B", found.revision).splitlines()
    until = [line.removeprefix(_UNTIL) for line in lines if line.startswith(_UNTIL)]
    if until != [plan.until]:
        return f"and ends in {' '.join(until) or 'another stage'}, not {plan.until}"
    if found.baseline != plan.commit:
        changed = git(
            Path(), "diff", "--name-only", found.baseline, plan.commit, "--", *plan.files
        ).splitlines()
        if changed:
            return f"and was made by other code ({', '.join(changed[:3])} changed since)"
    return None


def _flat(tree: Mapping[str, Any]) -> dict[str, str]:
    from pipeline.presets import leaves

    return {key: json.dumps(value, default=str) for key, value in leaves(tree).items()}
