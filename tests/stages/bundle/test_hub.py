from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.bundle.hub import DataSet, data_set, front_matter
from stages.files import without_folders


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("digits", DataSet("digits")),
        ("hf:uoft-cs/cifar100", DataSet("uoft-cs/cifar100", "uoft-cs/cifar100")),
        ("hf:a/b@v1.0", DataSet("a/b", "a/b", "v1.0")),
        ("hf:/home/somebody/cifar100", DataSet("cifar100")),
        ("hf:here/flowers", DataSet("flowers")),
        ("imagefolder:/mnt/flowers/", DataSet("flowers")),
        ("imagefolder:.", DataSet("imagefolder")),
        ("torchvision:CIFAR100:/mnt/data", DataSet("CIFAR100")),
    ],
)
def test_sources_are_published_without_local_paths(source, expected, here):
    Path("here/flowers").mkdir(parents=True)
    assert data_set(source) == data_set(without_folders(source)) == expected


@pytest.mark.parametrize(
    ("stated", "license_", "name"),
    [
        (None, "unknown", None),
        ("Apache-2.0", "apache-2.0", None),
        ("GPL-3.0-only", "gpl-3.0", None),
        ("LicenseRef-Example", "other", "licenseref-example"),
        ("MIT OR Apache-2.0", "other", "mit-or-apache-2.0"),
    ],
)
def test_licences_have_the_hubs_names(stated, license_, name):
    summary = {
        "student": {"network": "timm:resnet8", "method": "scratch"},
        "data": {"source": "hf:uoft-cs/cifar100@abc"},
        "exports": {"fp32": {"accuracy": 0.5}, "fp16": {"accuracy": None}},
    }
    text = front_matter(summary, ["fp32", "fp16"], stated)
    head = YAML(typ="safe").load(text.strip("-\n"))
    assert (head["license"], head.get("license_name")) == (license_, name)
    assert head["datasets"] == ["uoft-cs/cifar100"]
    (result,) = head["model-index"][0]["results"]
    assert result["dataset"]["revision"] == "abc"
    assert [metric["name"] for metric in result["metrics"]] == ["Top-1 accuracy, fp32"]
