"""Stage ``train_proxy``: train the network that the student learns from.

* ``teacher``: the teacher, unchanged.
* ``early_stopped``: the teacher's network, trained again with its schedule compressed into fewer
  epochs (ESKD: Cho & Hariharan 2019, as described in the ACKD paper).
* ``assistants``: a chain of networks, each distilled from the previous one, starting from the
  teacher (TAKD: Mirzadeh et al. 2020). From candidates, the one with accuracy nearest the mean of
  student and teacher is chosen, as in the ACKD paper.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from models.networks.backbone import Backbone
from models.networks.checkpoint import copied, load_network, save_network
from stages.checkpoints.checkpoint import Checkpoints
from stages.files import new_folder, read_json, write_json
from stages.launch import run_training_stage
from stages.params import Params
from stages.schedule import compressed
from stages.sections.training import Teacher
from stages.training.results import measure_trained
from stages.training.run import Session, start_session

TEACHER = Path("artifacts/teacher/model.safetensors")
TEACHER_METRICS = Path("reports/teacher/metrics.json")
PROXY_FOLDER = Path("artifacts/proxy")
METRICS = Path("reports/proxy/metrics.json")

_SHARED = ("network", "accuracy", "val_accuracy", "parameters", "macs")


def main(params: Params) -> None:
    """Write ``artifacts/proxy`` and its metrics."""
    if params.proxy.method == "teacher":
        if os.environ.get("RANK", "0") != "0":
            return  # one of several processes is enough
        teacher = read_json(TEACHER_METRICS)
        write_json(METRICS, {"method": "teacher"} | {key: teacher[key] for key in _SHARED})
        with new_folder(PROXY_FOLDER) as folder:
            shutil.copyfile(TEACHER, folder / "model.safetensors")
        return
    session = start_session("train_proxy", params)
    engine, proxies = session.engine, _Proxies(session)
    network = proxies.stop_early() if params.proxy.method == "early_stopped" else proxies.descend()
    if engine.is_main:
        last = proxies.chain[-1]
        metrics = {"method": params.proxy.method} | last | {"chain": proxies.chain}
        if proxies.candidates:
            metrics["candidates"] = proxies.candidates
        write_json(METRICS, metrics)
        with new_folder(PROXY_FOLDER) as folder:
            save_network(folder / "model.safetensors", network)
        for checkpoints in proxies.checkpoints:
            checkpoints.clear()
    engine.accelerator.end_training()


class _Proxies:
    """Trains proxies, and keeps their metrics and checkpoints until all are done."""

    def __init__(self, session: Session) -> None:
        self.session, self.params, self.engine = session, session.params, session.engine
        self.chain: list[dict[str, Any]] = []
        self.candidates: list[dict[str, Any]] = []
        self.checkpoints: list[Checkpoints] = []

    def stop_early(self) -> Backbone:
        settings = compressed(self.params.teacher, self.params.proxy.early_stopped.epochs)
        return self._train("early-stopped teacher", settings.network, settings, None)

    def descend(self) -> Backbone:
        network = load_network(TEACHER).to(self.engine.device)
        for name in self.params.proxy.assistants.networks or [self._choose()]:
            network = self._train(f"assistant {name}", name, self.params.teacher, network)
        return network

    def _choose(self) -> str:
        """Choose the candidate nearest the middle of student and teacher in validation accuracy."""
        student, *others = self.params.proxy.assistants.candidates
        for name in (student, *others):
            self._train(f"candidate {name}", name, self.params.teacher, None)
        alone = {link["network"]: link["val_accuracy"] for link in self.chain}
        middle = (alone[student] + read_json(TEACHER_METRICS)["val_accuracy"]) / 2
        chosen = min(others, key=lambda name: abs(alone[name] - middle))
        if self.engine.is_main:
            print(f"assistant: {chosen}, {alone[chosen]:.2%}, nearest the middle, {middle:.2%}")
        self.candidates, self.chain = self.chain, []
        return chosen

    def _train(self, what: str, name: str, settings: Teacher, teacher: Backbone | None) -> Backbone:
        # Other networks can start from published weights, but not from the teacher's file.
        fits = name == settings.network or settings.weights == "pretrained"
        drawn = {"weights": None, "normalization": None, "layer_decay": 1.0}
        kept = {} if fits and settings.train != "none" else drawn
        # An assistant gets images of the student's size.
        kept |= {} if name == settings.network else {"image_size": None}
        settings = settings.model_copy(update={"network": name} | kept)
        session, data = self.session, self.session.data
        network = session.start(what, name, settings).network
        if settings.train == "head" and settings.weights is not None:
            network.freeze_trunk()
        if teacher is None:
            trained = session.train(what, network, settings)
        else:
            options = self.params.proxy.assistants.options()
            trained = session.train(what, network, settings, "kd", options, teacher)
        _, progress, checkpoints = trained
        self.checkpoints.append(checkpoints)
        metrics: dict[str, Any] = {}
        if self.engine.is_main:  # only this process knows the best epoch
            metrics = measure_trained(network, progress, data, session.normalize)
        self.chain.append(self.engine.broadcast(metrics))
        # Return a plain copy, as the trained network may be compiled or have other BatchNorms.
        return copied(network).to(self.engine.device)


if __name__ == "__main__":
    run_training_stage(main, "stages.train_proxy")
