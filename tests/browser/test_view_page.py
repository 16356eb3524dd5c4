"""The viewer's page in a real browser: what it draws, its filters and keys, and that no text becomes markup."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.browser.devtools import Browser
from tests.episode_logs import invent_episodes, make_attempt, make_recorded, write_log
from tests.tokenizers import CHATML, make_byte_tokenizer
from verl_multiattempt import view
from verl_multiattempt.chat.decode import decode_segments
from verl_multiattempt.chat.scaffold import resolve_scaffold
from verl_multiattempt.chat.tokens import TokenStream
from verl_multiattempt.episode import Stop
from verl_multiattempt.record import RecordedEpisode, Segment
from verl_multiattempt.verifier import Outcome

SHOWN_ROWS = "[...document.querySelectorAll('.row p:first-child')].map(p => p.textContent)"
EPISODE = "document.getElementById('episode')"

CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

HOSTILE = [
    "<script>alert('script')</script>",
    "</script><script>alert('closed')</script>",
    "<!--<script>alert('comment')",
    "<img src=x onerror=\"alert('onerror')\">",
    "<svg/onload=alert('svg')>",
    "<a href=\"javascript:alert('link')\">click</a>",
    "javascript:alert('url')",
    "<iframe srcdoc=\"<script>parent.alert('frame')</script>\"></iframe>",
    "<style>*{display:none}</style><base href='http://example.invalid/'>",
    "<link rel=stylesheet href=http://example.invalid/x.css><img src=http://example.invalid/x.png>",
    "\"><img src=x onerror=alert('quote')>",
    "</div></section></main>",
    "{{index}}{{script}}",
    "\u2028alert('line')\u2029",
    "__proto__ constructor toString",
]


def make_page(folder: Path, episodes: list[RecordedEpisode]) -> Path:
    parser = argparse.ArgumentParser()
    view.add_arguments(parser)
    assert view.run(parser.parse_args([str(write_log(folder, episodes))])) == 0
    return folder / "episodes.html"


def open_page(browser: Browser, page: Path, fragment: str = "") -> None:
    browser.open(page, fragment)
    browser.wait("document.querySelector('#episode h2')")


def text_of(browser: Browser, selector: str) -> list[str]:
    texts: list[str] = browser.evaluate(
        f"[...document.querySelectorAll({json.dumps(selector)})].map(node => node.textContent)"
    )
    return texts


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_page(tmp_path_factory.mktemp("invented"), invent_episodes(500, num_steps=50))


@pytest.fixture
def page(browser: Browser, invented: Path) -> Iterator[Browser]:
    """The invented episodes, open; nothing may have gone wrong in the browser by the end of the test."""
    open_page(browser, invented)
    yield browser
    assert browser.exceptions == []
    assert browser.requests == [invented.as_uri()]


def set_field(browser: Browser, name: str, value: str) -> None:
    browser.evaluate(
        f"(() => {{ const node = document.getElementById('{name}'); node.value = {json.dumps(value)};"
        "node.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def count(browser: Browser) -> str:
    """What is said of the list, once the questions are there to be searched."""
    browser.wait("!document.getElementById('count').textContent.startsWith('reading')")
    return text_of(browser, "#count")[0]


def test_first_list_and_the_newest_episode_are_drawn(page: Browser) -> None:
    assert count(page) == "500 episodes"
    assert text_of(page, ".row .facts")[0].endswith("step 50")
    assert "step 50" in text_of(page, "#episode .facts")[0]
    assert len(text_of(page, ".row")) < 40, "rows out of sight must not be in the page"


@pytest.mark.parametrize(
    ("field", "value", "holds"),
    [
        ("outcome", "solved", lambda r: r.episode.solved),
        ("outcome", "unsolved", lambda r: not r.episode.solved),
        ("outcome", "later", lambda r: r.episode.solved and r.episode.attempts_used > 1),
        ("outcome", "NO_ANSWER", lambda r: any(a.verdict.outcome is Outcome.NO_ANSWER for a in r.episode.attempts)),
        ("used", "3", lambda r: r.episode.attempts_used == 3),
        ("split", "validation", lambda r: r.validate),
        ("split", "training", lambda r: not r.validate),
        ("reward-min", "0", lambda r: r.reward >= 0),
        ("reward-max", "-0.5", lambda r: r.reward <= -0.5),
        ("step-min", "45", lambda r: r.step >= 45),
        ("step-max", "5", lambda r: r.step <= 5),
        ("query", "COMPUTE 5", lambda r: "compute 5" in r.messages[1]["content"].lower()),
        ("query", "arithmetic/77", lambda r: "arithmetic/77" in r.episode.question_id),
    ],
)
def test_filter_shows_the_episodes_that_match(page: Browser, field: str, value: str, holds: object) -> None:
    assert callable(holds)
    expected = sum(map(holds, invent_episodes(500, num_steps=50)))
    assert 0 < expected < 500
    set_field(page, field, value)
    assert count(page) == f"{expected} of 500 episodes"
    page.evaluate("document.getElementById('reset').click()")
    page.wait("document.getElementById('count').textContent === '500 episodes'")


def test_search_covers_the_whole_question(browser: Browser, tmp_path: Path) -> None:
    attempt = make_attempt("x", Outcome.CORRECT)
    long = "word " * 20_000 + "NEEDLE" + " word" * 20_000
    episodes = [make_recorded([attempt], question=q, gold="g", index=i) for i, q in enumerate([long, "short"])]
    open_page(browser, make_page(tmp_path, episodes))
    set_field(browser, "query", "needle")
    assert count(browser) == "1 of 2 episodes"
    assert text_of(browser, ".row p:first-child")[0].startswith("word word")
    set_field(browser, "query", "haystack")
    assert count(browser) == "0 of 2 episodes"
    assert browser.exceptions == []


def test_filters_are_combined_and_none_may_match(page: Browser) -> None:
    set_field(page, "step-min", "10")
    set_field(page, "step-max", "9")
    assert count(page) == "0 of 500 episodes"
    assert text_of(page, ".row") == []


def test_bound_that_is_no_number_is_marked_and_ignored(page: Browser) -> None:
    set_field(page, "step-min", "ten")
    assert count(page) == "500 episodes"
    assert page.evaluate("document.getElementById('step-min').getAttribute('aria-invalid')") == "true"


@pytest.mark.parametrize(("order", "first"), [("oldest", "step 1"), ("newest", "step 50"), ("low", "reward -0.5")])
def test_order(page: Browser, order: str, first: str) -> None:
    set_field(page, "order", order)
    assert first in text_of(page, ".row .facts")[0]


def test_scrolling_draws_the_rows_in_sight(page: Browser) -> None:
    set_field(page, "order", "oldest")
    page.evaluate("document.getElementById('list').scrollTop = 1e9")
    page.wait("[...document.querySelectorAll('.row')].pop().getAttribute('aria-posinset') === '500'")
    assert "step 50" in text_of(page, ".row .facts")[-1]


def test_keys_move_search_and_switch(page: Browser) -> None:
    selected = "document.querySelector('.row[aria-selected=true]').getAttribute('aria-posinset')"
    for key, position in [("j", 2), ("j", 3), ("k", 2), ("ArrowDown", 3), ("End", 500), ("Home", 1)]:
        page.press(key)
        page.wait(f"{selected} === '{position}'")
    page.press("/")
    page.type("arithmetic/499")
    page.wait("document.getElementById('count').textContent === '1 of 500 episodes'")
    page.press("j")  # a letter of the query, not a command
    assert page.evaluate("document.getElementById('query').value") == "arithmetic/499j"
    page.press("Escape")
    assert page.evaluate("document.activeElement.id") == "list"
    page.press("x")
    page.wait("document.querySelector('.exact')")
    page.press("x")
    page.wait("!document.querySelector('.exact')")
    page.press("s")
    assert page.evaluate("document.getElementById('summary').open") is False


def test_every_row_opens_its_own_episode(page: Browser) -> None:
    for row in (0, 123, 250, 499):
        page.evaluate(f"select({row})")
        asked = page.evaluate(f"INDEX.questions[INDEX.rows.question[{row}]][1]")
        page.wait(f"document.querySelector('#episode h2').textContent === {json.dumps(asked)}")


def test_address_names_the_episode(browser: Browser, invented: Path) -> None:
    open_page(browser, invented, "#e321")
    asked = browser.evaluate("INDEX.questions[INDEX.rows.question[321]][1]")
    assert text_of(browser, "#episode h2") == [asked]
    open_page(browser, invented, "#e999999")
    assert browser.evaluate("selected") == 0


def test_plots_have_axes_labels_and_the_numbers_of_the_index(page: Browser) -> None:
    assert text_of(page, "#plots figcaption") == [
        "Accuracy at ksolved within k attempts, of the episodes allowed k",
        "Accuracy by stepsolved within k attempts; a point is 2 steps",
        "Retries by stepof the attempts after a wrong one; a point is 2 steps",
    ]
    for words in text_of(page, "#plots svg"):
        assert "100 %" in words
        assert "step" in words or "k (attempts)" in words
    repeat = page.evaluate("INDEX.summary.training.by_step[0].values.repeat")
    hints = text_of(page, "#plots figure:nth-child(3) circle title")
    assert f"repeat, steps 1\u20132: {100 * repeat:.1f} %" in hints[0]
    before = text_of(page, "#numbers dd")
    page.evaluate("[...document.querySelectorAll('#splits button')].find(b => b.value === 'validation').click()")
    assert text_of(page, "#numbers dd")[0] == "50"
    assert text_of(page, "#numbers dd") != before


def test_points_of_a_plot_lie_at_their_values(page: Browser) -> None:
    points = page.evaluate("document.querySelector('#plots polyline').getAttribute('points')").split(" ")
    shares = page.evaluate("INDEX.summary.training.by_k[0].points.map(point => point.share)")
    assert len(points) == len(shares) == 5
    top, bottom = 10, 168 - 32
    for point, share in zip(points, shares, strict=True):
        assert float(point.split(",")[1]) == pytest.approx(bottom - share * (bottom - top), abs=0.06)


def kinds_episode() -> RecordedEpisode:
    """An attempt cut before its end of turn, so that one is inserted, and a repeated answer."""
    cut = replace(
        make_attempt("I think \\boxed{4} or", Outcome.INCORRECT, "4", "Wrong, 2 left."), stop=Stop.ATTEMPT_LIMIT
    )
    again = make_attempt("It is \\boxed{4}", Outcome.INCORRECT, "4", "Wrong, 1 left.")
    right = make_attempt("So \\boxed{ 5 }", Outcome.CORRECT, "5")
    recorded = make_recorded([cut, again, right], question="2 + 3", gold="5")
    segments = list(recorded.segments)
    segments[1:2] = [
        Segment(kind="model", text=cut.text, num_tokens=4), Segment(kind="inserted", text="<|im_end|>", num_tokens=1),
    ]  # fmt: skip
    return replace(recorded, segments=segments)


def test_conversation_tells_model_feedback_and_inserted_tokens_apart(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, make_page(tmp_path, [kinds_episode()]))
    blocks = browser.evaluate(f"[...{EPISODE}.querySelectorAll(':scope > .block')].map(node => node.classList[1])")
    assert blocks == ["prompt", "prompt", "model", "inserted", "feedback", "model", "feedback", "model"]
    assert text_of(browser, "#episode > .block > .label") == [
        "system · prompt, not trained", "user · prompt, not trained", "model, trained · 4 tokens",
        "inserted, not trained · 1 token", "feedback, not trained · 19 tokens", "model, trained · 3 tokens",
        "feedback, not trained · 19 tokens", "model, trained · 4 tokens",
    ]  # fmt: skip
    borders = browser.evaluate(
        "['model', 'feedback', 'inserted', 'prompt'].map(kind => "
        f"getComputedStyle({EPISODE}.querySelector(':scope > .block.' + kind)).borderLeftStyle)"
    )
    assert borders == ["solid", "dashed", "dotted", "double"], "kinds must differ by more than their colour"
    assert text_of(browser, "mark") == ["4", "4", " 5 "]
    verdicts = text_of(browser, ".verdict")
    assert [verdict.split("verified")[0] for verdict in verdicts] == [
        "✗ INCORRECTanswer 4", "✗ INCORRECTanswer 4repeats an earlier answer", "✓ CORRECTanswer 5",
    ]  # fmt: skip
    assert "cut by the attempt's token limit" in text_of(browser, ".attempt")[0]


def test_nothing_is_called_trained_in_validation(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, make_page(tmp_path, [replace(kinds_episode(), validate=True)]))
    assert text_of(browser, ".legend .key") == ["model", "feedback", "inserted", "prompt"]
    assert not [text for text in text_of(browser, "#episode > *") if "trained" in text]


def tokenized_episode(written: str, box: str) -> RecordedEpisode:
    """An attempt as the agent loop logs it: tokens decoded with the special ones, the attempt's text without."""
    tokenizer = make_byte_tokenizer(CHATML, (*CHATML_TOKENS, "[THINK]", "[/THINK]", "<tool>"), eos="<|im_end|>")
    scaffold = resolve_scaffold(
        tokenizer, sample_feedback="Wrong.", allowed_special_tokens=["[THINK]", "[/THINK]", "<tool>"]
    )
    stream = TokenStream(prompt_ids=tokenizer.encode("q"), capacity=100_000)
    ids = tokenizer.encode(written, add_special_tokens=False)
    stream.add_sampled(ids, None)
    text = scaffold.attempt_text(ids)
    attempt = make_attempt(text, Outcome.CORRECT, box)
    attempt.num_tokens = len(ids)
    recorded = make_recorded([attempt], question="q", gold=box)
    segments = decode_segments(tokenizer, stream.segments())
    assert segments[1].text == written
    assert text != written, "the special tokens are what this is about"
    return replace(recorded, segments=segments)


@pytest.mark.parametrize(
    ("written", "box", "unseen"),
    [
        ("[THINK]it is \\boxed{4}?[/THINK]It is \\boxed{5}.<|im_end|>", "5", ["[THINK]", "[/THINK]", "<|im_end|>"]),
        ("[THINK][/THINK]\\boxed{5}[THINK]", "5", ["[THINK][/THINK]", "[THINK]"]),
        ("a[THINK]a[THINK]a[THINK]\\boxed{aa}<|im_end|>", "aa", ["[THINK]", "[THINK]", "[THINK]", "<|im_end|>"]),
        ("see [[THINK]T]: x < <tool>3, so \\boxed{<3}<tool>", "<3", ["[THINK]", "<tool>", "<tool>"]),
        ("\U0001d49c[THINK]\U0001d49c\n\\boxed{\U0001d49c 7}[/THINK]", "\U0001d49c 7", ["[THINK]", "[/THINK]"]),
        ("[THINK]" + "so " * 3000 + "[/THINK]\\boxed{5}<|im_end|>", "5", ["[THINK]", "[/THINK]", "<|im_end|>"]),
    ],
)
def test_answer_is_marked_where_special_tokens_stand_in_the_attempt(
    browser: Browser, tmp_path: Path, written: str, box: str, unseen: list[str]
) -> None:
    open_page(browser, make_page(tmp_path, [tokenized_episode(written, box)]))
    assert text_of(browser, "mark") == [box]
    assert text_of(browser, "#episode > .block.model > .text") == [written]
    assert text_of(browser, "#episode > .block.model .scaffold") == unseen
    before = browser.evaluate(
        "(() => { const range = document.createRange(); "
        "range.selectNodeContents(document.querySelector('.block.model > .text')); "
        "range.setEndBefore(document.querySelector('mark')); return range.toString(); })()"
    )
    assert before == written[: written.rindex("\\boxed{") + len("\\boxed{")]


def test_special_token_in_the_answer_is_not_marked(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, make_page(tmp_path, [tokenized_episode("So \\boxed{1[THINK]2}<|im_end|>", "12")]))
    assert text_of(browser, "mark") == ["1", "2"]
    assert text_of(browser, "#episode > .block.model .scaffold") == ["[THINK]", "<|im_end|>"]


@given(st.text("ab<[T", max_size=40), st.data())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_runs_of_an_attempt_make_up_its_text_whatever_stands_between(
    page: Browser, body: str, data: st.DataObject
) -> None:
    places = data.draw(st.lists(st.integers(0, len(body)), max_size=6).map(sorted))
    text = body
    for place in reversed(places):
        text = text[:place] + data.draw(st.sampled_from(["[T]", "<a>", "<|b|>"])) + text[place:]
    runs = page.evaluate(f"commonRuns({json.dumps(text)}, {json.dumps(body)})")
    assert "".join(text[run["at"] : run["at"] + run["stop"] - run["start"]] for run in runs) == body
    assert len(runs) <= 1 + len(set(places))
    ends = [(run["at"], run["at"] + run["stop"] - run["start"]) for run in runs]
    assert all(0 <= start <= end for start, end in ends)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ends))


def test_answer_is_marked_where_the_attempt_s_text_is_not_in_its_tokens(browser: Browser, tmp_path: Path) -> None:
    recorded = make_recorded([make_attempt("5 is \u20ac \\boxed{5}", Outcome.CORRECT, "5")], question="q", gold="5")
    segments = [recorded.segments[0], Segment(kind="model", text="5 is \ufffd<x>\ufffd \\boxed{5} 5", num_tokens=9)]
    open_page(browser, make_page(tmp_path, [replace(recorded, segments=segments)]))
    assert text_of(browser, "mark") == ["5"]
    assert browser.evaluate("document.querySelector('mark').previousSibling.textContent").endswith("\\boxed{")


def test_exact_text_is_the_sequence_as_decoded(browser: Browser, tmp_path: Path) -> None:
    recorded = kinds_episode()
    open_page(browser, make_page(tmp_path, [recorded]))
    browser.press("x")
    browser.wait("document.querySelector('.exact')")
    assert text_of(browser, ".exact .tag") == [f"{s.kind} {s.num_tokens}" for s in recorded.segments]
    shown = "".join(text_of(browser, ".exact > span")).replace("↵", "")
    assert shown == "".join(segment.text for segment in recorded.segments)


def test_attempts_without_segments_are_drawn_from_their_text(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, make_page(tmp_path, [replace(kinds_episode(), segments=[])]))
    assert text_of(browser, "#episode > .block.model > .text") == [
        "I think \\boxed{4} or",
        "It is \\boxed{4}",
        "So \\boxed{ 5 }",
    ]
    assert len(text_of(browser, "#episode > .block.feedback")) == 2


def test_log_of_an_evaluation_by_text_alone(browser: Browser, tmp_path: Path) -> None:
    episodes = []
    for sample in range(3):
        recorded = replace(kinds_episode(), step=0, validate=True, rollout=sample, segments=[])
        for attempt in recorded.episode.attempts:
            attempt.num_tokens, attempt.logprob_mean = 0, None
        episodes.append(recorded)
    open_page(browser, make_page(tmp_path, episodes))
    kinds = browser.evaluate(f"[...{EPISODE}.querySelectorAll(':scope > .block')].map(node => node.classList[1])")
    assert kinds == ["prompt", "prompt", "model", "feedback", "model", "feedback", "model"]
    assert text_of(browser, "#episode > .block.feedback > .text") == ["Wrong, 2 left.", "Wrong, 1 left."]
    assert text_of(browser, "mark") == ["4", "4", " 5 "]
    assert text_of(browser, ".legend .key") == ["model", "feedback", "prompt"]
    assert not [text for text in text_of(browser, "#episode > *") if "token" in text.replace("token limit", "")]
    assert [title.split("of")[0] for title in text_of(browser, "#plots figcaption")] == [
        "Accuracy at ksolved within k attempts, ", "Retries by attempt",
    ]  # fmt: skip
    assert text_of(browser, ".row .facts") == [f"✗✗✓3 of 3 attempts · reward 1 · rollout {n}" for n in range(3)]
    hidden = browser.evaluate("['split', 'steps', 'used'].map(id => document.getElementById(id).offsetHeight === 0)")
    assert hidden == [True, True, False], "filters that choose nothing"
    browser.press("x")
    browser.wait("document.querySelector('.exact')")
    assert text_of(browser, ".exact") == ["The log has no token segments for this episode."]
    assert browser.exceptions == []


def test_refinement_by_attempt_is_drawn_alone_where_answers_are_not_known(browser: Browser, tmp_path: Path) -> None:
    recorded = replace(kinds_episode(), step=0, validate=True)
    for attempt in recorded.episode.attempts:
        attempt.verdict = replace(attempt.verdict, answer=None, normal_answer=None)
    open_page(browser, make_page(tmp_path, [recorded]))
    assert text_of(browser, "#plots figcaption")[1].startswith("Retries by attempt")
    drawn = "#plots figure:nth-child(2) "
    assert text_of(browser, f"{drawn}title") == [
        "correct, attempt 2: 0.0 % of 1 retried attempt", "correct, attempt 3: 100.0 % of 1 retried attempt"
    ]  # fmt: skip
    assert text_of(browser, f"{drawn}text[class^=s]") == ["correct"]
    assert browser.exceptions == []


def hostile_episode(text: str, index: int) -> RecordedEpisode:
    attempts = [
        make_attempt(f"{text} \\boxed{{{text}}}", Outcome.INCORRECT, text, text),
        make_attempt(text, Outcome.ERROR, text),
    ]
    verdict = replace(attempts[1].verdict, detail=text, fault=text, feedback=text, normal_answer=text + "n")
    attempts[1] = replace(attempts[1], verdict=verdict)
    recorded = make_recorded(attempts, question=text, gold=text, index=index)
    recorded.episode.question_id = text
    return replace(recorded, data_source=text, worker=text)


def test_hostile_texts_are_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    page = make_page(tmp_path, [hostile_episode(text, index) for index, text in enumerate(HOSTILE)])
    open_page(browser, page)
    elements = set(browser.evaluate("[...document.querySelectorAll('*')].map(node => node.localName)"))
    assert not elements & {"img", "iframe", "a", "base", "link", "object", "embed", "foreignObject"}
    rows = browser.evaluate("shown")
    assert len(rows) == len(HOSTILE)
    num_scripts = browser.evaluate("document.scripts.length")
    for row in rows:
        text = browser.evaluate(f"INDEX.questions[INDEX.rows.question[{row}]][1]")
        assert text in HOSTILE
        browser.evaluate(f"select({row})")
        visible = text.replace("\u2028", "U+2028").replace("\u2029", "U+2029")
        browser.wait(f"document.querySelector('#episode h2').textContent === {json.dumps(visible)}")
        assert text_of(browser, "#episode > .block.prompt > .text")[1] == visible
        assert text_of(browser, "#episode > .block.model > .text")[0] == f"{visible} \\boxed{{{visible}}}<|im_end|>"
        assert text_of(browser, "mark")[0] == visible
        assert text_of(browser, ".verdict")[1].count(visible) == 5
        browser.press("x")
        browser.wait("document.querySelector('.exact')")
        browser.press("x")
        browser.wait("!document.querySelector('.exact')")
        assert browser.evaluate("[...document.querySelectorAll('#episode *')].every(node => "
                                "![...node.attributes].some(one => /^on|href|src/.test(one.name)))")  # fmt: skip
    assert browser.evaluate("document.scripts.length") == num_scripts
    assert browser.dialogs == []
    assert browser.exceptions == [], "not even the Content-Security-Policy had anything to stop"
    assert browser.requests == [page.as_uri()]


def test_policy_stops_what_would_slip_through(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, make_page(tmp_path, [kinds_episode()]))
    browser.evaluate(
        "document.body.insertAdjacentHTML('beforeend', "
        '\'<img src=x onerror="alert(1)"><a id=bad href="javascript:alert(2)">\')'
    )
    browser.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'alert(3)'}))")
    browser.evaluate("document.getElementById('bad').click()")
    assert browser.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'stopped')") == "stopped"
    assert browser.dialogs == []
    assert sum("Content Security Policy" in message for message in browser.exceptions) >= 4


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "aU+202Eb"),
        ("a\x00b", "aU+0000b"),
        ("a\ud800b", "aU+D800b"),
        ("a\r\x1b[2Jb", "aU+000DU+001B[2Jb"),
        ("\u200b" * 1000, "U+200B \u00d71,000"),
        ("\U000e0041", "U+E0041"),
        ("\u2764\ufe0f \u3164\u2800", "\u2764U+FE0F U+3164U+2800"),
        ("1\u00a0000\u202fx\U000e0100", "1U+00A0000U+202FxU+E0100"),
        ("😀 \u0639\u0631\u0628\u064a 中文\t\n", "😀 \u0639\u0631\u0628\u064a 中文\t\n"),
    ],
)
def test_characters_that_hide_or_reorder_are_shown_by_their_code(
    browser: Browser, tmp_path: Path, text: str, shown: str
) -> None:
    recorded = make_recorded([make_attempt(text, Outcome.NO_ANSWER)], question=text, gold="g")
    open_page(browser, make_page(tmp_path, [replace(recorded, segments=[])]))
    assert text_of(browser, "#episode > .block.model > .text") == [shown]
    assert browser.evaluate("document.querySelector('.control') === null") is (text == shown)
    assert browser.exceptions == []


def test_what_unicode_calls_ignorable_is_shown_by_its_code(page: Browser) -> None:
    missed = page.evaluate(
        "[...Array(0x110000).keys()].map(code => String.fromCodePoint(code)).filter(one => "
        "/[\\p{Default_Ignorable_Code_Point}\\p{Cc}\\p{Cf}\\p{Cs}\\p{Z}]/u.test(one) && plain(one) === one)"
    )
    assert missed == ["\t", "\n", " "]


@pytest.mark.parametrize(
    ("unit", "first", "second"),
    [
        ("<b>", "20,000", "120,000"),
        ("x", "20,000", "120,000"),
        ("a\n", "20,000", "120,000"),
        ("\u0301", "20,000", "120,000"),
        ("😀", "20,000", "120,000"),
        ("\u202e", "20,000", "120,000"),
        ("\x00\x01", "2,000", "8,000"),
    ],
)
def test_megabyte_text_is_cut_and_grows_by_a_click(
    browser: Browser, tmp_path: Path, unit: str, first: str, second: str
) -> None:
    text = unit * (1_000_000 // len(unit))
    recorded = make_recorded([make_attempt(text, Outcome.NO_ANSWER)], question="q", gold="g")
    open_page(browser, make_page(tmp_path, [replace(recorded, segments=[])]))
    units = len(text.encode("utf-16-le")) // 2
    assert text_of(browser, "#episode .more") == [f"show more: {first} of {units:,} characters shown"]
    browser.evaluate("document.querySelector('.more').click()")
    assert text_of(browser, "#episode .more") == [f"show more: {second} of {units:,} characters shown"]


def test_narrow_window_shows_the_list_and_then_the_episode(browser: Browser, invented: Path) -> None:
    browser.resize(400, 800)
    open_page(browser, invented)
    visible = (
        "[document.getElementById('list').offsetHeight > 200, document.getElementById('episode').offsetHeight > 0]"
    )
    assert browser.evaluate(visible) == [True, False]
    browser.evaluate("document.querySelectorAll('.row')[2].click()")
    assert browser.evaluate(visible) == [False, True]
    browser.evaluate("document.getElementById('back').click()")
    assert browser.evaluate(visible) == [True, False]
    assert browser.evaluate("document.documentElement.scrollWidth") <= 400


def test_colours_follow_the_system_and_keep_their_contrast(browser: Browser, invented: Path) -> None:
    contrast = """(() => {
      const light = (color) => {
        const [r, g, b] = color.match(/[\\d.]+/g).map((part) => part / 255)
          .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const back = (node) => {
        const color = getComputedStyle(node).backgroundColor;
        if (color !== 'rgba(0, 0, 0, 0)') return color;
        return node.parentElement ? back(node.parentElement) : 'rgb(255, 255, 255)';
      };
      const nodes = document.querySelectorAll('.label, .text, .scaffold, .chip, .facts, mark, dt, dd, .strip b, .key');
      return Math.min(...[...nodes].map((node) => {
        const [a, b] = [light(getComputedStyle(node).color), light(back(node))];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      }));
    })()"""
    grounds = []
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        open_page(browser, invented)
        assert browser.evaluate(contrast) >= 4.5, "WCAG AA"
        grounds.append(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]
