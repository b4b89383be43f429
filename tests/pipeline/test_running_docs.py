"""The commands in the pages on repeating, running, training, int8 and LiteRT do what they say.

Short stages replace the chain's own.
"""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from ruamel.yaml import YAML

import models
from models.networks.checkpoint import save_network
from pipeline.git_command import git
from stages import report
from stages.checkpoints.checkpoint import Checkpoints
from stages.checkpoints.durable import IN_USE, release
from stages.files import read_json
from stages.params import Params, load_params, read_yaml
from tests.once import repository
from tests.pages import ROOT, blocks, inline, replace, sections, type_in
from tests.pipeline.conftest import CHAIN
from tests.sshd import free_port
from tests.stages import chain_files
from tests.stages.conftest import write_data
from tests.warm_python import warm_python

RUNNING, PAPER = "how-to-keep-it-running.md", "how-to-repeat-the-paper.md"
QUANTIZE, LITERT, TRAIN = "how-to-quantize.md", "how-to-litert.md", "how-to-train.md"
# A chain that prints its parameters.
ECHO = """\
stages:
  export_onnx:
    cmd: cp params.yaml given.yaml
    params: [export, litert]
    outs: [given.yaml]
"""

TRAINED = """\
stages:
  distill:
    cmd: {python} -m stages.distill
    deps: [artifacts/data, artifacts/proxy]
    outs: [artifacts/distilled]
"""
TRAINING = {
    "augmentation": {"crop_padding": 1},
    "training": {"precision": "fp32"},
    "teacher": {"batch_size": 14},
    "distill": {"method": "kd", "epochs": 1, "batch_size": 14, "network": "resnet8"},
}


@pytest.mark.usefixtures("programs", "prefect_server")
def test_keep_it_running(finished):
    abandoned, used = (Checkpoints("distill", name * 64) for name in "ab")
    for checkpoints in (abandoned, used):
        checkpoints.save({"weights": torch.zeros(100)})
        long_ago = time.time() - 15 * 86400
        os.utime(checkpoints.folder / IN_USE, (long_ago, long_ago))
    release(abandoned.folder)
    (finished / "last.txt").unlink()
    status, find, fetch, cache = blocks(RUNNING, "Disk")
    before = type_in(finished, status)
    assert "will run" in before
    assert "disk: " in before
    find = replace(find, (" ~/.cache/ackd/logits", ""))
    assert type_in(finished, find) == f"{abandoned.folder}\n"
    [delete] = re.findall(r"`\| (xargs .*?)`", (ROOT / "docs" / RUNNING).read_text())
    type_in(finished, f"{find} | {delete}")
    assert used.folder.exists()
    assert not abandoned.folder.exists()
    for folder in ("artifacts", "reports"):
        Path(folder, f".{folder}.1.partial").mkdir(parents=True)
    unused = Path(".dvc/cache/files/md5/00/000000000000000000000000000000")
    unused.parent.mkdir(parents=True)
    unused.write_text("nobody's\n")
    type_in(
        finished, "git add --all && git commit -qm Start && git init -q --bare .dvc/tmp/origin.git"
    )
    type_in(finished, "git remote add origin .dvc/tmp/origin.git")
    head = git(finished, "rev-parse", "HEAD")
    night = f"refs/exps/{head[:2]}/{head[2:]}/nightly"
    git(finished, "push", "--quiet", "origin", f"HEAD:{night}")
    type_in(finished, fetch)
    assert git(finished, "rev-parse", night) == head
    listed = type_in(finished, cache)
    for path in (unused, "artifacts/.artifacts.1.partial", "reports/.reports.1.partial"):
        assert str(path) in listed
    assert unused.exists()

    [run] = blocks(RUNNING, "Logs")
    type_in(finished, run)
    assert Path("last.txt").read_text() == "1\n1\n"
    lines = [json.loads(text) for text in Path("run.jsonl").read_text().splitlines()]
    line = next(each for each in lines if each.get("task_run_name") == "last")
    assert {"created", "levelname", "flow_run_name", "message"} <= set(line)

    doctor, shared = blocks(RUNNING, "Diagnosis")
    assert "CPU" in type_in(finished, doctor)
    type_in(finished, "dvc remote add --default storage ../store && dvc push")
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="ackd", type="process"), overwrite=True)
    told = type_in(finished, shared)
    assert "are in sync" in told
    assert "NOT_READY" in told


@pytest.mark.usefixtures("programs", "prefect_server")
def test_repeat_the_paper(finished):
    for folder in ("presets", "docs/paper"):
        shutil.copytree(ROOT / folder, folder)
    [start] = blocks(PAPER, "")
    (finished / "last.txt").unlink()
    said = type_in(finished, start)
    assert "distill.network: resnet8 -> resnet20" in said
    assert (finished / "last.txt").exists()
    params = load_params()
    assert (params.teacher.network, params.proxy.method) == ("resnet110", "early_stopped")
    assert params.distill.method == "kd"
    whole = params.distill.epochs

    [less] = blocks(PAPER, "In less time")
    said = type_in(finished, less)
    params = load_params()
    assert (params.distill.method, params.distill.epochs) == ("ackd", 20)
    assert params.teacher.epochs < whole
    assert (params.gate.min_accuracy, params.gate.max_drop_from_teacher) == (None, None)
    assert f"distill.epochs: {whole} -> 20" in said


def test_parameters_of_an_experiment(programs, tmp_path, monkeypatch):
    """Run ``dvc exp run -S`` as in the pages on int8 and LiteRT."""
    monkeypatch.chdir(repository(tmp_path))
    (tmp_path / "dvc.yaml").write_text(ECHO)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    type_in(tmp_path, "git add . && git commit -qm Start")
    commands = [*blocks(QUANTIZE, "Change the calibration"), *blocks(LITERT, "Run")]
    for command in commands:
        type_in(tmp_path, command)
        key, _, value = command.partition(" -S ")[2].partition("=")
        given = read_yaml(tmp_path / "given.yaml")
        Params.model_validate(given)
        for part in key.split("."):
            given = given[part]
        assert given == YAML(typ="safe").load(value), command


def test_a_recipe(programs, tmp_path):
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    type_in(tmp_path, blocks(TRAIN, "Recipes")[0])
    student = load_params(tmp_path / "params.yaml").distill
    assert (student.optimizer, student.schedule, student.ema) == ("adamw", "cosine", 0.998)


def test_what_was_lost(programs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chain_files.write_chain()
    report.main(Params())
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "dvc.yaml").write_text(CHAIN)
    [show] = blocks(QUANTIZE, "Check the drop")
    said = type_in(tmp_path, show)
    for precision in ("int8_u8s8", "int8_s8s8"):
        # A drop with its interval, such as +0.28 (-0.32 to +1.08).
        assert re.search(rf"{precision} │.*\+\d\.\d\d \(\S+ to \+\d\.\d\d\)", said)


def test_several_processes(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ACKD_LOGITS", str(tmp_path / "logits"))
    project = tmp_path / "project"
    write_data(project / "artifacts/data")
    (project / "artifacts/proxy").mkdir()
    save_network(project / "artifacts/proxy/model.safetensors", models.build("resnet8", 3))
    (project / "params.yaml").write_text(json.dumps(TRAINING))
    (project / "dvc.yaml").write_text(TRAINED.format(python=warm_python()))
    shutil.copytree(project, tmp_path / "hosts")
    repository(project)
    one_host, several = blocks(TRAIN, "Several processes")[0].splitlines()
    type_in(project, one_host)

    port = free_port()
    hosts = []
    for number in range(2):
        told = f"--node-rank {number} --master-addr 127.0.0.1 --master-port {port}"
        line = replace(several, ("...", told), ("--nproc-per-node 8", "--nproc-per-node 1"))
        with (tmp_path / f"{number}.log").open("wb") as log:
            output = {"stdout": log, "stderr": log}
            hosts.append(subprocess.Popen(["bash", "-c", line], cwd=tmp_path / "hosts", **output))
    try:
        for number, host in enumerate(hosts):
            assert host.wait(timeout=500) == 0, (tmp_path / f"{number}.log").read_text()
    finally:
        for host in hosts:
            host.kill()
            host.wait()
    made = "artifacts/distilled/model.safetensors"
    assert (tmp_path / "hosts" / made).read_bytes() == (project / made).read_bytes()
    environment = tmp_path / "hosts/reports/distill/environment.json"
    assert read_json(environment)["processes"] == 2


def test_no_command_of_the_pages_is_left_out():
    assert sections(RUNNING) == ["Disk", "Logs", "Diagnosis"]
    assert sections(PAPER) == ["", "In less time"]
    assert sections(QUANTIZE) == ["Check the drop", "Change the calibration"]
    # An installation of 770 MB, and a program that needs it.
    assert sections(LITERT) == ["Install", "Run", "What comes out"]
    for line in blocks(LITERT, "Install")[0].splitlines():
        for pinned in line.split():
            if "==" in pinned:
                assert pinned in (ROOT / "requirements.lock").read_text().split()
    assert sections(TRAIN) == ["Recipes", "Several processes"]
    # tests/pipeline/test_presets.py applies every preset.
    assert inline(TRAIN) == ["ackd use methods/<name>", "pip install -e '.[tensorboard]'"]
    [slow] = [line for line in inline(PAPER) if line.startswith("python ")]
    marked = git(ROOT, "grep", "-l", "pytest.mark.slow", "--", slow.split()[-1])
    assert "test_preset_runs.py" in marked
