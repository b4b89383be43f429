"""Students of one teacher under several settings: what is done is kept, what is missing is run."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.results import ROOT, Json
from models.errors import InputError
from stages.files import read_json, sha256, write_json
from stages.identify_device import CPUINFO, cpu_of_linux
from stages.machine import cores


class Study:
    """Trainings in the folder ``work``, their results in the file ``output``.

    Args:
        params: the sections of ``params.yaml`` that all students share.
        work: of artifacts and reports; kept, so that an interrupted training goes on.
        output: JSON with ``params``, ``teacher`` and ``runs``.

    Raises:
        InputError: ``output`` holds results of other parameters.
    """

    def __init__(self, params: Json, work: Path, output: Path) -> None:
        self.params, self.work, self.output = params, work, output
        work.mkdir(parents=True, exist_ok=True)
        self.results: Json = {"params": params, "runs": {}}
        if output.exists():
            self.results = read_json(output)
        if self.results["params"] != params:
            raise InputError(f"{output}: holds results of other settings; name another file")

    def train_teacher(self, checkpoint: Path | None) -> None:
        """Train it, or load ``checkpoint``, unless that is done.

        Raises:
            InputError: ``output`` holds results with another teacher.
        """
        file = self.work / "artifacts/proxy/model.safetensors"
        if not file.exists():
            chosen = self.params
            if checkpoint is not None:
                given = {"weights": str(checkpoint.resolve()), "train": "none"}
                chosen = chosen | {"teacher": chosen["teacher"] | given}
            for stage in ("prepare_data", "train_teacher", "train_proxy"):
                self._run_stage(stage, chosen)
        metrics = read_json(self.work / "reports/teacher/metrics.json")
        trained = {"sha256": sha256(file), "accuracy": metrics["accuracy"]}
        if self.results.setdefault("teacher", trained)["sha256"] != trained["sha256"]:
            raise InputError(
                f"{self.output}: holds results with another teacher; give its file as"
                " --teacher-checkpoint and an empty --work, or name another output"
            )
        write_json(self.output, self.results)

    def missing(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Whether the run is still to be made.

        Raises:
            InputError: it was made with other settings.
        """
        found = self.results["runs"].get(name)
        if found is not None and found["settings"] != settings:
            raise InputError(f"{self.output}: {name} had other settings; give it another name")
        return found is None

    def distil(self, name: str, settings: Mapping[str, Json]) -> None:
        """Train a student unless that is done.

        Args:
            name: of the run.
            settings: what it changes, section by section.
        """
        if self.missing(name, settings):
            chosen = self.params | {
                section: self.params.get(section, {}) | values
                for section, values in settings.items()
            }
            self._run_stage("distill", chosen)
            metrics = read_json(self.work / "reports/distill/metrics.json")
            with (self.work / "reports/distill/history.csv").open(encoding="utf-8") as handle:
                *_, last = csv.DictReader(handle)
            self.keep(name, settings, metrics | {"last_epoch": last})

    def keep(self, name: str, settings: Mapping[str, Any], measured: Json) -> None:
        """Add a run's results, ``accuracy`` among them."""
        cpu, _ = cpu_of_linux(CPUINFO)
        count = cores()
        machine = f"{cpu or platform.processor()}, {count} core{'' if count == 1 else 's'}"
        run = {"settings": settings, "machine": machine} | measured
        if self.output.exists():  # another process may have added its own meanwhile
            self.results["runs"] |= read_json(self.output)["runs"]
        self.results["runs"][name] = run
        print(f"{name}: {run['accuracy']:.2%}", flush=True)
        write_json(self.output, self.results)

    def run_module(self, module: str, *arguments: str) -> None:
        """Run a program of this project in the folder of the trainings."""
        command = [sys.executable, "-m", module, *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=self.work, env=environment, check=True)

    def _run_stage(self, stage: str, params: Json) -> None:
        write_json(self.work / "params.yaml", params)  # JSON is YAML
        self.run_module(f"stages.{stage}")


def describe_students(results: Mapping[str, Any]) -> str:
    """Teacher, student and machines of a study's results, as a sentence."""
    teacher, distill = (results["params"][section] for section in ("teacher", "distill"))
    machines = ", ".join(sorted({run["machine"] for run in results["runs"].values()}))
    return (
        f"{teacher['network']} ({teacher['epochs']} epochs, {results['teacher']['accuracy']:.2%})"
        f" to {distill['network']} ({distill['epochs']} epochs), test accuracy after the last"
        f" epoch; {machines}."
    )
