import hashlib
from typing import Any

import numpy as np
import pytest
import torch

import models
from models import distillers
from models.distillers.base import Distiller
from models.errors import InputError
from models.networks.backbone import Backbone
from stages.data.arrays import DataSet
from stages.data.feed.base import FeedPlan
from stages.data.feed.memory import MemoryFeed
from stages.data.feed.normalize import Normalize
from stages.sections.data import Augmentation
from stages.sections.methods import Ackd
from stages.sections.training import EngineSettings, Training
from stages.training.engine import start_engine
from stages.training.evaluate import accuracy, predict
from stages.training.frozen_teacher import FrozenTeacher
from stages.training.history import Progress
from stages.training.loop import Trainer
from tests.setting import make_setting
from tests.splits import write_splits

CPU = torch.device("cpu")
SETTINGS = Training(epochs=8, batch_size=16, learning_rate=0.01)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of three classes that differ in brightness."""
    rng, splits = np.random.default_rng(0), {}
    for split, count in (("train", 96), ("val", 30), ("test", 30)):
        labels = np.arange(count)[:, None, None, None] % 3
        splits[split] = (rng.integers(0, 60, (count, 16, 16, 3)) + 80 * labels).astype(np.uint8)
    folder = tmp_path_factory.mktemp("data")
    return write_splits(folder, splits, "abc", mean=(0.43,) * 3, std=(0.27,) * 3)


SETTING = make_setting()
OPTIONS: dict[str, dict[str, Any]] = {
    "scratch": {},
    "kd": {"temperature": 4.0, "ce_weight": 0.1, "kd_weight": 0.9},
    "ackd": {"temperature": 4.0} | Ackd().model_dump(),
}


def train(
    data: DataSet,
    distiller: Distiller,
    teacher: Backbone | None = None,
    precision: str = "fp32",
    **changes: Any,
) -> Progress:
    settings = SETTINGS.model_copy(update=changes)
    feed = MemoryFeed(FeedPlan(data, Augmentation(crop_padding=1), settings.batch_size, CPU))
    engine = start_engine(EngineSettings(precision=precision))
    engine.place(distiller, data.image_size)
    frozen = FrozenTeacher(teacher, distiller, engine, None, len(feed))
    return Trainer("test", distiller, frozen, feed, data.split("val"), settings, engine).train()


def run(
    data: DataSet, method: str, teacher: Backbone | None = None, **changes: Any
) -> tuple[Distiller, Progress]:
    torch.manual_seed(0)
    distiller = distillers.build(method, models.build("resnet8", 3), SETTING, OPTIONS[method])
    return distiller, train(data, distiller, teacher, **changes)


@pytest.fixture(scope="module")
def teacher(data):
    network = run(data, "scratch")[0].student.eval()
    network.zero_grad()
    return network


def digest(module: torch.nn.Module) -> str:
    parts = [t.numpy().tobytes() for t in module.state_dict().values()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize("method", OPTIONS)
def test_every_method_learns_and_leaves_its_teacher_alone(data, teacher, method):
    before = digest(teacher)
    distiller, trained = run(data, method, None if method == "scratch" else teacher)
    student, normalize = distiller.student.eval(), Normalize(data.mean, data.std, CPU)
    test, val = data.split("test"), data.split("val")
    assert accuracy(predict(student, test, normalize), test) > 0.9
    # The best epoch is the first with the best validation accuracy.
    accuracies = [row["val_accuracy"] for row in trained.history]
    assert trained.best_epoch == accuracies.index(max(accuracies)) + 1
    student.load_state_dict(trained.best_student)
    assert accuracy(predict(student, val, normalize), val) == max(accuracies)
    # Weights, gradients and running statistics of the teacher are unchanged.
    assert digest(teacher) == before
    assert all(p.grad is None for p in teacher.parameters())
    assert not teacher.training


def test_history_has_every_term_and_learner(data, teacher):
    _, trained = run(data, "ackd", teacher, epochs=2)
    assert [row["epoch"] for row in trained.history] == [1, 2]
    wanted = {"epoch", "learning_rate", "seconds", "images_per_second", "val_accuracy"}
    terms = ("total", "kd_learners", "kd_target", "ce_target", "ce_learners", "adversarial")
    wanted |= {f"loss/{term}" for term in terms}
    wanted |= {f"val_accuracy/{name}" for name in ("D3B1", "D2B2", "ensemble")}
    wanted |= {"attention/D3B1", "attention/D2B2", "discriminator_accuracy", "cka/D3B1~D2B2"}
    for row in trained.history:
        assert set(row) == wanted
        assert row["attention/D3B1"] + row["attention/D2B2"] == pytest.approx(1, abs=1e-5)
        assert 0 <= row["cka/D3B1~D2B2"] <= 1 + 1e-9


def test_the_learning_rate_of_the_log_is_that_of_the_classifier(data):
    distiller = distillers.build("scratch", models.build("timm:test_resnet", 3), SETTING, {})
    settings = {"learning_rate": 0.01, "layer_decay": 0.5, "schedule": "multi_step"}
    assert train(data, distiller, epochs=1, **settings).history[0]["learning_rate"] == 0.01


def test_one_image_more_than_full_batches_hold(data):
    # At 16 pixels this network's last maps are 1x1, where BatchNorm learns from two images or more.
    student = models.build("mobilenet_v2_0.5", 3)
    train(data, distillers.build("scratch", student, SETTING, {}), epochs=1, batch_size=95)


def test_validation_is_in_float32_as_the_metrics_are(data):
    class Watched(Distiller):
        needs = "nothing"

        def observe(self, images):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().observe(images)

        def losses(self, outputs, batch, teacher):
            assert outputs.dtype == torch.bfloat16
            return {"total": outputs.float().square().mean()}

    seen = []
    distiller = Watched(models.build("resnet8", 3), SETTING)
    train(data, distiller, precision="bf16", epochs=1)
    assert set(seen) == {False}


def test_the_loss_of_the_log_is_the_mean_over_samples(data):
    class Constant(Distiller):
        needs = "nothing"

        def losses(self, outputs, batch, teacher):
            return {"total": 0 * outputs.sum() + batch.labels.double().mean()}

    # Batches of 36, 36 and 24.
    trained = train(data, Constant(models.build("resnet8", 3), SETTING), batch_size=36)
    assert trained.history[0]["loss/total"] == pytest.approx(1.0)


def test_a_loss_that_is_not_finite_stops_the_run(data):
    distiller = distillers.build("scratch", models.build("resnet8", 3), SETTING, {})
    with pytest.raises(InputError, match="not finite in epoch 1, step 2: loss total; use a"):
        train(data, distiller, learning_rate=1e30, schedule="multi_step")
