"""The templates of every page the package writes: text escaped, nothing left undefined."""

from typing import Any

from hpt.artefacts.markup import scores_html, verdict_badge
from hpt.artefacts.output import markdown_text


def page_environment() -> Any:
    """Return the jinja environment of ``hpt/templates``: HTML is escaped; Markdown goes through the filter md."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("hpt"),
        autoescape=lambda name: ".md" not in (name or ""),  # Markdown goes through the filter md instead
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(badge=verdict_badge, scores=scores_html, md=markdown_text)
    return environment
