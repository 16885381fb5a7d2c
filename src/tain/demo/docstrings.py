"""Collect English sentences and held-out functions from the docstrings of installed Python packages.

Files are parsed and never imported, so no code of the packages runs. Modules are split before anything is read: some provide training
sentences, the others held-out functions to measure on.
"""

import ast
import gc
import inspect
import os
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tain.text.cleaning import same_text_key

_HELD_OUT_SHARE = 0.4  # share of the modules
_PACKAGE_SHARE = 0.05  # no package provides more than this share of the requested number
_SENTENCES_PER_MODULE = 80
_FUNCTIONS_PER_MODULE = 10  # functions of one module often differ in a single word
_MODULE_BYTES = 100_000  # larger modules are mostly tables, and slow to parse
_BYTES_PER_DOCSTRING = 2_500  # parsing is the slow part, so files with fewer docstrings are skipped
_SENTENCE_WORDS = range(4, 41)
_REST_WORDS = range(8, 61)

_SKIPPED_FOLDERS = frozenset(
    (
        "dist-packages",
        "ensurepip",
        "extern",
        "externals",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "testing",
        "tests",
        "turtledemo",
        "vendor",
        "vendored",
    )
)
_GENERATED_MARKS = re.compile(
    r"auto(?:matically|matic)?[- ]?generated|@generated|generated (?:by|from|using|with)|do not edit|don't edit", re.IGNORECASE
)

_LEFT_OUT_SECTIONS = re.compile(
    r"((keyword|other|class|named) )?(arg|argument|attribute|param|parameter|kwarg|member|method)s?|deprecated|(example|usage)s?( usage)?"
    r"|(in|out)puts?|optional|(raise|receive|return|warn|yield)s?|return type|references?|see also|shapes?"
    r"|signature|since|todo|type|version",
    re.IGNORECASE,
)
_SECTION_LINE = re.compile(r"^\W{0,2}([A-Za-z][A-Za-z ]{2,24}?)\W{0,2}:(?:\s|$)")
_UNDERLINE = re.compile(r"^\s*([-=~^\"'`#*+])\1{2,}\s*$")
_FIELD = re.compile(
    r"^[:@](?:param|parameter|arg|argument|key|keyword|type|raises?|except|exception|returns?|rtype|yields?|var|ivar|cvar)\b"
)
_BULLET = re.compile(r"^(?:[-*+•]|\(?[0-9a-z][.)])\s+")

_MARKUP: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r":[a-zA-Z:]+:`[~!]?[^`<]*?([^`<.\s]+)\s*(?:<[^`>]*>)?`", r"\1"),  # :class:`~package.Name` -> Name
        (r"`([^`<]+?)\s*<[^`>]*>`_{0,2}", r"\1"),  # `words <address>`_ -> words
        (r"!?\[([^\]]+)\]\([^)]*\)", r"\1"),  # [words](address) -> words
        (r"(?<!\b(?:in|by|of|to))(?<!\bsee)(?<!\bfrom)\s+\[[\w#*]+\]_", ""),  # citations that the sentence can do without
        (r"``([^`]*)``", r"\1"),
        (r"`([^`]*)`_{0,2}", r"\1"),
        (r"(?<!\w)(\*{1,2})(?=\S)([^*]+?)(?<=\S)\1(?!\w)", r"\2"),
        (r"\\ ", ""),
        (r"\s+", " "),
    )
)

_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|viz|fig|figs|eq|eqs|no|al|approx|resp|dr|mr|mrs|st|sec|ch|pp|incl|ref)|\b[A-Za-z])\.$", re.I
)
_SENTENCE_END = re.compile(r"[.!?][)\"'”’]*(?=\s+[\"'“‘(]?[A-Z0-9])")
_PLAIN_WORD = re.compile(r"^[\"'“‘(]*[A-Za-z]+(?:[-'’/][A-Za-z]+)*[)\"'”’,.;:!?]*$")
_NUMBER = re.compile(r"^[\"'(]*[+-]?\d[\d.,]*%?[)\"',.;:!?]*$")
_NOT_PROSE = re.compile(r"[={}<>|\\^~*`@#$\[\]]|::|->|--|\.\.\.|://|www\.|\bTODO\b|\bFIXME\b|\bXXX\b")
_COMMON_WORDS = frozenset(
    (
        "a",
        "an",
        "the",
        "of",
        "to",
        "in",
        "is",
        "are",
        "be",
        "was",
        "for",
        "on",
        "with",
        "by",
        "from",
        "as",
        "at",
        "or",
        "and",
        "not",
        "this",
        "that",
        "it",
        "its",
        "if",
        "when",
        "which",
        "into",
        "than",
        "can",
        "has",
        "have",
        "will",
        "used",
    )
)


@dataclass(frozen=True)
class FunctionDocstring:
    """A documented function: its first sentence and the prose that follows, both without the function's name."""

    name: str  # package.module.Class.function
    description: str
    rest: str


@dataclass(frozen=True)
class DocstringCorpus:
    """Training sentences grouped by docstring, and documented functions of other modules to measure on."""

    documents: tuple[tuple[str, ...], ...]  # per docstring, its sentences in order
    functions: tuple[FunctionDocstring, ...]
    packages: int  # with at least one sentence or function
    modules: int  # modules read, including broken ones
    broken_modules: int  # modules that are not valid Python, or not text

    @property
    def sentences(self) -> tuple[str, ...]:
        """All training sentences, grouped by docstring."""
        return tuple(sentence for document in self.documents for sentence in document)


def python_roots() -> tuple[Path, ...]:
    """The folders of this Python's installed packages and of its standard library, in this order."""
    paths = (Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib"))
    return tuple(dict.fromkeys(path for path in paths if path.is_dir()))


def gather_docstrings(roots: Sequence[Path], *, sentences: int = 10_000, functions: int = 1_000, seed: int = 13) -> DocstringCorpus:
    """Collect natural-language sentences and held-out functions from the docstrings of Python packages.

    The split is by module (one file): two fifths of the modules, chosen by ``seed``, are held out and provide functions; the others
    provide sentences. Sentences that also occur in a held-out function's docstring are left out of the training sentences. Packages take
    turns, one module each, so that few files are read and no package provides more than a twentieth of the requested number. Test
    folders, vendored copies, generated and broken files are skipped. The same files and seed give the same corpus, in the same order.

    Args:
        roots: Folders of packages and modules, for example ``python_roots()``.
        sentences: Maximum number of training sentences; each has 4 to 40 words, and all are different. Sentences of one
            docstring stay together, without those that were left out.
        functions: Maximum number of held-out functions; no two share a sentence.
        seed: Seed of the held-out modules and the reading order.

    Returns:
        The corpus; smaller than requested if the packages contain less.
    """
    reader = _ModuleReader()
    packages = _modules_by_package(roots, seed=seed)
    held_out = {name: [module for module in modules if module.is_held_out] for name, modules in packages.items()}
    learning = {name: [module for module in modules if not module.is_held_out] for name, modules in packages.items()}
    with _paused_collector():
        found, taken = _held_out_functions(held_out, reader, count=functions)
        documents, givers = _training_documents(learning, reader, count=sentences, taken=taken)
    givers |= {function.name.partition(".")[0] for function in found}
    return DocstringCorpus(tuple(documents), tuple(found), packages=len(givers), modules=reader.read, broken_modules=reader.broken)


@contextmanager
def _paused_collector() -> Iterator[None]:
    """Pause the garbage collector, which otherwise takes a quarter of the time to walk growing syntax trees."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


# ---- files and their order


@dataclass(frozen=True)
class _Module:
    path: Path
    name: str  # dotted
    is_held_out: bool


def _modules_by_package(roots: Sequence[Path], *, seed: int) -> dict[str, list[_Module]]:
    packages: dict[str, list[_Module]] = {}
    for root in roots:
        found: dict[str, list[_Module]] = {}
        for path in _module_paths(str(root)):
            parts = Path(path).relative_to(root).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            # seeded by name, so the split does not depend on locations or other packages
            is_held_out = random.Random(f"{seed}:{name}").random() < _HELD_OUT_SHARE
            found.setdefault(parts[0], []).append(_Module(Path(path), name, is_held_out))
        for package, modules in found.items():
            if package not in packages:  # an earlier root hides a later one, as on Python's path
                random.Random(f"{seed}:{package}").shuffle(modules)
                packages[package] = modules
    return packages


def _module_paths(root: str) -> Iterator[str]:
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if name.isidentifier() and not _is_skipped_folder(name))
        for name in sorted(files):
            stem, suffix = os.path.splitext(name)  # noqa: PTH122 - tens of thousands of names
            if suffix == ".py" and stem.isidentifier() and not _is_skipped_module(stem):
                yield f"{folder}{os.sep}{name}"


def _is_skipped_folder(name: str) -> bool:
    plain = name.strip("_").lower()
    return plain in _SKIPPED_FOLDERS or plain.startswith("test_") or plain.endswith(("_test", "_tests")) or name == "__pycache__"


def _is_skipped_module(stem: str) -> bool:
    return stem.startswith(("test_", "conftest")) or stem.endswith(("_test", "_tests", "_pb2", "_pb2_grpc")) or stem in ("test", "tests")


def _in_turns(packages: dict[str, list[_Module]], full: set[str]) -> Iterator[tuple[str, _Module]]:
    """Yield one module of every package, then the next of each; packages in ``full`` are skipped."""
    turn = 0
    while left := [name for name, modules in packages.items() if turn < len(modules) and name not in full]:
        for name in left:
            if name not in full:
                yield name, packages[name][turn]
        turn += 1


# ---- reading docstrings


class _ModuleReader:
    """Reads docstrings from files, and counts the files."""

    def __init__(self) -> None:
        self.read = 0
        self.broken = 0

    def docstrings(self, path: Path) -> list[tuple[str, ast.AST, str]]:
        """(name within the module, node, docstring) of everything documented in a file; nothing for a broken file."""
        self.read += 1
        try:
            source = path.read_bytes()
            docstrings = (source.count(b'"""') + source.count(b"'''")) // 2
            if len(source) > min(_MODULE_BYTES, docstrings * _BYTES_PER_DOCSTRING):
                return []
            if _GENERATED_MARKS.search(source[:1500].decode(errors="replace")):
                return []
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in third-party code
                tree = ast.parse(source)
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            self.broken += 1
            return []
        return list(_documented(tree, ""))


def _documented(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, prefix: str
) -> Iterator[tuple[str, ast.AST, str]]:
    docstring = ast.get_docstring(node, clean=False)
    if docstring:
        yield prefix, node, docstring
    if isinstance(node, ast.Module | ast.ClassDef):  # definitions inside functions are not public
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _documented(child, f"{prefix}.{child.name}" if prefix else child.name)


def _held_out_functions(
    packages: dict[str, list[_Module]], reader: _ModuleReader, *, count: int
) -> tuple[list[FunctionDocstring], set[str]]:
    """Up to ``count`` functions, and the keys of all sentences in their docstrings."""
    found: list[FunctionDocstring] = []
    keys: set[str] = set()
    given: dict[str, int] = {}
    full: set[str] = set()
    for package, module in _in_turns(packages, full):
        if len(found) >= count:
            break
        here = 0
        for name, node, docstring in reader.docstrings(module.path):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            paragraphs = prose_paragraphs(docstring)
            function = _described(f"{module.name}.{name}", node.name, paragraphs)
            if function is None:
                continue
            own_keys = {same_text_key(sentence) for text in (function.description, function.rest) for sentence in split_sentences(text)}
            own_keys.update(same_text_key(sentence) for paragraph in paragraphs for sentence in split_sentences(paragraph))
            if own_keys & keys:  # an answer that occurs in two docstrings would be correct for both
                continue
            keys |= own_keys
            found.append(function)
            here += 1
            given[package] = given.get(package, 0) + 1
            if given[package] >= max(1, _PACKAGE_SHARE * count):
                full.add(package)
            if here >= _FUNCTIONS_PER_MODULE or package in full or len(found) >= count:
                break
    return found, keys


def _training_documents(
    packages: dict[str, list[_Module]], reader: _ModuleReader, *, count: int, taken: set[str]
) -> tuple[list[tuple[str, ...]], set[str]]:
    """Up to ``count`` sentences with keys not in ``taken``, by docstring, and their packages."""
    found: list[tuple[str, ...]] = []
    total = 0
    keys = set(taken)
    given: dict[str, int] = {}
    full: set[str] = set()
    for package, module in _in_turns(packages, full):
        if total >= count:
            break
        room = min(_SENTENCES_PER_MODULE, count - total, max(1, int(_PACKAGE_SHARE * count)) - given.get(package, 0))
        here = 0
        for _, _, docstring in reader.docstrings(module.path):
            document: list[str] = []
            for sentence in _natural_sentences(prose_paragraphs(docstring)):
                key = same_text_key(sentence)
                if key not in keys and here < room:
                    keys.add(key)
                    document.append(sentence)
                    here += 1
            if document:
                found.append(tuple(document))
        total += here
        if here:
            given[package] = given.get(package, 0) + here
        if here == room and room < _SENTENCES_PER_MODULE:
            full.add(package)
    return found, set(given)


def _natural_sentences(paragraphs: list[str]) -> Iterator[str]:
    for number, paragraph in enumerate(paragraphs):
        for sentence in split_sentences(paragraph):
            if is_natural_sentence(sentence, may_lack_stop=number == 0):
                yield sentence


def _described(full_name: str, name: str, paragraphs: list[str]) -> FunctionDocstring | None:
    """Split a docstring into description and rest; ``None`` if there is no prose for one of them."""
    if not paragraphs:
        return None
    first = split_sentences(paragraphs[0])[0]
    if not is_natural_sentence(first, may_lack_stop=True):
        return None
    description = without_name(first, name)
    rest: list[str] = []
    for sentence in _natural_sentences(paragraphs):
        if sentence == first or same_text_key(sentence) == same_text_key(first):
            continue
        shorter = without_name(sentence, name)
        if len(" ".join([*rest, shorter]).split()) not in range(_REST_WORDS.stop):
            break
        rest.append(shorter)
    if len(description.split()) not in _SENTENCE_WORDS or len(" ".join(rest).split()) not in _REST_WORDS:
        return None
    return FunctionDocstring(full_name, description, " ".join(rest))


def prose_paragraphs(docstring: str) -> list[str]:
    """Extract the prose of a docstring, paragraph by paragraph, without markup.

    Left out: sections on parameters, results, errors and examples (NumPy, Google and Sphinx styles), doctests, code, directives, tables.
    """
    lines = inspect.cleandoc(docstring).splitlines()
    paragraphs: list[list[str]] = [[]]
    is_left_out_section = is_fenced = is_bullet = False
    deeper_than: int | None = None  # skip lines indented more than this
    until_blank = False  # skip lines up to the next blank one
    for number, line in enumerate(lines):
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if text.startswith(("```", "~~~")):
            is_fenced = not is_fenced
            paragraphs.append([])
            continue
        if not text:
            until_blank = is_bullet = False
            paragraphs.append([])
            continue
        if is_fenced or until_blank:
            continue
        if deeper_than is not None:
            if indent > deeper_than:
                continue
            deeper_than = None
        if _UNDERLINE.match(line):
            continue
        if _UNDERLINE.match(following) and text[0].isalnum():  # an underlined heading
            is_left_out_section = _LEFT_OUT_SECTIONS.fullmatch(text.rstrip(":")) is not None
            paragraphs.append([])
            continue
        if is_left_out_section:
            continue
        section = _SECTION_LINE.match(text)
        if section and _LEFT_OUT_SECTIONS.fullmatch(section[1]):
            deeper_than, until_blank = indent, not text.endswith(":")
            paragraphs.append([])
        elif _FIELD.match(text) or text.startswith(".. "):
            deeper_than = indent
            paragraphs.append([])
        elif text.startswith(">>>"):
            until_blank = True
            paragraphs.append([])
        elif bullet := _BULLET.match(text):
            is_bullet = True
            paragraphs.append([text[bullet.end() :]])
        elif (indent > 0 and not is_bullet) or not any(map(str.isalpha, text)):  # a code block, or a table rule
            paragraphs.append([])
        else:
            paragraphs[-1].append(text)
    return [plain for paragraph in paragraphs if (plain := plain_text(" ".join(paragraph)))]


def plain_text(text: str) -> str:
    """Replace reStructuredText and Markdown markup by its visible words, and collapse whitespace."""
    for pattern, plain in _MARKUP:
        text = pattern.sub(plain, text)
    return text.strip()


def split_sentences(paragraph: str) -> list[str]:
    """Split a paragraph after full stops followed by a capital, but not after abbreviations or inside parentheses."""
    sentences: list[str] = []
    begin = 0
    for end in _SENTENCE_END.finditer(paragraph):
        candidate = paragraph[begin : end.end()].strip()
        if _ABBREVIATION.search(paragraph[begin : end.start() + 1]) or candidate.count("(") > candidate.count(")"):
            continue
        sentences.append(candidate)
        begin = end.end()
    if last := paragraph[begin:].strip():
        sentences.append(last)
    return sentences


def is_natural_sentence(sentence: str, *, may_lack_stop: bool = False) -> bool:
    """Whether a string is a sentence of English prose, not a signature, formula, list entry or heading.

    It must have 4 to 40 words, start with a capital, end with a stop (unless it ``may_lack_stop``) and contain a common short English
    word, and at least four fifths of it must be plain words or numbers.
    """
    words = sentence.split()
    if len(words) not in _SENTENCE_WORDS or _NOT_PROSE.search(sentence):
        return False
    if not sentence.lstrip("\"'“‘(")[:1].isupper() or sentence.count("(") != sentence.count(")") or sentence.count('"') % 2:
        return False
    has_stop = sentence.rstrip(")\"'”’").endswith((".", "!", "?"))
    if not has_stop and (not may_lack_stop or not sentence[-1].isalnum()):
        return False
    plain = sum(bool(_PLAIN_WORD.match(word) or _NUMBER.match(word)) for word in words)
    return plain >= 0.8 * len(words) and any(word.lower() in _COMMON_WORDS for word in words)


def without_name(sentence: str, name: str) -> str:
    """Remove a function's name, as code (``module.read_text()``) or words (``read text``), so that it does not give the answer away."""
    words = [word for word in re.split(r"_+|(?<=[a-z0-9])(?=[A-Z])", name) if word]
    if not words:
        return sentence
    pattern = r"(?<!\w)(?:\w+\.)*_*" + r"[\s_-]*".join(map(re.escape, words)) + r"_*(?:\(\))?(?!\w)"
    left = re.sub(pattern, "", sentence, flags=re.I)
    left = re.sub(r"\s+([,.;:!?)])(?!\w)", r"\1", re.sub(r"\s+", " ", left)).replace("( ", "(").replace(" ()", "").strip(" ,;:")
    return left[:1].upper() + left[1:]
