"""Properties of all methods that compare features."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

import models
from models.distillers.at import At
from models.distillers.base import Batch
from models.distillers.cc import Cc
from models.distillers.crd import Crd
from models.distillers.feature import FeatureDistiller
from models.distillers.reviewkd import ReviewKd
from models.distillers.semckd import SemCkd
from models.distillers.sp import Sp
from models.distillers.vid import Vid
from models.errors import InputError
from models.networks.backbone import Backbone
from tests.models.distillers.test_kd import ce, kl
from tests.models.distillers.tiny import LossesOf, Tiny, array, losses_of, teach
from tests.setting import make_setting

CRD = {"embedding_size": 4, "negatives": 20, "contrast_temperature": 0.07, "momentum": 0.5}
# Weights of the references, so that no term's gradient is negligible.
METHODS = {
    "at": (At, {"feature_weight": 1000.0}),
    "sp": (Sp, {"feature_weight": 3000.0}),
    "cc": (Cc, {"feature_weight": 0.02, "variant": "repdistiller"}),
    "cc_rbf": (Cc, {"feature_weight": 100.0, "variant": "rbf"}),
    "vid": (Vid, {"feature_weight": 1.0}),
    "semckd": (SemCkd, {"feature_weight": 400.0}),
    "reviewkd": (ReviewKd, {"feature_weight": 1.0, "ramp_up": 0.25}),
    "crd": (Crd, {"feature_weight": 0.8} | CRD),
}
every_method = pytest.mark.parametrize("name", METHODS)


def make(
    name: str, student: Backbone, teacher: Backbone, size: int = 8, samples: int = 6
) -> FeatureDistiller:
    kind, options = METHODS[name]
    setting = make_setting(teacher=teacher, image_size=size, batch_size=samples)
    return kind(student, setting, temperature=4.0, ce_weight=0.8, kd_weight=0.7, **options)


def draw_batch(size: int = 8, samples: int = 6) -> Batch:
    """Draw a batch of the setting's size, because SemCKD accepts no other."""
    images = torch.randn(samples, 3, size, size)
    return Batch(images, torch.arange(samples) % 3, torch.arange(samples))


def in_double(given: Any) -> Any:
    """Convert a batch or features to float64."""
    if isinstance(given, tuple):
        found = [in_double(part) for part in given]
        return type(given)(*found) if hasattr(given, "_fields") else tuple(found)
    return given.double() if given is not None and given.is_floating_point() else given


@every_method
def test_total_is_the_weighted_sum(name):
    torch.manual_seed(0)
    student, teacher = Tiny(2, 3, 2).double(), Tiny(3, 2, 4).double()
    method = make(name, student, teacher).double().eval()
    batch = in_double(draw_batch())
    outputs = teach(teacher, batch)
    losses = losses_of(method, batch, outputs)
    z, labels = array(student(batch.images)), batch.labels.numpy()
    feature = method.feature_loss(student.features(batch.images), outputs.features, batch)
    wanted = {"ce": ce(z, labels), "kd": kl(array(outputs.logits), z, 4.0)}
    wanted["feature"] = feature.item()
    weight = METHODS[name][1]["feature_weight"]
    wanted["total"] = 0.8 * wanted["ce"] + 0.7 * wanted["kd"] + weight * wanted["feature"]
    measured = {key: loss.item() for key, loss in losses.items()}
    assert measured == pytest.approx(wanted, rel=1e-12, abs=1e-10)
    assert feature.item() != 0


@pytest.mark.parametrize("name", [name for name in METHODS if name != "crd"])
def test_gradients_equal_the_numerical_ones(name):
    # CRD's memories would change at each call.
    torch.manual_seed(0)
    student, teacher = Tiny(2, 3, 2), Tiny(3, 2, 4, stride=2)
    method = make(name, student, teacher).double()
    batch = in_double(draw_batch())
    outputs = teach(teacher.double(), batch)
    step = LossesOf(method)
    parameters = dict(step.named_parameters())

    def total(*values: Tensor) -> Tensor:
        given = dict(zip(parameters, values, strict=True))
        losses = functional_call(step, given, (batch, outputs))
        # A SemCKD loss of 36,000 would leave no digits for differences of 1e-6.
        return losses["total"] / (1000 if name == "semckd" else 1)

    values = [p.detach().clone().requires_grad_() for p in parameters.values()]
    # One random direction for each parameter: the whole Jacobian would take minutes.
    assert torch.autograd.gradcheck(total, values, atol=1e-7, rtol=1e-4, fast_mode=True)


@every_method
@pytest.mark.parametrize(
    ("student", "teacher", "size"),
    [
        ("resnet8", "resnet8x4", 16),  # wider
        ("resnet8", "mobilenet_v2_0.5", 32),  # an extra stage, other resolutions
        ("mobilenet_v2_0.5", "resnet8", 32),  # a missing stage
        ("wrn_10_2", "resnet8", 18),  # 18, 9 and 5 pixels
    ],
)
def test_networks_of_any_shapes_can_be_compared(name, student, teacher, size):
    torch.manual_seed(0)
    networks = models.build(student, 3), models.build(teacher, 3)
    method = make(name, *networks, size=size)
    batch = draw_batch(size)
    losses = losses_of(method, batch, teach(networks[1], batch))
    assert all(loss.isfinite() for loss in losses.values())
    losses["total"].backward()
    untouched = [key for key, p in method.named_parameters() if p.grad is None]
    assert untouched == []
    assert all(p.grad is None for p in networks[1].parameters())


@every_method
def test_gradients_reach_the_student_and_every_helper_and_never_the_teacher(name):
    torch.manual_seed(0)
    student, teacher = Tiny(2, 3, 2), Tiny(3, 2, 4, 3)
    method = make(name, student, teacher, samples=16)
    batch = draw_batch(samples=16)
    losses_of(method, batch, teach(teacher, batch))["feature"].backward()
    still = [key for key, p in method.named_parameters() if p.grad is None or not p.grad.any()]
    # The feature loss does not reach the classifier, and BatchNorm cancels biases.
    assert all(key.startswith("student.fc") or key.endswith("0.bias") for key in still), still
    assert all(p.grad is None for p in teacher.parameters())


@every_method
def test_building_changes_neither_network(name):
    student, teacher = Tiny(2, 3, 2), Tiny(3, 2, 4)
    before = [{k: t.clone() for k, t in n.state_dict().items()} for n in (student, teacher)]
    method = make(name, student, teacher)
    for network, kept in zip((student, teacher), before, strict=True):
        assert network.training
        assert all(torch.equal(kept[k], t) for k, t in network.state_dict().items())
    theirs = {id(tensor) for tensor in [*teacher.parameters(), *teacher.buffers()]}
    assert not any(id(t) in theirs for t in [*method.parameters(), *method.buffers()])


@every_method
def test_losses_are_float32_under_autocast(name):
    torch.manual_seed(0)
    teacher = Tiny(3, 2, 4, stride=2)
    method = make(name, Tiny(2, 3, 2), teacher).eval()
    batch = draw_batch()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = teach(teacher, batch)
        losses = losses_of(method, batch, outputs)
        features = method.student.features(batch.images)
    assert features.stages[-1].dtype == torch.bfloat16
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    exact = method.double().feature_loss(in_double(features), in_double(outputs.features), batch)
    # Only the helpers' convolutions and linear layers use half precision.
    tolerance = 0.05 if name in {"vid", "semckd", "reviewkd"} else 1e-4
    assert losses["feature"].item() == pytest.approx(exact.item(), rel=tolerance)


@pytest.mark.parametrize("name", ["at", "sp", "vid", "semckd", "reviewkd"])
@pytest.mark.parametrize("pair", [("timm:test_vit", "resnet8"), ("resnet8", "timm:test_vit")])
def test_networks_without_stages_are_refused_for_maps(name, pair):
    teacher, student = (models.build(network, 3) for network in pair)
    kind, options = METHODS[name]
    setting = make_setting(teacher=teacher, image_size=160)
    with pytest.raises(
        InputError, match=f"method {name} needs the stages of timm:test_vit, which cannot be found"
    ):
        kind(student, setting, temperature=4.0, ce_weight=1.0, kd_weight=0.0, **options)


@pytest.mark.parametrize("name", ["cc", "cc_rbf"])
def test_embeddings_are_compared_without_stages(name):
    teacher, student = models.build("timm:test_vit", 3), models.build("resnet8", 3)
    method = make(name, student, teacher, size=160)
    batch = draw_batch(160)
    assert losses_of(method, batch, teach(teacher, batch))["feature"].isfinite()
