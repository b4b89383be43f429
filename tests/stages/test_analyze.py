import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn import metrics

from models.learners import load_learners
from models.networks.checkpoint import load_network, save_network
from stages import analyze
from stages.analysis.calibration import calibration
from stages.analysis.classes import CLASSES_FILE, read_baseline
from stages.files import read_csv, read_json, sha256
from stages.params import Params
from stages.sections.methods import Ackd, Distill
from stages.sections.result import Analyze
from tests.models.test_similarity import cka_by_gram
from tests.stages import chain_files
from tests.stages.chain_files import CLASSES, LEARNERS
from tests.stages.conftest import made_once, normalized

PARAMS = Params(analyze=Analyze(cka_images=20, grad_cam_images=3))


def write_chain(settings: Distill = PARAMS.distill) -> None:
    chain_files.write_data()
    chain_files.write_networks(settings)


def write_analysed() -> None:
    write_chain()
    analyze.main(PARAMS)


@pytest.fixture
def analysed(monkeypatch):
    """A folder with an analysed chain; read-only."""
    folder = made_once("analysed", write_analysed)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def chain(analysed, here):
    """A writable copy of :func:`analysed`."""
    shutil.copytree(analysed, here, dirs_exist_ok=True)


def report() -> dict[str, Any]:
    return read_json(Path("reports/analysis.json"))


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def outputs_by_hand(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Compute embeddings and logits of all test images, one image at a time."""
    network = load_network(Path(f"artifacts/{name}/model.safetensors"))
    embeddings, logits = [], []
    for image in np.load("artifacts/data/test_images.npy"):
        with torch.no_grad():
            features = network.features(normalized(image[None], 0.3, 0.2))
        embeddings.append(features.embedding[0].double().numpy())
        logits.append(features.logits[0].double().numpy())
    return np.array(embeddings), np.array(logits)


def test_compares_the_networks_as_table_1_does(analysed):
    found = report()
    labels = np.load("artifacts/data/test_labels.npy")
    by_hand = {name: outputs_by_hand(name) for name in ("teacher", "proxy", "student")}

    pairs = [(pair["a"], pair["b"]) for pair in found["pairs"]]
    assert pairs == [("teacher", "proxy"), ("teacher", "student"), ("proxy", "student")]
    for pair in found["pairs"]:
        (x, p), (y, q) = by_hand[pair["a"]], by_hand[pair["b"]]
        p, q = softmax(p[:20]), softmax(q[:20])
        assert pair["cka"] == pytest.approx(cka_by_gram(x[:20], y[:20]), abs=1e-5)
        assert pair["kl"] == pytest.approx((p * np.log(p / q)).sum(1).mean(), abs=1e-5)
    assert found["pairs"][0]["cka"] == pytest.approx(1)  # the proxy is the teacher's copy
    assert found["pairs"][0]["kl"] == 0
    assert 0 < found["pairs"][1]["cka"] < 0.99

    accuracy = {name: (z.argmax(1) == labels).mean() for name, (_, z) in by_hand.items()}
    assert found["accuracy"] == pytest.approx(accuracy)
    gap = accuracy["teacher"] - accuracy["student"]
    assert found["gap"]["teacher_student"] == pytest.approx(gap)
    assert (found["images"], found["test_images"]) == (20, 24)


def test_how_the_learners_differ(analysed):
    learners = report()["learners"]
    group = load_learners(Path("artifacts/distilled/model.safetensors"))
    with torch.no_grad():
        target, branches = group(normalized(np.load("artifacts/data/test_images.npy"), 0.3, 0.2))
    logits = {"target": target.logits.numpy()}
    logits |= {name: f.logits.numpy() for name, f in zip(LEARNERS, branches, strict=True)}
    weights = attention_by_hand([f.stages[-1].numpy() for f in branches])
    logits["ensemble"] = sum(weights[:, [k]] * logits[name] for k, name in enumerate(LEARNERS))
    answers = {name: z.argmax(1) for name, z in logits.items()}
    labels = np.load("artifacts/data/test_labels.npy")

    assert list(learners) == ["cka", "agreement", "accuracy", "attention"]
    assert 0 < learners["cka"]["D3B1~D2B2"] < 1
    accuracy = {name: (answer == labels).mean() for name, answer in answers.items()}
    assert learners["accuracy"] == pytest.approx(accuracy)
    pairs = itertools.combinations(answers, 2)
    agreement = {f"{a}~{b}": (answers[a] == answers[b]).mean() for a, b in pairs}
    assert learners["agreement"] == pytest.approx(agreement)
    attention = dict(zip(LEARNERS, weights.mean(0), strict=True))
    assert learners["attention"] == pytest.approx(attention, abs=1e-6)
    for label, row in enumerate(read_csv(CLASSES_FILE)):
        for k, name in enumerate(LEARNERS):
            of_class = weights[labels == label, k].mean()
            assert float(row[f"attention/{name}"]) == pytest.approx(of_class, abs=1e-5)
            kept = (answers[name] == labels)[labels == label].mean()
            assert float(row[f"accuracy/{name}"]) == pytest.approx(kept, abs=1e-5)


def attention_by_hand(maps: list[np.ndarray]) -> np.ndarray:
    """Compute Eq. 3 from the file's numbers, ``[N, M]``."""
    w = load_file("artifacts/distilled/model.safetensors")
    hidden, bias, weigh, offset = (
        w[f"attention.{name}"].double().numpy()
        for name in ("hidden.weight", "hidden.bias", "weigh.weight", "weigh.bias")
    )
    flat = np.concatenate([m.reshape(len(m), -1) for m in maps], 1).astype(np.float64)
    return softmax(np.maximum(flat @ hidden.T + bias, 0) @ weigh.T + offset)


def test_calibration_and_classes_of_a_whole_chain(analysed):
    labels = np.load("artifacts/data/test_labels.npy")
    rows = read_csv(CLASSES_FILE)
    assert [row["class"] for row in rows] == CLASSES
    assert [int(row["images"]) for row in rows] == [int((labels == k).sum()) for k in range(4)]
    assert not any(key.startswith("gain") for key in rows[0])
    for name in ("teacher", "student"):
        _, logits = outputs_by_hand(name)
        right = logits.argmax(1) == labels
        expected = calibration(softmax(logits).max(1), right)["error"]
        assert report()["calibration"][name]["error"] == pytest.approx(expected, abs=1e-5)
        for label, row in enumerate(rows):
            accuracy = right[labels == label].mean()
            assert float(row[f"accuracy/{name}"]) == pytest.approx(accuracy, abs=1e-5)
    for label, one in enumerate(read_baseline(CLASSES_FILE, CLASSES)):
        np.testing.assert_array_equal(one.right, right[labels == label])


def test_the_scores_and_the_errors_of_a_whole_chain(analysed):
    labels = np.load("artifacts/data/test_labels.npy")
    found = report()
    for name in ("teacher", "student"):
        answers = outputs_by_hand(name)[1].argmax(1)
        accuracy = (answers == labels).mean()
        assert found["scores"][name]["accuracy"]["value"] == pytest.approx(accuracy)
        assert found["scores"][name]["top5_accuracy"] is None  # of four classes
    confusions = metrics.confusion_matrix(labels, answers)
    np.fill_diagonal(confusions, 0)
    assert found["confused"][0]["count"] == confusions.max()
    assert sum(pair["count"] for pair in found["confused"]) == confusions.sum()
    for pair in found["confused"]:
        label, answer = CLASSES.index(pair["class"]), CLASSES.index(pair["answer"])
        assert pair["count"] == confusions[label, answer]
        assert pair["share"] == pytest.approx(pair["count"] / (labels == label).sum())
    errors = found["confident_errors"]
    sure = [error["confidence"] for error in errors]
    assert sure == sorted(sure, reverse=True)
    assert all(CLASSES.index(error["class"]) == labels[error["image"]] for error in errors)
    assert len(errors) == min(12, confusions.sum())
    with Image.open("artifacts/analysis/errors.png") as picture:
        assert picture.width > picture.height > 100


def change_classifier(name: str) -> None:
    path = Path(f"artifacts/{name}/model.safetensors")
    network = load_network(path)
    torch.nn.init.normal_(network.fc.weight)
    save_network(path, network)


def test_compares_every_class_with_another_run(chain):
    shutil.move(CLASSES_FILE, "other.csv")
    change_classifier("student")
    against = Analyze(cka_images=20, grad_cam_images=3, baseline="other.csv")
    analyze.main(Params(analyze=against))
    ours, theirs = read_csv(CLASSES_FILE), read_csv(Path("other.csv"))
    gained = [
        float(a["accuracy/student"]) - float(b["accuracy/student"])
        for a, b in zip(ours, theirs, strict=True)
    ]
    assert any(gained)
    assert [float(row["gain"]) for row in ours] == pytest.approx(gained, abs=1e-5)
    for row in ours:
        assert float(row["gain_low"]) <= float(row["gain"]) <= float(row["gain_high"])
    baseline = report()["baseline"]
    assert list(baseline) == ["path", "paired", "gain", "low", "high"]
    assert (baseline["path"], baseline["paired"]) == ("other.csv", True)
    assert baseline["gain"] == pytest.approx(np.mean(gained), abs=1e-5)


BRANCHES = ["target", "D3B1", "D3B1#2"]  # of ONE, whose gate also weights the student's own


@pytest.mark.parametrize(
    ("settings", "members", "weighed"),
    [
        (Distill(method="kd"), None, []),
        (Distill(ackd=Ackd(learners=["D3B1"])), ["target", "D3B1", "ensemble"], ["D3B1"]),
        (Distill(method="one"), [*BRANCHES, "ensemble"], BRANCHES),
    ],
)
def test_any_method_is_analysed(here, settings, members, weighed):
    write_chain(settings)
    analyze.main(Params(distill=settings, analyze=PARAMS.analyze))
    learners = report()["learners"]
    columns = [name for name in read_csv(CLASSES_FILE)[0] if name.startswith("attention/")]
    assert columns == [f"attention/{name}" for name in weighed]
    assert (learners and list(learners["accuracy"])) == members
    if weighed:
        assert sum(learners["attention"].values()) == pytest.approx(1)
    with Image.open("artifacts/analysis/grad_cam.png") as panel:
        # The columns are the image, the teacher, the target and the learners.
        assert panel.width == 176 * (3 + len({*(members or ())} - {"target", "ensemble"}))


def test_attention_is_that_of_the_last_epoch(here):
    write_chain(Distill(ackd=Ackd()))
    analyze.main(Params(analyze=PARAMS.analyze))
    trained = report()["learners"]["attention"]
    settings = Distill(ackd=Ackd(attention_warm_up=0.5))
    analyze.main(Params(distill=settings, analyze=PARAMS.analyze))
    assert report()["learners"]["attention"] == trained
    assert set(trained.values()) != {0.5}


def test_equal_inputs_give_equal_bytes_and_a_proxy_of_its_own_is_run(chain):
    paths = [Path("reports/analysis.json"), Path("reports/classes.csv")]
    paths += [Path("artifacts/analysis/grad_cam.png"), Path("artifacts/analysis/errors.png")]
    before = [sha256(path) for path in paths]
    analyze.main(PARAMS)
    assert [sha256(path) for path in paths] == before
    change_classifier("proxy")
    analyze.main(PARAMS)
    pair = report()["pairs"][0]
    assert pair["cka"] == pytest.approx(1)  # the embedding is before the classifier
    assert pair["kl"] > 0.01


def test_takes_images_of_every_class():
    labels = np.array([0, 0, 0, 2, 2, 1])
    assert analyze.one_per_class(labels, 4) == [0, 5, 3, 1]
    assert sorted(analyze.one_per_class(labels, 99)) == [0, 1, 2, 3, 4, 5]
