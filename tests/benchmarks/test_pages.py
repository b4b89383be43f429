"""The pages show the tables that the commands generate from the result files."""

import pytest

from benchmarks import comparison, edge, gpu, overhead, training
from benchmarks.results import DOCS, FOLDER, ROOT, markers, publish
from models.errors import InputError
from stages.files import read_json
from stages.params import read_yaml


def section(name: str) -> str:
    """Return the text between the marker lines, in whichever page has them."""
    begin, end = markers(name)
    pages = (page.read_text(encoding="utf-8") for page in (ROOT / DOCS).glob("*.md"))
    (rest,) = (text.partition(begin)[2] for text in pages if begin in text)
    return rest.partition(end)[0]


@pytest.mark.parametrize("module", [edge, gpu, overhead, training])
def test_a_page_has_the_table_of_its_results(module):
    name = module.__name__.rpartition(".")[2]
    results = ROOT / FOLDER / f"{name}.json"
    if module is gpu and not results.exists():
        assert section(name).startswith("Not measured")
    else:
        assert section(name) == module.markdown(read_json(results))


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/comparisons").glob("*.yaml")))
def test_a_page_has_the_table_of_each_comparison(path):
    plan, results = read_yaml(path), ROOT / FOLDER / f"{path.stem}.json"
    text = section(path.stem)
    if results.exists():
        made = comparison.markdown(read_json(results), plan)
        assert text == made


def test_a_section_is_replaced_and_the_rest_of_the_page_stays(page):
    begin, end = markers("training")
    page.write_text(f"# Title\n\n{begin}old\n{end}\nThe end.\n")
    publish("training", "new\n")
    assert page.read_text() == f"# Title\n\n{begin}new\n{end}\nThe end.\n"
    with pytest.raises(InputError, match="put them back"):
        publish("edge", "new\n")
