r"""Hostile inputs for verifiers: what a model might write, by chance or under training, to hang, break or own one.

Each input is the whole text of an attempt and a gold that the attempt does not match, so that no verdict on one of
them may be CORRECT. Large texts are made when asked for. In texts that would run code if they were evaluated, MARK
stands for the path of a file that the code would make.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MARK = "MARK"
GOLD = "5"
DEEP = 10_000
MB = 1_000_000
UNDER_CUT = 9_000
"""A length which a verifier that cuts off long answers is still likely to look at."""

Maker = Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostileInput:
    """One hostile input."""

    kind: str
    """The group it belongs to, such as ``power``."""
    name: str
    make: Maker
    """Makes the text, with MARK in it."""
    gold: str | Maker = GOLD

    @property
    def runs_code(self) -> bool:
        """Whether MARK in the text and the gold stands for a path."""
        return self.kind == "code"

    def text(self, mark: Path) -> str:
        """The attempt's whole text; code in it would make the file ``mark``."""
        text = self.make()
        return text.replace(MARK, str(mark)) if self.runs_code else text

    def gold_text(self, mark: Path) -> str:
        """The gold; code in it would make the file ``mark``."""
        gold = self.gold if isinstance(self.gold, str) else self.gold()
        return gold.replace(MARK, str(mark)) if self.runs_code else gold


def _nested(opening: str, closing: str, inner: str = "7", depth: int = DEEP) -> Maker:
    return lambda: opening * depth + inner + closing * depth


def _repeated(unit: str, length: int = MB, end: str = "") -> Maker:
    return lambda: unit * (length // len(unit)) + end


def _joined(separator: str, count: int, item: Callable[[int], str] = str) -> Maker:
    return lambda: separator.join(item(i) for i in range(count))


def _within(opening: str, maker: Maker, closing: str) -> Maker:
    return lambda: opening + maker() + closing


def _cells(rows: int, columns: int, environment: str, cell: Callable[[int, int], str]) -> Maker:
    def make() -> str:
        lines = (" & ".join(cell(i, j) for j in range(columns)) for i in range(rows))
        return rf"\begin{{{environment}}}" + r" \\ ".join(lines) + rf"\end{{{environment}}}"

    return make


_POWERS: dict[str, str | Maker] = {
    "tower": "9^{9^{9^{9}}}",
    "tower_of_200_levels": _nested("2^{", "}", "2", 200),
    "tower_from_the_left": "((((((9^{9})^{9})^{9})^{9})^{9})^{9})^{99}",
    "tower_in_a_negative_exponent": "9^{-9^{9^{9}}}",
    "tower_minus_itself": "9^{9^{9}}-9^{9^{9}}+7",
    "tower_over_itself": r"\frac{9^{9^{9}}+7}{9^{9^{9}}}",
    "tower_in_python": "9**9**9**9",
    "tower_modulo": r"7^{7^{7^{7}}} \bmod 1000",
    "tower_in_a_product": r"2 \cdot 3^{4^{5^{6^{7}}}}",
    "carets_without_braces": "9^9^9^9^9^9",
    "ten_to_ten_to_ten": "10^{10^{10}}",
    "imaginary_tower": "i^{9^{9^{9}}}",
    "root_of_huge_degree": r"\sqrt[999999999]{10^{999999999}+1}",
    "near_one_to_a_huge_power": "1.0000001^{10^{15}}",
    "power_of_a_sum": "(x+y+z+w+1)^{3000}",
    "power_of_a_binomial": "(x+1)^{10000000}",
    "symbolic_tower": "x^{x^{x^{x^{x^{x^{9^{9^{9}}}}}}}}",
    "huge_base": lambda: "(" + "9" * 4000 + ")^{" + "9" * 4000 + "}",
    "fractional_power_of_a_tower": r"\left(9^{9^{9}}\right)^{\frac{1}{9^{9}}}",
}
_FACTORIALS: dict[str, str | Maker] = {
    "factorial_of_10^8": "(10^8)!",
    "nested_factorials": "(((9!)!)!)!",
    "chain_of_factorials": lambda: "9" + "!" * 1000,
    "factorial_of_a_tower": "(9^{9^{9}})!",
    "factorials_in_a_fraction": r"\frac{(10^{9})!}{(10^{9}-2)!}",
    "gamma": r"\Gamma(10^{9})",
    "binomial": r"\binom{10^{9}}{5 \cdot 10^{8}}",
    "nested_binomials": r"\binom{\binom{\binom{99}{44}}{44}}{44}",
    "sum_of_factorials": _joined("+", 2000, lambda i: f"{i}!"),
}
_NUMBERS: dict[str, str | Maker] = {
    "exponent_of_nine_digits": "1e999999999",
    "negative_exponent_of_nine_digits": "1e-999999999",
    "exponent_of_nine_digits_in_latex": r"1 \times 10^{999999999}",
    "exponent_of_100_digits": lambda: "1e" + "9" * 100,
    "percent_of_a_huge_number": r"1e99999999\%",
    "integer_of_5000_digits": lambda: "7" * 5000,
    "integer_of_1_MB": _repeated("7"),
    "decimal_of_1_MB": lambda: "0." + "3" * MB,
    "decimal_of_9000_digits": lambda: "5." + "3" * UNDER_CUT,
    "leading_zeros_of_1_MB": lambda: "0" * MB + "7",
    "small_decimal_of_1_MB": lambda: "0." + "0" * MB + "7",
    "fraction_of_4000_digits": lambda: rf"\frac{{{'7' * 4000}}}{{{'3' * 4000}}}",
    "decimal_points": lambda: "1." * UNDER_CUT,
    "exponents_in_a_row": lambda: "5" + "e5" * 4000,
    "percent_signs": lambda: "7" + r"\%" * 4000,
    "degree_signs": lambda: "7" + r"^\circ" * 2000,
    "thousands_groups": lambda: "1" + ",000" * 100_000,
    "repeating_decimal": lambda: r"0.\overline{" + "3" * 8000 + "}",
    "mixed_number_of_long_parts": lambda: "9" * 3000 + r"\frac{" + "7" * 3000 + "}{" + "3" * 3000 + "}",
    "base_of_many_digits": lambda: "1011_{" + "9" * 5000 + "}",
}
_NESTING: dict[str, str | Maker] = {
    "braces": _nested("{", "}"),
    "parentheses": _nested("(", ")"),
    "brackets": _nested("[", "]"),
    "left_right": _nested(r"\left(", r"\right)"),
    "fractions": _nested(r"\frac{1}{", "}"),
    "continued_fraction": _nested(r"\frac{1}{1+", "}"),
    "fractions_in_numerators": _nested(r"\frac{", "}{2}"),
    "square_roots": _nested(r"\sqrt{", "}"),
    "roots_in_degrees": _nested(r"\sqrt[", "]{2}"),
    "exponents": _nested("x^{", "}"),
    "subscripts": _nested("x_{", "}"),
    "sines": _nested(r"\sin(", ")"),
    "sets": _nested(r"\{", r"\}"),
    "tuples": _nested("(", ",7)"),
    "absolute_values": _nested("|", "|"),
    "floors": _nested(r"\lfloor ", r" \rfloor"),
    "minus_signs": lambda: "-" * DEEP + "7",
    "texts": _nested(r"\text{", "}"),
    "boldface": _nested(r"\mathbf{", "}"),
    "overlines": _nested(r"\overline{", "}"),
    "matrices": _nested(r"\begin{pmatrix}", r"\end{pmatrix}", depth=2000),
    "binomials": _nested(r"\binom{", "}{2}", depth=2000),
    "logarithms": _nested(r"\log(", ")", "x", 2000),
    "boxes": _nested(r"\boxed{", "}"),
    "parentheses_below_the_cut": _nested("(", ")", "x+7", 3000),
    "square_roots_below_the_cut": _nested(r"\sqrt{", "}", "7", 1000),
    "fractions_below_the_cut": _nested(r"\frac{1}{1+", "}", "x", 500),
    "unclosed_parentheses": lambda: "(" * DEEP + "7",
    "unclosed_left": lambda: r"\left(" * 2000 + "7",
}
_LARGE: dict[str, str | Maker] = {
    "spaces": lambda: "7" + " " * MB + "7",
    "latex_spaces": _repeated(r"\ "),
    "thin_spaces": lambda: r"\," * (MB // 2) + "7",
    "newlines": lambda: "7" + "\n" * MB + "7",
    "backslashes": _repeated("\\\\"),
    "commas": _repeated(","),
    "letters": _repeated("x"),
    "words": _repeated("seven "),
    "carets": _repeated("x^"),
    "underscores": _repeated("x_"),
    "dollars": _repeated("$"),
    "primes": lambda: "f" + "'" * MB,
    "ampersands": _repeated("&"),
    "equals_signs": _repeated("x="),
    "less_than_signs": _repeated("x<"),
    "ones_added": _repeated("1+", end="1"),
    "variables_multiplied": _joined(r" \cdot ", 100_000, lambda i: f"x_{i}"),
    "commands_without_arguments": _repeated(r"\frac"),
    "text": lambda: r"\text{" + "seven " * (MB // 6) + "}",
    "identifier": lambda: r"\mathrm{" + "a" * MB + "}",
    "list": _joined(", ", 100_000),
    "set": _within(r"\{", _joined(",", 100_000), r"\}"),
    "tuple": _within("(", _joined(",", 100_000), ")"),
    "matrix": _cells(1000, 100, "pmatrix", lambda i, j: str(i * j)),
    "union_of_intervals": _joined(r" \cup ", 2000, lambda i: f"({2 * i},{2 * i + 1})"),
    "list_of_alternatives": _joined(r" \text{ or } ", 2000, lambda i: f"x={i}"),
    "plus_minus_signs": lambda: r"1" + "".join(rf"\pm\sqrt{{{i}}}" for i in range(2, 42)),
    "list_of_plus_minus": _joined(",", 400, lambda i: rf"{i}\pm\sqrt{{{i}}}"),
    "polynomial_of_degree_1000": _joined("+", 1000, lambda i: f"{i + 1}x^{{{i}}}"),
    "product_of_300_factors": lambda: "".join(f"(x+{i})" for i in range(1, 301)),
    "variables": _joined("+", 1500, lambda i: f"x_{{{i}}}"),
    "sum_below_the_cut": lambda: "1+" * (UNDER_CUT // 2) + "1",
    "equation_of_500_unknowns": _within("", _joined("+", 500, lambda i: f"{i}x_{{{i}}}"), "=0"),
    "cases": _cells(1000, 2, "cases", lambda i, j: f"{i}" if j == 0 else f"x>{i}"),
}
_ALGEBRA: dict[str, str | Maker] = {
    "sum_with_a_huge_bound": r"\sum_{n=1}^{10^{12}} \frac{1}{n^2+n+1}",
    "product_with_a_huge_bound": r"\prod_{n=1}^{10^{9}} (n^2+1)",
    "nested_sums": r"\sum_{a=1}^{9^9}\sum_{b=1}^{9^9}\sum_{c=1}^{9^9} \frac{1}{a^2+b^2+c^2}",
    "integral": r"\int_0^{10^{9}} e^{-x^{x^{x}}} \sin(x^{x}) \, dx",
    "nested_integrals": r"\int_0^1\int_0^1\int_0^1\int_0^1 \frac{dx\,dy\,dz\,dw}{1+xyzw+\sin(xyzw)}",
    "limit": r"\lim_{x \to 0} \frac{\sin(\tan x) - \tan(\sin x)}{x^{77} + \arcsin(\arctan x)^{7}}",
    "derivative": r"\frac{d}{dx} x^{x^{x^{x^{x^{x}}}}}",
    "nested_radicals": lambda: "".join(rf"\sqrt{{{i}+" for i in range(2, 40)) + "7" + "}" * 38,
    "sum_of_square_roots": _joined("+", 40, lambda i: rf"\sqrt{{{i * i + 1}}}"),
    "sum_of_roots_of_many_degrees": _joined("+", 20, lambda i: rf"\sqrt[{i + 2}]{{{i + 3}}}"),
    "reciprocal_of_a_sum_of_roots": r"\frac{1}{\sqrt2+\sqrt3+\sqrt5+\sqrt7+\sqrt{11}+\sqrt{13}+\sqrt[3]{17}}",
    "trigonometric_tower": _nested(r"\sin(\cos(\tan(", ")))", "x", 40),
    "trigonometric_powers": r"\sin^{500} x \cos^{500} x \tan^{500} x",
    "sine_of_a_tower": r"\sin(9^{9^{9}})",
    "cosine_of_a_huge_number": r"\cos(10^{10^{8}})",
    "tower_of_logarithms": r"\ln(\ln(\ln(\ln(9^{9^{9^{9}}}))))",
    "symbolic_determinant": _cells(30, 30, "vmatrix", lambda i, j: f"x_{{{30 * i + j}}}"),
    "power_of_a_matrix": r"\begin{pmatrix} 1 & x \\ y & 1 \end{pmatrix}^{10^{9}}",
    "equation_of_degree_50": "x^{50} - x^{49} - x - 1 = 0",
    "equation_in_an_exponent": "x^{x^{x}} + 3^{x} = 7^{x^{2}}",
    "inequality_of_degree_60": r"x^{60} - 7x^{31} + \sin x \ge x^{x}",
    "nested_absolute_values": lambda: "|" * 30 + "x" + "".join(f"-{i}|" for i in range(1, 31)) + " < 3",
    "zeta": r"\zeta(\zeta(10^{9})) + \zeta(1)",
    "exponential_of_an_imaginary_tower": r"e^{i \pi 9^{9^{9}}}",
    "product_of_conjugates": _joined("", 18, lambda i: rf"(x-\sqrt{{{i + 2}}}+\sqrt[3]{{{i + 2}}})"),
    "identity_of_high_degree": r"\frac{x^{9999}-1}{x-1} - \frac{x^{9998}-1}{x-1}",
}
_REGULAR_EXPRESSIONS: dict[str, str | Maker] = {
    "letters_then_a_bang": lambda: "a" * UNDER_CUT + "!",
    "spaces_then_a_letter": lambda: " " * UNDER_CUT + "x",
    "digits_then_a_letter": lambda: "1" * UNDER_CUT + "x",
    "digits_and_commas": lambda: "1," * (UNDER_CUT // 2) + "x",
    "digits_and_spaces": lambda: "1 " * (UNDER_CUT // 2) + "x",
    "slashes": lambda: "1/" * (UNDER_CUT // 2),
    "latex_spaces": lambda: r"\ " * (UNDER_CUT // 2) + "x",
    "latex_commas": lambda: "{,}" * (UNDER_CUT // 3),
    "unclosed_texts": lambda: r"\text{" * (UNDER_CUT // 6) + "}" * (UNDER_CUT // 6),
    "parentheses_and_commas": lambda: "(" * 3000 + "," * 3000 + ")" * 3000,
    "ands": lambda: "1 and " * (UNDER_CUT // 6),
    "ors": lambda: r"\text{or}" * (UNDER_CUT // 9),
    "times_ten_to_the": lambda: r"\times10^" * (UNDER_CUT // 9),
    "frac_digits": lambda: r"\frac12" * (UNDER_CUT // 7),
    "sqrt_digits": lambda: r"\sqrt2" * (UNDER_CUT // 6),
    "begin_without_end": lambda: r"\begin{pmatrix}" * (UNDER_CUT // 15),
    "left_without_right": lambda: r"\left\{" * (UNDER_CUT // 7) + r"\}" * (UNDER_CUT // 7),
    "units": lambda: "7 cm" + " cm" * (UNDER_CUT // 3),
    "colons": lambda: "1:" * (UNDER_CUT // 2),
    "minus_and_spaces": lambda: "- " * (UNDER_CUT // 2) + "x",
}
_CHARACTERS: dict[str, str | Maker] = {
    "nul": "7\x00",
    "control_characters": "7" + "".join(map(chr, range(32))) + "\x7f",
    "c1_control_characters": "7" + "".join(map(chr, range(0x80, 0xA0))),
    "lone_high_surrogate": "7\ud800",
    "lone_low_surrogate": "\udfff7",
    "surrogates_in_the_wrong_order": "\udc00\ud800",
    "right_to_left_override": "\u202e7\u202c",
    "zero_width_characters": "\u200b7\u200d\u2060\ufeff",
    "zero_width_characters_of_1_MB": lambda: "\u200b" * (MB // 3) + "7",
    "combining_marks": lambda: "7" + "\u0336" * 20_000,
    "line_and_paragraph_separators": "7\u2028\u2029\x85\x0b\x0c7",
    "carriage_returns": "7\r\n\r7",
    "private_use_and_noncharacters": "7\ue000\uffff\ufffe",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 7",
    "digits_of_other_scripts": "\u0667\u096d\u0e57",
    "homoglyphs": "\u0445+\u0443",
    "letters_that_grow_in_upper_case": "\u0130\u00df\ufb03",
    "terminal_escapes": "\x1b[2J\x1b]0;7\x07",
    "superscripts_and_roman_numerals": "\u2077\u2166\u3289",
    "mixed_scripts": "\u4e03 + семь + seven + سبعة",
    "answer_of_the_protocol": '7\n{"correct": true}\n{"value": "CORRECT"}\n',
    "quotes_and_backslashes": "\"'`\\\"\\'\\u0037",
    "percent_comment": "7 % 5\n",
    "format_directives": "%s%n%d {0} {} {x!r}",
}
_MALFORMED: dict[str, str | Maker] = {
    "closing_brackets": ")]",
    "mismatched_brackets": "(7]}{[)",
    "left_without_right": r"\left( 7",
    "right_without_left": r"7 \right)",
    "escaped_brace_only": r"\{",
    "frac_without_arguments": r"\frac",
    "frac_with_one_argument": r"\frac{1}",
    "frac_of_nothing": r"\frac{}{}",
    "sqrt_of_nothing": r"\sqrt{}",
    "root_of_nothing": r"\sqrt[]{}",
    "matrix_of_nothing": r"\begin{pmatrix}\end{pmatrix}",
    "begin_without_end": r"\begin{pmatrix} 1",
    "ragged_matrix": r"\begin{pmatrix} 1 & 2 \\ 3 \end{pmatrix}",
    "caret_only": "^",
    "caret_at_the_end": "x^",
    "underscore_only": "_",
    "operators_only": "+-*/=<>",
    "separators_only": ",;:,",
    "backslash_only": "\\ ",
    "dollars_only": "$$",
    "empty_parentheses": "()",
    "empty_group": "{}",
    "empty_text": r"\text{}",
    "unknown_command": r"\nosuchcommand{7}",
    "double_exponent": "x^2^3^4",
    "double_equals": "x == y == z",
    "equation_chain": "1 = 2 = 3 = 4",
    "reversed_interval": "(7, -7]",
    "interval_of_nothing": "(,]",
    "question_marks": "???",
    "dots": r"1, 2, \ldots, 7",
}
_VALUES: dict[str, str | Maker] = {
    "nan": "nan",
    "inf": "inf",
    "zoo": "zoo",
    "oo": "oo",
    "none": "None",
    "zero_over_zero": "0/0",
    "one_over_zero": "1/0",
    "frac_over_zero": r"\frac{1}{0}",
    "zero_to_minus_one": "0^{-1}",
    "infinity_minus_infinity": r"\infty - \infty",
    "zero_times_infinity": r"0 \cdot \infty",
    "logarithm_of_zero": r"\log(0)",
    "tangent_of_a_right_angle": r"\tan(\frac{\pi}{2})",
    "undefined_in_a_sum": r"5 + \frac{0}{0}",
    "modulo_zero": r"5 \bmod 0",
    "negative_factorial": "(-1)!",
    "binomial_of_infinity": r"\binom{\infty}{2}",
    "complex_infinity_in_a_tuple": r"(\frac{1}{0}, \frac{0}{0})",
    "python_keyword": "lambda",
    "sympy_name_S": "S",
    "sympy_name_N": "N",
    "sympy_name_O": "O(x)",
    "sympy_name_beta": "beta(1)",
    "sympy_function_without_arguments": "integrate()",
    "sympy_class": "Matrix",
    "interval_to_undefined": r"(\frac{0}{0}, \infty)",
}
_CODE: dict[str, str | Maker] = {
    "import_os_system": "__import__('os').system('touch MARK')",
    "import_pathlib": "__import__('pathlib').Path('MARK').touch()",
    "open": "open('MARK','w').close()",
    "exec": "exec(\"open('MARK','w')\")",
    "eval": "eval(\"open('MARK','w')\")",
    "compile": "eval(compile(\"open('MARK','w')\",'x','exec'))",
    "lambda": "(lambda: open('MARK','w'))()",
    "subclasses": "[c for c in ().__class__.__base__.__subclasses__() if c.__name__=='Popen'][0](['touch','MARK'])",
    "subclasses_of_str": "''.__class__.__mro__[1].__subclasses__()[0].__init__.__globals__['os'].system('touch MARK')",
    "builtins": "().__class__.__mro__[-1].__subclasses__().__len__() and __builtins__['open']('MARK','w')",
    "sympify_of_a_text": "sympify(\"open('MARK','w')\")",
    "sympy_eval_of_a_symbol": "Symbol('x').__class__.__init__.__globals__['__builtins__']['open']('MARK','w')",
    "sympy_lambdify": "lambdify((),\"open('MARK','w')\")()",
    "sympy_parse_expr": "parse_expr(\"__import__('os').system('touch MARK')\")",
    "sympy_preview": "preview(1,output='png',viewer='file',filename='MARK')",
    "attribute_of_a_number": "(5).__class__.__bases__[0].__subclasses__()+[open('MARK','w')]",
    "f_string": "f\"{open('MARK','w')}\"",
    "walrus": "(y:=open('MARK','w')) and 5",
    "comprehension": "{open(p,'w') for p in ['MARK']}",
    "print": "print('7',file=open('MARK','w'))",
    "statement_after_a_newline": "5\nopen('MARK','w')",
    "statement_after_a_semicolon": "7;open('MARK','w')",
    "end_of_a_quoted_text": "7'+str(open('MARK','w'))+'",
    "end_of_a_double_quoted_text": '7"+str(open("MARK","w"))+"',
    "end_of_a_call": "7); open('MARK','w'); (7",
    "in_text": r"\text{__import__('os').system('touch MARK')}",
    "in_mathrm": r"\mathrm{open('MARK','w')}",
    "in_operatorname": r"\operatorname{open}('MARK','w')",
    "in_an_exponent": "x^{open('MARK','w')}",
    "in_a_tuple": "(5,open('MARK','w'))",
    "in_a_set": r"\{5, open('MARK','w')\}",
    "in_an_equation": "x = open('MARK','w')",
    "in_an_interval": "[0, __import__('os').system('touch MARK'))",
    "shell_substitution": "$(touch MARK)",
    "backticks": "`touch MARK`",
    "shell_command_after_a_semicolon": "5; touch MARK; echo 5",
    "write18": r"\immediate\write18{touch MARK}",
    "input": r"\input{|\"touch MARK\"}",
    "openout": r"\newwrite\f\immediate\openout\f=MARK \immediate\write\f{7}",
    "directlua": r"\directlua{io.open('MARK','w')}",
    "template": "{{ self.__init__.__globals__.__builtins__.open('MARK','w') }}",
    "template_product": "{{7*7}}${7*7}#{7*7}",
    "percent_template": "{% import os %}{{ os.system('touch MARK') }}",
    "pickle": "cos\nsystem\n(S'touch MARK'\ntR.",
    "yaml": "!!python/object/apply:os.system ['touch MARK']",
    "json_class": '{"py/object": "os.system", "py/reduce": [{"py/function": "os.system"}, ["touch MARK"]]}',
    "sql": "5'; COPY (SELECT 1) TO 'MARK'; --",
    "exit": "exit()",
    "os_exit": "__import__('os')._exit(0)",
    "raise_memory": "'A'*10**11",
    "endless_loop": "[x for x in iter(int, 1)]",
    "equality_object": "type('Y',(),{'__eq__':lambda s,o:True})()",
}
_TEXTS: dict[str, Maker] = {
    "conflicting_boxes": lambda: r"\boxed{5} \boxed{6} \boxed{5} \boxed{7}",
    "boxes_of_all_digits": lambda: "".join(rf"\boxed{{{i}}}" for i in (5, 1, 2, 3, 4, 6, 7, 8, 9)),
    "100000_boxes": lambda: r"\boxed{5} " * 100_000 + r"\boxed{7}",
    "100000_unclosed_boxes": lambda: r"\boxed{" * 100_000 + "5",
    "unclosed_boxes_around_a_box": lambda: r"\boxed{" * 50_000 + r"\boxed{7}",
    "boxes_nested_100000_deep": lambda: r"\boxed{" * 100_000 + "7" + "}" * 100_000,
    "box_behind_opening_braces": lambda: "{" * MB + r"\boxed{7}",
    "box_behind_closing_braces": lambda: "}" * MB + r"\boxed{7}",
    "box_behind_backslashes": lambda: "\\" * MB + r"boxed{7}",
    "box_in_10_MB_of_text": lambda: "and so on " * MB + r"\boxed{7}",
    "spaces_between_box_and_brace": lambda: r"\boxed" + " " * MB + "{7}",
    "empty_box": lambda: r"\boxed{}",
    "100000_empty_boxes": lambda: r"\boxed{}" * 100_000,
    "box_of_control_characters": lambda: "\\boxed{\x00\x01\x02}",
    "box_of_1_MB_of_boxes_in_text": lambda: r"\boxed{\text{" + r"\boxed{7}" * 100_000 + "}}",
    "escaped_braces": lambda: r"\boxed{" + r"\}" * 500_000,
    "no_box_in_1_MB_of_commands": lambda: r"\boxe{5}" * 125_000,
    "surrogates_around_a_box": lambda: "\ud800\\boxed{7}\udfff",
}
_GOLDS: dict[str, tuple[str | Maker, str]] = {
    "tower": ("9^{9^{9^{9}}}", "9^{9^{9}}"),
    "tower_against_a_number": ("10^{10^{10}}", "7"),
    "factorial": ("(10^8)!", "(10^8)!+1"),
    "exponent_of_nine_digits": ("1e999999999", "1e999999998"),
    "percent_of_a_huge_number": (r"1e999999999\%", "7"),
    "nested_square_roots": (_nested(r"\sqrt{", "}"), r"\sqrt{7}"),
    "nested_parentheses": (_nested("(", ")"), "(8)"),
    "digits_of_1_MB": (_repeated("7"), "7"),
    "spaces_of_1_MB": (lambda: "5" + " " * MB + "5", "5 + x"),
    "sum_of_square_roots": (_joined("+", 30, lambda i: rf"\sqrt{{{i * i + 1}}}"), "x+1"),
    "trigonometric_powers": (r"\sin^{500} x \cos^{500} x", r"\sin^{501} x \cos^{499} x"),
    "symbolic_determinant": (_cells(20, 20, "vmatrix", lambda i, j: f"x_{{{20 * i + j}}}"), "x"),
    "power_of_a_binomial": ("(x+1)^{10000000}", "(x+1)^{9999999}"),
    "equation_of_degree_50": ("x^{50} - x - 1 = 0", "x^{50} - x - 2 = 0"),
    "list_of_plus_minus": (_joined(",", 400, lambda i: rf"{i}\pm\sqrt{{{i}}}"), "1,2"),
    "unbalanced_braces": (r"\frac{1}{2", r"\frac{1}{3}"),
    "empty": ("", "7"),
    "dollars_only": ("$$", "7"),
    "nul": ("\x00", "7"),
    "lone_surrogate": ("\ud800", "7"),
    "undefined": (r"\frac{0}{0}", r"\frac{1}{0}"),
    "nan": ("nan", "7"),
}


def _boxed(content: str | Maker) -> Maker:
    return lambda: "The answer is \\boxed{" + (content if isinstance(content, str) else content()) + "}."


def hostile_inputs() -> list[HostileInput]:
    """All hostile inputs, in a fixed order; the pairs of kind and name are different."""
    answers = {
        "power": _POWERS,
        "factorial": _FACTORIALS,
        "number": _NUMBERS,
        "nesting": _NESTING,
        "large": _LARGE,
        "algebra": _ALGEBRA,
        "regular_expression": _REGULAR_EXPRESSIONS,
        "character": _CHARACTERS,
        "malformed": _MALFORMED,
        "value": _VALUES,
        "code": _CODE,
    }
    inputs = [
        HostileInput(kind=kind, name=name, make=_boxed(content))
        for kind, contents in answers.items()
        for name, content in contents.items()
    ]
    inputs += [HostileInput(kind="text", name=name, make=make) for name, make in _TEXTS.items()]
    inputs += [
        HostileInput(kind="gold", name=name, make=_boxed(answer), gold=gold) for name, (gold, answer) in _GOLDS.items()
    ]
    # Python takes True for 1, and sympy's E and I are numbers.
    inputs += [
        HostileInput(kind="value", name="true_against_1", make=_boxed("True"), gold="1"),
        HostileInput(kind="value", name="false_against_0", make=_boxed("False"), gold="0"),
        HostileInput(kind="value", name="nan_against_nan_of_another_form", make=_boxed(r"\frac{0}{0}"), gold="7"),
        HostileInput(kind="value", name="infinity_against_a_huge_number", make=_boxed("1e400"), gold=r"\infty"),
        HostileInput(kind="value", name="huge_number_against_another", make=_boxed("1e400"), gold="1e401"),
        HostileInput(kind="value", name="tiny_number_against_zero", make=_boxed("1e-400"), gold="0"),
        HostileInput(kind="code", name="in_the_gold", make=_boxed("7"), gold="__import__('os').system('touch MARK')"),
        HostileInput(
            kind="code", name="in_gold_and_answer", make=_boxed("7+open('MARK','w')"), gold="open('MARK','w')"
        ),
    ]
    return inputs
