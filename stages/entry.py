"""Start a stage, ``python -m stages.<name>``, and report its failure."""

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from models.errors import InputError, show_what_it_can
from stages.params import Params, load_params

#: Environment variable with the launcher's process id, set for its workers.
LAUNCHER = "ACKD_LAUNCHER"


def run_stage(stage: Callable[[Params], None]) -> None:
    """Validate ``params.yaml``, run the stage, and report a user's mistake in one sentence.

    Exits with status 1 after an :class:`InputError`, a full disk or a killed worker process; any
    other error is a bug and keeps its traceback. SIGINT exits with status 130. If dvc or a launcher
    started the stage, it also ends when that process does.
    """
    show_what_it_can()
    if {"DVC_STAGE", "RANK"} & os.environ.keys():
        _end_with_the_parent()
    try:
        stage(load_params())
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        sys.exit(
            f"error: no space left on the disk{where}; free some and run again;"
            " no file was left incomplete"
        )
    except RuntimeError as error:
        # torch raises this from a signal handler, anywhere in the program.
        if not str(error).startswith("DataLoader worker"):
            raise
        sys.exit(
            f"error: {str(error).strip(' .')}; free memory, also in /dev/shm, or set ACKD_WORKERS=0"
            " to read images without workers, and run again"
        )
    except KeyboardInterrupt:
        # A second SIGINT would cause a traceback from the cleanup at exit.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _end_with_the_parent() -> None:
    """End with the parent, even after ``kill -9``, so that a new run never trains beside this."""
    # If the launcher has died already, this process has another parent and ends at once.
    parent = int(os.environ.get(LAUNCHER, os.getppid()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
