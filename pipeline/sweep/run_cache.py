"""Sends what DVC's run cache names beside outputs that are pushed anyway; run in a clone.

``dvc push --run-cache`` sends the entries of the run cache and no data. Outputs go with their
experiment. Metrics and plots do not, as git has them; DVC keeps a copy in its cache, and restores
no run elsewhere without it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ruamel.yaml import YAML


def main() -> None:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    with Repo() as repo:
        sums = set()
        for path in Path(repo.stage_cache.cache_dir).glob("*/*/*"):
            outs = YAML(typ="safe").load(path).get("outs", [])
            sums |= {out["md5"] for out in outs if not out["md5"].endswith(".dir")}
        cache = repo.cache.local
        try:
            repo.cloud.push([HashInfo("md5", md5) for md5 in sorted(sums) if cache.exists(md5)])
        except (DvcException, OSError) as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
