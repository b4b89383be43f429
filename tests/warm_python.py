"""Forks processes from one that has imported everything, so that they start at once.

A stage, a dvc command or a worker of xdist would otherwise spend many seconds on imports.
"""

import atexit
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
import traceback
import types
from multiprocessing.connection import wait
from pathlib import Path

from tests.once import keep_running, once

FORK = multiprocessing.get_context("fork")
_STAGES = ["prepare_data", "train_teacher", "train_proxy", "distill", "prune", "export_onnx"]
_STAGES += ["validate", "profile_latency", "analyze", "report", "gate", "package"]
# Their lazy imports.
_LATE = ["accelerate", "onnxscript", "onnxruntime", "scipy.stats", "stages.data.sources.digits"]
_LATE += ["matplotlib.pyplot", "stages.preflight", "dvc.cli.parser", "dvc.repo.reproduce"]
# What the tests import.
_LATE += ["benchmarks.contenders.ours", "benchmarks.edge", "benchmarks.gpu", "datasets"]
_CLIENT = """\
#!{python} -IS
import os, sys
sys.path.append({root!r})
from tests.ask import ask
pid, code = map(int, ask({address!r}, sys.argv[1:], [0, 1, 2], os.environ).makefile())
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def warm_server() -> Path:
    """Start the server; return its ``socket``'s folder, with the program ``python``."""

    def make(folder: Path) -> None:
        address, root = str(folder / "socket"), str(Path(__file__).parents[1])
        client = folder / "python"
        client.write_text(_CLIENT.format(python=sys.executable, address=address, root=root))
        client.chmod(0o755)
        command = [sys.executable, "-m", "tests.warm_python", address]
        keep_running(command, folder / "log", os.environ | {"PYTHONPATH": root})
        while not Path(address).exists():
            time.sleep(0.01)
            assert not (folder / "log").read_text(), (folder / "log").read_text()

    return once("warm-python", make)


def warm_python() -> Path:
    """Create a program that runs ``-m stages.NAME`` and ``-m dvc`` like ``python``."""
    return warm_server() / "python"


def warm_dvc(*arguments: str) -> list[str]:
    """Run a dvc command."""
    return [str(warm_python()), "-m", "dvc", *arguments]


def run_module(name: str, *arguments: str) -> None:
    """Run a module like ``python -m NAME``."""
    sys.modules.pop(name, None)
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _serve(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen(64)
        Path(f"{address}.new").rename(address)  # clients wait until the imports are done
        try:
            _import_all()
        except Exception:
            traceback.print_exc()  # forks import it again, and fail where it matters
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
    """Run the requested command in a fork; send its process id and exit code."""
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    asked = json.loads(connection.makefile().readline())
    process = FORK.Process(target=_run, args=(files, *asked))
    process.start()
    for file in files:
        os.close(file)
    connection.sendall(f"{process.pid}\n".encode())
    wait([process.sentinel, connection])
    process.kill()  # in case the client has ended first
    process.join()
    connection.sendall(f"{process.exitcode}\n".encode())


def _run(files: list[int], folder: str, variables: dict[str, str], arguments: list[str]) -> None:
    for stream, file in enumerate(files):
        os.dup2(file, stream)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # sh starts servers without it
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.path[0] = folder
    # In a fork, torch's first call of this renews the pool of threads, and fails where a thread of
    # autograd makes its own first call at the same moment.
    import torch

    torch.set_num_threads(int(variables.get("OMP_NUM_THREADS", torch.get_num_threads())))
    if "-c" in arguments:
        _run_code(arguments[arguments.index("-c") + 1])
    else:
        _, name, *rest = arguments
        # Keep the package, because its modules are imported.
        run_module("dvc.__main__" if name == "dvc" else name, *rest)


def _run_code(code: str) -> None:
    """Run a worker of xdist."""
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        exec(code, vars(sys.modules["__main__"]))
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out


if __name__ == "__main__":
    _serve(sys.argv[1])
