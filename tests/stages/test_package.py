import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, metadata_load

from models.errors import InputError
from pipeline.bundles import open_bundle
from stages import gate, package
from stages.bundle.keys import new_key, read_public_key
from stages.files import sha256
from stages.params import Params
from stages.sections.result import Gate, Package
from stages.sections.training import Teacher
from tests.stages import chain_files, html_page
from tests.stages.conftest import made_once
from tests.stages.html_page import change

PARAMS = Params(gate=Gate(min_accuracy=0.97, max_export_drop=0.02))
BUNDLE, ARCHIVE = Path("artifacts/bundle"), Path("artifacts/bundle.tar.gz")
CARD = BUNDLE / "MODEL_CARD.md"
SUMMARY, MODEL = "reports/summary.json", "artifacts/onnx/model.json"


def pass_gate() -> None:
    html_page.made(PARAMS)
    gate.main(PARAMS)


@pytest.fixture(scope="session")
def gated(finished):
    """The inputs of ``package``, made by the stages before it; read-only."""
    return made_once("gated", pass_gate, finished)


@pytest.fixture(scope="session")
def packaged(gated):
    """Like :func:`gated`, with a bundle; read-only."""
    return made_once("packaged", lambda: package.main(PARAMS), gated)


@pytest.fixture
def chain(gated, here):
    """A writable copy."""
    shutil.copytree(gated, here, dirs_exist_ok=True)


@pytest.fixture
def unpacked(packaged, tmp_path):
    with tarfile.open(packaged / ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "bundle"


def fail(precision: str) -> None:
    change(SUMMARY, lambda summary: summary["exports"][precision].update(status="failed"))


def test_holds_what_a_device_needs_in_the_same_archive_each_time(chain, packaged, unpacked):
    bundle = packaged / BUNDLE
    models = {f"{p}.{s}.onnx" for p in chain_files.PRECISIONS for s in ("dynamic", "static")}
    exported = models | {"golden.npz", "labels.json", "model.json"}
    others = {"runner.py", "MODEL_CARD.md", "classes.csv", "sbom.json"}
    for name in exported:
        assert sha256(bundle / name) == sha256(packaged / "artifacts/onnx" / name)
    assert sha256(bundle / "classes.csv") == sha256(packaged / "reports/classes.csv")
    listed = json.loads((bundle / "manifest.json").read_text())["files"]
    assert listed.keys() == exported | others
    for folder in (bundle, unpacked):
        assert {path.name for path in folder.iterdir()} == listed.keys() | {"manifest.json"}
    assert all(sha256(path) == sha256(unpacked / path.name) for path in bundle.iterdir())
    package.main(PARAMS)
    assert sha256(ARCHIVE) == sha256(packaged / ARCHIVE)
    with tarfile.open(ARCHIVE) as archive:
        entries = archive.getmembers()
    names = [entry.name.removeprefix("bundle/") for entry in entries]
    assert names == ["manifest.json", *sorted(listed)]
    facts = {(e.mtime, e.uid, e.gid, e.uname, e.gname, e.mode) for e in entries}
    assert facts == {(0, 0, 0, "", "", 0o644)}


def test_it_is_signed_with_the_key_of_the_environment_or_the_same(chain, packaged, monkeypatch):
    monkeypatch.setenv("ACKD_SIGNING_KEY", "nowhere.key")
    with pytest.raises(InputError, match=r"nowhere\.key: no such file; ACKD_SIGNING_KEY names it"):
        package.main(PARAMS)
    assert not list(Path("artifacts").glob("*bundle*"))
    public, key_id = new_key(Path("signing.key"))
    monkeypatch.setenv("ACKD_SIGNING_KEY", "signing.key")
    package.main(PARAMS)
    assert sha256(ARCHIVE) != sha256(packaged / ARCHIVE)
    with open_bundle(ARCHIVE, read_public_key(public)) as opened:
        assert opened.signer == key_id
    monkeypatch.delenv("ACKD_SIGNING_KEY")
    package.main(PARAMS)
    assert sha256(ARCHIVE) == sha256(packaged / ARCHIVE)


def test_the_card_has_the_figures_and_lines_that_run(packaged, unpacked):
    card = (packaged / CARD).read_text()
    for text in (
        "\n---\n\n# resnet8, distilled from resnet20 by ACKD\n",
        "| student | resnet8 | 97.50 % | 78,042 | 12.5 M | 0.312 |",
        "Recommended on this device: int8_u8s8, the fastest of those that stay within",
        'InferenceSession("int8_u8s8.static.onnx"',
        "- no NVIDIA GPU: tensorrt fp32",
        "- min_accuracy 0.97: 0.975 (resnet8)\n",
        "| a &lt;b> &amp; \\$c\\$ | 90 | 99.00 % | 96.00 % |",
        "| test | 24 | 3 to 11 | 2 |",
        "| learned from |  | resnet20 |",
        "- ackd: `temperature` 4.0, `learners` D3B1 D2B2, ",
        "\nFrom a picture: resize its shorter side to 16 pixels (bicubic, antialiased), then crop",
        "- torch 2.14.1, accelerate 1.15.0, numpy 2.3.1\n- project: ",
        "No licence is stated for the model",
    ):
        assert text in card
    row = r"^\| int8_u8s8 \| passed \| recommended \| 97\.22 % \| \+0\.28 \(−0\.32 to \+1\.08\) \|"
    assert re.search(row + r".*\| 4\.0e−7 \| 99\.72 % \|$", card, re.M)
    assert "\n\n\n" not in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    assert code.count("\n") == 5
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=unpacked, text=True)
    assert printed.strip() in chain_files.CLASSES


def test_a_model_hub_reads_the_head_of_the_card(packaged):
    card = ModelCard.load(packaged / CARD)
    assert card.text.startswith("\n# resnet8, distilled from resnet20 by ACKD\n")
    assert metadata_load(packaged / CARD)["library_name"] == "onnx"
    head = card.data
    assert (head.model_name, head.pipeline_tag) == ("resnet8", "image-classification")
    assert head.tags == ["onnxruntime", "resnet8", "knowledge-distillation", "ackd", "int8"]
    assert {(r.dataset_name, r.dataset_split) for r in head.eval_results} == {("digits", "test")}
    accuracies = {r.metric_name.split(", ")[1]: r.metric_value for r in head.eval_results}
    wanted = [0.975, 0.975, 0.9722, 0.9694]
    assert accuracies == dict(zip(chain_files.PRECISIONS, wanted, strict=True))


def test_the_package_section_and_many_classes_are_in_the_bundle(chain):
    chain_files.write_class_figures(100)
    stated = Package(name="digits", version="1.2.3", license="CC-BY-NC-4.0")
    package.main(PARAMS.model_copy(update={"package": stated}))
    with open_bundle(ARCHIVE) as opened:
        assert (opened.name, opened.version, opened.signer) == ("digits", "1.2.3", None)
    assert ModelCard.load(CARD).data.license == "cc-by-nc-4.0"
    assert "The model: CC-BY-NC-4.0" in CARD.read_text()
    sbom = json.loads((BUNDLE / "sbom.json").read_text())
    assert sbom["metadata"]["component"]["licenses"] == [{"license": {"id": "CC-BY-NC-4.0"}}]
    section = CARD.read_text().split("## Accuracy by class")[1].split("##")[0]
    weakest_and_strongest = [*map(str, range(10)), *map(str, range(99, 89, -1))]
    assert re.findall(r"^\| class (\d+) ", section, re.M) == weakest_and_strongest
    assert "10 weakest of 100 classes" in section


def test_folders_of_the_machine_that_trained_stay_out_of_the_bundle(chain):
    change("reports/data.json", source="imagefolder:.../flowers")
    html_page.made(PARAMS)
    teacher = Teacher(weights="/home/somebody/teacher.pth", train="none")
    package.main(PARAMS.model_copy(update={"teacher": teacher}))
    assert "trained on flowers\n" in CARD.read_text()
    assert "teacher.pth" in CARD.read_text()
    for path in BUNDLE.iterdir():
        assert b"somebody" not in path.read_bytes()


def test_devices_stay_out_of_the_bundle_but_for_their_processors(chain):
    """Users, hosts and folders of devices stay out, and all measurements by hand."""

    def card() -> str:
        html_page.made(PARAMS)
        package.main(PARAMS)
        return CARD.read_text()

    def second(content):
        url = "ssh://somebody@secret-host/srv/secret"
        content["devices"].append(content["devices"][0] | {"device": url, "cpu": "Board CPU"})
        failed = {"device": url, "status": "failed", "reason": "no memory"}
        content["results"].append(content["results"][0] | failed | {"p50_ms": None, "p90_ms": None})

    change("reports/latency.json", second)
    assert "- no memory: latency of fp32 at 1 thread on Board CPU\n" in card()
    before = ARCHIVE.read_bytes()
    latency = json.loads(Path("reports/latency.json").read_text())
    files = json.loads(Path(MODEL).read_text())["files"]
    Path("reports/devices").mkdir(exist_ok=True)
    current = files["fp32"]["static"]["sha256"]
    others = [f"ssh://somebody@other-host-{number}/srv/secret" for number in range(2)]
    # The last is a device that the chain has measured.
    measured = zip([*others, "local:"], [current, "0" * 64, current], strict=True)
    for number, (url, digest) in enumerate(measured):
        row = latency["results"][-1] | {"device": url, "reason": "of somebody"}
        row["model_sha256"] = digest
        kept = {"device": url, "description": latency["devices"][0], "results": [row]}
        Path(f"reports/devices/{number}.json").write_text(json.dumps(kept))
    text = card()
    assert len(json.loads(Path(SUMMARY).read_text())["devices"]) == 3
    assert not re.search("somebody|secret|host", text)
    assert ARCHIVE.read_bytes() == before


def test_what_failed_its_validation_or_was_not_exported_is_left_out(chain):
    fail("fp16")
    change(MODEL, lambda model: model["failed"].update(int8_s8s8="not exported (why)"))
    change(MODEL, lambda model: model["files"].pop("int8_s8s8"))
    change(MODEL, int8={name: {"ranges": "minmax"} for name in ("int8_u8s8", "int8_s8s8")})
    change(SUMMARY, recommended=None)
    fail("int8_s8s8")
    package.main(PARAMS)
    described = json.loads((BUNDLE / "model.json").read_text())
    assert list(described["int8"]) == ["int8_u8s8"]
    assert list(described["files"]) == ["fp32", "int8_u8s8"]
    assert described["failed"] == {}
    assert not [*BUNDLE.glob("fp16.*"), *BUNDLE.glob("int8_s8s8.*")]
    assert "fp16" not in CARD.read_text().split("## Goals")[0]
    assert "fp16" not in (BUNDLE / "sbom.json").read_text()
    assert "No export is recommended: none has accuracy, size and" in CARD.read_text()
    assert 'InferenceSession("fp32.static.onnx"' in CARD.read_text()


def test_a_missed_goal_leaves_no_bundle(chain):
    with pytest.raises(InputError):
        gate.main(Params(gate=Gate(min_accuracy=1.0)))
    with pytest.raises(InputError, match=r"reports/gate\.json: goals are missed \(min_acc"):
        package.main(PARAMS)
    assert not list(Path("artifacts").glob("*bundle*"))
