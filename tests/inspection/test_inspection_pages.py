"""HTML page of an inspection: its content, its security policy, and its behaviour in a browser."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tain.inspection.page_data import choose_plan, matrices_of, page_data
from tain.inspection.pages import inspection_page
from tain.inspection.results import Comparison, Inspection, SimilarityInspection, TextInspection
from tain.inspection.run import inspect, inspect_against

Build = Callable[..., Any]


@pytest.fixture(scope="module")
def found(bert_folder: Path, sentences: list[str]) -> Inspection:
    """Read only."""
    return inspect(bert_folder, [*sentences[:2], "</script><script>document.title='broken'</script> & <b>glass"], whole_layer=True)


@pytest.fixture(scope="module")
def compared(bert_folder: Path, modernbert_folder: Path, sentences: list[str]) -> Comparison:
    """Read only."""
    return inspect_against(bert_folder, modernbert_folder, sentences[:3])


def long_text(*, layers: int, heads: int, tokens: int) -> TextInspection:
    """A text of random numbers, in the shape that a large model would give."""
    rng = np.random.default_rng(1)
    return TextInspection(
        text="x " * tokens,
        tokens=("token",) * tokens,
        kinds=("words",) * tokens,
        cut=0,
        methods=("Attn-W", "Attn-N", "AttnRes-W", "AttnRes-N", "AttnResLn-N"),
        ratios=rng.random((layers, 5, tokens), dtype=np.float32),
        weights=rng.random((layers, heads, tokens, tokens), dtype=np.float32),
        head_lengths=rng.random((layers, heads, tokens), dtype=np.float32),
        norms={name: rng.random((layers, tokens, tokens), dtype=np.float32) for name in ("Attn-N", "AttnRes-N", "AttnResLn-N")},
        vectors=rng.random((tokens, 8), dtype=np.float32),
    )


def test_a_text_of_512_tokens_in_twelve_layers_of_twelve_heads_stays_under_two_megabytes(compared: Comparison):
    text = long_text(layers=12, heads=12, tokens=512)
    whole = replace(compared.first, layers=12, heads=12, texts=(text,), similarities=())
    plan = choose_plan([whole])
    assert plan.kept_head >= 1  # heads can be looked at too
    data = json.dumps(page_data([whole], titles=["one"]))
    assert 1_000_000 < len(data) < 1_900_000


@pytest.mark.parametrize(("room", "texts"), [(40_000, 4), (5_000, 2), (100, 0)])
def test_texts_that_do_not_fit_are_left_out_from_the_end_with_a_note(
    compared: Comparison, room: int, texts: int, monkeypatch: pytest.MonkeyPatch
):
    text = long_text(layers=2, heads=2, tokens=40)
    pair = SimilarityInspection(left=0, right=3, cosine=0.5, contributions=np.full((40, 40), 0.5 / 1600))
    many = replace(compared.first, heads=2, texts=(text,) * 4, similarities=(pair,))
    monkeypatch.setattr("tain.inspection.page_data._ROOM_BYTES", room)
    (model,) = page_data([many], titles=["one"])["models"]
    assert len(model["texts"]) == texts
    assert len(model["similarities"]) == (texts == 4)
    page = inspection_page(many)
    assert ("of the shown texts did not fit" in page) == (texts == 2)
    assert ("do not fit on a page" in page) == (texts == 0)
    assert ("<canvas" in page) == (texts > 0)


def test_long_names_and_many_pairs_find_room_too(compared: Comparison):
    text = replace(long_text(layers=2, heads=2, tokens=200), tokens=tuple(f"a-very-long-piece-{index}" * 20 for index in range(200)))
    pairs = tuple(
        SimilarityInspection(left=left, right=right, cosine=0.5, contributions=np.full((200, 200), 0.5 / 40_000))
        for right in range(12)
        for left in range(right)
    )
    whole = replace(compared.first, layers=2, heads=2, texts=(text,) * 12, similarities=pairs)
    assert len(inspection_page(whole).encode()) < 2_000_000


def halves(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<f2").astype(np.float64)


def unpacked(packed: dict[str, Any], rows: int) -> np.ndarray:
    """Undo the packing: tables (tables, rows, columns), nan where nothing was kept."""
    values = halves(packed["values"]).reshape(-1, rows, packed["kept"])
    if not packed["places"]:
        return values
    indices = np.frombuffer(base64.b64decode(packed["places"]), dtype="<u2").reshape(rows, packed["kept"]).astype(int)
    whole = np.full((len(values), rows, packed["columns"]), np.nan)
    np.put_along_axis(whole, indices[None].repeat(len(values), 0), values, axis=-1)
    return whole


@pytest.mark.parametrize("room", [10**7, 25_000])
def test_packed_numbers_are_the_results_own(found: Inspection, room: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tain.inspection.page_data._ROOM_BYTES", room)
    (model,) = page_data([found], titles=["one"])["models"]
    assert len(model["texts"]) == 3
    for packed, text in zip(model["texts"], found.texts, strict=True):
        rows = len(text.tokens)
        ratios = np.frombuffer(base64.b64decode(packed["ratios"]), dtype="<u2").reshape(found.layers, -1, rows) / 65535
        np.testing.assert_allclose(ratios[:, :-1], text.ratios, atol=1e-5)
        for layer in range(found.layers):
            tables = unpacked(packed["layers"][layer], rows)
            for table, name in zip(tables, matrices_of(found), strict=True):
                exact = text.rolled()[layer] if name == "Roll-out" else text.matrix(name, layer=layer)
                is_kept = ~np.isnan(table)
                np.testing.assert_allclose(table[is_kept], exact[is_kept], rtol=1e-3, atol=1e-6)
                assert is_kept.diagonal().all()
                assert is_kept[np.arange(rows), exact.argmax(1)].all()  # what gives most is never left out
            for head, packed_head in enumerate(packed["heads"][layer]):
                (weights,) = unpacked(packed_head, rows)
                is_kept = ~np.isnan(weights)
                np.testing.assert_allclose(weights[is_kept], text.weights[layer, head][is_kept], rtol=1e-3, atol=1e-6)
                assert is_kept.all() == (room == 10**7)


def test_nothing_is_loaded_and_no_foreign_script_can_run(found: Inspection):
    page = inspection_page(found)
    assert re.search(r"""(src|href)\s*=|@import|url\(""", page) is None
    assert "default-src 'none'" in page
    assert page.count("<script") == 2  # the data and the page's own: what a text says stays text
    assert "<b>" not in page


class Elements(HTMLParser):
    """Collects the attributes of every element of a page, and the ids that labels and captions refer to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_whatever_can_be_seen_has_a_name_for_a_screen_reader(compared: Comparison):
    elements = Elements(inspection_page(compared)).found
    ids = {attributes["id"] for _, attributes in elements if "id" in attributes}
    for tag, attributes in elements:
        if tag == "canvas" or attributes.get("role") == "listbox":
            assert attributes.get("aria-label")
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
    assert sum(tag == "caption" for tag, _ in elements) == sum(tag == "table" for tag, _ in elements)
    assert sum(attributes.get("aria-live") == "polite" for _, attributes in elements) == 2


def test_without_shown_texts_the_page_has_its_tables(bert_folder: Path, sentences: list[str]):
    page = inspection_page(inspect(bert_folder, sentences, shown=0))
    assert "No text is shown token by token" in page
    assert "Mean share from other tokens, by layer" in page
    assert "<canvas" not in page


def test_a_notebook_shows_the_page_in_a_frame(found: Inspection, compared: Comparison):
    for each in (found, compared):
        shown = each._repr_html_()
        assert shown.startswith("<iframe srcdoc=")
        assert shown.count('"') == 8  # four attributes: the page inside is escaped


# ---- in a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def page_in_browser(found: Inspection | Comparison, folder: Path, *, address: str = "", script: str = "") -> str:
    """Open the page in headless Chromium, run a script on it, and give the document as it is then."""
    page = inspection_page(found)
    if script:  # the page itself would refuse it
        page = re.sub(r"script-src 'sha256-[^']+'", "script-src 'unsafe-inline'", page)
        page = page.replace("</body>", f"<script>{script}</script></body>")
    (folder / "page.html").write_text(page, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, f"{(folder / 'page.html').as_uri()}#{address}"], capture_output=True, text=True, check=True, timeout=120
    )
    assert 'data-ready="yes"' in done.stdout, done.stderr
    return done.stdout


def attributes_of(page: str, name: str) -> dict[str, str | None]:
    (found,) = [attributes for _, attributes in Elements(page).found if attributes.get("id") == name]
    return found


def source_rows(page: str) -> dict[int, float]:
    """The list of sources: the number beside each place."""
    return {int(row["data-place"]): float(row["data-value"]) for tag, row in Elements(page).found if tag == "tr" and "data-place" in row}


@in_browser
@pytest.mark.parametrize("method", ["Attn-W", "Attn-N", "AttnRes-W", "AttnRes-N", "AttnResLn-N", "Layer-N", "Roll-out"])
def test_values_on_the_page_are_those_of_the_json(found: Inspection, method: str, tmp_path: Path):
    page = page_in_browser(found, tmp_path, address=f"text=1&layer=1&method={method}&token=4")
    plain = found.to_dict(matrices=True)["texts"][1]
    rolled = np.array(plain["rollout"][1])
    if method == "Roll-out":
        ratio, row = 1 - rolled[4, 4], rolled[4]
    else:
        ratio = plain["ratios"][1][found.methods.index(method)][4]
        weights = np.array(plain["weights"][1]).mean(0)
        row = {"Attn-W": weights, "AttnRes-W": (weights + np.eye(len(weights))) / 2}.get(
            method, np.array(plain["norms"].get(method, [0, 0])[1])
        )[4]
    assert float(attributes_of(page, "said")["data-ratio"]) == pytest.approx(ratio, abs=2e-5)
    rows = source_rows(page)
    assert list(rows) == np.argsort(-row)[: len(rows)].tolist()
    for index, value in rows.items():
        assert value == pytest.approx(row[index], rel=1e-3)
    assert f"{100 * ratio:.1f}% from other tokens" in page


@in_browser
def test_a_single_heads_norms_are_weights_times_lengths(found: Inspection, tmp_path: Path):
    page = page_in_browser(found, tmp_path, address="text=0&layer=1&head=2&method=Attn-N&token=3")
    expected = found.texts[0].matrix("Attn-N", layer=1, head=2)[3]
    rows = source_rows(page)
    assert len(rows) == min(12, len(expected))
    for index, value in rows.items():
        assert value == pytest.approx(expected[index], rel=2e-3)


PRESSES = """
const press = (name, key) => element(name).dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const pick = (name, value) => { element(name).value = value; element(name).dispatchEvent(new Event("change")); };
"""


@in_browser
def test_every_control_works_by_keyboard(found: Inspection, tmp_path: Path):
    script = (
        PRESSES
        + """
pick("text", "1"); pick("layer", "1"); pick("head", "3"); pick("method", "Attn-W");
press("tokens", "End"); press("tokens", "ArrowLeft");
press("map-0", "ArrowUp"); press("map-0", "ArrowRight"); press("map-0", "ArrowLeft");
pick("pair", "1");
press("right-words", "ArrowRight");
document.body.dataset.state = JSON.stringify(state);
document.body.dataset.focus = document.activeElement.parentElement.id + document.activeElement.dataset.place;
"""
    )
    page = page_in_browser(found, tmp_path, script=script)
    (body,) = [attributes for tag, attributes in Elements(page).found if tag == "body"]
    state = json.loads(body["data-state"])
    last = len(found.texts[1].tokens) - 1
    assert {name: state[name] for name in ("text", "layer", "head", "method", "token")} == {
        "text": 1, "layer": 0, "head": "3", "method": "Attn-W", "token": last - 1,
    }  # fmt: skip
    assert (state["pair"], state["side"], state["word"]) == (1, "right", 1)
    assert body["data-focus"] == "right-words1"
    chosen = [each for tag, each in Elements(page).found if tag == "button" and each.get("aria-selected") == "true"]
    assert [each["tabindex"] for each in chosen] == ["0", "0"]  # one stop in each list


@in_browser
def test_pointing_at_a_token_shows_its_sources(found: Inspection, tmp_path: Path):
    script = 'element("tokens").children[5].dispatchEvent(new MouseEvent("mouseover", { bubbles: true }));'
    page = page_in_browser(found, tmp_path, address="layer=1", script=script)
    text = found.texts[0]
    assert float(attributes_of(page, "said")["data-ratio"]) == pytest.approx(text.ratios[1, 4, 5], abs=2e-5)
    assert next(iter(source_rows(page))) == int(text.matrix("AttnResLn-N", layer=1)[5].argmax())


@in_browser
def test_the_similarity_view_shows_the_strongest_pairs_and_the_cosine(found: Inspection, tmp_path: Path):
    page = page_in_browser(found, tmp_path, address="pair=1")
    similarity = found.similarities[1]
    assert float(attributes_of(page, "similarity-said")["data-cosine"]) == similarity.cosine
    shown = [
        (int(row["data-left"]), int(row["data-right"]), float(row["data-value"]))
        for tag, row in Elements(page).found
        if tag == "tr" and "data-left" in row
    ]
    strongest = np.sort(np.abs(similarity.contributions).ravel())[::-1][: len(shown)]
    np.testing.assert_allclose([abs(value) for *_, value in shown], strongest, rtol=1e-3)
    for left, right, value in shown:
        assert value == pytest.approx(similarity.contributions[left, right], rel=1e-3)


@in_browser
def test_two_models_stand_side_by_side(compared: Comparison, tmp_path: Path):
    page = page_in_browser(compared, tmp_path, script=PRESSES + 'pick("model", "1"); pick("layer", "2");')
    ratio = compared.second.texts[0].ratios[2, 4, 0]
    assert float(attributes_of(page, "said")["data-ratio"]) == pytest.approx(ratio, abs=2e-5)
    for name in ("map-0", "map-1", "pair-map-0", "pair-map-1"):
        assert int(attributes_of(page, name)["width"]) > 40
    for index, each in enumerate((compared.first, compared.second)):
        assert f'id="cosine-{index}" class="quiet">cosine {each.similarities[0].cosine:.4f}' in page


@in_browser
def test_hostile_text_is_shown_and_not_run(found: Inspection, tmp_path: Path):
    page = page_in_browser(found, tmp_path, address="text=2")
    assert "<title>broken" not in page
    assert "&lt;/script&gt;" in page
