"""Which of a model's prompts a request asks for: by name, or by what the vectors are for."""

from collections.abc import Mapping

from tain.serving.schemas import RequestError

QUERY = ("query", "search_query")
DOCUMENT = ("document", "passage", "corpus", "search_document")

# uses as Cohere (input_type) and Jina (task) call them: the names that a model may give its prompt for it
USES: dict[str, tuple[str, ...]] = {
    "search_query": QUERY,
    "search_document": DOCUMENT,
    "retrieval.query": QUERY,
    "retrieval.passage": DOCUMENT,
    "classification": ("classification",),
    "clustering": ("clustering", "separation"),
    "separation": ("separation", "clustering"),
    "text-matching": ("text-matching",),
}


def prompt_called(prompts: Mapping[str, str], name: str | None, *, model: str, param: str) -> str | None:
    """The prompt of a name.

    Args:
        prompts: The model's prompts by name.
        name: The name; None asks for the model's default prompt.
        model: Name of the model, for messages.
        param: Field that holds the name.

    Returns:
        The prompt; None means the model's default prompt.

    Raises:
        RequestError: The model has no such prompt.
    """
    if name is None:
        return None
    if name not in prompts:
        known = f"it has {', '.join(sorted(prompts))}" if prompts else "it has none"
        raise RequestError(f"{param} is {name!r}, but model {model!r} has no such prompt: {known}", param=param, code="prompt_not_found")
    return prompts[name]


def prompt_for_use(prompts: Mapping[str, str], use: str | None) -> str | None:
    """The prompt that a model has for a use of ``USES``; None, which means its default prompt, if it has none for it."""
    return None if use is None else first_of(prompts, USES[use])


def first_of(prompts: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    """The first prompt that has one of these names; None if there is none."""
    return next((prompts[name] for name in names if name in prompts), None)
