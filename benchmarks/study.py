"""Train students of one teacher with several settings, and keep the finished ones."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.results import FOLDER, ROOT, Json
from models.errors import InputError
from stages.files import read_csv, read_json, sha256, write_json
from stages.identify_device import CPUINFO, cpu_of_linux
from stages.machine import cores


class Study:
    """Trainings in the folder ``work``, with results in ``benchmarks/results/<name>.json``.

    All students share the sections ``params`` of ``params.yaml``. The folder is kept, so that an
    interrupted training can resume.

    Raises:
        InputError: the results file has other parameters.
    """

    def __init__(self, name: str, params: Json, work: Path) -> None:
        self.params, self.work, self.output = params, work, FOLDER / f"{name}.json"
        work.mkdir(parents=True, exist_ok=True)
        self.results: Json = {"params": params, "teachers": {}, "runs": {}}
        if self.output.exists():
            self.results = read_json(self.output)
        for section in self.results["params"].keys() | params.keys():
            theirs, ours = self.results["params"].get(section), params.get(section)
            if theirs != ours:
                raise InputError(
                    f"{self.output}: holds results with {section} {theirs}, not {ours}; use the"
                    " same, or rename the plan"
                )

    def train_teacher(self, checkpoint: Path | None) -> None:
        """Train the teacher, or load ``checkpoint``, unless that is done."""
        file = self.work / "artifacts/proxy/model.safetensors"
        if not file.exists():
            chosen = self.params
            if checkpoint is not None:
                given = {"weights": str(checkpoint.resolve()), "train": "none"}
                chosen = chosen | {"teacher": chosen["teacher"] | given}
            for stage in ("prepare_data", "train_teacher", "train_proxy"):
                self._run(f"stages.{stage}", chosen)
        metrics = read_json(self.work / "reports/teacher/metrics.json")
        self.teacher = sha256(file)
        self.results["teachers"][self.teacher] = metrics["accuracy"]

    def distil(
        self, name: str, settings: Mapping[str, Json], peer: tuple[str, str] | None = None
    ) -> None:
        """Train a student unless that is done.

        Args:
            name: name of the run.
            settings: the parameters that it changes, ``distill.seed`` among them, by section.
            peer: contender of ``benchmarks.contenders`` that trains it, and its checkout.

        Raises:
            InputError: a run of this name has other settings, or the seed has another teacher.
        """
        done = self.results["runs"].get(name)
        if done is not None and done["settings"] != settings:
            raise InputError(f"{self.output}: {name} had other settings; give it another name")
        if done is not None:
            return
        seed = settings["distill"]["seed"]
        learns = settings["distill"].get("method") != "scratch"
        others = {
            run["teacher"]
            for run in self.results["runs"].values()
            if run["settings"]["distill"]["seed"] == seed and run["teacher"]
        }
        if learns and others - {self.teacher}:
            raise InputError(
                f"{self.output}: seed {seed} has students of another teacher, which cannot be"
                " compared; pass its weights with --teacher-checkpoint and an empty --work, or"
                " choose other seeds with --seed"
            )
        chosen = self.params | {
            section: self.params.get(section, {}) | values for section, values in settings.items()
        }
        cpu, count = cpu_of_linux(CPUINFO)[0] or platform.processor(), cores()
        machine = f"{cpu}, {count} core{'' if count == 1 else 's'}"
        if peer is not None:
            contender, checkout = peer
            self._run(f"benchmarks.contenders.{contender}", chosen, checkout)
            measured = read_json(self.work / f"{contender}.json")
        else:
            self._run("stages.distill", chosen)
            measured = read_json(self.work / "reports/distill/metrics.json")
            machine += f", {read_json(self.work / 'reports/distill/environment.json')['precision']}"
            measured["last_epoch"] = read_csv(self.work / "reports/distill/history.csv")[-1]
        teacher = self.teacher if learns else None
        run: Json = {"machine": machine, "settings": settings, "teacher": teacher} | measured
        if self.output.exists():  # another process may have added runs in the meantime
            kept = read_json(self.output)
            self.results["runs"] |= kept["runs"]
            self.results["teachers"] |= kept["teachers"]
        self.results["runs"][name] = run
        print(f"{name}: {run['accuracy']:.2%}", flush=True)
        write_json(self.output, self.results)

    def _run(self, module: str, params: Json, *arguments: str) -> None:
        """Run a module of this project in the working folder."""
        write_json(self.work / "params.yaml", params)  # JSON is YAML
        command = [sys.executable, "-m", module, *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=self.work, env=environment, check=True)
