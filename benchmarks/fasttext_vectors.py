"""fastText word vectors trained on the corpus at hand by gensim (``pip install gensim``), as ``evaluate`` takes encoders.

Bojanowski et al. 2017, with their settings: skip-gram, 300 dimensions, character n-grams of 3 to 6, five negatives, windows of five words, words seen
at least five times, five epochs. Words are lower-cased; an unknown word is the mean of its n-grams. A text is the mean of its words' unit vectors.
"""

import logging
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from ppmi_svd import split_words


class FastTextVectors:
    """Vectors of words and of their character n-grams."""

    def __init__(self, lines: Iterable[str], *, dim: int = 300, epochs: int = 5, seed: int = 13):
        try:
            from gensim.models import FastText  # pyright: ignore[reportMissingImports]
        except ImportError:
            sys.exit("error: the row fasttext needs gensim: pip install gensim")
        logging.getLogger("gensim").setLevel(logging.ERROR)
        self.name = "fasttext"
        split = [split_words(line) for line in lines]
        model: Any = FastText(vector_size=dim, sg=1, negative=5, window=5, min_count=5, min_n=3, max_n=6, workers=1, seed=seed)
        model.build_vocab(split)
        model.train(split, total_examples=len(split), epochs=epochs)
        self.vectors = model.wv

    def encode(self, texts, /):
        found = np.zeros((len(texts), self.vectors.vector_size), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors = [self.vectors.get_vector(word, norm=True) for word in split_words(text) if word in self.vectors]
            if vectors:
                found[row] = np.mean(vectors, axis=0)
        return found
