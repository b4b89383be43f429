"""How every stage starts and fails: ``python -m stages.<name>``."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from models.errors import InputError, show_what_it_can
from stages.params import Params, load_params

#: Process number of the launcher, in the environment of its workers.
LAUNCHER = "ACKD_LAUNCHER"


def run_stage(stage: Callable[[Params], None]) -> None:
    """Validate all of ``params.yaml``, run the stage, and turn a user's mistake into one sentence.

    Exits with status 1 after an :class:`InputError`, a full disk or a worker process that was
    killed; anything else is a defect of this program and keeps its traceback. SIGINT ends with
    status 130. Where dvc or a launcher of several processes has started it, it ends with that one.
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
            f"error: no space left on the disk{where}; free some and run again,"
            " nothing was half-written"
        )
    except RuntimeError as error:
        # torch raises it from a signal handler, wherever the program happens to be.
        if not str(error).startswith("DataLoader worker"):
            raise
        sys.exit(
            f"error: {str(error).strip(' .')}; free memory, also in /dev/shm, or set ACKD_WORKERS=0"
            " to read images without workers, and run again"
        )
    except KeyboardInterrupt:
        # A second one would end in a traceback of whatever cleans up at the exit.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _end_with_the_parent() -> None:
    """Whoever starts what was killed again, even by ``kill -9``, must not train beside it."""
    # A launcher that is gone by now would not be the parent that its worker asks for.
    parent = int(os.environ.get(LAUNCHER, os.getppid()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
