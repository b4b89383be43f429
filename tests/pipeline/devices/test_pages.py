"""The commands in the pages on boards and phones do what the pages say.

The board is a real sshd, the phone a stand-in.
"""

import getpass
import hashlib
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from models.errors import InputError
from pipeline.cli import app
from pipeline.devices.deploy import deploy
from stages import gate, report
from stages.devices.browser import network, web_runtime
from stages.devices.host import RUNNER
from stages.devices.urls import open_device, parse_url
from stages.files import read_json, write_json
from stages.params import load_params
from stages.sections.export import Profile
from tests.bundles import make_bundle, pack
from tests.chromium import CHROMIUM, opened_page
from tests.forked import forked
from tests.pages import (
    ROOT,
    blocks,
    inline,
    make_project,
    replace,
    sections,
    set_params,
    type_at_terminal,
    type_in,
    write_program,
)
from tests.phone import whoever_opens
from tests.pipeline.devices.test_probe import BROWSER
from tests.sshd import make_key, needs_sshd, running
from tests.stages import chain_files
from tests.stages.devices.conftest import PROFILE
from tests.stages.test_profile_latency import FIELDS

BOARD, PHONE = "how-to-own-device.md", "how-to-phone.md"
# Commands within sentences, and what runs those that are not run here, by a word of it.
ELSEWHERE = {
    "ackd probe --install-from": ("test_probe.py", "--install-from"),
    "npm pack": ("test_web_runtime.py", "npm"),
    "adb devices": ("test_adb.py", "serial"),
    "adb reverse": ("test_adb.py", "reverse"),
}
PROBES = ["ackd probe", "ackd probe --lan", "ackd probe --lan --https"]
FORCED = "dvc repro --force --single-item profile_latency"

# Replaces typing a password: gives ssh a key.
SSH = """\
case "$*" in *BatchMode=yes* | *"-i "*) exec {ssh} -F {folder}/ssh_config "$@" ;; esac
exec {ssh} -F {folder}/ssh_config -i {folder}/user_key "$@"
"""
# A native runner for the phone that records its arguments and prints a given answer.
BENCH = 'echo "$@" >> {folder}/arguments\ncat {folder}/answer'
ANSWER = {
    "runtime": "bench",
    "version": "1",
    "provider": "cpu",
    "threads": 1,
    "init_ms": 1,
    "first_ms": 1,
    "samples_ms": [2, 2],
    "golden": {"max_relative_error": 1e-9, "cosine": 1.0, "top1_agreement": 1.0},
}


@pytest.fixture
def board(programs, tmp_path, monkeypatch):
    """An unknown host called board, and a local user with their own key."""
    folder, home, there = (tmp_path / name for name in ("sshd", "home", "board"))
    for path in (folder, home / ".ssh", there):
        path.mkdir(parents=True)
    make_key(home / ".ssh/id_ed25519")
    monkeypatch.setenv("HOME", str(home))
    for name in ("SSH_AUTH_SOCK", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    write_program(programs / "ssh", SSH.format(ssh=shutil.which("ssh"), folder=folder))
    with running(folder, home=there) as server:
        (folder / "ssh_config").write_text(
            f"Host board\n  HostName 127.0.0.1\n  Port {server.port}\n"
            f"  IdentityFile {home}/.ssh/id_ed25519\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
        )
        yield server


@needs_sshd
@pytest.mark.skipif(
    None in (shutil.which("ssh-copy-id"), shutil.which("openssl")),
    reason="no ssh-copy-id or no openssl here; install openssh-client and openssl",
)
def test_own_device(board, tmp_path, monkeypatch):
    project = make_project(tmp_path / "project", "package")
    monkeypatch.chdir(project)
    chain_files.write_chain()
    shutil.copy(ROOT / "params.yaml", project)
    set_params(project, profile=PROFILE.model_dump())
    report.main(load_params())
    gate.main(load_params())
    host = f"{getpass.getuser()}@board"
    there = ("pi@board", host)

    reach, keys = blocks(BOARD, "1.")
    shown = type_at_terminal(project, replace(reach, there), ("(yes/no", "yes"))
    key = ("/etc/ssh/ssh_host_ed25519_key.pub", f"{board.folder}/host_key.pub")
    told = type_in(project, keys, key)
    assert board.fingerprint in shown
    assert board.fingerprint in told
    [kept] = (project / "reports/devices").glob("ssh-*.json")
    assert {row["status"] for row in read_json(kept)["results"]} == {"passed"}
    assert list((tmp_path / "board/ackd").iterdir()) == [], "the folder is removed again"

    _, devices = blocks(BOARD, "2.")
    set_params(project, **YAML(typ="safe").load(replace(devices, there)))
    params = load_params()
    assert params.profile.devices == ["local:", f"ssh://{host}"]
    for url in params.profile.devices:
        open_device(url)
    for url in re.findall(r"`'?(ssh://[^`']+)", (ROOT / "docs" / BOARD).read_text()):
        parse_url(url)

    sign, check = blocks(BOARD, "3.")
    type_in(project, sign)
    public = tmp_path / "home/.config/ackd/signing.key.pub"
    whole = type_in(project / "artifacts/bundle", check, ("signing.key.pub", str(public)))
    assert whole == "Signature Verified Successfully\n"

    folder = ("/srv/model", str(tmp_path / "srv/model"))
    [serve] = blocks(BOARD, "4.")
    older = pack(make_bundle(tmp_path / "older", "0.0.1"))
    url = replace("ssh://pi@board/srv/model", there, folder)
    deploy(older, url, None)
    told = type_in(project, serve, there, folder)
    *_, after_deploy, deployed, back = re.findall(r"served +(\S+), ", told)
    assert [after_deploy, deployed, back] == ["0.1.0", "0.1.0", "0.0.1"]
    [served] = inline(BOARD)[-1:]
    assert served == "realpath /srv/model/served"
    release = Path(type_in(project, served, folder).strip())
    assert read_json(release / "manifest.json")["version"] == "0.0.1"


@pytest.fixture
def bundle(programs, project):
    """The project, with its models also in the chain's folder."""
    shutil.copytree(project / "artifacts/bundle", project / "artifacts/onnx")
    return project


@pytest.mark.usefixtures("stand_in_runtime")
def test_fetching_the_runtime(bundle):
    # Use a stand-in for the 33 MB that npm fetches. The second time nothing is fetched.
    [install] = blocks(PHONE, "1.")
    assert type_in(bundle, install) == (
        f"onnxruntime-web {web_runtime.VERSION} is in {web_runtime.folder()}\n"
    )
    assert f"npm pack onnxruntime-web@{web_runtime.VERSION}" in inline(PHONE)
    assert f"ackd probe --install-from onnxruntime-web-{web_runtime.VERSION}.tgz" in inline(PHONE)


def ackd(*words: str) -> None:
    app(words)


@pytest.mark.usefixtures("stand_in_runtime")
@pytest.mark.parametrize("line", PROBES)
def test_the_page_is_served_until_ctrl_c(bundle, line):
    lan, https = "--lan" in line, "--https" in line
    if lan:
        try:
            network.lan_address()
        except InputError as error:
            pytest.skip(str(error))
    with forked(ackd, *line.split()[1:]) as child:
        said = ""

        def read_until(text: str) -> None:
            nonlocal said
            while text not in said:
                more = child.output.readline()
                assert more, said
                said += more

        read_until("Press Ctrl-C to stop.")
        [address] = re.findall(r"https?://[\d.]+:\d+/[\w-]{22}/", said)
        assert (address.startswith("https:"), "//127.0.0.1:" in address) == (https, not lan)
        anyone = ssl._create_unverified_context()

        def ask(path: str, body: str | None = None) -> Any:
            data = None if body is None else body.encode()
            with urllib.request.urlopen(f"{address}{path}", data, 60, context=anyone) as answer:
                return json.load(answer)

        assert ask("about")["network"] == "resnet8"
        begun = ask("runs", BROWSER.model_dump_json())
        for task in begun["tasks"]:
            if task["status"] == "planned":
                ask(f"runs/{begun['run']}/{task['number']}", '{"result": {"error": "no"}}')
        read_until("kept  reports/devices/browser-pixel-8-chrome-156.json")
        if https:
            place = address.split("/")[2].split(":")
            shown = ssl.get_server_certificate((place[0], int(place[1])))
            digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(shown)).digest()
            assert digest.hex(":").upper() in said
        os.kill(child.pid, signal.SIGINT)
        assert child.finish() == "stopped\n"
        assert child.exitcode == 0


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.skipif(
    not web_runtime.installed(),
    reason=f"onnxruntime-web is not in {web_runtime.folder()}: ackd probe --install",
)
def test_by_cable(bundle, phone, tmp_path):
    by_browser, *_ = blocks(PHONE, "By cable")
    with opened_page() as page, whoever_opens(phone, page.open):
        said = type_in(bundle, by_browser)
    assert "Fixed performance, thermal status 0 before and 0 after" in said
    [kept] = (bundle / "reports/devices").iterdir()
    found = read_json(kept)
    rows = [row for row in found["results"] if row["provider"] == "wasm"]
    assert [row["status"] for row in rows] == ["passed"] * 4
    assert {set(row) == FIELDS for row in rows} == {True}
    assert {(r["temperature_before"], r["temperature_after"]) for r in rows} == {(31.0, 31.0)}
    description = found["description"]
    assert (description["system"], description["machine"]) == ("Android 16", "Google Pixel 8")
    assert description["cpu"] == "Google Tensor G3"
    assert description["runtime"] == f"onnxruntime-web {web_runtime.VERSION}"
    assert description["browser"]["isolated"]
    assert description["thermal"] == {"sensor": "skin", "status_before": 0, "status_after": 0}
    assert [call.split()[-1] for call in phone.calls("cmd")] == ["true", "false"]
    forward, removal = phone.calls("reverse")
    assert re.fullmatch(r"--no-rebind (tcp:\d+) \1", forward)
    assert removal == f"--remove {forward.split()[-1]}"


def write_bench(project: Path) -> Path:
    """Write ``build/android/bench``; return the file with its answer."""
    folder = project / "build/android"
    folder.mkdir(parents=True)
    write_program(folder / "bench", BENCH.format(folder=folder))
    answer = folder / "answer"
    answer.write_text(json.dumps(ANSWER))
    return answer


def test_a_native_runner(bundle, phone):
    _, by_runner, call = blocks(PHONE, "By cable")
    set_params(bundle, profile=Profile().model_dump())
    answer = write_bench(bundle)
    shown = type_in(bundle, by_runner)
    assert "Google Tensor G3, bench 1\n" in shown
    assert "\nFixed performance, thermal status 0 before and 0 after.\n" in shown
    assert re.search(r"fp32 +│ cpu +│ +1 │ passed │ +2\.00 │ +2\.00 │", shown)
    phone.put("refused", "Unknown command\n")
    phone.put("thermalservice", "")
    shown = type_in(bundle, by_runner)
    assert "No fixed performance (Unknown command), thermal status unknown.\n" in shown
    first, *_ = answer.with_name("arguments").read_text().splitlines()
    # The page's command, except for the folder on the phone.
    assert re.sub(r"/\S*/", "", first) == " ".join(call.split()).removeprefix("bench ")
    theirs = subprocess.check_output([sys.executable, str(RUNNER), "--help"], text=True)
    for option in re.findall(r"--[\w-]+", call):
        assert option in theirs, "the arguments are not those of runner.py"
    assert f"--min-seconds {Profile().min_seconds}" in call


def test_a_changed_runner_can_be_measured_separately(programs, phone, tmp_path):
    project = make_project(tmp_path / "project", "profile_latency")
    make_bundle(tmp_path / "bundle")
    yaml = YAML()
    chain = yaml.load(project / "dvc.yaml")
    # Replaces steps that take hours.
    chain["stages"]["export_onnx"] = {
        "cmd": f"echo ran >> {tmp_path}/ran && cp -r {tmp_path}/bundle artifacts/onnx",
        "outs": ["artifacts/onnx"],
    }
    yaml.dump(chain, project / "dvc.yaml")
    (project / "artifacts").mkdir()
    write_json(project / "reports/device.json", {})
    answer = write_bench(project)
    set_params(project, profile={"devices": ["adb:?runner=build/android/bench"], "threads": [1]})

    def p50() -> set[float]:
        return {row["p50_ms"] for row in read_json(project / "reports/latency.json")["results"]}

    type_in(project, "dvc repro")
    assert p50() == {2.0}
    answer.write_text(json.dumps(ANSWER | {"samples_ms": [3, 3]}))
    type_in(project, "dvc repro")
    assert p50() == {2.0}, "DVC looks into the program after all"
    [forced] = [line for line in inline(PHONE) if line.startswith("dvc ")]
    type_in(project, forced)
    assert p50() == {3.0}
    assert (tmp_path / "ran").read_text() == "ran\n", "the stages before it ran again"


def test_no_command_of_the_pages_is_left_out():
    assert sections(BOARD) == ["1. Connect", "2. Measure", "3. Sign, once", "4. Serve"]
    here = ["ackd profile", "ackd run", "realpath /srv/model/served"]
    assert inline(BOARD) == here
    titles = ["1. Fetch onnxruntime-web, once", "2. Open the page on the phone"]
    assert sections(PHONE) == [*titles, "By cable: Android"]
    assert blocks(PHONE, "2.") == [PROBES[-1]]
    for line in sorted(set(inline(PHONE)) - {*PROBES, FORCED}):
        [(test, word)] = {found for start, found in ELSEWHERE.items() if line.startswith(start)}
        [file] = (ROOT / "tests").rglob(test)
        assert word in file.read_text(encoding="utf-8")
