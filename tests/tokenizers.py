"""Small tokenizers made on the spot, and the chat templates that tests need."""

from __future__ import annotations

import json
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
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


@cache
def make_byte_tokenizer(
    template: str, special: tuple[str, ...], *, added: tuple[str, ...] = (), eos: str, bos: str | None = None
) -> PreTrainedTokenizerFast:
    """A byte-level BPE, as Qwen's, Llama 3's and DeepSeek's; by itself it puts ``bos`` before every text, as Llama 3's.

    Args:
        template: chat template.
        special: special tokens; the first one pads.
        added: added tokens that are not special.
        eos: end of a sequence.
        bos: beginning of a sequence.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS * 4, trainer)
    return _finish(tokenizer, template, special, added, eos, bos)


@cache
def make_space_tokenizer(
    template: str, special: tuple[str, ...], *, added: tuple[str, ...] = (), eos: str, bos: str | None = None
) -> PreTrainedTokenizerFast:
    """A BPE over characters in which a space is part of the next word, as Llama 2's, Mistral's and Gemma's.

    A space is put before every text and after every special token, and decoding takes the first one away.
    Arguments as for `make_byte_tokenizer`.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    letters = [chr(i) for i in range(33, 127)] + ["\u2581", "\n"]
    trained.train_from_iterator(
        _CORPUS * 4, trainers.BpeTrainer(vocab_size=300, initial_alphabet=letters, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    tokens = [f"<0x{byte:02X}>" for byte in range(256)] + sorted(model["vocab"], key=model["vocab"].get)
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate(tokens)},
            merges=[tuple(merge) for merge in model["merges"]],
            byte_fallback=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _finish(tokenizer, template, special, added, eos, bos)


def _finish(
    tokenizer: Tokenizer, template: str, special: tuple[str, ...], added: tuple[str, ...], eos: str, bos: str | None
) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=eos,
        bos_token=bos,
        pad_token=special[0],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )
