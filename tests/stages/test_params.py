"""params.yaml: each mistake is one sentence that names the key and what was expected."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from models.errors import InputError
from stages.devices.rules import MAX_RELATIVE_ERROR_FP32
from stages.params import Params, load_params, parse_params

CASES = [
    ("distil: {}", "distil is not a parameter; did you mean 'distill'?"),
    ("distill: {temprature: 4}", "distill.temprature is not a parameter; did you mean 'temper"),
    ("data: {zzz: 1}", "data.zzz is not a parameter; use one of "),
    ("teacher: {epochs: 1.5}", "teacher.epochs is 1.5, expected a valid integer"),
    ("teacher: {epochs: 0}", "teacher.epochs is 0, expected greater than or equal to 1"),
    ("teacher: {learning_rate: '0.1'}", "teacher.learning_rate is '0.1', expected a valid number"),
    ("distill: {method: akcd}", "distill.method is 'akcd', expected 'scratch', 'kd', 'dkd',"),
    ("distill: {ackd: {learners: []}}", "distill.ackd.learners is [], expected "),
    ("distill: {learning_rate: .inf}", "learning_rate is inf, expected a finite number"),
    ("distill: {seed: 1180591620717411303424}", "seed is 1180591620717411303424, expected less th"),
    ("gate: {min_accuracy: 97}", "gate.min_accuracy is 97, expected less than or equal to 1"),
    (
        f"validate: {{max_relative_error_fp32: {2 * MAX_RELATIVE_ERROR_FP32}}}",
        "is 0.0002, expected less than or equal to 0.0001",
    ),
    ("export: {precisions: [fp16]}", "precisions must begin with fp32"),
    ("export: {required: [int8_u8s8]}", "required must name fp32"),
    ("export: {precisions: [fp32], required: [fp32, fp16]}", "only members of precisions"),
    ("profile: {min_runs: 10, max_runs: 5}", "max_runs must not be below min_runs"),
    ("profile: {devices: ['locl:']}", "profile: the device 'locl:' has no known scheme; expected"),
    ("profile: {devices: ['local:', 'local:']}", "profile: devices must name each device once"),
    ("profile: {devices: []}", "at least 1 item"),
    ("profile: {devices: ['local:', 'adb:']}", "the device 'adb:' measures in a phone's browser,"),
    ("teacher: {schedule: multi_step, epochs: 5, milestones: [5]}", "the number of epochs, 5"),
    ("teacher: {schedule: multi_step, epochs: 9, milestones: [5, 3]}", "milestones must increase"),
    ("teacher: {milestones: [3]}", "teacher: milestones apply only to schedule: multi_step"),
    ("data: {image_size: 224, resize: 160}", "is 160, expected at least image_size, which is 224"),
    ("augmentation: {crop: resized}", "crop_padding applies only to crop: shift; set it to 0"),
    ("teacher: {expect_accuracy: 0.7}", "expect_accuracy applies only to train: none"),
    ("teacher: {weights: a.pth, train: none, expect_accuracy: 70.2}", "is 70.2, expected less"),
    (
        "teacher: {weights: a.pth, train: none, normalization: {mean: [0.5], sdt: []}}",
        "sdt is not a parameter; did you mean 'std'?",
    ),
    (
        "teacher: {weights: a.pth, train: none, normalization: {mean: [123.7], std: [1]}}",
        "normalization.mean.0 is 123.7, expec",
    ),
    *(
        (f"package: {{version: {version}}}", "package.version: expected one to three numbers, such")
        for version in ("1.1", "2", "1.0-beta", "'1.2.3.4'", "''", '"1.2\\n"', "١.٢")
    ),
    ("proxy: {method: assistants}", "assistants.networks must name at least one network, such as"),
    ("proxy: {assistants: {candidates: [resnet8, x], networks: [y]}}", "leave the other empty"),
    ("proxy: {assistants: {candidates: [resnet8, resnet8]}}", "must name each network once"),
    (
        "proxy: {method: assistants, assistants: {candidates: [resnet14, resnet20]}}",
        "expected the student resnet8",
    ),
    ("analyze: {baseline: ./reports/classes.csv}", "analyze.baseline: expected a copy, because"),
    (
        "package: {name: my model}",
        "package.name: expected at most 100 letters, digits, -, _ and /, ",
    ),
    ("distill: {ackd: {learners: [D3b1]}}", "learners.0: expected a code such as D3B1 or D3T, not"),
    ("distill: {ackd: {learners: []}}", "distill.ackd.learners is [], expected at least 1 item"),
    ("data: ", "data is None, expected keys with values; add some or remove it"),
    (
        "{gate: {max_p90_ms: 5}, profile: {threads: [1, 2], devices: ['local:?threads=4']}}",
        "params.yaml: gate.max_p90_ms is for one thread, but local:?threads=4 is measured with [4]",
    ),
    ("package: {license: Apache 2}", "package.license: expected an SPDX expression, such as"),
]


@pytest.mark.parametrize(("content", "sentence"), CASES)
def test_a_mistake_is_named(content, sentence):
    with pytest.raises(InputError) as caught:
        parse_params(YAML(typ="safe").load(content))
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("params.yaml: ")
    assert "\n" not in str(caught.value)


def test_every_mistake_is_named_at_once():
    with pytest.raises(InputError) as caught:
        parse_params({"teacher": {"epochs": 0}, "gates": {}})
    assert "teacher.epochs" in str(caught.value)
    assert "did you mean 'gate'" in str(caught.value)


def test_what_is_valid():
    assert parse_params({}) == Params()
    assert parse_params({"distill": {"temperature": 4}}).distill.temperature == 4.0
    assert parse_params({"package": {"version": "1.10"}}).package.version == "1.10"
    devices = ["local:?cpus=0", "ssh://pi@board", "adb://R58M?runner=bench"]
    assert parse_params({"profile": {"devices": devices}}).profile.devices == devices
    baseline = parse_params({"analyze": {"baseline": "~/kd.csv"}}).analyze.baseline
    assert baseline == str(Path.home() / "kd.csv")
    for given, kept in (
        ("apache-2.0", "Apache-2.0"),
        ("MIT or Apache-2.0", "MIT OR Apache-2.0"),
        ("LicenseRef-Example", "LicenseRef-Example"),
    ):
        assert parse_params({"package": {"license": given}}).package.license == kept


def test_yaml_is_read_as_dvc_reads_it(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xef\xbb\xbfdistill:\r\n  weight_decay: 5e-4\nvalidate:\n  tensorrt: off\n")
    params = load_params(path)
    assert params.distill.weight_decay == 5e-4
    assert params.validate_.tensorrt == "off"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no such file; run from the project's root"),
        (b"a: [1", "not readable as YAML"),
        (b"- data\n", "expected a mapping of sections"),
        (b"data:\n  seed: 1\n  seed: 2\n", "not readable as YAML.*seed"),
        (
            b"profile:\n  devices: [ssh://pi@board]\n",
            r"not .* \(line 2: .*'\); quote the text with the colon, or write a space after",
        ),
        ("data: {}".encode("utf-16"), "not UTF-8; save it as UTF-8"),
        (b"data:\n\timage_size: 8\n", r"not readable as YAML \(line 2: .*\); correct"),
    ],
)
def test_a_file_that_is_no_yaml(tmp_path, content, sentence):
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{path}: {sentence}"):
        load_params(path)
