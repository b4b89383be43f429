"""By the real adb client, against a stand-in that speaks its protocol."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from models.errors import InputError
from stages.devices import adb, adb_client
from stages.devices import phone as condition
from stages.devices.base import Measurement, Opening
from stages.devices.browser import web_runtime
from stages.devices.phone import Thermal, parse_thermal
from stages.devices.programs import RUNNER, single_file
from stages.devices.urls import open_device
from stages.runtimes.exported import Exported
from tests.adb_device import LOOPBACK
from tests.bundles import flip_byte
from tests.chromium import CHROMIUM, opened_page
from tests.phone import THERMAL, Phone, adb_server, needs_adb, phone, whoever_opens
from tests.stages.devices.browser.conftest import QUICK, make_browser
from tests.stages.devices.conftest import PROFILE
from tests.stages.test_profile_latency import FIELDS

__all__ = ["adb_server", "phone"]

pytestmark = needs_adb

FIXED = "power set-fixed-performance-mode-enabled"
#: What a runner prints: times that scatter little, and torch's answers.
GOLDEN = '"golden": {"max_relative_error": 1e-9, "cosine": 1.0, "top1_agreement": 1.0}'
LINE = (
    '{"runtime": "bench", "version": "1", "provider": "cpu", "threads": 1, "init_ms": 1,'
    ' "first_ms": 1, "samples_ms": [1, 1.5], ' + GOLDEN + "}"
)


@pytest.fixture
def no_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the right names, for pages that nobody opens."""
    monkeypatch.setenv("ACKD_ONNXRUNTIME_WEB", str(tmp_path / "web"))
    web_runtime.folder().mkdir(parents=True)
    for name in web_runtime.FILES:
        (web_runtime.folder() / f"{name}.gz").write_bytes(gzip.compress(name.encode()))


def begin(address: str) -> None:
    """Open the page as a browser does, through the cable, and begin; never finish."""
    base = address.replace("127.0.0.1", LOOPBACK).partition("#")[0]
    request = urllib.request.Request(
        f"{base}runs", make_browser().model_dump_json().encode(), method="POST"
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.load(answer)["tasks"]


def script(folder: Path, text: str, name: str = "bench") -> Path:
    """A program that the phone can run."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def printing(folder: Path, line: str) -> Path:
    """One that prints a line, whatever it is asked."""
    return script(folder, f"echo '{line}'")


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def only(exported: Exported, *precisions: str) -> Exported:
    description = exported.description
    files = {name: description["files"][name] for name in precisions}
    return Exported(exported.folder, {**description, "files": files})


def measure(url: str, exported: Exported) -> Measurement:
    return open_device(url, Opening()).measure(exported, PROFILE)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.skipif(
    not web_runtime.installed(),
    reason=f"onnxruntime-web is not in {web_runtime.folder()}: ackd probe --install",
)
def test_its_browser_measures_through_the_cable(
    phone: Phone, tmp_path: Path, exported: Exported
) -> None:
    device = open_device("adb:?threads=1", Opening())
    # As the phone's own loopback, which the computer's browser would not reach.
    rules = f"host-resolver-rules=MAP 127.0.0.1 {LOOPBACK}"
    with opened_page(tmp_path / "chromium", rules) as page, whoever_opens(phone, page.open):
        measured = device.measure(exported, QUICK)
    assert measured.device == f"{phone.url}?threads=1"
    rows = {row["precision"]: row for row in measured.results if row["provider"] == "wasm"}
    assert list(rows) == exported.precisions
    for row in rows.values():
        assert set(row) == FIELDS
        assert (row["device"], row["status"], row["threads"]) == (measured.device, "passed", 1)
        assert (row["temperature_before"], row["temperature_after"]) == (31.0, 31.0)
        assert row["golden"]["top1_agreement"] == 1.0
    told = measured.description
    assert (told["system"], told["machine"]) == ("Android 16", "Google Pixel 8")
    assert told["cpu"] == "Google Tensor G3"
    assert told["runtime"] == f"onnxruntime-web {web_runtime.VERSION}"
    assert told["browser"]["isolated"]
    assert phone.carried > 0
    assert told["fixed_performance"] == {"on": True, "reason": None}
    assert told["thermal"] == {"sensor": "skin", "status_before": 0, "status_after": 0}
    assert phone.told == [f"{FIXED} true", f"{FIXED} false"]
    assert phone.forwards == {}


def test_a_native_runner_measures(phone: Phone, tmp_path: Path, exported: Exported) -> None:
    (tmp_path / "runner.py").write_bytes(single_file(RUNNER))
    runner = script(tmp_path / "bin", f'exec {sys.executable} {tmp_path}/runner.py "$@"')
    url = f"{phone.url}?threads=1,2&runner={runner}"
    exported = only(exported, "fp32", "int8_s8s8")
    measured = measure(url, exported)
    assert measured.device == url
    pairs = [(row["precision"], row["threads"]) for row in measured.results]
    assert pairs == [(p, t) for p in exported.precisions for t in (1, 2)]
    for row in measured.results:
        entry = exported.entry(row["precision"], "static")
        assert set(row) == FIELDS
        assert (row["status"], row["reason"], row["n"]) == ("passed", None, 5)
        assert (row["file"], row["model_sha256"]) == (entry["path"], entry["sha256"])
        assert (row["runtime"], row["provider"]) == ("onnxruntime", "CPUExecutionProvider")
        assert row["noisy"] == (row["cv"] > 0.2)
        assert row["temperature_before"] == 31.0
        assert row["peak_rss_mb"] > 1
        key = f"{url}|onnxruntime|{row['precision']}|{row['threads']}"
        assert len(measured.samples[key]) == 5
    assert measured.description["runtime"].startswith("onnxruntime 1.")
    assert "browser" not in measured.description
    assert phone.told == [f"{FIXED} true", f"{FIXED} false"]
    assert list(phone.folder.iterdir()) == []


def test_what_a_runner_needs_travels_with_it(
    phone: Phone, tmp_path: Path, exported: Exported
) -> None:
    folder = tmp_path / "native"
    script(folder, 'cat "$LD_LIBRARY_PATH/libbench.so"', "runner")
    (folder / "libbench.so").write_text(LINE)
    measured = measure(f"adb:?runner={folder}", exported)
    assert [row["status"] for row in measured.results] == ["passed"] * 4


def test_a_warm_phone_is_noisy(phone: Phone, tmp_path: Path, exported: Exported) -> None:
    phone.say("thermalservice", THERMAL.format(status=1))
    runner = printing(tmp_path / "bin", LINE.replace("1.5", "1"))
    measured = measure(f"adb:?runner={runner}", exported)
    assert [(row["cv"], row["noisy"]) for row in measured.results] == [(0.0, True)] * 4
    assert measured.description["thermal"]["status_after"] == 1
    phone.say("thermalservice", THERMAL.format(status=0))
    measured = measure(f"adb:?runner={runner}", exported)
    assert [row["noisy"] for row in measured.results] == [False] * 4


def test_a_phone_without_a_fixed_speed_says_so(
    phone: Phone, tmp_path: Path, exported: Exported
) -> None:
    phone.say("refused", "Failed to set FIXED_PERFORMANCE mode\nThis is likely because of HAL\n")
    phone.say("thermalservice", "Can't find service: thermalservice\n")
    phone.say("properties", "[ro.product.model]: [SM-A105]\n[ro.board.platform]: [exynos7885]\n")
    measured = measure(f"adb:?runner={printing(tmp_path / 'bin', LINE)}", exported)
    told = measured.description
    assert told["fixed_performance"] == {
        "on": False,
        "reason": "Failed to set FIXED_PERFORMANCE mode This is likely because of HAL",
    }
    assert set(told["thermal"].values()) == {None}
    assert (told["system"], told["machine"], told["cpu"]) == ("Android", "SM-A105", "exynos7885")
    assert measured.results[0]["temperature_before"] is None


def test_the_speed_is_given_back_after_an_error(
    phone: Phone, no_runtime: None, exported: Exported
) -> None:
    phone.say("am", "Error: Activity not started, unable to resolve Intent { dat=http://x }\n")
    with pytest.raises(InputError, match=r"no browser opens there \(Error: Activity not started"):
        measure("adb:", exported)
    assert phone.told == [f"{FIXED} true", f"{FIXED} false"]
    assert phone.forwards == {}


def test_the_speed_is_given_back_after_ctrl_c(
    phone: Phone, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = adb_client.find(None, "adb:")
    with pytest.raises(KeyboardInterrupt), condition.fixed_performance(client):
        raise KeyboardInterrupt
    assert phone.told == [f"{FIXED} true", f"{FIXED} false"]
    real = condition._set_fixed

    def interrupted(client: adb_client.Adb, *, on: bool) -> str | None:
        said = real(client, on=on)
        if on:  # the answer is never heard
            raise KeyboardInterrupt
        return said

    monkeypatch.setattr(condition, "_set_fixed", interrupted)
    with pytest.raises(KeyboardInterrupt), condition.fixed_performance(client):
        pass
    assert phone.told[2:] == [f"{FIXED} true", f"{FIXED} false"]


def test_a_phone_that_is_unplugged(
    phone: Phone,
    no_runtime: None,
    exported: Exported,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adb.probe, "_LOOK_SECONDS", 0.2)
    start = time.monotonic()
    with (
        whoever_opens(phone, lambda _: phone.unplug()),
        pytest.raises(InputError, match="the connection was lost") as caught,
    ):
        measure("adb:", exported)
    assert time.monotonic() - start < 60
    told = str(caught.value)
    assert "may still be in its fixed-performance mode: restart it, or run" in told
    assert f"adb -s {phone.serial} shell cmd {FIXED} false" in told
    assert "\n" not in told


def test_no_browser_opens_the_page_or_none_finishes(
    phone: Phone,
    no_runtime: None,
    exported: Exported,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adb, "BEGIN_SECONDS", 0.2)
    with pytest.raises(InputError, match=r"no browser has opened the page within 0\.2 s; unlock"):
        measure("adb:", exported)
    monkeypatch.setattr(adb, "BEGIN_SECONDS", 60.0)
    monkeypatch.setenv("ACKD_DEVICE_TIMEOUT", "4")
    (phone.state_folder / "opened").unlink()
    with (
        whoever_opens(phone, begin),
        pytest.raises(InputError, match=r"no browser has measured within 4 s; .*DEVICE_TIMEOUT"),
    ):
        measure("adb:", exported)
    assert phone.forwards == {}


def test_what_is_altered_is_not_run(phone: Phone, tmp_path: Path, exported: Exported) -> None:
    copy = Exported(shutil.copytree(exported.folder, tmp_path / "copy"), exported.description)
    flip_byte(copy.file("fp16", "static"))
    with pytest.raises(InputError, match=r"fp16\.static\.onnx arrived altered"):
        measure(f"adb:?runner={printing(tmp_path / 'bin', LINE)}", copy)
    assert list(phone.folder.iterdir()) == []


def test_a_model_that_fails_is_a_row(phone: Phone, tmp_path: Path, exported: Exported) -> None:
    runner = script(
        tmp_path / "bin",
        'case "$*" in *fp16*) echo no kernel >&2; exit 3;; *u8s8*) kill -9 $$;; esac\n'
        f"echo '{LINE}'",
    )
    measured = measure(f"adb:?runner={runner}", exported)
    rows = {row["precision"]: row for row in measured.results}
    assert rows["fp16"]["status"] == rows["int8_u8s8"]["status"] == "failed"
    assert rows["fp16"]["reason"] == "no kernel"
    assert "Killed" in rows["int8_u8s8"]["reason"] or "137" in rows["int8_u8s8"]["reason"]
    assert rows["fp32"]["status"] == rows["int8_s8s8"]["status"] == "passed"
    assert all(set(row) == FIELDS for row in rows.values())


def test_a_runner_that_prints_something_else(
    phone: Phone, tmp_path: Path, exported: Exported
) -> None:
    runner = printing(tmp_path / "bin", "ready")
    with pytest.raises(InputError, match=f"^{phone.url}.runner={runner}: the runner printed 'read"):
        measure(f"adb:?runner={runner}", exported)
    assert phone.told[-1] == f"{FIXED} false"
    assert list(phone.folder.iterdir()) == []


def test_a_runner_for_another_processor(phone: Phone, tmp_path: Path, exported: Exported) -> None:
    alien = script(tmp_path / "bin", "true", "alien")
    alien.write_bytes(b"\x7fELF of another processor")
    sentence = r"the runner does not run there \(.*\); build it for Android's arm64-v8a"
    with pytest.raises(InputError, match=sentence):
        measure(f"adb:?runner={alien}", exported)
    assert list(phone.folder.iterdir()) == []


def test_which_phone(adb_server: None, tmp_path: Path) -> None:
    def refusal(url: str) -> str:
        with pytest.raises(InputError) as caught:
            open_device(url, Opening())
        assert "; attach one that runs Android with USB debugging" in str(caught.value)
        return str(caught.value)

    assert refusal("adb:").startswith("adb:: no device can be used (no devices/emulators found)")
    first, second = Phone(tmp_path / "1"), Phone(tmp_path / "2", "unauthorized")
    first.attach()
    for url in ("adb:", "adb://", first.url):
        device = open_device(url, Opening())
        assert isinstance(device, adb.AdbDevice)
        assert device.name == first.url
    with pytest.raises(InputError, match="--send-wheels is for devices that are reached by ssh"):
        open_device("adb:", Opening(send_wheels=True))
    assert "(device 'R58M' not found)" in refusal("adb://R58M")
    second.attach()
    assert "(more than one device/emulator)" in refusal("adb:")
    assert "(device unauthorized. " in refusal(second.url)
    first.unplug()
    wait_until(lambda: b"offline" in subprocess.check_output(["adb", "devices"]))
    assert "(device offline)" in refusal(first.url)
    second.unplug()


def test_no_adb_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for program, sentence in (
        (None, "adb is not installed here; install Android's platform"),
        ("echo recovery", r"no device can be used \(its state is recovery\)"),
        ("echo 'adb: failed to start daemon' >&2; exit 1", r"used \(adb: failed to start daemon\)"),
    ):
        if program is not None:
            script(tmp_path, program, "adb")
        with pytest.raises(InputError, match=sentence):
            open_device("adb:", Opening())


@pytest.mark.parametrize(
    ("text", "thermal"),
    [
        (THERMAL.format(status=3), Thermal(3, "skin", 31.0)),
        (
            "Thermal Status: 0\n\tTemperature{mValue=29.1, mType=2, mName=b, mStatus=0}",
            (0, "battery", 29.1),
        ),
        (
            "Thermal Status: 1\n\tTemperature{mValue=NaN, mType=3, mName=skin, mStatus=0}",
            (1, None, None),
        ),
        ("Temperature{mValue=-4.5, mType=3, mName=skin, mStatus=0}", (None, "skin", -4.5)),
        ("Can't find service: thermalservice", (None, None, None)),
    ],
)
def test_how_warm_it_is(text: str, thermal: Thermal) -> None:
    assert parse_thermal(text) == thermal
