"""From messages to tokens: what the chat template writes around attempts, and the tokens of an episode."""
