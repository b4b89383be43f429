"""Shows ``reports/summary.json`` on a terminal, and checks whether it is up to date."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from models.errors import InputError
from pipeline.presets import leaves
from pipeline.rich_tables import print_table
from stages.files import read_json
from stages.formatting import by_reason, origin, some_of
from stages.params import PARAMS_FILE, read_yaml
from stages.tables import Table, exports, litert, networks, of_records, scores

SUMMARY = Path("reports/summary.json")
PAGE = Path("reports/index.html")
GATE = Path("reports/gate.json")
BUNDLE = Path("artifacts/bundle.tar.gz")
LOCK = Path("dvc.lock")


def show(console: Console) -> None:
    """Print networks, exports, warnings, what was skipped and where the results are.

    Raises:
        InputError: there is no summary yet, it is damaged, or another version wrote it.
    """
    summary = read_json(SUMMARY)
    # Print nothing if an error occurs halfway.
    with refuse_other_versions("run `dvc repro` to make it again"), console.capture() as shown:
        _print(console, summary)
    console.file.write(shown.get())


@contextmanager
def refuse_other_versions(remedy: str) -> Iterator[None]:
    """Raise InputError, with this remedy, if a summary lacks something that the block reads."""
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{SUMMARY}: written by another version of ackd ({error!r}); {remedy}"
        ) from None


def outdated(
    lock: Mapping[str, Any], params: Mapping[str, Any], without: Collection[str] = ()
) -> list[str]:
    """Return phrases that state why the results in ``dvc.lock`` are outdated, if they are.

    A parameter may have changed, or a stage may have run without its downstream stages. Stages in
    ``without`` do not count.

    Raises:
        InputError: ``dvc.lock`` was not written by DVC.
    """
    try:
        stages = [own for name, own in (lock.get("stages") or {}).items() if name not in without]
        used = dict[str, Any]()
        for stage in stages:
            used |= leaves(stage.get("params", {}).get(PARAMS_FILE.as_posix(), {}))
        made = {out["path"]: out.get("md5") for one in stages for out in one.get("outs", ())}
        read = {(dep["path"], dep.get("md5")) for one in stages for dep in one.get("deps", ())}
    except (LookupError, TypeError, AttributeError):
        raise InputError(f"{LOCK}: damaged; restore it with `git checkout {LOCK}`") from None
    now = leaves(params)
    phrases = []
    if other := [f"{k} {was} (now {now.get(k)})" for k, was in used.items() if now.get(k) != was]:
        phrases.append(f"made with {some_of(other)}")
    if newer := sorted(path for path, md5 in read if made.get(path, md5) != md5):
        phrases.append(f"older than {', '.join(newer)}")
    return phrases


def _print(console: Console, summary: dict[str, Any]) -> None:
    data = summary["data"]
    title = f"{summary['student']['network']}, {origin(summary)}"
    console.print(f"[bold]{escape(title)}[/]", highlight=False)
    console.print(
        f"[bold]{escape(str(data['source']))}[/]: {data['train']:,} training,"
        f" {data['val']:,} validation, {data['test']:,} test images,"
        f" {data['classes']} classes, {data['image_size']} x {data['image_size']}",
        highlight=False,
    )
    if LOCK.exists() and (old := outdated(read_yaml(LOCK), read_yaml(PARAMS_FILE))):
        warning = f"these results are {' and '.join(old)}; `ackd run` updates them"
        console.print(f"[yellow]warning[/]  {escape(warning)}", highlight=False)
    tables = [networks(summary), scores(summary), exports(summary), litert(summary)]
    if len(summary["devices"]) > 1:
        tables.append(_devices(summary))
    for table in tables:
        if table is not None:
            console.print()
            print_table(console, table)
    for warning in summary["warnings"]:
        console.print(f"[yellow]warning[/]  {escape(warning)}", highlight=False)
    if summary["skipped"]:
        console.print("\n[bold]Not measured[/]")
        for reason, missing in by_reason(summary["skipped"]).items():
            console.print(f"  {', '.join(missing)}: {reason}", highlight=False, markup=False)
    console.print()
    for result, path in (("report", PAGE), ("bundle", BUNDLE)):
        place = str(path) if path.exists() else "none; `ackd run` creates it"
        if path == BUNDLE and GATE.exists() and not read_json(GATE)["passed"]:
            place = f"none of this student; see the goals in {GATE}"  # perhaps an older one's
        console.print(f"[bold]{result}[/]  {place}", highlight=False)


def _devices(summary: dict[str, Any]) -> Table:
    rows = [
        ([url, device["cpu"] or "", precision], row)
        for url, device in summary["devices"].items()
        for precision, row in device["exports"].items()
    ]
    names = ["device", "processor", "precision"]
    return of_records("Devices", names, rows, ["status", "threads", "p50_ms", "p90_ms"])
