"""The report of ``multiattempt check`` as text for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_TRAINED = "model"
_LINE_END = "\u21b5"


def text_of(report: dict[str, Any]) -> str:
    """The whole report.

    Args:
        report: see `verl_multiattempt.adapters.check.make_report`.
    """
    lines = [report["command"]]
    for title, part in (("Settings in force", _settings), ("An episode", _example), ("Lengths, in tokens", _lengths),
                        ("Verifier", _verifier)):  # fmt: skip
        if body := list(part(report)):
            lines += ["", title, *(f"  {line}" for line in body)]
    for title, sentences in (("Notes", report["notes"]), ("Warnings", report["warnings"]),
                             ("Problems", report["problems"])):  # fmt: skip
        if sentences:
            lines += ["", f"{title} ({len(sentences)})", *(f"  {i}. {text}" for i, text in enumerate(sentences, 1))]
    lines += ["", "See the problems above." if report["problems"] else "No problem found."]
    return "\n".join(lines)


def _table(rows: list[tuple[str, str]]) -> Iterator[str]:
    width = max(len(name) for name, _ in rows)
    yield from (f"{name:<{width}}  {value}" for name, value in rows)


def _settings(report: dict[str, Any]) -> Iterator[str]:
    settings = report.get("settings")
    if not settings:
        return
    low, high = settings["min_attempts"], settings["max_attempts"]
    shape = settings["distribution"] + (f" {list(settings['weights'])}" if settings["weights"] else "")
    allowance = str(high) if settings["distribution"] == "fixed" or low == high else f"{low}..{high}, {shape}"
    reward, verifier = settings["reward"], settings["verifier"]
    rows = [
        ("allowance", f"{allowance}; drawn for each {settings['scope']} (rollout.n {settings['rollouts_per_prompt']}), "
                      f"seed {settings['seed']}"),
        ("validation", f"{settings['val_max_attempts'] or high} attempts"),
        *(("", _own_allowances(key, own)) for key, own in report.get("allowances", {}).items()),
    ]  # fmt: skip
    if chat := report.get("chat"):
        rows += [("opening", f"in the {chat['opening_placement']} message"),
                 ("feedback", f"as a {chat['feedback_role']} message")]  # fmt: skip
    rows += [
        ("reward", f"{reward['scheme']}: {reward['correct']:g} correct (times {reward['attempt_discount']:g} for each "
                   f"further attempt), {reward['answered']:g} answered, {reward['unanswered']:g} not answered"),
        ("verifier", f"{verifier['name']}, {verifier['timeout_s']:g} s, {verifier['num_workers']} processes"),
        ("estimator", str(settings["adv_estimator"])),
    ]  # fmt: skip
    yield from _table(rows)


def _own_allowances(key: str, own: dict[str, Any]) -> str:
    low, high = own["smallest"], own["largest"]
    some = "all" if own["num_own"] == own["num_rows"] else f"{own['num_own']:,}"
    allowed = str(low) if low == high else f"{low}..{high}"
    return f"{some} of the {own['num_rows']:,} rows of data.{key} allow {allowed} by extra_info.max_attempts"


def _example(report: dict[str, Any]) -> Iterator[str]:
    example = report.get("example")
    if not example:
        return
    row = example["row"]
    which = "an imaginary question" if row is None else f"row {row} of data.train_files"
    yield f"of {which}, with made-up attempts; mask 1: sampled and trained on, 0: not trained on"
    for segment in example["segments"]:
        label, mask = f"{segment['kind']} ({segment['num_tokens']})", int(segment["kind"] == _TRAINED)
        for line in printable(segment["text"]).split("\n"):
            yield f"{label:>15}  {mask} | {line}"
            label = ""
    yield from (printable(text) for text in (report["chat"]["layout"], *report["chat"]["findings"]))


def printable(text: str) -> str:
    """``text`` with its line ends drawn, and without characters that steer a terminal."""
    shown = "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)
    return shown.replace("\n", f"{_LINE_END}\n").removesuffix("\n")


def _lengths(report: dict[str, Any]) -> Iterator[str]:
    lengths = report.get("lengths")
    if not lengths:
        return
    prompt, response = lengths["max_prompt_length"], lengths["max_response_length"]
    rows = [("prompt", f"at most {prompt}, {lengths['opening_tokens']} of them the opening")]
    if data := report.get("data"):
        some = "all" if data["num_sampled"] == data["num_rows"] else f"{data['num_sampled']:,} drawn"
        rows.append(("", f"in the data: longest {data['prompt_tokens_max']}, p99 {data['prompt_tokens_p99']} "
                         f"({some} of {data['num_rows']:,} rows, opening included)"))  # fmt: skip
    rows.append(("response", f"at most {response}, all attempts and {lengths['feedback_tokens']} for each feedback"))
    if chars := lengths["verifier_feedback_chars"]:
        rows.append(("", f"and up to {chars} characters of the verifier's in each (multiattempt.feedback."
                         "use_verifier_text)"))  # fmt: skip
    if (room := lengths["response_room"]) < response:
        rows.append(("", f"after a prompt of {prompt} at most {room} (actor_rollout_ref.rollout.max_model_len is "
                         f"{lengths['max_model_len']})"))  # fmt: skip
    room = [f"{k} of {each:,}" for k, each in lengths["tokens_of_each_attempt"].items()]
    rows.append(("attempts", "there is room for " + ", or ".join(room)))
    limit = lengths["max_tokens_per_attempt"]
    rows.append(("", "an attempt may take all of it (multiattempt.max_tokens_per_attempt is null)" if limit is None
                 else f"limited to {limit} each, of which {lengths['attempts_that_fit']} fit"))  # fmt: skip
    rows.append(("step", f"{lengths['episodes_per_step']:,} episodes, at most {lengths['tokens_per_step_at_most']:,} "
                         "tokens"))  # fmt: skip
    yield from _table(rows)


def _verifier(report: dict[str, Any]) -> Iterator[str]:
    told = report.get("verifier")
    if not told:
        return
    detail = f" ({told['detail']})" if told["detail"] else ""
    yield f"row {told['row']}: {told['outcome']} for its own gold, {_short(printable(told['attempt']))}{detail}"
    if report["settings"]["verifier"]["name"] != "math":
        yield "a verifier of another kind may want its answers in another form"
    for key, golds in told["golds"].items():
        right = golds["judged"] - len(golds["not_correct"])
        data = "data" if key == "train_files" else "validation data"
        drawn = f" (drawn from {golds['num_rows']:,} rows)" if golds["judged"] < golds["num_rows"] else ""
        yield f"{right} of {golds['judged']} golds of the {data} are CORRECT by their own verifier{drawn}"


def _short(text: str, max_chars: int = 300) -> str:
    return text if len(text) <= max_chars else text[:max_chars] + " ..."
