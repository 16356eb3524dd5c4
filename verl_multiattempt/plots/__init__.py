"""``multiattempt plot``: figures of evaluations and of training."""
