"""The bundle on arm64, and with the oldest supported onnxruntime."""

import sys

import numpy as np
import pytest

from tests.packages import pip
from tests.stages.devices import elsewhere
from tests.stages.devices.arm64 import arm64_python
from tests.stages.devices.elsewhere import NUMPY, OLDEST, answers, relative_error

#: Deviations from the tests' onnxruntime, relative to the largest logit. Measured with Python 3.8:
#: fp32 and int8_u8s8 0, fp16 2e-7, int8_s8s8 2e-3.
LIMITS = {"fp32": 1e-6, "fp16": 1e-5, "int8_u8s8": 0.01, "int8_s8s8": 0.01}


@pytest.fixture(scope="module")
def bundle(tiny_exported, tmp_path_factory):
    return elsewhere.make_bundle(tiny_exported, tmp_path_factory.mktemp("elsewhere") / "bundle")


@pytest.fixture(scope="module")
def own(bundle):
    """The outputs on this machine with the tests' onnxruntime."""
    return answers(bundle, [sys.executable], {})


def test_outputs_on_arm64_equal_this_machines(bundle, own):
    lines, logits = answers(bundle, arm64_python(), {})
    assert lines[0].startswith("aarch64 3.")
    assert len([line for line in lines if line.endswith("  passed")]) == len(logits) == 8
    assert lines[-1] == "passed"
    for name, found in logits.items():
        precision = name.split(".")[0]
        # int8_s8s8 adds floats before it rounds, in another order, so an activation may be a step
        # off.
        limit = LIMITS[precision] if "int8" in precision else 1e-6
        assert relative_error(found, own.logits[name]) <= limit, name
        if precision == "int8_u8s8":
            np.testing.assert_array_equal(found, own.logits[name])


def test_the_oldest_onnxruntime_runs_every_file(bundle, own, tmp_path):
    version, python = elsewhere.oldest_python()
    pip(
        *("install", "--target", str(tmp_path), "--python-version", version),
        *(f"onnxruntime=={OLDEST}", f"numpy=={NUMPY[version]}"),
        what=f"onnxruntime {OLDEST} for Python {version}",
    )
    lines, logits = answers(bundle, [python], {"PYTHONPATH": str(tmp_path)})
    assert lines[0].split()[1].startswith(f"{version}.")
    assert lines[1].endswith(f", 8 golden images, onnxruntime {OLDEST}")
    assert lines[-1] == "passed"
    assert len(logits) == 8
    for name, found in logits.items():
        assert relative_error(found, own.logits[name]) <= LIMITS[name.split(".")[0]], name
