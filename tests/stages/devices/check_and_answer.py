"""Run ``runner.py --check`` of a bundle, and keep what each of its models answers.

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

print(platform.machine(), platform.python_version())
sys.argv = ["runner.py", "--check", str(bundle)]
if runner.main() != 0:
    sys.exit(1)
images, _ = runner.load_golden(bundle / "golden.npz")
files = json.loads((bundle / "model.json").read_text(encoding="utf-8"))["files"]
logits = {}
for shapes in files.values():
    for shape, entry in shapes.items():
        session = runner.open_session(bundle / entry["path"], threads=1)
        logits[entry["path"]] = runner.run_batches(
            session, images, 1 if shape == "static" else len(images)
        )
np.savez(answers, **logits)
