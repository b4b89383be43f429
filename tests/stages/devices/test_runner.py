from __future__ import annotations

import ast
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from stages.devices import runner
from stages.files import sha256

RUNNER = Path(runner.__file__)


@pytest.fixture
def bundle(tiny_exported: Path, tmp_path: Path) -> Path:
    """The exports beside the runner, as they travel."""
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_exported / "artifacts/onnx", folder)
    shutil.copy(RUNNER, folder / "runner.py")
    return folder


def run(
    folder: Path, *arguments: str, flags: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """The runner that lies in ``folder``, from elsewhere and without the project on the path."""
    command = [sys.executable, *flags, str(folder / "runner.py"), *arguments]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, env={})


def write_sums(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_it_is_python_38_and_needs_two_libraries() -> None:
    source = RUNNER.read_text()
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
    write_sums(bundle)
    finished = run(bundle, "--check")
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert lines[0].startswith(
        "resnet8 (3 classes), 12 files unaltered, 8 golden images, onnxruntime "
    )
    assert len([line for line in lines if line.endswith("passed") and line != "passed"]) == 8
    assert lines[-1] == "passed"


def test_sums_stand_in_the_description_too(bundle: Path) -> None:
    assert "9 files unaltered" in run(bundle, "--check", str(bundle)).stdout
    flip_last_byte(bundle / "fp16.static.onnx")
    finished = run(bundle, "--check")
    assert finished.returncode == 1
    assert finished.stderr == (
        f"error: {bundle}/fp16.static.onnx: altered since it was made; copy the bundle again\n"
    )


def test_an_altered_label_is_found(bundle: Path) -> None:
    write_sums(bundle)
    flip_last_byte(bundle / "labels.json")
    finished = run(bundle, "--check")
    assert (finished.returncode, finished.stdout) == (1, "")
    assert "labels.json: altered" in finished.stderr


def test_a_missing_file_is_named(bundle: Path) -> None:
    (bundle / "fp32.dynamic.onnx").unlink()
    assert "fp32.dynamic.onnx: missing; copy the whole bundle" in run(bundle, "--check").stderr


def test_a_folder_that_is_no_bundle(bundle: Path, tmp_path: Path) -> None:
    finished = run(bundle, "--check", str(tmp_path))
    assert finished.returncode == 1
    expected = f"error: {tmp_path} holds no model.json; give the folder of an unpacked bundle\n"
    assert finished.stderr == expected


def test_a_model_that_answers_otherwise_fails(bundle: Path) -> None:
    with np.load(bundle / "golden.npz") as golden:
        arrays = dict(golden)
    arrays["logits"][0, 0] += 0.5 * np.abs(arrays["logits"]).max()
    np.savez(bundle / "golden.npz", **arrays)
    description = json.loads((bundle / "model.json").read_text())
    description["golden"]["sha256"] = sha256(bundle / "golden.npz")
    (bundle / "model.json").write_text(json.dumps(description))
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
    assert (finished.returncode, checked["passed"], checked["files"]) == (0, True, 9)
    assert {(r["precision"], r["shape"], r["status"]) for r in checked["results"]} == {
        (precision, shape, "passed")
        for precision in ("fp32", "fp16", "int8_u8s8", "int8_s8s8")
        for shape in ("dynamic", "static")
    }
    assert all(r["golden"]["cosine"] > 0.95 for r in checked["results"])


def test_it_says_what_machine_it_is_once_the_files_are_proven(bundle: Path) -> None:
    told = json.loads(run(bundle, "--describe", str(bundle)).stdout)
    assert (told["machine"], told["cores"]) == (platform.machine(), os.cpu_count())
    assert told["python"] == platform.python_version()
    assert told["system"].startswith(platform.system())
    flip_last_byte(bundle / "golden.npz")
    assert "golden.npz: altered" in run(bundle, "--describe", str(bundle)).stderr


def test_damaged_sums_are_one_sentence(bundle: Path) -> None:
    (bundle / "SHA256SUMS").write_text("nosums\n")
    assert run(bundle, "--check").stderr == (
        f"error: {bundle}/SHA256SUMS: damaged; copy the bundle again\n"
    )


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processors are chosen on Linux")
def test_processors() -> None:
    here = sorted(os.sched_getaffinity(0))
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import runner\n"
        "try: runner.pin(sys.argv[2]); print(sorted(os.sched_getaffinity(0)))\n"
        "except runner.RunnerError as error: print(error)"
    )

    def pinned(cpus: str) -> str:
        command = [sys.executable, "-c", code, str(RUNNER.parent), cpus]
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
