r"""How a question becomes a prompt, as data: every choice the paper leaves open has a name here.

The released scripts train Qwen2.5-Math on its tokenizer's chat template without the data's system message (the template
then puts its own, "Please reason step by step, ..."), and LLaMA on raw text without a begin-of-text token. LUFFY, whose
data both use, keeps the data's system message and opens the think tag in the prompt.
"""

from dataclasses import dataclass
from typing import Any, Literal

from hpt.errors import ConfigError
from hpt.tasks.problems import Problem

THINK = "<think>\n"
#: What Qwen2.5-Math's own template says where no system message is given, and the release appends for LLaMA.
INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."


@dataclass(frozen=True)
class Template:
    """One way to write a prompt.

    Attributes:
        name: key of `TEMPLATES`, what ``data.template`` takes.
        about: for people.
        text: the prompt with ``{question}`` in it; None = the tokenizer's chat template.
        system: the system message of a chat template: ``own`` (what the template itself puts when none is given),
            ``data`` (the row's) or ``none`` (an empty one).
        begin: whether the tokenizer's begin-of-text token stands first. Chat templates write their own where they want
            one, so it is for raw text alone.
        opens: text after everything else, with which the response is taken to begin.
    """

    name: str
    about: str
    text: str | None = None
    system: Literal["own", "data", "none"] = "own"
    begin: bool = False
    opens: str = ""


_LLAMA = "Question:\n{question}\n" + INSTRUCTION + "\nAnswer:\nLet's think step by step."

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template("plain", "the question alone, after the begin token if there is one", "{question}", begin=True),
        Template("qwen", "chat template, its own system message: the release on Qwen2.5-Math"),
        Template("qwen-data-system", "chat template with the data's system message", system="data"),
        Template("qwen-no-system", "chat template with an empty system message", system="none"),
        Template("luffy", "chat template, the data's system message, think tag open", system="data", opens=THINK),
        Template("llama", "raw text without begin-of-text token: the release on LLaMA", _LLAMA),
        Template("llama-begin", "the same with begin-of-text token, as text given to vLLM has it", _LLAMA, begin=True),
    )
}


def template_named(name: str) -> Template:
    """Return a template.

    Raises:
        ConfigError: no such template.

    Example:
        >>> template_named("llama").begin
        False
    """
    if name not in TEMPLATES:
        raise ConfigError("data.template", name, "one of " + ", ".join(TEMPLATES), "choose one of these")
    return TEMPLATES[name]


def prompt_text(template: Template, tokenizer: Any, problem: Problem) -> str:
    """Return the prompt as text, without the begin-of-text token of ``template.begin``.

    Raises:
        ConfigError: a chat template is asked for and the tokenizer has none, or the row lacks a system message.
    """
    if template.text is not None:
        # not str.format: questions are full of LaTeX braces, and so is the instruction
        return template.text.replace("{question}", problem.question) + template.opens
    if not getattr(tokenizer, "chat_template", None):
        remedy = "set data.template to llama (raw text), or save a tokenizer with a chat template beside the model"
        raise ConfigError("data.template", template.name, "a tokenizer with a chat template", remedy)
    messages = [{"role": "user", "content": problem.question}]
    if template.system == "data":
        if problem.system is None:
            remedy = "use data rows with a system message, or set data.template to qwen"
            raise ConfigError(f"system message of {problem.id}", None, f"a text, for {template.name}", remedy)
        messages.insert(0, {"role": "system", "content": problem.system})
    elif template.system == "none":
        messages.insert(0, {"role": "system", "content": ""})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text if text.endswith(template.opens) else text + template.opens


def response_text(template: Template, demonstration: str, end: str) -> str:
    """Return a demonstration as a response: without what the prompt has opened already, and without the end token.

    Left in, the policy would be taught to open the tag twice; taken out where the prompt does not open it, it would
    never learn to (the release's SFT script does that). ``end`` is that token's text: every response gets one.

    Example:
        >>> [response_text(TEMPLATES[name], "<think>\\nSo<eos>", "<eos>") for name in ("luffy", "qwen")]
        ['So', '<think>\\nSo']
    """
    text = demonstration.removeprefix(template.opens)
    while text.rstrip().endswith(end):
        text = text.rstrip().removesuffix(end)
    return text
