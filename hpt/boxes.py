r"""Find the answer a response commits to: the content of its last balanced ``\boxed{...}``.

This is the only parsing the package does itself; what the content *means* is decided by math-verify (``hpt.rewards``).
"""

import re

# An escaped brace (`\{`) is a printed character in TeX, not a group, so it must not be counted; counting it would lose
# `\boxed{\left\{x\right.}`. A double backslash is a line break and leaves the following brace unescaped, except before
# `boxed`, where models write `\\boxed{5}` for `\boxed{5}`.
_TOKEN = re.compile(r"\\boxed\s*\{|\\[{}]|\\\\(?!boxed)|[{}]")


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last balanced ``\boxed{...}`` in a text, or None where there is none.

    "Last" means the box whose command stands last, so of nested boxes the inner one, as in the graders of Hendrycks
    et al. 2021 and of the released code. An unbalanced last box (a response cut off inside it) is passed over.
    One pass with an explicit stack: linear in the length, no recursion, safe for nesting of any depth.

    Args:
        text: a response of any length, in characters.

    Returns:
        What stands between the braces, unchanged (no stripping), possibly empty.

    Example:
        >>> last_boxed(r"so \boxed{1}, no: \boxed{\frac{1}{2}} and \boxed{3")
        '\\frac{1}{2}'
        >>> last_boxed("the answer is 5") is None
        True
    """
    if "\\boxed" not in text:
        return None
    open_groups: list[int] = []  # content start of each open box, -1 for a plain group
    best_start, best_end = -1, -1
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token.startswith("\\boxed"):
            open_groups.append(match.end())
        elif token == "{":
            open_groups.append(-1)
        elif token == "}" and open_groups:
            start = open_groups.pop()
            if start > best_start:  # an outer box closes after, but starts before, the one it contains
                best_start, best_end = start, match.start()
    return None if best_start < 0 else text[best_start:best_end]
