"""How well a target shows what its reference shows, by a vision-language model: alignment scores of pairs, 0-100.

    judge = AlignmentJudge(asks=QwenVl(model=...)).open()
    verdicts = judge.judge([Case(id=pair_id, condition="melt", category="concept", reference=sample, target=other)])

The engine is any captioner's; frames are chosen by the captioner's `look`. Which frames come in, the caller says, so a
judge knows no catalog. Exercised by `pytest tests/vapdata/captioners/test_judge.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vapdata.captioners import answers, prompt
from vapdata.captioners.asking import Answers, AskSettings, Engine, Question, asked, ended
from vapdata.clip import Author, Look, Sample
from vapdata.errors import CallError, ClipError


@dataclass(frozen=True, kw_only=True)
class Case:
    """One pair to be judged."""

    id: str
    """Comes back with the verdict, e.g. `pair_id`."""
    condition: str
    category: str
    """concept, style, motion or camera."""
    reference: Sample
    """With `frames` and `times_s`, as the judge's `look` says; likewise the target."""
    target: Sample


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the judge says of one pair."""

    score: float
    """0 to 100."""
    reason: str
    author: Author
    """The model, and the rubric as `prompt_version`."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class AlignmentJudge:
    """A rubric, and the captioner whose engine is asked with it."""

    asks: AskSettings
    """`QwenVl`, `Vllm` or `OpenaiApi`; its prompts are not used."""
    rubric: str = "alignment-1"

    def __post_init__(self) -> None:
        text = prompt.read(self.rubric).text
        lacking = [name for name in ("{condition}", "{category}") if name not in text]
        if lacking:
            raise CallError(f"rubric {self.rubric}: got a text without {lacking[0]}, wanted one that names what is judged")

    @property
    def look(self) -> Look:
        """Which frames of each clip it is shown."""
        return self.asks.look

    @property
    def author(self) -> Author:
        """Whose verdicts these are. Cheap: loads nothing."""
        return self.asks.author(prompt.read(self.rubric))

    def open(self, device: str | None = None) -> "OpenAlignmentJudge":
        """Loads the model, or checks that the server can be asked."""
        return OpenAlignmentJudge(self, self.asks.engine(device))


class OpenAlignmentJudge:
    """A judge at work."""

    def __init__(self, spec: AlignmentJudge, engine: Engine) -> None:
        self._name, self._engine = f"judge by {spec.asks.name}", engine
        self._rubric, self._author = prompt.read(spec.rubric).text, spec.author

    def judge(self, cases: Sequence[Case]) -> Mapping[str, Verdict | ClipError]:
        """By `Case.id`, the verdict or why there is none: a failure is never a score."""
        questions = {case.id: Question(id=case.id, text=self._asked_of(case), shown=(case.reference, case.target)) for case in cases}
        if len(questions) != len(cases):
            raise ValueError(f"{self._name}: {len(cases)} cases have {len(questions)} ids")
        said = asked(self._engine, list(questions.values()), self._name)
        return {id_: self._verdict(question, said) for id_, question in questions.items()}

    def close(self) -> None:
        """Lets go of the engine."""
        self._engine.close()

    def _asked_of(self, case: Case) -> str:
        return self._rubric.replace("{condition}", case.condition.replace("_", " ")).replace("{category}", case.category)

    def _verdict(self, question: Question, said: Answers) -> Verdict | ClipError:
        try:
            answer = ended(said[question.id], question, self._name)
            score, reason = answers.score_of(answer.text, f"{self._name}, {question.where}")
        except ClipError as error:
            return error
        return Verdict(score=score, reason=reason, author=self._author, seconds=answer.seconds)
