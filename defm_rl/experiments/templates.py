"""Templates of what is written for people: pages in HTML, a card in Markdown."""

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape


def template(package: str, name: str, **filters: Callable[..., Any]) -> Template:
    """A template; what it puts into HTML is escaped.

    Args:
        package: In whose folder it is.
        name: Of its file.
        **filters: What it writes figures by.
    """
    environment = Environment(
        loader=PackageLoader(package, "."),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters)
    return environment.get_template(name)
