"""Split a stream of texts into windows of bounded size."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def windows(items: Iterable[Item], *, most: int, characters: int, text_of: Callable[[Item], str]) -> Iterator[list[Item]]:
    """Split a stream into windows without reading ahead; the boundaries depend on the texts only.

    Args:
        items: The items, read once.
        most: Largest number of items per window.
        characters: A window also ends with the item that brings its texts to this length.
        text_of: Returns the text of an item.
    """
    window: list[Item] = []
    read = 0
    for item in items:
        window.append(item)
        read += len(text_of(item))
        if len(window) == most or read >= characters:
            yield window
            window, read = [], 0
    if window:
        yield window
