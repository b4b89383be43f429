"""timm's own ``train.py`` with distillation, unchanged, from a checkout of timm.

``python -m benchmarks.contenders.timm_train CHECKOUT`` runs a complete training for
``benchmarks.comparison``. It reads images from files, which is the usual way to run that script.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

_FOLDER = Path("timm_train")


def main(checkout: str) -> None:
    """Train with the ``params.yaml`` of a study's folder, and write ``timm_train.json``."""
    params, data = json.loads(Path("params.yaml").read_text()), Path("artifacts/data")
    manifest = json.loads((data / "manifest.json").read_text())
    classes, size = len(manifest["classes"]), manifest["image_size"]
    for split, name in (("train", "train"), ("test", "validation")):
        _write_images(data, split, _FOLDER / "images" / name)
    _write_teacher(params["teacher"], classes, size)
    command = [sys.executable, f"{checkout}/train.py", *map(str, _flags(params, manifest))]
    command += ["--num-classes", str(classes), "--img-size", str(size)]
    rates: list[str] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as training:
        assert training.stderr is not None
        for line in training.stderr:
            sys.stderr.write(line)
            rates += re.findall(r"Train: .*Time: .*\( *[\d.]+s, +([\d.]+)/s\)", line)
    if training.returncode:
        sys.exit("timm's train.py failed; see its output above")
    with (_FOLDER / "run/summary.csv").open() as handle:
        *_, last = csv.DictReader(handle)
    accuracy, rate = float(last["eval_top1"]) / 100, float(rates[-1])  # the mean over the epoch
    measured = {"accuracy": accuracy, "images_per_second": rate}
    Path("timm_train.json").write_text(json.dumps(measured))


def _flags(params: dict[str, Any], manifest: dict[str, Any]) -> list[Any]:
    """Translate our settings to its flags, and switch off everything we do not use."""
    distill, augmentation = params["distill"], params["augmentation"]
    own = distill["normalization"] or manifest
    name = distill["network"].removeprefix("timm:")
    flags = ["--data-dir", _FOLDER / "images", "--output", _FOLDER, "--experiment", "run"]
    flags += ["--model", name, "--pretrained", "--pretrained-path", distill["weights"]]
    flags += ["--kd-model-name", f"local-dir:{_FOLDER / 'teacher'}"]
    flags += ["--kd-temperature", distill["temperature"]]
    flags += ["--task-loss-weight", distill["kd"]["ce_weight"]]
    flags += ["--distill-loss-weight", distill["kd"]["kd_weight"]]
    flags += ["--mean", *own["mean"], "--std", *own["std"], "--crop-pct", 1]
    flags += ["--opt", distill["optimizer"], "--lr", distill["learning_rate"]]
    flags += ["--weight-decay", distill["weight_decay"], "--layer-decay", distill["layer_decay"]]
    warmup = round(distill["warmup"] * distill["epochs"])
    flags += ["--epochs", distill["epochs"] - warmup, "--warmup-epochs", warmup, "--warmup-prefix"]
    flags += ["--batch-size", distill["batch_size"]]
    flags += ["--sched", distill["schedule"], "--sched-on-updates"]
    flags += ["--scale", augmentation["crop_area"], 1, "--color-jitter", 0, "--smoothing", 0]
    flags += ["--seed", distill["seed"], "--channels-last", "--checkpoint-hist", 1]
    flags += ["--val-interval", distill["epochs"]]  # ours does not use the test images before
    flags += ["--workers", os.cpu_count(), "--device"]
    return [*flags, "cuda" if torch.cuda.is_available() else "cpu"]


def _write_images(data: Path, split: str, folder: Path) -> None:
    """Write the images of a split as files, one folder per class."""
    images, labels = (np.load(data / f"{split}_{kind}.npy") for kind in ("images", "labels"))
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / f"{label:04}" / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def _write_teacher(teacher: dict[str, Any], classes: int, size: int) -> None:
    """Write the teacher in the format of timm's ``local-dir``."""
    name = teacher["network"].removeprefix("timm:")
    network = timm.create_model(name, num_classes=classes)
    network.load_state_dict(load_file("artifacts/proxy/model.safetensors"))
    folder = _FOLDER / "teacher"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), str(folder / "model.safetensors"))
    published = {"input_size": [3, size, size], "num_classes": classes}
    published |= teacher["normalization"]  # timm's config uses the same keys
    config = {"architecture": name, "num_classes": classes, "pretrained_cfg": published}
    (folder / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main(sys.argv[1])
