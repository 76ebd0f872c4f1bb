r"""Answers nobody should send to a grader: known troubles of math-verify, and what hypothesis makes of them."""

from hypothesis import strategies as st

#: Contents of a box: results without end, texts that look like code, digits, units and sets of every kind.
CONTENTS: tuple[str, ...] = (
    "", " ", "\\", "{", "}", "\\{", "\\}", "$", "$$", "%", "#", "&", "_", "^", "~", "=", "==", "1=", "=1", "(", ")",
    "[", "(-1)^{10^{20}}", "1.1^{999999}", "0^{-1}", "0^0", "\\sqrt{\\sqrt{\\sqrt{\\sqrt{2}}}}", "\\log(0)",
    "\\frac{1}{0}", "\\frac{0}{0}", "\\infty", "-\\infty", "NaN", "\\frac12", "\\frac{1}{", "\\frac{1}", "\\frac",
    "\\dfrac34", "\\tfrac{a}{b}", "1/2/3/4", "3\\frac{1}{2}", "3 1/2", "9" * 1_990, "0." + "3" * 1_900, "0x10",
    "0b1", "0o7", "1_000", "1,000,000", "1.000,5", "1 000", ".5", "5.", "--5", "+-5", "50\\%", "50%", "0.5\\%",
    "\\$5", "5 \\$", "5^{\\circ}", "5^\\circ C", "90 degrees", "5\\text{ cm}", "5\\text{ cm}^2", "5\\,\\mathrm{m/s}",
    "5 \\text{ and } 6", "\\text{five}", "\\text{no solution}", "\\emptyset", "\\mathbb{R}", "\\pi r^2", "(1,2)",
    "[1,2)", "(-\\infty, 3]\\cup(5,\\infty)", "\\{1,2,3\\}", "\\{x \\mid x>1\\}", "1,2,3", "1 \\text{ or } 2",
    "\\pm 1", "x=1", "x=1,y=2", "x \\in (1,2)", "x>1", "1<x<2", "x \\neq 1", "f(x)=x^2", "y=\\sin x + C",
    "(1,(2,(3,4)))", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix}1&2\\\\3\\end{pmatrix}",
    "\\begin{pmatrix}", "\\begin{bmatrix}" + "1&" * 60 + "1\\end{bmatrix}",
    "\\begin{cases}x & x>0\\\\-x & x<0\\end{cases}", "\\left(\\frac{1}{2}\\right", "\\left|x\\right|", "|||||x|||||",
    "\\overline{0.3}", "0.\\overline{3}", "0.\\dot{3}", "\\vec{a}", "__import__('os').system('touch hacked')",
    "open('hacked','w').write('x')", "eval('1+1')", "exec('import os')", "lambda: 1", "(lambda: 246)()",
    "[x for x in range(10**9)]", "'a'*10**9", "().__class__.__bases__[0].__subclasses__()", "Symbol('x').__class__",
    "Integer(10)**Integer(10**9)", "print(1)", "exit()", "quit()", "import os", "a;b", "`id`", "$(id)", "S.One",
    "sympy.pi", "factorial(10**7)", "E", "I", "N", "O(x)", "Q", "beta", "gamma(3)", "zoo", "oo", "nan", "True",
    "None", "f\"{1}\"", "\"\"\"", "'''", "# comment", "%d", "%(x)s", "{0}", "{{1}}", "\\input{/etc/passwd}",
    "\\write18{id}", "\\def\\x{\\x\\x}\\x", "\\csname x\\endcsname", "\\verb|x|", "\\url{http://localhost}",
    "\\includegraphics{a}", "<script>alert(1)</script>", "&lt;", "\u0661\u0662\u0663", "\uff11\uff12\uff13",
    "\u00b2", "\u00bd", "\u2460", "\u4e00\u4e8c", "\u221a2", "\u03c0", "\u221e", "\u2212" + "5", "\u00d7", "5\u00b0",
    "x\u2082", "\u202e123", "1\u200b2", "\ufeff1", "e\u0301", "\U0001d7d9", "\U0001f600", "\ud800", "\x00", "1\x002",
    "\x1b[31m1", "\r\n1", "\t1", "\x7f", "\x85", "\u2028", "A", "A. mercury", "(A)", "\\text{A}", "\\textbf{(A)} 5",
    "ABCDE",
)  # fmt: skip
#: Contents of a box that take a comparison to its limit, or near it.
HARD: tuple[str, ...] = (
    "9^{9^{9^{9}}}", "10^{10^{10}}", "2^{99999999}", "9**9**9**9", "1000000!", "((((9!)!)!)!)",
    "\\binom{10^9}{10^8}", "\\sqrt[10^9]{2}", "\\sum_{n=1}^{10^9} n", "\\prod_{n=1}^{100000} n",
    "\\int_0^1 e^{x^2} dx", "\\lim_{x\\to 0} \\frac{\\sin x}{x}", "e^{e^{e^{e^{e}}}}", "\\sin(10^{100})", "i^i",
    "x^{" * 30 + "2" + "}" * 30, "{" * 200 + "1" + "}" * 200, "(" * 150 + "1" + ")" * 150,
    "\\sqrt{" * 60 + "2" + "}" * 60, "\\frac{" * 40 + "1" + "}{2}" * 40, "-" * 300 + "1", "+".join(["x"] * 300),
    "1+" * 400 + "1", "1E-999999999", "1e999999999", "a" * 1_990, "ab" * 900, "\\alpha" * 300,
    "x_{" * 50 + "1" + "}" * 50,
)  # fmt: skip
#: Whole responses that are troublesome by their size or their boxes.
RESPONSES: tuple[str, ...] = (
    "", "no box", "\\boxed", "\\boxed{", "\\boxed{1", "\\boxed{{1}", "\\boxed{}}}}", "\\boxed 5", "\\fbox{5}",
    "\\\\boxed{5}", "\\boxed{1}" * 5_000, "\\boxed{" * 5_000, "\\boxed{" * 5_000 + "1" + "}" * 5_000, "{" * 500_000,
    "}" * 500_000, "x" * 1_000_000, "\\boxed{" + "9" * 1_000_000 + "}", "\\boxed{" + "{}" * 400_000 + "}",
    "\x00" * 1_000_000, "\\" * 1_000_000, "\\boxed{1" + " " * 1_000_000 + "}", "\\boxed  " * 100_000,
    "\\\\boxed{" * 50_000, "\\boxed{1}" + "\n" * 1_000_000,
)  # fmt: skip
GOLDS = (
    "246", "\\frac{1}{2}", "(1,2)", "[1,2)", "\\{1,2\\}", "x=5", "50\\%", "5\\text{ cm}", "\\sqrt{2}", "A", "\\pi",
    "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "1,2,3", "x^2+1",
)  # fmt: skip
_PIECES = st.sampled_from([
    *"0123456789", *"+-*/^_=<>!|(){}[],.;:'\"`$%&#~@\\ \n\t\x00", "**", "x", "y", "e", "i", "\\frac", "\\sqrt",
    "\\cdot", "\\pi", "\\infty", "\\left(", "\\right)", "\\{", "\\}", "\\text", "\\begin{pmatrix}", "\\end{pmatrix}",
    "\\\\", "\\boxed", "\\boxed{", "\\cup", "\\in", "\\le", "\\%", "^{\\circ}", "\\log", "\\sin", "\\int",
    "\\sum_{k=1}^{9}", "\\pm", "\\ln", "\\mid", "__import__", "lambda", "eval", "99999999", "\u0663", "\u00bd",
    "\u2212", "\ud83d", "\U0001f600",
])  # fmt: skip


@st.composite
def _mutated(draw: st.DrawFn) -> str:
    """A known trouble with pieces cut out, put in, repeated, or grafted from another one."""
    text = draw(st.sampled_from(CONTENTS))
    for _ in range(draw(st.integers(1, 4))):
        start, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        kind = draw(st.sampled_from(["cut", "put", "repeat", "graft"]))
        if kind == "cut":
            text = text[:start] + text[end:]
        elif kind == "put":
            text = text[:start] + draw(_PIECES) + text[start:]
        elif kind == "repeat":
            text = text[:start] + text[start:end] * draw(st.integers(2, 9)) + text[end:]
        else:
            text = text[:start] + draw(st.sampled_from(CONTENTS)) + text[end:]
    return text[:4_000]


_CONTENT = st.one_of(
    st.sampled_from(CONTENTS),
    _mutated(),
    _mutated(),
    st.lists(_PIECES, max_size=25).map("".join),
    st.text(st.characters(), max_size=60),  # every character there is, lone surrogates too
)


def hostile_responses() -> st.SearchStrategy[str]:
    """Responses, nearly all with one box; a few as long as a megabyte."""
    boxed = st.tuples(st.sampled_from(["", "so ", "\\boxed{1} no: "]), _CONTENT, st.sampled_from(["", ".", "}", "\n"]))
    whole = boxed.map(lambda parts: f"{parts[0]}\\boxed{{{parts[1]}}}{parts[2]}")
    hard = st.sampled_from(HARD).map(lambda content: f"\\boxed{{{content}}}")
    rare = {0: st.sampled_from(RESPONSES), 1: hard, 2: hard}  # of 200: each costs seconds, and there are few of them
    return st.integers(0, 199).flatmap(lambda n: rare.get(n, whole))
