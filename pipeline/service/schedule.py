"""The nightly deployment on the Prefect server: set, shown, paused, removed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from models.errors import InputError
from pipeline.service.local import connect
from stages.params import read_yaml

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.client.schemas.schedules import CronSchedule

DEPLOYMENTS = Path("prefect.yaml")
FLOW = "compress"
NAMES = ("nightly", "nightly-clone")
"""The deployments of :data:`DEPLOYMENTS`: in the worker's project, and in a clone of it."""

_PROJECT = "project:"
_PATIENCE_S = 60.0
_SHOWN = 3


@dataclass(frozen=True)
class Planned:
    """What the server knows of one deployment."""

    name: str
    cron: str
    timezone: str
    paused: bool
    next_runs: tuple[datetime, ...]
    last: str | None
    """How the last run ended, or where it is."""


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
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise InputError(
            f"--timezone: {zone!r} is no time zone; expected a name such as Europe/Berlin or UTC"
        ) from None
    mistake = InputError(
        f"{cron!r} is no cron expression; expected minute, hour, day, month and day of the week in"
        ' quotes, such as "0 2 * * *" for every night at two'
    )
    # Prefect takes a sixth field, for seconds, and words such as @daily.
    if len(cron.split()) != 5:
        raise mistake
    try:
        return CronSchedule(cron=cron, timezone=zone)
    except ValidationError:
        raise mistake from None


def read_pool() -> str:
    """The work pool of the deployments.

    Raises:
        InputError: ``prefect.yaml`` does not say.
    """
    return str(_entry(NAMES[0])["work_pool"]["name"])


def set_schedule(schedule: CronSchedule, name: str) -> Planned:
    """Create or update a deployment of ``prefect.yaml``, with this schedule and no other.

    Returns:
        What is planned, as soon as the server has planned it.

    Raises:
        InputError: no server answers, it plans nothing, it has the schedule of another project, or
            ``prefect.yaml`` is not right.
    """
    from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyOptions
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.utilities.callables import parameter_schema

    from pipeline.flow import compress

    entry = _entry(name)
    limit = ConcurrencyLimitConfig.model_validate(entry["concurrency_limit"])
    pool = entry["work_pool"]["name"]
    with connect() as client:
        _require_own(client)
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        client.create_deployment(
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
        while not (planned := _planned(client, _read(client, name))).next_runs:
            if time.monotonic() > end:
                raise InputError(
                    f"{FLOW}/{name} is on the server, which has planned no run of it within"
                    f" {_PATIENCE_S:g} s; see what it says, or start it again by `ackd server`"
                )
            time.sleep(0.5)
    return planned


def require_own() -> None:
    """Make sure that a worker of this project would not run another one's nights in it.

    Raises:
        InputError: no server answers, or it has the schedule of another project.
    """
    with connect() as client:
        _require_own(client)


def pause(name: str) -> None:
    """Plan no more runs until it is resumed or set again; one that runs goes on.

    Raises:
        InputError: no server answers, or there is no such schedule.
    """
    with connect() as client:
        client.pause_deployment(_read(client, name).id)


def resume(name: str) -> None:
    """Plan runs again, with the schedule of before; raises as :func:`pause`."""
    with connect() as client:
        client.resume_deployment(_read(client, name).id)


def remove(name: str) -> None:
    """Forget the schedule; its past runs stay in Prefect's pages. Raises as :func:`pause`."""
    with connect() as client:
        client.delete_deployment(_read(client, name).id)


def list_planned() -> list[Planned]:
    """All that is on the server.

    Raises:
        InputError: no server answers.
    """
    from prefect.exceptions import ObjectNotFound

    found = []
    with connect() as client:
        for name in NAMES:
            try:
                deployment = client.read_deployment_by_name(f"{FLOW}/{name}")
            except ObjectNotFound:
                continue
            found.append(_planned(client, deployment))
    return found


def _tag() -> str:
    return f"{_PROJECT}{Path.cwd().resolve()}"


def _require_own(client: SyncPrefectClient) -> None:
    from prefect.exceptions import ObjectNotFound

    for name in NAMES:
        with contextlib.suppress(ObjectNotFound):
            tags = client.read_deployment_by_name(f"{FLOW}/{name}").tags
            # One that Prefect's own commands have set has none.
            owners = [tag for tag in tags if tag.startswith(_PROJECT)]
            if owners and _tag() not in owners:
                raise InputError(
                    f"{FLOW}/{name} on this server is of the project"
                    f" {owners[0].removeprefix(_PROJECT)}, and a server serves one; give this one a"
                    " server of its own (another PREFECT_HOME, and `ackd server --port`), or say"
                    f" `ackd schedule --remove{' --clone' * (name == NAMES[1])}` first"
                )


def _entry(name: str) -> Mapping[str, Any]:
    if not DEPLOYMENTS.is_file():
        raise InputError(f"{DEPLOYMENTS}: not found here; get it back with `git checkout` first")
    for entry in read_yaml(DEPLOYMENTS).get("deployments") or []:
        if entry.get("name") == name:
            keys = ("description", "entrypoint", "parameters", "work_pool", "concurrency_limit")
            if missing := [key for key in (*keys, "pull") if key not in entry]:
                raise InputError(
                    f"{DEPLOYMENTS}: deployment {name} has no {' and no '.join(missing)}; get it"
                    " back with `git checkout`"
                )
            return dict(entry)
    raise InputError(f"{DEPLOYMENTS}: has no deployment {name}; get it back with `git checkout`")


def _read(client: SyncPrefectClient, name: str) -> DeploymentResponse:
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(f"{FLOW}/{name}")
    except ObjectNotFound:
        raise InputError(
            f"{FLOW}/{name} is not on the server; `ackd schedule` lists what is, and"
            ' `ackd schedule "0 2 * * *"` sets it'
        ) from None


def _planned(client: SyncPrefectClient, deployment: DeploymentResponse) -> Planned:
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.client.schemas.sorting import FlowRunSort

    own = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    waiting, others = (
        FlowRunFilter(state=FlowRunFilterState(type=chosen))
        for chosen in (
            FlowRunFilterStateType(any_=[StateType.SCHEDULED]),
            FlowRunFilterStateType(not_any_=[StateType.SCHEDULED]),
        )
    )
    next_runs = client.read_flow_runs(
        deployment_filter=own,
        flow_run_filter=waiting,
        sort=FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC,
        limit=_SHOWN,
    )
    last = client.read_flow_runs(
        deployment_filter=own,
        flow_run_filter=others,
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=1,
    )
    crons = [s.schedule for s in deployment.schedules if isinstance(s.schedule, CronSchedule)]
    zone = ZoneInfo(crons[0].timezone or "UTC") if crons else ZoneInfo("UTC")
    return Planned(
        name=deployment.name,
        cron=", ".join(one.cron for one in crons) or "no cron schedule",
        timezone=zone.key,
        paused=deployment.paused or not any(s.active for s in deployment.schedules),
        next_runs=tuple(
            run.next_scheduled_start_time.astimezone(zone)
            for run in next_runs
            if run.next_scheduled_start_time is not None
        ),
        last=_last(last[0], zone) if last else None,
    )


def _last(run: Any, zone: ZoneInfo) -> str:
    when = run.start_time or run.expected_start_time
    message = f" ({run.state.message})" if run.state.message else ""
    return f"{when.astimezone(zone):%Y-%m-%d %H:%M}: {run.state.name.lower()}{message}"
