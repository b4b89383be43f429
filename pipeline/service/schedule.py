"""Sets, shows and removes scheduled deployments on the Prefect server."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from models.errors import InputError
from pipeline.dvc_config import cache_folder
from pipeline.environment import folders
from pipeline.git_command import git
from pipeline.prefect_server import connect
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
_SHOWN, _PATIENCE_S = 3, 60.0


def parse_cron(cron: str, timezone: str | None) -> CronSchedule:
    """Parse a schedule, by default in this machine's time zone; raises InputError if invalid."""
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError
    from tzlocal import get_localzone_name

    zone = timezone or get_localzone_name() or "UTC"
    no_cron = InputError(
        f"{cron!r} is no cron expression; expected minute, hour, day, month and day of the week"
        ' in quotes, such as "0 2 * * *" for 02:00 every night'
    )
    if len(cron.split()) > 5:  # Prefect would take a sixth field for seconds
        raise no_cron
    try:
        return CronSchedule(cron=cron, timezone=zone)
    except ValidationError as error:
        if error.errors()[0]["loc"] == ("timezone",):
            raise InputError(
                f"--timezone: {zone!r} is no time zone; expected a name such as Europe/Berlin"
            ) from None
        raise no_cron from None


def read_pool() -> str:
    return str(_entry(NAMES[0])["work_pool"]["name"])


def worker_variables() -> dict[str, str]:
    """Return the variables of this project that runs take from their worker, as set or by default.

    ``prefect.yaml`` reads most of them.
    """

    def ask(*arguments: str) -> str:
        with contextlib.suppress(InputError):  # without git, there are no runs in clones
            return git(root, *arguments)
        return ""

    root = Path.cwd().resolve()
    origin = ask("config", "--get", "remote.origin.url")
    if not origin or (root / origin).exists():
        origin = str((root / origin).resolve())
    found = {
        "ACKD_PROJECT": str(root),
        "ACKD_CHECKPOINTS": str(root / ".checkpoints"),
        "ACKD_DVC_CACHE": str(cache_folder(root)),
        "ACKD_REPOSITORY": origin,
        "ACKD_BRANCH": ask("branch", "--show-current"),  # empty for the default branch
    }
    return {name: os.environ.get(name) or value for name, value in found.items()} | folders()


def set_schedule(schedule: CronSchedule, name: str) -> str:
    """Create or update a deployment of ``prefect.yaml`` with this schedule only.

    Returns:
        Its entry of :func:`list_schedules`, once the server has planned a run.

    Raises:
        InputError: no server responds, it plans nothing, or it has another project's schedule.
    """
    from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyOptions
    from prefect.exceptions import ObjectAlreadyExists

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
            description=entry["description"],
            tags=[_tag()],
            work_pool_name=pool,
            entrypoint=entry["entrypoint"],
            pull_steps=entry["pull"],
            paused=False,
        )
        deployment = client.read_deployment(made)
        end = time.monotonic() + _PATIENCE_S
        while not _runs(client, deployment)[0]:
            if time.monotonic() > end:
                raise InputError(
                    f"{FLOW}/{name} is on the server, but the server has planned no run within"
                    f" {_PATIENCE_S:g} s; check its log, or restart it with `ackd server`"
                )
            time.sleep(0.5)
        return _description(client, deployment)


def require_own() -> None:
    """Ensure that a worker of this project would not run another project's schedule.

    Raises:
        InputError: no server responds, or it has another project's schedule.
    """
    with connect() as client:
        for deployment in _deployments(client):
            # Deployments created by Prefect's own commands have no such tag.
            owners = [tag for tag in deployment.tags if tag.startswith(_PROJECT)]
            if owners and _tag() not in owners:
                clone = " --clone" * (deployment.name == NAMES[1])
                raise InputError(
                    f"{FLOW}/{deployment.name} on this server belongs to the project"
                    f" {owners[0].removeprefix(_PROJECT)}, and a server serves one project; start"
                    " another server (with another PREFECT_HOME, and `ackd server --port`), or run"
                    f" `ackd schedule --remove{clone}` first"
                )


def remove(name: str) -> None:
    """Remove a schedule, but no past runs; raises InputError if there is none, or no server."""
    with connect() as client:
        for deployment in _deployments(client):
            if deployment.name == name:
                return client.delete_deployment(deployment.id)
    raise InputError(
        f"{FLOW}/{name} is not on the server; `ackd schedule` lists the schedules, and"
        ' `ackd schedule "0 2 * * *"` sets one'
    )


def list_schedules() -> list[str]:
    """Describe each schedule with its next and last runs; raises InputError without a server."""
    with connect() as client:
        return [_description(client, deployment) for deployment in _deployments(client)]


def _tag() -> str:
    return f"{_PROJECT}{Path.cwd().resolve()}"


def _entry(name: str) -> Mapping[str, Any]:
    entries = {entry["name"]: entry for entry in read_yaml(DEPLOYMENTS)["deployments"]}
    return dict(entries[name])


def _deployments(client: SyncPrefectClient) -> Iterator[DeploymentResponse]:
    from prefect.exceptions import ObjectNotFound

    for name in NAMES:
        with contextlib.suppress(ObjectNotFound):
            yield client.read_deployment_by_name(f"{FLOW}/{name}")


def _runs(
    client: SyncPrefectClient, deployment: DeploymentResponse
) -> tuple[list[FlowRun], list[FlowRun]]:
    """Return planned runs, earliest first, and all others, latest first."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
    from prefect.client.schemas.sorting import FlowRunSort

    runs = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
    )
    planned = [run for run in runs if run.state and run.state.is_scheduled()]
    return planned[::-1], [run for run in runs if run not in planned]


def _description(client: SyncPrefectClient, deployment: DeploymentResponse) -> str:
    from prefect.client.schemas.schedules import CronSchedule

    crons = [s.schedule for s in deployment.schedules if isinstance(s.schedule, CronSchedule)]
    zone = ZoneInfo((crons[0].timezone if crons else None) or "UTC")
    when = ", ".join(one.cron for one in crons) or "no cron schedule"
    paused = deployment.paused or not any(s.active for s in deployment.schedules)
    planned, others = _runs(client, deployment)

    def clock(run: FlowRun) -> str:
        start = run.start_time or run.expected_start_time
        return f"{start.astimezone(zone):%Y-%m-%d %H:%M}" if start else "at an unknown time"

    lines = [
        f"{FLOW}/{deployment.name}: {when} {zone.key}{', paused' * paused}",
        f"  next  {', '.join(map(clock, planned[:_SHOWN])) or 'none'}",
    ]
    for run in others[:1]:
        message = f" ({run.state.message})" if run.state and run.state.message else ""
        lines.append(f"  last  {clock(run)}: {str(run.state_name).lower()}{message}")
    return "\n".join(lines)
