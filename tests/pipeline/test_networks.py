"""A network that cannot be is found before anything runs."""

from typing import Any

import pytest

from models.errors import InputError
from pipeline.networks import check_networks
from stages.params import Params


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"teacher": {"network": "resnet9"}}, "network 'resnet9' is not known"),
        ({"distill": {"network": "resnet9"}}, "network 'resnet9' is not known"),
        ({"proxy": {"method": "assistants", "assistants": ["wrn"]}}, "network 'wrn' is not known"),
        ({"distill": {"ackd": {"learners": ["D2B1"]}}}, "'D2B1' does not fit resnet8"),
        (
            {
                "teacher": {"network": "resnet18_cifar"},
                "proxy": {"method": "teacher", "assistants": ["resnet32"]},
                "distill": {"ackd": {"learners": ["D3T"]}},
            },
            "resnet18_cifar has 4, resnet8 3",
        ),
        ({"distill": {"network": "torchvision:vit_b_16"}}, "stages of torchvision:vit_b_16"),
    ],
)
def test_what_cannot_be_is_refused(content: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_networks(Params.model_validate(content))


def test_what_can_be_passes() -> None:
    check_networks(Params())
    check_networks(Params.model_validate({"distill": {"ackd": {"learners": ["D3T", "D2T"]}}}))
    zoo = {"network": "torchvision:resnet18", "ackd": {"learners": ["D4B1", "D3B2"]}}
    check_networks(Params.model_validate({"distill": zoo}))
