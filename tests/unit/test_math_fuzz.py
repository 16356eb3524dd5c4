"""Whatever a model writes gets a decision: nothing but the documented exceptions leaves `decide`."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from verl_multiattempt.math_verifier.decide import decide, decide_exactly, find_answer
from verl_multiattempt.math_verifier.rounding import Tolerance
from verl_multiattempt.math_verifier.text import Unreadable

PIECES = r"""
\frac \sqrt \text{ \left \right ( ) [ ] \{ \} { } , ; : . = < > \le \ge \ne \cup \cap \setminus \in \pm \mp | ! % \%
\$ $ ^ _ ' " + - * / & \\ \begin{pmatrix} \end{pmatrix} \begin{cases} \end{cases} \sin \cos \log \ln \lfloor \rfloor
\overline{ \circ ^\circ \infty \pi \emptyset \mathbb{R} \binom \over \bmod \pmod \approx \ldots ... and or x y n e i C A
0 1 2 10 0.5 .5 1,000 cm million no solution \text{cm} \text{and} \overline{3} ~ \, \! {,}
""".split()  # noqa: SIM905
expressions = st.lists(st.sampled_from(PIECES), max_size=14).flatmap(
    lambda pieces: st.lists(st.sampled_from(["", "", " "]), min_size=len(pieces), max_size=len(pieces)).map(
        lambda gaps: "".join(piece + gap for piece, gap in zip(pieces, gaps, strict=True))
    )
)
texts = st.one_of(expressions, st.text(max_size=30))


@settings(max_examples=1500, deadline=None)
@given(answer=texts, gold=texts)
@example(answer=",;:,", gold="5")
@example(answer="{,}{,}", gold="5")
@example(answer="9!!!!", gold="5")
def test_every_answer_gets_a_decision(answer: str, gold: str) -> None:
    try:
        quick = decide_exactly(answer, gold, Tolerance())
        full = decide(answer, gold, Tolerance())
    except Unreadable:
        return  # the gold's fault
    if quick is not None:
        assert quick == full


@settings(max_examples=500, deadline=None)
@given(answer=texts)
def test_an_answer_equals_itself_with_other_white_space(answer: str) -> None:
    assert decide(f" {answer} ", answer, Tolerance())


@settings(max_examples=500, deadline=None)
@given(text=st.lists(st.sampled_from(["\\boxed{", "\\boxed {", "{", "}", "\\{", "5", " ", "\\"]), max_size=30))
def test_finding_the_answer_gives_either_it_or_feedback(text: list[str]) -> None:
    answer, feedback = find_answer("".join(text))
    assert (answer is None) != (feedback is None)
