"""``adb:``: an Android device on a cable or in the network, by its browser or a native program."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from models.errors import InputError
from stages.devices import native_runner
from stages.devices.adb_client import Adb, find
from stages.devices.base import Device, Measurement, Opening, Row, failed_row
from stages.devices.browser import probe
from stages.devices.browser.runs import Report
from stages.devices.host import Finished, last_line, new_token, profile_arguments, timeout_s
from stages.devices.phone import Thermal, describe, fixed_performance, mark, thermal
from stages.devices.urls import DeviceUrl
from stages.files import sha256
from stages.progress import track
from stages.runtimes.exported import Exported
from stages.sections.export import Profile

#: Where programs may be put and run without being installed.
FOLDER = "/data/local/tmp"
#: How long a browser may take to be started, chosen by a person and load the page.
BEGIN_SECONDS = 90.0


class AdbDevice(Device):
    """Runs the probe's page in its browser, or a program that the user names."""

    def __init__(self, url: DeviceUrl, adb: Adb) -> None:
        super().__init__(url)
        self.adb = adb
        _, mark_, options = url.text.partition("?")
        self.name = f"{adb.url}{mark_}{options}"

    def measure(self, exported: Exported, profile: Profile) -> Measurement:
        if self.url.threads:
            profile = profile.model_copy(update={"threads": self.url.threads})
        runner = self.url.options.get("runner")
        files = [] if runner is None else native_runner.files_of(runner, self.name)
        told = describe(self.adb)
        with fixed_performance(self.adb) as refusal:
            before = thermal(self.adb)
            if runner is None:
                report = self._report(exported, profile)
                after = thermal(self.adb)
                # It begins and ends when the page wants: there is no looking in between.
                rows = [mark(row, before, after) for row in report.rows]
                told = report.description | told
            else:
                rows = list(self._native_rows(files, exported, profile))
                after = thermal(self.adb)
                ran = (f"{row['runtime']} {row['version']}" for row in rows if row["version"])
                told["runtime"] = next(ran, None)
        told |= {
            "fixed_performance": {"on": refusal is None, "reason": refusal},
            "thermal": _thermal(before, after),
        }
        measurement = Measurement(self.name, told)
        for row in rows:
            measurement.add(row)
        return measurement

    def _report(self, exported: Exported, profile: Profile) -> Report:
        """What the device's browser measures on the probe's page.

        Raises:
            InputError: no browser opened the page, or none finished, in time.
        """
        with contextlib.ExitStack() as stack:

            def present(address: str) -> None:
                port = urlsplit(address).port
                assert port is not None  # it is a free one
                stack.enter_context(self.adb.reversed(port))
                self._open(address)
                print(f"{self.name}: its browser measures; keep the page in front", flush=True)

            try:
                return probe.measure(
                    exported,
                    profile,
                    present,
                    seconds=timeout_s(),
                    begin_seconds=BEGIN_SECONDS,
                    look=self.adb.require_attached,
                )
            except probe.NoReportError as error:
                raise InputError(
                    f"{self.name}: {error}; unlock the device, open the page if it asks by which"
                    " browser, and keep it in front (ACKD_DEVICE_TIMEOUT sets how long to wait for"
                    " all of it)"
                ) from None

    def _open(self, address: str) -> None:
        started = self.adb.shell("am", "start", "-a", "android.intent.action.VIEW", "-d", address)
        lines = (started.out + started.err).splitlines()
        wrong = next((line.strip() for line in lines if line.startswith("Error")), None)
        if wrong is None and started.code:
            wrong = last_line(started.err) or f"status {started.code}"
        if wrong is not None:
            # The address is a secret, as long as the page is served.
            wrong = wrong.replace(address, "the page").rstrip(".")
            raise InputError(f"{self.name}: no browser opens there ({wrong}); install one")

    def _native_rows(
        self, files: list[Path], exported: Exported, profile: Profile
    ) -> Iterator[Row]:
        """A fresh process for each precision and number of threads.

        Raises:
            InputError: a file arrived altered, or the program does not run or prints something
                else than its answer.
        """
        program, folder = files[0].name, f"{FOLDER}/ackd-{new_token()}"
        sums = exported.sums("static")
        sums |= {path: sha256(path) for path in files}
        try:
            self.adb.shell("mkdir", "-p", folder)
            self.adb.push(list(sums), folder)
            self._prove(folder, {path.name: digest for path, digest in sums.items()})
            self.adb.shell("chmod", "755", f"{folder}/{program}")
            pairs = [(p, t) for p in exported.precisions for t in profile.threads]
            for precision, threads in track(pairs, f"profile {self.name}"):
                before = thermal(self.adb)
                finished = self._run(folder, program, exported, precision, threads, profile)
                if finished.code:
                    reason = last_line(finished.err) or (
                        f"the process ended with status {finished.code}"
                    )
                    yield failed_row(exported, precision, threads, program, reason)
                    continue
                answer = native_runner.parse(finished.out, self.name)
                row = native_runner.judge(exported, precision, threads, answer)
                yield mark(row, before, thermal(self.adb))
        finally:
            # What ended the work is what the user should read, not that this failed too.
            with contextlib.suppress(InputError):
                self.adb.shell("rm", "-rf", folder)

    def _run(
        self,
        folder: str,
        program: str,
        exported: Exported,
        precision: str,
        threads: int,
        profile: Profile,
    ) -> Finished:
        model = f"{folder}/{exported.file(precision, 'static').name}"
        golden = f"{folder}/{exported.golden.name}"
        finished = self.adb.shell(
            *("env", f"LD_LIBRARY_PATH={folder}", f"{folder}/{program}"),
            *profile_arguments(model, golden, threads, profile),
        )
        if finished.code in (126, 127):  # of env
            abi = self.adb.shell("getprop", "ro.product.cpu.abi").out.strip()
            said = last_line(finished.err).replace(f"{folder}/", "")
            raise InputError(
                f"{self.name}: the runner does not run there ({said}); build it for Android's"
                f" {abi or 'ABI of the device'}, with its shared libraries beside it in the folder"
                " that ?runner= names"
            )
        return finished

    def _prove(self, folder: str, sums: Mapping[str, str]) -> None:
        told = self.adb.shell("sha256sum", *(f"{folder}/{name}" for name in sums))
        found = {
            name.strip().rpartition("/")[2]: digest
            for digest, _, name in (line.partition(" ") for line in told.out.splitlines())
        }
        for name, digest in sums.items():
            if found.get(name) != digest:
                raise InputError(
                    f"{self.name}: {name} arrived altered, or was altered here since it was made;"
                    " make or copy the models again"
                )


def _thermal(before: Thermal, after: Thermal) -> dict[str, Any]:
    return {
        "sensor": before.sensor,
        "status_before": before.status,
        "status_after": after.status,
    }


def open_device(url: DeviceUrl, opening: Opening) -> AdbDevice:
    """Raises InputError where the device is not attached, or not usable, or to get wheels."""
    if opening.send_wheels:
        raise InputError(
            f"--send-wheels is for devices that are reached by ssh, not for {url.text}; leave it"
            " out"
        )
    return AdbDevice(url, find(url.host, url.text))
