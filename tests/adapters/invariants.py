"""The token invariants of the design, checked on one rollout token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from verl_multiattempt.adapters.chat import ChatScaffold
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
    """
    tokenizer = scaffold.tokenizer
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
    messages = list(opening)
    for i in range(last + 1):
        ended = bool(kept[i]) and kept[i][-1] in scaffold.end_ids
        content = tokenizer.decode(kept[i][:-1] if ended else kept[i], skip_special_tokens=False)
        messages.append({"role": "assistant", "content": content})
        if i < last:
            assert episode.attempts[i].feedback is not None
            messages.append({"role": feedback_role, "content": episode.attempts[i].feedback})
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    decoded = tokenizer.decode([*prompt_ids, *response_ids], skip_special_tokens=False)
    assert rendered.startswith(decoded)
    boundary = rendered[len(decoded) :]
    end_of_turn = tokenizer.decode([next(iter(scaffold.between_attempts("x")))])
    assert boundary.strip() in ("", end_of_turn)

    # 5: no attempt holds a control token but as its last token, and no feedback is the model's.
    special = scaffold.end_ids | scaffold.control_ids
    for ids in kept:
        assert not any(token in special for token in ids[:-1])
