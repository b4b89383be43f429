"""Pushes the metrics and plots that DVC's run cache needs to restore a run elsewhere.

``dvc exp push --run-cache`` pushes the entries of the run cache, and the experiment's outputs. It
leaves out metrics and plots, which are in git, but DVC cannot restore a run without the copies in
its cache.
"""

from pathlib import Path

from pipeline.dvc_command import StageError
from stages.params import read_yaml


def push_copies(clone: Path) -> None:
    """Push what a clone's run cache refers to and its cache has; raises StageError on failure."""
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
