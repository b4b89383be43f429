"""Warn if the auxiliary learners have stopped having an effect."""

from stages.formatting import percent
from stages.report_page.measurements import History, columns

# An accuracy of the discriminators this close to 50 or 100 % counts as pinned.
_PINNED = 0.02
# From this weight of one learner, the others hardly count.
_COLLAPSED = 0.9


def warnings(history: History) -> list[str]:
    """Return what makes the learners ineffective, a sentence each.

    Discriminators are judged by the last fifth of the student's history, attention by its end.
    """
    found = []
    late = history.get("discriminator_accuracy", [])
    late = late[-max(1, len(late) // 5) :]
    when = "in the last epoch" if len(late) == 1 else f"in each of the last {len(late)} epochs"
    for pinned, why in ((0.5, "they cannot distinguish the learners"), (1.0, "they have won")):
        if late and all(abs(accuracy - pinned) <= _PINNED for accuracy in late):
            found.append(
                f"The discriminators’ accuracy is pinned at {100 * pinned:.0f} % {when}: {why}, so"
                " the adversarial term has little effect."
            )
    attention = columns(history, "attention/")
    for name, weights in attention.items():
        if len(attention) > 1 and weights[-1] >= _COLLAPSED:
            found.append(
                f"The attention has collapsed on {name}, with {percent(weights[-1])} of the weight"
                " in the last epoch: the other learners contribute little to the ensemble."
            )
    return found
