"""Evaluation of encoders, with labels (STS, word similarity, ...) and without (geometry, self-retrieval)."""
