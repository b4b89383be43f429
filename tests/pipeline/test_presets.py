"""Presets applied to params.yaml: what changes, what stays, and what is refused."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import load_yaml
from ruamel.yaml import YAML

import models
from models.errors import InputError
from models.learners import check_codes
from models.networks import zoo
from pipeline import presets
from stages.params import PARAMS_FILE, Params, load_params, parse_params, read_yaml
from stages.report_page.paper import method_of
from tests.pipeline.conftest import ROOT

PAIRS = [
    "cifar100/mobilenet_v2_1.4_mobilenet_v2_0.5",
    "cifar100/resnet110_resnet20",
    "cifar100/shufflenet_v1_mobilenet_v2_0.5",
    "cifar100/wrn_28_4_resnet56",
    "cifar100/wrn_40_2_wrn_40_1",
    "cinic10/resnet110_resnet20",
    "cinic10/wrn_28_4_resnet56",
    "imagenet/resnet34_resnet18",
    "tiny_imagenet/resnet50_resnet18",
]
PHOTOS = ["photos", "photos/scratch", "photos/small", "photos/tiny"]
WHOLE = sorted([*PAIRS, *PHOTOS, "cifar100/trial", "digits"])
METHODS = sorted(
    f"methods/{path.stem}" for path in (ROOT / presets.PRESETS_FOLDER / "methods").glob("*.yaml")
)
DEFAULT = (ROOT / PARAMS_FILE).read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory, with this project's presets and params.yaml."""
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    (tmp_path / PARAMS_FILE).write_text(DEFAULT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


def params_of(preset: str) -> Params:
    """Apply only this preset to params.yaml."""
    return parse_params(laid(read_yaml(Path(f"presets/{preset}.yaml")), read_yaml(PARAMS_FILE)))


def keys(name: str) -> list[str]:
    return list(presets.leaves(read_yaml(Path(f"presets/{name}.yaml"))))


def test_presets_are_listed_with_their_descriptions():
    listed = presets.list_presets()
    assert sorted(listed) == sorted([*WHOLE, *METHODS])
    assert all(text and not text.startswith("#") for text in listed.values())


@pytest.mark.parametrize("name", WHOLE)
def test_a_preset_gives_valid_params_and_keeps_every_comment(name):
    presets.use([name])
    load_params()
    text = PARAMS_FILE.read_text(encoding="utf-8")
    assert comments(text) == comments(DEFAULT)
    assert all(
        line.partition("#")[0].rstrip(" ") + "  #" in line
        for line in text.splitlines()[2:]
        if "#" in line
    )
    found = presets.leaves(read_yaml(PARAMS_FILE))
    wanted = presets.leaves(read_yaml(presets.PRESETS_FOLDER / f"{name}.yaml"))
    default = presets.leaves(read_yaml(ROOT / PARAMS_FILE))
    assert found == default | wanted
    # Another preset replaces it entirely.
    presets.use(["methods/ackd_d2b2_d1b3"])
    presets.use(["digits"])
    assert PARAMS_FILE.read_text(encoding="utf-8") == DEFAULT


def test_the_default_names_every_key_that_another_preset_changes():
    assert all(set(keys(name)) <= set(keys("digits")) for name in WHOLE)
    for method in METHODS:
        assert set(keys(method)) <= set(keys("digits"))
        assert {"proxy.method", "distill.method"} <= set(keys(method))


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_has_the_papers_setting(pair):
    params = params_of(pair)
    data, teacher, student = Path(pair).parent.name, params.teacher.network, params.distill.network
    assert pair == f"{data}/{teacher}_{student}"
    assert params.report.paper == data
    small = data in ("cifar100", "cinic10")
    for training in (params.teacher, params.distill):
        mobile = training.network.startswith(("mobilenet", "shufflenet"))
        assert training.learning_rate == (0.05 if mobile else 0.1)
        recipe = (training.epochs, training.batch_size, training.milestones, training.weight_decay)
        assert recipe == ((200, 128, [100, 150], 5e-4) if small else (100, 256, [30, 60, 90], 1e-4))
        assert (training.schedule, training.momentum) == ("multi_step", 0.9)
    assert params.proxy.early_stopped.epochs == (65 if small else 35)
    four_stages = student in ("mobilenet_v2_0.5", "resnet18")
    assert params.distill.ackd.learners == (["D4B1", "D3B2"] if four_stages else ["D3B1", "D2B2"])
    sizes = {"cifar100": 32, "cinic10": 32, "tiny_imagenet": 64, "imagenet": 224}
    assert params.data.image_size == sizes[data]
    assert params.data.val_fraction == 0  # all training images train
    assert params.augmentation.horizontal_flip
    assert params.augmentation.crop == ("resized" if data == "imagenet" else "shift")


def laid(overlay: Mapping[str, Any], under: Mapping[str, Any]) -> dict[str, Any]:
    inner = {k: laid(v, under[k]) if isinstance(v, Mapping) else v for k, v in overlay.items()}
    return {**under, **inner}


def test_two_presets_select_any_cell_of_the_papers_tables():
    default = read_yaml(PARAMS_FILE)
    read = {name: read_yaml(Path(f"presets/{name}.yaml")) for name in [*PAIRS, *METHODS]}
    for pair in PAIRS:
        under = laid(read[pair], default)
        for method in METHODS:
            both = laid(read[method], under)
            if (pair, method) == ("imagenet/resnet34_resnet18", "methods/takd"):
                with pytest.raises(InputError, match="must name at least one"):
                    parse_params(both)  # not in the paper either
            else:
                named = f"methods/{method_of(parse_params(both))}"
                assert named == SAME_AS.get(method, method)


SAME_AS = {
    "methods/ackd_without_collaboration": "methods/kd",
    "methods/ackd_d3b1_d2b2": "methods/ackd",
}


@pytest.mark.parametrize("method", ["methods/ackd", "methods/kd"])
def test_a_method_replaces_the_options_of_the_method_before(method):
    pair = "cifar100/resnet110_resnet20"
    fresh = presets.laid(DEFAULT, [pair, method], {})
    for before in ("kd_standardized", "ackd_d3t", "ackd_d1b3_d1b3", "ackd_without_attention"):
        text = presets.laid(DEFAULT, [pair, f"methods/{before}"], {})
        assert presets.laid(text, [method], {}) == fresh, before


def test_a_method_gives_the_values_of_the_whole_chains_preset_again():
    for before, method in (("ackd_d3t", "ackd"), ("kd_standardized", "kd")):
        text = presets.laid(DEFAULT, ["photos", f"methods/{before}", f"methods/{method}"], {})
        assert text == presets.laid(DEFAULT, ["photos", f"methods/{method}"], {})


def test_presets_of_ones_own(folder):
    own = "proxy: {method: teacher}\ndistill: {method: dkd, dkd: {beta: 2.5}\n"
    own += ", weights: pretrained, normalization: {mean: [0, 0, 0], std: [1, 1, 1]}}\n"
    (folder / "presets/methods/mine.yaml").write_text(own)
    presets.use(["methods/mine"])
    assert load_params().distill.dkd.beta == 2.5
    presets.use(["methods/dkd"])
    assert load_params().distill.dkd.beta == 8.0
    (folder / "presets/latin.yaml").write_bytes(b"# caf\xe9\n")
    assert presets.list_presets()["latin"].startswith("caf")


def test_a_preset_that_another_would_replace_is_refused():
    for first in ("methods/kd", "digits"):
        sentence = f"^{first} would have no effect, because photos replaces it; leave it out, or "
        with pytest.raises(InputError, match=sentence):
            presets.use([first, "photos"])


def test_addresses_of_devices():
    presets.use([], ["profile.devices=[ssh://pi@board, 'adb:?runner=/tmp/x']"])
    assert load_params().profile.devices == ["ssh://pi@board", "adb:?runner=/tmp/x"]


def test_dvc_reads_texts_with_a_colon():
    PARAMS_FILE.write_text("data: {source: 'imagefolder:a'}\nproxy: {}\n", encoding="utf-8")
    assistants = "proxy.assistants.networks=[timm:resnet18, 'timm:resnet10t']"
    presets.use([], ["profile.devices=[local:, ssh://pi@board]", assistants])
    assert load_yaml(str(PARAMS_FILE)) == {
        "data": {"source": "imagefolder:a"},
        "proxy": {"assistants": {"networks": ["timm:resnet18", "timm:resnet10t"]}},
        "profile": {"devices": ["local:", "ssh://pi@board"]},
    }


def test_a_preset_of_a_whole_chain_drops_what_belongs_to_other_images_or_weights():
    own = {"teacher.weights": "a.pth", "teacher.train": "none", "teacher.expect_accuracy": 0.5}
    own |= {"teacher.image_size": 224, "data.unlabeled": "imagefolder:more"}
    text = presets.laid(DEFAULT, [], own)
    assert presets.laid(text, ["photos"], {}) == presets.laid(DEFAULT, ["photos"], {})


def test_a_method_keeps_options_that_no_method_set():
    settings = {"distill.kd.kd_weight": 9.0, "distill.ackd.ramp_up": 0.25}
    text = presets.laid(DEFAULT, ["photos", "methods/ackd_without_attention"], settings)
    kept = parse_params(YAML(typ="safe").load(presets.laid(text, ["methods/kd"], {}))).distill
    assert (kept.kd.ce_weight, kept.kd.kd_weight, kept.ackd.ramp_up) == (0.5, 9.0, 0.25)
    assert (kept.ackd.learners, kept.ackd.attention) == (["D4B1", "D3B2"], True)


def test_the_networks_of_every_preset_can_be_built(monkeypatch):
    monkeypatch.setattr(zoo, "_trunks", {})  # no stages are found without numbers
    names = set()
    for preset in WHOLE:
        params = params_of(preset)
        names |= {params.teacher.network, params.distill.network, *params.proxy.assistants.networks}
    with torch.device("meta"):  # without drawing weights
        for name in sorted(names):
            assert models.build(name, 10).name == name


@pytest.mark.parametrize("preset", WHOLE)
def test_every_preset_has_learners_for_its_student(preset):
    text = presets.laid(DEFAULT, [preset, "methods/ackd"], {})
    distill = parse_params(YAML(typ="safe").load(text)).distill
    assert check_codes(distill.ackd.learners, models.build(distill.network, 10), None)


def test_a_short_schedule_has_the_same_shape():
    changes = presets.use(["cifar100/resnet110_resnet20", "methods/eskd"], epochs=20)
    assert "distill.milestones: [] -> [10, 15]" in changes
    assert "gate.min_accuracy: 0.97 -> null" in changes
    params = load_params()
    for training in (params.teacher, params.distill):
        assert (training.epochs, training.milestones) == (20, [10, 15])
        assert (training.learning_rate, training.batch_size) == (0.1, 128)
    assert params.proxy.early_stopped.epochs == 6  # 65 of 200
    assert "  milestones: [10, 15]\n" in PARAMS_FILE.read_text(encoding="utf-8")
    assert comments(PARAMS_FILE.read_text(encoding="utf-8")) == comments(DEFAULT)


def test_milestones_that_are_set_are_not_scaled():
    settings = ["teacher.schedule=one_cycle", "teacher.milestones=[]", "distill.milestones=[1]"]
    presets.use(["cifar100/wrn_40_2_wrn_40_1"], settings, epochs=2)
    params = load_params()
    assert (params.teacher.epochs, params.teacher.milestones) == (2, [])
    assert (params.distill.epochs, params.distill.milestones) == (2, [1])


@pytest.mark.parametrize(
    ("preset", "epochs", "sentence"),
    [
        ("digits", 16, "15 epochs cannot be compressed into 16; use at most 15"),
        ("digits", 0, "--epochs is 0, expected 1 or more"),
        ("cifar100/wrn_40_2_wrn_40_1", 2, r"distill: 2 epochs are too few for the milestones"),
        ("imagenet/resnet34_resnet18", 4, r"distill: 4 epochs are too few for the milestones"),
        # An early-stopped teacher must keep its milestones too.
        ("cifar100/resnet110_resnet20 methods/eskd", 5, "teacher: 2 epochs are too few"),
    ],
)
def test_a_schedule_that_cannot_be_compressed(preset, epochs, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        presets.use(preset.split(), epochs=epochs)
    assert "\n" not in str(caught.value)
    assert PARAMS_FILE.read_text(encoding="utf-8") == DEFAULT


def test_another_source_resets_splits_and_columns():
    presets.use(["imagenet/resnet34_resnet18"], ["data.label_column=wnid"])
    assert load_params().data.test_split == "validation"
    presets.use(["imagenet/resnet34_resnet18"], source="imagefolder:/data/imagenet")
    data = load_params().data
    assert data.source == "imagefolder:/data/imagenet"
    assert (data.test_split, data.label_column) == (None, None)
    presets.use([], ["data.test_split=validation"], source="hf:/data/imagenet-1k")
    assert load_params().data.test_split == "validation"
    assert load_params().data.resize == 256


def test_settings_come_after_the_preset_and_say_what_changed():
    changes = presets.use(
        ["digits"],
        ["distill.temperature=2.5", "gate.max_p90_ms=3e-1", "distill.ackd.learners=[D3B1]"],
    )
    assert changes == [
        "distill.temperature: 4.0 -> 2.5",
        "distill.ackd.learners: [D3B1, D2B2] -> [D3B1]",
        "gate.max_p90_ms: null -> 0.3",
    ]
    params = load_params()
    assert (params.distill.temperature, params.gate.max_p90_ms) == (2.5, 0.3)
    assert params.distill.ackd.learners == ["D3B1"]


def test_a_mapping_that_becomes_null_is_shown_as_it_was():
    normal = "teacher.normalization"
    presets.use([], ["teacher.weights=pretrained", f"{normal}={{mean: [0, 0, 0], std: [1, 1, 1]}}"])
    assert presets.use([], [f"{normal}=null"]) == [
        f"{normal}: {{mean: [0, 0, 0], std: [1, 1, 1]}} -> null"
    ]


def test_line_endings_are_kept():
    path = Path("params.yaml")
    whole = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n"))
    presets.use([], ["distill.temperature=2.5"])
    changed = whole.replace(b"\n  temperature: 4.0", b"\n  temperature: 2.5")
    assert path.read_bytes() == changed.replace(b"\n", b"\r\n")


def test_params_that_dvc_has_written():
    apply_overrides(str(PARAMS_FILE), ["distill.method=kd"])  # dvc exp run -S
    assert "learners:  " in PARAMS_FILE.read_text(encoding="utf-8"), "a list over several lines"
    presets.use(["photos"], ["profile.devices=['ssh://pi@board']", "validate.batch_sizes=[1]"])
    presets.use(["digits"], ["profile.devices=['local:']", "validate.batch_sizes=[1, 3, 16]"])
    assert load_params() == parse_params(YAML(typ="safe").load(DEFAULT))
    assert comments(PARAMS_FILE.read_text(encoding="utf-8")) == comments(DEFAULT)


def test_a_section_that_params_lacks_is_added():
    PARAMS_FILE.write_text("distill:\n  network: resnet8  # small\n", encoding="utf-8")
    presets.use([], ["gate.min_accuracy=0.5", "gate.max_drop_from_teacher=0.1"])
    assert PARAMS_FILE.read_text(encoding="utf-8") == (
        "distill:\n  network: resnet8  # small\n"
        "gate:\n  min_accuracy: 0.5\n  max_drop_from_teacher: 0.1\n"
    )


@pytest.mark.parametrize(
    ("preset", "settings", "sentence"),
    [
        ("cifar100/trail", [], r"presets/cifar100/trail.yaml: .*did you mean 'cifar100/trial'\?"),
        ("trial", [], r"did you mean 'cifar100/trial'\?"),
        ("../params", [], r"no such preset; use one of cifar100/mobilenet_v2_1.4_"),
        (None, ["distill.temprature=2"], r"temprature .*did you mean 'temperature'\?"),
        (None, ["distill.epochs=many"], r"distill.epochs is 'many'"),
        ("own", [], r"distill.epoch is not a parameter"),
        (None, ["distill.epochs"], r"-S distill.epochs: expected section.key=value"),
        (None, ["=2"], r"-S =2: expected section.key=value"),
        (None, ["data.source=["], r"-S data.source=\[: .* is not valid YAML"),
        (None, [f"teacher.epochs={'9' * 5001}"], "is not valid YAML"),
        (None, ["data.source=imagefolder:"], "'imagefolder:' is a mapping in YAML; correct it, or"),
        (None, ["data.source.name=x"], r"data.source is 'digits' and has no keys"),
        ("digits", ["teacher.milestones=[9]"], r"milestones apply only to schedule: multi_step"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(folder, preset, settings, sentence):
    Path("presets/own.yaml").write_text("# mine\ndistill:\n  epoch: 3\n", encoding="utf-8")
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match=sentence) as caught:
        presets.use([] if preset is None else [preset], settings)
    assert "\n" not in str(caught.value)
    assert PARAMS_FILE.read_text(encoding="utf-8") == DEFAULT
    assert sorted(folder.rglob("*")) == before
