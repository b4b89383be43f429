import os
import statistics

import pytest

from models.errors import InputError
from stages import profile_latency
from stages.devices import local
from stages.files import read_json, sha256
from stages.params import Params

# The contract of docs/files.md.
FIELDS = {
    *("device", "runtime", "version", "provider", "precision", "file", "model_sha256", "threads"),
    *("init_ms", "first_ms", "n", "min_ms", "p50_ms", "p90_ms", "p99_ms", "mean_ms", "cv"),
    *("peak_rss_mb", "load_before", "load_after", "temperature_before", "temperature_after"),
    *("noisy", "golden", "status", "reason"),
}


def test_every_precision_is_measured(project, tiny_params):
    profile_latency.main(tiny_params)
    results = read_json(profile_latency.REPORT)["results"]
    samples = read_json(profile_latency.SAMPLES_FOLDER / "samples.json")
    assert [row["precision"] for row in results] == ["fp32", "fp16", "int8_u8s8", "int8_s8s8"]
    for row in results:
        assert set(row) == FIELDS
        assert (row["device"], row["runtime"], row["threads"]) == ("local:", "onnxruntime", 1)
        assert (row["status"], row["reason"]) == ("passed", None)
        assert row["model_sha256"] == sha256(project / "artifacts/onnx" / row["file"])
        assert row["file"] == f"{row['precision']}.static.onnx"
        times = samples[f"local:|onnxruntime|{row['precision']}|1"]
        assert len(times) == row["n"] >= 20
        assert row["p50_ms"] == pytest.approx(statistics.median(times), abs=1e-3)
        assert row["mean_ms"] == pytest.approx(statistics.fmean(times), abs=1e-3)
        assert row["min_ms"] == min(times) > 0
        assert row["noisy"] == (row["cv"] > 0.2)
        assert row["init_ms"] > row["min_ms"]


@pytest.mark.usefixtures("project")
def test_a_runner_that_crashes_is_a_row(tmp_path, monkeypatch, tiny_params):
    real = local.RUNNER
    wrapper = tmp_path / "runner.py"
    wrapper.write_text(
        "import os, runpy, sys\n"
        "if 'fp16.static.onnx' in ' '.join(sys.argv):\n"
        "    print('no GPU found', file=sys.stderr, flush=True)\n"
        "    os.abort()\n"
        f"runpy.run_path({str(real)!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr(local, "RUNNER", wrapper)
    profile_latency.main(tiny_params)
    results = read_json(profile_latency.REPORT)["results"]
    assert [row["status"] for row in results] == ["passed", "failed", "passed", "passed"]
    assert results[1]["reason"] == "the process was ended by SIGABRT: no GPU found"
    assert results[1]["p50_ms"] is None
    assert set(results[1]) == FIELDS
    samples = read_json(profile_latency.SAMPLES_FOLDER / "samples.json")
    assert samples["local:|onnxruntime|fp16|1"] == []


@pytest.mark.parametrize(
    ("runner", "message"),
    [
        (
            "if '--describe' in sys.argv: sys.exit(print('{}'))\nsys.exit('error: no processor')",
            "all measurements failed.*reason: no processor",
        ),
        ("sys.exit('error: no onnxruntime')", "^local:: no onnxruntime$"),
    ],
)
def test_a_runner_that_measures_nothing_is_an_error(
    project, monkeypatch, tiny_params, runner, message
):
    (project / "runner.py").write_text(f"import sys\n{runner}")
    monkeypatch.setattr(local, "RUNNER", project / "runner.py")
    with pytest.raises(InputError, match=message):
        profile_latency.main(tiny_params)


def on(devices: list[str], params: Params) -> Params:
    profile = params.profile.model_copy(update={"devices": devices})
    return params.model_copy(update={"profile": profile})


def test_impossible_measurements_are_refused_before_any_work(project, tiny_params):
    with pytest.raises(InputError, match=r"^ssh://127\.0\.0\.1:1: "):
        profile_latency.main(on(["local:", "ssh://127.0.0.1:1"], tiny_params))
    assert not (project / "reports").exists()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processors are chosen on Linux")
def test_devices_are_told_apart_and_kept_to_their_processors(project, monkeypatch, tiny_params):
    cpu = min(os.sched_getaffinity(0))
    urls = ["local:", f"local:?cpus={cpu}&threads=2"]
    wrapper = project / "runner.py"
    wrapper.write_text(
        "import os, runpy, sys\n"
        f"try: runpy.run_path({str(local.RUNNER)!r}, run_name='__main__')\n"
        f"finally: print(len(os.sched_getaffinity(0)), file=open({str(project)!r} + '/cpus', 'a'))"
    )
    monkeypatch.setattr(local, "RUNNER", wrapper)
    profile_latency.main(on(urls, tiny_params))
    report = read_json(profile_latency.REPORT)
    assert [device["device"] for device in report["devices"]] == urls
    assert report["devices"][0]["cores"] == os.cpu_count()
    rows = [(row["device"], row["threads"]) for row in report["results"]]
    assert rows == [(urls[0], 1)] * 4 + [(urls[1], 2)] * 4
    everywhere = str(len(os.sched_getaffinity(0)))
    assert (project / "cpus").read_text().split() == [everywhere] * 5 + ["1"] * 5
