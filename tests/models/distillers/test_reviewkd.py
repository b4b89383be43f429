"""ReviewKD against its formula in numpy."""

import numpy as np
import pytest
import torch

from models.distillers.reviewkd import ReviewKd
from tests.models.distillers import tiny
from tests.models.distillers.tiny import WEIGHTS, Tiny, array, convolve, normalise, pool
from tests.setting import make_setting


def enlarge(x, height, width):
    """Enlarge a map by nearest neighbours."""
    rows, columns = (
        np.arange(wanted) * given // wanted
        for wanted, given in zip((height, width), x.shape[2:], strict=True)
    )
    return x[:, :, rows][:, :, :, columns]


def context(ours, theirs):
    terms = [((ours - theirs) ** 2).mean()]
    for side in (side for side in (4, 2, 1) if side < ours.shape[2]):
        terms.append(((pool(ours, side, side) - pool(theirs, side, side)) ** 2).mean())
    weights = [0.5**i for i in range(len(terms))]
    return sum(w * term for w, term in zip(weights, terms, strict=True)) / sum(weights)


def from_the_top(features):
    """Return the embedding as a map, and the maps of the stages that both networks have."""
    first, second = map(array, features.stages[:2])
    return [array(features.embedding)[:, :, None, None], second, first]


def reference(method, student, teacher):
    """Compute the loss from the top map down."""
    loss, above = 0.0, None
    for fusion, own, other in zip(method.fusions, student, teacher, strict=True):
        fused = normalise(fusion.reduce[1], convolve(own, array(fusion.reduce[0].weight)))
        if above is not None:
            above = enlarge(above, *fused.shape[2:])
            scores = convolve(np.concatenate([fused, above], 1), array(fusion.gate.weight))
            gates = 1 / (1 + np.exp(-scores - array(fusion.gate.bias)[:, None, None]))
            fused = fused * gates[:, :1] + above * gates[:, 1:]
        above = fused = enlarge(fused, *other.shape[2:])
        compared = normalise(fusion.expand[1], convolve(fused, array(fusion.expand[0].weight)))
        loss += context(compared, other)
    return loss


@pytest.mark.parametrize(
    ("widths", "stride", "size"),
    [
        (((2, 3), (3, 2)), 1, 6),  # 6 and 3 pixels
        (((2, 3), (3, 2)), 2, 6),  # the teacher's maps smaller
        (((2, 3), (3, 2, 4)), 1, 5),  # two stages and three
    ],
)
def test_loss(widths, stride, size):
    torch.manual_seed(0)
    student, teacher = Tiny(*widths[0]), Tiny(*widths[1], stride=stride)
    setting = make_setting(teacher=teacher, image_size=size)
    method = ReviewKd(student, setting, ramp_up=0.25, **WEIGHTS).double()
    tiny.settle(method)
    own = tiny.make_features(student, size, 3, 0)
    other = tiny.detach(tiny.make_features(teacher, size, 3, 1))

    # Half of the weight in the first of two epochs, then all of it.
    halved = method.feature_loss(own, other, None)
    method.begin_epoch(1)
    loss = method.feature_loss(own, other, None)
    wanted = reference(method, from_the_top(own), from_the_top(other))
    assert loss.item() == pytest.approx(wanted, abs=1e-10)
    assert halved.item() == pytest.approx(loss.item() / 2)


def test_widths_are_limited():
    student, teacher = Tiny(2, 600), Tiny(3, 4)
    method = ReviewKd(student, make_setting(teacher=teacher, image_size=4), ramp_up=0.0, **WEIGHTS)
    assert [f.reduce[0].in_channels for f in method.fusions] == [600, 600, 2]
    assert {f.reduce[0].out_channels for f in method.fusions} == {512}
    assert [f.expand[0].out_channels for f in method.fusions] == [4, 4, 3]
