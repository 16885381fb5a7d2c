"""What a student knows of words before it has read a text."""

import numpy as np
import torch

from tain.recipes.distil.words import fit_skip, fit_words, main_directions
from tain.students.projection import Projection
from tain.students.projection_config import ProjectionConfig
from tain.students.torch.qrnn import PQRNN, StudentShape


class Words:
    """An encoder of three hundred words with vectors of their own."""

    def __init__(self):
        rng = np.random.default_rng(1)
        self.words = [f"w{number}" for number in range(300)]
        self.vectors = dict(zip(self.words, (rng.normal(size=(300, 8)) + 3.0).astype(np.float32), strict=True))

    def encode(self, texts):
        return np.stack([self.vectors[text] for text in texts])


def test_the_narrow_layer_gives_words_the_teachers_directions_upright_and_turned():
    encoder, projection = Words(), Projection(ProjectionConfig(features=256, end=False))
    module = PQRNN(StudentShape(features=256, bottleneck=12, state=4, layers=1, text_outputs=8))
    untouched = module.bottleneck.weight.detach().clone()
    texts = [" ".join(encoder.words[: 10 + number]) for number in range(290)]  # the first words are the most frequent ones
    fit_words(module, projection, texts, encoder.encode, words=200)
    weight = module.bottleneck.weight.detach()
    torch.testing.assert_close(weight[6:], -weight[:6])
    rows = torch.from_numpy(projection([" ".join(encoder.words[:100])]).dense()[0]).float() / 127
    found = rows @ weight[:6].T
    counts = torch.tensor([float(sum(f"w{number}" in text.split() for text in texts)) for number in range(200)])
    wanted = main_directions(torch.from_numpy(encoder.encode(encoder.words[:200])), counts, directions=6)[:100]
    for mine, theirs in zip(found.T, wanted.T, strict=True):
        assert torch.corrcoef(torch.stack([mine, theirs]))[0, 1] > 0.8
    random = rows @ untouched[:6].T
    assert abs(torch.corrcoef(torch.stack([random[:, 0], wanted[:, 0]]))[0, 1]) < 0.5


def test_an_untrained_student_with_a_skip_says_what_the_mean_of_its_words_can_say():
    encoder, projection = Words(), Projection(ProjectionConfig(features=1024, end=False))
    shape = StudentShape(features=1024, bottleneck=16, state=4, layers=1, text_outputs=8, skip=True)
    module = PQRNN(shape)
    rng = np.random.default_rng(2)
    texts = [" ".join(rng.choice(encoder.words, size=rng.integers(2, 9))) for _ in range(600)]
    taught = np.stack([encoder.encode(text.split()).mean(axis=0) for text in texts]) - 3.0  # the part that words do not share
    fit_words(module, projection, texts, encoder.encode, words=300)
    random = cosines(module, projection, texts[500:], taught[500:])
    fit_skip(module, projection, texts[:500], taught[:500])
    fitted = cosines(module, projection, texts[500:], taught[500:])
    assert abs(random.mean()) < 0.3
    assert fitted.mean() > 0.8
    assert module.attention is not None
    assert module.attention.weight.abs().max() == 0  # level


def cosines(module, projection, texts, taught):
    module.eval()
    projected = projection(texts)
    with torch.no_grad():
        vectors, _ = module(torch.from_numpy(projected.rows).float() / 127, torch.from_numpy(projected.ids))
    return torch.cosine_similarity(vectors, torch.from_numpy(taught))


def test_directions_are_ordered_and_hold_nothing_that_all_words_share():
    vectors, counts = torch.randn(50, 4) * torch.tensor([1.0, 5.0, 0.1, 2.0]) + 7.0, torch.ones(50)
    found = main_directions(vectors, counts, directions=3)
    assert found.shape == (50, 3)
    assert found.square().sum(dim=0).diff().max() < 0
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
    assert main_directions(vectors, counts, directions=9).shape == (50, 4)
