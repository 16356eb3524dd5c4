"""The token invariants of the design, checked on one rollout token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from verl_multiattempt.chat.scaffold import ChatScaffold
from verl_multiattempt.episode import Episode, Stop

CUT_STOPS = (Stop.ANSWER,)
"""Stops after which tokens that the engine returned are dropped."""


def check_rollout(
    *,
    prompt_ids: Sequence[int],
    response_ids: Sequence[int],
    response_mask: Sequence[int],
    response_logprobs: Sequence[float] | None,
    response_length: int,
    episode: Episode,
    opening: Sequence[dict[str, Any]],
    sampled: Sequence[tuple[Sequence[int], Sequence[float]]],
    scaffold: ChatScaffold,
    feedback_role: str,
    verbatim: bool = True,
    exact_spaces: bool = True,
) -> None:
    """Assert invariants 1 to 5 of the design.

    Args:
        prompt_ids: ids of the prompt.
        response_ids: ids of the response.
        response_mask: 1 on sampled tokens.
        response_logprobs: as long as the mask, or None.
        response_length: the limit.
        episode: the episode's record.
        opening: the messages that the prompt renders.
        sampled: for each attempt, every token that the engine returned in it, with log-probabilities.
        scaffold: the tokens of the chat template.
        feedback_role: role of the feedback.
        verbatim: whether the template writes what was sampled in earlier attempts, whatever it is.
        exact_spaces: whether decoding parts of a sequence gives the parts of its text; some tokenizers put a space
            before every part.
    """
    used = episode.attempts_used
    assert used == len(sampled)

    # 1: exactly the sampled ids, with their log-probabilities, are what is trained on.
    kept = [list(ids)[: attempt.num_tokens] for (ids, _), attempt in zip(sampled, episode.attempts, strict=True)]
    for ids, (all_ids, _), attempt in zip(kept, sampled, episode.attempts, strict=True):
        assert attempt.stop in CUT_STOPS or ids == list(all_ids)
    trained = [token for token, mask in zip(response_ids, response_mask, strict=True) if mask]
    assert trained == [token for ids in kept for token in ids]
    if response_logprobs is not None:
        expected = [value for (_, values), ids in zip(sampled, kept, strict=True) for value in list(values)[: len(ids)]]
        got = [value for value, mask in zip(response_logprobs, response_mask, strict=True) if mask]
        assert len(got) == len(expected)
        assert all(abs(a - b) < 1e-6 for a, b in zip(got, expected, strict=True))

    # 2: everything else has mask 0 and log-probability 0.0, and the lengths agree.
    assert len(response_ids) == len(response_mask) <= response_length
    assert set(response_mask) <= {0, 1}
    if response_logprobs is not None:
        assert len(response_logprobs) == len(response_ids)
        assert all(value == 0.0 for value, mask in zip(response_logprobs, response_mask, strict=True) if not mask)

    # 3: the reward lands on a sampled token.
    assert response_mask[-1] == 1

    # 4: decoded, it is what the template renders, up to the boundary after the last attempt.
    last = max(i for i, ids in enumerate(kept) if ids)
    feedbacks = [attempt.feedback for attempt in episode.attempts[:last]]
    assert all(feedback is not None for feedback in feedbacks)
    contexts = _contexts(response_ids, [len(ids) for ids in kept[: last + 1]], response_mask)
    _check_contexts(prompt_ids, contexts, kept, opening, feedbacks, feedback_role, scaffold, exact_spaces)
    if verbatim:
        _check_verbatim([*prompt_ids, *response_ids], kept[: last + 1], opening, feedbacks, feedback_role, scaffold)

    # 5: no attempt holds a control token but as its last token, and no feedback is the model's.
    special = scaffold.end_ids | scaffold.control_ids
    for ids in kept:
        assert not any(token in special for token in ids[:-1])


def _contexts(ids: Sequence[int], lengths: Sequence[int], mask: Sequence[int]) -> list[list[int]]:
    """What stands before each attempt but the first; attempts without a token leave no gap, so theirs come together."""
    contexts: list[list[int]] = []
    position = 0
    for length in lengths:
        start = position
        while length and not mask[position]:
            position += 1
        contexts.append(list(ids[start:position]))
        position += length
    return contexts


def _check_contexts(
    prompt_ids: Sequence[int],
    contexts: Sequence[Sequence[int]],
    kept: Sequence[Sequence[int]],
    opening: Sequence[dict[str, Any]],
    feedbacks: Sequence[str | None],
    role: str,
    scaffold: ChatScaffold,
    exact_spaces: bool,
) -> None:
    """Assert that before each attempt stands what the template, which may rewrite the attempts, renders there."""

    def plain(text: str) -> str:
        return text if exact_spaces else text.replace(" ", "")

    def shown(messages: Sequence[dict[str, Any]]) -> str:
        ids = scaffold.tokenizer.apply_chat_template(
            list(messages), tokenize=True, return_dict=False, **scaffold.template_kwargs, add_generation_prompt=True
        )
        return str(scaffold.tokenizer.decode(ids))

    assert plain(scaffold.tokenizer.decode(list(prompt_ids))) == plain(shown(opening))
    messages, expected, sampled_end = list(opening), "", ""
    for i, context in enumerate(contexts[1:]):
        # Of each attempt only its number is rendered.
        messages.append({"role": "assistant", "content": f"number {i}"})
        messages.append({"role": role, "content": feedbacks[i]})
        after = shown(messages).split(f"number {i}")[1]
        ended = bool(kept[i]) and kept[i][-1] in scaffold.end_ids and scaffold.tokenizer.decode([kept[i][-1]]) in after
        sampled_end = scaffold.tokenizer.decode([kept[i][-1]]) if ended else ""
        expected += plain(after)[len(plain(after.partition(sampled_end)[0] + sampled_end)) if ended else 0 :]
        if context:
            assert plain(scaffold.tokenizer.decode(list(context))) == expected
            expected = ""
        else:
            assert not kept[i + 1]


def _check_verbatim(
    ids: Sequence[int],
    kept: Sequence[Sequence[int]],
    opening: Sequence[dict[str, Any]],
    feedbacks: Sequence[str | None],
    role: str,
    scaffold: ChatScaffold,
) -> None:
    """Assert that the whole sequence is the template's rendering of the messages."""
    tokenizer = scaffold.tokenizer
    messages = list(opening)
    for i, attempt in enumerate(kept):
        ended = bool(attempt) and attempt[-1] in scaffold.end_ids
        content = tokenizer.decode(attempt[:-1] if ended else attempt, skip_special_tokens=False)
        messages.append({"role": "assistant", "content": content})
        if i < len(feedbacks):
            messages.append({"role": role, "content": feedbacks[i]})
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    decoded = tokenizer.decode(ids, skip_special_tokens=False)
    assert rendered.startswith(decoded)
    boundary = rendered[len(decoded) :]
    end_of_turn = tokenizer.decode([next(iter(scaffold.between_attempts("x")))])
    assert boundary.strip() in ("", end_of_turn)
