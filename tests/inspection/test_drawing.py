"""Pictures and terminal tables of an inspection."""

from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from tain.foundation.errors import UserError
from tain.inspection.drawing import as_svg
from tain.inspection.inspection_table import as_table
from tain.inspection.results import Comparison, Inspection
from tain.inspection.run import inspect, inspect_against

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def found(bert_folder: Path, sentences: list[str]) -> Inspection:
    """Read only."""
    return inspect(bert_folder, ["a <b> & " + sentences[0], *sentences], shown=len(sentences) + 1, whole_layer=True)


@pytest.fixture(scope="module")
def compared(bert_folder: Path, modernbert_folder: Path, sentences: list[str]) -> Comparison:
    """Read only."""
    return inspect_against(bert_folder, modernbert_folder, sentences)


def words_of(picture: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in picture.iter(f"{SVG}text")]


@pytest.mark.parametrize("method", ["Attn-W", "AttnResLn-N", "Layer-N"])
def test_every_cell_is_drawn_with_its_number(found: Inspection, method: str):
    picture = ElementTree.fromstring(as_svg(found, method=method))
    kinds, tokens = found.statistics.kinds, found.texts[0].tokens
    cells = [element for element in picture.iter(f"{SVG}rect") if element.get("stroke")]
    assert len(cells) == found.layers * (len(kinds) + len(tokens))
    number = found.methods.index(method)
    said = words_of(picture)
    for kind in kinds:
        assert f"{kind.name} ({kind.tokens:,})" in said
        for layer in range(found.layers):
            assert f"{kind.means[layer, number]:.0%}" in said
    assert any(words.startswith(f"{method} of Kobayashi") for words in said)


def test_more_from_others_is_darker(found: Inspection):
    picture = ElementTree.fromstring(as_svg(found, method="Attn-W"))
    cells = [element.get("fill", "") for element in picture.iter(f"{SVG}rect") if element.get("stroke")]
    shares = [kind.means[layer, 0] for layer in range(found.layers) for kind in found.statistics.kinds]
    light = [sum(int(colour[index : index + 2], 16) for index in (1, 3, 5)) for colour in cells[: len(shares)]]
    order = sorted(range(len(shares)), key=lambda cell: shares[cell])
    assert [light[cell] for cell in order] == sorted(light, reverse=True)


def test_two_models_are_drawn_one_below_the_other(compared: Comparison):
    said = words_of(ElementTree.fromstring(as_svg(compared)))
    assert set(compared.titles) <= set(said)
    assert len(set(compared.titles)) == 2


def test_a_method_that_was_not_measured_is_refused(compared: Comparison):
    with pytest.raises(UserError, match="method is 'Layer-N'"):
        as_svg(compared, method="Layer-N")


def shown(found: Inspection | Comparison, width: int = 80) -> str:
    stream = StringIO()
    Console(file=stream, width=width).print(as_table(found))
    return stream.getvalue()


def test_tables_fit_a_terminal_and_say_the_means(found: Inspection, compared: Comparison):
    for each in (found, compared):
        lines = shown(each).splitlines()
        assert max(map(len, lines)) <= 80
        assert not any("…" in line for line in lines)
    assert f"{found.statistics.overall[4]:.1%}" in shown(found)
    assert "isotropy" in shown(compared)


def test_the_strongest_pairs_are_named(found: Inspection):
    similarity = found.similarities[0]
    left, right = divmod(int(similarity.contributions.argmax()), similarity.contributions.shape[1])
    strongest = f"{found.texts[0].tokens[left]} / {found.texts[1].tokens[right]} ({similarity.contributions.max():+.4f})"
    assert strongest in " ".join(shown(found, width=400).split())
