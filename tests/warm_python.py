"""Forks stages and dvc commands from a process that has imported them, so they start at once.

``python -m stages.NAME`` would spend some seconds on imports each time.
"""

import gc
import importlib
import json
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

from tests.forked import run_module
from tests.once import keep_running, once

FORK = multiprocessing.get_context("fork")
_STAGES = ["prepare_data", "train_teacher", "train_proxy", "distill", "prune", "export_onnx"]
_STAGES += ["validate", "profile_latency", "analyze", "report", "gate", "package"]
# Their lazy imports.
_LATE = ["accelerate", "onnxscript", "onnxruntime", "scipy.stats", "stages.data.sources.digits"]
_LATE += ["matplotlib.pyplot", "stages.preflight", "dvc.cli.parser", "dvc.repo.reproduce"]
_CLIENT = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({address!r})
    socket.send_fds(connection, [b"."], [0, 1, 2])
    asked = [os.getcwd(), dict(os.environ), sys.argv[2:]]
    connection.sendall(json.dumps(asked).encode() + b"\\n")
    code = connection.recv(1)
sys.exit(code[0] if code else 1)
"""


def warm_python() -> Path:
    """Create a program that runs ``-m stages.NAME`` and ``-m dvc`` like ``python``."""

    def make(folder: Path) -> None:
        address = str(folder / "socket")
        client = folder / "python"
        client.write_text(_CLIENT.format(python=sys.executable, address=address))
        client.chmod(0o755)
        command = [sys.executable, "-m", "tests.warm_python", address]
        root = str(Path(__file__).parent.parent)
        keep_running(command, folder / "log", os.environ | {"PYTHONPATH": root})
        while not Path(address).exists():
            time.sleep(0.01)
            assert not (folder / "log").read_text(), (folder / "log").read_text()

    return once("warm-python", make) / "python"


def warm_dvc(*arguments: str) -> list[str]:
    """Run a dvc command."""
    return [str(warm_python()), "-m", "dvc", *arguments]


def _serve(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen(64)
        Path(f"{address}.new").rename(address)  # clients wait until the imports are done
        _import_all()
        gc.freeze()  # so that collections in forks do not copy the imported modules
        while True:
            connection, _ = listener.accept()
            FORK.Process(target=_answer, args=(connection,)).start()
            connection.close()
            FORK.active_children()  # reaps finished forks


def _import_all() -> None:
    import torch

    import models
    from stages.export_onnx import export_network
    from stages.runtimes.torch_runtime import DeployedNetwork

    for name in [*_LATE, *(f"stages.{name}" for name in _STAGES)]:
        importlib.import_module(name)
    # An export imports much more. Use one thread, because forks would lack the others.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        network = DeployedNetwork(models.build("resnet8", 3), [0.5] * 3, [0.2] * 3)
    export_network(network, 16, 18)
    torch.set_num_threads(threads)


def _answer(connection: socket.socket) -> None:
    """Run the requested command in a fork, and send its exit code."""
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    asked = json.loads(connection.makefile().readline())
    process = FORK.Process(target=_run, args=(files, *asked))
    process.start()
    process.join()
    connection.send(bytes([(process.exitcode or 0) % 256]))


def _run(files: list[int], folder: str, variables: dict[str, str], arguments: list[str]) -> None:
    for stream, file in enumerate(files):
        os.dup2(file, stream)
        os.close(file)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.path[0] = folder
    # In a fork, torch's first call of this renews the pool of threads, and fails where a thread of
    # autograd makes its own first call at the same moment.
    import torch

    torch.set_num_threads(torch.get_num_threads())
    name, *rest = arguments
    # Keep the package, because its modules are imported.
    run_module("dvc.__main__" if name == "dvc" else name, *rest)


if __name__ == "__main__":
    _serve(sys.argv[1])
