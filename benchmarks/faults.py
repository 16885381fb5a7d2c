"""SIGKILL at random moments: nothing visible is ever broken, and resumed results equal uninterrupted ones.

Each case runs a command of tain to its end once, for the expected result and its duration. Then the command is killed at random moments
of that duration, up to three times in a row, and run again until it ends. After each kill, every visible file and folder is compared with
the expected one; at the end so is the result, and no hidden file may be left. A run that ends must name the hidden folders that earlier
ones left beside its output, and remove them. A third of the kills come within 30 ms after such a folder appears, while the output is
written. For the candidate index, every append and deletion that was
acknowledged must be there. Children are forked from a process that has imported torch, so that kills hit the work and not the imports.

    python benchmarks/faults.py --quick
    python benchmarks/faults.py --kills 300
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

import numpy as np
import torch

from measuring import Claim, finish

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny_models import randomise, tiny_config  # pyright: ignore[reportMissingImports]

MOST_IN_A_ROW = 3
_HUNTED, _SOON_S = 1 / 3, 0.03  # share of kills that wait for a hidden folder, and the longest time after it appears
WORDS = [
    "river",
    "sand",
    "glass",
    "mirror",
    "fox",
    "dog",
    "bread",
    "star",
    "sea",
    "house",
    "train",
    "letter",
    "sun",
    "moon",
    "tree",
    "stone",
    "road",
    "bird",
    "fish",
    "rain",
    "wind",
    "fire",
    "snow",
    "leaf",
]
EXACT = ["--device", "cpu", "--dtype", "float32"]


@dataclass
class Case:
    """A command whose output may be killed.

    Attributes:
        command: Arguments of tain; ``{out}`` is the output.
        output: Name of the output in the working folder.
        resumes: The command takes ``--resume``.
        keeps: Hidden folders that the command keeps on purpose, and names.
        kills: Signals that were sent.
        hit: Those that found the command running.
        left: Hidden folders of unfinished output that a later run named and removed.
        problems: What was broken, lost or left.
    """

    command: list[str]
    output: str
    resumes: bool = False
    keeps: tuple[str, ...] = ()
    kills: int = 0
    hit: int = 0
    left: int = 0
    problems: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="24 kills, no results file")
    parser.add_argument("--only", help="cases whose name contains this")
    parser.add_argument("--seed", type=int, default=13)
    given = parser.parse_args()
    kills = 24 if given.quick else given.kills
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        cases = {name: case for name, case in all_cases(root).items() if not given.only or given.only in name}
        chance = random.Random(given.seed)
        for number, (label, case) in enumerate([*cases.items(), *([("index", None)] if not given.only or given.only in "index" else [])]):
            several = len(cases) + (not given.only or given.only in "index")
            share = kills * (number + 1) // several - kills * number // several
            began_s = time.monotonic()
            found = kill_index(root / "index", share, chance) if case is None else kill_command(root / label, case, share, chance)
            cases[label] = found
            state = "; ".join(found.problems) or "nothing broken"
            print(
                f"{label}: {found.kills} kills, {found.hit} hit, {found.left} left and removed, {time.monotonic() - began_s:.0f} s: {state}",
                file=sys.stderr,
                flush=True,
            )
    rows = {label: {"kills": case.kills, "hit": case.hit, "left": case.left, "problems": case.problems} for label, case in cases.items()}
    total, hit = sum(case.kills for case in cases.values()), sum(case.hit for case in cases.values())
    broken = sum(len(case.problems) for case in cases.values())
    claim = Claim(
        "kills after which something visible was broken or lost",
        float(broken),
        f"of {total} kills, {hit} in the work",
        0.0,
        (broken, broken),
        0.0,
    )
    finish("faults", [claim], {"cases": rows}, quick=given.quick or bool(given.only))
    sys.exit(1 if broken else 0)


def all_cases(root: Path) -> dict[str, Case]:
    model, texts, long, pairs = root / "model", root / "texts.txt", root / "long.txt", root / "pairs.tsv"
    save_model(model)
    chance = random.Random(5)
    lines = [" ".join(chance.sample(WORDS, 6)) for _ in range(600)]
    texts.write_text("\n".join(dict.fromkeys(lines)) + "\n")
    long.write_text("".join(f"{number} {' '.join(chance.choices(WORDS, k=4))} ".ljust(5_000, "a") + "\n" for number in range(900)))
    pairs.write_text("context\tanswer\n" + "".join(f"{line}\t{' '.join(line.split()[:3])} {n}\n" for n, line in enumerate(lines[:300])))
    often, adamw = ["--checkpoint-every-s", "0"], ["--optimizer", "adamw"]
    small = ["--state", "8", "--layers", "1", "--bottleneck", "8", "--features", "64"]
    encode = ["encode", str(model), str(long), "--compute-dtype", "float32", "--device", "cpu", "-o", "{out}"]
    return {
        "mirror": Case(
            ["mirror", str(model), str(texts), "-o", "{out}", "--batch-texts", "32", "--max-tokens", "30", *often, *EXACT],
            "out",
            resumes=True,
        ),
        "pretrain": Case(
            [
                "pretrain",
                str(model),
                str(texts),
                "-o",
                "{out}",
                "--tokens",
                "20000",
                "--block-tokens",
                "24",
                "--batch-blocks",
                "16",
                *adamw,
                *often,
                *EXACT,
            ],
            "out",
            resumes=True,
            keeps=(".out.pretrain",),
        ),
        "distil": Case(
            ["distil", str(model), str(texts), "-o", "{out}", "--epochs", "4", "--batch-texts", "64", *small, *often, "--device", "cpu"],
            "out",
            resumes=True,
        ),
        "rank train": Case(
            [
                "rank",
                "train",
                str(model),
                str(pairs),
                "-o",
                "{out}",
                "--type",
                "bi",
                "--batch-contexts",
                "16",
                "--epochs",
                "2",
                *often,
                *EXACT,
            ],
            "out",
            resumes=True,
        ),
        "encode npy": Case(encode, "vectors.npy", resumes=True),
        "encode parquet": Case([*encode, "--with-texts"], "vectors.parquet", resumes=True),
        "encode safetensors": Case(encode, "vectors.safetensors", resumes=True),
        "encode shard": Case([*encode, "--shard", "1/2"], "shards"),
        "correct": Case(["correct", str(model), str(texts), "-o", "{out}", "--whiten", "--device", "cpu"], "out"),
        "export": Case(["export", str(model), "-o", "{out}"], "out"),
    }


def save_model(folder: Path) -> None:
    """A random two-layer BERT with a tokenizer of whole words and letters."""
    import string

    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = string.ascii_lowercase + string.digits
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *WORDS]
    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=special
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    torch.manual_seed(1)
    randomise(transformers.AutoModelForMaskedLM.from_config(tiny_config("bert"))).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=40, **names).save_pretrained(folder)


# ---- commands


def kill_command(work: Path, case: Case, kills: int, chance: random.Random) -> Case:
    command, resuming = case.command, case.resumes
    log = work.parent / f"{work.name}.log"

    def arguments(out: Path) -> list[str]:
        return [word.replace("{out}", str(out)) for word in command]

    whole = work / "whole" / case.output
    whole.parent.mkdir(parents=True)
    child(arguments(whole), log)  # the first run of a process warms its caches
    shutil.rmtree(whole.parent)
    whole.parent.mkdir()
    began_s = time.monotonic()
    code = child(arguments(whole), log)
    lasts_s = time.monotonic() - began_s
    if code != 0:
        case.problems.append(f"the uninterrupted run ends with {code}: {log.read_text()[-500:]}")
        return case
    expected = contents(whole)
    while case.kills < kills and not case.problems:
        folder = work / f"run-{case.kills}"
        folder.mkdir()
        out = folder / case.output
        for _ in range(min(chance.randint(1, MOST_IN_A_ROW), kills - case.kills)):
            before = unfinished(folder)
            soon_s = chance.uniform(0, _SOON_S) if chance.random() < _HUNTED else None
            after_s = chance.uniform(0, 1.05 * lasts_s)
            code = child(again(arguments(out), out, resuming), log, after_s=after_s, soon_s=soon_s, beside=folder)
            case.kills += 1
            case.hit += code == -signal.SIGKILL
            check_visible(folder, out, expected, case)
            if code == 0:
                check_named(before, log, case)
                break
            if os.path.lexists(out) and not missing(contents(out), expected):
                break  # killed after the output got its name
            if code != -signal.SIGKILL:
                case.problems.append(f"a run after a kill ends with {code}: {log.read_text()[-500:]}")
                break
        is_done = os.path.lexists(out) and not missing(contents(out), expected)
        if not is_done and not case.problems:
            before = unfinished(folder)
            if (code := child(again(arguments(out), out, resuming), log)) != 0:
                case.problems.append(f"the last run ends with {code}: {log.read_text()[-500:]}")
            check_named(before, log, case)
        check_result(folder, out, expected, case, log, is_done)
        shutil.rmtree(folder)
    return case


def again(arguments: list[str], out: Path, resumes: bool) -> list[str]:
    """The command, resumed where there is something to resume."""
    if not resumes:
        return arguments
    has_state = any(out.parent.glob(f".{out.name}.*/state.json")) or any(out.parent.glob(f".{out.name}.*/checkpoint/state.json"))
    return [*arguments, "--resume"] if has_state else arguments


def child(arguments: list[str], log: Path, *, after_s: float | None = None, soon_s: float | None = None, beside: Path | None = None) -> int:
    """Run tain in a forked process, which may be killed; returns its exit code, or minus the signal.

    Args:
        arguments: Its arguments.
        log: File for what it prints.
        after_s: Kill it after this time; None lets it end.
        soon_s: Kill it this long after a hidden folder of unfinished output appears in ``beside``, whatever ``after_s``, which is then doubled.
        beside: Folder of the output.
    """
    were = set(unfinished(beside)) if beside is not None else set()
    number = forked(arguments, log)
    if after_s is not None:
        deadline_s = time.monotonic() + after_s * (1 if soon_s is None else 2)
        while time.monotonic() < deadline_s:
            done, status = os.waitpid(number, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if soon_s is not None and beside is not None and set(unfinished(beside)) - were:
                deadline_s, soon_s = time.monotonic() + soon_s, None
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def forked(arguments: list[str], log: Path, *, first: Callable[[], object] = lambda: None) -> int:
    """Run tain in a forked process; returns its number.

    Args:
        arguments: Its arguments.
        log: File for what it prints.
        first: Called in the process before tain.
    """
    if number := os.fork():
        return number
    code = 1
    try:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        first()
        from tain.cli import main as command_line

        sys.argv = ["tain", *arguments]
        command_line.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def contents(out: Path) -> dict[str, str]:
    """Digest of every file of an output; records with times are compared without them."""
    if out.is_file():
        return {"": hashlib.sha256(out.read_bytes()).hexdigest()}
    return {
        path.relative_to(out).as_posix(): digest(path)
        for path in sorted(out.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(out).parts)
    }


def digest(path: Path) -> str:
    content = path.read_bytes()
    if path.name in ("tain.json", "README.md", "export.json"):  # they hold times, rates and the output's path
        return "a JSON object" if path.suffix == ".json" and isinstance(json.loads(content), dict) else f"text: {bool(content)}"
    return hashlib.sha256(content).hexdigest()


def missing(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    return [name for name in expected if found.get(name) != expected[name]]


def check_visible(folder: Path, out: Path, expected: dict[str, str], case: Case) -> None:
    """Whatever has its final name is complete: the output as a whole, or each file of a folder of shards."""
    strange = [path.name for path in folder.iterdir() if not path.name.startswith(".") and path != out]
    # pretraining keeps its tokens beside the output, in a folder with a name
    strange = [name for name in strange if not name.startswith(f"{out.name}-") and not name.endswith(("-shards", ".shards"))]
    if strange:
        case.problems.append(f"after kill {case.kills} there is {strange}")
    if os.path.lexists(out):
        found = contents(out)
        broken = [name for name in found if found[name] != expected.get(name)] if out.name == "shards" else missing(found, expected)
        if broken:
            case.problems.append(f"after kill {case.kills} {broken} of the output are broken")


def unfinished(folder: Path) -> list[Path]:
    """Hidden folders of unfinished output that killed runs left; not those of checkpoints, which are hidden themselves."""
    hidden = [path for path in folder.rglob(".*.partial-*") if not path.parent.name.startswith(".")]
    return [path for path in hidden if ".checkpoint" not in path.name and not path.name.startswith("..")]


def check_named(before: list[Path], log: Path, case: Case) -> None:
    """A run that ended has named and removed what earlier ones left."""
    said = log.read_text()
    for path in before:
        case.left += 1
        if path.exists() or f"{path.name}" not in said:
            case.problems.append(f"{path.name} is {'still there' if path.exists() else 'removed without a word'}")


def check_result(folder: Path, out: Path, expected: dict[str, str], case: Case, log: Path, was_done: bool) -> None:
    if not os.path.lexists(out):
        return
    if wrong := missing(contents(out), expected):
        case.problems.append(f"the result of a run killed before differs in {wrong}")
    left = [path.name for path in folder.rglob("*") if path.name.startswith(".") and path.name not in case.keeps]
    if left and not was_done:  # a run that was killed after its last step has no next run
        case.problems.append(f"{left} are left behind")


# ---- the candidate index


def kill_index(work: Path, kills: int, chance: random.Random) -> Case:
    """A writer appends and deletes and acknowledges each on a pipe; what it acknowledged must be there."""
    from tain.ranking.index import CandidateIndex

    case = Case([], "index")
    CandidateIndex.create(work, model="m", fingerprint="f", dim=8)
    living: set[str] = set()
    for life in range(kills):
        reading, writing = os.pipe()
        number = os.fork()
        if number == 0:
            write_index(work, writing, life)
        os.close(writing)
        time.sleep(chance.uniform(0.0, 0.3))
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
        with os.fdopen(reading) as pipe:
            said = [line for line in pipe.read().splitlines(keepends=True) if line.endswith("\n")]
        case.kills += 1
        case.hit += 1
        for line in said:
            what, _, names = line.strip().partition(" ")
            living = living | set(names.split(",")) if what == "added" else living - set(names.split(","))
        found = CandidateIndex.open(work)
        texts = {text for _, text in found.live_texts()}
        unsaid = {f"{life}-{len([1 for line in said if line.startswith('added')])}-{place}" for place in range(20)}
        if lost := living - texts - deleted_next(said, life):
            case.problems.append(f"{len(lost)} acknowledged candidates are lost after kill {case.kills}")
            break
        if extra := texts - living - unsaid:
            case.problems.append(f"{len(extra)} deleted candidates are back after kill {case.kills}: {sorted(extra)[:3]}")
            break
        living = texts
    return case


def deleted_next(said: list[str], life: int) -> set[str]:
    """Candidates whose deletion may have happened without being acknowledged."""
    added = sum(line.startswith("added") for line in said)
    return {f"{life}-{added - 1}-{place}" for place in range(10)}


def write_index(folder: Path, pipe: int, life: int) -> None:
    from tain.ranking.index import CandidateIndex

    index = CandidateIndex.open(folder)
    for number in range(10**6):
        names = [f"{life}-{number}-{place}" for place in range(20)]
        rows = index.append(names, np.full((20, 8), number + 1, np.float32))
        os.write(pipe, f"added {','.join(names)}\n".encode())
        index.delete(list(rows)[:10])
        os.write(pipe, f"deleted {','.join(names[:10])}\n".encode())


if __name__ == "__main__":
    main()
