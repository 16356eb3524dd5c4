"""The episode log of the real agent loop: what it holds is what was generated, and its trouble is not the episode's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from tensordict import TensorDict
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.utils import tensordict_utils as tu

from tests.adapters.harness import ScriptedServer, compose_config, run_attempts
from tests.tokenizers import CHATML, STRICT, make_tokenizer
from verl_multiattempt.adapters.agent_loop import VALIDATE_FIELD, MultiAttemptAgentLoop
from verl_multiattempt.adapters.episode_log import LOGGED_FIELD, check_log_directory, log_directory
from verl_multiattempt.adapters.manager import AgentLoopManagerTQ, MultiAttemptAgentLoopManager
from verl_multiattempt.adapters.preflight import find_problems
from verl_multiattempt.chat.decode import decode_segments
from verl_multiattempt.chat.tokens import Segment
from verl_multiattempt.episode import Episode
from verl_multiattempt.record import RecordedEpisode, read_episodes
from verl_multiattempt.settings import RecordSettings, Settings

TOKENIZER = make_tokenizer()
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


RIGHT = [*ids("so \\boxed{42}"), END]
WRONG = [*ids("so \\boxed{41}"), END]


def decoded(tokens: list[int]) -> str:
    return str(TOKENIZER.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))


async def run_logged(
    folder: Path, attempts: list[list[int]], *, fields: dict[str, Any] | None = None, **options: Any
) -> tuple[list[RecordedEpisode], AgentLoopOutput, ScriptedServer, MultiAttemptAgentLoop]:
    """Run an episode with the log on; what is in the log then."""
    changes = {"record": {"enabled": True, "dir": str(folder)}, **options.pop("settings", {})}
    output, server, loop = await run_attempts(
        attempts, settings=changes, fields={LOGGED_FIELD: 1, **(fields or {})}, **options
    )
    assert loop.shared.writer is not None
    loop.shared.writer.close()
    return list(read_episodes(folder)) if folder.exists() else [], output, server, loop


async def test_line_tells_the_episode(tmp_path: Path) -> None:
    [recorded], output, server, loop = await run_logged(tmp_path, [WRONG, RIGHT])
    record = output.extra_fields["multiattempt"]
    assert recorded.episode == Episode.from_record(record)
    assert (recorded.step, recorded.rollout, recorded.validate, recorded.reward) == (1, 0, False, 1.0)
    assert (recorded.data_source, recorded.index, recorded.ground_truth) == ("test", 7, "42")
    assert recorded.episode.question_id == "test/7"
    assert recorded.messages == [
        {
            "role": "system",
            "content": loop.shared.settings.opening.text.format(max_attempts=5, s="s").replace("{{}}", "{}"),
        },
        {"role": "user", "content": "Compute 12*34 mod 6 = ?"},
    ]
    for number, attempt in enumerate(recorded.episode.attempts):
        _, logprobs = server.sampled(number)
        assert attempt.logprob_mean == pytest.approx(sum(logprobs) / len(logprobs))
        assert 0 < attempt.generate_s < recorded.seconds
    assert sum(a.generate_s for a in recorded.episode.attempts) == pytest.approx(output.metrics.generate_sequences)
    assert 0 < recorded.seconds < 60
    assert recorded.started_at > 1.7e9
    assert recorded.worker.endswith(f"-{loop.shared.writer.worker.rsplit('-', 1)[1]}")  # type: ignore[union-attr]


async def test_segments_are_the_tokens_trained_on(tmp_path: Path) -> None:
    cut = ids("word " * 4)
    [recorded], output, _, _ = await run_logged(
        tmp_path, [WRONG, cut, RIGHT], settings={"max_tokens_per_attempt": len(cut), "min_tokens_per_attempt": 4}
    )
    segments = recorded.segments
    assert [segment.kind for segment in segments] == [
        "prompt", "model", "inserted", "feedback", "model", "inserted", "feedback", "model",
    ]  # fmt: skip
    assert "".join(segment.text for segment in segments) == decoded([*output.prompt_ids, *output.response_ids])
    assert [s.text for s in segments if s.kind == "model"] == [decoded(WRONG), decoded(cut), decoded(RIGHT)]
    assert [segment.text for segment in segments if segment.kind == "inserted"] == ["\n", "<|im_end|>\n"]
    assert "You have 4 attempts left." in segments[3].text
    trained = sum(segment.num_tokens for segment in segments if segment.kind == "model")
    assert trained == sum(output.response_mask)
    assert sum(segment.num_tokens for segment in segments) == len(output.prompt_ids) + len(output.response_ids)


any_ids = st.lists(st.sampled_from([i for i in range(len(TOKENIZER)) if i != END]), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(any_ids, st.booleans()), min_size=5, max_size=5), st.sampled_from([CHATML, STRICT]))
async def test_segments_of_any_script_join_to_the_sequence(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[list[int], bool]], template: str
) -> None:
    folder = tmp_path_factory.mktemp("log")
    attempts = [[*tokens, END] if ends else tokens for tokens, ends in script]
    # Tokens drawn at random hold halves of characters: one at the end of an attempt is a replacement character.
    [recorded], output, _, _ = await run_logged(
        folder, attempts, template=template, settings={"max_tokens_per_attempt": 9, "min_tokens_per_attempt": 1}
    )
    assert "".join(segment.text for segment in recorded.segments) == decoded([*output.prompt_ids, *output.response_ids])
    assert recorded.episode == Episode.from_record(output.extra_fields["multiattempt"])
    mask = [bit for s in recorded.segments[1:] for bit in [int(s.kind == "model")] * s.num_tokens]
    assert mask == output.response_mask


def test_space_that_a_tokenizer_drops_at_the_start_of_a_text_is_kept() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import PreTrainedTokenizerFast

    # As Llama 2 and Gemma: a space is part of the word after it, and the first one is dropped.
    vocab = {"<unk>": 0, "▁one": 1, "▁two": 2, "▁three": 3, "<s>": 4}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
    inner.decoder = tokenizers.decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    segments = [Segment(kind="prompt", ids=(1, 2)), Segment(kind="model", ids=(3,)), Segment(kind="feedback", ids=(1,))]
    texts = [segment.text for segment in decode_segments(tokenizer, segments)]
    assert texts == ["one two", " three", " one"]


async def test_validation_is_marked(tmp_path: Path) -> None:
    [recorded], _, _, _ = await run_logged(tmp_path, [RIGHT], fields={VALIDATE_FIELD: True, "global_steps": 40})
    assert (recorded.validate, recorded.step) == (True, 40)


@pytest.mark.parametrize(("logged", "rollout", "expected"), [(0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1)])
async def test_rollouts_beyond_the_number_chosen_are_not_logged(
    logged: int, rollout: int, expected: int, tmp_path: Path
) -> None:
    episodes, _, _, _ = await run_logged(
        tmp_path / "log", [RIGHT], fields={LOGGED_FIELD: logged, "session_id": rollout}
    )
    assert len(episodes) == expected


async def test_log_is_off_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, _, loop = await run_attempts([RIGHT], fields={LOGGED_FIELD: 1})
    assert loop.shared.writer is None
    assert list(tmp_path.iterdir()) == []


async def test_record_of_a_rollout_has_the_same_keys_whether_logged_or_not(tmp_path: Path) -> None:
    # verl's TransferQueue needs one schema for all rows.
    _, logged, _, _ = await run_logged(tmp_path, [WRONG, RIGHT])
    plain, _, _ = await run_attempts([WRONG, RIGHT], logprobs=False)

    def keys(output: AgentLoopOutput) -> list[Any]:
        record = output.extra_fields["multiattempt"]
        return [sorted(output.extra_fields), sorted(record), *(sorted(attempt) for attempt in record["attempts"])]

    assert keys(logged) == keys(plain)
    assert plain.extra_fields["multiattempt"]["attempts"][0]["logprob_mean"] is None


async def test_log_that_cannot_be_written_does_not_fail_the_episode(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "log").write_text("a file where the folder should be")
    output, _, loop = await run_attempts(
        [RIGHT], settings={"record": {"enabled": True, "dir": str(tmp_path / "log")}}, fields={LOGGED_FIELD: 1}
    )
    assert loop.shared.writer is not None
    loop.shared.writer.close()
    assert output.response_ids == RIGHT
    assert loop.shared.writer.dropped == 1
    assert any("could not be written to the episode log" in message for message in caplog.messages)


# Where it lies, and who chooses.


def test_folder_is_that_of_the_run_unless_one_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    config = compose_config("trainer.default_local_dir=runs/a")
    assert log_directory(config, Settings()) == tmp_path / "runs" / "a" / "episodes"
    assert log_directory(config, Settings(record=RecordSettings(dir="log"))) == tmp_path / "log"
    assert log_directory(config, Settings(record=RecordSettings(dir="~/log"))) == Path("/home/someone/log")


def test_folder_is_checked_where_the_log_is_on() -> None:
    config = compose_config()
    bad = RecordSettings(enabled=True, dir="/dev/null/log")
    for record, path in ((bad, "/dev/null/log"), (RecordSettings(enabled=True, dir="s3://a/b"), "s3://a/b")):
        with pytest.raises(ValueError, match="must be a local folder that can be written to") as caught:
            check_log_directory(config, Settings(record=record))
        assert f"got {path!r}" in str(caught.value)
    check_log_directory(config, Settings(record=RecordSettings(dir="/dev/null/log")))


def test_preflight_refuses_a_folder_that_cannot_be_written_to(good_config: Callable[..., DictConfig]) -> None:
    assert find_problems(good_config({"multiattempt.record.dir": "/dev/null/log"})) == []
    changes = {"multiattempt.record.enabled": True, "multiattempt.record.dir": "/dev/null/log"}
    assert find_problems(good_config(changes)) == [
        "multiattempt.record.dir must be a local folder that can be written to; got '/dev/null/log' "
        "(Not a directory: '/dev/null'). Set it to another one, or multiattempt.record.enabled=false."
    ]


class Worker:
    """Stands for the actor handle of an agent-loop worker: keeps the shares sent to it."""

    def __init__(self) -> None:
        self.shares: list[Any] = []
        self.generate_sequences = self

    def remote(self, share: Any) -> None:
        self.shares.append(share)


class Dispatch:
    """Stands for verl's manager, whose construction starts Ray actors."""

    def __init__(self, config: Any, *args: Any) -> None:
        rollout = config.actor_rollout_ref.rollout
        self.rollout_config = SimpleNamespace(
            n=rollout.n, val_kwargs=SimpleNamespace(n=rollout.val_kwargs.n), agent=rollout.agent
        )
        self.agent_loop_workers = [Worker() for _ in range(rollout.agent.num_workers)]


def sent(manager: Any) -> list[list[int]]:
    """How many rollouts of each prompt are logged, of every batch sent to the only worker."""
    (worker,) = manager.agent_loop_workers
    return [[int(item) for item in share[LOGGED_FIELD]] for share in worker.shares]


def batch(size: int, step: int, **fields: Any) -> TensorDict:
    made = tu.get_tensordict({"index": torch.arange(size)})
    tu.assign_non_tensor_data(made, "global_steps", step)
    for name, value in fields.items():
        tu.assign_non_tensor_data(made, name, value)
    return made


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    def make(**record: Any) -> Any:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(AgentLoopManagerTQ, "__init__", Dispatch.__init__)
        monkeypatch.setattr(ray, "get", lambda references: references)
        config = compose_config("actor_rollout_ref.rollout.n=2", "trainer.default_local_dir=run")
        config.multiattempt.record.update(record)
        made: Any = MultiAttemptAgentLoopManager(config)
        made.config = config
        return made

    return make


def test_manager_chooses_the_rollouts_of_a_batch(manager: Any, tmp_path: Path) -> None:
    made = manager(enabled=True, max_episodes_per_step=6, every_n_steps=2)
    made.generate_sequences(batch(9, step=1))
    made.generate_sequences(batch(4, step=2))
    made.generate_sequences(batch(4, step=2, validate=True))
    assert sent(made) == [[2, 0, 0, 2, 0, 0, 2, 0, 0], [0] * 4, [1] * 4]
    # The workers may run in another directory.
    assert made.config.multiattempt.record.dir == str(tmp_path / "run" / "episodes")


def test_manager_marks_every_batch_so_that_all_rows_have_the_same_fields(manager: Any) -> None:
    made = manager(enabled=False)
    made.generate_sequences(batch(3, step=1))
    assert sent(made) == [[0, 0, 0]]
    assert made.config.multiattempt.record.dir is None


# kill -9

ENDLESS = """
import asyncio, sys
from itertools import count
from tests.adapters.test_episode_log import LOGGED_FIELD, RIGHT, WRONG, ids
from tests.adapters.harness import ScriptedServer, compose_config, make_loop, row

config = compose_config()
config.multiattempt.distribution = "fixed"
config.multiattempt.record.update({"enabled": True, "dir": sys.argv[1], "max_episodes_per_step": None})
config.data.max_response_length = 4096

async def main():
    for number in count():
        server = ScriptedServer([WRONG, ids("word " * 500), WRONG, WRONG, RIGHT])
        loop = make_loop(config, server)
        await loop.run({"temperature": 1.0, "logprobs": True},
                       **{**row(index=number), "global_steps": number // 50, LOGGED_FIELD: 1})
        print(loop.shared.writer.written, flush=True)

asyncio.run(main())
"""


def test_worker_killed_with_9_leaves_every_episode_that_was_written(tmp_path: Path, repository: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=repository
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if int(line) >= 60:
                break
    finally:
        process.kill()
    acknowledged = [int(line), *map(int, process.stdout.read().split()[:-1])][-1]
    process.wait()
    episodes = list(read_episodes(tmp_path))
    assert len(episodes) >= acknowledged >= 60
    for number, recorded in enumerate(episodes):
        assert (recorded.index, recorded.step) == (number, number // 50)
        assert [str(a.verdict.outcome) for a in recorded.episode.attempts] == [
            "INCORRECT", "NO_ANSWER", "INCORRECT", "INCORRECT", "CORRECT",
        ]  # fmt: skip
        assert sum(s.num_tokens for s in recorded.segments if s.kind == "model") == sum(
            a.num_tokens for a in recorded.episode.attempts
        )
