"""Tells how good an encoder is, with labels (STS, word similarity) and without (geometry, self-retrieval)."""
