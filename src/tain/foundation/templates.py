"""Fill HTML templates that lie beside the code (Jinja2); everything that a page is given is escaped."""

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def fill_template(name: str, **values: Any) -> str:
    """Return an HTML page.

    Args:
        name: Path of the template within the package: ``demo/page.html``. It extends ``foundation/page.html``.
        values: What the template names; a missing value is an error.
    """
    return _environment().get_template(name).render(values)


def read_part(name: str) -> str:
    """Return a file that pages contain as it is: ``demo/page.css``."""
    return resources.files("tain").joinpath(name).read_text(encoding="utf-8")


def as_markup(html: str) -> "Markup":
    """Mark a string of ours as HTML, so that it is not escaped; never use it for text from outside."""
    from markupsafe import Markup

    return Markup(html)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(loader=PackageLoader("tain", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.globals["part"] = lambda name: as_markup(read_part(name))
    made.filters["thousands"] = "{:,}".format
    return made
