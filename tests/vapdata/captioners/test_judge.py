"""A judge of pairs: the rubric with the condition in it, both clips in order, and nothing but a verdict taken for one."""

from collections.abc import Iterator

import pytest
from bad_chat import KEY, BadChat
from shown import sample

from vapdata.captioners.judge import AlignmentJudge, Case, Verdict
from vapdata.captioners.openai_api import OpenaiApi
from vapdata.captioners.qwen_vl import QwenVl
from vapdata.errors import BadAnswer, CallError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BadChat]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = BadChat()
    yield made
    made.close()


def _cases() -> list[Case]:
    return [Case(id=f"p{number}", condition="ink_melt", category="concept", reference=sample(number), target=sample(number + 10)) for number in range(3)]


def _judge(server: BadChat) -> AlignmentJudge:
    return AlignmentJudge(asks=OpenaiApi(url=server.url, requests_per_s=1e4, first_wait_s=0.002, longest_wait_s=0.05, attempts=12))


def test_a_servers_verdicts_come_back_under_their_ids(server: BadChat) -> None:
    server.trouble, server.text = 0.3, '{"reason": "Both melt.", "score": 83}'
    opened = _judge(server).open()
    said = opened.judge(_cases())
    opened.close()
    assert {id_: (each.score, each.reason) for id_, each in said.items()} == {f"p{number}": (83.0, "Both melt.") for number in range(3)}
    assert said["p0"].author == _judge(server).author
    assert said["p0"].author.prompt_version == "alignment-1"


def test_the_rubric_names_the_condition_and_both_clips_are_shown_in_order(server: BadChat) -> None:
    server.text = '{"reason": "r", "score": 1}'
    _judge(server).open().judge(_cases()[:1])
    content = server.bodies[0]["messages"][0]["content"]
    texts = [part["text"] for part in content if part["type"] == "text"]
    assert 'show the same concept: "ink melt"' in texts[-1]
    assert "{" not in texts[-1].replace('{"reason"', "")
    assert [place for place, part in enumerate(content) if part.get("text") in ("Clip 1:", "Clip 2:")] == [0, 9]
    assert sum(part["type"] == "image_url" for part in content) == 8


@pytest.mark.parametrize("text", ["About 80, I would say.", '{"score": 120, "reason": "r"}', "I'm sorry, I can't."])
def test_what_is_no_verdict_is_a_failure_and_never_a_score(server: BadChat, text: str) -> None:
    server.text = text
    said = _judge(server).open().judge(_cases())
    assert {type(each) for each in said.values()} == {BadAnswer}
    assert str(said["p1"]).startswith("judge by openai_api, clip d/1 and clip d/11: got ")


def test_a_model_on_this_machine_is_asked_the_same_way() -> None:
    judge = AlignmentJudge(asks=QwenVl(model="tiny-qwen3-vl"))
    said = judge.open("cpu").judge(_cases()[:2])
    assert [type(each) for each in said.values()] == [BadAnswer, BadAnswer], "word salad is no verdict"
    assert judge.look == QwenVl().look
    assert not isinstance(said["p0"], Verdict)


def test_two_cases_of_one_id_are_refused(server: BadChat) -> None:
    with pytest.raises(ValueError, match="2 cases have 1 ids"):
        _judge(server).open().judge(_cases()[:1] * 2)


def test_a_rubric_that_names_no_condition_is_refused(server: BadChat) -> None:
    with pytest.raises(CallError, match=r"rubric long-1: got a text without \{condition\}, wanted one that names what is judged"):
        AlignmentJudge(asks=OpenaiApi(url=server.url), rubric="long-1")
