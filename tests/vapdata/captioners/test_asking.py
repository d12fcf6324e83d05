"""Questions and answers find one another by id, whatever an engine does."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from shown import sample

from vapdata.captioners.asking import Answer, Answers, Question, asked, span_s, times
from vapdata.captioners.asking import OpenAsker as Asker
from vapdata.captioners.qwen_vl import QwenVl
from vapdata.clip import Look, Sample
from vapdata.errors import BadAnswer, Transient


class _Engine:
    """Answers as it is told to."""

    def __init__(self, answer: Callable[[Sequence[Question]], Answers]) -> None:
        self.answer = answer

    def close(self) -> None:
        """Holds nothing."""


def _said(question: Question) -> Answer:
    return Answer(text=f"This is {question.shown[0].clip_id} told {question.id.partition(':')[0]}.", ended="end", tokens=4, seconds=0.5)


SPEC = QwenVl(model="tiny-qwen2.5-vl", prompts=("long-1", "vap-1"))


def test_answers_in_any_order_go_to_their_own_clips() -> None:
    engine = _Engine(lambda questions: {question.id: _said(question) for question in reversed(questions)})
    described = Asker(SPEC, engine).describe([sample(number) for number in range(9)])
    assert {clip_id: [(each.role, each.text) for each in one.captions] for clip_id, one in described.items()} == {
        f"d/{number}": [("long", f"This is d/{number} told long."), ("vap", f"This is d/{number} told vap.")] for number in range(9)
    }


def test_an_answer_that_never_came_is_a_failure_and_moves_no_other() -> None:
    engine = _Engine(lambda questions: {question.id: _said(question) for question in questions if question.id != "long:d/1"})
    described = Asker(SPEC, engine).describe([sample(0), sample(1), sample(2)])
    assert [len(described[f"d/{number}"].captions) for number in range(3)] == [2, 1, 2]
    assert isinstance(described["d/1"].failure, Transient)
    assert str(described["d/1"].failure) == "qwen_vl, clip d/1: never answered"
    assert [each.text for each in described["d/1"].captions] == ["This is d/1 told vap."]


def test_one_bad_answer_leaves_the_clips_other_caption_and_the_neighbours() -> None:
    def answer(questions: Sequence[Question]) -> Answers:
        bad = Answer(text="I'm sorry, I can't.", ended="end", tokens=4, seconds=0.5)
        return {question.id: bad if question.id == "vap:d/0" else _said(question) for question in questions}

    described = Asker(SPEC, _Engine(answer)).describe([sample(0), sample(1)])
    assert [each.role for each in described["d/0"].captions] == ["long"]
    assert isinstance(described["d/0"].failure, BadAnswer)
    assert described["d/1"].failure is None


def test_an_answer_that_nobody_asked_for_stops_the_batch() -> None:
    engine = _Engine(lambda questions: {"long:d/77": _said(questions[0])})
    with pytest.raises(ValueError, match="the engine answered long:d/77, which nobody asked"):
        asked(engine, [Question(id="a", text="t", shown=(sample(0),))], "x")


def test_two_questions_of_one_id_are_refused() -> None:
    question = Question(id="a", text="t", shown=(sample(0),))
    with pytest.raises(ValueError, match="2 questions have 1 ids"):
        asked(_Engine(lambda questions: {}), [question, question], "x")


def test_no_clips_ask_nothing() -> None:
    def never(questions: Sequence[Question]) -> Answers:
        raise AssertionError("asked")

    assert Asker(SPEC, _Engine(never)).describe([]) == {}


def test_the_length_of_a_clip_is_found_from_its_looks_times() -> None:
    for seconds in (0.4, 2.0, 31.7):
        for most in (1, 2, 7):
            shown = tuple(Look(least=1, most=most).times(seconds))
            assert span_s(Sample(clip_id="d/a", frames=np.zeros((len(shown), 2, 2, 3), np.uint8), times_s=shown)) == pytest.approx(seconds)


@pytest.mark.parametrize("shown", [None, (0.5,), ()])
def test_frames_without_a_time_each_are_refused(shown: tuple[float, ...] | None) -> None:
    with pytest.raises(ValueError, match="d/a: a model is shown frames with a time each"):
        times(Sample(clip_id="d/a", frames=np.zeros((2, 2, 2, 3), np.uint8), times_s=shown))
