"""The commands for devices, with typer's runner."""

import re
import shutil
import signal
import stat
from pathlib import Path

from stages.bundle.keys import configured_key
from stages.files import read_json
from tests.bundles import make_bundle
from tests.pages import write_program
from tests.pipeline.conftest import ROOT, invoke, spawn
from tests.waiting import wait_for


def test_profile(project):
    shutil.copytree("artifacts/bundle", "artifacts/onnx")
    code, output, error = invoke("profile", "local:")
    assert (code, error) == (0, "")
    assert output.startswith("local:: ")
    assert re.search(r"fp32 +│ CPUExecutionProvider +│ +1 │ passed +│", output)
    assert "\nkept  reports/devices/local.json; `ackd run` adds it" in output
    rows = read_json(Path("reports/devices/local.json"))["results"]
    assert [(row["status"], "samples_ms" in row) for row in rows] == [("passed", False)] * 4
    assert invoke("profile", "local:", "--bundle", "artifacts/bundle")[0] == 0
    (project / "dvc.yaml").unlink()
    assert invoke("profile", "local:")[2].startswith("error: dvc.yaml: not found in ")


def test_keys_deploy_and_rollback(project, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(project / "config"))
    code, output, _ = invoke("keys", "new")
    assert code == 0
    private = project / "config/ackd/signing.key"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert f"ACKD_SIGNING_KEY={private} signs with it" in output
    name = output.split()[2]
    code, _, error = invoke("keys", "new")
    assert code == 1
    assert error.startswith(f"error: {private}: exists")

    monkeypatch.setenv("ACKD_SIGNING_KEY", str(private))
    for version in ("1", "2"):
        make_bundle(project / version, version, configured_key())
    url = f"local:{project}/model"
    assert invoke("deployed", url)[1] == "served    nothing\nprevious  nothing\n"
    output = invoke("deploy", "1", url)[1]
    assert f"the signature by the key {name} was not checked; pass its public key" in output
    output = invoke("deploy", "2", url, "--key", f"{private}.pub")[1]
    for part in (
        "  fp32.dynamic: relative error 0.0e+00\n",
        "served    2, resnet8, deployed 20",
        f"signed with {name}, onnxruntime",
        "previous  1, resnet8",
        f"required  a signature by {name}\n",
        f"files     {project}/model/served: as they were packaged\n",
    ):
        assert part in output
    assert "already served; nothing was changed" in invoke("deploy", "2", url)[1]
    assert "version 1 is older than the served 2; pass --al" in invoke("deploy", "1", url)[2]
    assert invoke("deploy", "1", url, "--allow-downgrade")[0] == 0
    assert invoke("rollback", url)[1].startswith("served    2,")
    (project / "model/served/labels.json").write_text("[]")
    code, output, _ = invoke("deployed", url)
    assert code == 1
    assert "labels.json: altered since it was packaged; get the bundle again" in output
    assert invoke("rollback", "local:")[2].startswith("error: local:: names no folder to deploy")


def test_ctrl_c_restores_the_phone(project, phone):
    runner = write_program(project / "bench", f"touch {project}/begun\nexec sleep 60")
    command = ["-m", "pipeline.cli", "profile", f"adb:?runner={runner}"]
    output = project / "output.log"
    with spawn([*command, "--bundle", "artifacts/bundle"], project, output) as process:
        try:
            wait_for(project / "begun")
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
        finally:
            process.kill()
    assert process.returncode != 0
    assert "Traceback" not in output.read_text()
    modes = [call.split()[-1] for call in phone.calls("cmd")]
    assert modes == ["true", "false"]
    assert list(phone.folder.iterdir()) == []


def test_the_folder_of_measurements_is_in_the_repository():
    # Without it, DVC would miss a dependency of the report in a clean clone.
    assert (ROOT / "reports/devices/README.md").is_file()
