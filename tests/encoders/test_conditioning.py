"""The conditional masked language model (Yang et al. 2021)."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from tain.batches.masking import MaskedTokens
from tain.batches.neighbours import Neighbours, conditional_batch
from tain.batches.packing import pack
from tain.batches.types import ConditionalBatch
from tain.encoders.conditioning import ConditionalMaskedLM, Conditioning
from tain.encoders.masked_lm import MaskedLanguageModel
from tain.foundation.errors import ShapeError, UserError
from tain.objectives.masked_lm import masked_cross_entropy

Build = Callable[..., Any]

FIT = ["bert", "roberta", "xlm-roberta", "distilbert", "modernbert"]
LENGTHS = (9, 4, 17, 9, 12)


@pytest.fixture
def batch(token_ids: Build) -> ConditionalBatch:
    return make_batch(token_ids)


def make_batch(token_ids: Build, *, conditions: int = 1, seed: int = 2) -> ConditionalBatch:
    texts = pack(token_ids(*LENGTHS, seed=1))
    neighbours = token_ids(*(6, 11, 3, 8, 6) * conditions, seed=seed)
    indices = torch.tensor([1, 3, 8, 20, 33, 50])
    return ConditionalBatch(pack(neighbours), texts, indices, texts.ids[indices])


def naive_logits(model: Any, ours: ConditionalMaskedLM, batch: ConditionalBatch, vectors: Tensor) -> Tensor:
    """The second pass of BERT's kin, one text at a time, put together by hand up to the first layer."""
    base = getattr(model, model.base_model_prefix)
    embeddings, offset = base.embeddings, ours._encoder.position_offset
    rows, begin = [], 0
    for index, length in enumerate(batch.texts.lengths):
        ids = batch.texts.ids[begin : begin + length]
        real = embeddings.word_embeddings(ids) + embeddings.position_embeddings(torch.arange(length) + offset)
        if hasattr(embeddings, "token_type_embeddings"):
            real = real + embeddings.token_type_embeddings(torch.zeros(length, dtype=torch.long))
        vector = vectors[:, batch.texts.order[index]]  # (conditions, dim)
        projections = ours.conditioning.projections
        assert projections is not None
        pseudo = [
            row + ours.conditioning.side_embedding[side]
            for side, condition in enumerate(vector)
            for row in [condition, *(projections(condition).view(-1, len(condition)))]
        ]
        hidden = embeddings.LayerNorm(torch.cat([torch.stack(pseudo), real]))[None]
        layers = base.encoder if hasattr(base, "encoder") else base.transformer
        hidden = layers(hidden, attention_mask=None)[0][0, len(pseudo) :]
        rows.append(head_of(model)(hidden))
        begin += length
    return torch.cat(rows)[batch.indices]


def head_of(model: Any) -> Callable[[Tensor], Tensor]:
    if hasattr(model, "cls"):
        return model.cls
    if hasattr(model, "lm_head"):
        return model.lm_head
    return lambda hidden: model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(hidden))))


@pytest.mark.parametrize("conditions", [1, 2])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert"])
@torch.no_grad()
def test_it_equals_a_pass_put_together_by_hand(architecture: str, conditions: int, tiny_masked_lm: Build, token_ids: Build):
    model = tiny_masked_lm(architecture)
    ours = ConditionalMaskedLM(model, pseudo_tokens=4, conditions=conditions).eval()
    ours.conditioning.side_embedding.normal_()
    batch = make_batch(token_ids, conditions=conditions)
    vectors = torch.randn(conditions, len(LENGTHS), 32)
    found = ours.logits(batch, vectors)
    plain = tiny_masked_lm(architecture, attn_implementation="eager")
    torch.testing.assert_close(found, naive_logits(plain, ours, batch, vectors), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", FIT)
@torch.no_grad()
def test_a_batch_gives_what_its_texts_give_alone(architecture: str, tiny_masked_lm: Build, token_ids: Build):
    ours = ConditionalMaskedLM(tiny_masked_lm(architecture), pseudo_tokens=3, conditions=2).eval()
    batch = make_batch(token_ids, conditions=2)
    vectors = ours.vectors(batch)
    together = ours.logits(batch, vectors)
    starts, alone = batch.texts.starts.tolist(), []
    for index, (start, length) in enumerate(zip(starts, batch.texts.lengths, strict=True)):
        here = batch.indices[(batch.indices >= start) & (batch.indices < start + length)] - start
        if len(here):
            ids = batch.texts.ids[start : start + length]
            single = ConditionalBatch(batch.conditions, pack([ids.tolist()]), here, ids[here])
            alone.append(ours.logits(single, vectors[:, batch.texts.order[index]][:, None]))
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", FIT)
def test_pseudo_tokens_and_words_enter_the_second_pass_and_the_head_sees_masked_words_only(
    architecture: str, tiny_masked_lm: Build, batch: ConditionalBatch
):
    model = tiny_masked_lm(architecture)
    ours = ConditionalMaskedLM(model, pseudo_tokens=15)
    entered: list[torch.Size] = []
    base = getattr(model, model.base_model_prefix)
    base.embeddings.register_forward_hook(lambda module, inputs, output: entered.append(output.shape))
    logits = ours(batch)
    assert entered == [(1, len(batch.conditions.ids), 32), (1, sum(LENGTHS) + 15 * len(LENGTHS), 32)]
    assert logits.shape == (6, 120)


@pytest.mark.parametrize("architecture", FIT)
@torch.no_grad()
def test_without_pseudo_tokens_it_is_the_plain_masked_lm_to_the_bit(architecture: str, tiny_masked_lm: Build, token_ids: Build):
    rows = torch.tensor(token_ids(10, 10, 10))
    indices = torch.tensor([0, 5, 11, 12, 29])
    model = tiny_masked_lm(architecture)
    ours = ConditionalMaskedLM(model, pseudo_tokens=0).eval()
    plain = MaskedLanguageModel(tiny_masked_lm(architecture))(rows, indices)
    batch = ConditionalBatch(pack(token_ids(3, 4, 5)), pack(rows.tolist()), indices, rows.flatten()[indices])
    assert torch.equal(ours(batch), plain)
    conditional = ConditionalMaskedLM(model, pseudo_tokens=4).eval()
    assert torch.equal(conditional.logits(batch, None), plain)


@pytest.mark.parametrize("architecture", FIT)
@torch.no_grad()
def test_padding_tokens_spelled_in_a_text_move_no_position(architecture: str, tiny_masked_lm: Build, token_ids: Build):
    rows = torch.tensor(token_ids(10, 10, 10))
    rows[0, 3] = rows[2, 0] = rows[2, 5] = rows[2, 6] = tiny_masked_lm(architecture).config.pad_token_id
    indices = torch.tensor([0, 5, 11, 12, 29])
    batch = ConditionalBatch(pack(token_ids(3, 4, 5)), pack(rows.tolist()), indices, rows.flatten()[indices])
    ours = ConditionalMaskedLM(tiny_masked_lm(architecture), pseudo_tokens=4).eval()
    assert torch.equal(ours.logits(batch, None), MaskedLanguageModel(tiny_masked_lm(architecture))(rows, indices))


def one_loss(ours: ConditionalMaskedLM, batch: ConditionalBatch) -> Tensor:
    return masked_cross_entropy(ours(batch), batch.targets)


@pytest.mark.parametrize("architecture", FIT)
def test_the_gradient_goes_through_the_vector_into_the_first_pass_unless_stopped(
    architecture: str, tiny_masked_lm: Build, token_ids: Build
):
    texts = pack([[6, 7, 8, 9, 10], [11, 12, 13]])
    neighbours = pack([[50, 51, 52, 53], [54, 55]])  # tokens that the texts do not have
    batch = ConditionalBatch(neighbours, texts, torch.tensor([1, 5]), torch.tensor([20, 21]))
    for stop in (False, True):
        model = tiny_masked_lm(architecture, tie_word_embeddings=False)  # a tied table gets gradients from the head as well
        ours = ConditionalMaskedLM(model, pseudo_tokens=3, stop_gradient=stop)
        one_loss(ours, batch).backward()
        gradient = model.get_input_embeddings().weight.grad
        assert bool(gradient[6:14].abs().sum(1).all())
        assert bool((gradient[50:56].abs().sum(1) > 0).all()) is not stop
        assert ours.conditioning.projections is not None
        assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in ours.conditioning.projections.parameters())


def test_there_is_one_set_of_encoder_weights(tiny_masked_lm: Build):
    model = tiny_masked_lm("bert")
    before = {id(parameter) for parameter in model.parameters()}
    ours = ConditionalMaskedLM(model, pseudo_tokens=3, skip_connection=True)
    added = [name for name, parameter in ours.named_parameters() if id(parameter) not in before]
    assert before <= {id(parameter) for parameter in ours.parameters()}
    assert added and all(name.startswith("conditioning.") for name in added)


@pytest.mark.parametrize("skip", [False, True])
@torch.no_grad()
def test_all_that_is_known_of_the_neighbour_passes_through_its_vector(skip: bool, tiny_masked_lm: Build, token_ids: Build):
    ours = ConditionalMaskedLM(tiny_masked_lm("bert"), pseudo_tokens=3, skip_connection=skip).eval()
    batch, other = make_batch(token_ids), make_batch(token_ids, seed=9)
    vectors = ours.vectors(batch)
    assert torch.equal(ours.logits(batch, vectors), ours(batch))
    assert torch.equal(ours.logits(other, vectors), ours(batch))
    assert (ours(other) - ours(batch)).abs().max() > 0.01


@pytest.mark.parametrize("architecture", FIT)
@torch.no_grad()
def test_the_order_of_pseudo_tokens_does_not_matter(architecture: str, tiny_masked_lm: Build, token_ids: Build, monkeypatch):
    """ModernBERT's window is 6 here: a sentence of 17 tokens would see it if the window counted or hid pseudo-tokens."""
    ours = ConditionalMaskedLM(tiny_masked_lm(architecture), pseudo_tokens=8).eval()
    batch = make_batch(token_ids)
    expected = ours(batch)
    spread = Conditioning.spread
    monkeypatch.setattr(Conditioning, "spread", lambda self, vectors: spread(self, vectors)[:, :, [3, 1, 7, 0, 6, 2, 5, 4]])
    torch.testing.assert_close(ours(batch), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_two_sides_differ_by_their_types_only(tiny_masked_lm: Build, token_ids: Build):
    ours = ConditionalMaskedLM(tiny_masked_lm("bert"), pseudo_tokens=3, conditions=2).eval()
    batch = make_batch(token_ids, conditions=2)
    vectors = ours.vectors(batch)
    torch.testing.assert_close(ours.logits(batch, vectors.flip(0)), ours.logits(batch, vectors), atol=1e-4, rtol=1e-4)
    ours.conditioning.side_embedding.normal_()
    assert (ours.logits(batch, vectors.flip(0)) - ours.logits(batch, vectors)).abs().max() > 0.01


def test_the_first_pseudo_token_is_the_vector_and_the_rest_are_not():
    vectors = torch.randn(2, 3, 8)
    pseudo = Conditioning(dim=8, pseudo_tokens=5, conditions=2).spread(vectors)
    assert pseudo.shape == (3, 2, 5, 8)
    assert torch.equal(pseudo[:, :, 0], vectors.transpose(0, 1))
    assert len(pseudo[0, 0].detach().unique(dim=0)) == 5
    assert torch.equal(Conditioning(dim=8, pseudo_tokens=1).spread(vectors[:1])[:, 0, 0], vectors[0])


@torch.no_grad()
def test_the_vector_is_the_mean_that_a_saved_encoder_gives(tiny_masked_lm: Build, tiny_encoder: Build, token_ids: Build):
    from tain.encoders.transformer import TransformerEncoder

    model = tiny_masked_lm("bert")
    ours = ConditionalMaskedLM(model).eval()
    batch = make_batch(token_ids)
    encoder = TransformerEncoder(model.bert, pooling="mean")
    assert torch.equal(ours.vectors(batch)[0], encoder(batch.conditions))


@torch.no_grad()
def test_a_new_skip_connection_changes_nothing_and_then_listens_to_the_vector(tiny_masked_lm: Build, token_ids: Build):
    batch = make_batch(token_ids)
    torch.manual_seed(1)
    without = ConditionalMaskedLM(tiny_masked_lm("bert"), pseudo_tokens=3).eval()
    torch.manual_seed(1)
    ours = ConditionalMaskedLM(tiny_masked_lm("bert"), pseudo_tokens=3, skip_connection=True).eval()
    torch.testing.assert_close(ours(batch), without(batch))
    vectors = torch.randn(1, len(LENGTHS), 32)
    ours.conditioning.skip.weight.normal_()
    hidden: list[Tensor] = []
    ours.model.cls.register_forward_pre_hook(lambda module, inputs: hidden.append(inputs[0][0]))
    ours.logits(batch, vectors)
    without.model.cls.register_forward_pre_hook(lambda module, inputs: hidden.append(inputs[0][0]))
    without.logits(batch, vectors)
    owner = torch.arange(len(LENGTHS)).repeat_interleave(batch.texts.length_tensor())[batch.indices]
    joined = torch.cat([hidden[1], vectors[0, batch.texts.order[owner]]], dim=1)
    torch.testing.assert_close(hidden[0], joined @ ours.conditioning.skip.weight.T, atol=1e-4, rtol=1e-4)


def test_the_model_itself_still_answers_as_before(tiny_masked_lm: Build, token_ids: Build):
    model = tiny_masked_lm("bert")
    rows = torch.tensor(token_ids(10, 10))
    before = model(input_ids=rows).logits
    ours = ConditionalMaskedLM(model, pseudo_tokens=3).eval()
    ours(make_batch(token_ids))
    torch.testing.assert_close(model(input_ids=rows).logits, before, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_bfloat16_stays_close(tiny_masked_lm: Build, token_ids: Build):
    from tain.foundation.machine import set_dtype

    torch.manual_seed(1)
    exact = ConditionalMaskedLM(tiny_masked_lm("modernbert"), pseudo_tokens=3, skip_connection=True).eval()
    torch.manual_seed(1)
    rounded = ConditionalMaskedLM(tiny_masked_lm("modernbert"), pseudo_tokens=3, skip_connection=True).eval()
    set_dtype(rounded, torch.bfloat16)
    batch = make_batch(token_ids)
    found = rounded(batch)
    assert found.dtype == torch.bfloat16
    assert torch.cosine_similarity(found.float(), exact(batch)).min() > 0.99


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("albert", "AlbertForMaskedLM has word embeddings of width 16 and outputs of width 32"),
        ("electra", "ElectraForMaskedLM has word embeddings of width 24 and outputs of width 32"),
        ("mpnet", "MPNetForMaskedLM cannot be conditioned on a vector: MPNetModel does not use the attention registry"),
        ("deberta-v2", "DebertaV2ForMaskedLM cannot be conditioned on a vector: DebertaV2Model does not use the attention registry"),
    ],
)
def test_models_that_cannot_are_refused_with_the_reason(architecture: str, reason: str, tiny_masked_lm: Build):
    with pytest.raises(UserError, match=f"{reason}.*: give BERT, RoBERTa, ModernBERT or DistilBERT"):
        ConditionalMaskedLM(tiny_masked_lm(architecture))


def test_electra_of_one_width_is_accepted(tiny_masked_lm: Build, token_ids: Build):
    ours = ConditionalMaskedLM(tiny_masked_lm("electra", embedding_size=32), pseudo_tokens=3).eval()
    assert ours(make_batch(token_ids)).shape == (6, 120)


def test_a_missing_vector_is_a_shape_error(tiny_masked_lm: Build, token_ids: Build):
    ours = ConditionalMaskedLM(tiny_masked_lm("bert"))
    with pytest.raises(ShapeError, match=r"1 x 5 vectors are needed, got \(1, 4, 32\)"):
        ours.logits(make_batch(token_ids), torch.zeros(1, 4, 32))


# ---- the toy that conditioning must win

TOPICS, WORDS = 4, 4  # a document's sentences speak of one topic; each word of the first has a twin of the same topic in the second
CLS, SEP, MASK, FIRST = 1, 2, 3, 4


def topic_corpus(rng: np.random.Generator, documents: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Two sentences a document: the first in words of a topic, the second three fillers and a word that the topic decides."""
    sentences, topics = [], rng.integers(0, TOPICS, size=documents)
    filler = FIRST + TOPICS * WORDS
    for topic in topics:
        sentences.append(FIRST + topic * WORDS + rng.integers(0, WORDS, size=4))
        sentences.append(np.array([filler, filler + 1, filler + 4 + topic]))
    return sentences, np.arange(documents) * 2, topics


def topic_batch(neighbours: Neighbours, targets: np.ndarray) -> ConditionalBatch:
    """Mask the word that the topic decides, and that alone."""

    def mask(ids: Tensor, owners: Tensor) -> MaskedTokens:
        indices = (ids >= FIRST + TOPICS * WORDS + 4).nonzero().flatten()
        return MaskedTokens(ids.index_fill(0, indices, MASK), indices, ids[indices])

    return conditional_batch(neighbours, targets, mask=mask)


def train_on_topics(*, pseudo_tokens: int, shuffled: bool) -> tuple[ConditionalMaskedLM, float, Neighbours, np.ndarray]:
    rng = np.random.default_rng(0)
    sentences, starts, topics = topic_corpus(rng, 400)
    neighbours = Neighbours(sentences, starts, first_id=CLS, last_id=SEP, min_tokens=1)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=FIRST + TOPICS * WORDS + 4 + TOPICS,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
    )
    ours = ConditionalMaskedLM(transformers.AutoModelForMaskedLM.from_config(config), pseudo_tokens=pseudo_tokens)
    optimizer = torch.optim.AdamW(ours.parameters(), lr=3e-3)

    def loss_on(targets: np.ndarray) -> Tensor:
        batch = topic_batch(neighbours, targets)
        if shuffled:
            partners = topic_batch(neighbours, rng.permutation(targets))
            batch = ConditionalBatch(partners.conditions, batch.texts, batch.indices, batch.targets)
        return masked_cross_entropy(ours(batch), batch.targets)

    training, held = neighbours.targets[:300], neighbours.targets[300:]
    for _ in range(70):
        loss_on(rng.choice(training, size=40, replace=False)).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        return ours, loss_on(held).item(), neighbours, topics


def test_a_word_that_the_neighbour_decides_is_learnt_with_the_vector_only():
    entropy = math.log(TOPICS)  # nothing in the sentence itself tells the word
    ours, conditional, neighbours, topics = train_on_topics(pseudo_tokens=3, shuffled=False)
    _, alone, _, _ = train_on_topics(pseudo_tokens=0, shuffled=False)
    _, shuffled, _, _ = train_on_topics(pseudo_tokens=3, shuffled=True)
    assert conditional < 0.2 * entropy
    assert alone > 0.9 * entropy
    assert shuffled > 0.9 * entropy

    # a linear probe on the vectors of unseen sentences reads the topic
    with torch.no_grad():
        batch = topic_batch(neighbours, neighbours.targets)
        vectors = ours.vectors(batch)[0].double()
    inputs = torch.cat([vectors, torch.ones(len(vectors), 1, dtype=torch.float64)], dim=1)
    labels = torch.nn.functional.one_hot(torch.from_numpy(topics), TOPICS).double()
    probe = torch.linalg.lstsq(inputs[:300], labels[:300]).solution
    correct = (inputs[300:] @ probe).argmax(1) == torch.from_numpy(topics)[300:]
    assert correct.double().mean() > 0.95
