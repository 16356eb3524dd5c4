"""Small tokenizers made on the spot, and the chat templates that tests need."""

from __future__ import annotations

import json
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Refuses a system message anywhere but at the start.
CHATML_SYSTEM_FIRST = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and not loop.first %}{{ raise_exception('system must come first') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# No system message at all, strict alternation, no newline after a turn.
STRICT = (
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Renders one user message and nothing else.
ONE_QUESTION = (
    "{% if messages|length > 1 %}{{ raise_exception('one message only') }}{% endif %}"
    "{{ messages[0]['content'] + '<|im_end|>' }}"
)
_CORPUS = [
    "You have 5 attempts to answer the question. Put the final answer of each attempt in \\boxed{}.",
    "Your answer is incorrect. You have 3 attempts left.",
    "Compute 12*34 mod 6 = ? system user assistant the answer is",
]


HEADERS_AND_OTHERS = ("<|im_start|>", "<|tool|>")


@cache
def make_tokenizer(template: str = CHATML, headers_special: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE of some 400 entries with ChatML's control tokens and two more.

    Args:
        template: chat template.
        headers_special: whether ``<|im_start|>`` and ``<|tool|>`` are held for special; DeepSeek-R1-Distill's turn
            headers and ``<think>`` are not.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|tool|>")
    tokenizer.train_from_iterator(
        _CORPUS * 4,
        trainers.BpeTrainer(
            vocab_size=400,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
            show_progress=False,
        ),
    )
    if not headers_special:
        state = json.loads(tokenizer.to_str())
        for token in state["added_tokens"]:
            token["special"] = token["content"] not in HEADERS_AND_OTHERS
        tokenizer = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )
