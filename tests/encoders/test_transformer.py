import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tain.batches.packing import pack
from tain.encoders import transformer
from tain.encoders.attention import Packing
from tain.encoders.dropout import set_dropout
from tain.encoders.transformer import TransformerEncoder, position_offset_of
from tain.foundation.errors import ShapeError, UserError
from tain.foundation.machine import set_dtype
from tiny_models import randomise

Build = Callable[..., Any]

PACKED = ["bert", "roberta", "xlm-roberta", "electra", "albert", "distilbert", "modernbert"]
PADDED = ["mpnet", "deberta", "deberta-v2"]

# together far more tokens than the models have positions (40); ModernBERT's window is 6; a single token; equal lengths, and not side by side
LENGTHS = (3, 17, 9, 3, 30, 36, 1, 9)


def plain_means(model: Any, ids: list[list[int]], *, pad_id: int) -> Tensor:
    """What any user of transformers would write: rows padded to the longest, a mask, a mean over the real tokens."""
    longest = max(map(len, ids))
    rows = torch.tensor([text + [pad_id] * (longest - len(text)) for text in ids])
    is_token = torch.tensor([[index < len(text) for index in range(longest)] for text in ids])
    hidden = model(input_ids=rows, attention_mask=is_token.long()).last_hidden_state
    return (hidden * is_token[..., None]).sum(1) / is_token.sum(1, keepdim=True)


def gradients(model: Any, vectors: Tensor) -> dict[str, Tensor | None]:
    """Gradients of every parameter, of the vectors' product with fixed random numbers."""
    model.zero_grad()
    (vectors * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    return {name: None if parameter.grad is None else parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(("architecture", "share_rows"), [*((name, False) for name in PACKED + PADDED), *((name, True) for name in PACKED)])
def test_outputs_and_gradients_equal_the_plain_padded_models(
    architecture: str, share_rows: bool, mode: str, tiny_encoder: Build, token_ids: Build
):
    ids = token_ids(*LENGTHS)
    plain, ours = tiny_encoder(architecture, attn_implementation="eager"), tiny_encoder(architecture)
    encoder = TransformerEncoder(ours, pad_id=ours.config.pad_token_id)
    for model in (plain, ours):
        set_dropout(model, hidden=0.0, attention=0.0)
        model.train(mode == "train")

    packed = pack(ids, share_rows=share_rows)
    expected, found = plain_means(plain, ids, pad_id=plain.config.pad_token_id), encoder(packed)

    assert (packed.shared_owners is not None) is share_rows
    assert encoder.layout == ("packed" if architecture in PACKED else "padded")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    expected_gradients, found_gradients = gradients(plain, expected), gradients(ours, found)
    assert sum(gradient is not None and bool(gradient.any()) for gradient in expected_gradients.values()) > 15
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_outputs_equal_the_plain_model_on_its_own_fused_attention(architecture: str, tiny_encoder: Build, token_ids: Build):
    ids = token_ids(*LENGTHS)
    plain = tiny_encoder(architecture, attn_implementation="sdpa")
    encoder = TransformerEncoder(tiny_encoder(architecture))
    torch.testing.assert_close(encoder(pack(ids)), plain_means(plain, ids, pad_id=0), atol=1e-5, rtol=1e-5)


def test_electra_with_its_hidden_width_as_embedding_width_runs_packed_too(tiny_encoder: Build, token_ids: Build):
    ids = token_ids(*LENGTHS)
    encoder = TransformerEncoder(tiny_encoder("electra", embedding_size=32))
    assert encoder.layout == "packed"
    expected = plain_means(tiny_encoder("electra", embedding_size=32), ids, pad_id=0)
    torch.testing.assert_close(encoder(pack(ids)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [2, 6, 12])
def test_modernberts_window_is_kept_where_texts_are_longer(window: int, tiny_encoder: Build, token_ids: Build):
    ids = token_ids(30, 30, 7, 2)
    plain, ours = tiny_encoder("modernbert", local_attention=window), tiny_encoder("modernbert", local_attention=window)
    found = TransformerEncoder(ours)(pack(ids))
    torch.testing.assert_close(found, plain_means(plain, ids, pad_id=0), atol=1e-5, rtol=1e-5)
    without = plain_means(tiny_encoder("modernbert", local_attention=80), ids, pad_id=0)
    assert (found - without)[:2].abs().max() > 0.01  # the window does matter here


def bidirectional(kind: str, window: int) -> Any:
    """A tiny decoder without causal mask, whose layers have a sliding window."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    fixed = {"vocab_size": 120, "max_position_embeddings": 40, "pad_token_id": 0, "sliding_window": window, **sizes}
    more: dict[str, dict[str, Any]] = {
        "Qwen2": {"is_causal": False, "use_sliding_window": True, "max_window_layers": 0},
        "Qwen3": {"is_causal": False, "use_sliding_window": True, "max_window_layers": 1, "head_dim": 8},
        "Gemma2": {"is_causal": False, "head_dim": 8},
        "Gemma3Text": {"use_bidirectional_attention": True, "head_dim": 8},
    }
    config = getattr(transformers, f"{kind}Config")(**fixed, **more[kind])
    return randomise(transformers.AutoModel.from_config(config)).eval()


@pytest.mark.parametrize("window", [2, 5])
@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Gemma2", "Gemma3Text"])
def test_the_windows_of_bidirectional_decoders_are_those_of_transformers(kind: str, window: int, token_ids: Build):
    ids = token_ids(30, 12, 7, 6, 5, 4, 3, 2)
    encoder = TransformerEncoder(bidirectional(kind, window))
    assert encoder.layout == ("padded" if kind == "Gemma2" else "packed")  # Gemma 2 caps its scores
    expected = plain_means(bidirectional(kind, window), ids, pad_id=0)
    torch.testing.assert_close(encoder(pack(ids)), expected, atol=1e-5, rtol=1e-5)
    alone = torch.cat([encoder(pack([text])) for text in ids])
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=1e-5)


def test_a_sliding_window_is_the_same_in_a_compiled_graph_and_does_not_split_it():
    code = """
        import torch
        from transformers import ModernBertConfig, ModernBertModel, Qwen2Config, Qwen2Model
        from tain.batches.packing import pack
        from tain.encoders.transformer import TransformerEncoder

        torch.manual_seed(1)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 100}
        special = {"pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
        bidirectional = {"is_causal": False, "use_sliding_window": True, "max_window_layers": 0, "sliding_window": 4, "use_cache": False}
        texts, rows = pack([list(range(5, 35)), list(range(5, 17))], share_rows=True), torch.arange(5, 95).view(3, 30)
        for model in (
            ModernBertModel(ModernBertConfig(**sizes, **special, global_attn_every_n_layers=2, local_attention=8)).eval(),
            Qwen2Model(Qwen2Config(**sizes, **special, **bidirectional, num_key_value_heads=2)).eval(),
        ):
            tokens = TransformerEncoder(model).tokens
            with torch.no_grad():
                print(torch._dynamo.explain(tokens)(texts).graph_break_count)
                for run, given in ((tokens, texts), (lambda ids: model(input_ids=ids).last_hidden_state, rows)):
                    print(torch.allclose(torch.compile(run, backend="eager")(given), run(given), atol=1e-6))
    """  # in a process of its own: the checks of shapes, which only tests have, split graphs
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True", "True"] * 2


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "mpnet", "deberta-v2", "fnet", "convbert"])
@torch.no_grad()
def test_vectors_depend_neither_on_the_other_texts_nor_on_their_order(architecture: str, tiny_encoder: Build, token_ids: Build):
    ids = token_ids(*LENGTHS)
    model = tiny_encoder(architecture)
    encoder = TransformerEncoder(model, pad_id=model.config.pad_token_id)
    together = encoder(pack(ids))
    alone = torch.cat([encoder(pack([text])) for text in ids])
    backwards = encoder(pack(ids[::-1])).flip(0)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(backwards, together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("share_rows", [False, True])
def test_no_gradient_crosses_from_one_text_to_another(share_rows: bool, tiny_encoder: Build, token_ids: Build):
    model = tiny_encoder("bert")
    encoder = TransformerEncoder(model)
    ids = token_ids(5, 7, 5, 3, 2)
    ids = [[5 + 15 * text + token % 15 for token in tokens] for text, tokens in enumerate(ids)]  # no token in common
    packed = pack(ids, share_rows=share_rows)
    assert packed.shared[0] == share_rows
    encoder(packed)[1].sum().backward()
    touched = model.embeddings.word_embeddings.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert set(touched) == set(ids[1])


@pytest.mark.parametrize(("architecture", "pads"), [("fnet", False), ("convbert", False), ("mpnet", True), ("deberta", True)])
def test_texts_of_one_length_run_together_where_padding_would_change_vectors(
    architecture: str, pads: bool, tiny_encoder: Build, token_ids: Build
):
    model = tiny_encoder(architecture)
    encoder = TransformerEncoder(model, pad_id=model.config.pad_token_id)
    assert (encoder.layout, encoder.pads) == ("padded", pads)
    assert ("padding changes the vectors" in encoder.layout_reason) == (not pads)
    ids = token_ids(*LENGTHS)
    found = encoder(pack(ids))
    with torch.no_grad():
        alone = torch.stack([model(input_ids=torch.tensor([text])).last_hidden_state[0].mean(0) for text in ids])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
    found.square().sum().backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if name.endswith("embeddings.weight"))


def test_a_model_that_cannot_compute_in_bfloat16_stays_in_float32(tiny_encoder: Build, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transformer, "fastest_dtype", lambda device_type: torch.bfloat16)
    fourier = TransformerEncoder(tiny_encoder("fnet"))
    assert fourier.choose_dtype("auto") == torch.float32
    assert fourier.choose_dtype("float32") == torch.float32
    with pytest.raises(UserError, match=r"dtype is 'bfloat16', which FNetModel does not support: give float32 or auto"):
        fourier.choose_dtype("bfloat16")
    assert {parameter.dtype for parameter in fourier.model.parameters()} == {torch.float32}
    for architecture in ("bert", "mpnet"):
        assert TransformerEncoder(tiny_encoder(architecture), pad_id=1).choose_dtype("auto") == torch.bfloat16


@pytest.mark.parametrize(
    ("architecture", "because"), [("mpnet", "MPNetModel"), ("deberta", "DebertaModel"), ("deberta-v2", "DebertaV2Model")]
)
def test_models_outside_the_registry_run_padded_and_say_why(architecture: str, because: str, tiny_encoder: Build):
    encoder = TransformerEncoder(tiny_encoder(architecture), pad_id=1)
    assert encoder.layout == "padded"
    assert encoder.layout_reason == (
        f"{because} does not use the attention registry of transformers; texts run padded, in batches of similar length"
    )


def test_packed_is_refused_where_it_cannot_be_had(tiny_encoder: Build):
    with pytest.raises(
        UserError, match=r"layout is 'packed', but MPNetModel does not use the attention registry .*: give 'padded' or 'auto'"
    ):
        TransformerEncoder(tiny_encoder("mpnet"), pad_id=1, layout="packed")


def test_a_model_that_ignores_the_positions_it_is_given_runs_padded(tiny_encoder: Build, token_ids: Build):
    model = tiny_encoder("bert")
    before = model.config._attn_implementation
    forward = model.embeddings.forward

    def deaf(*arguments: Any, position_ids: Tensor | None = None, **settings: Any) -> Tensor:
        return forward(*arguments, position_ids=None, **settings)

    model.embeddings.forward = deaf
    encoder = TransformerEncoder(model)
    assert encoder.layout == "padded"
    assert "BertModel gives different vectors for packed texts" in encoder.layout_reason
    assert model.config._attn_implementation == before
    ids = token_ids(4, 9)
    torch.testing.assert_close(encoder(pack(ids)), plain_means(tiny_encoder("bert"), ids, pad_id=0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", PACKED)
def test_the_padded_layout_gives_the_same_vectors_when_asked_for(architecture: str, tiny_encoder: Build, token_ids: Build):
    ids = token_ids(*LENGTHS)
    model = tiny_encoder(architecture)
    padded = TransformerEncoder(model, pad_id=model.config.pad_token_id, layout="padded")
    packed = TransformerEncoder(tiny_encoder(architecture), layout="packed")
    assert (padded.layout, padded.layout_reason) == ("padded", "the padded layout was requested")
    torch.testing.assert_close(padded(pack(ids)), packed(pack(ids)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_choosing_a_layout_leaves_the_models_mode_and_random_state_alone(mode: str, tiny_encoder: Build):
    model = tiny_encoder("bert").train(mode == "train")
    state = torch.get_rng_state()
    TransformerEncoder(model)
    assert model.training is (mode == "train")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("architecture", "offset"), [("bert", 0), ("roberta", 2), ("xlm-roberta", 2), ("mpnet", 2), ("modernbert", 0), ("deberta", 0)]
)
def test_the_first_position_is_behind_the_padding_id_in_robertas_kin(architecture: str, offset: int, tiny_encoder: Build):
    assert position_offset_of(tiny_encoder(architecture)) == offset


@pytest.mark.parametrize("architecture", PACKED)
def test_capture_sees_every_layer_and_weights_that_sum_to_one(architecture: str, tiny_encoder: Build, token_ids: Build):
    model = tiny_encoder(architecture)
    encoder = TransformerEncoder(model)
    packed = pack(token_ids(*LENGTHS))
    seen: list[tuple[torch.nn.Module, Tensor, Tensor]] = []
    with_capture = encoder.tokens(packed, capture=lambda *shown: seen.append(shown))

    layers = model.config.num_hidden_layers
    assert len(seen) == layers * len(packed.groups)
    assert len({id(module) for module, _, _ in seen}) == (1 if architecture == "albert" else layers)  # ALBERT's layers are one
    for index, (_, weights, values) in enumerate(seen):
        texts, tokens = packed.groups[index % len(packed.groups)]
        assert weights.shape == (texts, 4, tokens, tokens)
        assert values.shape == (texts, 4, tokens, 8)
        torch.testing.assert_close(weights.sum(-1), torch.ones(texts, 4, tokens))
    torch.testing.assert_close(with_capture, encoder.tokens(packed), atol=1e-5, rtol=1e-5)


def test_captured_weights_are_the_plain_models(tiny_encoder: Build, token_ids: Build):
    ids = token_ids(6, 6)
    seen: list[Tensor] = []
    TransformerEncoder(tiny_encoder("bert")).tokens(pack(ids), capture=lambda module, weights, values: seen.append(weights))
    plain = tiny_encoder("bert", attn_implementation="eager")
    expected = plain(input_ids=torch.tensor(ids), output_attentions=True).attentions
    torch.testing.assert_close(seen, list(expected), atol=1e-5, rtol=1e-5)


def test_captured_weights_are_zero_outside_modernberts_window(tiny_encoder: Build, token_ids: Build):
    seen: list[Tensor] = []
    encoder = TransformerEncoder(tiny_encoder("modernbert"))
    encoder.tokens(pack(token_ids(20)), capture=lambda module, weights, values: seen.append(weights))
    indices = torch.arange(20)
    is_far = (indices[:, None] - indices).abs() > 3  # a window of 6 reaches 3 to each side
    everywhere, local, _ = seen
    assert bool((everywhere > 0).all())
    assert bool((local[..., is_far] == 0).all())
    assert bool((local[..., ~is_far] > 0).all())


def test_drophead_of_zero_is_the_plain_model(tiny_encoder: Build, token_ids: Build):
    model = tiny_encoder("bert")
    encoder = TransformerEncoder(model)
    set_dropout(model, hidden=0.0, attention=0.0)
    encoder.train()
    ids = token_ids(*LENGTHS)
    torch.testing.assert_close(encoder(pack(ids), drophead=0.0), plain_means(tiny_encoder("bert"), ids, pad_id=0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", PACKED)
def test_drophead_makes_two_training_passes_differ_and_leaves_eval_alone(architecture: str, tiny_encoder: Build, token_ids: Build):
    model = tiny_encoder(architecture)
    encoder = TransformerEncoder(model)
    set_dropout(model, hidden=0.0, attention=0.0)
    packed = pack(token_ids(*LENGTHS))
    assert torch.equal(encoder(packed, drophead=0.5), encoder(packed))
    encoder.train()
    first, second = encoder(packed, drophead=0.5), encoder(packed, drophead=0.5)
    assert ((first - second).abs().amax(1) > 1e-3).sum() >= 5  # of 8 texts: with four heads two draws may agree
    assert torch.equal(encoder(packed), encoder(packed))


def test_each_text_and_each_layer_draws_its_own_heads(tiny_encoder: Build, monkeypatch: pytest.MonkeyPatch):
    from tain.encoders import attention

    drawn: list[Tensor] = []
    draw = attention.head_survival

    def recorded(*arguments: Any, **settings: Any) -> Tensor:
        drawn.append(draw(*arguments, **settings))
        return drawn[-1]

    monkeypatch.setattr(attention, "head_survival", recorded)
    model = tiny_encoder("bert")
    encoder = TransformerEncoder(model)
    set_dropout(model, hidden=0.0, attention=0.0)
    vectors = encoder.train()(pack([[7, 8, 9]] * 40), drophead=0.5)
    assert [heads.shape for heads in drawn] == [(40, 4)] * 2
    assert not torch.equal(*drawn)
    assert len(vectors.detach().round(decimals=4).unique(dim=0)) > 15  # one text, many draws


def test_drophead_draws_for_each_text_of_a_shared_row(tiny_encoder: Build):
    model = tiny_encoder("bert")
    set_dropout(model, hidden=0.0, attention=0.0)
    encoder = TransformerEncoder(model)
    packed = pack([[7, 8, 9], [7, 8], [7, 8, 9], [4]] * 12, share_rows=True)
    assert packed.shared == (3, 48)
    same = encoder.train()(packed, drophead=0.5).view(12, 4, -1)
    alone = {tuple(vector.tolist()) for vector in same[:, 0]} | {tuple(vector.tolist()) for vector in same[:, 2]}
    assert len(alone) > 20  # of 24 draws over 2 layers of 4 heads hardly two agree
    torch.testing.assert_close(encoder.eval()(packed, drophead=0.5), encoder(pack([[7, 8, 9], [7, 8], [7, 8, 9], [4]] * 12)))


@torch.no_grad()
def test_shared_rows_are_refused_where_texts_run_padded(tiny_encoder: Build, token_ids: Build):
    encoder = TransformerEncoder(tiny_encoder("mpnet"), pad_id=1)
    with pytest.raises(ShapeError, match="texts share rows, which requires the packed layout"):
        encoder(pack(token_ids(*LENGTHS), share_rows=True))


@pytest.mark.parametrize("asked", ["drophead", "capture"])
def test_drophead_and_capture_are_refused_where_texts_run_padded(asked: str, tiny_encoder: Build, token_ids: Build):
    encoder = TransformerEncoder(tiny_encoder("deberta"))
    with pytest.raises(UserError, match="need the packed layout, but DebertaModel does not use"):
        if asked == "drophead":
            encoder(pack(token_ids(3)), drophead=0.1)
        else:
            encoder.tokens(pack(token_ids(3)), capture=lambda module, weights, values: None)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert"])
@torch.no_grad()
def test_bfloat16_stays_close_to_float32(architecture: str, tiny_encoder: Build, token_ids: Build):
    packed = pack(token_ids(*LENGTHS))
    exact = TransformerEncoder(tiny_encoder(architecture))
    rounded = TransformerEncoder(tiny_encoder(architecture))
    set_dtype(rounded, torch.bfloat16)
    left, right = exact(packed), rounded(packed)
    assert right.dtype == torch.float32
    assert torch.cosine_similarity(left, right).min() > 0.999
    assert (left - right).abs().max() < 0.1


def test_a_bfloat16_model_is_still_recognised_as_packable(tiny_encoder: Build):
    assert TransformerEncoder(tiny_encoder("bert").bfloat16()).layout == "packed"


def test_rotary_frequencies_keep_their_precision_in_bfloat16(tiny_encoder: Build):
    model = tiny_encoder("modernbert")
    set_dtype(model, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in model.buffers() if buffer.is_floating_point()} == {torch.float32}


def test_an_unknown_pooling_is_refused(tiny_encoder: Build, unchecked: None):
    wrong: Any = "sum"
    with pytest.raises(UserError, match="pooling is 'sum': give one of cls, mean, mean-with-padding"):
        TransformerEncoder(tiny_encoder("bert"), pooling=wrong)


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_a_registered_model_called_directly_is_the_plain_model(architecture: str, tiny_encoder: Build, token_ids: Build):
    """sentence-transformers or a masked LM head may call the very model that an encoder has switched to our attention."""
    ids = token_ids(*LENGTHS)
    ours = tiny_encoder(architecture)
    TransformerEncoder(ours)
    torch.testing.assert_close(
        plain_means(ours, ids, pad_id=0), plain_means(tiny_encoder(architecture), ids, pad_id=0), atol=1e-5, rtol=1e-5
    )
    rows = torch.tensor(token_ids(20, 20))
    expected = tiny_encoder(architecture)(input_ids=rows).last_hidden_state
    torch.testing.assert_close(ours(input_ids=rows).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_groups_are_what_attention_runs_on():
    packing = Packing(pack([[1, 2], [3], [4, 5], [6]]).groups)
    assert packing.groups == ((2, 1), (2, 2))
