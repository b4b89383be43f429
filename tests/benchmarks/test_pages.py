"""The pages show what the files of results hold, as the commands write it."""

from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import accuracy, comparison, cost, edge, overhead, training
from benchmarks.results import ROOT, markers, publish
from models.errors import InputError
from stages.files import read_json
from stages.params import read_yaml

RESULTS = ROOT / "benchmarks/results"


def section(page: str, name: str) -> str:
    """What stands between the marker lines."""
    begin, end = markers(name)
    _, _, rest = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"{begin}\n")
    return rest.partition(f"{end}\n")[0]


@pytest.mark.parametrize("module", [accuracy, cost, edge, overhead, training])
def test_a_page_has_the_table_of_its_results(module: ModuleType) -> None:
    name = module.__name__.rpartition(".")[2]
    page = "scale.md" if module is cost else "benchmarks.md"
    assert section(page, name) == module.markdown(read_json(RESULTS / f"{name}.json"))


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/comparisons").glob("*.yaml")))
def test_results_has_the_table_of_each_comparison(path: Path) -> None:
    plan, results = read_yaml(path), RESULTS / f"{path.stem}.json"
    text = section("results.md", path.stem)
    assert text or not results.exists()
    if results.exists():
        made = comparison.markdown(read_json(results), list(plan["variants"]), plan["baselines"])
        assert text == made


def test_a_section_is_replaced_and_the_rest_of_the_page_stays(tmp_path: Path) -> None:
    begin, end = markers("training")
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{begin}\nold\n{end}\n\nThe end.\n")
    publish("training", "new\n", page)
    assert page.read_text() == f"# Title\n\n{begin}\nnew\n{end}\n\nThe end.\n"
    with pytest.raises(InputError, match="put them back"):
        publish("edge", "new\n", page)
    with pytest.raises(InputError, match="no such file"):
        publish("training", "new\n", tmp_path / "none.md")
