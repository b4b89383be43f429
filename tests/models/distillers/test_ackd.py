"""ACKD against Eq. 3 to 7 in numpy, and which parts learn from which."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import models
from models import distillers
from models.distillers.ackd import Ackd
from models.distillers.base import Batch, TeacherOutputs
from models.errors import InputError
from tests.models.distillers.test_feature_methods import in_double
from tests.models.distillers.test_kd import ce, kl, softmax
from tests.models.distillers.tiny import array, convolve, linear, losses_of, settle
from tests.setting import make_setting

OPTIONS: dict[str, Any] = {
    "temperature": 4.0,
    "learners": ["D3B1", "D2B2"],
    "lambda_teacher_to_learners": 1.0,
    "lambda_learners_to_target": 1.0,
    "lambda_adversarial": 1.0,
    "lambda_ce": 1.0,
    "lambda_teacher_to_each": 0.0,
    "lambda_teacher_to_target": 0.0,
    "ramp_up": 0.0,
    "ramp_down": 0.0,
    "attention": True,
    "attention_pool": "none",
    "attention_balance": 0.0,
    "attention_warm_up": 0.0,
    "adversarial": True,
    "objective": "minimax",
    "discriminator_learning_rate": 1e-3,
}
BATCH = Batch(torch.randn(6, 3, 16, 16), torch.tensor([0, 3, 4, 1, 1, 2]), torch.arange(6))
TEACHER = TeacherOutputs(torch.randn(6, 5))


def make(**options: Any) -> Ackd:
    torch.manual_seed(0)
    method = distillers.build("ackd", models.build("resnet8", 5), make_setting(), OPTIONS | options)
    assert isinstance(method, Ackd)
    settle(method)
    return method.eval()


def discriminate(discriminator: nn.Module, x: np.ndarray) -> np.ndarray:
    """Return the probability that each position comes from the discriminator's own learner."""
    for layer in discriminator.layers[::2]:
        scores = convolve(x, array(layer.weight)) + array(layer.bias)[:, None, None]
        x = np.maximum(scores, 0)
    return 1 / (1 + np.exp(-scores))


def attend(method: Ackd, inputs: np.ndarray) -> np.ndarray:
    """Compute Eq. 3."""
    hidden = np.maximum(linear(method.attention.hidden, inputs), 0)
    return softmax(linear(method.attention.weigh, hidden))


def adversarial(discriminators: nn.ModuleList, maps: list[np.ndarray]) -> float:
    """Compute Eq. 4 and 5 term by term."""
    count = len(maps)
    total = 0.0
    for i, j in itertools.permutations(range(count), 2):
        total += np.log(discriminate(discriminators[i], maps[i])).mean()
        total += np.log(1 - discriminate(discriminators[i], maps[j])).mean()
    return total / (count - 1) / count


@pytest.mark.parametrize("pool", ["none", "avg"])
@pytest.mark.parametrize("learners", [["D3B1", "D2B2"], ["D3B1", "D2B2", "D1B3"]])
def test_every_term(learners, pool):
    lambdas = {"lambda_teacher_to_learners": 0.7, "lambda_learners_to_target": 1.3}
    lambdas |= {"lambda_adversarial": 0.4, "lambda_ce": 0.9}
    method = make(learners=learners, attention_pool=pool, **lambdas).double()
    batch, outputs = (in_double(given) for given in (BATCH, TEACHER))
    losses = losses_of(method, batch, outputs)

    target = method.student.features(batch.images)
    features = method.learners(target)
    maps = [array(f.stages[-1]) for f in features]
    logits = [array(f.logits) for f in features]
    labels, teacher = BATCH.labels.numpy(), array(outputs.logits)

    seen = [m.reshape(len(m), -1) if pool == "none" else m.mean((2, 3)) for m in maps]
    weights = attend(method, np.concatenate(seen, axis=1))
    ensemble = sum(weights[:, k : k + 1] * z for k, z in enumerate(logits))
    group = method(batch.images)
    np.testing.assert_allclose(array(group.weights), weights, rtol=1e-9)
    np.testing.assert_allclose(array(group.ensemble), ensemble, rtol=1e-9)

    wanted = {
        "kd_learners": kl(teacher, ensemble, 4.0),  # Eq. 2
        "kd_target": kl(ensemble, array(target.logits), 4.0),  # Eq. 6
        "ce_target": ce(array(target.logits), labels),
        "ce_learners": sum(ce(z, labels) for z in logits),
        "adversarial": adversarial(method.discriminators, maps),
    }
    wanted["total"] = (  # Eq. 7
        0.7 * wanted["kd_learners"]
        + 1.3 * wanted["kd_target"]
        + 0.4 * wanted["adversarial"]
        + 0.9 * (wanted["ce_target"] + wanted["ce_learners"])
    )
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(wanted, rel=1e-9)


def test_options_beyond_the_paper():
    given = {"lambda_teacher_to_each": 0.6, "lambda_teacher_to_target": 0.3, "ramp_up": 0.5}
    method, plain = make(**given), make()
    losses, as_published = losses_of(method, BATCH, TEACHER), losses_of(plain, BATCH, TEACHER)
    target = method.student.features(BATCH.images)
    teacher = array(TEACHER.logits)
    each = sum(kl(teacher, array(f.logits), 4.0) for f in method.learners(target))
    direct = kl(teacher, array(target.logits), 4.0)
    assert losses["kd_each"].item() == pytest.approx(each, rel=1e-4)
    assert losses["kd_direct"].item() == pytest.approx(direct, rel=1e-4)
    missing = (1 - np.exp(-5)) * as_published["kd_target"].item()  # epoch 0 of the ramp
    wanted = as_published["total"].item() + 0.6 * each + 0.3 * direct - missing
    assert losses["total"].item() == pytest.approx(wanted, rel=1e-4)
    method.begin_epoch(4)  # of 8
    total = losses_of(method, BATCH, TEACHER)["total"].item()
    assert total == pytest.approx(wanted + missing, rel=1e-4)


def test_the_learners_losses_ramp_down_at_the_end():
    losses = losses_of(make(lambda_teacher_to_each=0.6), BATCH, TEACHER)
    own = losses["kd_learners"] + losses["ce_learners"] + 0.6 * losses["kd_each"]
    own = (own + losses["adversarial"]).item()
    rest = (losses["kd_target"] + losses["ce_target"]).item()
    method = make(lambda_teacher_to_each=0.6, ramp_down=0.5)
    # The last 4 of 8 epochs follow the curve of ``ramp_up`` backwards.
    for epoch, weight in ((0, 1), (3, 1), (4, np.exp(-5 / 16)), (7, np.exp(-5))):
        method.begin_epoch(epoch)
        total = losses_of(method, BATCH, TEACHER)["total"].item()
        assert total == pytest.approx(rest + weight * own, rel=1e-5)


def test_attention_but_not_discriminators_accepts_several_shapes():
    teacher = models.build("wrn_16_2", 5)
    setting = make_setting(teacher=teacher)
    options = OPTIONS | {"learners": ["D3B1", "D3T"]}
    with pytest.raises(InputError, match="last maps have 64 and 128 channels.*set it to false"):
        distillers.build("ackd", models.build("wrn_16_1", 5), setting, options)
    for pool, inputs in (("none", (64 + 128) * 16), ("avg", 64 + 128)):
        chosen = options | {"adversarial": False, "attention_pool": pool}
        method = distillers.build("ackd", models.build("wrn_16_1", 5), setting, chosen)
        assert method.attention.hidden.in_features == inputs
        weights = method(BATCH.images).weights
        torch.testing.assert_close(weights.sum(1), torch.ones(6))


def test_balance_is_the_squared_variation_of_the_mean_weights():
    options = {"learners": ["D3B1", "D2B2", "D1B3"]}
    method = make(**options, attention_balance=0.7).double()
    batch, teacher = (in_double(given) for given in (BATCH, TEACHER))
    with torch.no_grad():  # far from even
        method.attention.weigh.bias.copy_(torch.tensor([1.0, -1.0, 0.5]))
    losses = losses_of(method, batch, teacher)
    maps = [array(m).reshape(6, -1) for m in method(batch.images).maps]
    weights = attend(method, np.concatenate(maps, axis=1))
    mean = weights.mean(0)
    wanted = (mean.std() / mean.mean()) ** 2
    assert wanted > 0.01
    assert losses["balance"].item() == pytest.approx(wanted, abs=1e-10)
    plain = make(**options).double()
    plain.load_state_dict(method.state_dict())
    rest = losses_of(plain, batch, teacher)["total"].item()
    assert losses["total"].item() == pytest.approx(rest + 0.7 * wanted, abs=1e-10)

    # With respect to the biases of the softmax: d mean_j / d b_k = mean_b w_bj (1{j = k} - w_bk).
    losses["balance"].backward()
    slopes = np.einsum("bj,jk->jk", weights, np.eye(3)) / 6 - weights.T @ weights / 6
    measured = array(method.attention.weigh.bias.grad)
    np.testing.assert_allclose(measured, 3 * 2 * mean @ slopes, rtol=0, atol=1e-10)


def test_attention_begins_after_its_warm_up():
    method, plain = make(attention_warm_up=0.25), make()
    for epoch in range(3):  # of 8
        method.begin_epoch(epoch)
        group = method(BATCH.images)
        if epoch < 2:
            assert torch.equal(group.weights, torch.full((6, 2), 0.5))
        else:
            assert torch.equal(group.weights, plain(BATCH.images).weights)
    # Until then its parameters have zero gradients, because several processes need gradients.
    method.begin_epoch(0)
    losses_of(method, BATCH, TEACHER)["total"].backward()
    assert all(not p.grad.any() for p in method.attention.parameters())


def test_without_attention_learners_have_equal_weights():
    method = make(attention=False)
    group = method(BATCH.images)
    assert torch.equal(group.weights, torch.full((6, 2), 0.5))
    mean = (group.learners[0].logits + group.learners[1].logits) / 2
    assert torch.allclose(group.ensemble, mean)
    assert method.attention is None


@pytest.mark.parametrize("options", [{"adversarial": False}, {"learners": ["D2B2"]}])
def test_without_an_adversary_there_is_no_adversarial_loss(options):
    method = make(**options)
    terms = {"total", "kd_learners", "kd_target", "ce_target", "ce_learners"}
    assert set(losses_of(method, BATCH, TEACHER)) == terms
    assert method.adversary is None
    assert not any(name.startswith("discriminators") for name in method.state_dict())
    if "learners" in options:  # nor has a single learner any attention
        group = method(BATCH.images)
        assert torch.equal(group.ensemble, group.learners[0].logits)


def test_discriminators_maximise_and_diversity_only_flips_the_learners_sign():
    minimax, diversity = make(), make(objective="diversity")
    a, b = losses_of(minimax, BATCH, TEACHER), losses_of(diversity, BATCH, TEACHER)
    assert torch.equal(a["adversarial"], b["adversarial"])
    difference = (a["total"] - b["total"]).item()
    assert difference == pytest.approx(2 * a["adversarial"].item(), rel=1e-5)
    outputs = minimax(BATCH.images)
    for method in (minimax, diversity):
        assert torch.equal(method.adversary_loss(outputs), -a["adversarial"])


def test_discriminators_have_a_separate_step():
    method = make()
    losses_of(method, BATCH, TEACHER)["total"].backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is None) == name.startswith("discriminators"), name
    method.zero_grad()
    method.adversary.requires_grad_(True)
    method.adversary_loss(method(BATCH.images)).backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == name.startswith("discriminators"), name


def test_the_target_learns_from_a_detached_ensemble():
    only = {"lambda_teacher_to_learners": 0.0, "lambda_adversarial": 0.0, "lambda_ce": 0.0}
    method = make(**only)
    losses_of(method, BATCH, TEACHER)["total"].backward()
    for name, parameter in method.named_parameters():
        if name.startswith(("learners", "attention")):
            assert parameter.grad is None or not parameter.grad.any(), name
    assert method.student.fc.weight.grad.any()


def test_discriminator_accuracy_is_the_share_of_right_answers():
    method = make()
    with torch.no_grad():
        group = method(BATCH.images)
        measured = method.discriminators.accuracy(group.maps)
    maps, wanted = list(map(array, group.maps)), np.zeros(6)
    for i, j in ((0, 1), (1, 0)):
        own = (discriminate(method.discriminators[i], maps[i]) > 0.5).mean((1, 2, 3))
        other = (discriminate(method.discriminators[i], maps[j]) < 0.5).mean((1, 2, 3))
        wanted += (own + other) / 4
    np.testing.assert_allclose(measured.numpy(), wanted, atol=1e-6)
