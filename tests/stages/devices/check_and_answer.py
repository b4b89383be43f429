"""Run ``runner.py --check`` of a bundle, and keep the outputs of its models.

``python check_and_answer.py BUNDLE ANSWERS`` needs what the runner needs, Python 3.8 included. The
logits ``[G, K]`` of each model on the golden batch go to the file ANSWERS, an ``.npz``.
"""

import json
import platform
import sys
from pathlib import Path

import numpy as np

bundle, answers = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, str(bundle))
import runner  # noqa: E402  the one in the bundle

run, found = runner.run_batches, []


def kept(*given):
    found.append(run(*given))
    return found[-1]


print(platform.machine(), platform.python_version())
runner.run_batches, sys.argv = kept, ["runner.py", "--check", str(bundle)]
if runner.main() != 0:
    sys.exit(1)
files = json.loads((bundle / "model.json").read_text(encoding="utf-8"))["files"]
names = [shapes[shape]["path"] for shapes in files.values() for shape in ("dynamic", "static")]
np.savez(answers, **dict(zip(names, found)))  # noqa: B905  Python 3.8 has no strict
