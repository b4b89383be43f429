"""Run by each of two processes: ``distill`` with every method, then all proxies."""

import os
import sys
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from stages import distill, train_proxy
from stages.entry import LAUNCHER
from stages.launch import run_training_stage
from stages.params import Params
from tests.stages.test_methods import METHODS
from tests.warm_python import warm_python

PROXIES: dict[str, dict[str, Any]] = {
    "early_stopped": {"method": "early_stopped", "early_stopped": {"epochs": 1}},
    "assistants": {
        "method": "assistants",
        "assistants": {"candidates": ["resnet8", "resnet14", "resnet8x4"]},
    },
}


UNLABELED = {"method": "kd", "unlabeled_share": 0.35}  # 5 of 14 images, an odd number


def main(params: Params) -> None:
    """Write a folder with artifacts and reports for each method and each proxy."""
    Accelerator.end_training = lambda _: None  # they would have to reconnect
    content = params.model_dump(by_alias=True)
    for method in METHODS:
        chosen = content | {"distill": content["distill"] | {"method": method}}
        distill.main(Params.model_validate(chosen))
        keep(method, "artifacts/distilled", "reports/distill")
    more = {"data": {"unlabeled": "digits"}, "distill": content["distill"] | UNLABELED}
    distill.main(Params.model_validate(content | more))
    keep("unlabeled", "artifacts/distilled", "reports/distill")
    for name, proxy in PROXIES.items():
        train_proxy.main(Params.model_validate(content | {"proxy": proxy}))
        keep(name, "artifacts/proxy", "reports/proxy")


def keep(name: str, artifacts: str, reports: str) -> None:
    """Move away the first process's results."""
    if os.environ["RANK"] == "0":
        Path(name).mkdir()
        Path(artifacts).rename(Path(name, "artifacts"))
        Path(reports).rename(Path(name, "reports"))


if __name__ == "__main__":
    sys.executable = str(warm_python())  # which starts both processes at once
    os.environ.pop(LAUNCHER, None)  # it would be the parent of processes that are not forked
    run_training_stage(main, "tests.stages.training.two_processes")
