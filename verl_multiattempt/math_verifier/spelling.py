"""Tables of spellings: what is the same sign, command or word."""

# ruff: noqa: RUF001 - the signs that look alike are what these tables are about

from __future__ import annotations

CURRENCY = "\ue003"
"""Stands for a dollar sign."""
CURRENCIES = {CURRENCY: "dollar", "\ue004": "euro", "\ue005": "pound", "\ue006": "yuan", "\ue007": "rupee"}
"""Signs that stand for currencies, and their names."""
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿˣ⁽⁾", "0123456789-+nx()")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋ₙₓ", "0123456789+-nx")


def _aliases(table: str) -> dict[str, str]:
    """``"new: old older"`` on each line, to ``{old: new, older: new}``."""
    pairs = [line.split(": ", 1) for line in table.strip().splitlines()]
    return {alias: name.strip() for name, aliases in pairs for alias in aliases.split()}


UNICODE = {
    sign: command if command in "'\"-/(),\\R" or command.endswith(("}", "]")) else command + " "
    for sign, command in _aliases(
        r"""
        -: − – — ‒ ‐ ‑
        /: ÷ ∕ ⁄
        ': ′ ’ ‘
        ": “ ”
        (: ⟨ 〈
        ): ⟩ 〉
        ,: 、
        \cdot: × · ⋅ ∙ ∗
        \pi: π
        \infty: ∞
        \le: ≤ ⩽
        \ge: ≥ ⩾
        \ne: ≠
        \approx: ≈
        \cup: ∪
        \cap: ∩
        \in: ∈
        \emptyset: ∅ Ø
        \setminus: ∖
        \pm: ±
        \mp: ∓
        ^\circ: ° º
        \sqrt: √
        \sqrt[3]: ∛
        \R: ℝ
        \to: →
        \ldots: …
        \lfloor: ⌊
        \rfloor: ⌋
        \lceil: ⌈
        \rceil: ⌉
        \text{cents}: ¢
        \text{yuan}: 元
        \frac{1}{3}: ⅓
        \frac{2}{3}: ⅔
        \frac{1}{2}: ½
        \frac{1}{4}: ¼
        \frac{3}{4}: ¾
        \frac{1}{5}: ⅕
        \frac{2}{5}: ⅖
        \frac{3}{5}: ⅗
        \frac{4}{5}: ⅘
        \frac{1}{6}: ⅙
        \frac{5}{6}: ⅚
        \frac{1}{8}: ⅛
        \frac{3}{8}: ⅜
        \frac{5}{8}: ⅝
        \frac{7}{8}: ⅞
        \alpha: α
        \beta: β
        \gamma: γ
        \delta: δ
        \epsilon: ε
        \theta: θ
        \lambda: λ
        \mu: μ
        \rho: ρ
        \sigma: σ
        \tau: τ
        \phi: φ ϕ
        \omega: ω
        """
    ).items()
} | {"或": " or ", "和": " and "}  # fmt: skip
UNICODE |= dict(zip("€£¥￥₹＄", "\ue004\ue005\ue006\ue006\ue007\ue003", strict=True))
"""Signs, and the LaTeX they stand for."""
SYNONYMS = _aliases(
    r"""
    frac: dfrac tfrac cfrac sfrac nicefrac
    binom: dbinom tbinom
    cdot: times ast star cdotp
    /: div
    le: leq leqslant leqq
    ge: geq geqslant geqq
    ne: neq
    <: lt
    >: gt
    {: lbrace
    }: rbrace
    [: lbrack
    ]: rbrack
    (: langle lparen
    ): rangle rparen
    |: lvert rvert vert mid
    :: colon ratio
    .: ldotp
    emptyset: varnothing
    infty: infin infinity inf oo
    ldots: dots cdots
    circ: degree
    and: land wedge
    or: lor vee
    setminus: backslash
    cup: bigcup
    to: rightarrow
    asin: arcsin Arcsin
    acos: arccos
    acot: arccot arcctg
    asec: arcsec
    acsc: arccsc
    tan: tg
    cot: ctg
    atan: arctan arctg Arctan
    phi: varphi
    epsilon: varepsilon
    theta: vartheta
    i: imath
    abs: Abs
    """
)
"""Commands of one meaning."""
SPACES = frozenset(
    ["quad", "qquad", "enspace", "thinspace", "medspace", "thickspace", "nobreakspace", "space", "newline", "hfill"]
)
LAYOUT = frozenset(
    """left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle textstyle
    scriptstyle scriptscriptstyle limits nolimits rm bf it sf tt cal mathopen mathclose mathord mathrel mathbin mathop
    mathnormal hline boxed fbox ensuremath bm boldsymbol mathbf mathit mathsf mathtt pmb underline vec overrightarrow
    centering large Large small normalsize bold strut nonumber noindent""".split()  # noqa: SIM905
)
"""Commands that change the look alone; what they apply to stays."""
TEXT_COMMANDS = (
    "text|mbox|hbox|textbf|textit|textrm|textnormal|textsf|texttt|textsc|emph|mathrm|operatorname|mathbb|mathcal"
    "|mathscr"
)
WORDS = frozenset(
    """and or no yes not odd even none all real the an per one two six ten day units unit feet foot inch dnf dne
    nil mr mrs ms dr st""".split()  # noqa: SIM905
)
"""Bare words of two or three letters that are text, not products of variables; longer ones always are."""
UNIT_WORDS = frozenset(
    """cm mm km kg mg lb lbs oz ft yd mi mph kph min mins sec secs hr hrs am pm pct usd sq cu
    mol""".split()  # noqa: SIM905
)
"""Bare words that are text behind a number."""
SINGLE_LETTERS = frozenset("mgsLlJNWVKACFhTHMΩ")
"""Letters that stand for a unit when they follow a number as text."""
FUNCTIONS = frozenset(
    """sin cos tan cot sec csc sinh cosh tanh coth asin acos atan arcsin arccos arctan arccot arcsec arccsc arctg Arctan
    tg ctg ln log lg exp sqrt max min gcd lcm det abs floor ceil""".split()  # noqa: SIM905
)
"""Names in upright letters that are functions, not text."""
PLAIN_FUNCTIONS = (
    "arcsin|arccos|arctan|asinh|acosh|atanh|asin|acos|atan|acot|asec|acsc|sinh|cosh|tanh|coth|sech|csch|sin|cos|tan|cot|sec"
    "|csc|ln|log|exp|sqrt|Abs|abs|infinity|infty|inf|oo|frac|binom"
)
"""Names that are commands also without their backslash, as are those of Greek letters."""
PLAIN_GREEK = (
    "varepsilon|epsilon|lambda|alpha|gamma|delta|theta|kappa|sigma|omega|beta|zeta|hbar|phi|rho|tau|psi|eta|mu|nu|xi|pi"
)
