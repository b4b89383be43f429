from __future__ import annotations

import ast
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from stages.devices import runner
from stages.devices.programs import RUNNER, single_file
from stages.devices.proof import DeviceError, manifest_sum
from stages.files import sha256
from tests.bundles import changed, flip_byte, seal
from tests.stages.devices import elsewhere

ROOT = Path(__file__).parents[3]

SOURCE = single_file(RUNNER)


@pytest.fixture
def bundle(tiny_exported: Path, tmp_path: Path) -> Path:
    """The exports beside the runner, as they travel."""
    return elsewhere.make_bundle(tiny_exported, tmp_path / "bundle")


def run(
    folder: Path, *arguments: str, flags: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """The runner that lies in ``folder``, from elsewhere and without the project on the path."""
    command = [sys.executable, *flags, str(folder / "runner.py"), *arguments]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, env={})


def test_it_is_python_38_and_needs_two_libraries() -> None:
    source = SOURCE.decode()
    tree = ast.parse(source, feature_version=(3, 8))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}
    # Newer than 3.8, and no matter of syntax.
    for call in ("removeprefix", "removesuffix", "file_digest", "cache(", "zip(strict"):
        assert call not in source


def test_a_bundle_passes(bundle: Path) -> None:
    finished = run(bundle, "--check")
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert lines[0].startswith(
        "resnet8 (3 classes), 12 files unaltered, 8 golden images, onnxruntime "
    )
    assert len([line for line in lines if line.endswith("passed") and line != "passed"]) == 8
    assert lines[-1] == "passed"


def refusal(bundle: Path) -> str:
    finished = run(bundle, "--check")
    assert (finished.returncode, finished.stdout) == (1, "")
    (line,) = finished.stderr.splitlines()
    return line


@pytest.mark.parametrize("name", ["manifest.json", "model.json", "labels.json", "golden.npz"])
def test_an_altered_file_is_found(bundle: Path, name: str) -> None:
    path = bundle / name
    path.write_bytes(path.read_bytes().replace(b"e", b"E", 1))
    assert refusal(bundle).startswith(f"error: {name}: ")


def test_an_altered_version_is_found(bundle: Path) -> None:
    with changed(bundle / "manifest.json") as manifest:
        manifest["version"] = "9.0.0"
    assert refusal(bundle).startswith("error: manifest.json: altered since it was packaged")


def test_a_list_that_is_missing_empty_or_shortened(bundle: Path) -> None:
    whole = (bundle / "manifest.json").read_text()
    for files, sentence in (
        ({}, "error: manifest.json: expected the form ackd-bundle-1, a version such as 1.2.0"),
        (None, "error: 'fp32.static.onnx': not in manifest.json of the bundle; remove it"),
    ):
        with changed(bundle / "manifest.json") as manifest:
            if files is None:
                del manifest["files"]["fp32.static.onnx"]
            else:
                manifest["files"] = files
            del manifest["sha256"]
            manifest["sha256"] = manifest_sum(manifest)
        assert refusal(bundle).startswith(sentence)
        (bundle / "manifest.json").write_text(whole)
    (bundle / "manifest.json").unlink()
    assert refusal(bundle) == f"error: manifest.json: missing in {bundle}; give a bundle"


def test_a_file_that_is_missing_or_too_many(bundle: Path) -> None:
    (bundle / "a\x1b[2J").touch()
    assert refusal(bundle) == r"error: 'a\x1b[2J': not in manifest.json of the bundle; remove it"
    (bundle / "a\x1b[2J").unlink()
    (bundle / "fp32.dynamic.onnx").unlink()
    assert refusal(bundle) == "error: fp32.dynamic.onnx: missing; get the bundle again"


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.clear(),
        lambda model: model.update(files={}),
        lambda model: model["files"].update(fp32={}),
        lambda model: model["files"]["fp32"]["static"].update(path="../../../../etc/passwd"),
        lambda model: model["golden"].update(path="/etc/passwd"),
        lambda model: model.update(network="\x1b[2J"),
        lambda model: model["files"].update({"\x1b[2J": model["files"]["fp32"]}),
    ],
)
def test_a_bundle_without_a_model_or_with_one_elsewhere(
    bundle: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    with changed(bundle / "model.json") as model:
        change(model)
    seal(bundle)
    assert refusal(bundle).startswith("error: model.json: expected one model or more, each a file")


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
def test_a_golden_batch_of_no_images_or_of_something_else(
    tmp_path: Path, arrays: dict[str, Any]
) -> None:
    path = tmp_path / "golden.npz"
    np.savez(path, **arrays)
    with pytest.raises(DeviceError, match=r"golden\.npz: (expected images uint8|damaged)"):
        runner.load_golden(path)


def test_a_golden_batch_that_unpacks_to_any_size(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    images = np.zeros((1, 8, 8, 3), np.uint8)
    np.savez_compressed(path, images=images, logits=np.zeros((1, 2), np.float32))
    with pytest.raises(DeviceError, match="of one image or more, not compressed"):
        runner.load_golden(path)


def test_a_model_that_answers_otherwise_fails(bundle: Path) -> None:
    with np.load(bundle / "golden.npz") as golden:
        arrays = dict(golden)
    arrays["logits"][0, 0] += 0.5 * np.abs(arrays["logits"]).max()
    np.savez(bundle / "golden.npz", **arrays)
    seal(bundle)
    finished = run(bundle, "--check")
    assert finished.returncode == 1
    assert "failed: relative error" in finished.stdout
    assert finished.stdout.splitlines()[-1] == "failed"


def test_onnxruntime_is_missing(bundle: Path) -> None:
    # -S leaves site-packages out.
    finished = run(bundle, "--check", flags=("-S",))
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: numpy is not installed for ")
    assert "-m pip install numpy onnxruntime" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


def test_a_check_as_one_line_of_json(bundle: Path) -> None:
    finished = run(bundle, "--check", "--json")
    checked = json.loads(finished.stdout)
    assert (finished.returncode, checked["passed"], checked["files"]) == (0, True, 12)
    assert {(r["precision"], r["shape"], r["status"]) for r in checked["results"]} == {
        (precision, shape, "passed")
        for precision in ("fp32", "fp16", "int8_u8s8", "int8_s8s8")
        for shape in ("dynamic", "static")
    }
    assert all(r["golden"]["cosine"] > 0.95 for r in checked["results"])


def test_it_says_what_machine_it_is_and_proves_files_that_are_named(bundle: Path) -> None:
    told = json.loads(run(bundle, "--describe", str(bundle)).stdout)
    assert (told["machine"], told["cores"]) == (platform.machine(), os.cpu_count())
    assert told["python"] == platform.python_version()
    assert told["system"].startswith(platform.system())
    flip_byte(bundle / "golden.npz")
    assert "golden.npz: altered" in run(bundle, "--describe", str(bundle)).stderr
    assert json.loads(run(bundle, "--describe").stdout) == told


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processors are chosen on Linux")
def test_processors() -> None:
    here = sorted(os.sched_getaffinity(0))
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from stages.devices import runner\n"
        "try: runner.pin(sys.argv[2]); print(sorted(os.sched_getaffinity(0)))\n"
        "except runner.DeviceError as error: print(error)"
    )

    def pinned(cpus: str) -> str:
        command = [sys.executable, "-c", code, str(ROOT), cpus]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert pinned(f"{here[-1]}") == f"[{here[-1]}]"
    assert pinned(f"{here[0]}-{here[0]},{here[-1]}") == str(sorted({here[0], here[-1]}))
    expected = f"expected some of this machine's, {','.join(map(str, here))}"
    assert pinned("4095") == f"--cpus 4095: {expected}"
    assert pinned("a") == f"--cpus a: {expected}"


def test_profile_prints_one_line(bundle: Path) -> None:
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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "/nowhere/a.onnx"], "/nowhere/a.onnx: no such file"),
        (
            ["--model", "{}/fp32.static.onnx", "--golden", "/nowhere/g.npz"],
            "/nowhere/g.npz: no such file",
        ),
        (["--model", "{}/labels.json"], "does not load it"),
        (["--model", "{}/fp32.static.onnx", "--golden", "{}/labels.json"], "labels.json: damaged"),
    ],
)
def test_profile_of_what_cannot_be_read(bundle: Path, arguments: list[str], sentence: str) -> None:
    finished = run(bundle, "--profile", *(argument.format(bundle) for argument in arguments))
    assert finished.returncode == 1
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ")
    assert sentence in line


def test_compare() -> None:
    ours = np.array([[1.0, 2.0], [4.0, 3.0], [0.0, 1.0]], dtype=np.float32)
    theirs = np.array([[1.0, 2.5], [3.0, 4.0], [0.0, 1.0]], dtype=np.float32)
    parity = runner.compare(ours, theirs)
    assert parity["max_relative_error"] == pytest.approx(1 / 4)
    assert parity["top1_agreement"] == pytest.approx(2 / 3)
    cosine = (1 + 5 + 12 + 12 + 1) / np.sqrt((1 + 4 + 16 + 9 + 1) * (1 + 6.25 + 9 + 16 + 1))
    assert parity["cosine"] == pytest.approx(cosine)


@pytest.mark.parametrize(
    "logits",
    [np.array([[np.nan, 1.0]]), np.array([[np.inf, 1.0]]), np.ones((1, 3)), np.ones((2, 2))],
)
def test_what_cannot_be_compared_is_a_breach(logits: Any) -> None:
    parity = runner.compare(logits, np.ones((1, 2)))
    assert set(parity.values()) == {None}
    assert runner.breach("fp32", parity) == "logits of another shape than torch's, or not finite"


@pytest.mark.parametrize(
    ("precision", "figures", "expected"),
    [
        ("fp32", (1.1e-4, 1.0, 1.0), "relative error 1.1e-04 is above 1e-04"),
        ("fp32", (0.9e-4, 1.0, 1.0), None),
        ("fp16", (0.9e-2, 1.0, 1.0), None),
        ("fp16", (1.1e-2, 1.0, 1.0), "relative error 1.1e-02 is above 1e-02"),
        ("int8_u8s8", (0.5, 0.96, 0.8), None),
        ("int8_s8s8", (0.5, 0.94, 0.8), "cosine 0.9400 is below 0.95"),
        ("int8_s8s8", (0.5, 0.96, 0.7), "top-1 agreement 0.700 is below 0.75"),
    ],
)
def test_breach(precision: str, figures: tuple[float, float, float], expected: str | None) -> None:
    names = ("max_relative_error", "cosine", "top1_agreement")
    assert runner.breach(precision, dict(zip(names, figures, strict=True))) == expected


def test_statistics() -> None:
    figures = runner.statistics([4.0, 1.0, 2.0, 3.0])
    assert (figures["n"], figures["min_ms"], figures["p50_ms"]) == (4, 1.0, 2.5)
    assert figures["p90_ms"] == pytest.approx(3.7)
    assert figures["mean_ms"] == 2.5
    assert figures["cv"] == pytest.approx(np.sqrt(1.25) / 2.5, abs=1e-4)
    assert figures["p99_ms"] is None
    # Nothing is clipped: one outlier stays in the mean.
    figures = runner.statistics([1.0] * 499 + [501.0])
    assert figures["mean_ms"] == 2.0
    assert figures["p99_ms"] == 1.0


@pytest.mark.parametrize(
    ("min_runs", "min_seconds", "max_runs", "expected"),
    [(5, 0.0, 100, (5, 5)), (1, 60.0, 7, (7, 7)), (3, 0.05, 1000, (4, 60))],
)
def test_a_measurement_lasts_for_runs_and_seconds(
    min_runs: int, min_seconds: float, max_runs: int, expected: tuple[int, int]
) -> None:
    def wait(outputs: None, feed: dict[str, Any]) -> None:
        time.sleep(0.001)

    session = cast(Any, SimpleNamespace(run=wait))
    samples = runner.time_runs(session, {}, min_runs, min_seconds, max_runs)
    assert expected[0] <= len(samples) <= expected[1]
    assert min(samples) >= 1.0
