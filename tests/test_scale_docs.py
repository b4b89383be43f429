"""docs/scale.md: its presets are valid, and its examples run with stand-ins for a cluster."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.params import load_params
from tests.pages import ROOT, type_in
from tests.waiting import wait_for

PAGE = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
SLURM = ROOT / "docs/examples/slurm.sbatch"

# Runs until it is stopped, and takes a moment to stop.
STAND_IN = """\
#!/bin/bash
echo "$@" >> "$CALLS"
trap 'sleep 0.3; echo stopped >> "$CALLS"; exit 130' INT TERM
[ -z "$ENDS" ] || exit "$ENDS"
touch "$CALLS.running"
while true; do sleep 0.05; done
"""


def test_its_presets_and_settings_are_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "presets", "presets")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, name)
    lines = re.findall(r"^    (ackd use .*)$", PAGE, re.MULTILINE)
    assert len(lines) == 2
    type_in(tmp_path, "\n".join(lines))
    params = load_params()
    assert (params.data.feed, params.distill.epochs) == ("stream", 2)
    assert not params.training.logits_store


def container() -> dict[str, Any]:
    """Return the container of the Kubernetes Job after checking its volumes and variables."""
    volume, job = YAML(typ="safe").load_all(ROOT / "docs/examples/kubernetes.yaml")
    assert (volume["kind"], job["kind"]) == ("PersistentVolumeClaim", "Job")
    pod = job["spec"]["template"]["spec"]
    (found,) = pod["containers"]
    named = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in found["volumeMounts"]} == named
    known = (ROOT / "docs/environment.md").read_text()
    ours = [v["name"] for v in found["env"] if v["name"].startswith("ACKD_")]
    assert all(f"`{name}`" in known for name in ours)
    return dict(found)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("ends", "stopped", "code"), [("0", False, 0), ("1", False, 1), ("", True, 130)]
)
@pytest.mark.parametrize("example", ["slurm", "kubernetes"])
def test_scripts_wait_for_stopping_runs_and_push_only_complete_ones(
    example, ends, stopped, code, tmp_path
):
    programs, calls = tmp_path / "programs", tmp_path / "calls"
    programs.mkdir()
    for name in ("ackd", "scontrol", "dvc", "git"):
        body = STAND_IN if name == "ackd" else f'#!/bin/bash\necho {name} "$@" >> "$CALLS"\n'
        (programs / name).write_text(body)
        (programs / name).chmod(0o755)
    (tmp_path / "project/.venv/bin").mkdir(parents=True)
    (tmp_path / "project/.venv/bin/activate").touch()
    environment = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "CALLS": str(calls),
        "ENDS": ends,
        "SLURM_JOB_ID": "17",
        "SLURM_SUBMIT_DIR": str(tmp_path / "project"),
        "REPOSITORY": "https://git.example.org/team/ackd.git",
        "TMPDIR": str(tmp_path),
    }
    ran = ["run", *(["stopped"] if stopped else [])]
    if example == "slurm":
        options = re.findall(r"^#SBATCH (--\S+)$", SLURM.read_text(), flags=re.MULTILINE)
        assert {"--signal=B:INT@120", "--requeue", "--gpus-per-node=1"} <= set(options)
        script = ["bash", str(SLURM)]
        wanted = [*ran, *(["scontrol requeue 17"] if stopped else [])]
    else:
        script = [*container()["command"], *container()["args"]]
        wanted = ["dvc pull --allow-missing", *ran, *(["dvc push"] if code == 0 else [])]
    with subprocess.Popen(script, cwd=tmp_path, env=environment) as process:
        if stopped:
            wait_for(Path(f"{calls}.running"))
            process.send_signal(signal.SIGINT if example == "slurm" else signal.SIGTERM)
    assert process.returncode == code
    assert calls.read_text().splitlines() == wanted
