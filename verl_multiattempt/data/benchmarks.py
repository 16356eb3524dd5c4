"""The built-in recipes: where a benchmark is published, and how its rows are read.

The same benchmark circulates with other column names (``problem`` or ``question``, a gold in ``answer`` or in the
solution's box), so that a recipe names them all, in order of preference.
"""

from __future__ import annotations

from dataclasses import dataclass

from verl_multiattempt.data.gold import GoldRule

QUESTION_COLUMNS = ("problem", "question")
ID_COLUMNS = ("unique_id", "id", "problem_id", "ID", "idx", "problem_idx")
LEVEL_COLUMNS = ("level", "difficulty")
SUBJECT_COLUMNS = ("subject", "type", "subfield")


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Names of columns, each in order of preference."""

    question: tuple[str, ...] = QUESTION_COLUMNS
    context: tuple[str, ...] = ()
    """A text to put before the question, where the row has one."""
    gold: tuple[GoldRule, ...] = (GoldRule(column="answer"), GoldRule(column="solution", how="boxed"))
    source_id: tuple[str, ...] = ID_COLUMNS
    level: tuple[str, ...] = LEVEL_COLUMNS
    subject: tuple[str, ...] = SUBJECT_COLUMNS

    def wanted(self) -> tuple[str, ...]:
        """All the columns that are looked at."""
        golds = tuple(rule.column for rule in self.gold)
        return (*self.question, *self.context, *golds, *self.source_id, *self.level, *self.subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A published benchmark or training set."""

    about: str
    hub: str
    """Its name on the hub."""
    config: str | None = None
    split: str
    num_rows: int
    """Rows of that split as published."""
    columns: Columns = Columns()
    levels: str | None = None
    """Levels that are kept where ``--level`` is not given."""


RECIPES = {
    "math_train": Recipe(
        about="MATH, levels 3-5: all questions but MATH-500's, as the paper trains with",
        # The split that MATH-500 comes from: MATH's 7,500 training and the other 4,500 test questions.
        hub="nlile/hendrycks-MATH-benchmark",
        split="train",
        num_rows=12_000,
        levels="3-5",
    ),
    "math500": Recipe(about="MATH-500", hub="HuggingFaceH4/MATH-500", split="test", num_rows=500),
    "aime24": Recipe(about="AIME 2024, I and II", hub="HuggingFaceH4/aime_2024", split="train", num_rows=30),
    # AI-MO/aimo-validation-amc is another set: 83 questions of AMC 12 2022 and 2023.
    "amc23": Recipe(about="AMC 12 2023, with numbers as answers", hub="math-ai/amc23", split="test", num_rows=40),
    "minerva": Recipe(
        about="Minerva Math: university courses (OCW)",
        hub="math-ai/minervamath",
        split="test",
        num_rows=272,
    ),
    "olympiadbench": Recipe(
        about="OlympiadBench: open-ended maths in English, text only",
        # The 675 questions that Qwen2.5-Math's evaluation, and the paper's, is made of. The authors' own set has 674:
        # --from Hothan/OlympiadBench --config OE_TO_maths_en_COMP --split train.
        hub="math-ai/olympiadbench",
        split="test",
        num_rows=675,
        columns=Columns(
            question=("question", "problem"),
            context=("context",),
            gold=(GoldRule(column="final_answer", how="first"), GoldRule(column="answer", how="first")),
            level=(),  # its difficulty is "Competition" throughout
        ),
    ),
    "gsm8k": Recipe(
        about="GSM8K (--split train for its training set)",
        hub="openai/gsm8k",
        config="main",
        split="test",
        num_rows=1_319,
        columns=Columns(gold=(GoldRule(column="answer", how="hashes"),)),
    ),
}
"""By name, which is also the rows' ``data_source``, and so part of the names of metrics."""
