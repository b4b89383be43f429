"""A small finished chain, as its stages would have left it: for the tests of what reads it all."""

from __future__ import annotations

import csv
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

import models
from models import distillers
from models.checkpoint import save_network, save_state
from models.distillers.base import Setting
from stages.files import sha256, write_csv, write_json
from stages.params import Params
from stages.sections.methods import Distill

CLASSES = ["red", "green", "blue", "a <b> & $c$"]
SIZE = 16
LEARNERS = ["D3B1", "D2B2"]
PRECISIONS = ["fp32", "fp16", "int8_u8s8", "int8_s8s8"]
DEVICE = {
    "system": "Linux",
    "machine": "x86_64",
    "cpu": "Example CPU @ 2.0 GHz",
    "cores": 2,
    "cpu_features": ["avx2", "fma"],
    "memory_gb": 8.0,
    "governor": None,
    "gpu": None,
    "python": "3.11.9",
    "runtimes": {"onnxruntime": "1.31.1", "torch": "2.14.1", "tensorrt": None},
}


def write_data(count: int = 24, seed: int = 0) -> None:
    """Noise with one bright channel a class (grey for the last), in ``artifacts/data``."""
    folder = Path("artifacts/data")
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    splits = {}
    for split in ("train", "val", "test"):
        labels = random.integers(0, len(CLASSES), count)
        images = random.integers(0, 120, (count, SIZE, SIZE, 3), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[4:12, 4:12, label if label < 3 else slice(None)] += 120
        np.save(folder / f"{split}_images.npy", images)
        np.save(folder / f"{split}_labels.npy", labels)
        per_class = np.bincount(labels, minlength=len(CLASSES)).tolist()
        splits[split] = {"count": count, "per_class": per_class}
    head = {"source": "digits", "image_size": SIZE, "classes": CLASSES}
    head |= {"mean": [0.3, 0.3, 0.3], "std": [0.2, 0.2, 0.2]}
    head |= {"val_images_also_in_train": 0, "test_images_also_in_train": 2}
    write_json(folder / "manifest.json", {**head, "splits": splits})
    noted = {"notes": ["not used: extra"], "damaged": ["cat/1.png (not an image)"]}
    write_json(Path("reports/data.json"), {**head, "splits": splits, **noted})


def write_networks(settings: Distill, seed: int = 0) -> None:
    """A teacher, its copy as proxy, and a student with all that its method trains beside it.

    None of them is trained, and every weight is drawn, so that no two answer alike.
    """
    torch.manual_seed(seed)
    teacher, student = (models.build(name, len(CLASSES)) for name in ("resnet14", "resnet8"))
    setting = Setting(teacher, SIZE, torch.zeros(24, dtype=torch.int64), 8, 1)
    method = distillers.build(settings.method, student, setting, settings.options())
    for module in [*teacher.modules(), *method.modules()]:
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.5)
    for name in ("teacher", "proxy", "student", "distilled"):
        Path("artifacts", name).mkdir(parents=True)
    for name in ("teacher", "proxy"):
        save_network(Path("artifacts", name, "model.safetensors"), teacher)
    save_network(Path("artifacts/student/model.safetensors"), student)
    header = {
        "method": settings.method,
        "network": student.name,
        "num_classes": len(CLASSES),
        "learners": [name.partition("#")[0] for name in method.learner_names()],
        "buffers": [],
    }
    save_state(Path("artifacts/distilled/model.safetensors"), method.state_dict(), header)


def write_onnx() -> None:
    """``artifacts/onnx`` with real models: the mean colour times a matrix, in each precision."""
    folder = Path("artifacts/onnx")
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    weight = random.normal(size=(3, len(CLASSES))).astype(np.float32)
    files: dict[str, Any] = {}
    for precision in PRECISIONS:
        files[precision] = {}
        for shape, batch in (("dynamic", "batch"), ("static", 1)):
            path = folder / f"{precision}.{shape}.onnx"
            onnx.save(_mean_colour(weight, batch, precision), path)
            files[precision][shape] = {
                "path": path.name,
                "sha256": sha256(path),
                "bytes": path.stat().st_size,
            }
    images = random.integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(
        folder / "fp32.dynamic.onnx", providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(None, {"images": images})
    np.savez(folder / "golden.npz", images=images, logits=logits, labels=logits.argmax(1))
    (folder / "labels.json").write_text(json.dumps(CLASSES))
    write_json(
        folder / "model.json",
        {
            "network": "resnet8",
            "num_classes": len(CLASSES),
            "image_size": SIZE,
            "mean": [0.3, 0.3, 0.3],
            "std": [0.2, 0.2, 0.2],
            "opset": 18,
            "ir_version": 10,
            "input": "images",
            "output": "logits",
            "student_sha256": "0" * 64,
            "files": files,
            "failed": {},
            "quantization": {
                "int8_u8s8": {
                    "made_by": "fine-tuning",
                    "calibration": {"method": "minmax", "images": 256},
                    "decided_on": {
                        "split": "val",
                        "images": 180,
                        "fp32": 0.9778,
                        "calibrated": 0.9556,
                        "finetuned": 0.9722,
                    },
                },
                "int8_s8s8": {
                    "made_by": "calibration",
                    "calibration": {"method": "minmax", "images": 256},
                    "decided_on": None,
                },
            },
            "golden": {
                "path": "golden.npz",
                "sha256": sha256(folder / "golden.npz"),
                "images": len(images),
            },
        },
    )


def _mean_colour(weight: np.ndarray, batch: str | int, precision: str) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        precision,
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, len(CLASSES)])],
        [
            numpy_helper.from_array(np.array([1, 2]), "axes"),
            numpy_helper.from_array(weight, "weight"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"precision": precision})
    return model


ENVIRONMENT = {
    "git_revision": "989e1df0c3a2b4d5e6f708192a3b4c5d6e7f8091",
    "git_clean": False,
    "device": "cpu",
    "processes": 2,
    "threads": 1,
    "precision": "bf16",
    "deterministic": True,
    "compile": False,
    "versions": {"torch": "2.14.1", "accelerate": "1.15.0", "numpy": "2.3.1"},
}


def write_training(epochs: int = 15, method: str = "ackd", learners: list[str] = LEARNERS) -> None:
    """Metrics and curves of teacher, proxy and student, and what ``prune`` dropped."""
    teacher = {
        "network": "resnet20",
        "accuracy": 0.9889,
        "val_accuracy": 0.9861,
        "best_epoch": 11,
        "best_val_accuracy": 0.9889,
        "accuracy_at_best": 0.9861,
        "parameters": 272474,
        "macs": 40813184,
        "epochs": epochs,
        "seconds": 61.2,
    }
    write_json(Path("reports/teacher/metrics.json"), teacher)
    write_json(Path("reports/teacher/environment.json"), ENVIRONMENT)
    write_json(Path("reports/distill/environment.json"), ENVIRONMENT)
    write_json(Path("reports/proxy/metrics.json"), {**teacher, "method": "teacher"})
    _write_history("teacher", epochs, [])
    learners = learners if method == "ackd" else []
    student = {
        **teacher,
        "network": "resnet8",
        "method": method,
        "accuracy": 0.975,
        "parameters": 78042,
        "macs": 12501632,
    }
    if learners:
        student["learners"] = dict.fromkeys(learners, 0.9722) | {"ensemble": 0.9806}
    write_json(Path("reports/distill/metrics.json"), student)
    _write_history("distill", epochs, learners)
    sizes = {
        "learners.0": 57962,
        "learners.1": 73258,
        "attention": 524610,
        "discriminators.0": 2625,
    }
    dropped = sizes if len(learners) > 1 else {"learners.0": 57962} if learners else {}
    write_json(
        Path("reports/prune.json"),
        {
            "network": "resnet8",
            "parameters": {
                "training": 78042 + sum(dropped.values()),
                "student": 78042,
                "plain": 78042,
            },
            "macs": {
                "training": 12501632 + (9900000 if learners else 0),
                "student": 12501632,
                "plain": 12501632,
            },
            "dropped": dropped,
            "bit_equal": True,
            "images": 360,
        },
    )


def _write_history(stage: str, epochs: int, learners: list[str]) -> None:
    path = Path(f"reports/{stage}/history.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(epochs)
    rows = []
    for epoch in range(1, epochs + 1):
        left = np.exp(-epoch / 3) + random.uniform(0, 0.02)
        row = {
            "epoch": epoch,
            "learning_rate": 0.1 * (1 - epoch / (epochs + 1)),
            "seconds": 4.1,
            "images_per_second": 310.0,
            "loss/total": 3 * left * (4 if learners else 1),
            "train_accuracy": 1 - left,
            "val_accuracy": 0.99 - 0.9 * left,
        }
        if learners:
            row |= {f"loss/{term}": left * n for n, term in enumerate(("kd", "self", "ce"), 1)}
            row["loss/adversarial"] = -2.2 - left
            row |= {f"val_accuracy/{name}": 0.98 - left for name in [*learners, "ensemble"]}
            row |= {f"attention/{name}": 1 / len(learners) + left * (-1) ** n * 0.4
                    for n, name in enumerate(learners)}  # fmt: skip
        if len(learners) > 1:
            row["discriminator_accuracy"] = 0.6 + 0.3 * left
            row |= {f"cka/{a}~{b}": 0.9 - 0.3 * left for a, b in combinations(learners, 2)}
        rows.append(row)
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_measurements(learners: bool = True) -> None:
    """Device, validation, latency and analysis."""
    write_json(Path("reports/device.json"), DEVICE)
    drops = dict(zip(PRECISIONS, (0.0, 0.0, 0.0028, 0.0056), strict=True))
    made_by = {"int8_u8s8": "fine-tuning", "int8_s8s8": "calibration"}
    results = [
        {
            "runtime": "onnxruntime",
            "version": "1.31.1",
            "provider": "CPUExecutionProvider",
            "dtypes": ["float32"],
            "layers": None,
            "precision": precision,
            "shape": shape,
            "made_by": made_by.get(precision),
            "file": f"{precision}.{shape}.onnx",
            "status": "passed",
            "reason": None,
            "golden": {
                "max_relative_error": 3e-7 if shape == "static" else 4e-7,
                "cosine": 1.0,
                "top1_agreement": 1.0,
                "batch_sizes": [1, 3, 16] if shape == "dynamic" else [1],
            },
            "accuracy": 0.975 - drops[precision],
            "drop": drops[precision],
            "drop_low": drops[precision] - 0.006,
            "drop_high": drops[precision] + 0.008,
            "agreement": 1 - drops[precision],
            "calibration_error": 0.012 + drops[precision],
            "images": 360,
            "latency": None,
        }
        for precision in PRECISIONS
        for shape in ("dynamic", "static")
    ]
    skipped = {
        "runtime": "tensorrt",
        "version": None,
        "provider": None,
        "dtypes": None,
        "layers": None,
        "precision": "fp32",
        "shape": "static",
        "made_by": None,
        "file": "fp32.static.onnx",
        "status": "skipped",
        "reason": "no NVIDIA GPU",
        "golden": None,
        "accuracy": None,
        "drop": None,
        "drop_low": None,
        "drop_high": None,
        "agreement": None,
        "calibration_error": None,
        "images": None,
        "latency": None,
    }
    write_json(
        Path("reports/validation.json"),
        {"torch": {"accuracy": 0.975, "images": 360}, "results": [*results, skipped]},
    )
    _write_latency()
    write_json(Path("reports/litert.json"), {"enabled": False, "versions": None, "results": []})
    write_json(
        Path("reports/analysis.json"),
        {
            "pairs": [
                {"a": "teacher", "b": "proxy", "cka": 1.0, "kl": 0.0},
                {"a": "teacher", "b": "student", "cka": 0.8123, "kl": 0.0912},
                {"a": "proxy", "b": "student", "cka": 0.8123, "kl": 0.0912},
            ],
            "accuracy": {"teacher": 0.9889, "proxy": 0.9889, "student": 0.975},
            "gap": {"teacher_proxy": 0.0, "teacher_student": 0.0139, "proxy_student": 0.0139},
            "calibration": {
                name: {
                    "error": error,
                    "bins": [
                        {"from": 0.6, "images": 60, "confidence": 0.64, "accuracy": 0.64 - error},
                        {"from": 0.933333, "images": 300, "confidence": 0.99, "accuracy": 0.98},
                    ],
                }
                for name, error in (("teacher", 0.01), ("proxy", 0.01), ("student", 0.02))
            },
            "learners": {
                "cka": {"D3B1~D2B2": 0.8711},
                "agreement": {
                    "target~D3B1": 0.98,
                    "target~D2B2": 0.97,
                    "target~ensemble": 0.99,
                    "D3B1~D2B2": 0.9694,
                    "D3B1~ensemble": 0.985,
                    "D2B2~ensemble": 0.975,
                },
                "accuracy": {"target": 0.975, "D3B1": 0.9667, "D2B2": 0.9722, "ensemble": 0.98},
                "attention": {"D3B1": 0.6127, "D2B2": 0.3873},
            }
            if learners
            else None,
            "baseline": None,
            "images": 360,
            "test_images": 360,
        },
    )
    write_class_figures(learners=learners)


def write_class_figures(count: int = 4, learners: bool = True, gains: bool = False) -> None:
    """``reports/classes.csv``; student and gain rise with the class's number."""
    names = CLASSES if count == len(CLASSES) else [f"class {n}" for n in range(count)]
    rows = []
    for n, name in enumerate(names):
        row: dict[str, Any] = {"class": name, "images": 90, "accuracy/teacher": 0.99}
        row["accuracy/student"] = 0.9 + 0.08 * n / count
        if learners:
            row |= {"attention/D3B1": 0.55 + 0.1 * n / count}
            row["attention/D2B2"] = 1 - row["attention/D3B1"]
        if gains:
            gain = 0.1 * (n / (count - 1) - 0.5)
            row |= {"gain": gain, "gain_low": gain - 0.02, "gain_high": gain + 0.02}
        rows.append(row | {"images_digest": "0" * 16, "student_right": "00" * 12})
    write_csv(Path("reports/classes.csv"), rows)


def _write_latency() -> None:
    random = np.random.default_rng(7)
    centres = dict(zip(PRECISIONS, (0.31, 0.52, 0.17, 0.42), strict=True))
    samples, results = {}, []
    for precision in PRECISIONS:
        for threads in (1, 2):
            count = 400 if precision == "fp16" else 3000
            times = centres[precision] / threads**0.5 * (1 + random.gamma(1.5, 0.04, count))
            times = times.round(6)
            samples[f"local:|onnxruntime|{precision}|{threads}"] = times.tolist()
            p50, p90, p99 = (float(np.percentile(times, q)) for q in (50, 90, 99))
            results.append(
                {
                    "device": "local:",
                    "runtime": "onnxruntime",
                    "version": "1.31.1",
                    "provider": "CPUExecutionProvider",
                    "precision": precision,
                    "file": f"{precision}.static.onnx",
                    "model_sha256": "0" * 64,
                    "threads": threads,
                    "init_ms": 12.1,
                    "first_ms": 1.9,
                    "n": count,
                    "min_ms": float(times.min()),
                    "p50_ms": p50,
                    "p90_ms": p90,
                    "p99_ms": p99 if count >= 500 else None,
                    "mean_ms": float(times.mean()),
                    "cv": float(times.std() / times.mean()),
                    "peak_rss_mb": 61.0,
                    "load_before": 0.4,
                    "load_after": 0.6,
                    "temperature_before": None,
                    "temperature_after": None,
                    "noisy": precision == "int8_s8s8",
                    "golden": {"max_relative_error": 3e-7, "cosine": 1.0, "top1_agreement": 1.0},
                    "status": "passed",
                    "reason": None,
                }
            )
    Path("artifacts/latency").mkdir(parents=True)
    write_json(Path("artifacts/latency/samples.json"), samples)
    device = {"device": "local:", "system": "Linux", "machine": "x86_64"}
    device |= {"cpu": DEVICE["cpu"], "cores": 2, "governor": None, "python": "3.11.9"}
    device |= {"runtime": "onnxruntime 1.31.1"}
    write_json(Path("reports/latency.json"), {"devices": [device], "results": results})


def write_params(content: str = "gate: {min_accuracy: 0.97}\n") -> Params:
    Path("params.yaml").write_text(content)
    return Params()


def write_chain(method: str = "ackd") -> None:
    """All that ``report`` reads but the Grad-CAM panel's content, which is one grey pixel."""
    write_params()
    write_data()
    write_onnx()
    write_training(method=method)
    write_measurements(learners=method == "ackd")
    from PIL import Image

    Path("artifacts/analysis").mkdir(parents=True)
    Image.new("RGB", (1, 1), "grey").save("artifacts/analysis/grad_cam.png")
