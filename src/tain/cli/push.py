"""``tain push``: upload a model to the hub."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tain.cli import flags


def push(
    folder: Path,
    repo: str,
    /,
    *,
    private: Annotated[bool, Parameter(help="create a private repository", negative=())] = False,
    license: Annotated[
        str | None,
        Parameter(help="licence, as the hub names it: apache-2.0, mit, ...; default: that of the base model, if the hub states one"),
    ] = None,
    language: Annotated[
        tuple[str, ...], Parameter(help="language of the texts: en; repeat for several", negative=(), show_default=False)
    ] = (),
    base_model: Annotated[str | None, Parameter(help="base model's name on the hub; default: the recorded one, if the hub has it")] = None,
    evaluation: Annotated[Path | None, Parameter(help="file that tain evaluate -o wrote; its figures go into the card's results")] = None,
    message: Annotated[str, Parameter(help="message of the commit")] = "Upload with tain",
    json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Upload a model's folder to the hub as one commit, with a complete card.

    tain push encoder ada/sentences-mirrored --private

    The token comes from HF_TOKEN, or from the hub's own login (hf auth login). The card gets the base model, licence, language, tags,
    training data in numbers, the measured figures as results, and code that loads the model. Paths of this machine are shortened.

    Parameters
    ----------
    folder
        a folder that tain wrote
    repo
        user/name on the hub
    """
    from tain.foundation.progress import Progress
    from tain.publishing.push import push as upload

    progress = Progress.for_terminal(json=json, quiet=quiet)
    found = upload(
        folder,
        repo,
        private=private,
        license=license,
        languages=language,
        base_model=base_model,
        evaluation=evaluation,
        message=message,
        progress=progress,
    )
    if json:
        from tain.cli.objects import as_object

        print(as_object({"repo": found.repo, "url": found.url, "commit": found.commit, "files": found.files}))
        return
    print(f"{found.url}: {len(found.files)} files, {sum(found.files.values()) / 1e6:.1f} MB, commit {found.commit[:8]}")
