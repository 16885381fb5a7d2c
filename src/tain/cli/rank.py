"""``tain rank``: train rankers, score pairs, search candidates and compare rankers."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import App, Parameter
from cyclopts.validators import Number

from tain.cli import flags
from tain.cli.objects import as_object, write_object
from tain.cli.settings import build_config, flags_of
from tain.cli.sources import TextSource
from tain.foundation.choices import Fusion
from tain.foundation.errors import UserError
from tain.recipes.rank.config import RankConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from tain.evaluation.baselines import BaselineRanker
    from tain.evaluation.report import Figure
    from tain.exported.rankers import ExportedCross, ExportedDual
    from tain.foundation.progress import Progress
    from tain.models.rankers import DualRanker, Ranker
    from tain.ranking.evaluation import CandidateLists, RankingReport
    from tain.ranking.filters import Filter
    from tain.ranking.index import CandidateIndex
    from tain.ranking.rerank import Hit
    from tain.recipes.rank.recipe import Ranked
    from tain.scale.split_search import SplitIndex
    from tain.text.records import Candidate, RankingExample

rank = App(
    name="rank",
    help="Train, use and compare rankers: bi-, poly- and cross-encoders.\n\ntain rank train tain-mini pairs.tsv -o ranker",
    help_format="plaintext",
)

_Flags: Any = flags_of(RankConfig)
_NONE_GIVEN = _Flags()
_DEPTH = 100  # hits that are reranked
_SHOWN_FIELDS = 20  # names in a message
_SAMPLED_VECTORS, _MODEL_TOLERANCE = 8, 0.05  # imported vectors that are compared with the model's, relative to their length

_Columns = Annotated[
    tuple[str, str] | None,
    Parameter(help="columns of contexts and answers; default: context and answer, or the only two", negative=()),
]
_Negatives = Annotated[str | None, Parameter(help='column of wrong answers: a list in jsonl and parquet, ["one", "other"] in tsv and csv')]
_Label = Annotated[str | None, Parameter(help="column that says by 1 or 0 whether a row's answer is right")]


@rank.command
def train(
    model: str,
    pairs: str,
    /,
    *,
    output: Annotated[flags.Output, Parameter(help="folder for the ranker")],
    validation: Annotated[str | None, Parameter(help="table of held-out pairs, with the same columns; default: some of PAIRS")] = None,
    columns: _Columns = None,
    negatives_column: _Negatives = None,
    label: _Label = None,
    settings: Annotated[Path | None, Parameter(help="TOML file of the settings below; flags win")] = None,
    overwrite: flags.OverwriteRun = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    config: Annotated[_Flags, Parameter(name="*")] = _NONE_GIVEN,  # pyright: ignore[reportInvalidTypeForm]
) -> None:
    """Train a ranker on contexts and their correct answers, starting from any encoder.

    tain rank train tain-mini pairs.tsv -o ranker --type poly --codes 64

    Parameters
    ----------
    model
        the encoder to start from: a folder, a hub name, or tain-mini (built in)
    pairs
        csv, tsv (with a line of column names), jsonl or parquet with a context and a correct answer per row; a context may have several rows
    """
    settled = build_config(RankConfig, config, file=settings)
    from tain.foundation.files import refuse_existing
    from tain.foundation.progress import Progress
    from tain.models.saved import locate

    inputs = [model, pairs, validation, settled.mine_with, settled.teacher, settings]
    refuse_existing(output, overwrite=overwrite, inputs=inputs)
    for name in filter(None, (model, settled.mine_with, settled.teacher)):
        locate(name)
    given = _examples(pairs, columns, negatives_column, label)
    held = _examples(validation, columns, negatives_column, label) if validation is not None else []
    progress = Progress.for_terminal(json=json, quiet=quiet)
    from tain.recipes.rank.recipe import rank as run
    from tain.training import distributed

    with distributed.ending_processes():
        result = run(model, given, output, validation=held, config=settled, overwrite=overwrite, progress=progress)
        if distributed.rank() == 0:
            _show_trained(result, as_json=json)


@rank.command
def score(
    model: str,
    pairs: str,
    /,
    *,
    columns: _Columns = None,
    output: Annotated[flags.OptionalOutput, Parameter(help="write context, answer and score to this tsv; default: print")] = None,
    device: flags.Device = None,
    dtype: flags.ComputeDtype = "auto",
    backend: flags.Backend = "auto",
    trust_remote_code: flags.TrustRemoteCode = False,
    overwrite: flags.Overwrite = False,
    json: Annotated[flags.Json, Parameter(help="one JSON object per line instead of tab-separated lines")] = False,
    quiet: flags.Quiet = False,
) -> None:
    """Score every pair of a table, one line per row. Only scores of the same context are comparable.

    tain rank score ranker pairs.tsv

    Parameters
    ----------
    model
        a ranker, or any encoder, used as a bi-encoder
    pairs
        csv, tsv, jsonl or parquet with a context and an answer per row
    """
    from tain.foundation.files import refuse_existing, whole_file
    from tain.foundation.progress import Progress
    from tain.models.saved import locate

    if output is not None:
        refuse_existing(output, overwrite=overwrite, inputs=[model, pairs])
    locate(model)
    from tain.loading import load_ranker
    from tain.models.unknown_tokens import check_known
    from tain.text.ranking_pairs import read_ranking_pairs

    rows = read_ranking_pairs(pairs, columns=columns)
    progress = Progress.for_terminal(quiet=quiet)
    ranker = load_ranker(model, backend=backend, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    answers: dict[str, dict[str, None]] = {}
    for context, answer in rows:
        answers.setdefault(context, {})[answer] = None
    check_known(ranker, [*answers, *(answer for _, answer in rows)], progress=progress)
    scores = ranker.score_lists(list(answers), [list(listed) for listed in answers.values()], progress=progress)
    _tell_truncated(ranker, progress)
    score_of = {
        context: dict(zip(listed, found.tolist(), strict=True)) for (context, listed), found in zip(answers.items(), scores, strict=True)
    }
    lines = [_line({"context": context, "answer": answer, "score": score_of[context][answer]}, as_json=json) for context, answer in rows]
    if not json:
        lines.insert(0, "context\tanswer\tscore")
    if output is None:
        print("\n".join(lines))
        return
    with whole_file(output, overwrite=overwrite) as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@rank.command
def search(
    model: str,
    contexts: TextSource,
    /,
    *,
    index: Annotated[Path, Parameter(help="folder of the candidates' vectors; built from --candidates if it does not exist")],
    candidates: Annotated[str | None, Parameter(help="texts to search; must be those that the index was built from")] = None,
    update: Annotated[bool, Parameter(help="sync the index with --candidates: add new texts, delete missing ones", negative=())] = False,
    delete: Annotated[str | None, Parameter(help="texts to delete from the index before searching")] = None,
    k: Annotated[int, Parameter(name=["--k", "-k"], help="hits per context")] = 10,
    probes: Annotated[
        int | None,
        Parameter(
            help="approximate search with FAISS, in this many of its lists, for millions of candidates; default: score every candidate"
        ),
    ] = None,
    hybrid: Annotated[bool, Parameter(help="also search by words (BM25), and join both; needs bm25s", negative=())] = False,
    fusion: Annotated[
        Fusion | None,
        Parameter(
            help="how --hybrid joins: scores adds standard scores; weighted likewise, with a weight found on the indexed texts without labels"
            " (for texts of several sentences); ranks adds reciprocal ranks, which often lose to the better side [scores]"
        ),
    ] = None,
    where: Annotated[
        str | None,
        Parameter(
            name="--filter",
            help="search only candidates whose metadata match, such as 'year>=2020 and lang in (en, de)'; all of them are scored, so that"
            " nothing is missed, and --probes has no effect",
        ),
    ] = None,
    shards: Annotated[
        int | None, Parameter(help="split the index into this many parts, each an index of a share of the candidates; default: as it is")
    ] = None,
    ray: Annotated[bool, Parameter(help="build and search the parts of a split index with Ray", negative=())] = False,
    workers: Annotated[int | None, Parameter(help="processes for --ray; default: one per GPU, else one per processor core")] = None,
    address: Annotated[str | None, Parameter(help="address of a Ray cluster; default: one in this machine")] = None,
    rerank: Annotated[str | None, Parameter(help="a second ranker, usually a cross-encoder, that reranks the best --depth hits")] = None,
    depth: Annotated[int | None, Parameter(help="hits that --rerank scores; more is better and slower [100]")] = None,
    column: Annotated[str | None, Parameter(help="column of the contexts, if they are a table")] = None,
    candidate_column: Annotated[str | None, Parameter(help="column of the candidates, if they are a table")] = None,
    output: Annotated[flags.OptionalOutput, Parameter(help="write one JSON object per context to this file")] = None,
    device: flags.Device = None,
    dtype: flags.ComputeDtype = "auto",
    backend: flags.Backend = "auto",
    trust_remote_code: flags.TrustRemoteCode = False,
    overwrite: flags.Overwrite = False,
    json: Annotated[flags.Json, Parameter(help="one JSON object per context instead of readable text")] = False,
    quiet: flags.Quiet = False,
) -> None:
    """Search for the best candidates of each context. Candidates are encoded once; search is exact unless --probes is given.

    tain rank search ranker questions.txt --index answers.index --candidates answers.txt

    Parameters
    ----------
    model
        a bi- or poly-encoder, or any encoder
    """
    from tain.foundation.files import refuse_existing, whole_file
    from tain.foundation.progress import Progress
    from tain.models.saved import locate

    if candidate_column is not None and candidates is None and delete is None:
        raise UserError(
            f"candidate_column is {candidate_column!r}, a column of --candidates or --delete, but neither is given: give one, or leave it out"
        )
    _refuse_search(
        k=k, depth=depth, probes=probes, rerank=rerank, update=update, candidates=candidates, fusion=fusion, hybrid=hybrid, where=where
    )
    from tain.ranking.filters import parse_filter

    wanted = None if where is None else parse_filter(where)
    if output is not None:
        inputs = [model, rerank, contexts, candidates, delete, *index.glob("*")]
        refuse_existing(output, overwrite=overwrite, inputs=inputs)
    for name in filter(None, (model, rerank)):
        locate(name)
    from tain.text.readers import read_texts

    split = None
    if ray or shards is not None or workers is not None or address is not None or _is_split(index):
        _refuse_split(update=update, delete=delete, hybrid=hybrid, where=where, ray=ray, only_ray=[workers, address])
        from tain.scale.split_search import SplitIndex

        split = SplitIndex.at(index, count=shards, source=candidates, column=candidate_column)
    elif candidates is None:
        from tain.ranking.index import CandidateIndex

        CandidateIndex.open(index)  # a missing or damaged one is refused before the model is loaded
    asked = list(read_texts(contexts, column=column))
    pool = list(read_texts(candidates, column=candidate_column)) if candidates is not None and split is None else None
    unwanted = list(read_texts(delete, column=candidate_column)) if delete is not None else []
    progress = Progress.for_terminal(quiet=quiet)
    from tain.loading import load_ranker
    from tain.models.unknown_tokens import check_known
    from tain.ranking import rerank as ranking
    from tain.ranking.approximate import refuse_missing_faiss
    from tain.ranking.bm25 import refuse_missing_bm25
    from tain.ranking.hybrid import hybrid_search

    if probes is not None:
        refuse_missing_faiss()
    if hybrid:
        refuse_missing_bm25()
    load = partial(load_ranker, backend=backend, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    second = None if rerank is None else load(rerank)
    most = max(k, depth or _DEPTH) if rerank else k
    if split is not None:
        cluster = {"workers": workers, "address": address} if ray else None
        hits = _search_parts(partial(_load_searchable, load, model), split, asked, cluster, k=most, probes=probes, progress=progress)
    else:
        ranker = _searchable(load(model))
        for each in filter(None, (ranker, second)):
            check_known(each, [*asked, *(pool or [])], progress=progress)
        found = _index(ranker, index, pool, str(candidates), unwanted, update=update, progress=progress)
        if wanted is not None:
            _tell_filter(found, wanted, probes=probes, progress=progress)
        look_up = partial(hybrid_search, fusion=fusion or "scores") if hybrid else ranking.search
        hits = look_up(ranker, found, asked, k=most, probes=probes, filter=wanted, progress=progress)
        _tell_truncated(ranker, progress)
    if second is not None:
        hits = ranking.rerank(second, asked, hits, k=k, progress=progress)
        _tell_truncated(second, progress)
    if output is not None:
        with whole_file(output, overwrite=overwrite) as path:
            path.write_text("".join(_hits_line(*each) + "\n" for each in zip(asked, hits, strict=True)), encoding="utf-8")
    elif json:
        print("\n".join(_hits_line(*each) for each in zip(asked, hits, strict=True)))
    else:
        _show_hits(asked, hits)


@rank.command
def index(
    folder: Path,
    /,
    *,
    model: Annotated[
        str | None, Parameter(help="the bi- or poly-encoder, or any encoder, that makes the vectors; needed with --candidates")
    ] = None,
    candidates: Annotated[
        str | None,
        Parameter(help="texts to add; those whose id (or text, without ids) the index holds are replaced, unchanged ones are skipped"),
    ] = None,
    column: Annotated[str | None, Parameter(help="column of the texts, if they are a table")] = None,
    id_column: Annotated[
        str | None, Parameter(help="column that identifies each candidate: texts or whole numbers; default: its text does")
    ] = None,
    keep: Annotated[
        list[str] | None,
        Parameter(help="columns to store as metadata, for filters", negative=(), consume_multiple=True),
    ] = None,
    metadata_column: Annotated[str | None, Parameter(help="column with an object of further metadata, in jsonl and parquet")] = None,
    delete_missing: Annotated[bool, Parameter(help="also delete all candidates that --candidates does not hold", negative=())] = False,
    delete_ids: Annotated[str | None, Parameter(help="delete the candidates with these ids, one a line")] = None,
    delete_where: Annotated[
        str | None, Parameter(help="delete the candidates whose metadata match this filter, such as 'year<2020'")
    ] = None,
    compact: Annotated[
        bool,
        Parameter(help="rewrite the files without the rows of deleted and replaced candidates, which they keep otherwise", negative=()),
    ] = False,
    from_faiss: Annotated[
        Path | None,
        Parameter(
            help="take the vectors of --candidates, in their order, from this flat FAISS index instead of encoding; those in an IndexIDMap are"
            " found by their id"
        ),
    ] = None,
    to_faiss: Annotated[
        Path | None, Parameter(help="write the vectors as a FAISS IndexFlatIP, and text, id and metadata of each as FILE.jsonl")
    ] = None,
    device: flags.Device = None,
    dtype: flags.ComputeDtype = "auto",
    backend: flags.Backend = "auto",
    trust_remote_code: flags.TrustRemoteCode = False,
    overwrite: Annotated[flags.Overwrite, Parameter(help="replace the files of --to-faiss if they exist")] = False,
    json: Annotated[flags.Json, Parameter(help="the counts as a JSON object")] = False,
    quiet: flags.Quiet = False,
) -> None:
    """Make or change an index of candidates with ids and metadata, which rank search --filter can choose by.

    tain rank index answers.index --model tain-mini --candidates answers.jsonl --id-column id --keep year lang

    Filters compare metadata: year>=2020 and (lang=en or lang in (de, fr)) and not exists draft. An interrupted command continues when it
    is run again.

    Parameters
    ----------
    folder
        folder of the index; made if it does not exist
    """
    from tain.foundation.progress import Progress
    from tain.ranking.filters import parse_filter
    from tain.ranking.index import CandidateIndex

    _refuse_index(
        model=model,
        candidates=candidates,
        from_faiss=from_faiss,
        delete_missing=delete_missing,
        columns={"--column": column, "--id-column": id_column, "--keep": keep, "--metadata-column": metadata_column},
        changes=[delete_ids, delete_where, to_faiss, compact or None],
    )
    progress = Progress.for_terminal(quiet=quiet)
    wanted = None if delete_where is None else parse_filter(delete_where)
    beside = None if to_faiss is None else to_faiss.with_name(f"{to_faiss.name}.jsonl")
    if to_faiss is not None and beside is not None:
        from tain.foundation.files import refuse_files

        if to_faiss.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"to_faiss is {str(to_faiss)!r}, which is in the folder of the index: give a path outside it")
        refuse_files(to_faiss, beside, overwrite=overwrite, inputs=[model, candidates, from_faiss, delete_ids])
    from tain.text.readers import read_texts

    unwanted = None if delete_ids is None else list(read_texts(delete_ids))
    counts = {"added": 0, "replaced": 0, "unchanged": 0, "deleted": 0}
    if candidates is None:
        found = CandidateIndex.open(folder)
    else:
        from tain.foundation.files import refuse_existing
        from tain.models.saved import locate
        from tain.ranking.index import refuse_unstorable
        from tain.text.candidates import read_candidates

        assert model is not None
        locate(model)
        columns = {"column": column, "id_column": id_column, "keep": keep or (), "metadata_column": metadata_column}
        given = list(read_candidates(candidates, **columns))
        refuse_unstorable(given)
        found = CandidateIndex.open(folder) if folder.exists() else None
        if found is None:
            refuse_existing(folder, overwrite=False)
        vectors = None if from_faiss is None else _faiss_vectors(from_faiss, given)
        from tain.loading import load_ranker
        from tain.models.unknown_tokens import check_known
        from tain.ranking.rerank import upsert_candidates

        ranker = _searchable(load_ranker(model, backend=backend, device=device, dtype=dtype, trust_remote_code=trust_remote_code))
        if vectors is None:
            check_known(ranker, [each.text for each in given], progress=progress)
        else:
            _refuse_other_vectors(ranker, given, vectors, from_faiss)
        if found is None:
            found = CandidateIndex.create(folder, dim=ranker.dim, fingerprint=ranker.fingerprint, model=ranker.name, has_metadata=True)
        done = upsert_candidates(ranker, found, given, name=candidates, vectors=vectors, delete_missing=delete_missing, progress=progress)
        _tell_truncated(ranker, progress)
        counts = done._asdict()
    if unwanted is not None:
        counts["deleted"] += found.delete_ids(unwanted)
    if wanted is not None:
        counts["deleted"] += found.delete_matching(wanted)
    if compact:
        counts["removed rows"] = found.compact()
    counts["candidates"] = found.live
    if to_faiss is not None and beside is not None:
        _write_faiss(found, to_faiss, beside, overwrite=overwrite)
    if json:
        print(as_object({"folder": str(folder), **counts}))
    else:
        print(f"index {folder}: " + ", ".join(f"{number:,} {name}" for name, number in counts.items()))


@rank.command
def evaluate(
    models: list[str],
    /,
    *,
    pairs: Annotated[
        str, Parameter(help="csv, tsv (with a line of column names), jsonl or parquet with a context and a correct answer per row")
    ],
    candidates: Annotated[
        int | None,
        Parameter(help="candidates per context: the correct answer and others sampled from all correct answers; default: 20"),
    ] = None,
    pool: Annotated[bool, Parameter(help="instead rank all answers and listed negatives in PAIRS for every context", negative=())] = False,
    listed: Annotated[bool, Parameter(help="instead rank each context's own answers and negatives", negative=())] = False,
    columns: _Columns = None,
    negatives_column: _Negatives = None,
    label: _Label = None,
    latency: Annotated[
        tuple[int, ...], Parameter(help="number of candidates to time a query with; repeat it for several", negative=(), show_default=False)
    ] = (1_000, 100_000),
    no_latency: Annotated[bool, Parameter(help="skip the timing", negative=())] = False,
    output: flags.FiguresOutput = None,
    resamples: Annotated[int, Parameter(help="bootstrap resamples behind each interval; below 200 its ends are rough")] = 1000,
    seed: Annotated[int, Parameter(validator=Number(gte=0), help="seed of sampled candidates and resamples")] = 13,
    device: flags.Device = None,
    dtype: flags.Dtype = "auto",
    trust_remote_code: flags.TrustRemoteCode = False,
    overwrite: flags.Overwrite = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Compare rankers on the same candidates: R@k, MRR, and time per query on this machine.

    tain rank evaluate tain-mini ranker --pairs test.tsv --candidates 20

    A tie counts as the mean over all orders of the tied candidates. Intervals are 95% bootstrap intervals over queries (one query per correct answer). Differences are to the first ranker.

    Parameters
    ----------
    models
        rankers, or any encoders, used as bi-encoders; three baselines need no training, and a ranker should beat them: lexical (TF-IDF
        over the candidates), characters (TF-IDF of character n-grams over the candidates) and static:MODEL (the mean of MODEL's input
        embeddings, whitened on the candidates)
    """
    from tain.cli.models import find_baseline, model_names
    from tain.foundation.choices import is_baseline
    from tain.foundation.files import refuse_existing
    from tain.foundation.progress import Progress
    from tain.models.saved import locate

    chosen = [name for name, on in (("--candidates", candidates is not None), ("--pool", pool), ("--listed", listed)) if on]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)} are given, but only one can choose the candidates: give one of them")
    for what, value in (("resamples", resamples), *(("latency", size) for size in latency)):
        if value < 1:
            raise UserError(f"{what} is {value}: give 1 or more")
    if output is not None:
        refuse_existing(output, overwrite=overwrite, inputs=[*model_names(*models), pairs])
    for name in models:
        (find_baseline if is_baseline(name) else locate)(name)
    examples = _examples(pairs, columns, negatives_column, label)
    progress = Progress.for_terminal(json=json, quiet=quiet)
    from tain.ranking.evaluation import evaluate_rankers

    lists = _lists(examples, candidates, pool=pool, listed=listed, seed=seed)
    report = evaluate_rankers(
        (_load_any(name, device=device, dtype=dtype, trust_remote_code=trust_remote_code) for name in models),
        lists,
        sizes=() if no_latency else tuple(dict.fromkeys(latency)),
        resamples=resamples,
        seed=seed,
        progress=progress,
    )
    if output is not None:
        write_object(report.to_dict(), output, overwrite=overwrite)
    if json:
        print(as_object(report.to_dict()))
    else:
        _show_report(report)


# ---- reading


def _examples(source: str, columns: tuple[str, str] | None, negatives: str | None, label: str | None) -> "list[RankingExample]":
    from tain.text.ranking_pairs import read_ranking_examples

    return read_ranking_examples(source, columns=columns, negatives=negatives, label=label)


def _lists(examples: "list[RankingExample]", candidates: int | None, *, pool: bool, listed: bool, seed: int) -> "CandidateLists":
    import numpy as np

    from tain.ranking.evaluation import given_lists, sampled_lists, whole_pool

    if pool:
        return whole_pool(examples)
    if listed:
        return given_lists(examples)
    return sampled_lists(examples, size=20 if candidates is None else candidates, rng=np.random.default_rng([seed, 6]))


def _refuse_search(
    *,
    k: int,
    depth: int | None,
    probes: int | None,
    rerank: str | None,
    update: bool,
    candidates: str | None,
    fusion: str | None,
    hybrid: bool,
    where: str | None,
) -> None:
    from tain.foundation.errors import refuse_all

    given = (("k", k), ("depth", depth), ("probes", probes))
    problems = [f"{name} is {value}: give 1 or more" for name, value in given if value is not None and value < 1]
    if rerank is None and depth is not None:
        problems.append(f"depth is {depth}, which only applies to a second ranker: give --rerank, or leave it out")
    if rerank is not None and 1 <= (depth or _DEPTH) < k:
        depth = depth or _DEPTH
        problems.append(f"depth is {depth}, fewer than the {k} hits to return: give --depth {10 * k}")
    if update and candidates is None:
        problems.append("--update syncs an index with candidates, but none are given: give --candidates FILE")
    if fusion is not None and not hybrid:
        problems.append(f"fusion is {fusion!r}, which joins words and vectors: give --hybrid, or leave it out")
    if where is not None and candidates is not None:
        problems.append("--filter compares metadata, which the texts of --candidates do not have: make the index with tain rank index")
    refuse_all(problems)


def _refuse_index(
    *,
    model: str | None,
    candidates: str | None,
    from_faiss: Path | None,
    delete_missing: bool,
    columns: dict[str, object],
    changes: list[object],
) -> None:
    from tain.foundation.errors import refuse_all

    problems = []
    if candidates is None:
        given = (("--model", model), ("--from-faiss", from_faiss), ("--delete-missing", delete_missing or None), *columns.items())
        problems += [f"{name} concerns candidates to add, but none are given: give --candidates FILE" for name, value in given if value]
    elif model is None:
        problems.append("--candidates are given without a model: give --model, the one that made the index")
    if candidates is None and not any(change is not None for change in changes):
        problems.append("nothing is asked for: give --candidates, --delete-ids, --delete-where, --compact or --to-faiss")
    refuse_all(problems)


def _faiss_vectors(path: Path, given: "list[Candidate]") -> Any:
    """Vectors of candidates from a FAISS file: by place, or by the ids of an IndexIDMap."""
    from tain.ranking.faiss_files import read_flat

    found = read_flat(path)
    if found.ids is None:
        if len(found.vectors) != len(given):
            raise UserError(
                f"FAISS file {str(path)!r} has {len(found.vectors):,} vectors for {len(given):,} candidates: give one text per vector, in their order"
            )
        return found.vectors
    place_of = {str(number): place for place, number in enumerate(found.ids.tolist())}
    missing = [each.identity for each in given if each.identity not in place_of]
    if missing:
        raise UserError(
            f"FAISS file {str(path)!r} has its own ids, and none is {missing[0]!r:.60}: name the column of the candidates' ids with --id-column"
        )
    return found.vectors[[place_of[each.identity] for each in given]]


def _refuse_other_vectors(ranker: "DualRanker | ExportedDual", given: "list[Candidate]", vectors: Any, path: Path | None) -> None:
    """Refuse vectors that the model does not give for the first and some other texts."""
    import numpy as np

    if vectors.shape[1] != ranker.dim:
        raise UserError(
            f"FAISS file {str(path)!r} has vectors of {vectors.shape[1]} numbers, but those of {ranker.name!r} have {ranker.dim}"
        )
    places = np.unique(np.linspace(0, len(given) - 1, _SAMPLED_VECTORS).astype(int))
    wanted = np.asarray(ranker.encode_candidates([given[place].text for place in places]))
    apart = np.linalg.norm(vectors[places] - wanted, axis=1) / np.maximum(np.linalg.norm(wanted, axis=1), 1e-12)
    if not (apart <= _MODEL_TOLERANCE).all():
        place = int(places[int(np.argmax(~(apart <= _MODEL_TOLERANCE)))])
        raise UserError(
            f"FAISS file {str(path)!r}: vector {place} is not the one that {ranker.name!r} gives for text {given[place].text!r:.60}: "
            "give the model that made the file, and its texts in their order"
        )


def _write_faiss(index: "CandidateIndex", path: Path, beside: Path, *, overwrite: bool) -> None:
    import json

    from tain.foundation.files import whole_file
    from tain.ranking.faiss_files import write_flat

    with whole_file(beside, overwrite=overwrite) as partial:
        rows = write_flat(index, path, overwrite=overwrite)
        with partial.open("w", encoding="utf-8") as file:
            for row in rows.tolist():
                each = index.candidate(row)
                line = {"text": each.text} | ({"id": each.identity, "metadata": each.metadata} if index.has_metadata else {})
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _tell_filter(index: "CandidateIndex", chosen: "Filter", *, probes: int | None, progress: "Progress") -> None:
    """Say what a filter leaves to search."""
    matches = int(index.matching(chosen).sum())
    if not matches:
        fields = ", ".join(map(repr, index.fields()[:_SHOWN_FIELDS])) or "none"
        progress.warn(f"no candidate of index {index.folder} matches the filter (fields of its candidates: {fields})")
        return
    exact = "; all of them are scored, without --probes" if probes is not None else ""
    progress.note(f"{matches:,} of {index.live:,} candidates match the filter{exact}")


def _load_any(name: str, **options: Any) -> "Ranker | BaselineRanker":
    """Load a ranker, or build a baseline, which ignores the options."""
    from tain.foundation.choices import is_baseline
    from tain.loading import load_ranker

    if not is_baseline(name):
        return cast("Ranker", load_ranker(name, backend="torch", **options))
    from tain.cli.models import load_baseline
    from tain.evaluation.baselines import BaselineRanker

    return BaselineRanker(load_baseline(name, weighting="tf-idf", trust_remote_code=options["trust_remote_code"]))


def _searchable(ranker: "Ranker | ExportedDual | ExportedCross") -> "DualRanker | ExportedDual":
    if (found := ranker.searchable) is None:
        raise UserError(
            f"model {ranker.name!r} is a cross-encoder, which has no vectors to search: give a bi- or poly-encoder, and this one as --rerank"
        )
    return found


def _load_searchable(load: "Callable[[str], Any]", name: str) -> "DualRanker | ExportedDual":
    return _searchable(load(name))


def _is_split(folder: Path) -> bool:
    from tain.scale.split_search import parts_in

    return bool(parts_in(folder))


def _refuse_split(*, update: bool, delete: str | None, hybrid: bool, where: str | None, ray: bool, only_ray: list[Any]) -> None:
    """Refuse what a split index does not support.

    Raises:
        UserError: An option is given that changes an index, searches words or filters, or one of ``--ray`` without it.
    """
    if not ray and any(value is not None for value in only_ray):
        raise UserError("--workers and --address are for --ray: give --ray, or leave them out")
    given = {"--update": update, "--delete": delete is not None, "--hybrid": hybrid, "--filter": where is not None}
    if idle := [name for name, is_given in given.items() if is_given]:
        raise UserError(f"{' and '.join(idle)} does not apply to an index that is split: leave it out, or use one that is not")


def _search_parts(
    load: "Callable[[], DualRanker | ExportedDual]",
    split: "SplitIndex",
    contexts: list[str],
    cluster: dict[str, Any] | None,
    *,
    k: int,
    probes: int | None,
    progress: "Progress",
) -> "list[list[Hit]]":
    """Search every part of a split index, with Ray or one after the other, and join the hits."""
    from tain.models.unknown_tokens import check_known
    from tain.scale.split_search import joined_hits, search_part

    if cluster is not None:
        from tain.scale.ray_run import search_with_ray

        parts = search_with_ray(load, split, contexts, k=k, probes=probes, **cluster, progress=progress)
    else:
        ranker = load()
        check_known(ranker, contexts, progress=progress)
        numbers = range(1, split.count + 1)
        parts = [search_part(ranker, split, number, contexts=contexts, k=k, probes=probes, progress=progress) for number in numbers]
    if not any(part.texts for part in parts):
        raise UserError(f"index {str(split.folder)!r} holds no candidates: give --candidates FILE")
    cut = {
        "contexts": max(part.truncated_contexts for part in parts),
        "candidates": sum(part.truncated_candidates for part in parts),
    }
    for what, count in cut.items():
        if count:
            progress.warn(f"{count:,} {what} are longer than the model's limit and were cut")
    progress.note(f"index {split.folder}: {sum(part.texts for part in parts):,} candidates in {split.count:,} parts")
    return joined_hits(parts, k=k)


def _index(
    ranker: "DualRanker | ExportedDual",
    folder: Path,
    pool: list[str] | None,
    source: str,
    unwanted: list[str],
    *,
    update: bool,
    progress: "Progress",
) -> "CandidateIndex":
    """Open the index or build it from the candidates; refuse one of another model or other candidates."""
    from tain.ranking.index import CandidateIndex, digest_of
    from tain.ranking.rerank import sync_index

    if pool is not None and not folder.exists():
        index = CandidateIndex.create(folder, dim=ranker.dim, fingerprint=ranker.fingerprint, model=ranker.name)
    else:
        index = CandidateIndex.open(folder)
        index.refuse_other_model(ranker.fingerprint, ranker.name)
    if pool is not None and index.has_metadata:
        raise UserError(f"index {str(folder)!r} has ids and metadata, which this command would lose: update it with tain rank index")
    if pool is None:
        index.refuse_unfinished()
        if index.source and not index.is_complete:
            progress.warn(
                f"an update of index {folder} to {index.source['name']!r} is running or was interrupted: "
                f"{index.live:,} candidates are searched; {'run tain rank index' if index.has_metadata else 'give --candidates and --update'} to finish it"
            )
    else:
        if len(index) and not update:
            index.refuse_changed_source(name=source, digest=digest_of(pool))
        if update or not index.is_complete:
            added, deleted = sync_index(ranker, index, pool, name=source, progress=progress)
            progress.note(f"index {folder}: {added:,} added, {deleted:,} deleted, {index.live:,} candidates")
    if unwanted:
        progress.note(f"index {folder}: {index.delete_texts(unwanted):,} candidates deleted ({len(unwanted):,} texts were given)")
    return index


# ---- showing


_NO_BREAKS = dict.fromkeys(map(ord, "\t\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"), " ")  # characters that break columns or lines


def _line(values: dict[str, Any], *, as_json: bool) -> str:
    if as_json:
        import json

        return json.dumps(values, ensure_ascii=False)
    return "\t".join(f"{value:.9g}" if isinstance(value, float) else str(value).translate(_NO_BREAKS) for value in values.values())


def _hits_line(context: str, hits: "list[Hit]") -> str:
    import json

    return json.dumps({"context": context, "hits": [hit.to_dict() for hit in hits]}, ensure_ascii=False)


def _show_hits(contexts: list[str], hits: "list[list[Hit]]") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for context, found in zip(contexts, hits, strict=True):
        console.print(context, markup=False, style="bold", soft_wrap=True)
        for rank, hit in enumerate(found, start=1):
            known = "" if hit.id is None else f"{hit.id}  "
            console.print(f"{rank:>4}  {hit.score:>9.4f}  {known}{hit.text}", markup=False, soft_wrap=True)


def _tell_truncated(ranker: "Ranker | ExportedDual | ExportedCross", progress: "Progress") -> None:
    for what, cut in (("contexts", ranker.truncated_contexts), ("candidates", ranker.truncated_candidates)):
        if cut:
            progress.warn(f"{cut:,} {what} are longer than the limit of model {ranker.name!r} and were cut")


def _show_trained(result: "Ranked", *, as_json: bool) -> None:
    """Print the table of before and after, or everything as one JSON object."""
    from tain.recipes.rank.model_card import chosen_on_the_same, figure_rows

    run = result.runs[result.best]
    if as_json:
        import json

        everything: dict[str, Any] = {
            "folder": str(result.folder),
            "type": result.ranker.type,
            "before": result.before,
            "after": result.after,
        }
        everything |= {
            "worse": result.worse,
            "measured_on": result.measured_on,
            "chosen_on_the_same": result.after is not None,
            "steps": run.steps,
            "seconds": run.seconds,
            "counts": result.counts,
        }
        everything |= {"seeds": [{"seed": each.seed, "after": each.after} for each in result.runs], "best_seed": run.seed}
        print(json.dumps(everything, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    rows = figure_rows(result.before, result.after)
    if rows:
        table = Table(title=f"{result.measured_on}; x 100, ties by expectation", title_justify="left")
        for title in ("figure", "untrained", "trained"):
            table.add_column(title, justify="left" if title == "figure" else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        console.print(chosen_on_the_same(schedule=result.config.schedule, seeds=len(result.runs)), markup=False, soft_wrap=True)
    if len(result.runs) > 1:
        for each in result.runs:
            figures = ", ".join(f"{name} {value:.1f}" for name, value in (each.after or {}).items())
            console.print(f"seed {each.seed}: {figures}{' (kept)' if each is run else ''}")
    counts = result.counts
    console.print(
        f"{counts['pairs']:,} pairs of {counts['contexts']:,} contexts and {counts['candidates']:,} candidates in {run.steps} steps, "
        f"{run.seconds:.1f} s; {counts['held_out']:,} contexts held out, {counts['truncated']:,} texts cut",
        soft_wrap=True,
    )
    if result.folder is not None:
        console.print(f"saved in {result.folder}", markup=False, soft_wrap=True)


_NAMES_WIDTH, _FIGURES_WIDTH = 11, 20  # columns of the table, in characters


def _show_report(report: "RankingReport") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    first = report.rankers[0]
    console.print(f"{report.queries:,} queries, candidates: {report.kind}", markup=False, style="italic")
    at_once = max(1, (console.width - _NAMES_WIDTH) // _FIGURES_WIDTH)  # rankers that do not fit go into tables below
    for start in range(0, len(report.rankers), at_once):
        shown = report.rankers[start : start + at_once]
        table = Table(box=None, pad_edge=False)
        table.add_column("", no_wrap=True)
        for ranker in shown:
            kind = f"{ranker.type}-{ranker.vectors}" if ranker.vectors > 1 else ranker.type
            table.add_column(f"{escape(ranker.name)}\n{kind}", overflow="fold")
        for name in first.figures:
            table.add_row(f"{name} ↑", *(_figure_cell(ranker.figures[name]) for ranker in shown))
        for number, time in enumerate(first.latencies):
            times = [ranker.latencies[number] for ranker in shown]
            cells = [f"{each.ms:,.1f}{'*' if each.is_extrapolated else ''}" for each in times]
            table.add_row(f"ms, {_short(time.candidates)} ↓", *cells)
        console.print(table)
    against = f"; below, the difference to {first.name}" if len(report.rankers) > 1 else ""
    console.print(f"x 100, with 95% bootstrap intervals ({report.resamples} resamples) in brackets{against}.", markup=False, soft_wrap=True)
    if first.latencies:
        console.print("ms: time per query, from text to the scores of that many cached candidates, on this machine.")
    if any(time.is_extrapolated for ranker in report.rankers for time in ranker.latencies):
        console.print("*: extrapolated from fewer candidates; a cross-encoder must read every pair.")
    for ranker in report.rankers:
        if ranker.truncated:
            console.print(f"{ranker.name}: {ranker.truncated:,} texts were cut at its length limits.", markup=False, soft_wrap=True)


def _figure_cell(figure: "Figure") -> str:
    """The figure and its interval; below, the difference to the first ranker."""
    cell = f"{figure.value:.1f} \\[{figure.interval.low:.1f} {figure.interval.high:.1f}]"
    if figure.difference is None or figure.difference_interval is None:
        return cell
    interval = figure.difference_interval
    return f"{cell}\n{figure.difference:+.1f} \\[{interval.low:.1f} {interval.high:.1f}]"


def _short(count: int) -> str:
    return f"{count // 1000}k" if count % 1000 == 0 else f"{count:,}"
