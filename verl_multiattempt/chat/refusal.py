"""Why a chat template cannot be used, as a sentence with the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from verl_multiattempt.chat.layout import USER


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why episodes cannot be rendered with a layout."""

    reason: str
    whatever_role: bool = False
    """No other role of the feedback would help."""
    fits: int = 0
    """Attempts that can be rendered, where it is their number that is refused."""
    remedy: str = ""
    """What another template should have."""


def refusal_text(refusals: Mapping[tuple[str, str], Refusal], feedback_role: str, max_attempts: int) -> str:
    """The sentence about a template that renders no layout."""
    tried = {role: refusal for (placement, role), refusal in refusals.items() if placement == USER}
    # What no role would help against says it all.
    tried = {role: refusal for role, refusal in tried.items() if refusal.whatever_role} or tried
    told = "; ".join(f"{role}: {refusal.reason}" for role, refusal in tried.items())
    fits = max(refusal.fits for refusal in refusals.values())
    if not any(refusal.whatever_role for refusal in tried.values()):
        return (
            "multiattempt.feedback.role must be a role that the chat template renders after an assistant message; "
            f"got {feedback_role!r} ({told}). Set it to auto, or use another chat template."
        )
    if len({refusal.reason for refusal in tried.values()}) == 1:
        told = next(iter(tried.values())).reason
    return (
        f"actor_rollout_ref.model.path must name a model whose chat template renders an episode of {max_attempts} "
        f"attempts; got one that does not ({told}). Set actor_rollout_ref.model.custom_chat_template to another one"
        + next((refusal.remedy for refusal in tried.values() if refusal.remedy), "")
        + (f", or multiattempt.max_attempts and val_max_attempts to at most {fits}." if fits else ".")
    )
