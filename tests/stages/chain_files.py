"""Writes the files of a small finished chain, for tests of the stages that read them."""

import json
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import models
from models import distillers
from models.distillers.base import Setting
from models.networks.checkpoint import save_network, save_state
from stages.files import read_json, sha256, write_csv, write_json
from stages.sections.methods import Distill

CLASSES = ["red", "green", "blue", "a <b> & $c$"]
SIZE = 16
LEARNERS = ["D3B1", "D2B2"]
PRECISIONS = ["fp32", "fp16", "int8_u8s8", "int8_s8s8"]


def write_data(count: int = 24) -> None:
    """Noise with one bright channel a class (grey for the last), in ``artifacts/data``."""
    folder = Path("artifacts/data")
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
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
    head = {"source": "digits", "image_size": SIZE, "fit": "crop", "classes": CLASSES}
    head |= {"mean": [0.3, 0.3, 0.3], "std": [0.2, 0.2, 0.2]}
    head |= {"val_images_also_in_train": 0, "test_images_also_in_train": 2}
    write_json(folder / "manifest.json", {**head, "splits": splits})
    noted = {"notes": ["not used: extra"], "damaged": ["cat/1.png (not an image)"]}
    write_json(Path("reports/data.json"), {**head, "splits": splits, **noted})


def write_networks(settings: Distill) -> None:
    """Write a teacher, its copy as proxy, and a student with the other modules of its method.

    All are untrained with random weights, so that their outputs differ.
    """
    torch.manual_seed(0)
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
    header = {"method": settings.method, "network": student.name, "num_classes": len(CLASSES)}
    learners = [name.partition("#")[0] for name in method.learner_names]
    header |= {"learners": learners, "buffers": []}
    save_state(Path("artifacts/distilled/model.safetensors"), method.state_dict(), header)


def write_onnx() -> None:
    """Write ``artifacts/onnx`` with real models: the mean colour times a matrix, per precision."""
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
            known = {"path": path.name, "sha256": sha256(path), "bytes": path.stat().st_size}
            files[precision][shape] = known
    images = random.integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(folder / "fp32.dynamic.onnx")
    (logits,) = session.run(None, {"images": images})
    np.savez(folder / "golden.npz", images=images, logits=logits, labels=logits.argmax(1))
    (folder / "labels.json").write_text(json.dumps(CLASSES))
    golden = folder / "golden.npz"
    model = {
        "network": "resnet8",
        "num_classes": len(CLASSES),
        "image_size": SIZE,
        "resize": SIZE,
        "fit": "crop",
        "mean": [0.3, 0.3, 0.3],
        "std": [0.2, 0.2, 0.2],
        "opset": 18,
        "ir_version": 10,
        "input": "images",
        "output": "logits",
        "student_sha256": "0" * 64,
        "files": files,
        "failed": {},
        "int8": {},
        "calibration": {"method": "minmax", "images": 256},
        "golden": {"path": golden.name, "sha256": sha256(golden), "images": len(images)},
    }
    write_json(folder / "model.json", model)


def _mean_colour(weight: np.ndarray, batch: str | int, precision: str) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weight"], ["logits"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, SIZE, SIZE, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, len(CLASSES)])
    constants = {"axes": np.array([1, 2]), "weight": weight}
    initial = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, precision, [images], [logits], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"precision": precision})
    return model


def write_training(epochs: int = 15, method: str = "ackd", learners: list[str] = LEARNERS) -> None:
    """Write the curves, and the reports of ``chain`` for this method and these learners."""
    learners = learners if method == "ackd" else []
    sizes = read_json(Path("reports/prune.json"))
    dropped = sizes["dropped"]
    if len(learners) < 2:
        dropped = {"learners.0": dropped["learners.0"]} if learners else {}
    sizes["parameters"]["training"] = sizes["parameters"]["student"] + sum(dropped.values())
    if not learners:
        sizes["macs"]["training"] = sizes["macs"]["student"]
    write_json(Path("reports/prune.json"), sizes | {"dropped": dropped})
    for stage, shown in (("teacher", []), ("distill", learners)):
        path = Path(f"reports/{stage}/metrics.json")
        metrics = read_json(path) | {"epochs": epochs}
        if stage == "distill":
            metrics |= {"method": method, "learners": dict.fromkeys(learners, 0.9722)}
            metrics["learners"] |= {"ensemble": 0.9806}
            if not learners:
                del metrics["learners"]
        write_json(path, metrics)
        _write_history(stage, epochs, shown)
    if not learners:
        analysis = read_json(Path("reports/analysis.json")) | {"learners": None}
        write_json(Path("reports/analysis.json"), analysis)


def _write_history(stage: str, epochs: int, learners: list[str]) -> None:
    path = Path(f"reports/{stage}/history.csv")
    random = np.random.default_rng(epochs)
    rows = []
    for epoch in range(1, epochs + 1):
        left = np.exp(-epoch / 3) + random.uniform(0, 0.02)
        row = {"epoch": epoch, "learning_rate": 0.1 * (1 - epoch / (epochs + 1))}
        row |= {"seconds": 4.1, "images_per_second": 310.0}
        row |= {"loss/total": 3 * left * (4 if learners else 1)}
        row |= {"train_accuracy": 1 - left, "val_accuracy": 0.99 - 0.9 * left}
        if learners:
            row |= {f"loss/{term}": left * n for n, term in enumerate(("kd", "self", "ce"), 1)}
            row["loss/adversarial"] = -2.2 - left
            row |= {f"val_accuracy/{name}": 0.98 - left for name in [*learners, "ensemble"]}
            for n, name in enumerate(learners):
                row[f"attention/{name}"] = 1 / len(learners) + left * (-1) ** n * 0.4
        if len(learners) > 1:
            row["discriminator_accuracy"] = 0.6 + 0.3 * left
            row |= {f"cka/{a}~{b}": 0.9 - 0.3 * left for a, b in combinations(learners, 2)}
        rows.append(row)
    write_csv(path, rows)


def write_class_figures(count: int = 4, learners: bool = True, gains: bool = False) -> None:
    """Write ``reports/classes.csv``; student and gain rise with the class's number."""
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
    """Write latency samples, and update their statistics in ``reports/latency.json``."""
    random = np.random.default_rng(7)
    centres = dict(zip(PRECISIONS, (0.31, 0.52, 0.17, 0.42), strict=True))
    report, samples = read_json(Path("reports/latency.json")), {}
    for row in report["results"]:
        centre, threads = centres[row["precision"]], row["threads"]
        times = centre / threads**0.5 * (1 + random.gamma(1.5, 0.04, row["n"]))
        times = times.round(6)
        samples[f"local:|onnxruntime|{row['precision']}|{threads}"] = times.tolist()
        p50, p90, p99 = (float(np.percentile(times, q)) for q in (50, 90, 99))
        row |= {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99 if row["n"] >= 500 else None}
        row |= {"min_ms": float(times.min()), "mean_ms": float(times.mean())}
        row["cv"] = float(times.std() / times.mean())
    Path("artifacts/latency").mkdir(parents=True)
    write_json(Path("artifacts/latency/samples.json"), samples)
    write_json(Path("reports/latency.json"), report)


def write_chain(method: str = "ackd") -> None:
    """All that ``report`` reads but the Grad-CAM panel's content, which is one grey pixel."""
    shutil.copytree(Path(__file__).with_name("chain"), Path(), dirs_exist_ok=True)
    Path("params.yaml").write_text("gate: {min_accuracy: 0.97}\n")
    write_data()
    write_onnx()
    write_training(method=method)
    _write_latency()
    write_class_figures(learners=method == "ackd")
    Path("artifacts/analysis").mkdir(parents=True)
    Image.new("RGB", (1, 1), "grey").save("artifacts/analysis/grad_cam.png")
    Image.new("RGB", (1, 1), "red").save("artifacts/analysis/errors.png")
