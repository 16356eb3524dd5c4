"""Chat templates that behave as those of the model families in use, each with a tokenizer of its family's kind.

They are written for these tests and reproduce what matters to an episode: how turns begin and end, what is refused,
what is trimmed, moved, added or left out.
"""

# ruff: noqa: RUF001 - DeepSeek spells its tokens with fullwidth bars

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.tokenizers import make_byte_tokenizer, make_space_tokenizer

_CHATML_TURN = "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
_CHATML_PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
_ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}"
)

# A system prompt of its own where there is none.
QWEN25 = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful model.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}" + _CHATML_TURN + "{% endfor %}" + _CHATML_PROMPT
)
# Thoughts are written only after the last user message; the last message always gets a thought; thinking can be
# switched off, which puts an empty thought into the generation prompt.
QWEN3 = (
    "{% set ns = namespace(last=-1) %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{% set parts = message['content'].split('</think>') %}"
    "{% set thought = parts[0].split('<think>')[-1].strip('\n') if parts | length > 1 else '' %}"
    "{% set said = parts[-1].lstrip('\n') if parts | length > 1 else message['content'] %}"
    "{{ '<|im_start|>assistant\n' }}"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}"
    "{{ said + '<|im_end|>\n' }}"
    "{% else %}" + _CHATML_TURN + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
# Every attempt starts inside of a thought.
QWEN3_THINKING = QWEN3.replace(
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
    "{{ '<think>\n' }}",
)
# Headers of two tokens, a beginning of text, trimmed messages.
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# A system header in every case, with the date.
LLAMA31 = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{% set told = messages[0]['content'] | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set told = '' %}{% endif %}"
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' + told + '<|eot_id|>' }}"
) + LLAMA3.replace("{{ bos_token }}", "")
# No system message, strict turns of user and "model", trimmed messages.
GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + _ALTERNATE
    + "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{{ message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# The system message is put before the first user message.
GEMMA3 = (
    "{% if messages[0]['role'] == 'system' %}{% set told = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set told = '' %}{% endif %}"
) + GEMMA.replace("'\n' }}{{ message", "'\n' }}{{ (told if loop.first else '') + message")
# No header before the answer, and so no generation prompt.
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    + _ALTERNATE
    + "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
# The system message moves into whichever user message is the last.
MISTRAL_V3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set told = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% endif %}{% for message in messages %}"
    + _ALTERNATE
    + "{% if message['role'] == 'user' %}{% if loop.last and told is defined %}"
    "{{ '[INST] ' + told + '\n\n' + message['content'] + '[/INST]' }}"
    "{% else %}{{ '[INST] ' + message['content'] + '[/INST]' }}{% endif %}"
    "{% else %}{{ ' ' + message['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
# A beginning of text before every question, and a space before the end of a turn.
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set told = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set told = '' %}{% endif %}"
    "{% for message in messages %}" + _ALTERNATE + "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + ((told if loop.first else '') + message['content']) | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# No line breaks; all system messages are gathered at the start.
DEEPSEEK = (
    "{{ bos_token }}"
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '<｜Assistant｜>' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
# As above, with thoughts: every attempt starts inside of one, and earlier ones are left out.
DEEPSEEK_R1 = DEEPSEEK.replace(
    "'<｜Assistant｜>' + message['content']", "'<｜Assistant｜>' + message['content'].split('</think>')[-1]"
).replace("{{ '<｜Assistant｜>' }}", "{{ '<｜Assistant｜><think>\n' }}")
# A turn is ended by the header of the next.
GLM = (
    "{{ '[gMASK]' }}{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# Refuses what it does not expect: other keys, empty messages, late system messages, other roles, turns that do not
# alternate, a conversation that does not end with the user's.
FUSSY = (
    "{% if not add_generation_prompt is defined or not messages %}{{ raise_exception('nothing to render') }}{% endif %}"
    "{% for message in messages %}"
    "{% if message.keys() | list != ['role', 'content'] %}{{ raise_exception('unknown keys') }}{% endif %}"
    "{% if not message['content'].strip() %}{{ raise_exception('empty message') }}{% endif %}"
    "{% if message['role'] == 'system' and not loop.first %}{{ raise_exception('late system message') }}{% endif %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}{{ raise_exception('unknown role') }}{% endif %}"
    "{% if loop.last and message['role'] != 'user' %}{{ raise_exception('the last turn is not a user') }}{% endif %}"
    "{% set before = loop.previtem['role'] if loop.previtem is defined else 'system' %}"
    "{% if (message['role'] == 'assistant') != (before == 'user') %}{{ raise_exception('turns must alternate') }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# The answer is in marks of its own, which the model opens: the generation prompt ends before.
COHERE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>' + message['content'] }}"
    "{{ '<|END_RESPONSE|><|END_OF_TURN_TOKEN|>' }}{% else %}"
    "{{ '<|START_OF_TURN_TOKEN|><|' + message['role'] | upper + '_TOKEN|>' + message['content'] }}"
    "{{ '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)
# Thoughts in special tokens, left out of earlier messages.
SEED = (
    "{% for message in messages %}{{ '<seed:bos>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and '</seed:think>' in message['content'] %}"
    "{{ message['content'].split('</seed:think>')[-1] | trim }}{% else %}{{ message['content'] }}{% endif %}"
    "{{ '<seed:eos>' }}{% endfor %}{% if add_generation_prompt %}{{ '<seed:bos>assistant\n' }}{% endif %}"
)
# gpt-oss: a turn of the model is several messages, each on a channel that it names itself.
HARMONY = (
    "{{ '<|start|>system<|message|>Valid channels: analysis, final.<|end|>' }}"
    "{% if messages[0]['role'] == 'system' %}"
    "{{ '<|start|>developer<|message|># Instructions\n\n' + messages[0]['content'] + '<|end|>' }}"
    "{% set messages = messages[1:] %}{% endif %}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{% if '<|channel|>' in message['content'] %}"
    "{{ raise_exception('channel tags in content') }}{% endif %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + message['content'] }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
    "{% elif message['role'] == 'user' %}{{ '<|start|>user<|message|>' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
# The remedy: the answer follows at once.
HARMONY_FINAL = HARMONY.replace("'<|start|>assistant' }}", "'<|start|>assistant<|channel|>final<|message|>' }}")
# No control tokens at all.
PLAIN = (
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

_LLAMA3_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_GEMMA_TOKENS = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
_CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_COHERE_TOKENS = (
    "<PAD>", "<BOS>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|USER_TOKEN|>",
    "<|SYSTEM_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_THINKING|>", "<|END_THINKING|>",
)  # fmt: skip
_SEED_TOKENS = ("<seed:pad>", "<seed:bos>", "<seed:eos>", "<seed:think>", "</seed:think>")
HARMONY_TOKENS = ("<|endoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>")
_DEEPSEEK_TOKENS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")


@dataclass(frozen=True, kw_only=True)
class Family:
    """A template with its tokenizer, and what the start check should find out about it."""

    template: str
    special: tuple[str, ...]
    """Special tokens; the first one pads."""
    eos: str
    bos: str | None = None
    added: tuple[str, ...] = ()
    """Added tokens that are not special."""
    make: Callable[..., Any] = make_byte_tokenizer
    kwargs: dict[str, Any] = field(default_factory=dict)
    """``data.apply_chat_template_kwargs``."""
    placement: str = "system"
    role: str = "user"
    end: str
    """How a turn ends."""
    closing: str | None = None
    """What is inserted where an attempt ends otherwise; by default ``end``."""
    lead: str = ""
    """What the model writes before its answer, in the history too."""
    thought_marks: tuple[str, str] = ("", "</think>")
    """Around a thought of the model."""
    verbatim: bool = True
    """Whether the template writes attempts as they were sampled, whatever their text, and the last one's end."""
    rewrites: bool = False
    """Whether the template writes earlier attempts otherwise than they were sampled even where there is no white space
    around them."""
    findings: tuple[str, ...] = ()
    """Beginnings of what is found, in order."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; the same at every call."""
        return self.make(self.template, self.special, added=self.added, eos=self.eos, bos=self.bos)

    @property
    def exact_spaces(self) -> bool:
        """Whether decoding parts of a text gives the parts of the text."""
        return self.make is make_byte_tokenizer


NO_SYSTEM = "There can be no system message ("
THOUGHTS = "The template removes what was thought"
PREFILL = "The generation prompt ends with"
TRIMS = "The template trims white space"
SPECIAL_MARKS = "The tokenizer holds "

FAMILIES = {
    "Qwen2.5": Family(template=QWEN25, special=_CHATML_TOKENS, eos="<|im_end|>", role="system", end="<|im_end|>",
                      closing="<|im_end|>\n",
                      findings=("The template writes a system prompt of its own where there is none ('You are",)),
    "Qwen3": Family(template=QWEN3, special=_CHATML_TOKENS, added=("<think>", "</think>"), eos="<|im_end|>",
                    role="system", end="<|im_end|>", closing="<|im_end|>\n", verbatim=False),
    "Qwen3 without thinking": Family(
        template=QWEN3, special=_CHATML_TOKENS, added=("<think>", "</think>"), eos="<|im_end|>", role="system",
        end="<|im_end|>", closing="<|im_end|>\n", verbatim=False, rewrites=True, kwargs={"enable_thinking": False},
        findings=(PREFILL + r" '<think>\n\n</think>\n\n'",)),
    "Qwen3 thinking": Family(
        template=QWEN3_THINKING, special=_CHATML_TOKENS, added=("<think>", "</think>"), eos="<|im_end|>",
        role="system", end="<|im_end|>", closing="<|im_end|>\n", verbatim=False, rewrites=True,
        findings=(PREFILL + r" '<think>\n'",)),
    "Llama 3": Family(template=LLAMA3, special=_LLAMA3_TOKENS, bos="<|begin_of_text|>", eos="<|eot_id|>",
                      role="system", end="<|eot_id|>", verbatim=False, findings=(TRIMS,)),
    "Llama 3.1": Family(template=LLAMA31, special=_LLAMA3_TOKENS, bos="<|begin_of_text|>", eos="<|eot_id|>",
                        role="system", end="<|eot_id|>", verbatim=False,
                        findings=("The template writes today's date", TRIMS)),
    "Gemma": Family(template=GEMMA, special=_GEMMA_TOKENS, bos="<bos>", eos="<end_of_turn>",
                    make=make_space_tokenizer, placement="user", end="<end_of_turn>", closing="<end_of_turn>\n",
                    verbatim=False, findings=(NO_SYSTEM + "System role not supported", TRIMS)),
    "Gemma 3": Family(template=GEMMA3, special=_GEMMA_TOKENS, bos="<bos>", eos="<eos>", end="<end_of_turn>",
                      closing="<end_of_turn>\n", verbatim=False, findings=(TRIMS,)),
    "Mistral": Family(template=MISTRAL, special=("<unk>", "<s>", "</s>"), bos="<s>", eos="</s>",
                      make=make_space_tokenizer, placement="user", end="</s>", verbatim=False,
                      findings=(NO_SYSTEM + "roles must alternate",
                                "The template marks a user message by text ('[INST]'")),
    "Mistral v3": Family(template=MISTRAL_V3, special=("<unk>", "<s>", "</s>", "[INST]", "[/INST]"), bos="<s>",
                         eos="</s>", make=make_space_tokenizer, placement="user", end="</s>", verbatim=False,
                         findings=(NO_SYSTEM + "the template moves the system message", TRIMS)),
    "Llama 2": Family(template=LLAMA2, special=("<unk>", "<s>", "</s>"), bos="<s>", eos="</s>",
                      make=make_space_tokenizer, end="</s>", verbatim=False, findings=(TRIMS,)),
    "DeepSeek": Family(template=DEEPSEEK, special=_DEEPSEEK_TOKENS, added=("<｜User｜>", "<｜Assistant｜>"),
                       bos=_DEEPSEEK_TOKENS[0], eos=_DEEPSEEK_TOKENS[1], end=_DEEPSEEK_TOKENS[1]),
    "DeepSeek-R1": Family(template=DEEPSEEK_R1, special=_DEEPSEEK_TOKENS,
                          added=("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"), bos=_DEEPSEEK_TOKENS[0],
                          eos=_DEEPSEEK_TOKENS[1], end=_DEEPSEEK_TOKENS[1], verbatim=False, rewrites=True,
                          findings=(THOUGHTS, PREFILL + r" '<think>\n'")),
    "GLM": Family(template=GLM, special=("<|endoftext|>", "[gMASK]", "<|system|>", "<|user|>", "<|assistant|>"),
                  eos="<|endoftext|>", end="<|user|>", verbatim=False,
                  findings=("The template ends a turn by the header of the next one: an attempt ends with '<|user|>'.",
                            )),
    "Cohere": Family(
        template=COHERE, special=_COHERE_TOKENS, bos="<BOS>", eos="<|END_OF_TURN_TOKEN|>", role="system",
        end="<|END_RESPONSE|>", closing="<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", verbatim=False,
        lead="<|START_RESPONSE|>", thought_marks=("<|START_THINKING|>", "<|END_THINKING|>"),
        findings=("The template writes '<|START_RESPONSE|>' before an answer and not at the end of the generation",
                  SPECIAL_MARKS + "<|START_THINKING|> and <|END_THINKING|> for special")),
    "Seed": Family(
        template=SEED, special=_SEED_TOKENS, eos="<seed:eos>", role="system", end="<seed:eos>", verbatim=False,
        thought_marks=("<seed:think>", "</seed:think>"),
        findings=(THOUGHTS + " (<seed:think> ... </seed:think>)",
                  SPECIAL_MARKS + "<seed:think> and </seed:think> for special")),
    "gpt-oss, final channel only": Family(
        template=HARMONY_FINAL, special=HARMONY_TOKENS, eos="<|return|>", end="<|end|>", verbatim=False),
    "fussy": Family(template=FUSSY, special=("<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
                    eos="<|end|>", end="<|end|>", verbatim=False),
    "plain": Family(template=PLAIN, special=("<pad>", "<eos>"), eos="<eos>", role="system", end="<eos>", closing="\n\n",
                    verbatim=False,
                    findings=("The template ends a turn by no token", "The template marks a system message by text")),
}  # fmt: skip

_LLAMA3_PROMPT = "<|start_header_id|>assistant<|end_header_id|>\n\n"
REOPENED = {
    "Qwen2.5": "<|im_start|>assistant\n", "Qwen3": "<|im_start|>assistant\n",
    "Qwen3 without thinking": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "Qwen3 thinking": "<|im_start|>assistant\n<think>\n", "Llama 3": _LLAMA3_PROMPT, "Llama 3.1": _LLAMA3_PROMPT,
    "Gemma": "<start_of_turn>model\n", "Gemma 3": "<start_of_turn>model\n", "DeepSeek": "<｜Assistant｜>",
    "DeepSeek-R1": "<｜Assistant｜><think>\n", "plain": "Assistant:",
    "Cohere": "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "Seed": "<seed:bos>assistant\n",
    "gpt-oss, final channel only": "<|start|>assistant<|channel|>final<|message|>",
}  # fmt: skip
"""What opens a turn of the model right after its last one, in the families that can do that."""

# Behaviours of no family in particular, all with ChatML's tokens (`odd_tokenizer`).

_CHATML = "{% for message in messages %}" + _CHATML_TURN + "{% endfor %}"
_OTHERS_ARE_MINE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + ('user' if message['role'] == 'user' else 'assistant') + '\n' }}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
) + _CHATML_PROMPT
# The last user message, whichever it is, ends with a reminder.
REMINDER = (
    "{% set ns = namespace(last=-1) %}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{% if loop.index0 == ns.last %}{{ '\nThink step by step.' }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
) + _CHATML_PROMPT
_CHATML_ANSWER = _CHATML.replace(
    "message['content']", "(ANSWER if message['role'] == 'assistant' else message['content'])"
)


def _answers_as(expression: str) -> str:
    return _CHATML_ANSWER.replace("ANSWER", expression) + _CHATML_PROMPT


REFUSED = {
    "old ChatML, no generation prompt": (_CHATML, "the template writes no generation prompt (it ignores", 0),
    "generation prompt for the first answer only": (
        _CHATML + "{% if messages | length < 3 %}" + _CHATML_PROMPT + "{% endif %}",
        "the template writes no generation prompt (it ignores", 0),
    "last message only": (
        _CHATML.replace("in messages", "in messages[-1:]") + _CHATML_PROMPT,
        "the template leaves out the question once feedback follows", 0),
    "first and last four messages": (
        "{% if messages | length > 5 %}{% set messages = [messages[0]] + messages[-4:] %}{% endif %}" + _CHATML
        + _CHATML_PROMPT, "with 4 attempts the template leaves out attempt 1", 3),
    "question forgotten": (
        _CHATML.replace("in messages", "in messages if messages | length < 9 or message['content'][:5] != 'What '")
        + _CHATML_PROMPT, "with 5 attempts the template leaves out the question", 4),
    "earlier feedback left out": (
        _CHATML.replace("{{", "{% if loop.index0 < 2 or loop.last or message['role'] == 'assistant' %}{{", 1)
        .replace("{% endfor %}", "{% endif %}{% endfor %}") + _CHATML_PROMPT,
        "with 3 attempts the template leaves out the feedback on attempt 1", 2),
    "no more than seven messages": (
        "{% if messages | length > 7 %}{{ raise_exception('too\nlong') }}{% endif %}" + _CHATML + _CHATML_PROMPT,
        "with 5 attempts: too long", 4),
    "rounds are numbered": (
        _CHATML.replace("message['content']", "'(' ~ loop.index ~ ') ' + message['content']") + _CHATML_PROMPT,
        "the template writes other tokens after a later attempt than after the first", 2),
    "hurries at the fourth attempt": (
        _CHATML + "{% if messages | length > 6 %}{{ 'Hurry. ' }}{% endif %}" + _CHATML_PROMPT,
        "the template writes other tokens after a later attempt than after the first", 3),
    "answers left out": (
        _CHATML.replace("in messages", "in messages if message['role'] != 'assistant'") + _CHATML_PROMPT,
        "", 0),
    "cannot do without a generation prompt": (
        "{% if not add_generation_prompt %}{{ raise_exception('nothing to say') }}{% endif %}" + _CHATML
        + _CHATML_PROMPT, "nothing to say", 0),
    "turns ended by a piece of a word": (
        "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + 'ed' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
        "the tokenizer joins the answer with what the template writes after it ('ed", 0),
}  # fmt: skip
"""Templates that cannot hold an episode of five attempts; the reason; and how many attempts they can."""


def _texts_as(expression: str, role: str | None = None) -> str:
    condition = f"message['role'] == '{role}'" if role else "message['role'] != 'assistant'"
    return (
        "{% for message in messages %}{% set text = message['content'] %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% if "
        + condition
        + " %}{{ "
        + expression
        + " }}{% else %}{{ text }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    ) + _CHATML_PROMPT


CHANGING_TEXTS = {
    "first line of a system message": (_texts_as("text.split('\n')[0]", "system"), "user", "system"),
    "60 characters of a system message": (_texts_as("text[:60]", "system"), "user", "system"),
    "20 characters of a system message": (_texts_as("text[:20]", "system"), "user", "user"),
    "system message escaped": (_texts_as("text | e", "system"), "user", "system"),
    "system message in small letters": (_texts_as("text | lower", "system"), "user", "user"),
    "line breaks of a system message": (_texts_as("text.replace('\n', ' ')", "system"), "user", "system"),
    "escaped": (_texts_as("text | e"), "B = {x", None),
    "as JSON": (_texts_as("text | tojson"), "A = {1, 2}", None),
    "braces left out": (_texts_as("text | replace('{', '')"), "{1, 2}", None),
    "tabulators": (_texts_as("text.replace('\t', ' ')"), r"\t* 50%", None),
    "40 characters of a user message": (_texts_as("text[:40]", "user"), "a user message, or cuts it, from ", None),
    "1,000 characters": (_texts_as("text[:1000]"), "a user message, or cuts it, from ", None),
}  # fmt: skip
"""Templates that change the user's texts, all or those of a role; what is chosen instead, or what a refusal tells."""

NOT_THE_MODELS = {
    "system messages as the assistant's": (_OTHERS_ARE_MINE, "user", "user"),
    "late system messages as the assistant's": (
        "{% if messages[0]['role'] == 'system' %}{{ '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
        "{% set messages = messages[1:] %}{% endif %}" + _OTHERS_ARE_MINE, "system", "user"),
    "everything but questions without a mark": (
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '<|im_start|>' + message['content'] + '<|im_start|>' }}{% else %}{{ message['content'] + '<|im_end|>' }}"
        "{% endif %}{% endfor %}", "user", "user"),
    "no generation prompt after a system message": (
        _CHATML + "{% if messages[-1]['role'] == 'user' %}" + _CHATML_PROMPT + "{% endif %}", "system", "user"),
}  # fmt: skip
"""Templates that write what is not the model's as the model's turn, or open none; what is chosen instead."""

REWRITING = {
    "thoughts in brackets": (
        _answers_as("message['content'].split('[/THINK]')[-1]"),
        "The template removes what was thought ([THINK] ... [/THINK]) from earlier attempts."),
    "thoughts in bars": (
        _answers_as("message['content'].split('<|end_of_thought|>')[-1]"),
        "The template removes what was thought (<|begin_of_thought|> ... <|end_of_thought|>) from earlier attempts."),
    "thoughts in marks of its own": (
        _answers_as("message['content'].split('</musing>')[-1]"),
        "The template removes what stands before </musing>, as a thought, from earlier attempts."),
    "answers cut": (
        _answers_as("message['content'][:20]"), "it leaves out '1005 1006 1007"),
    "answers cut later": (
        _CHATML_ANSWER.replace("ANSWER", "message['content'][:20 if loop.index0 + 5 < messages | length else 2000]")
        + _CHATML_PROMPT, "it leaves out '1005 1006 1007"),
    "messages counted at the start": (
        "{{ 'Messages: ' ~ (messages | length) ~ '\n' }}" + _CHATML + _CHATML_PROMPT,
        "it writes 'Messages: 10' for 'Messages: 2'."),
    "empty thought before earlier answers": (
        _answers_as("'<think></think>' + message['content']"), "it adds '<think></think>'."),
    "feedback gathered at the start, too": (
        "{% for message in messages if message['role'] == 'system' %}{{ '[' + message['content'] + ']' }}{% endfor %}"
        + _CHATML + _CHATML_PROMPT, "With multiattempt.feedback.role=user this template changes nothing."),
}  # fmt: skip
"""Templates that write the past otherwise, with which one can train; what is told."""

UNMARKED = "{% for message in messages %}{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
"""Tells nobody's messages apart."""


def odd_tokenizer(template: str) -> Any:
    """A tokenizer with ChatML's tokens and this template; the same at every call."""
    return make_byte_tokenizer(template, _CHATML_TOKENS, eos="<|im_end|>")
