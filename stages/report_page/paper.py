"""Look up the ACKD paper's figures for this run's networks, and how this run differs."""

from collections.abc import Collection
from pathlib import Path

from stages.formatting import count
from stages.params import Params, read_yaml
from stages.report_page.measurements import Measurements, Record
from stages.sections.common import Section
from stages.sections.data import Augmentation
from stages.sections.methods import Distill
from stages.sections.training import Teacher

FOLDER = Path("docs/paper")

# Table 1 has no accuracies of methods.
_TABLES = range(2, 8)
_BEST_LEARNERS = (["D3B1", "D2B2"], ["D4B1", "D3B2"])
_RECIPE = ("epochs", "batch_size", "learning_rate", "milestones", "momentum", "weight_decay")
#: What the paper's tables vary, or leave open.
_VARIED = {"learners", "attention", "adversarial", "networks", "candidates"}
#: Settings that the paper does not use, by section.
_UNUSED = {
    "teacher": ("weights", "optimizer", "layer_decay", "clip_gradient", "label_smoothing", "ema"),
    "data": ("unlabeled", "sampling", "class_weights"),
}
_UNUSED["distill"] = _UNUSED["teacher"]
_PROXIES = {"teacher": "kd", "early_stopped": "eskd", "assistants": "takd"}
_TITLES = {
    "teacher": "teacher",
    "scratch": "student alone",
    "kd_standardized": "KD, standardized",
    "semckd": "SemCKD",
    "reviewkd": "ReviewKD",
}


def paper_figures(measured: Measurements, params: Params) -> Record | None:
    """Return ``paper`` of ``reports/summary.json``; None if ``report.paper`` is null.

    ``accuracies`` and ``top5_accuracies`` are fractions by method, named as in ``presets/methods``;
    they are empty if the paper has none for this teacher and student. ``method`` is this run's name
    there, and ``differs`` lists how it departs from the paper.
    """
    if params.report.paper is None:
        return None
    pair = measured.teacher["network"], measured.student["network"]
    accuracies: dict[str, float] = {}
    top5: dict[str, float] = {}
    numbers: list[int] = []
    setting: Record = {}
    for number in _TABLES:
        table = read_yaml(FOLDER / f"table{number}.yaml")
        rows = [row for row in table["figures"] if (row["teacher"], row["student"]) == pair]
        if table["data"] == params.report.paper and rows:
            numbers.append(number)
            setting = table
            accuracies |= _accuracies(rows, "")
            top5 |= _accuracies(rows, "top5_")
    return {
        "data": params.report.paper,
        "tables": numbers,
        "method": method_of(params),
        "accuracies": accuracies,
        "top5_accuracies": top5,
        "differs": _differences(setting, measured, params, accuracies) if setting else [],
    }


def method_of(params: Params) -> str:
    """Return the name in ``presets/methods`` of the method that trains the student.

    A combination that the paper lacks gets a name that does not exist there.
    """
    method, proxy, ackd = params.distill.method, params.proxy.method, params.distill.ackd
    if method == "kd":
        return _PROXIES[proxy] + ("_standardized" if params.distill.kd.standardize else "")
    if method != "ackd":
        return method
    parts = {"attention": ackd.attention, "adversary": ackd.adversarial}
    without = "_and_".join(name for name, taken in parts.items() if not taken)
    name = f"ackd_without_{without}" if without else "ackd"
    if ackd.learners not in _BEST_LEARNERS:
        name += "".join(f"_{learner.lower()}" for learner in ackd.learners)
    return name


def reading(paper: Record) -> str:
    """Return the text above the table."""
    *most, last = map(str, paper["tables"])
    named = f"Tables {', '.join(most)} and {last}" if most else f"Table {last}"
    start = f"From {named} of the paper."
    if paper["differs"]:
        return f"{start} This run is not comparable with it: {'; '.join(paper['differs'])}."
    return f"{start} This run was trained as in the paper, with a single seed."


def title(method: str) -> str:
    """Return ``ACKD, D3B1 and D2B2`` for ``ackd_d3b1_d2b2``."""
    if method in _TITLES:
        return _TITLES[method]
    if method.startswith("ackd_without"):
        return f"ACKD{method.removeprefix('ackd').replace('_', ' ')}"
    name, *learners = method.upper().split("_")
    return f"{name}, {' and '.join(learners)}" if learners else name


def _accuracies(rows: list[Record], kind: str) -> dict[str, float]:
    """Collect accuracies by method, from accuracies or errors in percent; some have no top-5."""
    found = {}
    for row in rows:
        accuracy, error = (row.get(f"{kind}{name}") for name in ("accuracy", "error"))
        if accuracy is not None:
            found[row["method"]] = round(accuracy / 100, 4)
        elif error is not None:
            found[row["method"]] = round(1 - error / 100, 4)
    return found


def _differences(
    setting: Record, measured: Measurements, params: Params, methods: Collection[str]
) -> list[str]:
    """List what differs from ``setting``, the head of a table that has these methods."""
    trainings: dict[str, Teacher | Distill] = {"distill": params.distill}
    if params.teacher.train != "none":
        trainings["teacher"] = params.teacher
    found = []
    for name, training in trainings.items():
        rates = {"": setting["learning_rate"]} | setting.get("learning_rates", {})
        rate = [rates[start] for start in rates if training.network.startswith(start)][-1]
        found += _changed(
            name, training, {key: setting[key] for key in _RECIPE} | {"learning_rate": rate}
        )
    for name, keys in _UNUSED.items():
        section = getattr(params, name)
        for key in keys if name != "teacher" or name in trainings else ():
            if (value := getattr(section, key)) != type(section).model_fields[key].default:
                found.append(f"{name}.{key} is {value}")
    augmentation = Augmentation(**setting["augmentation"]).model_dump(exclude={"seed"})
    found += _changed("augmentation", params.augmentation, augmentation)
    if (size := measured.data["image_size"]) != setting["image_size"]:
        found.append(f"images of {size} pixels instead of {setting['image_size']}")
    for split in ("train", "test"):
        ours, theirs = measured.data["splits"][split]["count"], setting[f"{split}_images"]
        if ours != theirs:
            found.append(f"{count(ours)} {split} images instead of {count(theirs)}")
    method, proxy = params.distill.method, params.proxy.method
    if method != "kd" and proxy != "teacher":
        found.append(f"proxy.method is {proxy} instead of teacher")
    if method_of(params) in methods:
        used: dict[str, Section] = {f"distill.{method}": getattr(params.distill, method)}
        used[f"proxy.{proxy}"] = getattr(params.proxy, proxy)
        for name, section in used.items():
            usual = type(section)().model_dump(exclude=_VARIED)
            options = setting["options"].get(name.partition(".")[2], {})
            found += _changed(name, section, usual | options)
        if method != "scratch":
            temperature = 3.0 if method == "one" else Distill.model_fields["temperature"].default
            found += _changed("distill", params.distill, {"temperature": temperature})
    return found


def _changed(name: str, section: Section, theirs: Record) -> list[str]:
    return [
        f"{name}.{key} is {value} instead of {theirs[key]}"
        for key in theirs
        if (value := getattr(section, key)) != theirs[key]
    ]
