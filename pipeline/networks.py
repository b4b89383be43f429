"""What ``params.yaml`` says of networks, looked at before a run: a teacher takes hours."""

from __future__ import annotations

import models
from models.learners import check_codes
from stages.params import Params


def check_networks(params: Params) -> None:
    """Build every network once.

    Raises:
        InputError: one is not known, or the student has no stages for its learners.
    """
    classes = 2  # of which nothing here depends
    assistants = [*params.proxy.assistants, *params.proxy.candidates]
    for name in (params.teacher.network, *assistants):
        models.build(name, classes)
    student = models.build(params.distill.network, classes)
    if params.distill.method == "ackd":
        # Of several candidates the one that teaches is not known yet.
        chain = params.proxy.assistants if params.proxy.method == "assistants" else []
        taught_by = [params.teacher.network, *chain][-1]
        check_codes(params.distill.ackd.learners, student, models.build(taught_by, classes))
