"""Stage ``export_litert``: convert, verify and time the student for LiteRT.

Off by default: if ``litert.enabled`` is false, the report only says so.
"""

import json
from pathlib import Path

from stages.entry import run_stage
from stages.files import new_folder, write_json
from stages.params import Params

LITERT_FOLDER = Path("artifacts/litert")
REPORT = Path("reports/litert.json")


def main(params: Params) -> None:
    """Write ``artifacts/litert`` and ``reports/litert.json``; a precision that fails is marked.

    Raises:
        InputError: LiteRT is not installed.
    """
    if not params.litert.enabled:
        with new_folder(LITERT_FOLDER):
            write_json(REPORT, {"enabled": False, "versions": None, "results": []})
        return
    # Imported late, because without LiteRT the stage should not wait for torch.
    from stages.litert.export import export
    from stages.runtimes.litert_runtime import check_installed, versions

    check_installed(params.litert)
    with new_folder(LITERT_FOLDER) as folder:
        results, samples = export(folder, params)
        (folder / "samples.json").write_text(json.dumps(samples, allow_nan=False) + "\n")
        write_json(REPORT, {"enabled": True, "versions": versions(), "results": results})
    for row in results:
        if row["status"] == "failed":
            print(f"export_litert: {row['precision']} failed: {row['reason']}", flush=True)


if __name__ == "__main__":
    run_stage(main)
