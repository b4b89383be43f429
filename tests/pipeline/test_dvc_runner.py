"""Real DVC processes on a real repository."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from models.errors import InputError
from pipeline.dvc_output import StageBusyError, StageError
from pipeline.dvc_runner import Runner, load_graph, load_status, nothing_to_do
from tests.pages import make_project
from tests.pipeline.conftest import ROOT, change_stage, wait_for

# dvc reads its graph with a call that pygtrie is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


def repro(runner: Runner, stage: str) -> tuple[str, list[str]]:
    lines: list[str] = []
    return runner.repro(stage, lines.append), lines


def states(root: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {status.name: (status.state, status.reasons) for status in load_status(root)}


def test_the_graph_is_in_order_and_names_what_each_stage_depends_on(project: Path) -> None:
    graph = {stage.name: stage.upstream for stage in load_graph(project)}
    assert list(graph) == ["first", "left", "right", "last"]
    assert graph == {
        "first": (),
        "left": ("first",),
        "right": ("first",),
        "last": ("left", "right"),
    }


def test_the_graph_of_this_project_has_the_stages_that_dvc_lists() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    stages = {stage.name: stage for stage in load_graph(ROOT)}
    assert sorted(stages) == sorted(listed)
    assert stages["profile_latency"].needs.alone
    assert stages["distill"].needs.gpu == 1
    assert [name for name, stage in stages.items() if stage.always_runs] == ["identify_device"]


def test_there_is_nothing_to_do_once_every_stage_gives_what_it_gave(project: Path) -> None:
    always = "    outs: [first.txt]\n    always_changed: true\n"
    change_stage(project, "    outs: [first.txt]\n", always)
    change_stage(project, "deps: [source.txt]", "deps: [params.yaml]")
    assert not nothing_to_do(project)
    assert not (project / "first.txt").exists()
    subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet"], check=True)
    assert nothing_to_do(project)
    # What always runs gives something else, as on another machine.
    (project / "source.txt").write_text("2\n")
    assert not nothing_to_do(project)
    assert states(project)["left"] == ("will run", ("first.txt modified",))


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        ("rm -rf .git", "is not a git repository; run `git init` in it, or `dvc config core.no_"),
        ("echo 1 > .dvc/tmp/rwlock", r"\.dvc/tmp/rwlock: damaged, so no stage runs; remove it"),
    ],
)
def test_a_project_that_dvc_cannot_open_is_one_sentence(
    project: Path, break_it: str, sentence: str
) -> None:
    subprocess.run(f"mkdir -p .dvc/tmp && {break_it}", shell=True, check=True)
    with pytest.raises(InputError, match=sentence):
        nothing_to_do(project)


def test_a_training_of_the_chain_is_restored_rather_than_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It writes to git as well, what DVC may put beside its cache.
    project = make_project(tmp_path / "project", "prepare_data", "train_teacher")
    monkeypatch.setenv("ACKD_CHECKPOINTS", str(tmp_path / "checkpoints"))
    params = YAML().load(project / "params.yaml")
    params["data"]["train_per_class"] = 8
    params["teacher"]["epochs"] = 1
    reports = ("data.json", "teacher/metrics.json", "teacher/environment.json")
    with Runner(project) as runner:
        for seed in (1, 0):
            params["teacher"]["seed"] = seed
            YAML().dump(params, project / "params.yaml")
            repro(runner, "prepare_data")
            assert repro(runner, "train_teacher")[0] == "ran"
        made = [(project / "reports" / name).read_bytes() for name in reports]
        (project / "dvc.lock").unlink()  # as in an experiment from a commit before it
        for name in reports:
            (project / "reports" / name).unlink()
        assert repro(runner, "prepare_data")[0] == "restored"
        assert repro(runner, "train_teacher")[0] == "restored"
    assert [(project / "reports" / name).read_bytes() for name in reports] == made


def test_a_stage_runs_is_then_unchanged_and_is_restored(project: Path) -> None:
    with Runner(project) as runner:
        assert repro(runner, "first") == ("ran", ["hello from first"])
        assert repro(runner, "first") == ("unchanged", [])
        (project / "source.txt").write_text("2\n")
        assert repro(runner, "first")[0] == "ran"
        assert (project / "first.txt").read_text() == "2\n"
        (project / "source.txt").write_text("1\n")
        assert repro(runner, "first")[0] == "restored"
        assert (project / "first.txt").read_text() == "1\n"


def test_a_failure_carries_the_stages_own_sentence(project: Path) -> None:
    change_stage(
        project, "cmd: cp first.txt left.txt", "cmd: 'echo \"error: no ink\" >&2 && exit 3'"
    )
    with Runner(project) as runner:
        repro(runner, "first")
        with pytest.raises(StageError, match=r"^no ink$"):
            repro(runner, "left")


def test_a_crash_carries_its_last_line(project: Path) -> None:
    change_stage(project, "cp first.txt left.txt", "python -c 'import no_such_module'")
    with Runner(project) as runner:
        repro(runner, "first")
        with pytest.raises(StageError, match=r"^ModuleNotFoundError: .*no_such_module"):
            repro(runner, "left")


def test_a_missing_input_is_named(project: Path) -> None:
    (project / "source.txt").unlink()
    with Runner(project) as runner, pytest.raises(StageError, match="source.txt"):
        repro(runner, "first")


def test_python_in_a_stage_is_the_one_that_runs_this(project: Path) -> None:
    change_stage(
        project,
        "echo hello from first && cp source.txt first.txt",
        "python -c 'import sys; print(sys.executable)' > first.txt",
    )
    with Runner(project) as runner:
        repro(runner, "first")
    assert (project / "first.txt").read_text().strip() == sys.executable


def test_a_stage_that_takes_too_long_is_stopped(project: Path) -> None:
    change_stage(project, "cp first.txt left.txt", "sleep 60")
    with Runner(project) as runner:
        repro(runner, "first")
        start = time.monotonic()
        with pytest.raises(StageError, match="longer than 1.5 s"):
            runner.repro("left", print, timeout_s=1.5)
    assert time.monotonic() - start < 10


def test_files_held_by_another_dvc_process_are_worth_a_retry(project: Path) -> None:
    change_stage(project, "cp first.txt left.txt", "touch started && sleep 60")
    with Runner(project) as runner, Runner(project) as other:
        repro(runner, "first")
        holder = threading.Thread(target=_swallow, args=(other, "left"))
        holder.start()
        wait_for(project / "started")
        with pytest.raises(StageBusyError):
            repro(runner, "left")
        other.stop_all()
        holder.join()


def test_nothing_starts_once_a_runner_has_been_stopped(project: Path) -> None:
    with Runner(project) as runner:
        runner.stop_all()
        with pytest.raises(StageError, match="stopped"):
            repro(runner, "first")
    assert not (project / "first.txt").exists()


def test_status_says_what_will_run_and_why(project: Path) -> None:
    assert set(states(project).values()) == {("will run", ("never run",))}
    with Runner(project) as runner:
        for stage in ("first", "left", "right", "last"):
            repro(runner, stage)
    assert set(states(project).values()) == {("up to date", ())}

    params = project / "params.yaml"
    params.write_text(params.read_text().replace("temperature: 4.0", "temperature: 2.0"))
    assert states(project) == {
        "first": ("up to date", ()),
        "left": ("will run", ("distill.temperature modified",)),
        "right": ("up to date", ()),
        "last": ("may run", ("if left gives other results",)),
    }


def test_status_names_changed_files_and_commands(project: Path) -> None:
    with Runner(project) as runner:
        for stage in ("first", "left", "right", "last"):
            repro(runner, stage)
    (project / "source.txt").write_text("2\n")
    (project / "last.txt").unlink()
    change_stage(project, "cp first.txt right.txt", "cat first.txt > right.txt")
    found = states(project)
    assert found["first"] == ("will run", ("source.txt modified",))
    assert found["right"] == ("will run", ("command changed",))
    assert found["last"] == ("will run", ("last.txt missing (output)",))


def test_a_stage_that_always_runs_puts_none_below_it_in_doubt(project: Path) -> None:
    change_stage(
        project, "    outs: [first.txt]", "    outs: [first.txt]\n    always_changed: true"
    )
    with Runner(project) as runner:
        for stage in ("first", "left", "right", "last"):
            repro(runner, stage)
    assert [state for state, _ in states(project).values()] == [
        "always runs",
        "up to date",
        "up to date",
        "up to date",
    ]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("stages:", "stagess:", "dvc.yaml"),
        ("deps: [source.txt]", "deps: [last.txt]", "dvc.yaml: .*both a dependency and an output"),
        (
            "outs: [first.txt]",
            "outs: [first.txt]\n    meta: {prefect: {gpus: 1}}",
            r"dvc.yaml: meta.prefect.gpus of stage first .*it takes gpu, alone, timeout_s",
        ),
    ],
)
def test_a_broken_chain_is_one_sentence(project: Path, old: str, new: str, sentence: str) -> None:
    change_stage(project, old, new)
    with pytest.raises(InputError, match=sentence) as caught:
        load_graph(project)
    assert "\n" not in str(caught.value)


def test_a_folder_without_dvc_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="not a DVC project"):
        load_graph(tmp_path)


def _swallow(runner: Runner, stage: str) -> None:
    with pytest.raises(StageError, match="stopped"):
        repro(runner, stage)
