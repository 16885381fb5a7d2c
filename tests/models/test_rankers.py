"""Bi-, poly- and cross-encoders behind one interface: what a score means, saving and loading, sentence-transformers."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tain
from tain.encoders.heads import DualHead, poly_scores
from tain.foundation.errors import UserError
from tain.models.embedder import Embedder
from tain.models.rankers import CrossRanker, DualRanker, Ranker

LIMITS = {"context_tokens": 20, "candidate_tokens": 12}
KINDS = ["bi", "poly", "cross"]
SIMILARITIES = ["dot", "cosine"]


@pytest.fixture
def build(bert_folder, generator):
    """Make an untrained ranker whose two towers differ."""

    def make(type="poly", *, folder=bert_folder, kind=None, codes=3, is_shared=False, similarity="dot"):
        embedder = Embedder.load(folder, device="cpu", dtype="float32")
        if type == "cross":
            return CrossRanker.start(embedder, **LIMITS, generator=generator)
        ranker = DualRanker.start(
            embedder,
            kind="pooled" if type == "bi" else kind or "learned",
            codes=1 if type == "bi" else codes,
            scale=0.3,
            is_scale_learned=True,
            is_shared=is_shared,
            generator=generator,
            normalize=similarity == "cosine",
            **LIMITS,
        )
        if not is_shared:
            with torch.no_grad():
                for parameter in ranker.candidate.encoder.parameters():
                    parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
        return ranker

    return make


def saved(ranker, folder):
    folder.mkdir()
    ranker.save(folder, record={"base_model": "tiny"}, card="a card")
    return folder


# ---- what a score is


@pytest.mark.parametrize("type", KINDS)
def test_scores_of_all_pairs_and_of_lists_agree(build, sentences, type):
    ranker = build(type)
    scores = ranker.score(sentences[:3], sentences[4:9])
    assert scores.shape == (3, 5)
    lists = [sentences[4:9], sentences[6:4:-1], [sentences[8]]]
    expected = [scores[0], scores[1][[2, 1]], scores[2][[4]]]
    for found, wanted in zip(ranker.score_lists(sentences[:3], lists), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("kind", ["learned", "first", "last", "last-and-first"])
def test_a_poly_encoder_scores_by_the_papers_equations(build, sentences, kind):
    ranker = build(kind=kind)
    contexts = ranker.encode_contexts(sentences[:3])
    candidates = torch.from_numpy(ranker.encode_candidates(sentences[3:7]))
    expected = poly_scores(contexts.vectors, candidates, is_vector=contexts.is_vector)
    np.testing.assert_allclose(ranker.score(sentences[:3], sentences[3:7]), expected.numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_bi_encoder_scores_by_the_similarity_of_its_towers(build, sentences, similarity):
    ranker = build("bi", similarity=similarity)
    sides = zip((ranker.context, ranker.candidate), (sentences[:3], sentences[3:7]), strict=True)
    contexts, candidates = (side.encode(texts, normalize=similarity == "cosine") for side, texts in sides)
    expected = float(ranker.head.scale) ** 2 * contexts @ candidates.T
    np.testing.assert_allclose(ranker.score(sentences[:3], sentences[3:7]), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_poly_encoder_whose_codes_are_zeros_scores_as_the_bi_encoder_of_its_towers(build, sentences, similarity):
    ranker = build(similarity=similarity)
    with torch.no_grad():
        ranker.head.codes.zero_()
    bi = DualHead("pooled", codes=1, dim=ranker.dim, scale=float(ranker.head.scale), is_scale_learned=True, normalize=ranker.head.normalize)
    expected = DualRanker(ranker.context, ranker.candidate, bi, name="bi").score(sentences[:3], sentences[3:])
    np.testing.assert_allclose(ranker.score(sentences[:3], sentences[3:]), expected, atol=1e-4, rtol=1e-4)


def test_the_length_of_vectors_counts_in_dot_products_and_not_in_cosines(build, sentences):
    for similarity in SIMILARITIES:
        ranker = build(similarity=similarity)
        context, candidates = ranker.encode_contexts(sentences[:1]).vectors, torch.from_numpy(ranker.encode_candidates(sentences[1:]))
        lengths = torch.cat([context[0].norm(dim=1), candidates.norm(dim=1)])
        scale = float(ranker.head.scale)
        assert bool(torch.allclose(lengths, torch.full_like(lengths, scale), rtol=1e-4)) == (similarity == "cosine")


def test_cached_candidates_and_another_order_change_nothing(build, sentences):
    ranker = build()
    expected = ranker.score(sentences[:2], sentences[2:8])
    cached = ranker.encode_candidates(sentences[2:8])
    np.testing.assert_allclose(ranker.score(sentences[:2], cached), expected, atol=1e-5)
    np.testing.assert_allclose(ranker.score(sentences[:2], cached[::-1].copy()), expected[:, ::-1], atol=1e-5)
    alone = np.concatenate([ranker.encode_candidates([text]) for text in sentences[2:8]])
    np.testing.assert_allclose(alone, cached, atol=1e-5)


def test_long_candidates_cost_a_poly_encoders_query_nothing_and_a_cross_encoder_much(build):
    def multiply_adds(ranker, candidates):
        with FlopCounterMode(display=False) as counter:
            ranker.score(["a context"], candidates)
        return counter.get_total_flops() // 2

    poly, cross = build("poly"), build("cross")
    short, long = ["a b"] * 4, ["a b c d e f g h"] * 4
    assert multiply_adds(poly, poly.encode_candidates(short)) == multiply_adds(poly, poly.encode_candidates(long)) > 0
    assert multiply_adds(cross, long) > 1.3 * multiply_adds(cross, short) > 0


def test_a_cross_encoder_reads_the_pair_as_its_model_does(build):
    ranker = build("cross")
    pair = ranker.tower.tokenizer("the sea is deep", "a red house")
    assert pair["input_ids"].count(ranker._separator) == 2
    second = pair["input_ids"].index(ranker._separator) + 1
    segments = [0] * second + [1] * (len(pair["input_ids"]) - second)
    model = ranker.tower.encoder.model.eval()
    model.config._attn_implementation = "eager"
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([pair["input_ids"]]), token_type_ids=torch.tensor([segments])).last_hidden_state
        other = model(input_ids=torch.tensor([pair["input_ids"]])).last_hidden_state
    expected = ranker.head(hidden[:, 0]).item()
    assert abs(expected - ranker.head(other[:, 0]).item()) > 1e-4  # the segments do count
    model.config._attn_implementation = "tain_packed"
    assert ranker.score(["the sea is deep"], ["a red house"])[0, 0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("architecture", ["roberta", "distilbert", "modernbert", "mpnet"])
def test_other_architectures_are_cross_encoders_too(build, save_masked_lm, architecture, sentences):
    ranker = build("cross", folder=save_masked_lm(architecture))
    scores = ranker.score(sentences[:2], sentences[2:6])
    one_by_one = [[ranker.score([context], [candidate])[0, 0] for candidate in sentences[2:6]] for context in sentences[:2]]
    np.testing.assert_allclose(scores, one_by_one, atol=1e-4)
    assert np.isfinite(scores).all()


def test_contexts_lose_their_beginning_and_candidates_their_end(build):
    ranker = build("bi")
    long = " ".join("abcdefghijklmnopqrstuvwxyz")
    end, start = " ".join("ijklmnopqrstuvwxyz"), " ".join("abcdefghij")
    np.testing.assert_allclose(ranker.encode_contexts([long]).vectors, ranker.encode_contexts([end]).vectors, atol=1e-5)
    np.testing.assert_allclose(ranker.encode_candidates([long]), ranker.encode_candidates([start]), atol=1e-5)
    ranker.score([long], [long, "short"])
    assert ranker.truncated == 2


def test_a_plain_encoder_too_keeps_the_end_of_contexts(bert_folder):
    ranker = DualRanker.around(Embedder.load(bert_folder, device="cpu", dtype="float32"), name="plain")
    limit = ranker.context.max_tokens - 2
    words = [*"abcdefghijklmnopqrstuvwxyz"] * 10
    assert len(words) > limit
    long, end, start = " ".join(words), " ".join(words[-limit:]), " ".join(words[:limit])
    np.testing.assert_allclose(ranker.encode_contexts([long]).vectors, ranker.encode_contexts([end]).vectors, atol=1e-5)
    np.testing.assert_allclose(ranker.encode_candidates([long]), ranker.encode_candidates([start]), atol=1e-5)


@pytest.mark.parametrize("asked", [None, "cosine", "dot"])
def test_a_plain_encoder_compares_by_cosine_unless_its_folder_asks_for_dot_products(asked, bert_folder, sentences):
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32")
    embedder.sentence_transformers = {} if asked is None else {"similarity_fn_name": asked}
    left, right = (embedder.encode(part, normalize=asked != "dot") for part in (sentences[:2], sentences[2:5]))
    scores = DualRanker.around(embedder, name="plain").score(sentences[:2], sentences[2:5])
    np.testing.assert_allclose(scores, left @ right.T, rtol=1e-4, atol=1e-4)


# ---- folders


@pytest.mark.parametrize(
    ("type", "options"),
    [
        ("bi", {}),
        ("bi", {"is_shared": True, "similarity": "cosine"}),
        ("poly", {}),
        ("poly", {"similarity": "cosine"}),
        ("poly", {"is_shared": True, "kind": "last"}),
        ("cross", {}),
    ],
)
def test_saving_then_loading_gives_the_same_scores(build, sentences, tmp_path, type, options):
    ranker = build(type, **options)
    folder = saved(ranker, tmp_path / "ranker")
    again = Ranker.load(folder, device="cpu", dtype="float32")
    assert again.type == type
    assert again.fingerprint == ranker.fingerprint
    np.testing.assert_array_equal(again.score(sentences[:3], sentences[3:]), ranker.score(sentences[:3], sentences[3:]))
    assert json.loads((folder / "tain.json").read_text())["kind"] == "ranker"


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("is_shared", [True, False])
def test_bi_encoders_load_in_sentence_transformers_and_rank_alike(build, sentences, tmp_path, is_shared, similarity):
    from sentence_transformers import SentenceTransformer

    ranker = build("bi", is_shared=is_shared, similarity=similarity)
    sentences = [" ".join(sentence.split()[:2]) for sentence in sentences]  # a shared tower cuts all texts at the contexts' limit there
    model = SentenceTransformer(str(saved(ranker, tmp_path / "ranker")), device="cpu")
    assert all(len(ids) <= LIMITS["candidate_tokens"] for ids in ranker.candidate.tokenizer(sentences)["input_ids"])
    theirs = model.encode_query(sentences[:3]) @ model.encode_document(sentences[3:6]).T
    expected = ranker.score(sentences[:3], sentences[3:6]) / float(ranker.head.scale) ** 2
    np.testing.assert_allclose(theirs, expected, atol=1e-3, rtol=1e-4)
    assert model.similarity_fn_name == "dot"


def test_an_encoder_without_a_pooler_is_the_same_one_each_time(bert_folder):
    first, again = (Ranker.load(bert_folder, device="cpu", dtype="float32") for _ in range(2))
    assert any("pooler." in name for name in first.module.state_dict())  # random at each loading, and not used
    assert first.fingerprint == again.fingerprint


def test_any_encoder_is_a_bi_encoder_of_its_cosines(bert_folder, sentences):
    ranker = Ranker.load(bert_folder, device="cpu", dtype="float32")
    vectors = Embedder.load(bert_folder, device="cpu", dtype="float32").encode(sentences, normalize=True)
    np.testing.assert_allclose(ranker.score(sentences, sentences), vectors @ vectors.T, atol=1e-4, rtol=1e-4)


# ---- encoders with a correction


@pytest.fixture
def corrected(bert_folder, sentences, tmp_path):
    """Save an encoder with a whitening, and word weights if they are given."""

    def make(name, *, token_weights=None, **settings):
        made = tain.correct(bert_folder, sentences * 4, method="whiten", device="cpu", **settings).embedder
        made.encoder.token_weights = token_weights
        (tmp_path / name).mkdir()
        made.save(tmp_path / name, record={"kind": "encoder"}, card="a card")
        return tmp_path / name

    return make


@pytest.mark.parametrize("settings", [{}, {"dimensions": 5}, {"token_weights": torch.linspace(0.1, 1.0, 120)}])
def test_a_corrected_encoder_ranks_by_the_vectors_that_it_encodes(corrected, sentences, settings):
    folder = corrected("whitened", **settings)
    vectors = Embedder.load(folder, device="cpu", dtype="float32").encode(sentences, normalize=True)
    ranker = Ranker.load(folder, device="cpu", dtype="float32")
    assert isinstance(ranker, DualRanker)
    assert ranker.dim == vectors.shape[1]
    assert ranker.type == "bi"
    np.testing.assert_allclose(ranker.encode_candidates(sentences), vectors, atol=1e-5)
    np.testing.assert_allclose(ranker.encode_contexts(sentences).vectors[:, 0], vectors, atol=1e-5)
    np.testing.assert_allclose(ranker.score(sentences[:3], sentences), vectors[:3] @ vectors.T, atol=1e-4)


def test_the_correction_and_the_token_weights_are_in_the_fingerprint(bert_folder, corrected):
    weights = torch.linspace(0.1, 1.0, 120)
    folders = [
        bert_folder,
        corrected("whole"),
        corrected("five", dimensions=5),
        corrected("weighted", token_weights=weights),
        corrected("other-weighted", token_weights=weights.flip(0)),
    ]
    fingerprints = [Ranker.load(folder, device="cpu", dtype="float32").fingerprint for folder in (*folders, folders[1])]
    assert len(set(fingerprints)) == len(folders)
    assert fingerprints[1] == fingerprints[-1]


def test_a_correction_by_language_is_refused(bert_folder, sentences, tmp_path):
    tain.correct(bert_folder, {"en": sentences}, tmp_path / "by-language", method="languages", device="cpu")
    with pytest.raises(UserError, match=r"by language.*give the encoder that it was made from"):
        Ranker.load(tmp_path / "by-language", device="cpu", dtype="float32")


def test_a_corrected_encoder_is_not_saved_as_a_trained_ranker(corrected, tmp_path):
    ranker = Ranker.load(corrected("whitened"), device="cpu", dtype="float32")
    with pytest.raises(UserError, match="copy its folder"):
        saved(ranker, tmp_path / "ranker")


def test_the_fingerprint_follows_the_weights_the_scale_and_the_limits(build):
    ranker = build()
    first = ranker.fingerprint
    assert ranker.fingerprint == first
    for change in (lambda: ranker.head.log_scale.data.add_(0.1), lambda: next(ranker.candidate.encoder.parameters()).data.add_(0.1)):
        change()
        ranker.weights_changed()
        assert ranker.fingerprint != first
        first = ranker.fingerprint
    ranker.head.codes.data.add_(1.0)  # codes are the contexts' affair: cached candidates stay what they are
    ranker.weights_changed()
    assert ranker.fingerprint == first


def test_the_fingerprint_is_that_of_the_stored_weights_in_any_number_type(build, tmp_path):
    folder = saved(build(), tmp_path / "ranker")
    fingerprints = {Ranker.load(folder, device="cpu", dtype=dtype).fingerprint for dtype in ("float32", "bfloat16")}
    assert len(fingerprints) == 1


def test_tokens_are_counted_as_pairs_are_read(build, sentences):
    lists = [sentences[3:6], sentences[7:8]]
    for type in KINDS:
        ranker = build(type)
        if type == "cross":
            sides = [
                [side.tokenizer(text, truncation=True, max_length=side.max_tokens)["input_ids"] for text in sentences]
                for side in (ranker.context, ranker.candidate)
            ]
            expected = [
                sum(len(ranker.pair_ids(sides[0][row], sides[1][index])[0]) for index in indices)
                for row, indices in enumerate([(3, 4, 5), (7,)])
            ]
        else:
            counts = ranker.context.count_tokens(sentences[:2]), [ranker.candidate.count_tokens(listed) for listed in lists]
            expected = [one + sum(others) for one, others in zip(*counts, strict=True)]
        assert ranker.count_tokens(sentences[:2], lists) == expected


def test_candidates_may_come_in_an_array(build, sentences, unchecked):
    ranker = build()
    expected = ranker.score(sentences[:2], sentences[3:6])
    np.testing.assert_array_equal(ranker.score(sentences[:2], np.array(sentences[3:6])), expected)
    np.testing.assert_array_equal(ranker.score(sentences[:2], np.array(sentences[3:6], dtype=object)), expected)
    np.testing.assert_array_equal(ranker.score(sentences[:2], ranker.encode_candidates(sentences[3:6])), expected)


# ---- refusals


def test_a_damaged_ranker_is_refused_without_asking_the_hub(build, tmp_path):
    folder = saved(build(), tmp_path / "ranker")
    record = json.loads((folder / "tain.json").read_text())
    for damage in ({"ranker": None}, {"ranker": {"type": "cross"}}, {"ranker": {**record["ranker"]} | {"codes": 1}}):
        if damage["ranker"] and "codes" in damage["ranker"]:
            del damage["ranker"]["codes"]
        (folder / "tain.json").write_text(json.dumps(record | damage))
        with pytest.raises(UserError, match=r"has a damaged tain\.json: train it again, or copy the folder again"):
            Ranker.load(folder, device="cpu", dtype="float32")
    (folder / "tain.json").write_text(json.dumps(record))
    shutil.rmtree(folder / "candidate")
    with pytest.raises(UserError, match="lacks its folder 'candidate': train it again, or copy the folder again"):
        Ranker.load(folder, device="cpu", dtype="float32")


def test_what_cannot_be_scored_is_refused(build, unchecked):
    ranker = build()
    with pytest.raises(UserError, match="contexts are one string, which would be read character by character"):
        ranker.score("a context", ["a"])
    for one in (ranker, build("cross")):
        with pytest.raises(UserError, match="candidates are one string, which would be read character by character"):
            one.score(["a context"], "abc")
        with pytest.raises(UserError, match="a context's candidates are one string, which would be read character by character"):
            one.score_lists(["a", "b"], ["ab", "c"])
        with pytest.raises(UserError, match="contexts are one string"):
            one.score_lists("ab", [["a"], ["b"]])
    with pytest.raises(UserError, match="candidate 1 is int, not text"):
        ranker.score(["a context"], ["a", 3])
    with pytest.raises(UserError, match="2 contexts were given with 1 lists of candidates"):
        ranker.score_lists(["a", "b"], [["c"]])


def test_a_ranker_is_not_taken_for_an_encoder(build, tmp_path):
    folder = saved(build(), tmp_path / "ranker")
    with pytest.raises(UserError, match="is a ranker, not a single encoder: use it with tain rank"):
        Embedder.load(folder, device="cpu")
    assert Embedder.load(folder / "context", device="cpu", dtype="float32").dim == 32


@pytest.mark.parametrize(("type", "towers"), [("bi", 2), ("cross", 1)])
def test_the_encoders_of_a_ranker_may_bring_code_where_that_is_allowed(build, tmp_path, monkeypatch, type, towers):
    folder = saved(build(type), tmp_path / "ranker")
    real, asked = Embedder.load, []
    monkeypatch.setattr(
        Embedder, "load", lambda name, trust_remote_code, **options: asked.append(trust_remote_code) or real(name, **options)
    )
    Ranker.load(folder, device="cpu", dtype="float32", trust_remote_code=True)
    assert asked == [True] * towers


def test_a_damaged_or_newer_ranker_is_refused(build, tmp_path):
    folder = saved(build(), tmp_path / "ranker")
    (folder / "head.safetensors").unlink()
    with pytest.raises(UserError, match="has no matching head"):
        Ranker.load(folder, device="cpu")
    (folder / "tain.json").write_text('{"format": 99, "kind": "ranker"}')
    with pytest.raises(UserError, match="was saved in format 99, newer than this tain reads"):
        Ranker.load(folder, device="cpu")


@pytest.mark.parametrize(
    "change", [{"codes": -1}, {"codes": "4"}, {"context_tokens": 0}, {"candidate_tokens": [72]}, {"kind": "best"}, {"shared": 1}], ids=str
)
def test_every_field_of_a_rankers_record_is_checked(build, tmp_path, change):
    folder = saved(build(), tmp_path / "ranker")
    record = json.loads((folder / "tain.json").read_text())
    (folder / "tain.json").write_text(json.dumps(record | {"ranker": record["ranker"] | change}))
    with pytest.raises(UserError, match=rf"has a damaged tain\.json: train it again, or copy the folder again \({next(iter(change))} is "):
        Ranker.load(folder, device="cpu", dtype="float32")
