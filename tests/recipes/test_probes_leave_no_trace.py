"""Whatever runs a model only to measure something leaves weights, gradients, optimizer, random states and modes as they were."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tain.batches.packing import pack
from tain.encoders.dropout import set_dropout
from tain.encoders.masked_lm import MaskedLanguageModel
from tain.encoders.transformer import TransformerEncoder, usable_dtype
from tain.foundation.probing import evaluating, unchanged
from tain.inspection.capturing import Watched
from tain.inspection.gradients.probe import probe_gradients
from tain.models.embedder import Embedder
from tain.recipes.mirror import recipe as mirror_recipe
from tain.recipes.mirror.config import MirrorConfig
from tain.recipes.mirror.data import training_set
from tain.recipes.mirror.preparing import set_limits, weight_rms
from tain.recipes.mirror.trainer import MirrorTrainer, trainer_for
from tain.recipes.pretrain.conditional import _Bottleneck, conditional_model
from tain.recipes.pretrain.config import PretrainConfig
from tain.recipes.pretrain.validation import HeldOut
from tain.recipes.rank import trainer as rank_trainer
from tain.recipes.rank.recipe import rank
from tain.recipes.rank.validation import Validation
from tain.training.optimizer import MasterWeights, adamw


def _random_states() -> tuple[Any, ...]:
    """Torch's and NumPy's; the shape checks of the test run draw from Python's own."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), kind, list(keys), rest


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


def _assert_equal(found: Tensor | None, expected: Tensor | None, name: str) -> None:
    assert (found is None) == (expected is None), name
    if found is not None:
        assert torch.equal(found, expected), name


@contextmanager
def assert_untouched(module: nn.Module, masters: list[Tensor] | None = None) -> Iterator[None]:
    """Fail unless the block leaves a model, its masters and the random states as they were."""
    named = [*module.named_parameters(), *((f"master {number}", each) for number, each in enumerate(masters or []))]
    kept = [(name, each, _copy(each), _copy(each.grad)) for name, each in named]
    buffers = [(name, each, _copy(each)) for name, each in module.named_buffers()]
    modes = [(name, part, part.training) for name, part in module.named_modules()]
    states = _random_states()
    yield
    for name, each, value, gradient in kept:
        _assert_equal(each, value, name)
        _assert_equal(each.grad, gradient, f"the gradient of {name}")
    for name, each, value in buffers:
        _assert_equal(each, value, name)
    assert [(name, part.training) for name, part, _ in modes] == [(name, mode) for name, _, mode in modes]
    assert _random_states() == states


def in_mixed_modes(module: nn.Module) -> nn.Module:
    """Put a model in train mode but for one part, as where a part is frozen: each part must get its own mode back."""
    module.train()
    next(part for part in module.modules() if isinstance(part, nn.LayerNorm)).eval()
    return module


# ---- the context manager itself


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_trial_step_of_an_optimizer_is_taken_back(dtype):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4) if dtype == torch.float32 else nn.LayerNorm(4)  # the first has buffers that a pass changes
    module = nn.Sequential(nn.Linear(3, 4), norm, nn.Dropout(0.5), nn.Linear(4, 2))
    weights = MasterWeights(module, dtype=dtype)
    optimizer = adamw(weights, learning_rate=0.1, weight_decay=0.01)

    def step() -> None:
        module(torch.randn(8, 3, dtype=dtype)).sum().backward()
        optimizer.step()

    step()
    module(torch.randn(8, 3, dtype=dtype)).sum().backward()  # a gradient that the block must not add to
    weights.take_gradients()
    state = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    with assert_untouched(module, weights.masters):
        python = random.getstate()
        with unchanged(module, masters=weights.masters, optimizer=optimizer):
            assert all(master.grad is None for master in weights.masters)
            module.eval()
            module.train()
            step()
            random.random()
            np.random.random()  # noqa: NPY002
        assert random.getstate() == python
        assert optimizer.state().keys() == state.keys()
        for name, tensor in optimizer.state().items():
            assert torch.equal(tensor, state[name]), name


def test_an_optimizer_that_never_stepped_has_no_state_afterwards():
    module = nn.Linear(3, 2)
    weights = MasterWeights(module, dtype=torch.float32)
    optimizer = adamw(weights, learning_rate=0.1, weight_decay=0.01)
    with assert_untouched(module), unchanged(module, optimizer=optimizer):
        module(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    assert not any(name.startswith("optimizer/") for name in optimizer.state())


def test_an_error_in_the_block_restores_too():
    module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))
    with assert_untouched(module):
        with pytest.raises(ZeroDivisionError), unchanged(module):
            module(torch.ones(1, 3)).sum().backward()
            raise ZeroDivisionError
        with pytest.raises(ZeroDivisionError), evaluating(module):
            raise ZeroDivisionError


# ---- every probe


@pytest.fixture(scope="module")
def texts(sentences: list[str]) -> list[str]:
    words = sorted({word for sentence in sentences for word in sentence.replace(",", "").split()})
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(words, size=rng.integers(5, 12))) for _ in range(60)]


@pytest.fixture(scope="module")
def corpus(sentences, tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "texts.txt"
    path.write_text("\n".join("\n".join(sentences) + "\n" for _ in range(10)), encoding="utf-8")
    return path


@pytest.fixture
def mirror_session(bert_folder, texts) -> Callable[..., Any]:
    def build(**settings: Any) -> Any:
        fixed = {"batch_texts": 8, "max_tokens": 40, "dtype": "float32", "device": "cpu", "held_out": 0, "erase_min_chars": 10}
        config = MirrorConfig(**(fixed | settings)).for_texts(has_documents=False)
        embedder = Embedder.load(bert_folder, dtype="float32", device="cpu")
        data = training_set(texts, config)
        resolved = config.resolved(width=embedder.dim, weight_rms=weight_rms(embedder.encoder))
        set_limits(embedder.encoder, resolved)
        return trainer_for(embedder, data, resolved)

    return build


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("micro_batch_tokens", [64, 100_000])
def test_measuring_what_a_budget_holds(mirror_session, dtype, micro_batch_tokens):
    trainer = mirror_session(budget_s=30.0, micro_batch_tokens=micro_batch_tokens)
    encoder = trainer.encoder.train()
    set_dropout(encoder.model, hidden=0.1, attention=0.1)
    trainer.weights = MasterWeights(encoder.model, dtype=dtype)
    with assert_untouched(encoder, trainer.weights.masters):
        assert trainer.measure_text_s(13) > 0
        assert trainer.measure_update_s() > 0


def test_the_first_gradient_in_a_budget_is_that_of_a_run_without(mirror_session):
    def first_gradient(*, measures: bool) -> list[Tensor]:
        trainer = mirror_session(budget_s=30.0, micro_batch_tokens=64)
        set_dropout(trainer.encoder.model, hidden=0.1, attention=0.1)
        trainer.encoder.train()
        trainer.weights = MasterWeights(trainer.encoder.model, dtype=torch.bfloat16)
        if measures:
            trainer.measure_text_s(13)
            trainer.measure_update_s()
        trainer.gradient_step(trainer.batch(np.arange(8), step=0, seed=13), step=0, seed=13)
        return [master.grad for master in trainer.weights.masters if master.grad is not None]

    plain, after_measuring = first_gradient(measures=False), first_gradient(measures=True)
    assert len(plain) == len(after_measuring) > 30
    for found, expected in zip(after_measuring, plain, strict=True):
        assert torch.equal(found, expected)


def test_looking_at_the_two_views(bert_folder, texts, monkeypatch):
    """In the run itself: nothing of it may reach the first step."""
    real = mirror_recipe.check_views
    seen = []

    def watched(encoder: Any, *given: Any, **more: Any) -> None:
        seen.append((_random_states(), [part.training for part in encoder.modules()]))
        real(encoder, *given, **more)

    def stop(self: Any, *, seed: int) -> None:
        seen.append((_random_states(), [part.training for part in self.encoder.modules()]))
        raise KeyboardInterrupt

    monkeypatch.setattr(mirror_recipe, "check_views", watched)
    monkeypatch.setattr(MirrorTrainer, "start", stop)
    with pytest.raises(KeyboardInterrupt):
        mirror_recipe.mirror(bert_folder, texts, batch_texts=8, max_tokens=40, dtype="float32", device="cpu", held_out=0)
    assert len(seen) == 2
    assert seen[0] == seen[1]


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "fnet", "mpnet"])  # packed ones, one cut by length, a padded one
def test_trying_the_layouts_and_number_types(tiny_encoder, architecture):
    model = in_mixed_modes(tiny_encoder(architecture, hidden_dropout_prob=0.1))
    model.get_input_embeddings().weight.grad = torch.ones_like(model.get_input_embeddings().weight)
    with assert_untouched(model):
        TransformerEncoder(model)
        usable_dtype(model, "bfloat16" if architecture != "fnet" else "auto")


def test_taking_blocks_apart(tiny_encoder):
    encoder = TransformerEncoder(tiny_encoder("bert"))
    in_mixed_modes(encoder)
    with assert_untouched(encoder):
        watched = Watched(encoder)
        watched.run(pack([[5, 6, 7]]), lambda *_: None)


@pytest.mark.parametrize("objective", ["random", "cmlm"])
def test_validating_a_pretraining_run(tiny_masked_lm, tiny_tokenizer, corpus, objective):
    config = PretrainConfig(objective=objective, block_tokens=16, batch_blocks=4, validation=(corpus,), device="cpu", dtype="float32")
    network = MaskedLanguageModel(tiny_masked_lm("bert", hidden_dropout_prob=0.1))
    in_mixed_modes(network)
    network.model.get_input_embeddings().weight.grad = torch.ones_like(network.model.get_input_embeddings().weight)
    with assert_untouched(network):
        assert HeldOut((corpus,), tiny_tokenizer(), config).loss(network, torch.device("cpu")) > 0
    if objective == "cmlm":
        conditional = conditional_model(network.model, config)
        in_mixed_modes(conditional)
        with assert_untouched(conditional):
            assert _Bottleneck((corpus,), tiny_tokenizer(), config).losses(conditional, torch.device("cpu"))


@pytest.mark.parametrize("kind", ["bi", "poly", "cross"])
def test_validating_a_ranker(bert_folder, texts, kind, monkeypatch):
    """At every measurement of a run, those between its steps included."""
    real, measured, trainers = Validation.measured, [], []

    class Watched(MasterWeights):
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            trainers.append(self)

    def watched(self: Any, ranker: Any) -> dict[str, float]:
        with assert_untouched(ranker.module, trainers[-1].masters):
            measured.append(real(self, ranker))
        return measured[-1]

    monkeypatch.setattr(rank_trainer, "MasterWeights", Watched)
    monkeypatch.setattr(Validation, "measured", watched)
    pairs = list(pairwise(texts))
    settings = {"batch_contexts": 8, "held_out": 6, "epochs": 1, "dtype": "float32", "device": "cpu", "validation_candidates": 4}
    rank(bert_folder, pairs, type=kind, **settings)
    assert len(measured) > 2


def test_measuring_gradients(bert_folder, corpus):
    states = _random_states()
    probe_gradients(bert_folder, [corpus], blocks=8, block_tokens=18, masking_rate=0.25, device="cpu", resamples=100)
    assert _random_states() == states


def test_encoding_while_training(bert_folder, sentences):
    embedder = Embedder.load(bert_folder, dtype="float32", device="cpu")
    embedder.encoder.train()
    with assert_untouched(embedder.encoder):
        embedder.encode(sentences)
