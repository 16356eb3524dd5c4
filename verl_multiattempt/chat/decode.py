"""The tokens of an episode as text, segment by segment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from verl_multiattempt.chat.tokens import Segment as TokenSegment
from verl_multiattempt.record import Segment


def decode_segments(tokenizer: Any, segments: Sequence[TokenSegment]) -> list[Segment]:
    """The segments with their text; the texts joined are the whole sequence decoded."""
    decoded = []
    before: tuple[int, ...] = ()
    for segment in segments:
        # With the token before it: at the start of a text some tokenizers leave a space out.
        head, text = _decode(tokenizer, before), _decode(tokenizer, before + segment.ids)
        text = text[len(head) :] if text.startswith(head) else _decode(tokenizer, segment.ids)
        decoded.append(Segment(kind=segment.kind, text=text, num_tokens=len(segment.ids)))
        before = segment.ids[-1:] or before
    return decoded


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
