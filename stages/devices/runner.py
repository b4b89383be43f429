"""Check and time the exported models on this machine.

Part of every bundle; needs only Python 3.8 or newer, numpy and onnxruntime.
``python runner.py --check [FOLDER]`` verifies the files, and every model's outputs on the golden
batch; ``python runner.py --profile --model FILE --golden FILE`` times one model and prints one line
of JSON; ``python runner.py --describe [FOLDER]`` verifies the files of FOLDER and describes the
machine. ``--cpus 0,1`` pins to these processors.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import numpy as np
    import onnxruntime
except ImportError as error:
    sys.exit(
        f"error: {error.name} is not installed for {sys.executable};"
        f" run `{Path(sys.executable).name} -m pip install numpy onnxruntime`"
    )

from stages.devices.proof import DeviceError, read_description, sha256, verify
from stages.devices.rules import NOISY_CV, breach, compare, outcome, statistics

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

#: How long to measure, by option name.
PROFILE = {
    "warmup-runs": 10,
    "warmup-seconds": 0.5,
    "min-runs": 100,
    "min-seconds": 3.0,
    "max-runs": 20000,
}


def open_session(model: Path, threads: int) -> onnxruntime.InferenceSession:
    """Open a session on the CPU; raises DeviceError if onnxruntime cannot load the file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # On shared cores, spinning threads steal time from working ones.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    # onnxruntime's exceptions share no narrower base class.
    except Exception as error:
        raise DeviceError(
            f"{model}: onnxruntime {onnxruntime.__version__} cannot load it ({_one_line(error)})"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def run_batches(session: onnxruntime.InferenceSession, images: Array, batch_size: int) -> Array:
    """Return logits ``[N, K]`` of ``images`` uint8 ``[N, H, W, 3]``; may raise DeviceError."""
    batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    with _running():
        feed = session.get_inputs()[0].name
        return np.concatenate([session.run(None, {feed: batch})[0] for batch in batches])


@contextlib.contextmanager
def _running() -> Iterator[None]:
    """Raise DeviceError if the model fails; onnxruntime's exceptions share no narrower base."""
    try:
        yield
    except Exception as error:
        raise DeviceError(f"a model failed to run ({_one_line(error)})") from None


def load_golden(path: Path) -> tuple[Array, Array]:
    """Load images uint8 ``[G, H, W, 3]`` and logits float32 ``[G, K]``; may raise DeviceError."""
    try:
        with zipfile.ZipFile(str(path)) as packed:
            # Compressed members could unpack to any size.
            stored = not any(member.compress_type for member in packed.infolist())
        with np.load(str(path), allow_pickle=False) as golden:
            arrays = [golden[name] for name in ("images", "logits")] if stored else []
    except FileNotFoundError:
        raise DeviceError(f"{path}: no such file; copy the whole bundle") from None
    except Exception as error:  # zipfile, zlib and numpy each raise their own kinds
        raise DeviceError(f"{path}: damaged ({error}); copy the bundle again") from None
    forms = [(array.dtype, array.ndim) for array in arrays]
    if forms != [("u1", 4), ("f4", 2)] or not 0 < len(arrays[0]) == len(arrays[1]):
        raise DeviceError(
            f"{path}: expected images uint8 [G, H, W, 3] and logits float32 [G, K] of at least one"
            " image, uncompressed; package the bundle again"
        )
    return arrays[0], arrays[1]


def profile(model: Path, golden: Path, threads: int, settings: Any) -> dict[str, Any]:
    """Time one model at batch 1, in ms, and check parity on the golden batch in the same run.

    ``settings`` are those of :func:`time_model`. Raises DeviceError if a file is damaged.
    """
    if not model.is_file():
        raise DeviceError(f"{model}: no such file; give an exported .onnx file")
    session, timed = time_model(lambda: open_session(model, threads), golden, settings)
    precision = session.get_modelmeta().custom_metadata_map.get("precision", "")
    return {
        "runtime": "onnxruntime",
        "version": onnxruntime.__version__,
        "provider": session.get_providers()[0],
        "precision": precision,
        "file": model.name,
        "model_sha256": sha256(model),
        "threads": threads,
        "peak_rss_mb": peak_rss_mb(),
        **timed,
        **outcome(breach(precision, timed["golden"])),
    }


def time_model(load: Callable[[], Any], golden: Path, settings: Any) -> tuple[Any, dict[str, Any]]:
    """Time a model, and return its session with times and parity.

    No outliers are removed. Warm-up and measurement each last until both their runs and their
    seconds are reached; the measurement never exceeds ``max_runs``.

    Args:
        load: opens a session, onnxruntime's or one with the same methods.
        golden: the file of the golden batch.
        settings: has ``warmup_runs``, ``warmup_seconds``, ``min_runs``, ``min_seconds`` and
            ``max_runs``.
    """
    images, reference = load_golden(golden)
    load_before, temperature_before = load_average(), temperature()

    start = time.perf_counter_ns()
    session = load()
    init_ms = (time.perf_counter_ns() - start) / 1e6
    feed = {session.get_inputs()[0].name: images[:1]}
    (first_ms,) = time_runs(session, feed, 1, 0.0, 1)

    parity = compare(run_batches(session, images, 1), reference)
    time_runs(session, feed, settings.warmup_runs, settings.warmup_seconds, sys.maxsize)
    samples = time_runs(session, feed, settings.min_runs, settings.min_seconds, settings.max_runs)
    times = statistics(samples)
    return session, {
        "init_ms": round(init_ms, 4),
        "first_ms": round(first_ms, 4),
        **times,
        "load_before": load_before,
        "load_after": load_average(),
        "temperature_before": temperature_before,
        "temperature_after": temperature(),
        "noisy": times["cv"] > NOISY_CV,
        "golden": parity,
        "samples_ms": [round(sample, 4) for sample in samples],
    }


def time_runs(
    session: onnxruntime.InferenceSession,
    feed: dict[str, Array],
    min_runs: int,
    min_seconds: float,
    max_runs: int,
) -> list[float]:
    """Time at least ``min_runs`` runs over ``min_seconds``, at most ``max_runs``, each in ms."""
    samples: list[float] = []
    end = time.perf_counter() + min_seconds
    with _running():
        while len(samples) < max_runs and (len(samples) < min_runs or time.perf_counter() < end):
            start = time.perf_counter_ns()
            session.run(None, feed)
            samples.append((time.perf_counter_ns() - start) / 1e6)
    return samples


def peak_rss_mb() -> float | None:
    """Return the peak memory of this process in MB; None if unknown."""
    # On Linux, the value of getrusage includes the peak of the parent process.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) * 1024 / 1e6, 1)
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        bytes_per_unit = 1 if sys.platform == "darwin" else 1024
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit / 1e6, 1)
    return None


def load_average() -> float | None:
    """Return the runnable processes over the last minute; None if unknown."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def temperature() -> float | None:
    """Return the warmest thermal zone in degrees Celsius; None if none is readable."""
    readings = []
    for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        with contextlib.suppress(OSError, ValueError):
            readings.append(int(zone.read_text()) / 1000)
    return max(readings) if readings else None


def check(folder: Path) -> dict[str, Any]:
    """Verify the files against the manifest, and run every model on the golden batch.

    Returns:
        ``network``, ``num_classes``, ``files`` (how many were verified), ``images``, ``runtime``,
        ``passed``, and ``results``: ``precision``, ``shape``, ``golden``, ``status`` and
        ``reason`` of each model.

    Raises:
        DeviceError: the folder is no bundle, or a file is missing, altered or not loadable.
    """
    manifest = verify(folder)
    description = read_description(folder, "package the bundle again")
    images, reference = load_golden(folder / description["golden"]["path"])
    results = []
    for precision, files in description["files"].items():
        for shape in ("dynamic", "static"):
            session = open_session(folder / files[shape]["path"], threads=1)
            logits = run_batches(session, images, 1 if shape == "static" else len(images))
            parity = compare(logits, reference)
            judged = outcome(breach(precision, parity))
            results.append({"precision": precision, "shape": shape, "golden": parity, **judged})
    return {
        "network": description["network"],
        "num_classes": description["num_classes"],
        "files": len(manifest["files"]),
        "images": len(images),
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "passed": all(result["status"] == "passed" for result in results),
        "results": results,
    }


def print_table(checked: dict[str, Any]) -> None:
    """Print the results of :func:`check` for a person."""
    head = "{network} ({num_classes} classes), {files} files unaltered, {images} golden images,"
    print((head + " {runtime}").format(**checked))
    row = "{:<11} {:<8} {:>14} {:>9} {:>10}  {}"
    print(row.format("precision", "batch", "relative error", "cosine", "agreement", "result"))
    for result in checked["results"]:
        parity = ["-" if one is None else f"{one:.5g}" for one in result["golden"].values()]
        verdict = "failed: " + result["reason"] if result["reason"] else "passed"
        print(row.format(result["precision"], result["shape"], *parity, verdict))
    print("passed" if checked["passed"] else "failed")


def describe() -> dict[str, Any]:
    """Describe this machine; None for unknown values."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "governor": _first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "python": platform.python_version(),
        "runtime": f"onnxruntime {onnxruntime.__version__}",
    }


def cpu_name() -> str | None:
    """Return the kernel's name for the processor, or else the board's."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    board = _first_line(Path("/sys/firmware/devicetree/base/model"))
    return fields.get("model name") or board or fields.get("Model") or platform.processor() or None


def _first_line(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").strip("\0\n") or None
    return None


def pin(cpus: str) -> None:
    """Pin this process and its threads to processors such as ``0,2-3``, or raise DeviceError."""
    wanted: set[int] = set()
    try:
        for part in cpus.split(","):
            first, _, last = part.partition("-")
            wanted.update(range(int(first), int(last or first) + 1))
        os.sched_setaffinity(0, wanted)
    except AttributeError:
        raise DeviceError(f"--cpus works only on Linux, not on {platform.system()}") from None
    except (ValueError, OSError):
        there = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        raise DeviceError(f"--cpus {cpus}: expected processors among {there}") from None


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return int(text)


def arguments() -> argparse.Namespace:
    """Parse the command line; ends the process if it is wrong."""
    parser = argparse.ArgumentParser(description="Check or time exported models on this machine.")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument(
        "--check",
        nargs="?",
        type=Path,
        const=Path(__file__).resolve().parent,
        metavar="FOLDER",
        help="verify the files in FOLDER and every model's parity; default: this file's folder",
    )
    mode.add_argument(
        "--profile", action="store_true", help="time --model and print one line of JSON"
    )
    mode.add_argument(
        "--describe",
        nargs="?",
        type=Path,
        const=False,
        metavar="FOLDER",
        help="print this machine's description as one line of JSON; first verify FOLDER, if given",
    )
    parser.add_argument("--json", action="store_true", help="with --check: print one line of JSON")
    parser.add_argument(
        "--cpus", metavar="LIST", help="pin to these processors, such as 0,1 (Linux only)"
    )
    parser.add_argument("--model", type=Path, metavar="FILE", help="a static model, batch 1")
    parser.add_argument(
        "--golden", type=Path, metavar="FILE", help="default: golden.npz beside the model"
    )
    parser.add_argument("--threads", type=_positive, default=1)
    for option, default in PROFILE.items():
        kind = _positive if isinstance(default, int) else float
        parser.add_argument(f"--{option}", type=kind, default=default)
    given = parser.parse_args()
    if given.profile and given.model is None:
        parser.error("--profile needs --model FILE")
    return given


def main() -> int:
    given = arguments()
    try:
        if given.cpus is not None:
            pin(given.cpus)
        if given.profile:
            golden = given.golden or given.model.with_name("golden.npz")
            result = profile(given.model, golden, given.threads, given)
            print(json.dumps(result, allow_nan=False))
        elif given.check is not None:
            checked = check(given.check)
            if given.json:
                print(json.dumps(checked, allow_nan=False))
            else:
                print_table(checked)
            return 0 if checked["passed"] else 1
        else:
            if given.describe:
                verify(given.describe)
            print(json.dumps(describe()))
    except DeviceError as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
