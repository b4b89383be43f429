"""Run real DVC processes on a real repository."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models.errors import InputError
from pipeline.dvc_command import StageBusyError, StageError
from pipeline.dvc_runner import Runner, load_graph, load_status, nothing_to_do
from tests.pipeline.conftest import change_stage, set_temperature
from tests.waiting import wait_for
from tests.warm_python import warm_dvc


def repro(runner: Runner, stage: str) -> tuple[str, list[str]]:
    lines: list[str] = []
    return runner.repro(stage, lines.append), lines


def states(root: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {status.name: (status.state, status.reasons) for status in load_status(root)}


def test_the_graph_is_in_order_and_names_what_each_stage_depends_on(project):
    graph = [(stage.name, stage.upstream) for stage in load_graph(project)]
    sides = [("left", ("first",)), ("right", ("first",))]
    assert graph == [("first", ()), *sides, ("last", ("left", "right"))]


def test_nothing_to_do_if_stages_that_always_run_give_the_same(project):
    always = "    outs: [first.txt]\n    always_changed: true\n"
    change_stage(project, "    outs: [first.txt]\n", always)
    change_stage(project, "deps: [source.txt]", "deps: [params.yaml]")
    assert not nothing_to_do(project)
    assert not (project / "first.txt").exists()
    subprocess.run(warm_dvc("repro", "--quiet"), check=True)
    assert nothing_to_do(project)
    # Stages that always run have other results, as on another machine.
    (project / "source.txt").write_text("2\n")
    assert not nothing_to_do(project)
    assert states(project)["left"] == ("will run", ("first.txt modified",))


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        ("rm -rf .dvc", "^dvc: you are not inside of a DVC repository"),
        ("rm -rf .git", "is not a git repository; run `git init` in it, or"),
        ("echo 1 > .dvc/tmp/rwlock", "rwlock: damaged; remove it"),
    ],
)
def test_a_project_that_dvc_cannot_open_is_one_sentence(project, break_it, sentence):
    subprocess.run(f"mkdir -p .dvc/tmp; {break_it}", shell=True, check=True)
    with pytest.raises(InputError, match=sentence):
        nothing_to_do(project)


def test_a_stage_runs_is_then_unchanged_and_is_restored(project):
    with Runner(project) as runner:
        assert repro(runner, "first") == ("ran", ["hello from first"])
        assert repro(runner, "first") == ("unchanged", [])
        (project / "source.txt").write_text("2\n")
        assert repro(runner, "first")[0] == "ran"
        assert (project / "first.txt").read_text() == "2\n"
        (project / "source.txt").write_text("1\n")
        assert repro(runner, "first")[0] == "restored"
        assert (project / "first.txt").read_text() == "1\n"


def test_a_failure_carries_the_last_line_of_the_stage(project):
    change_stage(
        project,
        "echo hello from first && cp source.txt first.txt",
        """'python -c "import sys; sys.exit(f\'\'error: no ink, {sys.prefix}\'\')"'""",
    )
    # Stages use the Python that runs the tests.
    said = f"^no ink, {re.escape(sys.prefix)}$"
    with Runner(project) as runner, pytest.raises(StageError, match=said):
        repro(runner, "first")


def test_files_held_by_another_dvc_process_are_retried(finished):
    # Even if a stage ignores the interrupt, dvc releases its lock.
    change_stage(finished, "cp first.txt left.txt", "trap '' INT; touch started && sleep 60")
    with Runner(finished) as runner, Runner(finished) as other:
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(repro, other, "left")
            wait_for(finished / "started")
            with pytest.raises(StageBusyError):
                repro(runner, "left")
            other.stop_all()
        with pytest.raises(StageError, match="stopped"):
            held.result()
    assert json.loads((finished / ".dvc/tmp/rwlock").read_text()) == {}


def test_nothing_starts_once_a_runner_has_been_stopped(project):
    with Runner(project) as runner:
        runner.stop_all()
        with pytest.raises(StageError, match="stopped"):
            repro(runner, "first")
    assert not (project / "first.txt").exists()


def test_status_says_what_will_run_and_why(finished):
    assert set(states(finished).values()) == {("up to date", ())}
    set_temperature(finished, 2.0)
    assert states(finished) == {
        "first": ("up to date", ()),
        "left": ("will run", ("distill.temperature modified",)),
        "right": ("up to date", ()),
        "last": ("may run", ("if left gives other results",)),
    }
    (finished / "source.txt").write_text("2\n")
    (finished / "last.txt").unlink()
    change_stage(finished, "cp first.txt right.txt", "cat first.txt > right.txt")
    found = states(finished)
    assert found["first"] == ("will run", ("source.txt modified",))
    assert found["right"] == ("will run", ("command changed",))
    assert found["last"] == ("will run", ("last.txt missing (output)",))
    (finished / "dvc.lock").unlink()
    assert set(states(finished).values()) == {("will run", ("never run",))}


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("stages:", "stagess:", "^dvc: .*dvc.yaml"),
        ("deps: [source.txt]", "deps: [last.txt]", "dvc: .*both a dependency and an output"),
    ],
)
def test_a_broken_chain_is_one_sentence(project, old, new, sentence):
    change_stage(project, old, new)
    with pytest.raises(InputError, match=sentence) as caught:
        load_graph(project)
    assert "\n" not in str(caught.value)
