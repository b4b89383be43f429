"""Check that a GPU computes correct results: the comparing parts of ``benchmarks.gpu``."""

import contextlib
import dataclasses
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import load_file

from benchmarks.gpu_plan import Plan, attempt, reason
from benchmarks.networks import backward, load_pair, one_batch, teach
from benchmarks.results import Json
from benchmarks.worker import Task
from models import distillers
from models.distillers.base import Batch, Setting
from models.errors import InputError
from models.networks.checkpoint import save_network
from stages import distill
from stages.data.arrays import load_data
from stages.files import read_csv
from stages.params import parse_params
from stages.sections.methods import Distill
from stages.training.device import prepare_device


def repeats(plan: Plan) -> Iterator[Json]:
    """Check that two runs, and one that was killed and resumed, produce the same bytes."""
    task = plan.task(plan.first)
    teacher, _ = load_pair(task)
    save_network(Path("teacher.safetensors"), teacher)
    with ThreadPoolExecutor() as pool:  # most of the time is process start-up
        waiting = [
            pool.submit(attempt, {"title": method.upper()}, _repeat, plan, task, method)
            for method in ("kd", "ackd")
        ]
        yield from (row.result() for row in waiting)


def _repeat(plan: Plan, task: Task, method: str) -> Json:
    """Run the stage ``distill`` three times in parallel, resume one of them, and compare."""
    context: Any = multiprocessing.get_context(plan.start)
    settings = {"method": method, "network": task.student, "batch_size": task.batch_size}
    params: Json = {"distill": settings | {"epochs": 2}}
    often = params | {"training": {"checkpoint_minutes": 1e-9}}
    folders = [Path(method, name).absolute() for name in ("first", "second", "killed")]
    for folder in folders:
        (folder / "artifacts/proxy").mkdir(parents=True)
        (folder / "artifacts/data").symlink_to(Path(task.data).absolute())
        file = folder / "artifacts/proxy/model.safetensors"
        file.symlink_to(Path("teacher.safetensors").absolute())
    first, second, killed = folders
    given = [(first, params), (second, params), (killed, often), (killed, often)]
    one, two, three, resumed = (context.Process(target=_distill, args=each) for each in given)
    for process in (one, two, three):
        process.start()
    while not list(killed.glob(".checkpoints/distill/*/*.checkpoint")) and three.is_alive():
        time.sleep(0.01)
    three.kill()
    three.join()
    if (killed / "artifacts/distilled").exists():
        raise InputError("the training ended before it was killed")
    resumed.start()
    for process in (one, two, resumed):
        process.join()
    if failed := [file.read_text() for folder in folders for file in folder.glob("reason")]:
        raise InputError(failed[0])
    others = {"second run": second, "killed and resumed": killed}
    return {name: difference(first, other) for name, other in others.items()}


def _distill(folder: Path, params: Json) -> None:
    os.environ["ACKD_LOGITS"] = str(folder / "logits")
    os.environ.pop("ACKD_CHECKPOINTS", None)
    with contextlib.chdir(folder):
        try:
            distill.main(parse_params(params))
        except Exception as error:  # reported like the failure of a row
            Path("reason").write_text(reason(error))


def difference(one: Path, other: Path) -> str:
    """Return ``same bytes``, or name the first epoch and tensor that differ in two projects."""
    files = [folder / "artifacts/distilled/model.safetensors" for folder in (one, other)]
    if files[0].read_bytes() == files[1].read_bytes():
        return "same bytes"
    a, b = (read_csv(folder / "reports/distill/history.csv") for folder in (one, other))
    timed = {"seconds", "images_per_second"}
    epochs = [
        row["epoch"]
        for row, twin in zip(a, b, strict=True)
        if any(row[key] != twin[key] for key in row.keys() - timed)
    ]
    where = f"from epoch {epochs[0]} on" if epochs else "not in the history"
    x, y = (load_file(file) for file in files)
    for name, tensor in x.items():
        if not torch.equal(tensor, y[name]):
            gap = float((tensor.double() - y[name].double()).abs().max())
            return f"differs {where}; first tensor {name}, by up to {gap:.1e}"
    return f"differs {where}; all tensors are equal"


def losses(plan: Plan) -> Iterator[Json]:
    """Compare one fp32 step of every method on CPU and GPU, without TF32 and as in training."""
    task = plan.task(plan.first)
    for method in get_args(Distill.model_fields["method"].annotation):
        yield attempt({"title": method}, _against_cpu, task, method)


def _against_cpu(task: Task, method: str) -> Json:
    device = prepare_device()
    cpu = _one_step(task, method, torch.device("cpu"))
    row: Json = {"losses": cpu}
    for key, tf32 in (("without TF32", False), ("as in training", True)):
        torch.backends.cudnn.allow_tf32 = tf32  # torch's default is True
        found = _one_step(task, method, device)
        errors = {name: abs(found[name] - v) / max(abs(v), 1e-12) for name, v in cpu.items()}
        row[key] = max(errors.values())
        row[f"largest {key}"] = max(errors, key=lambda name: errors[name])
    return row


def _one_step(task: Task, method: str, device: torch.device) -> dict[str, float]:
    """Return the losses of 16 images and the norm of all gradients."""
    teacher, student = load_pair(task)
    data = load_data(Path(task.data))
    torch.manual_seed(0)
    images, labels = one_batch(dataclasses.replace(task, batch_size=16), device)
    every = torch.from_numpy(data.labels("train"))
    setting = Setting(teacher, data.image_size, every, len(labels), epochs=1)
    distiller = distillers.build(method, student, setting, Distill(method=method).options())  # type: ignore[arg-type]
    distiller.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    indices = torch.arange(len(labels), device=device)
    batch = Batch(images, every[indices.cpu()].to(device), indices)
    found = backward(distiller, batch, teach(teacher.to(device), images))
    gradients = [p.grad for p in distiller.parameters() if p.grad is not None]
    found["gradient"] = torch.nn.utils.get_total_norm(gradients)
    return {name: value.item() for name, value in found.items()}


def tensorrt(plan: Plan) -> Iterator[Json]:
    """Compare the student's TensorRT engine with torch, one image at a time."""
    from stages.runtimes.tensorrt_runtime import TensorRtRuntime
    from stages.sections.export import Profile

    runtime = TensorRtRuntime(timing=Profile(min_seconds=plan.seconds))
    if absent := runtime.unavailable():
        raise InputError(absent)
    for name in plan.pairs:
        task = plan.task(name)
        for dtype in (torch.float32, torch.float16):
            title = f"{task.student}, {str(dtype).removeprefix('torch.')}"
            yield attempt({"title": title}, _by_engine, runtime, task, dtype)


def _by_engine(runtime: Any, task: Task, dtype: torch.dtype) -> Json:
    from stages.devices.rules import compare
    from stages.export_onnx import export_network, fix_batch
    from stages.runtimes.base import Job
    from stages.runtimes.torch_runtime import DeployedNetwork, run_torch
    from stages.sections.export import Export

    data, model = load_data(Path(task.data)), Path("student.onnx")
    plain, deployed = (
        DeployedNetwork(load_pair(task)[1], data.mean, data.std, kind).eval()
        for kind in (torch.float32, dtype)
    )
    job = Job(data.images("test").first(64), 1)
    reference = run_torch(plain, job)
    content = fix_batch(export_network(deployed, data.image_size, Export().opset))
    model.write_bytes(content.SerializeToString())
    ran = runtime.run(model, [job])
    times = {key: statistics.median(found) for key, found in ran.times._asdict().items()}
    return times | {"dtypes": ran.dtypes} | compare(ran.logits[0], reference)
