"""Preparing and training on more images takes no more memory."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.processes import linux

ROOT = Path(__file__).parents[3]
SIZE, FEW, MANY = 160, 100, 1500  # in memory, the training images are 5 and 83 MB

pytestmark = linux

PEAK = """
import os
from pathlib import Path

def peak(process="self"):
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
"""

PREPARE = f"""{PEAK}
from stages.entry import run_stage
from stages.prepare_data import main

run_stage(main)
print(peak())
"""

EPOCH = f"""{PEAK}
import torch
from stages.data.arrays import load_data
from stages.data.feed.base import FeedPlan
from stages.data.feed.stream import StreamFeed
from stages.params import Augmentation

augmentation = Augmentation(crop_padding=20, horizontal_flip=True)
feed = StreamFeed(FeedPlan(load_data(), augmentation, 32, torch.device("cpu")), workers=1)
workers = {{}}
for _ in feed.epoch(0):
    (task,) = Path("/proc/self/task").glob(f"{{os.getpid()}}/children")
    workers |= {{child: peak(child) for child in task.read_text().split()}}
assert len(workers) == 1
print(peak() + sum(workers.values()))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Create a project for each number of images, with the images beside its parameters."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(40):
        image = Image.fromarray(rng.integers(0, 256, (10, 10, 3), np.uint8))
        encoded = io.BytesIO()
        image.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(encoded, "JPEG")
        files.append(encoded.getvalue())
    found = {count: tmp_path_factory.mktemp(f"images-{count}") for count in (FEW, MANY)}
    for count, folder in found.items():
        for number in range(count):
            path = folder / "images" / f"class-{number % 10}" / f"{number:08d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[number % len(files)])
        data = {"source": "imagefolder:images", "image_size": SIZE}
        (folder / "params.yaml").write_text(json.dumps({"data": data}))
    yield found
    for folder in found.values():
        shutil.rmtree(folder)


@pytest.mark.parametrize("program", [PREPARE, EPOCH], ids=["prepare", "epoch"])
def test_the_peak_does_not_depend_on_the_number_of_images(folders, program):
    few, many = (peak_kb(folders[count], program) for count in (FEW, MANY))
    assert many < 1.1 * few


def peak_kb(folder: Path, program: str) -> int:
    """Return the peak of a program and its workers; shared memory counts for each."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program]
    printed = subprocess.check_output(command, cwd=folder, env=env, text=True)
    return int(printed.splitlines()[-1])
