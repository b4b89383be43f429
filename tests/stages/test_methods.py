"""What must hold for every method: it goes on exactly where it was stopped."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from models.checkpoint import save_network
from stages import distill
from stages.params import Params
from stages.sections.methods import Distill
from stages.training.display import Display

METHODS = Distill.model_fields["method"].annotation.__args__  # type: ignore[union-attr]
STUDENT = Path("artifacts/distilled/model.safetensors")


@pytest.fixture
def root(tiny_origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with 48 training images and an untrained teacher."""
    shutil.copytree(tiny_origin / "artifacts/data", tmp_path / "artifacts/data")
    torch.manual_seed(3)
    (tmp_path / "artifacts/proxy").mkdir()
    save_network(tmp_path / "artifacts/proxy/model.safetensors", models.build("resnet14", 3))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("method", METHODS)
def test_stopped_within_an_epoch_it_ends_in_the_same_weights(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    settings = {"method": method, "epochs": 3, "batch_size": 12, "learning_rate": 0.01}
    params = Params.model_validate(
        {
            "augmentation": {"crop_padding": 1},
            "training": {"precision": "fp32", "checkpoint_minutes": 1e-9},
            "distill": settings | {"network": "resnet8"},
        }
    )
    distill.main(params)
    wanted = STUDENT.read_bytes()
    STUDENT.unlink()

    steps = []
    show = Display.step

    def stop(display: Display, losses: Any) -> None:
        show(display, losses)
        steps.append(losses)
        if len(steps) == 6:  # the second of epoch 2, before its checkpoint
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Display, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            distill.main(params)
    assert not STUDENT.exists()
    distill.main(params)
    assert "an interrupted training goes on at epoch 2, step 2" in capsys.readouterr().out
    assert STUDENT.read_bytes() == wanted
