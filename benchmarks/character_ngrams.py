"""TF-IDF of character n-grams by scikit-learn, as ``evaluate`` takes encoders: the row without a model that is hardest to beat on names."""

from typing import Any

import numpy as np


class CharacterNgrams:
    """TF-IDF of the character n-grams (2 to 4) of each word, by scikit-learn, fitted on the evaluated texts."""

    name = "characters"
    vectorizer: Any  # the type stubs of scikit-learn do not know sparse results

    def fit_at_hand(self, texts, /):
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True).fit(texts)

    def pair_cosines(self, left, right, /):
        return np.asarray(self.vectorizer.transform(left).multiply(self.vectorizer.transform(right)).sum(axis=1)).ravel()

    def index(self, candidates, /):
        return _Index(self.vectorizer, self.vectorizer.transform(candidates).T.tocsr())

    def encode(self, texts, /):
        return self.vectorizer.transform(texts).toarray()


class _Index:
    def __init__(self, vectorizer, columns):
        self.vectorizer, self.columns = vectorizer, columns

    def cosines(self, texts, /):
        return (self.vectorizer.transform(texts) @ self.columns).toarray()
