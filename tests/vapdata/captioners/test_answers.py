"""What is stored as a caption and what is a failure: refusals, nothing, loops; and how a judge's answer is read."""

import pytest

from vapdata.captioners.answers import score_of, text_of
from vapdata.errors import BadAnswer

GOOD = [
    "A dog runs along a beach. It stops, turns and runs back. The sea stays calm. The camera pans left.",
    "A sorry-looking dog sits in the rain. I am reading a book, says the sign.",
    "There are no people in the street; a cat walks by, and there is no sound.",
    "A ball bounces up and down, up and down, and rolls away.",
    "一只狗在海滩上奔跑，然后停下来，转身跑回去。镜头向左移动。",
    "The man laughs, laughs, laughs. The camera remains static. The camera remains static.",
]
REFUSALS = [
    "I'm sorry, but I can't describe this video.",
    "I’m sorry, but I cannot help with that.",
    "Sorry, I can't assist with that request.",
    "I cannot identify the people in these frames.",
    "I can’t view videos.",
    "Unfortunately, I am not able to see the frames.",
    "As an AI language model, I have no eyes.",
    "There are no frames in your message. Please upload the video.",
    "No images were provided.",
    "  \"I am unable to comply.\"",
]
LOOPS = [
    "The dog runs and the dog runs and the dog runs and the dog runs and",
    "no no no no",
    "A red car drives by. The car is very fast. It stops. The car is very fast. It goes on. The car is very fast.",
    " ".join(f"the {a} cat sees the {b} dog" for a in ("red", "blue") for b in ("old", "new", "big") for _ in range(2)),
    "镜头向左移动，镜头向左移动，镜头向左移动，镜头向左移动，",
]


@pytest.mark.parametrize("text", GOOD)
def test_a_description_is_kept(text: str) -> None:
    assert text_of(text, "here") == text


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_no_caption(text: str) -> None:
    with pytest.raises(BadAnswer, match=r"^qwen_vl, clip d/a: the model refused: "):
        text_of(text, "qwen_vl, clip d/a")


@pytest.mark.parametrize("text", ["", " \n\t", "...", "<think>I see a dog. </think> \n", "<think>I see a"])
def test_an_empty_answer_is_no_caption(text: str) -> None:
    with pytest.raises(BadAnswer, match=r"^here: got an empty answer .*, wanted a description"):
        text_of(text, "here")


@pytest.mark.parametrize("text", LOOPS)
def test_a_loop_is_no_caption(text: str) -> None:
    with pytest.raises(BadAnswer, match=r"^here: the answer goes round in a loop: "):
        text_of(text, "here")


def test_thoughts_and_line_breaks_do_not_get_into_a_caption() -> None:
    assert text_of("<think>A dog?\nA dog.</think>\n\nA dog runs.\n\n It stops.  ", "here") == "A dog runs. It stops."


def test_a_long_loop_is_told_shortly() -> None:
    with pytest.raises(BadAnswer) as caught:
        text_of("The quick brown fox jumps over the lazy dog and runs far away. " * 300, "here")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('{"reason": "Both melt.", "score": 93}', 93.0),
        ('```json\n{"score": 0, "reason": "Nothing\\nmelts."}\n```', 0.0),
        ('<think>90? no</think>{"reason": "r", "score": 100}', 100.0),
        ('{"reason": "r", "score": 12.5}', 12.5),
    ],
)
def test_a_judges_answer_is_read(answer: str, score: float) -> None:
    got, reason = score_of(answer, "here")
    assert got == score
    assert "\n" not in reason and reason


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("I would say 90.", "wanted one JSON object"),
        ('Sure! {"reason": "r", "score": 90}', "wanted one JSON object"),
        ('{"reason": "r", "score": 90} {"reason": "r", "score": 10}', "wanted one JSON object"),
        ('{"reason": "r", "score": 90', "wanted one JSON object"),
        ("90", "an object with score and reason"),
        ('{"score": 90}', "an object with score and reason"),
        ('{"reason": "r", "score": 90, "confidence": 1}', "an object with score and reason"),
        ('{"reason": "r", "score": "90"}', "wanted a number from 0 to 100"),
        ('{"reason": "r", "score": true}', "wanted a number from 0 to 100"),
        ('{"reason": "r", "score": 101}', "wanted a number from 0 to 100"),
        ('{"reason": "r", "score": -1}', "wanted a number from 0 to 100"),
        ('{"reason": "r", "score": NaN}', "wanted a number from 0 to 100"),
        ('{"reason": " ", "score": 90}', "wanted a sentence"),
    ],
)
def test_a_judges_answer_that_is_not_exactly_a_verdict_is_a_failure(answer: str, told: str) -> None:
    with pytest.raises(BadAnswer, match=told):
        score_of(answer, "here")
