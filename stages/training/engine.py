"""Devices, processes and precision of a training, through Accelerate."""

import importlib.metadata
import importlib.util
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from models.distillers.base import Distiller
from models.errors import InputError
from models.networks.backbone import Backbone
from stages.machine import cores
from stages.sections.training import EngineSettings
from stages.training.device import prepare_device
from stages.training.onednn import keep_depthwise_in_float32, mask_padding_gradients

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Engine:
    """The processes of a training, and their device and precision."""

    accelerator: Accelerator  # knows this process's device and index
    precision: Precision  # with auto resolved
    settings: EngineSettings

    @property
    def device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and output."""
        return bool(self.accelerator.is_main_process)

    def place(self, distiller: Distiller, image_size: int) -> Distiller:
        """Move a distiller to this process's device, in channels-last layout, and prepare it."""
        distiller.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        mask_padding_gradients(distiller, image_size, self.device)
        if self.device.type == "cpu" and self.precision == "bf16":
            keep_depthwise_in_float32(distiller)
        if self.settings.sync_batchnorm:
            if self.device.type != "cuda":
                raise InputError(
                    "training.sync_batchnorm is true, but torch supports it only on GPUs, and there"
                    " is none; set it to false"
                )
            require_plain_batchnorms(distiller)
            nn.SyncBatchNorm.convert_sync_batchnorm(distiller)  # type: ignore[no-untyped-call]
        if self.settings.compile:
            for module in distiller.modules():
                if isinstance(module, Backbone):
                    compile_network(module)
        return distiller

    def distribute(self, distiller: Distiller) -> nn.Module:
        """Wrap the distiller to average gradients over processes, if there are several."""
        if self.accelerator.num_processes == 1:
            return distiller
        devices = [self.device] if self.device.type == "cuda" else None
        # BatchNorm statistics are local; average_statistics merges them when they matter.
        return DistributedDataParallel(distiller, devices, broadcast_buffers=False)

    def average_statistics(self, module: nn.Module) -> None:
        """Give every process the mean of all processes' BatchNorm statistics.

        Moving averages are linear, so their mean is the moving average over all processes' batches.
        """
        for part in module.modules() if self.accelerator.num_processes > 1 else ():
            if isinstance(part, _BatchNorm) and part.running_mean is not None:
                assert part.running_var is not None
                for statistic in (part.running_mean, part.running_var):
                    statistic.copy_(self.average(statistic.clone()))

    def average(self, tensor: Tensor) -> Tensor:
        """Return the mean over all processes."""
        mean: Tensor = self.accelerator.reduce(tensor, reduction="mean")
        return mean

    def gather(self, tensor: Tensor) -> Tensor:
        """Concatenate all processes' tensors ``[B, ...]`` along the first axis; B may differ."""
        accelerator = self.accelerator
        if accelerator.num_processes == 1:
            return tensor
        counts = accelerator.gather(torch.tensor([len(tensor)], device=self.device)).tolist()
        padded = accelerator.gather(accelerator.pad_across_processes(tensor))
        parts = padded.split(max(counts))
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def broadcast(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return the main process's content in every process; the others' is ignored."""
        (same,) = broadcast_object_list([content])
        return dict(same)

    def collect(self, own: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the content of all processes, in their order."""
        return list(gather_object([own]))

    def track(self, stage: str, what: str) -> None:
        """Start a run of the tracker, if there is one, after ending that of another training."""
        tracker = self.settings.tracker
        if tracker == "none":
            return
        for earlier in self.accelerator.trackers:
            earlier.finish()
        self.accelerator.trackers.clear()
        project = stage if tracker == "mlflow" else f"{stage}/{what}"
        self.accelerator.init_trackers(project, init_kwargs={"mlflow": {"run_name": what}})

    def kernels(self, batch_size: int) -> list[str | int]:
        """Return what a network's last bits depend on besides weights, input and torch."""
        if self.device.type == "cuda":
            return [_device_name(self.device), batch_size, self.accelerator.num_processes]
        return [torch.backends.cpu.get_cpu_capability()]  # see ``stages.training.inference``

    def describe(self) -> dict[str, Any]:
        """Describe what a result depends on besides parameters and code; the same in every run."""
        packages = ("torch", "accelerate", "numpy")
        return {
            "git_revision": _git("rev-parse", "HEAD"),
            "git_clean": _git("status", "--porcelain", "--untracked-files=no") == "",
            "device": _device_name(self.device),
            "processes": self.accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "compile": self.settings.compile,
            "versions": {name: importlib.metadata.version(name) for name in packages},
        }


def start_engine(settings: EngineSettings) -> Engine:
    """Join the other processes, if any; raises InputError if precision or tracker are missing."""
    device = prepare_device()
    precision = choose_precision(settings.precision, device)
    if settings.tracker != "none" and importlib.util.find_spec(settings.tracker) is None:
        raise InputError(
            f"training.tracker is {settings.tracker}, which is not installed; install it with"
            f" `pip install -e '.[{settings.tracker}]'`, or set it to none"
        )
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        log_with=None if settings.tracker == "none" else settings.tracker,
        project_dir="runs",
    )
    if device.type == "cpu" and accelerator.num_processes > 1:
        torch.set_num_threads(max(1, cores() // accelerator.num_processes))
    return Engine(accelerator, precision, settings)


def choose_precision(wanted: Precision | Literal["auto"], device: torch.device) -> Precision:
    """Resolve ``auto``: bf16 if the processor computes it faster, otherwise fp32.

    The processor's features decide, not a measurement, so every run on a machine chooses the same.

    Raises:
        InputError: fp16 without a GPU.
    """
    if wanted == "fp16" and device.type != "cuda":
        raise InputError("training.precision is fp16, which needs a GPU; use auto, bf16 or fp32")
    if wanted == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    return wanted


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bf16 faster than fp32.

    Among Intel processors, only those with AMX do: with ``avx512_bf16`` alone, bf16 runs at half
    the speed of fp32 (see docs/benchmarks.md). For others, support is taken to mean speed.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        told = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return False
    if "GenuineIntel" in told:
        return "amx_bf16" in told
    return bool(told & {"avx512_bf16", "bf16"})


def require_plain_batchnorms(trained: nn.Module) -> None:
    """Refuse timm's BatchNorms with a built-in activation, which the conversion would drop."""
    for network in trained.modules():
        if isinstance(network, Backbone) and any(
            isinstance(module, nn.BatchNorm2d) and type(module) is not nn.BatchNorm2d
            for module in network.modules()
        ):
            raise InputError(
                f"training.sync_batchnorm is true, but torch cannot convert the custom BatchNorms"
                f" of {network.name}; set it to false, or choose another network"
            )


def compile_network(network: Backbone) -> None:
    """Compile a network from its stem to its logits, in place.

    Each shape gets its own code. Dynamic shapes would be detected at another step in a resumed
    training, and change its last bits.
    """
    # A student and its learners share a method, and each meets a few batch sizes.
    torch._dynamo.config.recompile_limit = 64
    if network.num_stages == 0:  # a whole network of another library
        network.forward = torch.compile(network.forward, dynamic=False)  # type: ignore[method-assign]
        return
    compiled = torch.compile(network.features_from, dynamic=False)
    network.features_from = compiled  # type: ignore[method-assign]


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
