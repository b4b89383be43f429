"""The nightly deployments on the Prefect server: set, shown, paused, removed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from models.errors import InputError
from pipeline.service.local import connect
from stages.params import read_yaml

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.client.schemas.schedules import CronSchedule

DEPLOYMENTS = Path("prefect.yaml")
FLOW = "compress"
NAMES = ("nightly", "nightly-clone")
"""The deployments of :data:`DEPLOYMENTS`: in the worker's project, and in a clone of it."""

_PROJECT = "project:"
_PATIENCE_S = 60.0


def parse_cron(cron: str, timezone: str | None) -> CronSchedule:
    """A schedule.

    Args:
        cron: minute, hour, day, month and day of the week.
        timezone: its IANA name; None takes this machine's.

    Raises:
        InputError: one of them is not right.
    """
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError
    from tzlocal import get_localzone_name

    zone = timezone or get_localzone_name() or "UTC"
    try:
        return CronSchedule(cron=cron, timezone=zone)
    except ValidationError as error:
        if error.errors()[0]["loc"] == ("timezone",):
            raise InputError(
                f"--timezone: {zone!r} is no time zone; expected a name such as Europe/Berlin"
            ) from None
        raise InputError(
            f"{cron!r} is no cron expression; expected minute, hour, day, month and day of the week"
            ' in quotes, such as "0 2 * * *" for every night at two'
        ) from None


def read_pool() -> str:
    """The work pool of the deployments.

    Raises:
        InputError: ``prefect.yaml`` does not name it.
    """
    return str(_entry(NAMES[0])["work_pool"]["name"])


def set_schedule(schedule: CronSchedule, name: str) -> str:
    """Create or update a deployment of ``prefect.yaml``, with this schedule and no other.

    Returns:
        As :func:`list_schedules`, as soon as the server has planned a run.

    Raises:
        InputError: no server answers, it plans nothing, it has the schedule of another project, or
            ``prefect.yaml`` is not right.
    """
    from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyOptions
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.utilities.callables import parameter_schema

    from pipeline.flow import compress

    require_own()
    entry = _entry(name)
    limit = ConcurrencyLimitConfig.model_validate(entry["concurrency_limit"])
    pool = entry["work_pool"]["name"]
    with connect() as client:
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        made = client.create_deployment(
            client.create_flow_from_name(FLOW),
            name,
            schedules=[DeploymentScheduleCreate(schedule=schedule, active=True, slug=name)],
            concurrency_limit=limit.limit,
            concurrency_options=ConcurrencyOptions(collision_strategy=limit.collision_strategy),
            parameters=entry["parameters"],
            parameter_openapi_schema=parameter_schema(compress).model_dump(exclude_unset=True),
            description=entry["description"],
            tags=[_tag()],
            work_pool_name=pool,
            entrypoint=entry["entrypoint"],
            pull_steps=entry["pull"],
            paused=False,
        )
        end = time.monotonic() + _PATIENCE_S
        deployment = client.read_deployment(made)
        while not _runs(client, deployment, planned=True):
            if time.monotonic() > end:
                raise InputError(
                    f"{FLOW}/{name} is on the server, which has planned no run of it within"
                    f" {_PATIENCE_S:g} s; look at its log, or start it again by `ackd server`"
                )
            time.sleep(0.5)
        return _description(client, deployment)


def require_own() -> None:
    """Make sure that a worker of this project would not run another one's nights in it.

    Raises:
        InputError: no server answers, or it has the schedule of another project.
    """
    with connect() as client:
        for name in NAMES:
            deployment = _read(client, name)
            # One that Prefect's own commands have set has no such tag.
            owners = [t for t in deployment.tags if t.startswith(_PROJECT)] if deployment else []
            if owners and _tag() not in owners:
                raise InputError(
                    f"{FLOW}/{name} on this server is of the project"
                    f" {owners[0].removeprefix(_PROJECT)}, and a server serves one; give this one a"
                    " server of its own (another PREFECT_HOME, and `ackd server --port`), or run"
                    f" `ackd schedule --remove{' --clone' * (name == NAMES[1])}` first"
                )


def change(name: str, action: str) -> None:
    """Pause a schedule (a run that goes on is left alone), resume it, or remove it.

    Args:
        name: one of :data:`NAMES`.
        action: ``pause``, ``resume`` or ``remove``; its past runs stay in Prefect's pages.

    Raises:
        InputError: no server answers, or it has no such schedule.
    """
    with connect() as client:
        deployment = _read(client, name)
        if deployment is None:
            raise InputError(
                f"{FLOW}/{name} is not on the server; `ackd schedule` lists what is, and"
                ' `ackd schedule "0 2 * * *"` sets it'
            )
        actions = {
            "pause": client.pause_deployment,
            "resume": client.resume_deployment,
            "remove": client.delete_deployment,
        }
        actions[action](deployment.id)


def list_schedules() -> list[str]:
    """Each schedule on the server, the next runs, and how the last one ended, in lines.

    Raises:
        InputError: no server answers.
    """
    with connect() as client:
        found = [_read(client, name) for name in NAMES]
        return [_description(client, deployment) for deployment in found if deployment]


def _tag() -> str:
    return f"{_PROJECT}{Path.cwd().resolve()}"


def _entry(name: str) -> Mapping[str, Any]:
    needed = {"description", "entrypoint", "parameters", "work_pool", "concurrency_limit", "pull"}
    entries = read_yaml(DEPLOYMENTS).get("deployments") or [] if DEPLOYMENTS.is_file() else []
    for entry in entries:
        if entry.get("name") == name and needed <= set(entry):
            return dict(entry)
    raise InputError(
        f"{DEPLOYMENTS}: has no deployment {name} with {', '.join(sorted(needed))}; get the file"
        " back with `git checkout`"
    )


def _read(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(f"{FLOW}/{name}")
    except ObjectNotFound:
        return None


def _runs(
    client: SyncPrefectClient, deployment: DeploymentResponse, *, planned: bool
) -> list[FlowRun]:
    """The next three that are planned, or the last one that is not."""
    from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    kind = {"any_" if planned else "not_any_": ["SCHEDULED"]}
    first, last = FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC, FlowRunSort.EXPECTED_START_TIME_DESC
    return client.read_flow_runs(
        deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [deployment.id]}}),
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": kind}}),
        sort=first if planned else last,
        limit=3 if planned else 1,
    )


def _description(client: SyncPrefectClient, deployment: DeploymentResponse) -> str:
    from prefect.client.schemas.schedules import CronSchedule

    crons = [s.schedule for s in deployment.schedules if isinstance(s.schedule, CronSchedule)]
    zone = ZoneInfo((crons[0].timezone if crons else None) or "UTC")
    when = ", ".join(one.cron for one in crons) or "no cron schedule"
    paused = deployment.paused or not any(s.active for s in deployment.schedules)
    times = [
        f"{run.expected_start_time.astimezone(zone):%Y-%m-%d %H:%M}"
        for run in _runs(client, deployment, planned=True)
        if run.expected_start_time is not None
    ]
    lines = [
        f"{FLOW}/{deployment.name}: {when} {zone.key}{', paused' * paused}",
        f"  next  {', '.join(times) or 'none'}",
    ]
    for run in _runs(client, deployment, planned=False):
        start, state = run.start_time or run.expected_start_time, run.state
        if start is not None and state is not None:
            message = f" ({state.message})" if state.message else ""
            clock = f"{start.astimezone(zone):%Y-%m-%d %H:%M}"
            lines.append(f"  last  {clock}: {str(state.name).lower()}{message}")
    return "\n".join(lines)
