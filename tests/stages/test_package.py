import gzip
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, metadata_load
from pydantic import ValidationError

from models.errors import InputError
from stages import gate, package
from stages.bundle.keys import new_key, read_public_key
from stages.bundle.opening import open_bundle
from stages.files import sha256
from stages.params import Params
from stages.sections.result import Gate, Package
from stages.sections.training import Teacher
from tests.stages import chain_files, html_page
from tests.stages.conftest import made_once
from tests.stages.html_page import change

PARAMS = Params(gate=Gate(min_accuracy=0.97, max_export_drop=0.02))


def pass_gate() -> None:
    html_page.made(PARAMS)
    gate.main(PARAMS)


@pytest.fixture(scope="session")
def gated(finished: Path) -> Path:
    """All that ``package`` reads, made by the stages before it; not to be written to."""
    return made_once("gated", pass_gate, finished)


@pytest.fixture
def chain(gated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of its own."""
    shutil.copytree(gated, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def unpacked(folder: Path) -> Path:
    with tarfile.open("artifacts/bundle.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "bundle"


def fail(precision: str) -> None:
    """Have the validation of ``precision`` failed."""
    summary = json.loads(Path("reports/summary.json").read_text())
    summary["exports"][precision]["status"] = "failed"
    Path("reports/summary.json").write_text(json.dumps(summary))


def test_holds_what_a_device_needs_and_the_sums_of_it(chain):
    package.main(PARAMS)
    bundle = Path("artifacts/bundle")
    models = {f"{p}.{s}.onnx" for p in chain_files.PRECISIONS for s in ("dynamic", "static")}
    others = {"golden.npz", "labels.json", "model.json", "runner.py", "MODEL_CARD.md"}
    others |= {"classes.csv", "sbom.json"}
    assert {path.name for path in bundle.iterdir()} == models | others | {"manifest.json"}
    for name in models | {"golden.npz", "labels.json", "model.json"}:
        assert sha256(bundle / name) == sha256(Path("artifacts/onnx", name))
    assert sha256(bundle / "classes.csv") == sha256(Path("reports/classes.csv"))
    assert json.loads((bundle / "manifest.json").read_text())["files"].keys() == models | others


def test_the_manifest_says_which_version_it_is_and_proves_every_file(chain):
    package.main(PARAMS.model_copy(update={"package": Package(name="digits", version="1.2.3")}))
    with open_bundle(Path("artifacts/bundle.tar.gz")) as opened:
        assert (opened.name, opened.version, opened.signer) == ("digits", "1.2.3", None)
    for wrong in ("1.2.3-beta", "١.٢", "1.2\n"):
        with pytest.raises(ValidationError, match="version"):
            Package(version=wrong)


def test_it_is_signed_with_the_key_of_the_environment_and_else_the_same(chain, monkeypatch):
    package.main(PARAMS)
    unsigned = sha256(Path("artifacts/bundle.tar.gz"))
    public, key_id = new_key(Path("signing.key"))
    monkeypatch.setenv("ACKD_SIGNING_KEY", "signing.key")
    package.main(PARAMS)
    signed = sha256(Path("artifacts/bundle.tar.gz"))
    with open_bundle(Path("artifacts/bundle.tar.gz"), read_public_key(public)) as opened:
        assert opened.signer == key_id
    package.main(PARAMS)
    assert sha256(Path("artifacts/bundle.tar.gz")) == signed != unsigned
    monkeypatch.delenv("ACKD_SIGNING_KEY")
    package.main(PARAMS)
    assert sha256(Path("artifacts/bundle.tar.gz")) == unsigned


def test_a_key_that_cannot_be_used_stops_it(chain, monkeypatch):
    monkeypatch.setenv("ACKD_SIGNING_KEY", "nowhere.key")
    with pytest.raises(InputError, match=r"nowhere\.key: no such file; ACKD_SIGNING_KEY names it"):
        package.main(PARAMS)
    assert not list(Path("artifacts").glob("*bundle*"))


def test_the_archive_is_the_folder_and_the_same_each_time(chain):
    package.main(PARAMS)
    first = sha256(Path("artifacts/bundle.tar.gz"))
    folder = unpacked(Path("elsewhere"))
    for path in Path("artifacts/bundle").iterdir():
        assert sha256(path) == sha256(folder / path.name)
        path.touch()
    package.main(PARAMS)
    assert sha256(Path("artifacts/bundle.tar.gz")) == first

    with tarfile.open("artifacts/bundle.tar.gz") as archive:
        entries = archive.getmembers()
    names = [entry.name.removeprefix("bundle/") for entry in entries]
    assert names[0] == "manifest.json"
    assert names[1:] == sorted(names[1:])
    assert {(e.mtime, e.uid, e.gid, e.uname, e.gname, e.mode) for e in entries} == {
        (0, 0, 0, "", "", 0o644)
    }
    with gzip.open("artifacts/bundle.tar.gz") as packed:
        packed.read(1)
        assert packed.mtime == 0


def test_the_runner_in_an_unpacked_bundle_passes_and_refuses_an_altered_one(chain):
    package.main(PARAMS)
    folder = unpacked(Path("device"))
    command = [sys.executable, "-I", "runner.py", "--check"]
    passed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert passed.returncode == 0, passed.stderr
    assert "int8_s8s8" in passed.stdout
    card = folder / "MODEL_CARD.md"
    card.write_text(card.read_text() + " ")
    altered = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert altered.returncode == 1
    assert "MODEL_CARD.md: altered" in altered.stderr


def test_the_card_has_the_figures_and_lines_that_run(chain):
    package.main(PARAMS)
    folder = unpacked(Path("device"))
    card = (folder / "MODEL_CARD.md").read_text()
    assert "\n---\n\n# resnet8, distilled from resnet20 by ACKD\n" in card
    assert "| student | resnet8 | 97.50 % | 78,042 | 12.5 M |" in card
    row = r"^\| int8_u8s8 \| passed \| recommended \| 97\.22 % \| \+0\.28 \(−0\.32 to \+1\.08\) \|"
    assert re.search(row + r".*\| 4\.0e−7 \| 99\.72 % \| fine-tuning \|$", card, re.M)
    assert re.search(r"^\| fp32 \| passed \|  \| 97\.50 % .*\|  \|$", card, re.M)
    assert "Recommended on this device: int8_u8s8, the quickest of those that lose at" in card
    assert 'InferenceSession("int8_u8s8.static.onnx"' in card
    assert "Example CPU @ 2.0 GHz" in card
    assert "no NVIDIA GPU: tensorrt fp32" in card
    assert "- min_accuracy 0.97: 0.975 (resnet8)" in card
    assert "| a &lt;b> &amp; \\$c\\$ | 90 | 99.00 % | 96.00 % |" in card
    row = r"^\| Example CPU @ 2\.0 GHz \| Linux, .* \| int8_s8s8 \| 1 \| .* \\\* \|$"
    assert re.search(row, card, re.M)
    assert "| test | 24 | 3 to 11 | 2 |" in card
    assert "| learned from |  | resnet20 |" in card
    assert "- ackd: `temperature` 4.0, `learners` D3B1 D2B2, " in card
    assert "- torch 2.14.1, accelerate 1.15.0, numpy 2.3.1\n" in card
    assert "No licence of the model is stated" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    assert code.count("\n") == 5
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() in chain_files.CLASSES


def test_a_model_hub_reads_the_head_of_the_card(chain):
    package.main(PARAMS)
    card = ModelCard.load("artifacts/bundle/MODEL_CARD.md")
    assert card.text.startswith("\n# resnet8, distilled from resnet20 by ACKD\n")
    assert metadata_load("artifacts/bundle/MODEL_CARD.md")["library_name"] == "onnx"
    head = card.data
    assert head.pipeline_tag == "image-classification"
    assert (head.license, head.license_name, head.datasets) == ("unknown", None, None)
    assert head.tags == ["onnxruntime", "resnet8", "knowledge-distillation", "ackd", "int8"]
    assert (head.model_name, head.metrics) == ("resnet8", ["accuracy"])
    assert [(r.metric_name, r.metric_value) for r in head.eval_results] == [
        ("Top-1 accuracy, fp32", 0.975),
        ("Top-1 accuracy, fp16", 0.975),
        ("Top-1 accuracy, int8_u8s8", 0.9722),
        ("Top-1 accuracy, int8_s8s8", 0.9694),
    ]
    assert {(r.dataset_name, r.dataset_split) for r in head.eval_results} == {("digits", "test")}


def test_of_many_classes_the_card_has_the_weakest_and_the_strongest(chain):
    chain_files.write_class_figures(100)
    package.main(PARAMS)
    card = Path("artifacts/bundle/MODEL_CARD.md").read_text()
    section = card.split("## Accuracy by class")[1].split("##")[0]
    assert re.findall(r"^\| class (\d+) ", section, re.M) == [
        *map(str, range(10)),
        *map(str, range(99, 89, -1)),
    ]
    assert "10 weakest of 100 classes" in section


def test_the_licence_of_the_model_is_in_card_and_sbom(chain):
    stated = PARAMS.model_copy(update={"package": Package(license="CC-BY-NC-4.0")})
    package.main(stated)
    assert ModelCard.load("artifacts/bundle/MODEL_CARD.md").data.license == "cc-by-nc-4.0"
    assert "The model: CC-BY-NC-4.0" in Path("artifacts/bundle/MODEL_CARD.md").read_text()
    sbom = json.loads(Path("artifacts/bundle/sbom.json").read_text())
    assert sbom["metadata"]["component"]["licenses"] == [{"license": {"id": "CC-BY-NC-4.0"}}]


def test_folders_of_the_machine_that_trained_stay_out_of_the_bundle(chain):
    change("reports/data.json", lambda d: d.update(source="imagefolder:.../flowers"))
    html_page.made(PARAMS)
    teacher = Teacher(checkpoint="/home/somebody/teacher.pth")
    package.main(PARAMS.model_copy(update={"teacher": teacher}))
    card = Path("artifacts/bundle/MODEL_CARD.md").read_text()
    assert "trained on flowers\n" in card
    assert "loaded from teacher.pth" in card
    for path in Path("artifacts/bundle").iterdir():
        assert b"somebody" not in path.read_bytes()


def test_devices_stay_out_of_the_bundle_but_for_their_processors(chain):
    """Whose, where and in which folder they are, and all that is measured there by hand."""

    def card() -> str:
        html_page.made(PARAMS)
        package.main(PARAMS)
        return Path("artifacts/bundle/MODEL_CARD.md").read_text()

    def second(content):
        url = "ssh://somebody@secret-host/srv/secret"
        content["devices"].append(content["devices"][0] | {"device": url, "cpu": "Board CPU"})
        row = content["results"][0] | {"device": url, "status": "failed", "reason": "no memory"}
        content["results"].append(row)

    change("reports/latency.json", second)
    assert "- no memory: latency of fp32 at 1 thread on Board CPU\n" in card()
    before = Path("artifacts/bundle.tar.gz").read_bytes()
    latency = json.loads(Path("reports/latency.json").read_text())
    for number, sha in enumerate((None, "0" * 64)):
        url = f"ssh://somebody@other-host-{number}/srv/secret"
        row = latency["results"][-1] | {"device": url, "reason": "of somebody"}
        model = json.loads(Path("artifacts/onnx/model.json").read_text())
        row["model_sha256"] = sha or model["files"]["fp32"]["static"]["sha256"]
        kept = {"device": url, "description": latency["devices"][0], "results": [row]}
        Path("reports/devices").mkdir(exist_ok=True)
        Path(f"reports/devices/{number}.json").write_text(json.dumps(kept))
    text = card()
    assert len(json.loads(Path("reports/summary.json").read_text())["devices"]) == 3
    assert not re.search("somebody|secret|host", text)
    assert Path("artifacts/bundle.tar.gz").read_bytes() == before


def test_what_failed_its_validation_is_left_out(chain):
    fail("fp16")
    package.main(PARAMS)
    bundle = Path("artifacts/bundle")
    assert not list(bundle.glob("fp16.*"))
    assert list(json.loads((bundle / "model.json").read_text())["files"]) == [
        "fp32",
        "int8_u8s8",
        "int8_s8s8",
    ]
    assert list(json.loads((bundle / "model.json").read_text())["quantization"]) == [
        "int8_u8s8",
        "int8_s8s8",
    ]
    assert "fp16" not in (bundle / "MODEL_CARD.md").read_text().split("## Goals")[0]
    assert "fp16" not in (bundle / "sbom.json").read_text()


def test_what_was_not_exported_is_no_part_of_the_bundle(chain):
    model = json.loads(Path("artifacts/onnx/model.json").read_text())
    del model["files"]["fp16"]
    model["failed"]["fp16"] = "not exported (why)"
    Path("artifacts/onnx/model.json").write_text(json.dumps(model))
    summary = json.loads(Path("reports/summary.json").read_text())
    summary["exports"]["fp16"] = summary["exports"].pop("fp16") | {"status": "failed"}
    Path("reports/summary.json").write_text(json.dumps(summary))
    package.main(PARAMS)
    assert "why" not in Path("artifacts/bundle/model.json").read_text()
    assert not list(Path("artifacts/bundle").glob("fp16.*"))


def test_the_card_says_where_nothing_is_recommended(chain):
    summary = json.loads(Path("reports/summary.json").read_text())
    summary["recommended"] = None
    Path("reports/summary.json").write_text(json.dumps(summary))
    package.main(PARAMS)
    card = Path("artifacts/bundle/MODEL_CARD.md").read_text()
    assert "No export is recommended: none has its accuracy, size and latency" in card
    assert 'InferenceSession("fp32.static.onnx"' in card


def test_refuses_when_nothing_passed_its_validation(chain):
    for precision in chain_files.PRECISIONS:
        fail(precision)
    with pytest.raises(InputError, match="no export passed its validation"):
        package.main(PARAMS)
    assert not Path("artifacts/bundle").exists()


def test_refuses_when_a_goal_is_missed(chain):
    with pytest.raises(InputError):
        gate.main(Params(gate=Gate(min_accuracy=1.0)))
    with pytest.raises(InputError, match=r"reports/gate\.json: the gate is not passed \(min_acc"):
        package.main(PARAMS)
    assert not Path("artifacts/bundle").exists()
    assert not Path("artifacts/bundle.tar.gz").exists()


def test_refuses_a_file_that_was_altered_after_its_export(chain):
    package.main(PARAMS)
    before = sha256(Path("artifacts/bundle.tar.gz"))
    path = Path("artifacts/onnx/fp16.static.onnx")
    path.write_bytes(path.read_bytes().replace(b"weight", b"wEight"))
    with pytest.raises(InputError, match=r"fp16\.static\.onnx: altered since its export"):
        package.main(PARAMS)
    assert sha256(Path("artifacts/bundle.tar.gz")) == before


def test_refuses_a_summary_of_other_exports(chain):
    summary = json.loads(Path("reports/summary.json").read_text())
    del summary["exports"]["fp16"]
    Path("reports/summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match=r"summary\.json: not of the models"):
        package.main(PARAMS)


def test_a_disk_that_fills_up_leaves_nothing_behind(chain, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(package, "write_archive", full)
    with pytest.raises(OSError, match="No space left"):
        package.main(PARAMS)
    assert not list(Path("artifacts").glob("*bundle*"))


def test_an_archive_depends_on_contents_alone(tmp_path):
    archives = []
    for order in ("ab", "ba"):
        folder = tmp_path / order
        folder.mkdir()
        for name in order:
            (folder / name).write_text(name)
        package.write_archive(tmp_path / f"{order}.tar.gz", folder, "bundle")
        archives.append((tmp_path / f"{order}.tar.gz").read_bytes())
    assert archives[0] == archives[1]
    with tarfile.open(fileobj=io.BytesIO(archives[0])) as archive:
        assert archive.getnames() == ["bundle/a", "bundle/b"]
