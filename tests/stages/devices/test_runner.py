import ast
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stages.devices import rules, runner
from stages.devices.programs import AGENT, RUNNER, single_file
from stages.devices.proof import DeviceError
from stages.files import sha256
from tests.bundles import changed, flip_byte, seal
from tests.stages.devices import elsewhere


@pytest.fixture
def bundle(tiny_exported, tmp_path):
    """The exports beside the runner, like in a bundle."""
    return elsewhere.make_bundle(tiny_exported, tmp_path / "bundle")


def run(folder: Path, *arguments: str, flag: str = "-B") -> subprocess.CompletedProcess[str]:
    """Run the runner in ``folder`` from another folder, without the project on the path."""
    command = [sys.executable, flag, str(folder / "runner.py"), *arguments]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, env={})


@pytest.mark.parametrize(
    ("program", "libraries"), [(RUNNER, {"numpy", "onnxruntime"}), (AGENT, set())]
)
def test_it_is_python_38_and_needs_no_other_libraries(program, libraries):
    source = single_file(program).decode()
    tree = ast.parse(source, feature_version=(3, 8))
    names = [n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names]
    names += [str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == libraries
    # Newer than 3.8, but not detected as syntax.
    newer = ("removeprefix", "removesuffix", "file_digest", "cache(", "zip(strict", "readlink()")
    assert not any(call in source for call in (*newer, "filter="))


def test_a_bundle_passes_for_readers_and_as_json(bundle):
    finished = run(bundle, "--check")
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert lines[0].startswith("resnet8 (3 classes), 12 files unaltered, 8 golden images, onnx")
    assert len([line for line in lines if line.endswith("  passed")]) == 8
    assert lines[-1] == "passed"
    finished = run(bundle, "--check", "--json")
    checked = json.loads(finished.stdout)
    assert (finished.returncode, checked["passed"], checked["files"]) == (0, True, 12)
    assert {(r["precision"], r["shape"], r["status"]) for r in checked["results"]} == {
        (precision, shape, "passed")
        for precision in ("fp32", "fp16", "int8_u8s8", "int8_s8s8")
        for shape in ("dynamic", "static")
    }
    assert all(r["golden"]["cosine"] > 0.95 for r in checked["results"])


def refusal(bundle: Path) -> str:
    with pytest.raises(DeviceError) as caught:
        runner.check(bundle)
    return str(caught.value)


def test_altered_files_are_named(bundle):
    flip_byte(bundle / "golden.npz")
    for option in ("--check", "--describe"):
        finished = run(bundle, option, str(bundle))
        assert (finished.returncode, finished.stdout) == (1, "")
        (line,) = finished.stderr.splitlines()
        assert line.startswith("error: golden.npz: altered since it was packaged")


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.clear(),
        lambda model: model.update(files={}),
        lambda model: model["files"].update(fp32={}),
        lambda model: model["files"]["fp32"]["static"].update(path="../../../../etc/passwd"),
        lambda model: model["golden"].update(path="/etc/passwd"),
        lambda model: model.update(network="\x1b[2J"),
        lambda model: model.update(resize=model["image_size"] - 1),
        lambda model: model.update(fit="zoom"),
        lambda model: model["files"].update({"\x1b[2J": model["files"]["fp32"]}),
    ],
)
def test_a_bundle_without_a_model_or_with_one_elsewhere(bundle, change):
    with changed(bundle / "model.json") as model:
        change(model)
    seal(bundle)
    assert refusal(bundle).startswith("model.json: damaged, or names no exported model; package")


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": np.zeros((0, 8, 8, 3), np.uint8), "logits": np.zeros((0, 2), np.float32)},
        {"images": np.zeros((1, 8, 8, 3), np.uint8), "logits": np.zeros((2, 2), np.float32)},
        {"images": np.zeros((1, 8, 8, 3)), "logits": np.zeros((1, 2), np.float32)},
        {"images": np.array(1, np.uint8), "logits": np.array(1, np.float32)},
        {"images": np.array([{}]), "logits": np.zeros((1, 2), np.float32)},
        {},
    ],
)
def test_a_golden_batch_of_something_else_or_that_unpacks_to_any_size(tmp_path, arrays):
    path = tmp_path / "golden.npz"
    np.savez(path, **arrays)
    with pytest.raises(DeviceError, match=r"golden\.npz: (expected images uint8|damaged)"):
        runner.load_golden(path)
    images = np.zeros((1, 8, 8, 3), np.uint8)
    np.savez_compressed(path, images=images, logits=np.zeros((1, 2), np.float32))
    with pytest.raises(DeviceError, match="of at least one image, uncompressed"):
        runner.load_golden(path)


def test_a_model_with_other_outputs_fails(bundle, capsys):
    with np.load(bundle / "golden.npz") as golden:
        arrays = dict(golden)
    arrays["logits"][0, 0] += 0.5 * np.abs(arrays["logits"]).max()
    np.savez(bundle / "golden.npz", **arrays)
    checked = runner.check(seal(bundle))
    assert not checked["passed"]
    runner.print_table(checked)
    printed = capsys.readouterr().out
    assert "failed: relative error" in printed
    assert printed.splitlines()[-1] == "failed"


def test_onnxruntime_is_missing(bundle):
    # -S leaves site-packages out.
    finished = run(bundle, "--check", flag="-S")
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: numpy is not installed for ")
    assert "-m pip install numpy onnxruntime" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


def test_it_describes_its_machine(bundle):
    found = json.loads(run(bundle, "--describe", str(bundle)).stdout)
    assert (found["machine"], found["cores"]) == (platform.machine(), os.cpu_count())
    assert found["python"] == platform.python_version()
    assert found["system"].startswith(platform.system())


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processors are chosen on Linux")
def test_processors():
    here = sorted(os.sched_getaffinity(0))
    expected = f"expected processors among {','.join(map(str, here))}"
    try:
        for cpus, chosen in ((f"{here[-1]}", {here[-1]}), (f"{here[0]}-{here[0]}", {here[0]})):
            runner.pin(cpus)
            assert os.sched_getaffinity(0) == chosen
            os.sched_setaffinity(0, here)
        for wrong in ("4095", "a"):
            with pytest.raises(DeviceError, match=f"^--cpus {wrong}: {expected}"):
                runner.pin(wrong)
    finally:
        os.sched_setaffinity(0, here)


def test_profile_prints_one_line(bundle):
    model = bundle / "int8_u8s8.static.onnx"
    finished = run(
        bundle,
        *("--profile", "--model", str(model), "--threads", "2", "--warmup-seconds", "0"),
        *("--min-runs", "30", "--min-seconds", "0", "--max-runs", "30"),
    )
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert (result["precision"], result["threads"], result["n"]) == ("int8_u8s8", 2, 30)
    assert len(result["samples_ms"]) == 30
    assert result["p99_ms"] is None
    assert result["golden"]["top1_agreement"] == 1.0
    assert result["peak_rss_mb"] > 20
    assert result["model_sha256"] == sha256(model)


def test_profile_refuses_unreadable_models(bundle, tmp_path):
    other = tmp_path / "golden.npz"
    np.savez(other, images=np.zeros((1, 9, 9, 3), np.uint8), logits=np.zeros((1, 3), np.float32))
    model, labels = bundle / "fp32.static.onnx", bundle / "labels.json"
    for given, golden, sentence in (
        (Path("/nowhere/a.onnx"), bundle / "golden.npz", "/nowhere/a.onnx: no such file"),
        (model, Path("/nowhere/g.npz"), "/nowhere/g.npz: no such file"),
        (labels, bundle / "golden.npz", "cannot load it"),
        (model, labels, "labels.json: damaged"),
        (model, other, "a model failed to run .*invalid dimensions"),
    ):
        with pytest.raises(DeviceError, match=sentence):
            runner.profile(given, golden, 1, None)
    finished = run(bundle, "--profile", "--model", str(model), "--max-runs", "0")
    assert finished.returncode == 2
    assert finished.stderr.endswith("error: argument --max-runs: 0 is not above 0\n")


def test_compare():
    ours = np.array([[1.0, 2.0], [4.0, 3.0], [0.0, 1.0]], dtype=np.float32)
    theirs = np.array([[1.0, 2.5], [3.0, 4.0], [0.0, 1.0]], dtype=np.float32)
    parity = rules.compare(ours, theirs)
    assert parity["max_relative_error"] == pytest.approx(1 / 4)
    assert parity["top1_agreement"] == pytest.approx(2 / 3)
    cosine = (1 + 5 + 12 + 12 + 1) / np.sqrt((1 + 4 + 16 + 9 + 1) * (1 + 6.25 + 9 + 16 + 1))
    assert parity["cosine"] == pytest.approx(cosine)


@pytest.mark.parametrize(
    "logits",
    [np.array([[np.nan, 1.0]]), np.array([[np.inf, 1.0]]), np.ones((1, 3)), np.ones((2, 2))],
)
def test_what_cannot_be_compared_is_a_breach(logits):
    parity = rules.compare(logits, np.ones((1, 2)))
    assert set(parity.values()) == {None}
    assert rules.breach("fp32", parity) == "logits are not finite, or their shape is not torch's"


@pytest.mark.parametrize(
    ("precision", "figures", "expected"),
    [
        ("fp32", (1.1e-4, 1.0, 1.0), "relative error 1.1e-04 is above 1e-04"),
        ("fp32", (0.9e-4, 1.0, 1.0), None),
        ("fp16", (3e-2, 0.9995, 1.0), None),  # of a deep network
        ("fp16", (3e-2, 0.9985, 1.0), "cosine 0.9985 is below 0.999"),
        ("int8_u8s8", (0.5, 0.96, 0.8), None),
        ("int8_s8s8", (0.5, 0.94, 0.8), "cosine 0.9400 is below 0.95"),
        ("int8_s8s8", (0.5, 0.96, 0.7), "top-1 agreement 0.700 is below 0.75"),
    ],
)
def test_breach(precision, figures, expected):
    names = ("max_relative_error", "cosine", "top1_agreement")
    assert rules.breach(precision, dict(zip(names, figures, strict=True))) == expected


def test_statistics():
    figures = rules.statistics([4.0, 1.0, 2.0, 3.0])
    assert (figures["n"], figures["min_ms"], figures["p50_ms"]) == (4, 1.0, 2.5)
    assert figures["p90_ms"] == pytest.approx(3.7)
    assert figures["mean_ms"] == 2.5
    assert figures["cv"] == pytest.approx(np.sqrt(1.25) / 2.5, abs=1e-4)
    assert figures["p99_ms"] is None
    # Nothing is clipped: the outlier stays in the mean.
    figures = rules.statistics([1.0] * 499 + [501.0])
    assert (figures["mean_ms"], figures["p99_ms"]) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("min_runs", "min_seconds", "max_runs", "expected"),
    [(5, 0.0, 100, (5, 5)), (1, 60.0, 7, (7, 7)), (3, 0.05, 1000, (4, 60))],
)
def test_a_measurement_lasts_for_runs_and_seconds(min_runs, min_seconds, max_runs, expected):
    session = SimpleNamespace(run=lambda _, feed: time.sleep(0.001))
    samples = runner.time_runs(session, {}, min_runs, min_seconds, max_runs)
    assert expected[0] <= len(samples) <= expected[1]
    assert min(samples) >= 1.0
