"""The programs in docs/examples do what docs/how-to-use-the-student.md says."""

import contextlib
import functools
import gzip
import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.devices.deploy import deploy
from stages.devices.browser import web_runtime
from stages.devices.browser.app import PAGE
from tests.bundles import changed, make_bundle, seal
from tests.chromium import opened_page
from tests.stages.devices import elsewhere
from tests.stages.devices.browser.conftest import needs_browser

EXAMPLES = Path(__file__).parents[3] / "docs/examples"
MARGIN = 3  # pixels around the centre that the model sees


def serve(bundle: Path, folder: Path) -> Path:
    """Deploy the bundle, and return the link to it."""
    deploy(bundle, f"local:{folder}", None)
    return folder / "served"


def golden(bundle: Path, folder: Path) -> tuple[list[Path], np.ndarray]:
    """Write the golden images as PNG files with a margin; return torch's logits ``[G, K]``."""
    with np.load(bundle / "golden.npz") as arrays:
        images, logits = arrays["images"], arrays["logits"]
    paths = [folder / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        ImageOps.expand(Image.fromarray(image), MARGIN, "red").save(path)
    with changed(bundle / "model.json") as model:
        model["resize"] = model["image_size"] + 2 * MARGIN
    return paths, logits


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


def test_the_python_program_equals_torch_and_follows_deployments(tmp_path):
    first = make_bundle(tmp_path / "first")
    second = make_bundle(tmp_path / "second")
    labels = json.loads((first / "labels.json").read_text())
    (second / "labels.json").write_text(json.dumps([f"new {label}" for label in labels]))
    (picture, *_), logits = golden(first, tmp_path)
    assert golden(second, tmp_path)[0][0] == picture
    served = serve(seal(first), tmp_path / "model")
    label, share = labels[logits[0].argmax()], softmax(logits[0]).max()
    command = [sys.executable, "-I", EXAMPLES / "classify.py", served, "--precision", "int8_u8s8"]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as program:

        def answer() -> str:
            program.stdin.write(f"{picture}\n")
            return program.stdout.readline()

        assert answer() == f"{picture}: {label}, {share:.1%}, by version 1.0.0\n"
        serve(seal(second, "1.1.0"), tmp_path / "model")
        line = answer()
        assert line.startswith(f"{picture}: new {label}, ")
        assert line.endswith(", by version 1.1.0\n")
        program.stdin.close()
    assert program.returncode == 0


def test_the_python_program_reads_pictures_of_16_bits(tmp_path):
    served = serve(make_bundle(tmp_path / "bundle"), tmp_path / "model")
    grey = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    command = [sys.executable, "-I", EXAMPLES / "classify.py", served, "8.png", "16.png"]
    done = subprocess.run(command, cwd=tmp_path, stdout=PIPE, text=True, check=True)
    eight, sixteen = (line.partition(": ")[2] for line in done.stdout.splitlines())
    assert eight == sixteen


def test_the_python_program_refuses_in_one_sentence(tmp_path):
    served = serve(make_bundle(tmp_path / "bundle"), tmp_path / "model")
    program = [sys.executable, "-I", EXAMPLES / "classify.py"]
    for arguments, sentence in (
        ([served, "nowhere.png"], "nowhere.png"),
        ([served, __file__], "cannot identify image file"),
        ([tmp_path / "nothing", "x.png"], "nothing/model.json"),
        (["--precision", "int4", served, "x.png"], "has no int4; use one of ['fp32', "),
    ):
        done = subprocess.run([*program, *arguments], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1


@contextlib.contextmanager
def site(folder: Path) -> Iterator[str]:
    """Serve a folder like ``python -m http.server``."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@needs_browser
def test_the_web_page_equals_torch_and_follows_deployments(tiny_exported, tmp_path):
    bundle = elsewhere.make_bundle(tiny_exported, tmp_path / "bundle")
    pictures, logits = golden(bundle, tmp_path)
    folder = shutil.copytree(EXAMPLES / "web", tmp_path / "site")
    shutil.copy(PAGE / "picture.js", folder)
    (folder / "runtime").mkdir()
    for name in web_runtime.FILES:
        packed = web_runtime.folder() / f"{name}.gz"
        (folder / "runtime" / name).write_bytes(gzip.decompress(packed.read_bytes()))
    (folder / "model").symlink_to(serve(seal(bundle), tmp_path / "model"))
    labels = json.loads((bundle / "labels.json").read_text())
    with site(folder) as address, opened_page() as page:
        page.open(address)
        page.wait_for("document.body.innerText.includes('Choose a picture.')")
        for number in range(3):
            if number == 2:
                (bundle / "labels.json").write_text(json.dumps([f"new {x}" for x in labels]))
                serve(seal(bundle, "1.1.0"), tmp_path / "model")
                labels = [f"new {label}" for label in labels]
            page.evaluate("document.getElementById('answers').replaceChildren()")
            page.choose_file("#picture", pictures[number])
            page.wait_for("document.querySelectorAll('#answers li').length == 3")
            shown = page.evaluate(
                "[...document.querySelectorAll('#answers li')].map((item) =>"
                " [item.firstChild.data, item.querySelector('meter').value])"
            )
            shares = softmax(logits[number])
            order = np.argsort(-shares)
            assert [name for name, _ in shown] == [labels[at] for at in order]
            assert [share for _, share in shown] == pytest.approx(shares[order], abs=1e-5)
            version = "1.1.0" if number == 2 else "1.0.0"
            assert page.evaluate("document.getElementById('status').innerText").endswith(version)
        page.choose_file("#picture", Path(__file__))
        page.wait_for("document.querySelector('#status.trouble') !== null")
        assert page.evaluate("document.getElementById('answers').innerText") == ""
        assert page.complaints == []
