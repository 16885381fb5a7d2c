"""Entity linking suites: link each mention to the concept of its nearest name, without training.

Biomedical entity linking as in Liu et al. 2021 (Mirror-BERT), after Sung et al. 2020 (BioSyn): accuracy@k is the share of mentions with
a gold concept among the concepts of the k nearest names. Names are compared as written, without lower-casing or abbreviation expansion.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tain.evaluation.encoding import EncodedOnce
from tain.evaluation.suites.suite import Split
from tain.evaluation.suites.tasks import Outcomes, TaskSource, distinct, read_columns, task_suite
from tain.foundation.errors import UserError

_PLACES = (1, 5)
_SAME_COSINE = 1e-6  # tolerance for ties between cosines of float32 vectors
_ENGLISH = "en"
_SEVERAL = re.compile(r"[|+]")  # separators between the concepts of a mention or name
_NAMESPACES = ("MESH:", "OMIM:")  # prefixes of concepts in some files


@dataclass(frozen=True, kw_only=True)
class NameSet:
    """Mentions with gold concepts, and a dictionary of names.

    Attributes:
        key: Name on the command line, such as ``ncbi``.
        title: Name in tables.
        mentions: Texts that name a concept.
        gold: Concepts of each mention.
        names: Distinct names of the dictionary.
        rows_of: Rows of ``names`` per concept.
    """

    key: str
    title: str
    mentions: tuple[str, ...]
    gold: tuple[frozenset[str], ...]
    names: tuple[str, ...]
    rows_of: dict[str, list[int]]

    @property
    def remarks(self) -> tuple[str, ...]:
        lost = sum(not any(concept in self.rows_of for concept in concepts) for concepts in self.gold)
        unnamed = f", {lost} of {len(self.mentions):,} mentions have no name there and count as wrong" if lost else ""
        return (f"{self.title}: {len(self.names):,} names{unnamed}",)

    def texts(self) -> list[tuple[str | None, list[str]]]:
        """Every distinct mention and name, in English."""
        return [(_ENGLISH, distinct((*self.mentions, *self.names)))]

    def outcomes(self, encoder: EncodedOnce) -> list[Outcomes]:
        """Probability of a gold concept among the concepts of the first name and of the first five names, per mention."""
        found = self.chances(encoder.cosine_blocks(self.mentions, self.names, language=_ENGLISH))
        return [
            Outcomes(key=f"{self.key}_at_{k}", title=self.title, group=f"accuracy@{k}", shares=shares)
            for k, shares in zip(_PLACES, found, strict=True)
        ]

    def chances(self, cosines: Iterable[np.ndarray]) -> np.ndarray:
        """Rank all names exactly for each mention.

        Args:
            cosines: Blocks (mentions, names) that cover all mentions in order.

        Returns:
            Float64 (2, mentions): probability of a gold name in the top 1 and top 5, with ties in random order.
        """
        gold_rows = [sorted({row for concept in concepts for row in self.rows_of.get(concept, ())}) for concepts in self.gold]
        found = np.zeros((len(_PLACES), len(self.mentions)))
        for mention, row in enumerate(row for block in cosines for row in block):
            if gold_rows[mention]:
                found[:, mention] = [_chance(row, gold_rows[mention], k) for k in _PLACES]
        return found


def _chance(cosines: np.ndarray, gold: list[int], k: int) -> float:
    """Probability that one of the rows ``gold`` is in the top ``k`` of ``cosines`` (names,), with ties in random order."""
    best = cosines[gold].max()
    better = int((cosines > best + _SAME_COSINE).sum())
    tied = int((np.abs(cosines - best) <= _SAME_COSINE).sum())
    wrong = tied - int((np.abs(cosines[gold] - best) <= _SAME_COSINE).sum())
    missed = 1.0
    for drawn in range(min(k - better, tied)):  # probability that all positions drawn among the tied ones are wrong
        missed *= max(wrong - drawn, 0) / (tied - drawn)
    return 1.0 - missed


def entity_linking_sources(split: Split = "test") -> list[TaskSource]:
    """The paper's five sets; NCBI-disease and BC5CDR-disease use the MEDIC dictionary, the others have separate name tables."""
    medic = "biomed/medic_2012.tsv.gz"
    if split == "dev":
        return [_source("ncbi_dev", "NCBI-disease dev", "biomed/ncbi_disease_dev.tsv", medic)]
    return [
        _source("ncbi", "NCBI-disease", "biomed/ncbi_disease_test.tsv", medic),
        _source("bc5cdr_disease", "BC5CDR-disease", "biomed/bc5cdr_disease_test.tsv", medic),
        _source("bc5cdr_chemical", "BC5CDR-chemical", "biomed/bc5cdr_chemical_test.tsv", "biomed/bc5cdr_chemical_names.tsv"),
        _source("askapatient", "AskAPatient", "biomed/askapatient_test.tsv", "biomed/askapatient_names.tsv"),
        _source("cometa", "COMETA", "biomed/cometa_test.tsv", "biomed/cometa_names.tsv"),
    ]


def _source(key: str, title: str, mentions: str, names: str) -> TaskSource:
    read = partial(_read, key=key, title=title, mentions=mentions, names=names)
    return TaskSource(key=key, title=title, group="accuracy@1", files=(mentions, names), read=read)


def _read(data: Path, *, key: str, title: str, mentions: str, names: str) -> NameSet:
    asked = read_columns(data / mentions, ("mention", "concept"))
    row_of: dict[str, int] = {}
    rows_of: dict[str, list[int]] = {}
    for concepts, name in read_columns(data / names, ("concept", "term")):
        row = row_of.setdefault(name, len(row_of))
        for concept in concepts_of(concepts):
            rows_of.setdefault(concept, []).append(row)
    gold = tuple(concepts_of(concepts) for _, concepts in asked)
    if not any(concept in rows_of for concepts in gold for concept in concepts):
        raise UserError(
            f"{str(data / mentions)!r} has no concept that has a name in {names}, so every model would be wrong on all: give files of"
            " the same set"
        )
    return NameSet(
        key=key,
        title=title,
        mentions=tuple(mention for mention, _ in asked),
        gold=gold,
        names=tuple(row_of),
        rows_of=rows_of,
    )


def concepts_of(written: str) -> frozenset[str]:
    """Split a cell such as ``D007108|OMIM:215600`` into concepts, and strip name space prefixes."""
    found = set()
    for part in _SEVERAL.split(written):
        concept = part.strip()
        for namespace in _NAMESPACES:
            concept = concept.removeprefix(namespace)
        if concept:
            found.add(concept)
    return frozenset(found)


ENTITY_LINKING = task_suite("entity-linking", "Entity linking", lambda data, split: entity_linking_sources(split), counted="mentions")
