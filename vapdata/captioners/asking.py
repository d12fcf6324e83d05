"""Questions to vision-language models and their answers, by id: what all captioners by model, and the judge, share.

An engine gets questions with frames and gives an answer or a reason for each id. Nothing is ever matched by position:
an engine that answers out of order, late or not at all cannot put one clip's words on another.
Exercised by `pytest tests/vapdata/captioners/test_asking.py`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from vapdata.captioners import answers
from vapdata.captioners.prompt import Prompt, for_roles
from vapdata.clip import Author, Caption, Look, Role, Sample
from vapdata.errors import BadAnswer, CallError, ClipError, Transient
from vapdata.step import Described

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Question:
    """One prompt about one clip, or about several in order."""

    id: str
    """Told apart from every other question that is asked at the same time."""
    text: str
    shown: tuple[Sample, ...]
    """Clips with `frames` and `times_s`."""

    @property
    def where(self) -> str:
        """What it is about, for messages."""
        return f"clip {' and clip '.join(sample.clip_id for sample in self.shown)}"

    @property
    def frames(self) -> int:
        """How many pictures it shows."""
        return sum(len(times(sample)) for sample in self.shown)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said to one question."""

    text: str
    ended: Literal["end", "length", "refused"]
    """Whether the model ended it, was cut off at `max_tokens`, or was stopped by a filter of contents."""
    tokens: int | None
    """Of the answer; None where a server does not say."""
    seconds: float
    """That it took; of a batch, its share."""
    prompt_tokens: int | None = None
    cost: float | None = None
    """In the currency of the engine's prices; None where there are none."""


Answers = Mapping[str, Answer | ClipError]


@runtime_checkable
class Engine(Protocol):
    """A model, here or elsewhere, that looks at frames and answers."""

    def answer(self, questions: Sequence[Question]) -> Answers:
        """By `Question.id`, the answer or what became of it; ids that are missing count as never answered.

        Raises CallError where no question can be answered (a wrong key, a wrong address).
        """
        ...

    def close(self) -> None:
        """Lets go of connections and models."""
        ...


@dataclass(frozen=True, kw_only=True)
class AskSettings:
    """What all captioners by model have in common: prompts, and which frames they show."""

    name: ClassVar[str]
    reads: ClassVar[frozenset[str]] = frozenset({"frames"})

    prompts: tuple[str, ...] = ("long-1",)
    """One per role; see `vapdata/captioners/prompts`, or a file of your own."""
    fps: float = 2.0
    frames: int = 16
    """At most; a clip that is longer shows fewer a second."""
    long_side: int = 448
    """Pixels of a frame's longer side."""
    max_tokens: int = 512
    """Of an answer; one that is cut off is a failure."""
    batch: int = 8
    """Clips at once."""

    def __post_init__(self) -> None:
        for_roles(self.prompts)
        if self.max_tokens < 1 or self.frames < 1 or self.batch < 1:
            raise CallError(f"{self.name}: got max_tokens={self.max_tokens} frames={self.frames} batch={self.batch}; wanted 1 or more of each")
        _ = self.look  # refuses the rest

    @property
    def look(self) -> Look:
        """Which frames are shown: two at least, since both Qwen models join frames in pairs."""
        return Look(fps=self.fps, least=min(2, self.frames), most=self.frames, long_side=self.long_side)

    def ready(self) -> None:
        """Raises CallError where it could not be opened here; a model's weights are asked for apart from this."""

    def signature(self) -> tuple[str, str]:
        """(model_id, revision). Cheap: loads nothing."""
        raise NotImplementedError

    def engine(self, device: str | None = None) -> Engine:
        """The model, loaded, or the server."""
        raise NotImplementedError

    def author(self, prompt: Prompt) -> Author:
        """Who answers `prompt`."""
        model_id, revision = self.signature()
        return Author(model_id=model_id, revision=revision, prompt_version=prompt.version)

    def writes(self) -> Mapping[Role, Author]:
        """A role for each prompt."""
        return {role: self.author(prompt) for role, prompt in for_roles(self.prompts).items()}

    def open(self, device: str | None = None) -> "OpenAsker":
        """Loads the model, or checks that the server can be asked."""
        return OpenAsker(self, self.engine(device))


class OpenAsker:
    """A captioner by model at work."""

    def __init__(self, spec: AskSettings, engine: Engine) -> None:
        self._name, self._engine = spec.name, engine
        self._prompts = for_roles(spec.prompts)
        self._writes = spec.writes()

    def describe(self, samples: Sequence[Sample]) -> Mapping[str, Described]:
        """The captions of each sample by its clip id, a failure for those that could not be written."""
        questions = {
            (sample.clip_id, role): Question(id=f"{role}:{sample.clip_id}", text=prompt.text, shown=(sample,))
            for sample in samples
            for role, prompt in self._prompts.items()
        }
        said = asked(self._engine, list(questions.values()), self._name)
        return {sample.clip_id: self._described([(role, questions[sample.clip_id, role]) for role in self._prompts], said) for sample in samples}

    def close(self) -> None:
        """Lets go of the engine."""
        self._engine.close()

    def _described(self, of_clip: Sequence[tuple[Role, Question]], said: Answers) -> Described:
        captions: list[Caption] = []
        failures: list[ClipError] = []
        for role, question in of_clip:
            try:
                captions.append(self._caption(role, question, ended(said[question.id], question, self._name)))
            except ClipError as error:
                failures.append(error)
        return Described(captions=tuple(captions), failure=failures[0] if failures else None)

    def _caption(self, role: Role, question: Question, answer: Answer) -> Caption:
        return Caption(
            text=answers.text_of(answer.text, f"{self._name}, {question.where}, {role}"),
            captioner=self._name,
            role=role,
            author=self._writes[role],
            frames_used=question.frames,
            tokens=answer.tokens,
            prompt_tokens=answer.prompt_tokens,
            cost=answer.cost,
            seconds=answer.seconds,
        )


def asked(engine: Engine, questions: Sequence[Question], name: str) -> dict[str, Answer | ClipError]:
    """An answer or an error for every question, by id. Raises ValueError for ids that are not distinct, or that nobody asked.

    A question that the engine left out, or that it raised on, is a Transient of its own.
    """
    known = {question.id: question for question in questions}
    if len(known) != len(questions):
        raise ValueError(f"{name}: {len(questions)} questions have {len(known)} ids")
    said = dict(engine.answer(questions)) if questions else {}
    strange = set(said) - set(known)
    if strange:
        raise ValueError(f"{name}: the engine answered {min(strange)}, which nobody asked")
    for id_, question in known.items():
        said.setdefault(id_, Transient(f"{name}, {question.where}: never answered"))
    return said


def ended(said: Answer | ClipError, question: Question, name: str) -> Answer:
    """The answer when the model itself ended it; raises what became of it else."""
    if isinstance(said, ClipError):
        raise said
    where = f"{name}, {question.where}"
    if said.ended == "length":
        raise BadAnswer(f"{where}: the answer was cut off after {said.tokens} tokens. Raise --set {name}.max_tokens")
    if said.ended == "refused":
        raise BadAnswer(f"{where}: the model's filter of contents stopped the answer")
    return said


def times(sample: Sample) -> tuple[float, ...]:
    """When the frames of `sample` are shown. Raises ValueError where frames or times are missing."""
    if sample.frames is None or sample.times_s is None or len(sample.frames) != len(sample.times_s) or not sample.times_s:
        raise ValueError(f"{sample.clip_id}: a model is shown frames with a time each")
    return sample.times_s


def span_s(sample: Sample) -> float:
    """How long the clip is that the frames were taken from the middles of equal spans of (see `Look`), at least a millisecond."""
    shown = times(sample)
    return max(shown[0] + shown[-1], 1e-3)
