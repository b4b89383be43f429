"""Plan a browser's measurements, parse what it sends, and turn it into rows."""

import base64
import binascii
import re
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from stages.devices import judging
from stages.devices.base import Row, unmeasured
from stages.devices.judging import Count, Milliseconds, Text, Timed
from stages.devices.rules import compare, outcome
from stages.runtimes.exported import Exported
from stages.sections.export import Profile

RUNTIME = "onnxruntime-web"


class Message(BaseModel):
    """A page's message; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Gpu(Message):
    """The browser's WebGPU adapter."""

    vendor: Text
    architecture: Text
    description: Text
    half_precision: bool  # whether its shaders have float16


class Browser(Message):
    """What a browser reports about itself."""

    user_agent: Text
    platform: Text | None  # the operating system; None if only the user agent names it
    model: Text | None
    """The phone's model, which only Chromium-based browsers report, and only to secure pages."""
    cores: Count
    isolated: bool  # whether the page has shared memory, as threads require, and the precise clock
    secure: bool  # whether the page came over HTTPS or from the device itself, as WebGPU requires
    timer_ms: Milliseconds  # the resolution of its clock
    gpu: Gpu | None


class Measured(Message, Timed):
    """Times of one model in ms, and its ``[G, K]`` logits as base64 of little-endian float32."""

    provider: Literal["wasm", "webgpu", "webgpu+wasm"]
    """``webgpu+wasm`` if the GPU ran only some of the nodes."""
    logits: str
    hidden: bool  # whether the page was hidden meanwhile, which slows it


class Failed(Message):
    """The error of a model that did not run."""

    error: Text


class Sent(Message):
    """The answer to one task."""

    result: Measured | Failed


class WrongMessageError(Exception):
    """A page's message does not fit its task; the text is one sentence."""


def plan(exported: Exported, profile: Profile, browser: Browser) -> list[Row]:
    """Plan every static model on the CPU with each thread count, and float models on the GPU.

    Rows are ``planned``, or ``skipped`` with the reason.
    """
    rows = []
    for precision in exported.precisions:
        settings = [("wasm", count, _lacks_threads(count, browser)) for count in profile.threads]
        # The GPU has no kernels for quantized layers; wasm would run them, at the cost of copies.
        if precision.startswith("fp"):
            settings.append(("webgpu", 1, _lacks_gpu(precision, browser)))
        entry = exported.entry(precision, "static")
        for provider, threads, reason in settings:
            status = "skipped" if reason else "planned"
            row = unmeasured(entry, precision, threads, RUNTIME, reason, status)
            rows.append(row | {"provider": provider})
    return rows


def _lacks_threads(threads: int, browser: Browser) -> str | None:
    if threads > 1 and not browser.isolated:
        return "threads need an isolated page: HTTPS, or an address on the device itself"
    if threads > browser.cores:
        return f"the browser offers only {browser.cores} threads"
    return None


def _lacks_gpu(precision: str, browser: Browser) -> str | None:
    if browser.gpu is None:
        return (
            "the browser offers no WebGPU"
            if browser.secure
            else "WebGPU needs a secure page: HTTPS, or an address on the device itself"
        )
    if precision == "fp16" and not browser.gpu.half_precision:
        return "the GPU's shaders lack float16"
    return None


def slug(browser: Browser) -> str:
    """Return a file name, such as ``pixel-8-chrome-156``."""
    agent = browser.user_agent
    device = browser.model or system(browser)
    # In this order, because each also claims to be some of the later ones.
    for name, mark in (
        *(("Edge", r"Edg(?:A|iOS)?"), ("Opera", "OPR"), ("Samsung", "SamsungBrowser")),
        *(("Firefox", r"(?:Firefox|FxiOS)"), ("Chrome", r"(?:HeadlessChrome|Chrome|CriOS)")),
        ("Safari", "Version"),
    ):
        if found := re.search(rf"\b{mark}/(\d+)", agent):
            device += f" {name} {found[1]}"
            break
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")[:80] or "device"


def system(browser: Browser) -> str:
    """Return the kind of device, by the user agent."""
    kinds = ("iPhone", "iPad", "Android", "Windows", "Macintosh", "CrOS", "Linux")
    return next((kind for kind in kinds if kind in browser.user_agent), "device")


def judge(
    planned: Row, sent: Measured | Failed, reference: npt.NDArray[np.float32], max_runs: int
) -> Row:
    """Return the row of one measurement, judged by the rules for all devices.

    ``reference`` are torch's logits ``[G, K]``. Raises WrongMessageError if ``sent`` does not
    answer ``planned``.
    """
    if isinstance(sent, Failed):
        return planned | outcome(sent.error or "no reason given")
    if not 1 <= len(sent.samples_ms) <= max_runs:
        raise WrongMessageError(f"{len(sent.samples_ms)} samples, expected 1 to {max_runs}")
    if not sent.provider.startswith(planned["provider"]):
        raise WrongMessageError(f"the provider is {sent.provider}, expected {planned['provider']}")
    parity = compare(_logits(sent.logits, reference.shape), reference)
    trouble = "the page was hidden while it measured" if sent.hidden else None
    return judging.judge(planned, sent, parity, "browser", trouble)


def _logits(text: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    try:
        content = base64.b64decode(text, validate=True)
        return np.frombuffer(content, dtype="<f4").reshape(shape)
    except (binascii.Error, ValueError):
        raise WrongMessageError(f"the logits are not base64 of float32 {list(shape)}") from None
