"""Look up the ACKD paper's figures for this run's networks, and how this run differs."""

from pathlib import Path

from stages.formatting import count
from stages.params import Params, read_yaml
from stages.report_page.measurements import Measurements, Record
from stages.sections.methods import Ackd
from stages.sections.training import Training

FOLDER = Path("docs/paper")

# Table 1 has no accuracies of methods.
_TABLES = range(2, 8)
_BEST_LEARNERS = (["D3B1", "D2B2"], ["D4B1", "D3B2"])
_RECIPE = ("epochs", "batch_size", "milestones", "weight_decay")
#: Settings that the paper does not use, by section.
_UNUSED = {
    "teacher": ("weights", "optimizer", "layer_decay", "clip_gradient", "label_smoothing", "ema"),
    "data": ("unlabeled", "sampling", "class_weights"),
    "augmentation": ("policy", "color_jitter", "erasing", "mixup", "cutmix"),
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
        "differs": _differences(setting, measured, params) if setting else [],
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


def _differences(setting: Record, measured: Measurements, params: Params) -> list[str]:
    trainings: dict[str, Training] = {"distill": params.distill}
    if params.teacher.train != "none":
        trainings["teacher"] = params.teacher
    found = [
        f"{name}.{key} is {getattr(training, key)} instead of {setting[key]}"
        for name, training in trainings.items()
        for key in _RECIPE
        if getattr(training, key) != setting[key]
    ]
    for name, keys in _UNUSED.items():
        section = getattr(params, name)
        for key in keys if name != "teacher" or name in trainings else ():
            if (value := getattr(section, key)) != type(section).model_fields[key].default:
                found.append(f"{name}.{key} is {value}")
    for split in ("train", "test"):
        ours, theirs = measured.data["splits"][split]["count"], setting[f"{split}_images"]
        if ours != theirs:
            found.append(f"{count(ours)} {split} images instead of {count(theirs)}")
    if params.distill.method != "kd" and params.proxy.method != "teacher":
        found.append(f"proxy.method is {params.proxy.method} instead of teacher")
    if params.distill.method == "ackd":
        # The tables vary only these.
        varied = {"learners", "attention", "adversarial"}
        ours, theirs = (one.model_dump(exclude=varied) for one in (params.distill.ackd, Ackd()))
        found += [
            f"distill.ackd.{key} is {value} instead of {theirs[key]}"
            for key, value in ours.items()
            if value != theirs[key]
        ]
    return found
