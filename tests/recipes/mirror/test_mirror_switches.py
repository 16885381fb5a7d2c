"""Switches of mirroring that only training has: closed forms, what is saved, resume, and two processes."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from tain.batches.order import step_seed
from tain.batches.packing import pack
from tain.batches.views import repeat_tokens
from tain.encoders.dropout import set_dropout
from tain.encoders.masked_lm import PredictionHead
from tain.encoders.training_head import TrainingHead
from tain.foundation.errors import UserError
from tain.models.embedder import Embedder
from tain.models.masked_lm import load_masked_lm
from tain.objectives.contrastive import info_nce, prefix_info_nce
from tain.recipes.mirror import trainer as mirror_trainer
from tain.recipes.mirror.config import MirrorConfig
from tain.recipes.mirror.data import training_set
from tain.recipes.mirror.preparing import prediction_model, set_limits, weight_rms
from tain.recipes.mirror.queue import MomentumQueue, noise_vectors
from tain.recipes.mirror.recipe import mirror
from tain.recipes.mirror.restoring import DECODER_RATE, MASKING_RATE, mask_texts
from tain.recipes.mirror.trainer import MirrorTrainer, trainer_for

SMALL: dict[str, Any] = {"batch_texts": 8, "max_tokens": 40, "dtype": "float32", "device": "cpu", "held_out": 0, "erase_min_chars": 10}
EVERY = {
    "repeat_share": {"repeat_share": 0.5},
    "queue": {"queue_texts": 20, "momentum": 0.9},
    "noise": {"noise_negatives": 5},
    "head": {"head": "mlp"},
    "mlm": {"mlm_weight": 0.5},
    "prompt": {"prompt": "the hour: "},
    "decoder": {"decoder_weight": 0.5},
}
TOGETHER = {name: value for settings in EVERY.values() for name, value in settings.items()}


@pytest.fixture(scope="module")
def texts(sentences):
    words = sorted({word for sentence in sentences for word in sentence.replace(",", "").split()})
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(words, size=rng.integers(5, 12))) for _ in range(48)]


def started(folder, texts, **settings):
    """A trainer that has begun, for looking at single steps."""
    config = MirrorConfig(**{**SMALL, "dropout": 0.0, **settings}).for_texts(has_documents=False)
    data = training_set(texts, config)
    embedder = Embedder.load(folder, dtype="float32", device="cpu")
    resolved = config.resolved(width=embedder.dim, weight_rms=weight_rms(embedder.encoder))
    set_limits(embedder.encoder, resolved)
    set_dropout(embedder.encoder.model, hidden=resolved.dropout, attention=resolved.attention_dropout)
    made = trainer_for(embedder, data, resolved, masked_lm=prediction_model(folder, resolved))
    made.start(seed=13)
    return made


def gradients(made, indices, *, step=0):
    for master in made.weights.masters:
        master.grad = None
    loss = made.gradient_step(made.batch(np.asarray(indices), step=step, seed=1), step=step, seed=1)
    found = zip(made.weights.names, made.weights.masters, strict=True)
    prefix = "encoder." if isinstance(made.trained, torch.nn.ModuleDict) else ""
    return loss, {name.removeprefix(prefix): master.grad.clone() for name, master in found if master.grad is not None}


def views_of(made, indices, *, step=0):
    """Vectors of both views of some pairs, as the encoder pools them."""
    left, right = made.views(np.asarray(indices), step=step, seed=1)
    with torch.no_grad():
        return made.encoder(pack(left)), made.encoder(pack(right))


# ---- repeated tokens


def test_repeated_tokens_add_copies_in_place_and_nothing_else(rng):
    counts = []
    for _ in range(300):
        ids = [2, *rng.permutation(np.arange(10, 30)).tolist(), 3]
        found = repeat_tokens(ids, share=0.3, special={2, 3}, max_tokens=50, rng=rng)
        kept = [token for place, token in enumerate(found) if place == 0 or token != found[place - 1]]
        assert kept == ids  # no token of the text equals its neighbour, so every repeat is a copy in place
        assert (found.count(2), found.count(3)) == (1, 1)
        assert max(np.unique(found, return_counts=True)[1]) <= 2
        counts.append(len(found) - len(ids))
    assert (min(counts), max(counts)) == (0, 6)  # up to 0.3 of 20 tokens, all numbers of them
    assert np.mean(counts) == pytest.approx(3, abs=0.4)


def test_special_tokens_are_never_repeated_and_the_limit_holds(rng):
    ids = [2, 10, 4, 11, 3]  # 4 is a mask token inside
    found = {tuple(repeat_tokens(ids, share=1.0, special={2, 3, 4}, max_tokens=40, rng=rng)) for _ in range(100)}
    assert found == {(2, 10, 4, 11, 3), (2, 10, 10, 4, 11, 3), (2, 10, 4, 11, 11, 3), (2, 10, 10, 4, 11, 11, 3)}
    assert {len(repeat_tokens(ids, share=1.0, special={2, 3, 4}, max_tokens=6, rng=rng)) for _ in range(50)} == {5, 6}
    assert repeat_tokens(ids, share=1.0, special={2, 3, 4}, max_tokens=5, rng=rng) == ids
    assert repeat_tokens([2, 3], share=1.0, special={2, 3}, max_tokens=9, rng=rng) == [2, 3]


def test_one_view_has_repeated_tokens_and_the_other_is_the_text(bert_folder, texts):
    plain = started(bert_folder, texts, erased_chars=0).views(np.arange(16), step=3, seed=1)
    left, right = started(bert_folder, texts, erased_chars=0, repeat_share=0.5).views(np.arange(16), step=3, seed=1)
    assert left == plain[0] == plain[1]
    longer = [len(mine) - len(whole) for mine, whole in zip(right, left, strict=True)]
    assert max(longer) > 0
    assert all(0 <= more <= 0.5 * len(whole) for more, whole in zip(longer, left, strict=True))


# ---- further negatives


def test_further_negatives_join_the_denominator(generator):
    left, right, further = (torch.randn(rows, 6, generator=generator) for rows in (4, 4, 3))
    is_same = torch.zeros(4, 3, dtype=torch.bool)
    is_same[1, 2] = True
    found = info_nce(left, right, temperature=0.1, further=further, is_same_further=is_same)
    views = F.normalize(torch.cat([left, right]), dim=1)
    extra = F.normalize(further, dim=1)
    losses = []
    for anchor in range(8):
        others = [math.exp(float(views[anchor] @ views[other]) / 0.1) for other in range(8) if other != anchor]
        others += [math.exp(float(views[anchor] @ extra[row]) / 0.1) for row in range(3) if not is_same[anchor % 4, row]]
        losses.append(-math.log(math.exp(float(views[anchor] @ views[(anchor + 4) % 8]) / 0.1) / sum(others)))
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_equal_vectors_give_chance_level_with_further_negatives():
    same = torch.ones(4, 8)
    assert info_nce(same, same, temperature=0.04, further=torch.ones(5, 8)).item() == pytest.approx(math.log(7 + 5), rel=1e-6)


def test_prefixes_cut_further_negatives_too(generator):
    left, right, further = (torch.randn(rows, 6, generator=generator) for rows in (4, 4, 3))
    found = prefix_info_nce(left, right, dims=(2,), temperature=0.1, further=further)
    whole = info_nce(left, right, temperature=0.1, further=further)
    torch.testing.assert_close(found, whole + info_nce(left[:, :2], right[:, :2], temperature=0.1, further=further[:, :2]))


def test_noise_is_a_further_negative_of_every_view(bert_folder, texts):
    made = started(bert_folder, texts, noise_negatives=5, temperature=1.0)
    loss, _ = gradients(made, range(8), step=2)
    noise = noise_vectors(5, made.encoder.dim, seed=1, step=2, device=torch.device("cpu"))
    assert loss == pytest.approx(info_nce(*views_of(made, range(8), step=2), temperature=1.0, further=noise).item(), rel=1e-5)
    assert loss > gradients(started(bert_folder, texts, temperature=1.0), range(8), step=2)[0] + 0.05


def test_noise_is_standard_normal_and_equal_for_an_equal_step():
    drawn = noise_vectors(300, 50, seed=1, step=2, device=torch.device("cpu"))
    assert (float(drawn.mean()), float(drawn.std())) == (pytest.approx(0, abs=0.03), pytest.approx(1, abs=0.03))
    assert torch.equal(drawn, noise_vectors(300, 50, seed=1, step=2, device=torch.device("cpu")))
    assert not torch.equal(drawn, noise_vectors(300, 50, seed=1, step=3, device=torch.device("cpu")))
    assert noise_vectors(0, 50, seed=1, step=2, device=torch.device("cpu")) is None


# ---- the queue


def test_the_queue_holds_earlier_texts_as_the_momentum_encoder_reads_them(bert_folder, texts):
    made = started(bert_folder, texts, queue_texts=12, momentum=0.75, dropout=0.1)
    queue, dropped = made.queue, made.encoder
    untouched = {name: copy.clone() for name, copy in queue.encoder.named_parameters()}
    first, second = np.arange(8), np.arange(8, 16)
    gradients(made, first)
    assert len(queue.keys) == 0  # proposed, not added: a trial step leaves the queue as it is
    with torch.no_grad():
        for master in made.weights.masters:
            master.add_(0.01)
    queue.advance()
    for name, copy in queue.encoder.named_parameters():
        torch.testing.assert_close(copy, 0.75 * untouched[name] + 0.25 * dict(dropped.named_parameters())[name].detach())
    before = Embedder.load(bert_folder, dtype="float32", device="cpu").encoder.eval()
    with torch.no_grad():
        expected = before(
            pack([made.views.pairs.left[text] for text in first.tolist()])
        )  # whole texts, no dropout, the weights before the step
    torch.testing.assert_close(queue.vectors, expected, atol=1e-5, rtol=1e-5)
    assert queue.keys.tolist() == made.views.pairs.left_keys[first].tolist()
    gradients(made, second, step=1)
    queue.advance()
    kept = [*made.views.pairs.left_keys[first][4:].tolist(), *made.views.pairs.left_keys[second].tolist()]
    assert queue.keys.tolist() == kept  # the oldest left
    torch.testing.assert_close(queue.vectors[:4], expected[4:], atol=1e-5, rtol=1e-5)


def test_the_loss_is_over_batch_and_queue_but_for_the_same_text(bert_folder, texts):
    made = started(bert_folder, texts, queue_texts=20)
    assert made.config.momentum == 0.995
    alone, _ = gradients(made, range(8))
    made.queue.advance()
    loss, _ = gradients(made, range(4, 12), step=1)
    left, right = views_of(made, range(4, 12), step=1)
    is_same = torch.zeros(8, 8, dtype=torch.bool)
    for text in range(4):
        is_same[text, text + 4] = True  # texts 4 to 7 are in the queue already
    expected = info_nce(left, right, temperature=0.04, further=made.queue.vectors, is_same_further=is_same)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert expected < info_nce(left, right, temperature=0.04, further=made.queue.vectors)
    assert alone == pytest.approx(info_nce(*views_of(made, range(8)), temperature=0.04).item(), rel=1e-5)


def test_a_resumed_run_has_the_same_queue_bit_for_bit(bert_folder, texts, sentences, tmp_path, interrupting):
    settings = {**SMALL, **TOGETHER, "epochs": 2, "checkpoint_every_s": 0.0, "learning_rate": 1e-3}
    expected = mirror(bert_folder, texts, tmp_path / "whole", **settings)
    with interrupting(MirrorTrainer, 5):
        mirror(bert_folder, texts, tmp_path / "cut", **settings)
    found = mirror(bert_folder, texts, tmp_path / "cut", resume=True, **settings)
    assert found.runs[0].losses == expected.runs[0].losses
    np.testing.assert_array_equal(found.embedder.encode(sentences), expected.embedder.encode(sentences))


# ---- the head


def test_the_head_is_trained_through_and_not_saved(bert_folder, texts, sentences, tmp_path):
    made = started(bert_folder, texts, head="mlp")
    loss, found = gradients(made, range(8))
    left, right = views_of(made, range(8))
    weight, bias = made.head.weight, made.head.bias
    expected = info_nce((left @ weight.T + bias).tanh(), (right @ weight.T + bias).tanh(), temperature=0.04)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert found["head.weight"].abs().max() > 0
    headed = mirror(bert_folder, texts, tmp_path / "headed", head="mlp", **SMALL)
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(tmp_path / "headed"), device="cpu").encode(sentences)
    np.testing.assert_allclose(theirs, headed.embedder.encode(sentences), atol=1e-5)


def test_each_seed_has_its_own_head(generator):
    again = torch.Generator().manual_seed(generator.initial_seed())
    first, second = TrainingHead(6, generator=generator), TrainingHead(6, generator=generator)
    assert torch.equal(first.weight, TrainingHead(6, generator=again).weight)
    assert not torch.equal(first.weight, second.weight)


# ---- masked language modelling


def test_masked_texts_keep_their_length_and_their_special_tokens(tiny_tokenizer, texts):
    tokenizer = tiny_tokenizer()
    ids = tokenizer(texts)["input_ids"]
    masked = mask_texts(ids, tokenizer, rate=0.3, generator=torch.Generator().manual_seed(1))
    special = set(tokenizer.all_special_ids)
    changed = 0
    for text, found in zip(ids, masked, strict=True):
        assert found.places
        assert [text[place] for place in found.places] == found.targets
        assert not special & set(found.targets)
        assert [token for place, token in enumerate(found.ids) if place not in found.places] == [
            token for place, token in enumerate(text) if place not in found.places
        ]
        changed += sum(found.ids[place] == tokenizer.mask_token_id for place in found.places)
    total = sum(len(found.places) for found in masked)
    assert changed / total == pytest.approx(0.8, abs=0.12)
    assert [text.places for text in mask_texts([[2, 3], [2, 3]], tokenizer, rate=0.3, generator=torch.Generator())] == [[], []]


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "electra", "albert", "distilbert", "mpnet", "xlm", "fnet"])
def test_the_head_alone_predicts_as_the_whole_model_does(architecture, save_masked_lm, tiny_masked_lm, tiny_encoder, token_ids):
    whole, encoder = tiny_masked_lm(architecture).eval(), tiny_encoder(architecture).eval()
    encoder.load_state_dict(getattr(whole, whole.base_model_prefix).state_dict(), strict=False)
    ids = torch.tensor(token_ids(7))
    with torch.no_grad():
        expected = whole(input_ids=ids).logits[0]
        head = PredictionHead(whole, encoder)
        found = head(encoder(input_ids=ids).last_hidden_state[0])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not {id(each) for each in whole.parameters()} & {id(each) for each in encoder.parameters()} - {
        id(encoder.get_input_embeddings().weight)
    }


def test_the_gradient_with_an_mlm_loss_is_the_sum_of_both(bert_folder, texts):
    made = started(bert_folder, texts, mlm_weight=0.5, micro_batch_tokens=50)
    loss, found = gradients(made, range(8))
    contrast, alone = gradients(started(bert_folder, texts, micro_batch_tokens=50), range(8))
    # the MLM loss on its own, one text after the other through transformers' own model
    whole = load_masked_lm(bert_folder).model.eval()
    left, _ = made.views(np.arange(8), step=0, seed=1)
    generator = torch.Generator().manual_seed(step_seed(1, 0, mirror_trainer._MASKS))
    masked = mask_texts(left, made.views.tokenizer, rate=MASKING_RATE, generator=generator)
    logits = torch.cat([whole(input_ids=torch.tensor([text.ids])).logits[0][text.places] for text in masked])
    mlm = F.cross_entropy(logits, torch.tensor([token for text in masked for token in text.targets]))
    mlm.backward()
    assert loss == pytest.approx(contrast + 0.5 * mlm.item(), rel=1e-5)
    theirs = {name.removeprefix("bert."): parameter.grad for name, parameter in whole.named_parameters() if parameter.grad is not None}
    named = [name for name in alone if name in theirs]
    assert len(named) > 20
    for name in named:
        torch.testing.assert_close(found[name], alone[name] + 0.5 * theirs[name], atol=1e-5, rtol=1e-3)
    assert any(name.startswith("prediction.") for name in found)


def test_weight_zero_is_the_run_without(bert_folder, texts, sentences):
    runs = [mirror(bert_folder, texts, **SMALL, **more) for more in ({}, {"mlm_weight": 0.0}, {"mlm_weight": 1e-3})]
    assert runs[0].runs[0].losses == runs[1].runs[0].losses != runs[2].runs[0].losses
    np.testing.assert_array_equal(runs[0].embedder.encode(sentences), runs[1].embedder.encode(sentences))


def test_an_encoder_without_prediction_head_is_refused(bert_folder, texts, tmp_path):
    mirror(bert_folder, texts, tmp_path / "encoder", mlm_weight=0.1, **SMALL)
    assert not any("cls." in name for name in load_file(tmp_path / "encoder" / "model.safetensors"))
    with pytest.raises(UserError, match=r"mlm_weight needs the model's prediction head, but .*encoder' has none \(cls"):
        mirror(tmp_path / "encoder", texts, mlm_weight=0.1, **SMALL)


# ---- the decoder


def test_the_decoder_restores_tokens_from_the_vector_whatever_the_padding(bert_folder, texts):
    made = started(bert_folder, texts, decoder_weight=0.5, micro_batch_tokens=60)
    assert made.decoder is not None
    assert made.prediction is not None
    loss, found = gradients(made, range(8))
    contrast, alone = gradients(started(bert_folder, texts), range(8))
    left, _ = made.views(np.arange(8), step=0, seed=1)
    masked = made._masked(left, DECODER_RATE, step_seed(1, 0, mirror_trainer._DECODER_MASKS), is_bare=True)
    losses = []
    for ids, text in zip(left, masked, strict=True):  # one text at a time, so without padding
        assert {text.ids[place] for place in text.places} == {made.views.tokenizer.mask_token_id}
        embeddings = made.encoder.model.get_input_embeddings()(torch.tensor([text.ids]))
        hidden = made.decoder(made.encoder(pack([ids])), embeddings, torch.ones(1, len(ids), dtype=torch.bool))
        losses.append(F.cross_entropy(made.prediction(hidden[0, text.places]), torch.tensor(text.targets), reduction="none"))
    shares = sum(len(text.places) for text in masked) / sum(len(ids) - 2 for ids in left)
    assert shares == pytest.approx(0.5, abs=0.05)
    assert loss == pytest.approx(contrast + 0.5 * torch.cat(losses).mean().item(), rel=1e-5)
    changed = {name for name, gradient in alone.items() if not torch.allclose(found[name], gradient, atol=1e-6)}
    assert any("encoder.layer.1" in name for name in changed)  # the layers learn by the vector: the decoder reads the embeddings alone
    assert found["decoder.positions"].abs().max() > 0


def test_the_decoder_needs_token_embeddings_of_the_vectors_width(save_masked_lm, texts):
    with pytest.raises(UserError, match="decoder_weight needs token embeddings as wide as the vectors, but they have 24 and 32 numbers"):
        mirror(save_masked_lm("electra"), texts, decoder_weight=0.1, **SMALL)


def test_what_only_training_has_is_not_saved(bert_folder, texts, tmp_path):
    mirror(bert_folder, texts, tmp_path / "plain", **SMALL)
    more = {name: value for name, value in TOGETHER.items() if name != "prompt"}
    mirror(bert_folder, texts, tmp_path / "all", **SMALL, **more)
    tensors = [load_file(tmp_path / folder / "model.safetensors") for folder in ("plain", "all")]
    assert {name: tensor.shape for name, tensor in tensors[0].items()} == {name: tensor.shape for name, tensor in tensors[1].items()}
    files = [sorted(path.name for path in (tmp_path / folder).rglob("*")) for folder in ("plain", "all")]
    assert files[0] == files[1]


# ---- the prompt


@pytest.mark.parametrize(("pooling", "is_included"), [("mean", False), ("cls", True)])
def test_a_prompt_is_trained_with_and_saved_as_the_default(pooling, is_included, bert_folder, texts, sentences, tmp_path):
    from sentence_transformers import SentenceTransformer

    prompt = "the hour of the sea: "
    result = mirror(bert_folder, texts, tmp_path / "encoder", prompt=prompt, pooling=pooling, **SMALL)
    ours = result.embedder.encode(sentences)
    assert result.embedder.include_prompt is is_included
    loaded = Embedder.load(tmp_path / "encoder", dtype="float32")
    np.testing.assert_array_equal(loaded.encode(sentences), ours)
    assert loaded.default_prompt == prompt
    theirs = SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    np.testing.assert_allclose(theirs.encode(sentences), ours, atol=1e-5)
    assert np.abs(loaded.encode(sentences, prompt="") - ours).max() > 1e-3
    with pytest.raises(UserError, match=r"puts the prompt 'the hour of the sea: ' before each text, so it cannot be used for mirroring"):
        mirror(tmp_path / "encoder", texts, **SMALL)


def test_training_pools_the_vectors_that_the_saved_encoder_has(bert_folder, texts):
    prompt = "the hour: "
    made = started(bert_folder, texts, prompt=prompt, erased_chars=0, noise_negatives=3)
    embedder = Embedder.load(bert_folder, dtype="float32", device="cpu")
    embedder.set_default_prompt(prompt, include_prompt=False)
    expected = torch.from_numpy(embedder.encode([made.views.data.left[text] for text in range(8)]))
    noise = noise_vectors(3, made.encoder.dim, seed=1, step=0, device=torch.device("cpu"))
    loss, _ = gradients(made, range(8))
    assert loss == pytest.approx(info_nce(expected, expected, temperature=0.04, further=noise).item(), rel=1e-4)


def test_no_view_loses_or_repeats_the_prompt(bert_folder, texts):
    for settings in ({}, {"positives": "crops"}, {"repeat_share": 0.9}):
        made = started(bert_folder, texts, prompt="the hour of the sea: ", **settings)
        begin = made.views.tokenizer("the hour of the sea: ")["input_ids"][:-1]
        assert made.views.prompt_tokens == len(begin) > 5
        left, right = made.views(np.arange(16), step=0, seed=1)
        assert all(ids[: len(begin)] == begin for ids in [*left, *right])
        assert left != right
    masked = mask_texts(left, made.views.tokenizer, rate=0.5, generator=torch.Generator(), skipped=made.views.prompt_tokens)
    assert min(place for text in masked for place in text.places) == len(begin)


def test_a_prompt_that_leaves_no_room_is_refused(bert_folder, texts):
    with pytest.raises(UserError, match=r"prompt takes \d+ of 10 tokens, which leaves none for a text: raise --max-tokens, or shorten it"):
        mirror(bert_folder, texts, prompt="the hour of the sea and the river: ", **{**SMALL, "max_tokens": 10})


# ---- all of them


def test_two_processes_give_the_gradient_of_one(bert_folder, texts, tmp_path, in_two_processes):
    made = started(bert_folder, texts, **TOGETHER)
    gradients(made, range(10))
    made.queue.advance()
    loss, expected = gradients(made, range(10, 20), step=1)
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    in_two_processes(f"""
        import json
        from test_mirror_switches import TOGETHER, gradients, started
        from tain.training import distributed
        texts = json.loads(open({str(tmp_path / "texts.json")!r}).read())
        made = started({str(bert_folder)!r}, texts, micro_batch_tokens=60, **TOGETHER)
        gradients(made, range(10))
        made.queue.advance()
        loss, found = gradients(made, range(10, 20), step=1)
        torch.save(found | {{"loss": torch.tensor(loss), "queue": made.queue.vectors}}, {str(tmp_path)!r} + f"/found-{{distributed.rank()}}.pt")
        """)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"found-{rank}.pt", weights_only=True)
        assert found["loss"].item() == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(found["queue"], made.queue.vectors, atol=1e-5, rtol=1e-4)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def losses_without(bert_folder, texts):
    return mirror(bert_folder, texts, **{**SMALL, "dtype": "bfloat16"}).runs[0].losses


@pytest.mark.parametrize("name", EVERY)
def test_each_switch_trains_alone_and_in_bfloat16(name, bert_folder, texts, losses_without):
    found = mirror(bert_folder, texts, **{**SMALL, "dtype": "bfloat16"}, **EVERY[name])
    assert found.runs[0].losses != losses_without
    assert np.isfinite(found.runs[0].losses).all()
    assert found.embedder.encode(["a text"]).dtype == np.float32


def test_the_copy_of_the_queue_stays_in_float32(bert_folder):
    encoder = Embedder.load(bert_folder, dtype="float32", device="cpu").encoder
    queue = MomentumQueue(encoder, None, texts=4, momentum=0.999)
    for parameter in encoder.model.parameters():
        parameter.data = parameter.data.bfloat16()
    assert {copy.dtype for copy in queue.encoder.parameters()} == {torch.float32}
    assert not any(copy.requires_grad for copy in queue.encoder.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repeat_share": 1.5}, r"repeat_share is 1.5, but it is a share of the tokens: give 0 to 1 \(0.3\)"),
        ({"queue_texts": -1}, "queue_texts is -1, but it is a count: give 0 or more"),
        ({"momentum": 0.9}, "momentum only applies to the encoder of a queue: give --queue-texts 500, or leave it out"),
        ({"queue_texts": 9, "momentum": 1.0}, "momentum is 1.0, but with 1 the copy would never follow: give 0 to below 1"),
        ({"noise_negatives": -3}, "noise_negatives is -3, but it is a count: give 0 or more"),
        ({"head": "deep"}, "head is 'deep': give none or mlp"),
        ({"head": "mlp", "anchor": 3.0}, "head trains other vectors than the saved ones, but an anchor compares the saved ones"),
        ({"head": "mlp", "recipe": "best"}, "head trains other vectors than the saved ones"),
        ({"head": "mlp", "dims": "8,16"}, "dims is '8,16', but a head mixes all numbers of a vector: leave one of them out"),
        ({"decoder_weight": math.inf}, "decoder_weight is inf, but it is a weight: give 0 or more"),
        ({"prompt": " "}, "prompt is ' ': give text, or leave it out"),
        ({"prompt": "a: ", "pooling": "mean-with-padding"}, "prompt needs pooling cls or mean, but this mean includes padding"),
        ({"prompt": "a: ", "recipe": "paper"}, "prompt needs pooling cls or mean"),
        ({"mlm_weight": -0.1}, "mlm_weight is -0.1, but it is a weight: give 0 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message, unchecked):
    with pytest.raises(UserError, match=message):
        MirrorConfig(**settings)


@pytest.mark.parametrize("name", EVERY)
def test_a_recipe_without_training_refuses_them(name):
    with pytest.raises(UserError, match=r"recipe fast takes no training step, so .* would have no effect"):
        MirrorConfig(recipe="fast", **EVERY[name]).refuse_without_effect()
