"""HTML of what reports and notebooks show; every text is escaped, so no answer or name of a run becomes markup.

Line breaks are elements, not style, so that the same fragment reads well in a notebook, which has no style of ours.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup


def scores_html(shown: Mapping[str, Any]) -> Markup:
    """Return a table of scores: value, interval and the paper's value in each cell.

    Args:
        shown: as from `TableArtefact.shown`: columns [(head, note)], rows [(label, [(value, interval, paper)])] (no
            cells: a heading), paper_label.

    Example:
        >>> shown = {"columns": [("a<b", "")], "rows": [("HPT", [("1.0", "", "")])], "paper_label": "paper"}
        >>> "a&lt;b" in scores_html(shown)
        True
    """
    heads = Markup("").join(
        Markup("<th scope='col'>{}{}</th>").format(head, given(note, "<br><small>{}</small>"))
        for head, note in shown["columns"]
    )
    across, bodies = len(shown["columns"]) + 1, [Markup("<tbody>")]
    for label, cells in shown["rows"]:
        if cells:
            own = Markup("").join(_cell(shown["paper_label"], *cell) for cell in cells)
            bodies.append(Markup("<tr><th scope='row'>{}</th>{}</tr>\n").format(label, own))
        else:  # a body of its own for the rows below a heading: sorting keeps them there
            heading = "</tbody>\n<tbody><tr class='heading'><th scope='rowgroup' colspan='{}'>{}</th></tr>\n"
            bodies.append(Markup(heading).format(across, label))
    return Markup(
        "<div class='wide'><table class='scores sortable'><thead><tr><th scope='col'></th>{}</tr></thead>\n"
        "{}</tbody></table></div>"
    ).format(heads, Markup("").join(bodies))


def plain_table(heads: Sequence[str], rows: Iterable[Sequence[object]], classes: str = "sortable") -> Markup:
    """Return a table of texts.

    Example:
        >>> plain_table(["run"], [["<script>"]]).count("&lt;script&gt;")
        1
    """
    head = Markup("").join(Markup("<th scope='col'>{}</th>").format(own) for own in heads)
    body = Markup("\n").join(
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row))
        for row in rows
    )
    return Markup(
        "<div class='wide'><table class='{}'><thead><tr>{}</tr></thead>\n<tbody>{}</tbody></table></div>"
    ).format(classes, head, body)


def verdict_badge(verdict: str) -> Markup:
    """Return a verdict as a coloured word; the word itself says it, the colour only helps.

    Example:
        >>> str(verdict_badge("does not hold"))
        "<span class='verdict does-not'>does not hold</span>"
    """
    kind = "-".join(verdict.replace("(", "").split()[:2])
    return Markup("<span class='verdict {}'>{}</span>").format(kind, verdict)


def caption_html(title: str, caption: str) -> Markup:
    """Return what stands below a table or figure."""
    return Markup("<p class='caption'><b>{}.</b> {}</p>").format(title, caption)


def given(text: str, markup: str) -> Markup:
    """Return ``markup`` around a text, or nothing around an empty one."""
    return Markup(markup).format(text) if text else Markup("")


def _cell(paper_label: str, value: str, interval: str = "", paper: str = "") -> Markup:
    lines = (
        given(value, "<b>{}</b>"),
        given(interval, "<small class='interval'>{}</small>"),
        given(f"{paper_label} {paper}" if paper else "", "<small class='paper'>{}</small>"),
    )
    return Markup("<td data-sort='{}'>{}</td>").format(value, Markup("<br>").join(line for line in lines if line))
