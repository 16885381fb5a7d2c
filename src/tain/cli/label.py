"""``tain label``: predict classes or token tags of texts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tain.cli import flags
from tain.cli.settings import refuse_idle
from tain.cli.sources import TextSource
from tain.foundation.errors import UserError

if TYPE_CHECKING:
    from tain.foundation.progress import Progress


def label(
    model: str | None = None,
    texts: TextSource | None = None,
    /,
    *,
    output: Annotated[
        flags.OptionalOutput,
        Parameter(help="JSON lines file for the labels, default: standard output; with --shard or --ray a folder"),
    ] = None,
    column: Annotated[str | None, Parameter(help="column of the texts, if TEXTS is a table")] = None,
    shard: Annotated[
        str | None, Parameter(help="label one share of the texts, such as 3/64, into a folder; finished shards are kept")
    ] = None,
    ray: Annotated[bool, Parameter(help="label all shards with Ray, into a folder; finished shards are kept", negative=())] = False,
    shards: Annotated[int | None, Parameter(help="number of shards for --ray; default: 64")] = None,
    workers: Annotated[int | None, Parameter(help="processes for --ray; default: one per GPU, else one per processor core")] = None,
    address: Annotated[str | None, Parameter(help="address of a Ray cluster; default: one in this machine")] = None,
    merge: Annotated[Path | None, Parameter(help="join the shards of this folder into one file; takes no MODEL and TEXTS")] = None,
    device: flags.Device = None,
    trust_remote_code: flags.TrustRemoteCode = False,
    overwrite: flags.Overwrite = False,
    quiet: flags.Quiet = False,
) -> None:
    """Predict the class, the token tags or both of each text: one JSON object per line, with text, label, chance (its probability) and tags.

    tain label student texts.txt -o labels.jsonl

    Parameters
    ----------
    model
        a student of --task classify or tag (no torch needed), a transformers classifier or tagger, or both: intents=MODEL,slots=MODEL
    """
    from tain.cli.encode_shards import refuse_mixed
    from tain.cli.models import find_labeller, load_labeller, model_names
    from tain.foundation.files import refuse_existing, whole_file
    from tain.foundation.progress import Progress
    from tain.models.label_lines import LabelLines
    from tain.text.readers import read_texts

    refuse_mixed(model, texts, verb="label", shard=shard, ray=ray, merge=merge, resume=False, only_ray=[shards, workers, address])
    progress = Progress.for_terminal(json=False, quiet=quiet)
    if (shard is not None or ray or merge is not None) and output is None:
        raise UserError("shards and joined labels go into files: give -o")
    if merge is not None:
        refuse_idle({"column": column}, of="--merge", instead=", or give it where the shards are made")
        from tain.scale.label_shards import merge_labels

        assert output is not None
        count = merge_labels(merge, output, overwrite=overwrite, progress=progress)
        print(f"labels of {count:,} texts joined, saved in {output}")
        return
    assert model is not None and texts is not None
    if output is not None and shard is None and not ray:
        refuse_existing(output, overwrite=overwrite, inputs=[*model_names(model), texts])
    find_labeller(model)
    loading = {"device": device, "trust_remote_code": trust_remote_code}
    if output is not None and (shard is not None or ray):
        cluster = {"shards": shards, "workers": workers, "address": address}
        _label_shards(model, texts, output, shard, column, loading, cluster, overwrite=overwrite, progress=progress)
        return
    given = read_texts(texts, column=column)
    lines = LabelLines(load_labeller(model, **loading), given, progress=progress)
    if output is None:
        for line in lines:
            print(line)
        _tell_of(lines.truncated, given.blank, progress)
        return
    with whole_file(output, overwrite=overwrite) as path, path.open("w", encoding="utf-8") as file:
        count = sum(1 for line in lines if file.write(f"{line}\n"))
    _tell_of(lines.truncated, given.blank, progress)
    print(f"{count:,} texts labelled, saved in {output}")


def _label_shards(
    model: str,
    texts: str,
    folder: Path,
    shard: str | None,
    column: str | None,
    loading: dict[str, Any],
    cluster: dict[str, Any],
    *,
    overwrite: bool,
    progress: "Progress",
) -> None:
    """Label one share of the texts, or all of them with Ray."""
    from functools import partial

    from tain.cli.encode_shards import SHARDS
    from tain.cli.models import load_labeller
    from tain.scale.label_shards import LabelRun, label_shard
    from tain.text.parts import Share

    number, count = (1, cluster["shards"] or SHARDS) if shard is None else (Share.parse(shard).number, Share.parse(shard).count)
    run = LabelRun(source=texts, folder=folder, count=count, column=column)
    run.refuse(number)
    run.rows(number)  # errors in files are reported before a model is loaded
    if shard is None:
        from tain.scale.ray_run import label_with_ray

        load: Any = partial(load_labeller, model, **loading)
        where = {"workers": cluster["workers"], "address": cluster["address"]}
        made = label_with_ray(load, run, **where, overwrite=overwrite, progress=progress)
    else:
        labeller: Any = load_labeller(model, **loading)
        made = [label_shard(labeller, run, number, overwrite=overwrite, progress=progress)]
    fresh = [each for each in made if not each.skipped]
    _tell_of(sum(each.truncated for each in fresh), sum(each.blank for each in fresh), progress)
    total = sum(each.texts for each in made)
    if shard is not None:
        print(f"shard {shard}{'' if fresh else ' is complete'}: {total:,} texts labelled, saved in {made[0].path}")
        return
    earlier = f" ({count - len(fresh):,} from an earlier run)" if len(fresh) < count else ""
    print(f"{total:,} texts labelled in {count:,} shards{earlier}, saved in {folder}")


def _tell_of(cut: int, blank: int, progress: "Progress") -> None:
    if cut:
        progress.warn(f"{cut:,} texts were cut at the model's length limit; tokens beyond it have the tag O")
    if blank:
        progress.warn(f"{blank:,} blank lines were skipped: line numbers of the result count texts")
