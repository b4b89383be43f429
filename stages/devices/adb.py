"""``adb:``: measure on an Android device, in its browser or with a native program."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from models.errors import InputError
from stages.devices import native_runner
from stages.devices.adb_client import Adb, find
from stages.devices.base import Device, Measurement, Row, unmeasured
from stages.devices.browser.probe import START, Probe, Reach, probing
from stages.devices.browser.runs import Report
from stages.devices.commands import last_line, timeout_s
from stages.devices.host import new_token, profile_arguments
from stages.devices.judging import judge
from stages.devices.phone import describe, fixed_performance, mark, thermal
from stages.devices.urls import DeviceUrl
from stages.files import sha256
from stages.runtimes.exported import Exported
from stages.sections.export import Profile

#: Where Android lets a shell store and run programs.
FOLDER = "/data/local/tmp"
#: A browser must load the page within this time; a person may have to choose one first.
BEGIN_SECONDS = 90.0
#: How often to check that the device is still attached.
_LOOK_SECONDS = 5.0


class AdbDevice(Device):
    """Measures in the device's browser, or with the program given by ``?runner=``."""

    def __init__(self, url: DeviceUrl, adb: Adb) -> None:
        super().__init__(url)
        self.adb = adb
        _, mark_, options = url.text.partition("?")
        self.name = f"{adb.url}{mark_}{options}"

    def measure(self, exported: Exported, profile: Profile) -> Measurement:
        runner = self.url.options.get("runner")
        files = [] if runner is None else native_runner.files_of(runner, self.name)
        description = describe(self.adb)
        with fixed_performance(self.adb) as refusal:
            before = thermal(self.adb)
            if runner is None:
                report = self._report(exported, profile)
                after = thermal(self.adb)
                # The page decides when models start, so the state at each start is unknown.
                rows = [mark(row, before, after) for row in report.rows]
                description = report.description | description
            else:
                rows = list(self._native_rows(files, exported, profile))
                after = thermal(self.adb)
                ran = (f"{row['runtime']} {row['version']}" for row in rows if row["version"])
                description["runtime"] = next(ran, None)
        description |= {
            "fixed_performance": {"on": refusal is None, "reason": refusal},
            "thermal": {
                "sensor": before.sensor,
                "status_before": before.status,
                "status_after": after.status,
            },
        }
        return Measurement(self.name, description, rows)

    def _report(self, exported: Exported, profile: Profile) -> Report:
        """Measure on the probe's page in the device's browser."""
        if self.url.threads:
            profile = profile.model_copy(update={"threads": self.url.threads})
        with probing(exported, profile, Reach()) as probe, self.adb.reversed(probe.port):
            self._open(probe.address + START)
            print(f"{self.name}: measuring; keep the page in the foreground", flush=True)
            return self._wait(probe)

    def _wait(self, probe: Probe) -> Report:
        start, limit = time.monotonic(), timeout_s()
        while (report := probe.wait(min(_LOOK_SECONDS, limit, BEGIN_SECONDS))) is None:
            self.adb.run("get-state")  # asks adb's server; raises InputError if the device is gone
            waited, late = time.monotonic() - start, None
            if waited >= BEGIN_SECONDS and not probe.runs.begun:
                late = f"opened the page within {BEGIN_SECONDS:g} s"
            elif waited >= limit:
                late = f"measured within {limit:g} s"
            if late is not None:
                raise InputError(
                    f"{self.name}: no browser has {late}; unlock the device, choose a browser if it"
                    " asks for one, and keep the page in the foreground (ACKD_DEVICE_TIMEOUT sets"
                    " how long to wait in all)"
                )
        return report

    def _open(self, address: str) -> None:
        started = self.adb.shell("am", "start", "-a", "android.intent.action.VIEW", "-d", address)
        lines = (started.out + started.err).splitlines()
        wrong = next((line.strip() for line in lines if line.startswith("Error")), None)
        if wrong is None and started.code:
            wrong = started.reason
        if wrong is not None:
            # The address is secret while the page is served.
            wrong = wrong.replace(address, "the page").rstrip(".")
            raise InputError(f"{self.name}: no browser could be opened ({wrong}); install one")

    def _native_rows(
        self, files: list[Path], exported: Exported, profile: Profile
    ) -> Iterator[Row]:
        """Measure each precision and number of threads in a fresh process."""
        program, folder = files[0].name, f"{FOLDER}/ackd-{new_token()}"
        sums = exported.sums("static")
        sums |= {path: sha256(path) for path in files}
        start = ["env", f"LD_LIBRARY_PATH={folder}", f"{folder}/{program}"]
        golden = f"{folder}/{exported.golden.name}"
        try:
            self.adb.shell("mkdir", "-p", folder)
            self.adb.push(list(sums), folder)
            self._prove(folder, {path.name: digest for path, digest in sums.items()})
            self.adb.shell("chmod", "755", start[-1])
            for precision, threads in self.settings(exported, profile):
                entry = exported.entry(precision, "static")
                arguments = profile_arguments(f"{folder}/{entry['path']}", golden, threads, profile)
                before = thermal(self.adb)
                finished = self.adb.shell(*start, *arguments)
                if finished.code in (126, 127):  # of env
                    raise self._does_not_run(last_line(finished.err).replace(f"{folder}/", ""))
                try:
                    answer = native_runner.parse(finished)
                except InputError as error:
                    yield unmeasured(entry, precision, threads, program, str(error))
                    continue
                row = unmeasured(entry, precision, threads, answer.runtime, None)
                row["peak_rss_mb"] = answer.peak_rss_mb
                row = judge(row, answer, answer.golden.model_dump(), "runner")
                yield mark(row, before, thermal(self.adb))
        finally:
            # A failing cleanup must not hide the error that ended the measurement.
            with contextlib.suppress(InputError):
                self.adb.shell("rm", "-rf", folder)

    def _does_not_run(self, why: str) -> InputError:
        abi = self.adb.shell("getprop", "ro.product.cpu.abi").out.strip()
        return InputError(
            f"{self.name}: the device cannot run the runner ({why}); build it for Android's"
            f" {abi or 'ABI of the device'}, and put its shared libraries beside it in the folder"
            " given by ?runner="
        )

    def _prove(self, folder: str, sums: Mapping[str, str]) -> None:
        listed = self.adb.shell("sha256sum", *(f"{folder}/{name}" for name in sums)).out
        lines = [line.partition(" ") for line in listed.splitlines()]
        found = {path.rpartition("/")[2]: digest for digest, _, path in lines}
        for name, digest in sums.items():
            if found.get(name) != digest:
                raise InputError(
                    f"{self.name}: {name} was altered, in transfer or here since it was exported;"
                    " export or copy the models again"
                )


def open_device(url: DeviceUrl) -> AdbDevice:
    """Open the device; raises InputError if it is not attached or not usable."""
    return AdbDevice(url, find(url.host, url.text))
