r"""The ``math`` verifier: ``\boxed{}`` answers against golds as published.

========================  ==============================================================================
`text`, `spelling`        LaTeX as written, to tokens; tables of equal spellings
`expression`, `values`    tokens to a tree, and the tree's value (exact, or mpmath)
`forms`                   what an answer can be: number, list, interval, matrix, relation, ...
`structure`, `leaf`       tokens to such a form; units, percent signs and bases of a number
`compare`, `rounding`     whether two forms are the same answer; roundings
`computed`                equality of expressions with variables or irrational numbers (in a worker)
`decide`                  the quick decision in the caller's process and the whole one in a worker
`verifier`                `MathVerifier`
========================  ==============================================================================
"""

from verl_multiattempt.math_verifier.verifier import MathVerifier

__all__ = ["MathVerifier"]
