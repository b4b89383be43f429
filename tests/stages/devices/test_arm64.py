"""The bundle on arm64, as on phones and on a Raspberry Pi, without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages.identify_device import identify
from tests.stages.devices.arm64 import arm64_python
from tests.stages.devices.elsewhere import answers, make_bundle, own_answers, relative_error


def test_arm64_answers_as_this_machine_does(tiny_exported: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tiny_exported, tmp_path / "bundle")
    lines, logits = answers(bundle, arm64_python(), {})
    assert lines[0].startswith("aarch64 3.")
    assert len([line for line in lines if line.endswith("  passed")]) == len(logits) == 8
    assert lines[-1] == "passed"
    own = own_answers(bundle).logits
    exact = any("vnni" in feature for feature in identify()["cpu_features"])
    for name, found in logits.items():
        # For int8 too: one step of one activation would show a thousand times as much.
        assert relative_error(found, own[name]) <= 1e-6, name
        # The last layer of the other int8 is a sum of floats, whose order is each machine's own.
        # x86 without VNNI clips some sums of u8 times s8.
        if exact and name.startswith("int8_u8s8"):
            np.testing.assert_array_equal(found, own[name])
