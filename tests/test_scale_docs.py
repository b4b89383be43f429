"""docs/scale.md: each of its commands is tested somewhere, or said not to have been run.

Its examples are read, and their scripts run with stand-ins for the programs of a cluster.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline import cli
from stages.params import load_params

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/scale.md"
SLURM = ROOT / "docs/examples/slurm.sbatch"
JOB = ROOT / "docs/examples/kubernetes.yaml"

# By their beginnings: file, function and words of the test that does the same, or the words of the
# page that say that it was not run.
USE = "test_its_presets_and_settings_are_accepted"
GPUS = "test_trainings_have_a_gpu_each_at_one_time_and_measurements_the_machine"
COST = "test_the_command_writes_the_table"
COMMANDS = {
    "ackd use cifar100/": ("test_scale_docs", USE, "cli.app"),
    "ackd use imagenet/": "The command was not run with so many images",
    "ackd status": ("pipeline/test_cli", "test_status_is_a_table_of_all_stages", '"status"'),
    "ACKD_GPUS=0 ackd run": ("pipeline/test_flow", GPUS, '"ACKD_GPUS"'),
    "ACKD_GPUS=3 ackd run": ("pipeline/test_flow", GPUS, '"ACKD_GPUS"'),
    "ACKD_PROCESSES=8 dvc repro": ("stages/training/test_distributed", "start", '"ACKD_PROCESSES"'),
    "python -m benchmarks.cost": ("benchmarks/test_cost", COST, "cost.main"),
    "sbatch ": "None of this was run on a cluster",
    "srun ": "The last two commands were not run",
    "dvc commit --force distill": "The last two commands were not run",
    "kubectl ": "None of this was run on a cluster",
}
# Runs until it is told to stop, which takes it a moment.
STAND_IN = """\
#!/bin/bash
echo "$@" >> "$CALLS"
trap 'sleep 0.3; echo stopped >> "$CALLS"; exit 130' INT TERM
[ -z "$ENDS" ] || exit "$ENDS"
touch "$CALLS.running"
while true; do sleep 0.05; done
"""


def test_each_command_is_tested_or_said_not_to_be() -> None:
    text = PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"^    (\S.*)$", text, flags=re.MULTILINE)
    assert len(commands) > 10
    for command in commands:
        (proof,) = (proof for start, proof in COMMANDS.items() if command.startswith(start))
        if isinstance(proof, str):
            assert proof in text, command
        else:
            file, function, words = proof
            source = (ROOT / f"tests/{file}.py").read_text(encoding="utf-8")
            [found] = [
                ast.unparse(node)
                for node in ast.parse(source).body
                if isinstance(node, ast.FunctionDef) and node.name == function
            ]
            assert words.replace('"', "'") in found, command
    links = re.findall(r"\]\(([^)#]+)", text) + re.findall(r"`(tests/\S+\.py)`", text)
    for link in links:
        assert (ROOT / link).exists() or (PAGE.parent / link).exists(), link


def test_its_presets_and_settings_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "presets", "presets")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, name)
    lines = re.findall(r"^    ackd (use .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        done = CliRunner().invoke(cli.app, shlex.split(line))
        assert done.exit_code == 0, done.output
    params = load_params()
    assert (params.data.feed, params.distill.epochs) == ("stream", 2)
    assert not params.training.logits_store


def run_with_stand_ins(
    script: list[str], folder: Path, ends: str, interrupt: signal.Signals | None
) -> tuple[int, list[str]]:
    """The exit status, and how the stand-ins were called."""
    programs = folder / "programs"
    programs.mkdir()
    for name in ("ackd", "scontrol", "dvc", "git"):
        body = STAND_IN if name == "ackd" else f'#!/bin/bash\necho {name} "$@" >> "$CALLS"\n'
        (programs / name).write_text(body)
        (programs / name).chmod(0o755)
    (folder / "project/.venv/bin").mkdir(parents=True)
    (folder / "project/.venv/bin/activate").touch()
    calls = folder / "calls"
    environment = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "CALLS": str(calls),
        "ENDS": ends,
        "SLURM_JOB_ID": "17",
        "SLURM_SUBMIT_DIR": str(folder / "project"),
        "REPOSITORY": "https://git.example.org/team/ackd.git",
        "TMPDIR": str(folder),
    }
    with subprocess.Popen(script, cwd=folder, env=environment) as process:
        if interrupt is not None:
            end = time.monotonic() + 60
            while not Path(f"{calls}.running").exists():
                assert time.monotonic() < end
                time.sleep(0.02)
            process.send_signal(interrupt)
    return process.returncode, calls.read_text().splitlines()


bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


@bash
def test_the_slurm_script_is_valid_and_asks_for_what_it_says() -> None:
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    options = re.findall(r"^#SBATCH (--\S+)$", SLURM.read_text(), flags=re.MULTILINE)
    assert {"--signal=B:INT@120", "--requeue", "--gpus-per-node=1"} <= set(options)


@bash
@pytest.mark.parametrize(
    ("ends", "stop", "code", "said"),
    [
        ("0", None, 0, ["run"]),
        ("1", None, 1, ["run"]),
        ("", signal.SIGINT, 130, ["run", "stopped", "scontrol requeue 17"]),
    ],
)
def test_the_slurm_script_waits_stops_and_queues_again(
    ends: str, stop: signal.Signals | None, code: int, said: list[str], tmp_path: Path
) -> None:
    assert run_with_stand_ins(["bash", str(SLURM)], tmp_path, ends, stop) == (code, said)


def job() -> dict[str, object]:
    volume, found = YAML(typ="safe").load_all(JOB)
    assert (volume["kind"], found["kind"]) == ("PersistentVolumeClaim", "Job")
    pod = found["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    named = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == named
    known = (ROOT / "docs/environment.md").read_text()
    for variable in container["env"]:
        if variable["name"].startswith("ACKD_"):
            assert f"`{variable['name']}`" in known
    return dict(container)


def test_the_job_is_a_manifest_with_all_that_it_refers_to() -> None:
    assert job()["command"] == ["bash", "-c"]


@bash
@pytest.mark.parametrize(
    ("ends", "stop", "code", "said"),
    [
        ("0", None, 0, ["dvc pull --allow-missing", "run", "dvc push"]),
        ("1", None, 1, ["dvc pull --allow-missing", "run"]),
        ("", signal.SIGTERM, 130, ["dvc pull --allow-missing", "run", "stopped"]),
    ],
)
def test_the_jobs_script_waits_stops_and_pushes_only_what_is_whole(
    ends: str, stop: signal.Signals | None, code: int, said: list[str], tmp_path: Path
) -> None:
    (script,) = job()["args"]  # type: ignore[misc]
    assert run_with_stand_ins(["bash", "-c", str(script)], tmp_path, ends, stop) == (code, said)
