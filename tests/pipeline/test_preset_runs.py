"""Train each pair of the paper for an epoch on its data set, with two images per class.

One always runs; the others take minutes: ``pytest -m slow tests/pipeline``.
"""

import json
import shutil
from collections import Counter
from pathlib import Path

import datasets
import pytest

import models
from models.errors import InputError
from pipeline import presets
from stages import distill, prepare_data, train_proxy, train_teacher
from stages.params import PARAMS_FILE, load_params
from tests.pipeline.conftest import ROOT
from tests.pipeline.test_presets import PAIRS

REAL = ROOT.parent / "shared" / "data"
FOLDERS = {
    "cifar100": "cifar100",
    "cinic10": "cinic10-samples",
    "tiny_imagenet": "tiny-imagenet",
    "imagenet": "imagenet-18",
}
ALWAYS = "cinic10/resnet110_resnet20"
CELLS = [
    pytest.param(pair, method, marks=[] if pair == ALWAYS else [pytest.mark.slow], id=pair)
    for pair in PAIRS
    for method in ("eskd" if "resnet56" in pair else "ackd",)
]
# Small learning rates and several batches per epoch: after only two, BatchNorm's running averages
# are still close to the initial ones, and 110 layers overflow float16.
SHORT = [
    f"{section}.{setting}"
    for section in ("teacher", "distill")
    for setting in ("epochs=1", "learning_rate=0.001", "schedule=one_cycle", "milestones=[]")
]
SMALL = ["data.train_per_class=2", "proxy.early_stopped.epochs=1", *SHORT]


def few(folder: Path, into: Path) -> Path:
    """Copy the first images of each class of a data set in the hub's layout."""
    (into / "data").mkdir(parents=True)
    for split, rows in datasets.load_dataset(str(folder)).items():
        label = "fine_label" if "fine_label" in rows.features else "label"
        wanted, seen, chosen = 4 if split == "train" else 1, Counter[int](), []
        for number, value in enumerate(rows[label][:]):
            seen[value] += 1
            if seen[value] <= wanted:
                chosen.append(number)
        rows.select(chosen).to_parquet(into / f"data/{split}-00000-of-00001.parquet")
    return into


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real images are not at {REAL}")
@pytest.mark.parametrize(("pair", "method"), CELLS)
def test_an_epoch(pair, method, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "presets", "presets")
    shutil.copyfile(ROOT / PARAMS_FILE, PARAMS_FILE)
    data = pair.partition("/")[0]
    folder = REAL / FOLDERS[data]
    images = "imagefolder" if data == "imagenet" else "hf"
    if images == "hf":
        folder = few(folder, tmp_path / "images")
    batch_size = 4 if data in ("cinic10", "imagenet") else 16  # 20 and 36 images there
    batches = [f"{section}.batch_size={batch_size}" for section in ("teacher", "distill")]
    presets.use([pair, f"methods/{method}"], [*SMALL, *batches], source=f"{images}:{folder}")
    params = load_params()
    for network in (params.teacher.network, params.distill.network):
        try:
            models.build(network, 10)
        except InputError as error:
            pytest.skip(str(error))
    for stage in (prepare_data, train_teacher, train_proxy, distill):
        stage.main(params)
    report = json.loads(Path("reports/data.json").read_text())
    assert set(report["splits"]["train"]["per_class"]) == {2}
    for name, network in (("teacher", params.teacher.network), ("distill", params.distill.network)):
        metrics = json.loads(Path(f"reports/{name}/metrics.json").read_text())
        assert (metrics["network"], metrics["epochs"]) == (network, 1)
    if method == "ackd":
        assert list(metrics["learners"]) == [*params.distill.ackd.learners, "ensemble"]
