import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.checkpoint import load_network, save_network
from models.errors import InputError
from stages import analyze
from stages.data.arrays import Images
from stages.files import sha256
from stages.params import Analyze, Params
from tests.stages import chain_files

PARAMS = Params(analyze=Analyze(cka_images=20, grad_cam_images=3))


@pytest.fixture
def chain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chain_files.write_data()
    chain_files.write_networks(chain_files.LEARNERS)
    return tmp_path


def outputs_by_hand(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and logits of all test images, one image at a time."""
    network = load_network(Path(f"artifacts/{name}/model.safetensors"))
    embeddings, logits = [], []
    for image in np.load("artifacts/data/test_images.npy"):
        x = (image.astype(np.float64) / 255 - 0.3) / 0.2
        with torch.no_grad():
            features = network.features(torch.tensor(x.transpose(2, 0, 1)[None]).float())
        embeddings.append(features.embedding[0].double().numpy())
        logits.append(features.logits[0].double().numpy())
    return np.array(embeddings), np.array(logits)


def cka_by_gram_matrices(x: np.ndarray, y: np.ndarray) -> float:
    centring = np.eye(len(x)) - 1 / len(x)
    k, m = (centring @ (e @ e.T) @ centring for e in (x, y))
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def test_compares_the_networks_as_table_1_does(chain):
    analyze.main(PARAMS)
    report = json.loads(Path("reports/analysis.json").read_text())
    labels = np.load("artifacts/data/test_labels.npy")
    by_hand = {name: outputs_by_hand(name) for name in ("teacher", "proxy", "student")}

    assert [(pair["a"], pair["b"]) for pair in report["pairs"]] == [
        ("teacher", "proxy"),
        ("teacher", "student"),
        ("proxy", "student"),
    ]
    for pair in report["pairs"]:
        (x, p), (y, q) = by_hand[pair["a"]], by_hand[pair["b"]]
        p, q = (np.exp(z[:20]) / np.exp(z[:20]).sum(1, keepdims=True) for z in (p, q))
        assert pair["cka"] == pytest.approx(cka_by_gram_matrices(x[:20], y[:20]), abs=1e-5)
        assert pair["kl"] == pytest.approx((p * np.log(p / q)).sum(1).mean(), abs=1e-5)
    assert report["pairs"][0]["cka"] == pytest.approx(1)  # the proxy is the teacher's copy
    assert report["pairs"][0]["kl"] == 0
    assert 0 < report["pairs"][1]["cka"] < 0.99

    accuracy = {name: (z.argmax(1) == labels).mean() for name, (_, z) in by_hand.items()}
    assert report["accuracy"] == pytest.approx(accuracy)
    assert report["gap"]["teacher_student"] == pytest.approx(
        accuracy["teacher"] - accuracy["student"]
    )
    assert (report["images"], report["test_images"]) == (20, 24)


def test_a_proxy_of_its_own_is_run(chain):
    torch.manual_seed(5)
    path = Path("artifacts/proxy/model.safetensors")
    network = load_network(path)
    torch.nn.init.normal_(network.fc.weight)
    save_network(path, network)
    analyze.main(PARAMS)
    pair = json.loads(Path("reports/analysis.json").read_text())["pairs"][0]
    assert pair["cka"] == pytest.approx(1)  # the embedding is before the classifier
    assert pair["kl"] > 0.01


def test_says_how_the_learners_differ(chain):
    analyze.main(PARAMS)
    learners = json.loads(Path("reports/analysis.json").read_text())["learners"]
    assert list(learners) == ["cka", "agreement", "accuracy"]
    assert list(learners["accuracy"]) == chain_files.LEARNERS
    assert 0 < learners["cka"]["D3B1~D2B2"] < 1
    assert 0 <= learners["agreement"]["D3B1~D2B2"] <= 1


def test_agreement_counts_equal_answers():
    answers = torch.eye(4)
    same_twice = analyze.Outputs(torch.rand(4, 3), answers)
    other = analyze.Outputs(torch.rand(4, 3), answers[[0, 1, 3, 2]])
    test = Images(np.zeros((4, 1, 1, 3), dtype=np.uint8), np.arange(4))
    report = analyze.diversity({"a": same_twice, "b": other}, test, 4)
    assert report["agreement"] == {"a~b": 0.5}
    assert report["accuracy"] == {"a": 1.0, "b": 0.5}


def test_without_learners_they_are_null_and_the_panel_is_narrower(tmp_path, monkeypatch):
    widths = {}
    for learners in (chain_files.LEARNERS, []):
        folder = tmp_path / str(len(learners))
        folder.mkdir()
        monkeypatch.chdir(folder)
        chain_files.write_data()
        chain_files.write_networks(learners)
        analyze.main(PARAMS)
        report = json.loads(Path("reports/analysis.json").read_text())
        assert (report["learners"] is None) == (not learners)
        with Image.open("artifacts/analysis/grad_cam.png") as panel:
            widths[len(learners)] = panel.width
    assert widths[2] > widths[0]


def test_equal_inputs_give_equal_bytes(chain):
    sums = []
    for _ in range(2):
        analyze.main(PARAMS)
        sums.append(
            [sha256(Path(p)) for p in ("reports/analysis.json", "artifacts/analysis/grad_cam.png")]
        )
    assert sums[0] == sums[1]


def test_takes_images_of_every_class():
    labels = np.array([0, 0, 0, 2, 2, 1])
    assert analyze.one_per_class(labels, 4) == [0, 5, 3, 1]
    assert sorted(analyze.one_per_class(labels, 99)) == [0, 1, 2, 3, 4, 5]


def test_kl_divergence_is_not_symmetric_and_survives_extreme_logits():
    sharp, flat = torch.tensor([[200.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert analyze.kl_divergence(sharp, flat) == pytest.approx(np.log(2))
    assert analyze.kl_divergence(flat, sharp) == pytest.approx(100 - np.log(2))


def test_a_missing_network_is_named_and_nothing_is_written(chain):
    Path("artifacts/proxy/model.safetensors").unlink()
    with pytest.raises(InputError, match=r"artifacts/proxy/model\.safetensors: no such file"):
        analyze.main(PARAMS)
    assert not Path("artifacts/analysis").exists()
    assert not Path("reports/analysis.json").exists()
