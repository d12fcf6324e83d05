"""What a model's answer is worth: a text that can be stored, or the reason why it is none.

A refusal, an empty answer, one that was cut off and one that goes round in a loop are failures, never captions.
Exercised by `pytest tests/vapdata/captioners/test_answers.py`.
"""

import json
import re
from collections import Counter

from vapdata.errors import BadAnswer

_REFUSALS = re.compile(
    r"^\W*(i(’|')?m sorry|i am sorry|sorry\b|i apologi[sz]e|my apologies|unfortunately,? i|i (can(no|’|')?t|can not|could not|am not able|am unable|do not have|must decline)\b"
    r"|i(’|')?m (not able|unable|afraid)|as an ai\b|as a (large )?language model"
    r"|there (is|are|was|were) no (video|image|frame|clip)s?\b|no (video|image|frame)s? (was|were|is|are) )",
    re.IGNORECASE,
)
_THOUGHTS = re.compile(r"^.*?</think>|<think>.*$", re.DOTALL)
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+(?:['’-][^\W_]+)*")
"""A run of letters, or one sign of a script that puts no spaces."""
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s*")

REPEATED = 4
"""Times that a phrase stands in a row before it is a loop; a whole sentence may stand twice."""
LONGEST_PHRASE = 24
"""Words of a phrase that is looked for in a row."""
LEAST_VARIETY = 0.5
"""Distinct four-word runs, of all in an answer of 40 words or more. Descriptions have 0.95 and more."""


def text_of(answer: str, where: str) -> str:
    """The caption in `answer`: one line, without a model's thoughts. Raises BadAnswer, with `where` at its head."""
    text = " ".join(_THOUGHTS.sub("", answer).split())
    words = [word.lower() for word in _WORD.findall(text)]
    if not words:
        raise BadAnswer(f"{where}: got an empty answer {_quoted(answer)}, wanted a description")
    if _REFUSALS.search(text):
        raise BadAnswer(f"{where}: the model refused: {_quoted(text)}")
    told = loop(text, words)
    if told:
        raise BadAnswer(f"{where}: the answer goes round in a loop: {told}")
    return text


def loop(text: str, words: list[str]) -> str | None:
    """What is said over and over; None where nothing is. `words` are those of `text`, small."""
    for length in range(1, min(LONGEST_PHRASE, len(words) // REPEATED) + 1):
        run = 0
        for place in range(length, len(words)):
            run = run + 1 if words[place] == words[place - length] else 0
            if run >= length * (REPEATED - 1):
                return f"{' '.join(words[place - length + 1 : place + 1])!r} {REPEATED} times in a row"
    sentences = Counter(sentence.lower() for sentence in _SENTENCE.split(text) if len(_WORD.findall(sentence)) >= 4)
    sentence, times = max(sentences.items(), key=lambda each: each[1], default=("", 0))
    if times >= 3:
        return f"{_quoted(sentence)} {times} times"
    runs = [tuple(words[place : place + 4]) for place in range(len(words) - 3)]
    if len(words) >= 40 and len(set(runs)) < LEAST_VARIETY * len(runs):
        return f"{len(set(runs))} distinct runs of four words out of {len(runs)}"
    return None


def score_of(answer: str, where: str) -> tuple[float, str]:
    """(score, reason) of an answer that is one JSON object with just these, bare or fenced as code. Raises BadAnswer."""
    text = _THOUGHTS.sub("", answer).strip()
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, re.DOTALL)
    try:
        said = json.loads(fenced[1] if fenced else text)
    except ValueError as error:
        raise BadAnswer(f"{where}: got {_quoted(answer)}, wanted one JSON object with score and reason") from error
    if not isinstance(said, dict) or set(said) != {"score", "reason"}:
        raise BadAnswer(f"{where}: got {_quoted(text)}, wanted an object with score and reason and nothing else")
    score, reason = said["score"], said["reason"]
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 100:
        raise BadAnswer(f"{where}: got score {score!r}, wanted a number from 0 to 100")
    if not isinstance(reason, str) or not reason.strip():
        raise BadAnswer(f"{where}: got reason {reason!r}, wanted a sentence")
    return float(score), " ".join(reason.split())


def _quoted(text: str) -> str:
    short = " ".join(text.split())
    return repr(short if len(short) <= 120 else short[:117] + "...")
