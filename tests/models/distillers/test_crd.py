"""CRD against its formula in numpy, its memories and its negatives."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.distillers.base import Batch
from models.distillers.crd import Crd
from models.networks.backbone import Features
from tests.models.distillers import tiny
from tests.models.distillers.test_feature_methods import CRD
from tests.models.distillers.tiny import Array, Tiny, array, linear, losses_of, make_features, teach
from tests.setting import make_setting

OPTIONS = tiny.WEIGHTS | CRD
SAMPLES = 48


def make(*, seed: int = 0, **options: Any) -> Crd:
    torch.manual_seed(seed)
    setting = make_setting(teacher=Tiny(3, 2, 4, 5), image_size=8)
    return Crd(Tiny(2, 3, 2), setting, **(OPTIONS | options))


def make_batch(*indices: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(len(indices), 3, 8, 8, generator=generator)
    return Batch(images, torch.tensor(indices) % 3, torch.tensor(indices))


FOUR = make_batch(3, 7, 8, 40)


def features_for(method: Crd, batch: Batch, seed: int = 0) -> tuple[Features, Features]:
    student = make_features(method.student, 8, len(batch.indices), seed)
    teacher = make_features(Tiny(3, 2, 4, 5), 8, len(batch.indices), seed + 100)
    return student, tiny.detach(teacher)


def embed(layer: nn.Module, embedding: Array) -> Array:
    out = linear(layer, embedding)
    return out / np.sqrt((out**2).sum(1, keepdims=True))


def side(anchors: Array, memory: Array, own: Array, negatives: list[Array], z: Array | None) -> Any:
    """Compute L_s or L_t with its Z term by term, from K indices of negatives per sample."""
    scores = [
        np.exp(memory[[i, *drawn]] @ v / 0.07)
        for v, i, drawn in zip(anchors, own, negatives, strict=True)
    ]
    if z is None:
        z = np.mean(np.concatenate(scores)) * SAMPLES
    loss, noise = 0.0, len(negatives[0]) / SAMPLES
    for score in scores:
        p = score / z
        loss -= np.log(p[0] / (p[0] + noise + 1e-7))
        loss -= np.log(noise / (p[1:] + noise + 1e-7)).sum()
    return loss / len(anchors), z


def reference(
    method: Crd, student: Array, teacher: Array, batch: Batch, z: Any = (None, None)
) -> Any:
    """Compute the loss, and Z of L_s and L_t."""
    s, t = embed(method.embed_student, student), embed(method.embed_teacher, teacher)
    drawn = [np.flatnonzero(row) for row in method.draw_negatives(batch).numpy()]
    own = batch.indices.numpy()
    loss_s, z_s = side(s, array(method.memory_teacher.embeddings), own, drawn, z[0])
    loss_t, z_t = side(t, array(method.memory_student.embeddings), own, drawn, z[1])
    return loss_s + loss_t, (z_s, z_t)


def test_loss_and_constants():
    method = make().double().eval()
    student, teacher = features_for(method, FOUR)
    loss = method.feature_loss(student, teacher, FOUR)
    wanted, z = reference(method, array(student.embedding), array(teacher.embedding), FOUR)
    assert loss.item() == pytest.approx(wanted, rel=1e-10)
    assert method.memory_teacher.normaliser.item() == pytest.approx(z[0], rel=1e-12)
    assert method.memory_student.normaliser.item() == pytest.approx(z[1], rel=1e-12)
    # The first batch sets the constants permanently.
    second = make_batch(3, 20, 9)
    student, teacher = features_for(method, second, seed=1)
    loss = method.feature_loss(student, teacher, second)
    wanted, _ = reference(method, array(student.embedding), array(teacher.embedding), second, z)
    assert loss.item() == pytest.approx(wanted, rel=1e-10)


def test_the_gradient_equals_the_numerical_one():
    method = make().double().eval()
    student, teacher = features_for(method, FOUR)
    method.feature_loss(student, teacher, FOUR).backward()
    _, z = reference(method, array(student.embedding), array(teacher.embedding), FOUR)
    weight, bias = method.embed_teacher.weight.data.numpy(), method.embed_student.bias.data.numpy()
    embedding = array(student.embedding).copy()

    def value(embedding: Array, *_: Array) -> float:
        return float(reference(method, embedding, array(teacher.embedding), FOUR, z)[0])

    numerical = tiny.numerical_gradients(value, [embedding, weight, bias])
    analytical = [student.embedding.grad, method.embed_teacher.weight.grad]
    for ours, theirs in zip([*analytical, method.embed_student.bias.grad], numerical, strict=True):
        np.testing.assert_allclose(array(ours), theirs, rtol=1e-6, atol=1e-8)
        assert np.abs(theirs).max() > 1e-3


def test_too_few_negatives_have_the_weight_of_repeated_draws():
    method = make(negatives=1000).double().eval()
    student, teacher = features_for(method, FOUR)
    drawn = method.draw_negatives(FOUR)
    assert torch.equal(drawn, method.labels != FOUR.labels.unsqueeze(1))
    loss = method.feature_loss(student, teacher, FOUR)
    wanted, noise = 0.0, 1000 / SAMPLES
    for layer, embedding, memory in (
        (method.embed_student, student.embedding, method.memory_teacher),
        (method.embed_teacher, teacher.embedding, method.memory_student),
    ):
        anchors = embed(layer, array(embedding))
        p = np.exp(anchors @ array(memory.embeddings).T / 0.07) / memory.normaliser.item()
        for b, i in enumerate(FOUR.indices):
            wanted -= np.log(p[b, i] / (p[b, i] + noise + 1e-7)) / 4
            negative = np.log(noise / (p[b, drawn[b].numpy()] + noise + 1e-7))
            wanted -= 1000 / 32 * negative.sum() / 4  # each of the 32 others 1000 / 32 times
    assert loss.item() == pytest.approx(wanted, rel=1e-10)


def test_memories_are_updated_after_the_loss():
    method = make(momentum=0.3).double()
    twin = copy.deepcopy(method).eval()
    student, teacher = features_for(method, FOUR)
    memories = (method.memory_student, method.memory_teacher)
    before = [array(memory.embeddings).copy() for memory in memories]
    loss = method.feature_loss(student, teacher, FOUR)
    loss.backward()
    # Loss and gradient use the memories before their update.
    still = make_features(method.student, 8, 4, 0)
    unmoved = twin.feature_loss(still, teacher, FOUR)
    unmoved.backward()
    assert loss.item() == unmoved.item()
    assert torch.equal(student.embedding.grad, still.embedding.grad)
    new = [
        embed(method.embed_student, array(student.embedding)),
        embed(method.embed_teacher, array(teacher.embedding)),
    ]
    for memory, kept, v in zip(memories, before, new, strict=True):
        for row, i in zip(v, FOUR.indices, strict=True):
            mixed = 0.3 * kept[i] + 0.7 * row
            kept[i] = mixed / np.linalg.norm(mixed)
        np.testing.assert_allclose(array(memory.embeddings), kept, rtol=1e-12, atol=1e-14)


def test_eval_mode_changes_no_memory():
    method = make().double().eval()
    method.feature_loss(*features_for(method, FOUR), FOUR)
    before = copy.deepcopy(dict(method.named_buffers()))
    method.feature_loss(*features_for(method, FOUR, seed=1), FOUR)
    assert all(torch.equal(before[name], b) for name, b in method.named_buffers())


def test_first_memories_and_negatives():
    method = make(embedding_size=128)
    rows, bound = method.memory_student.embeddings, (3 / 128) ** 0.5
    assert 0.99 * bound < rows.abs().max() <= bound
    assert rows.square().sum(1).mean().item() == pytest.approx(1, abs=0.02)
    # Of other classes, without duplicates.
    batch = make_batch(*range(SAMPLES))
    drawn = method.draw_negatives(batch)
    assert (drawn.sum(1) == 20).all()
    assert not (drawn & (batch.labels.unsqueeze(1) == method.labels)).any()


def test_negatives_depend_only_on_seed_epoch_and_sample():
    method, batch = make(), make_batch(5, 11, 30)
    drawn = method.draw_negatives(batch)
    assert torch.equal(method.draw_negatives(make_batch(30, 2, 5))[[2, 0]], drawn[[0, 2]])
    method.begin_epoch(1)
    assert not torch.equal(method.draw_negatives(batch), drawn)
    method.begin_epoch(0)
    assert torch.equal(method.draw_negatives(batch), drawn)
    assert not torch.equal(make(seed=1).draw_negatives(batch), drawn)


def test_all_sets_of_negatives_are_equally_likely():
    method = make(negatives=8)
    epochs, batch = 1500, make_batch(0, 1, 4)
    draws = []
    for epoch in range(epochs):
        method.begin_epoch(epoch)
        draws.append(method.draw_negatives(batch).double())
    drawn = torch.stack(draws)  # [epochs, 3, N]
    others = 32
    p = 8 / others
    single = drawn.mean(0)[method.labels != batch.labels.unsqueeze(1)]
    deviations = (single - p) / (p * (1 - p) / epochs) ** 0.5
    chi_square, freedom = deviations.square().sum().item() * 31 / 32, 3 * 31
    assert chi_square == pytest.approx(freedom, abs=4 * (2 * freedom) ** 0.5)
    # Pairs of samples, and one sample for two anchors of a class, occur as often as by chance.
    together = torch.einsum("ei,ej->ij", drawn[:, 0], drawn[:, 0]) / epochs
    candidates = (method.labels != 0).nonzero().squeeze(1)
    pairs = together[candidates][:, candidates][~torch.eye(others, dtype=torch.bool)]
    expected = p * 7 / 31
    assert (pairs - expected).abs().max() < 5 * (expected * (1 - expected) / epochs) ** 0.5
    overlap = (drawn[:, 1] * drawn[:, 2]).sum(1)  # both of class 1
    hypergeometric = 8 * p * (1 - p) * (others - 8) / (others - 1)
    assert overlap.mean().item() == pytest.approx(8 * p, abs=4 * (hypergeometric / epochs) ** 0.5)
    assert overlap.var().item() == pytest.approx(hypergeometric, rel=0.2)


def test_several_processes_remember_what_one_would():
    teacher = Tiny(3, 2, 4, 5).double()
    one = make().double()
    one.student.eval()  # only BatchNorm depends on the process
    copies = [copy.deepcopy(one), copy.deepcopy(one)]
    whole = make_batch(0, 5, 9, 1, 6)
    whole = whole._replace(images=whole.images.double())
    held, barrier = [torch.empty(0)] * 2, threading.Barrier(2, timeout=60)

    def run(rank: int) -> float:
        def gather(own: Tensor) -> Tensor:
            held[rank] = own
            barrier.wait()
            joined = torch.cat(held)
            barrier.wait()
            return joined

        copies[rank].gather = gather  # as its setting would do
        own = slice(3, None) if rank else slice(3)
        batch = Batch(*(tensor[own] for tensor in whole[:3]))
        return losses_of(copies[rank], batch, teach(teacher, batch))["feature"].item()

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(run, range(2))
    wanted = losses_of(one, whole, teach(teacher, whole))["feature"].item()
    assert (3 * first + 2 * second) / 5 == pytest.approx(wanted, rel=1e-12)
    for name, tensor in one.named_buffers():
        for each in copies:
            assert torch.allclose(each.get_buffer(name), tensor, rtol=1e-12, atol=1e-14), name


def test_scores_are_float32_under_autocast():
    method = make().eval()
    with torch.no_grad():  # the score of a perfect match, 1.6e6, overflows fp16
        embeddings = F.normalize(torch.randn(SAMPLES, 4))
        method.memory_teacher.embeddings.copy_(embeddings)
    with torch.autocast("cpu", torch.float16):
        outputs = teach(Tiny(3, 2, 4, 5), FOUR)
        features = method.student.features(FOUR.images)
        assert features.stages[-1].dtype == torch.float16
        losses = losses_of(method, FOUR, outputs)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert losses["feature"].isfinite()
    own, other = features.embedding.double(), outputs.features.embedding.double()
    method.double()
    constants = [m.normaliser.item() for m in (method.memory_teacher, method.memory_student)]
    wanted, _ = reference(method, array(own), array(other), FOUR, constants)
    assert losses["feature"].item() == pytest.approx(wanted, rel=1e-4)


def test_float32_suffices_for_thousands_of_negatives():
    torch.manual_seed(0)
    labels = torch.arange(50_000) % 100
    setting = make_setting(teacher=Tiny(3, 2, 4, 5), image_size=8, labels=labels)
    method = Crd(Tiny(2, 3, 2), setting, **(OPTIONS | {"negatives": 16384})).eval()
    batch = FOUR._replace(labels=FOUR.indices)
    exact = features_for(method, batch)
    rounded = [f._replace(embedding=f.embedding.detach().float()) for f in exact]
    single = method.feature_loss(*rounded, batch)
    assert single.dtype == torch.float32
    double = method.double().feature_loss(*exact, batch)
    assert single.item() == pytest.approx(double.item(), rel=1e-6)
