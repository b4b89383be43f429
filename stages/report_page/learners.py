"""The auxiliary learners: how they developed, how they differ, and whether they still do."""

from __future__ import annotations

from stages.formatting import percent, significant
from stages.report_page.charts import lines
from stages.report_page.curves import Series, Titled, column, columns
from stages.report_page.measurements import History, Measurements, Record
from stages.tables import Table, shaded

# How near to 50 or 100 % the discriminators' accuracy counts as pinned there.
_PINNED = 0.02
# The weight of one learner from which the others hardly count.
_COLLAPSED = 0.9
_ROWS = 20

_READINGS = {
    "Validation accuracy": "An ensemble above each of its learners shows that they complement each"
    " other; what the target lacks of the ensemble it could still learn from it.",
    "CKA of every two": "At 1 two learners represent the images alike; the lower, the more they"
    " differ.",
    "Attention": "Curves that stay apart from 100 % show that every learner takes part in the"
    " ensemble.",
    "Discriminators, dotted: chance": "Between chance and 100 % they have something to teach the"
    " learners; pinned at either they have nothing.",
}


def warnings(history: History) -> list[str]:
    """What keeps the learners from doing their work, a sentence each.

    Args:
        history: of the student; its last fifth is looked at for the discriminators, and its last
            epoch for the attention.
    """
    found = []
    late = history.get("discriminator_accuracy", [])
    late = late[-max(1, len(late) // 5) :]
    when = "in the last epoch" if len(late) == 1 else f"in each of the last {len(late)} epochs"
    if late and all(abs(accuracy - 0.5) <= _PINNED for accuracy in late):
        found.append(
            f"The discriminators’ accuracy is pinned at 50 % {when}: they cannot tell the learners"
            " apart, so the adversarial term no longer says how they differ."
        )
    if late and all(accuracy >= 1 - _PINNED for accuracy in late):
        found.append(
            f"The discriminators’ accuracy is pinned at 100 % {when}: they have won, so the"
            " adversarial term hardly changes the learners any more."
        )
    attention = {name: values[-1] for name, (_, values) in columns(history, "attention/").items()}
    for name, weight in attention.items():
        if len(attention) > 1 and weight >= _COLLAPSED:
            found.append(
                f"The attention has collapsed on {name}, with {percent(weight)} of the weight in"
                " the last epoch: the other learners hardly take part in the ensemble."
            )
    return found


def diversity_charts(measured: Measurements) -> list[Titled]:
    """How the auxiliary learners develop; only what the method logged."""
    history = measured.student_history
    target = {"target": column(history, "val_accuracy")}
    shown: list[tuple[str, str, Series, str]] = [
        ("Validation accuracy", "accuracy", target | columns(history, "val_accuracy/"), "%"),
        ("CKA of every two", "linear CKA", columns(history, "cka/"), ""),
        ("Attention", "mean weight", columns(history, "attention/"), "%"),
        ("Discriminators, dotted: chance", "accuracy", columns(history, "discriminator_"), "%"),
    ]
    return [
        Titled(
            title,
            lines(
                f"learners-{number}",
                series,
                y_label=label,
                describes=f"{title} by epoch: {', '.join(series)}",
                percent=unit == "%",
                reference=0.5 if title.startswith("Discriminators") else None,
            ),
            _READINGS[title],
        )
        for number, (title, label, series, unit) in enumerate(shown)
        if series
    ]


def names(analysis: Record) -> list[str]:
    """The auxiliary learners."""
    return [n for n in analysis["learners"]["accuracy"] if n not in {"target", "ensemble"}]


def members(analysis: Record) -> Table:
    """Target, learners and ensemble on the test images."""
    learners = analysis["learners"]
    rows = [
        [
            "target (the student)" if name == "target" else name,
            percent(accuracy),
            percent(learners["attention"][name]) if name in learners["attention"] else "—",
        ]
        for name, accuracy in learners["accuracy"].items()
    ]
    head = ["", "test accuracy", "mean attention"]
    return Table(head, rows, f"On all {analysis['test_images']} test images")


def pairs(analysis: Record) -> Table:
    """How alike every two of them are."""
    learners = analysis["learners"]
    rows = [
        [
            pair.replace("~", " and "),
            percent(agreement),
            significant(learners["cka"][pair]) if pair in learners["cka"] else "—",
        ]
        for pair, agreement in learners["agreement"].items()
    ]
    head = [
        "pair",
        f"same answer, {analysis['test_images']} images",
        f"CKA, {analysis['images']} images",
    ]
    reading = (
        "Of two that are equally accurate, those that give the same answer less often add more to"
        " each other."
    )
    return Table(head, rows, "Every two of them", reading)


def attention_by_class(classes: list[Record]) -> Table | None:
    """The classes whose weights differ most from the mean; None where all are weighed alike."""
    prefix = "attention/"
    weights = [key for key in classes[0] if key.startswith(prefix)]
    present = [one for one in classes if one["images"]]
    means: dict[str, float] = {
        key: sum(one[key] for one in present) / len(present) for key in weights
    }

    def distance(one: Record) -> float:
        return max(abs(float(one[key]) - means[key]) for key in weights)

    if len(weights) < 2 or max(map(distance, present)) < 1e-4:
        return None
    chosen = sorted(present, key=distance, reverse=True)[:_ROWS]
    chosen.sort(key=lambda one: one[weights[0]], reverse=True)
    shades = shaded([[one[key] for key in weights] for one in chosen], lambda w: f"{100 * w:.1f} %")
    rows = [[one["class"], *cells] for one, cells in zip(chosen, shades, strict=True)]
    which = (
        f" ({_ROWS} of {len(present)}, those farthest from the mean)"
        if len(present) > _ROWS
        else ""
    )
    head = ["class", *(key.removeprefix(prefix) for key in weights)]
    reading = (
        "Mean weight on the test images of a class: the stronger the colour, from the least of the"
        " table to the greatest, the more the ensemble listens to that learner there."
    )
    return Table(head, rows, f"Attention by class{which}", reading)
