"""Evaluation: models, and the benchmarks they are measured on, through the same episodes as training."""
