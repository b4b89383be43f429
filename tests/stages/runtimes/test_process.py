import os
import subprocess
import sys
from pathlib import Path

from tests.processes import assert_gone, linux

REPOSITORY = Path(__file__).parents[3]
PROGRAM = """
import os, signal, time
from pathlib import Path
from stages.runtimes.process import run_apart

def work():
    Path("pid").write_text(str(os.getpid()))
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)

if __name__ == "__main__":
    run_apart(work)
"""


@linux
def test_a_function_ends_with_the_process_that_called_it(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    where = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, env=where, timeout=60)
    assert_gone(int((tmp_path / "pid").read_text()))
