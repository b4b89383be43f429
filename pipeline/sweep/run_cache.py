"""Sends what DVC's run cache names beside the outputs that are pushed anyway.

``dvc exp push --run-cache`` sends the entries of the run cache, and outputs go with their
experiment. Metrics and plots do not, as git has them; yet DVC restores no run elsewhere without
the copies that its cache has.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.dvc_command import StageError
from stages.params import read_yaml


def push_copies(clone: Path) -> None:
    """Push what the entries of a clone's run cache name and its cache has.

    Raises:
        StageError: the remote did not take it.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    with Repo(str(clone)) as repo:
        entries = Path(repo.stage_cache.cache_dir).glob("*/*/*")
        sums = {out["md5"] for entry in entries for out in read_yaml(entry).get("outs", [])}
        cache = repo.cache.local
        copies = [md5 for md5 in sorted(sums) if not md5.endswith(".dir") and cache.exists(md5)]
        try:
            repo.cloud.push([HashInfo("md5", md5) for md5 in copies])
        except (DvcException, OSError) as error:
            raise StageError(str(error)) from None
