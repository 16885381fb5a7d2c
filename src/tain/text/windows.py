"""Any number of texts, some at a time, so that memory is bounded by what is read together and not by what there is."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def windows(items: Iterable[Item], *, most: int, characters: int, text_of: Callable[[Item], str]) -> Iterator[list[Item]]:
    """Cut a stream into windows without reading ahead; where the cuts fall depends on the texts alone.

    Args:
        items: What comes, read once.
        most: Items a window.
        characters: A window also ends with the item that brings its texts to so many.
        text_of: The text of an item.
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
