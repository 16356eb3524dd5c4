"""Loading the tokenizer as verl's workers do, and checking the lengths of a conversation against model and engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from verl_multiattempt.adapters.dataset_check import DataFiles
from verl_multiattempt.chat.layout_check import check_layout
from verl_multiattempt.chat.scaffold import ChatScaffold
from verl_multiattempt.feedback import feedback_text
from verl_multiattempt.settings import Settings


def load_scaffold(config: DictConfig, settings: Settings) -> ChatScaffold:
    """The chat scaffold with the real tokenizer.

    Raises:
        ValueError: there is no such tokenizer, or its chat template cannot render an episode.
    """
    from verl_multiattempt.adapters.agent_loop import scaffold_for

    tokenizer = _tokenizer(config)
    scaffold = scaffold_for(settings, tokenizer, config.data.get("apply_chat_template_kwargs", {}))
    for token in settings.allowed_special_tokens:
        if tokenizer.convert_tokens_to_ids(token) in (None, tokenizer.unk_token_id):
            raise ValueError(f"multiattempt.allowed_special_tokens must be tokens of the tokenizer; got {token!r}")
    return scaffold


def _tokenizer(config: DictConfig) -> Any:
    from verl.utils import hf_tokenizer
    from verl.utils.fs import copy_to_local

    model = config.actor_rollout_ref.model
    path = model.get("tokenizer_path") or model.path
    try:
        local = copy_to_local(path, use_shm=model.get("use_shm", False))
        tokenizer = hf_tokenizer(local, trust_remote_code=model.get("trust_remote_code", False))
    except Exception as error:  # hub, file system and tokenizer errors of many kinds
        raise ValueError(
            f"actor_rollout_ref.model.path must name a model with a tokenizer; got {path!r}: {error}"
        ) from error
    if template := model.get("custom_chat_template"):
        tokenizer.chat_template = template
    return tokenizer


def check_response_length(config: DictConfig, settings: Settings, scaffold: ChatScaffold, own: int = 1) -> None:
    """Refuse a response length that cannot hold two short attempts and the feedback between them.

    Args:
        config: the whole config.
        settings: the task's settings.
        scaffold: for the tokens of the feedback.
        own: the largest allowance that a row sets itself.

    Raises:
        ValueError: see above.
    """
    largest = max(settings.max_attempts, settings.val_max_attempts or 1, own)
    if largest == 1:
        return
    context = len(scaffold.between_attempts(feedback_text(settings.feedback, largest - 1)))
    needed = context + 2 * settings.min_tokens_per_attempt
    got = int(config.data.max_response_length)
    if got < needed:
        raise ValueError(
            f"data.max_response_length must hold two attempts of multiattempt.min_tokens_per_attempt "
            f"({settings.min_tokens_per_attempt}) and the feedback between them ({context} tokens), {needed} in all; "
            f"got {got}. Raise it, or lower multiattempt.min_tokens_per_attempt."
        )


def check_own_allowances(settings: Settings, scaffold: ChatScaffold, data: Mapping[str, DataFiles]) -> None:
    """Refuse rows that allow themselves more attempts than the chat template can hold, in the layout chosen.

    Args:
        settings: whose own allowances were tried already.
        scaffold: the layout chosen.
        data: what was found in the files, by ``train_files`` and ``val_files``.
    """
    for key, files in data.items():
        largest = max(files.own_allowances, default=0)
        if largest <= scaffold.max_attempts:
            continue
        if refusal := check_layout(scaffold.layout, scaffold.samples, largest):
            most = max(refusal.fits, settings.max_attempts, settings.val_max_attempts or 1)
            raise ValueError(
                f"data.{key} must have rows whose extra_info.max_attempts the chat template can hold; got {largest} "
                f"({refusal.reason}). Lower them to at most {most}, or set "
                "actor_rollout_ref.model.custom_chat_template to another template."
            )


def check_context_length(config: DictConfig) -> None:
    """Refuse conversations that the engine would cut where this package does not see it."""
    from transformers import AutoConfig
    from verl.utils.fs import copy_to_local
    from verl.workers.rollout.utils import get_max_position_embeddings

    model, rollout = config.actor_rollout_ref.model, config.actor_rollout_ref.rollout
    prompt, response = int(config.data.max_prompt_length), int(config.data.max_response_length)
    limit = rollout.get("max_model_len")
    if limit is not None and limit <= prompt:
        raise ValueError(
            f"actor_rollout_ref.rollout.max_model_len must be above data.max_prompt_length ({prompt}), or a prompt of "
            f"that length leaves no token for an answer; got {limit}. Raise it, or lower data.max_prompt_length."
        )
    try:
        local = copy_to_local(model.get("hf_config_path") or model.path, use_shm=model.get("use_shm", False))
        held = get_max_position_embeddings(
            AutoConfig.from_pretrained(local, trust_remote_code=model.get("trust_remote_code", False))
        )
    except Exception:  # no model there (the tokenizer's check says so), or one that does not tell its length
        return
    if limit is not None:
        # The agent loop knows this limit: episodes are truncated at it.
        if limit > held:
            raise ValueError(
                "actor_rollout_ref.rollout.max_model_len must be at most the model's max_position_embeddings "
                f"({held}); got {limit}. Lower it."
            )
        return
    if prompt + response > held:
        raise ValueError(
            "data.max_prompt_length + data.max_response_length must be at most the model's max_position_embeddings "
            f"({held}), where the engine ends every conversation; got {prompt} + {response}. Lower them, or set "
            f"actor_rollout_ref.rollout.max_model_len={held}."
        )
