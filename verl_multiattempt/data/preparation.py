"""What is to be prepared: the source, its columns, and what is kept."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from verl_multiattempt.data.benchmarks import RECIPES, Columns
from verl_multiattempt.data.filters import ALL_LEVELS, level_filter
from verl_multiattempt.data.sources import Source

NGRAM, SHARE = 13, 0.5
"""Words in an n-gram, and the share of the shorter question's n-grams that is an overlap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What is to be prepared. The defaults are the command's."""

    name: str
    """The rows' ``data_source``."""
    source: Source
    columns: Columns
    out: Path
    published_rows: int | None = None
    """Rows that the source should have."""
    levels: str = ALL_LEVELS
    drop_duplicates: bool = False
    exclude: tuple[str, ...] = ()
    ngram: int = NGRAM
    share: float = SHARE
    max_prompt_tokens: int | None = None
    tokenizer: str | None = None
    check_golds: bool = True
    skip_bad: bool = False
    sample: int | None = None
    seed: int = 0
    system: str | None = None
    suffix: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name, flags=re.ASCII):
            raise ValueError(
                f"NAME must be of letters, digits, _, - and ., since metrics are named after it; got {self.name!r}"
            )
        if self.out.suffix != ".parquet":
            raise ValueError(f"--out must end in .parquet; got {str(self.out)!r}")
        level_filter(self.levels)
        for option, value in (("sample", self.sample), ("max-prompt-tokens", self.max_prompt_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"--{option} must be at least 1; got {value!r}")
        if self.ngram < 2:
            raise ValueError(f"--ngram must be at least 2 words; got {self.ngram!r}. The default is {NGRAM}.")
        if not (math.isfinite(self.share) and 0 < self.share <= 1):
            raise ValueError(f"--overlap must be above 0 and at most 1; got {self.share!r}. The default is {SHARE}.")
        if (self.max_prompt_tokens is None) != (self.tokenizer is None):
            raise ValueError("--max-prompt-tokens and --tokenizer must be given together; got one of them alone")

    def settings(self) -> dict[str, Any]:
        """For the card: what besides the source decides what is written."""
        columns = {each.name: list(getattr(self.columns, each.name)) for each in fields(Columns)}
        columns["gold"] = list(map(str, self.columns.gold))
        names = ("levels", "drop_duplicates", "ngram", "share", "max_prompt_tokens", "tokenizer", "check_golds",
                 "skip_bad", "sample", "seed", "system", "suffix")  # fmt: skip
        return {"columns": columns, **{name: getattr(self, name) for name in names}}


def recipe_preparation(name: str, out: Path, *, source: Source | None = None, **changes: Any) -> Preparation:
    """The preparation that a built-in recipe stands for.

    Args:
        name: of the recipe.
        out: path of the parquet file.
        source: another one than the recipe's.
        changes: fields of `Preparation` that differ from the recipe's.

    Raises:
        ValueError: there is no such recipe, or a field cannot work.
    """
    if name not in RECIPES:
        raise ValueError(f"NAME must be one of {', '.join(RECIPES)} where --from is not given; got {name!r}")
    recipe = RECIPES[name]
    published = Source(names=(recipe.hub,), config=recipe.config, split=recipe.split)
    values: dict[str, Any] = {
        "source": source or published,
        "columns": recipe.columns,
        "levels": recipe.levels or ALL_LEVELS,
        "published_rows": recipe.num_rows if source in (None, published) else None,
    }
    return Preparation(name=name, out=out, **{**values, **changes})
