from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stages.training.average import Average


def test_it_is_the_mean_by_its_recurrence_and_gives_the_weights_back():
    module = nn.BatchNorm1d(2)
    average, wanted = Average(module, 0.5), {"weight": 1.0, "running_mean": 0.0}
    for step in range(20):
        with torch.no_grad():
            module.weight.fill_(step)
            module.running_mean.fill_(-step)
            module.num_batches_tracked.fill_(step)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        wanted["weight"] = decay * wanted["weight"] + (1 - decay) * step
        wanted["running_mean"] = decay * wanted["running_mean"] - (1 - decay) * step
    resumed = Average(nn.BatchNorm1d(2), 0.5)
    resumed.load_state_dict(average.state_dict())
    assert resumed.steps == 20
    for own, other in zip(resumed.averaged, average.averaged, strict=True):
        assert torch.equal(own, other)
    with average.applied():
        assert module.weight.tolist() == pytest.approx([wanted["weight"]] * 2)
        assert module.running_mean.tolist() == pytest.approx([wanted["running_mean"]] * 2)
        assert int(module.num_batches_tracked) == 19
    assert module.weight.tolist() == [19, 19]
    # Statistics of several processes are merged.
    engine = SimpleNamespace(average_statistics=lambda module: module.running_mean.add_(1.0))
    average.merge(engine)
    with average.applied():
        assert module.running_mean.tolist() == pytest.approx([wanted["running_mean"] + 1] * 2)
    assert module.running_mean.tolist() == [-19, -19]
    average.apply()
    assert module.weight.tolist() == pytest.approx([wanted["weight"]] * 2)
