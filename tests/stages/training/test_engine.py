import copy
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import accelerate
import pytest
import torch
from accelerate.tracking import GeneralTracker
from torch import nn
from torch._dynamo.utils import counters

import models
from models import distillers
from models.distillers.base import Batch, Distiller, TeacherOutputs
from models.errors import InputError
from stages.sections.training import EngineSettings
from stages.training import engine as engines
from stages.training.engine import choose_precision, has_fast_bf16, start_engine
from tests.setting import make_setting
from tests.stages.training.test_loop import OPTIONS

CPU = torch.device("cpu")


def built(network: str = "resnet8", method: str = "scratch") -> Distiller:
    return distillers.build(method, models.build(network, 3), make_setting(), OPTIONS[method])


@pytest.mark.parametrize(
    ("cpuinfo", "fast"),
    [
        ("vendor_id : AuthenticAMD\nflags : avx2 avx512f avx512_bf16 fma", True),
        ("vendor_id : AuthenticAMD\nflags : avx2 avx512f", False),
        ("vendor_id : GenuineIntel\nflags : avx512f avx512_bf16 amx_bf16", True),
        ("vendor_id : GenuineIntel\nflags : avx512f avx512_bf16", False),
        ("CPU implementer : 0x41\nFeatures : asimd i8mm bf16", True),
        ("CPU implementer : 0x41\nFeatures : asimd", False),
    ],
)
def test_auto_takes_bf16_where_it_is_faster(monkeypatch, cpuinfo, fast):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: cpuinfo)
    assert has_fast_bf16(CPU) is fast
    assert choose_precision("auto", CPU) == ("bf16" if fast else "fp32")
    assert choose_precision("fp32", CPU) == "fp32"
    assert choose_precision("bf16", CPU) == "bf16"


def test_half_precision_needs_a_gpu():
    with pytest.raises(InputError, match="training.precision is fp16, which needs a GPU; use auto"):
        choose_precision("fp16", CPU)


def test_what_is_not_there_is_refused_before_training(monkeypatch):
    import importlib.util

    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(InputError, match=r"training.tracker is mlflow, which is not installed"):
            start_engine(EngineSettings(tracker="mlflow"))
    engine = start_engine(EngineSettings(sync_batchnorm=True, precision="fp32"))
    if engine.device.type == "cpu":
        with pytest.raises(InputError, match="true, but torch supports it only on GPUs"):
            engine.place(built(), 16)


class Tracker(GeneralTracker):
    """Notes its runs, and like MLflow has only one at a time."""

    name, tracker, requires_logging_directory = "noting", None, False
    runs: ClassVar[list[tuple[Any, ...]]] = []
    active: ClassVar[list[str]] = []

    def __init__(self, *given: str, **named: str) -> None:
        super().__init__(_blank=True)
        self.run = (*given, *named.values())

    def start(self) -> None:
        assert not self.active
        self.active.append(self.run)
        self.runs.append(self.run)

    def finish(self) -> None:
        self.active.clear()


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("tensorboard", [("train_proxy/assistant a", "runs"), ("train_proxy/assistant b", "runs")]),
        ("mlflow", [("train_proxy", "assistant a"), ("train_proxy", "assistant b")]),
    ],
)
def test_each_training_has_its_own_run_of_the_tracker(monkeypatch, name, runs):
    monkeypatch.setattr(Tracker, "runs", [])
    monkeypatch.setattr(Tracker, "requires_logging_directory", name == "tensorboard")
    monkeypatch.setitem(accelerate.accelerator.LOGGER_TYPE_TO_CLASS, name, Tracker)
    engine = start_engine(EngineSettings())
    engine.accelerator.log_with, engine.accelerator.project_configuration.logging_dir = (
        [name],
        "runs",
    )
    engine = replace(engine, settings=EngineSettings(tracker=name))
    for network in "ab":
        engine.track("train_proxy", f"assistant {network}")
    engine.accelerator.end_training()
    assert Tracker.runs == runs
    assert not Tracker.active


def test_batchnorms_that_hold_an_activation_are_not_taken_apart():
    for name in ("resnet8", "timm:test_resnet"):
        engines.require_plain_batchnorms(built(name))
    with pytest.raises(InputError, match="custom BatchNorms of timm:test_efficientnet"):
        engines.require_plain_batchnorms(built("timm:test_efficientnet"))


def test_the_environment_is_the_same_each_time():
    engine = start_engine(EngineSettings(precision="fp32"))
    described = engine.describe()
    assert described == engine.describe()
    assert described["precision"] == "fp32"
    assert described["deterministic"] is True
    assert described["processes"] == 1
    assert described["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_networks_learn_the_same(monkeypatch):
    # Skip code generation for the processor, which takes long and belongs to torch.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    counters.clear()
    gradients = []
    for compile_ in (False, True):
        engine = start_engine(EngineSettings(precision="fp32", compile=compile_))
        torch.manual_seed(0)
        distiller = engine.place(built(), 16)
        torch.manual_seed(1)
        images = torch.randn(8, 3, 16, 16).to(memory_format=torch.channels_last)
        labels = torch.arange(8) % 3
        batch = Batch(images, labels, labels)
        distiller.losses(distiller(images), batch, TeacherOutputs())["total"].backward()
        gradients.append([p.grad for p in distiller.parameters()])
    assert counters["aot_autograd"]["ok"] > 0
    for eager, compiled in zip(*gradients, strict=True):
        assert eager is not None
        torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4)


def test_depthwise_convolutions_stay_in_float32():
    engine = start_engine(EngineSettings(precision="bf16"))
    if engine.device.type != "cpu":
        pytest.skip("only a CPU's bf16 is slow at them")
    distiller = built("mobilenet_v2_0.5")
    plain = copy.deepcopy(distiller.student)
    engine.place(distiller, 16)
    placed = copy.deepcopy(distiller).student  # like for averaged weights
    kinds = {}
    for module in placed.modules():
        if isinstance(module, nn.Conv2d):
            wide = module.groups > 1
            module.register_forward_hook(
                lambda _m, _i, out, wide=wide: kinds.setdefault(wide, set()).add(out.dtype)
            )
    with torch.no_grad():
        for weights in placed.parameters():
            weights.mul_(1.5)
    images = torch.randn(4, 3, 16, 16)
    with engine.accelerator.autocast():
        placed(images)
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}
    plain.load_state_dict(placed.state_dict())
    torch.testing.assert_close(placed.eval()(images), plain.eval()(images))
