r"""The viewer without a browser: arguments, the page's data and its escaping, the text in a terminal."""

from __future__ import annotations

import argparse
import base64
import dataclasses
import gzip
import hashlib
import html.parser
import json
import os
import pty
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tests.episode_logs import invent_episodes, make_attempt, make_recorded, write_log
from verl_multiattempt import view
from verl_multiattempt.cli import main
from verl_multiattempt.episode import Episode
from verl_multiattempt.metrics import PREFIX, episode_metrics
from verl_multiattempt.record import RecordedEpisode
from verl_multiattempt.settings import RewardSettings
from verl_multiattempt.verifier import Outcome
from verl_multiattempt.view_page import answer_span, script_json
from verl_multiattempt.view_summary import MAX_POINTS, Summary
from verl_multiattempt.view_text import episode_text, printable

HOSTILE = (
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", "<!-- <script>", "]]>",
    "<img src=x onerror=alert(1)>",
    "&lt;script&gt;", "javascript:alert(1)", "{{index}} {{chunks}}", "${alert(1)} `", "\u2028\u2029", "\u202egnp.exe",
    "NUL \x00 here", "lone \ud800 surrogate \udfff", "\x1b[2J\x1b]0;title\x07", "\ufffe\U0010ffff",
    "\U0001d49c \\boxed{5}",
)  # fmt: skip


def run(*arguments: str | Path) -> int:
    return main(["view", *map(str, arguments)])


class Scripts(html.parser.HTMLParser):
    """The script elements of a page, and every start tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.tags: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


def read_page(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The index (with the texts searched) and the episodes, as listed, that a browser reads out of the page."""
    scripts = Scripts(path.read_text(encoding="utf-8")).scripts
    texts = {str(attributes["id"]): text for attributes, text in scripts if "id" in attributes}
    index = json.loads(texts["index"])
    packed = {name: json.loads(gzip.decompress(base64.b64decode(text))) for name, text in texts.items() if "-" in name}
    index["searched"] = [text for n in range(index["num_searched"]) for text in packed.pop(f"search-{n}")]
    chunks = [packed[f"chunk-{n}"] for n in range(len(packed))]
    rows = zip(index["rows"]["chunk"], index["rows"]["offset"], strict=True)
    return index, [chunks[chunk][offset] for chunk, offset in rows]


def hostile_episode(text: str) -> RecordedEpisode:
    attempts = [make_attempt(text, Outcome.INCORRECT, text, text), make_attempt(text, Outcome.CORRECT, text)]
    recorded = make_recorded(attempts, question=text, gold=text)
    recorded.episode.question_id = text
    return dataclasses.replace(recorded, data_source=text, worker=text)


def test_page_holds_every_episode_as_the_log_does(tmp_path: Path) -> None:
    episodes = invent_episodes(300, num_words=400)
    assert run(write_log(tmp_path, episodes)) == 0
    _, shown = read_page(tmp_path / "episodes.html")
    for contents in shown:
        for attempt in contents["attempts"]:
            del attempt["repeats"], attempt["answer_span"]
    by_id = {contents["question_id"]: contents for contents in shown}
    assert len(shown) == 300
    assert by_id == {
        recorded.episode.question_id: json.loads(json.dumps(recorded.to_record())) for recorded in episodes
    }


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_comes_back_unchanged_and_adds_no_element(tmp_path: Path, text: str) -> None:
    run(write_log(tmp_path / "plain", [hostile_episode("x")]))
    run(write_log(tmp_path / "hostile", [hostile_episode(text)]))
    index, (episode,) = read_page(tmp_path / "hostile" / "episodes.html")
    assert episode["attempts"][0]["text"] == text
    assert episode["messages"][1]["content"] == text
    assert index["questions"] == [[text.strip(), text]]
    assert index["searched"] == ["\n".join([text.strip(), text, text])]
    pages = [(tmp_path / name / "episodes.html").read_text(encoding="utf-8") for name in ("plain", "hostile")]
    assert Scripts(pages[1]).tags == Scripts(pages[0]).tags


def test_json_in_a_script_has_no_character_that_html_or_javascript_takes_for_its_own() -> None:
    text = script_json(list(HOSTILE))
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == list(HOSTILE)


def test_policy_admits_the_page_s_own_script_and_style_alone(tmp_path: Path) -> None:
    run(write_log(tmp_path, [hostile_episode(HOSTILE[1])]))
    page = (tmp_path / "episodes.html").read_text(encoding="utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    (script,) = [text for attributes, text in Scripts(page).scripts if not attributes]
    (style,) = re.findall(r"<style>(.*?)</style>", page, flags=re.DOTALL)
    for name, text in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert not re.findall(r"<(?:link|img|iframe|object|base)\b|\bsrc=|\bhref=|@import|url\(", page.split("{", 1)[0])
    assert "http" not in script.replace("http://www.w3.org/2000/svg", "")


def test_megabyte_texts_have_chunks_of_their_own(tmp_path: Path) -> None:
    episodes = [hostile_episode(str(number) + "<b>" * 333_333) for number in range(3)]
    run(write_log(tmp_path, episodes))
    index, shown = read_page(tmp_path / "episodes.html")
    assert index["rows"]["chunk"] == [0, 1, 2]
    assert {len(episode["attempts"][0]["text"]) for episode in shown} == {1_000_000}
    searched = index.pop("searched")
    assert [len(text) for text in searched] == [3 * 1_000_000 + 2] * 3, "the search has all of them"
    assert len(json.dumps(index)) < 10_000, "the list needs beginnings of the questions only"


def test_each_distinct_question_is_searched_once_and_whole(tmp_path: Path) -> None:
    attempt = make_attempt("x", Outcome.CORRECT)
    long = "word " * 5000 + "end"
    rows = [(long, 0), (long, 0), ("short", 1), (long, 2)]
    run(write_log(tmp_path, [make_recorded([attempt], question=q, gold="7", index=i, rollout=n)
                             for n, (q, i) in enumerate(rows)]))  # fmt: skip
    index, shown = read_page(tmp_path / "episodes.html")
    assert index["searched"] == [f"{long}\narithmetic/0\n7", "short\narithmetic/1\n7", f"{long}\narithmetic/2\n7"]
    assert index["rows"]["question"] == [episode["index"] for episode in shown] == [0, 0, 1, 2]


def test_allowance_that_no_run_gives_does_not_hold_the_figures_up(tmp_path: Path) -> None:
    recorded = make_recorded([make_attempt("x", Outcome.CORRECT)], question="q", gold="g", max_attempts=10**12)
    assert run(write_log(tmp_path, [recorded])) == 0
    index, _ = read_page(tmp_path / "episodes.html")
    assert index["summary"]["training"]["ks"] == [1, 2, 64]


def test_retries_by_attempt_are_those_of_the_metrics() -> None:
    summary = Summary()
    recorded = [one for one in invent_episodes(300) if not one.validate]
    list(summary.counting(recorded))
    expected = episode_metrics([one.episode for one in recorded], RewardSettings(), 5)
    points = summary.to_json()["training"]["retries_by_k"]
    assert [point["k"] for point in points] == [2, 3, 4, 5]
    for point in points:
        for name in ("repeat", "refinement"):
            assert point[name] == expected[f"{PREFIX}{name}@{point['k']}"]
        assert point["count"] == sum(one.episode.attempts_used >= point["k"] for one in recorded)


def test_refinement_by_attempt_is_drawn_where_answers_are_not_known() -> None:
    attempts = [make_attempt("a", Outcome.INCORRECT), make_attempt("b", Outcome.INCORRECT)]
    for attempt in attempts:
        attempt.verdict = dataclasses.replace(attempt.verdict, answer=None, normal_answer=None)
    solved = make_attempt("c", Outcome.CORRECT)
    summary = Summary()
    list(summary.counting([make_recorded([*attempts[:1], solved], question="q", gold="g"),
                           make_recorded([*attempts, solved], question="q", gold="g")]))  # fmt: skip
    assert summary.to_json()["training"]["retries_by_k"] == [
        {"k": 2, "refinement": 0.5, "count": 2}, {"k": 3, "refinement": 1.0, "count": 1}
    ]  # fmt: skip


def text_only(recorded: RecordedEpisode) -> RecordedEpisode:
    """As an evaluation logs what a server generated that says nothing of tokens."""
    for attempt in recorded.episode.attempts:
        attempt.num_tokens, attempt.logprob_mean = 0, None
    recorded.episode.num_context_tokens = 0
    return dataclasses.replace(recorded, step=0, validate=True, segments=[])


def test_tokens_that_are_not_known_are_not_given_as_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attempts = [make_attempt("a", Outcome.INCORRECT, "4", "No."), make_attempt("b", Outcome.CORRECT, "5")]
    run(write_log(tmp_path, [text_only(make_recorded(attempts, question="q", gold="5"))]))
    index, _ = read_page(tmp_path / "episodes.html")
    assert "tokens an attempt" not in [number["label"] for number in index["summary"]["validation"]["numbers"]]
    capsys.readouterr()
    run(tmp_path, "--text")
    said = capsys.readouterr().out
    assert "token" not in said
    assert "  => INCORRECT; answer: 4 (end_of_turn)\nfeedback:\n  | No.\n" in said


def test_numbers_that_a_browser_s_json_lacks_become_text(tmp_path: Path) -> None:
    recorded = make_recorded([make_attempt("x", Outcome.CORRECT)], question="q", gold="g")
    recorded.episode.attempts[0].logprob_mean = 0.5
    write_log(tmp_path, [recorded])
    (file,) = tmp_path.glob("*.jsonl")
    file.write_text(file.read_text().replace('"logprob_mean":0.5', '"logprob_mean":NaN'))
    assert run(tmp_path) == 0
    _, (episode,) = read_page(tmp_path / "episodes.html")
    assert episode["attempts"][0]["logprob_mean"] == "NaN"


def test_numbers_are_those_of_the_metrics(tmp_path: Path) -> None:
    recorded = invent_episodes(400, num_steps=8)
    run(write_log(tmp_path, recorded))
    index, _ = read_page(tmp_path / "episodes.html")
    training = [one for one in recorded if not one.validate]
    expected = episode_metrics([one.episode for one in training], RewardSettings(), 5)
    summary = index["summary"]["training"]
    shown = {number["key"]: number["value"] for number in summary["numbers"] if number["key"].startswith(PREFIX)}
    assert len(shown) == 9
    assert shown == {key: expected[key] for key in shown}
    fifth = [one.episode for one in training if one.step == 5]
    (point,) = [point for point in summary["by_step"] if point["first"] == 5]
    figures = episode_metrics(fifth, RewardSettings(), 5)
    assert point["values"] == {
        name: figures[PREFIX + name] for name in ("repeat", "refinement", *(f"accuracy@{k}" for k in range(1, 6)))
    }
    assert point["counts"]["repeat"] == sum(episode.attempts_used - 1 for episode in fifth)
    assert point["counts"]["accuracy@3"] == sum(episode.max_attempts >= 3 for episode in fifth)
    first, last = summary["by_k"]
    assert (first["first"], first["last"], last["first"], last["last"]) == (1, 2, 7, 8)
    early = episode_metrics([one.episode for one in training if one.step <= 2], RewardSettings(), 5)
    assert [point["share"] for point in first["points"]] == [early[f"{PREFIX}accuracy@{k}"] for k in range(1, 6)]


def test_reward_is_the_mean_of_the_logged_rewards() -> None:
    summary = Summary()
    attempt = make_attempt("x", Outcome.CORRECT)
    list(summary.counting(make_recorded([attempt], question="q", gold="g", reward=r) for r in (0.25, 0.5)))
    (reward,) = [n for n in summary.to_json()["training"]["numbers"] if n["key"] == "mean reward"]
    assert reward["value"] == 0.375


def test_many_steps_are_pooled_and_all_of_them_counted() -> None:
    summary = Summary()
    attempt = make_attempt("x", Outcome.CORRECT)
    list(summary.counting(make_recorded([attempt], question="q", gold="g", step=step) for step in range(1, 1001)))
    split = summary.to_json()["training"]
    assert len(split["by_step"]) == MAX_POINTS
    assert split["steps_per_point"] == 25
    assert sum(point["counts"]["accuracy@1"] for point in split["by_step"]) == 1000
    assert split["by_step"][1]["first"] == 26


def test_validation_alone_has_no_training_figures(tmp_path: Path) -> None:
    attempt = make_attempt("x", Outcome.CORRECT)
    run(write_log(tmp_path, [make_recorded([attempt], question="q", gold="g", validate=True)]))
    index, _ = read_page(tmp_path / "episodes.html")
    assert list(index["summary"]) == ["validation"]


def test_limit_lists_the_newest_and_counts_all(tmp_path: Path) -> None:
    assert run(write_log(tmp_path, invent_episodes(100, num_steps=10)), "--limit", "30") == 0
    index, shown = read_page(tmp_path / "episodes.html")
    assert index["rows"]["step"] == [10] * 10 + [9] * 10 + [8] * 10
    assert [episode["step"] for episode in shown] == index["rows"]["step"]
    assert "100 episodes, steps 1 to 10" in index["headline"]
    assert "the newest 30" in index["headline"]
    assert sum(split["numbers"][0]["value"] for split in index["summary"].values()) == 100


def test_rollouts_of_a_question_lie_together(tmp_path: Path) -> None:
    attempt = make_attempt("x", Outcome.CORRECT)
    scattered = [(0, 1), (1, 0), (0, 0), (1, 1)]
    episodes = [make_recorded([attempt], question="q", gold="g", index=i, rollout=r) for i, r in scattered]
    run(write_log(tmp_path, episodes))
    _, shown = read_page(tmp_path / "episodes.html")
    assert [(episode["index"], episode["rollout"]) for episode in shown] == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("text", "steps"), [("3", {3}), ("3-5", {3, 4, 5}), ("9-", {9, 10}), ("-2", {1, 2}), ("0-1", {1})]
)
def test_step_chooses_steps(tmp_path: Path, text: str, steps: set[int]) -> None:
    assert run(write_log(tmp_path, invent_episodes(40, num_steps=10)), f"--step={text}") == 0
    index, _ = read_page(tmp_path / "episodes.html")
    assert set(index["rows"]["step"]) == steps


@pytest.mark.parametrize("text", ["", "-", "5-3", "a", "1-2-3", "1.5", "²"])
def test_step_that_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="step must"):
        view.step_range(text)


@pytest.mark.parametrize("text", ["0", "-1", "x", "²"])
def test_limit_below_one_is_refused(text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, f"--limit={text}")
    assert "limit must be a number of episodes, at least 1" in capsys.readouterr().err


def test_page_lies_beside_the_log_where_the_run_s_folder_is_named(tmp_path: Path) -> None:
    write_log(tmp_path / "episodes", invent_episodes(5))
    assert run(tmp_path) == 0
    assert (tmp_path / "episodes" / "episodes.html").is_file()
    assert not (tmp_path / "episodes.html").exists()


def test_out_names_the_page_and_nothing_else_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path / "log", invent_episodes(5))
    assert run(tmp_path / "log", "--out", tmp_path / "page.html") == 0
    assert str(tmp_path / "page.html") in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "episodes-host-1-000000.jsonl", "page.html",
    ]  # fmt: skip


def test_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path / "log", invent_episodes(5))
    (tmp_path / "page.html").mkdir()  # stands for whatever makes the last move fail
    assert run(tmp_path / "log", "--out", tmp_path / "page.html") == 1
    assert "page.html" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "page.html"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/none"], "path must be an episode log"),
        (["{tmp}"], "Choose one of the logs below it: '{tmp}/log'."),
        (["{tmp}/log", "--step=77"], "LOGDIR must hold episodes of the steps asked for"),
        (["{tmp}/log", "--text", "--step=77"], "LOGDIR must hold episodes of the steps asked for"),
        (["{tmp}/log", "--out", "{tmp}/no/folder/page.html"], "No such file or directory"),
        (["{tmp}/log", "--text", "--out", "{tmp}/page.html"], "--out must go without --text"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(tmp_path / "log", invent_episodes(3, num_steps=3))
    status = 1 if "--out" in arguments and "--text" not in arguments else 2
    assert run(*(argument.format(tmp=tmp_path) for argument in arguments)) == status
    error = capsys.readouterr().err
    assert message.format(tmp=tmp_path) in error
    assert error.count("\n") == 1


def test_page_of_an_episode_without_attempts(tmp_path: Path) -> None:
    recorded = RecordedEpisode(episode=Episode(max_attempts=2, truncated=True), step=0, reward=-1.0)
    assert run(write_log(tmp_path, [recorded])) == 0
    index, (episode,) = read_page(tmp_path / "episodes.html")
    assert episode["attempts"] == []
    assert index["rows"]["used"] == [0]
    assert run(tmp_path, "--text") == 0


@pytest.mark.parametrize(
    ("text", "answer", "marked"),
    [
        ("first \\boxed{5}, no: \\boxed{5}.", "5", "5"),
        ("\\boxed{ 5 } and 5 again", "5", " 5 "),
        ("#### 12", "12", "12"),
        ("\U0001d49c\U0001d49c \\boxed{7}", "7", "7"),
        ("1,000", "1000", None),
        ("", "5", None),
        ("no answer", None, None),
        ("no answer", "", None),
    ],
)
def test_answer_is_found_in_utf16_units(text: str, answer: str | None, marked: str | None) -> None:
    span = answer_span(text, answer)
    if marked is None:
        assert span is None
    else:
        assert span is not None
        units = text.encode("utf-16-le")
        assert units[2 * span[0] : 2 * span[1]].decode("utf-16-le") == marked


def test_last_of_two_boxes_with_the_answer_is_marked() -> None:
    assert answer_span("\\boxed{5} \\boxed{6} \\boxed{5} 5", "5") == (27, 28)


def test_text_shows_the_episode(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wrong = make_attempt("I say \\boxed{4}", Outcome.INCORRECT, "4", "Wrong. 2 left.")
    again = make_attempt("Still \\boxed{4}", Outcome.INCORRECT, "4", "Wrong. 1 left.")
    right = make_attempt("Oh, \\boxed{5}", Outcome.CORRECT, "5")
    write_log(tmp_path, [make_recorded([wrong, again, right], question="2 + 3 = ?", gold="5", index=8, step=12)])
    assert run(tmp_path, "--text") == 0
    assert capsys.readouterr().out == (
        "=== step 12 training arithmetic/8 rollout 0: solved after 3 of 3 attempts, reward 1\n"
        "ground truth: 5\n"
        "system:\n"
        "  | You have 3 attempts to answer the question. Put the final answer of each attempt in \\boxed{}.\n"
        "user:\n"
        "  | 2 + 3 = ?\n"
        "attempt 1/3:\n"
        "  | I say \\boxed{4}\n"
        "  => INCORRECT; answer: 4 (3 tokens, end_of_turn)\n"
        "feedback:\n"
        "  | Wrong. 2 left.\n"
        "attempt 2/3:\n"
        "  | Still \\boxed{4}\n"
        "  => INCORRECT; answer: 4; repeats an earlier answer (2 tokens, end_of_turn)\n"
        "feedback:\n"
        "  | Wrong. 1 left.\n"
        "attempt 3/3:\n"
        "  | Oh, \\boxed{5}\n"
        "  => CORRECT; answer: 5 (2 tokens, end_of_turn)\n\n"
    )


def test_text_ends_with_the_newest_and_stops_at_the_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path, invent_episodes(100, num_steps=100))
    run(tmp_path, "--text", "--limit=3")
    assert re.findall(r"^=== step (\d+)", capsys.readouterr().out, flags=re.MULTILINE) == ["98", "99", "100"]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_a_model_cannot_drive_the_terminal(text: str) -> None:
    written = episode_text(hostile_episode(text))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]", written)
    assert "\x1b" not in episode_text(hostile_episode(text), colour=False)


def test_control_characters_are_shown_by_their_code() -> None:
    assert printable("a\x1b[2J\x00\u202e\ud800\tb\nc") == "a\\x1b[2J\\x00\\u202e\\ud800\tb\nc"


def test_every_character_that_is_not_seen_is_shown_by_its_code() -> None:
    for code in range(0x110000):
        character = chr(code)
        category = unicodedata.category(character)
        if category in ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs") and character not in "\t\n ":
            assert printable(character) != character, hex(code)
        elif category[0] in "LNPS" and printable(character) != character:
            # Letters and symbols that are blank: Hangul fillers and the blank of Braille.
            assert code in (0x115F, 0x1160, 0x2800, 0x3164, 0xFFA0), hex(code)


@pytest.mark.parametrize(
    "character",
    ["\ufe00", "\ufe0f", "\U000e0100", "\U000e01ef", "\u034f", "\u2800", "\u3164", "\u115f", "\u1160", "\uffa0",
     "\u180e", "\u2064", "\u200c", "\u200d", "\u17b4", "\u00a0", "\u202f", "\u3000", "\ufff0", "\U000e0fff"],
)  # fmt: skip
def test_character_without_a_glyph_is_shown_by_its_code(character: str) -> None:
    assert printable(f"a{character}b") == f"a{character.encode('unicode_escape').decode()}b"


def test_letters_marks_and_emoji_are_left_as_they_are() -> None:
    text = "\U0001f600 e\u0301 \u0639\u0631\u0628\u064a \u4e2d\u6587 \u0e01\u0e33 \u2211\t\n"
    assert printable(text) == text


def test_colours_are_the_only_difference_they_make() -> None:
    (recorded,) = invent_episodes(1)
    coloured = episode_text(recorded, colour=True)
    assert "\x1b[1;3" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == episode_text(recorded)


def test_lines_of_the_model_are_indented_so_that_it_cannot_forge_a_verdict() -> None:
    forged = make_attempt("x\n  => CORRECT; answer: 5", Outcome.INCORRECT)
    lines = episode_text(make_recorded([forged], question="q", gold="g")).splitlines()
    assert [line for line in lines if line.startswith("  =>")] == ["  => INCORRECT (5 tokens, end_of_turn)"]


def start_text(log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """``multiattempt view LOG --text`` in a process of its own."""
    code = (
        "import argparse, sys; from verl_multiattempt import view; parser = argparse.ArgumentParser();"
        "view.add_arguments(parser); sys.exit(view.run(parser.parse_args()))"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(log), "--text", "--limit=2000"], **options)


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_terminal_gets_colours_unless_told_otherwise(tmp_path: Path, no_color: str, coloured: bool) -> None:
    write_log(tmp_path, invent_episodes(2))
    ours, theirs = pty.openpty()
    process = start_text(tmp_path, stdout=theirs, env={**os.environ, "NO_COLOR": no_color})
    os.close(theirs)
    written = b""
    while chunk := _read_terminal(ours):
        written += chunk
    os.close(ours)
    assert process.wait() == 0
    assert b"ground truth" in written
    assert (b"\x1b[" in written) is coloured


def _read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # how Linux says that the other end is closed
        return b""


def test_reader_that_stops_early_is_no_error(tmp_path: Path) -> None:
    write_log(tmp_path, invent_episodes(2000))
    process = start_text(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith(b"=== step 1 ")
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0


def test_terminal_without_unicode_gets_escapes(tmp_path: Path) -> None:
    write_log(tmp_path, [hostile_episode("caf\u00e9 \ud800")])
    process = start_text(tmp_path, stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    written, _ = process.communicate()
    assert process.returncode == 0
    assert b"caf\\xe9 \\ud800" in written
