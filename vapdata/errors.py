"""Every error this project raises on purpose, as one tree.

    VapdataError
    ├── CallError              the call was wrong: exit status 2
    ├── RunError               the run could not finish: exit status 1
    │   ├── CatalogLocked      another build holds the catalog
    │   ├── CatalogDamaged     the catalog breaks one of its own promises
    │   ├── SettingsRefused    a product of this name was made with other settings
    │   └── MissingWeights     model files are not on this machine
    └── ClipError              one video or clip failed: a row in `failures`, the build goes on
        ├── Unreadable         cannot be opened, or raised while decoding
        ├── NoVideo            opens, but holds no video stream
        ├── TooLarge           more pixels or bytes than the decoder may take
        ├── DecodeTimeout      the decoder answered nothing for too long
        ├── DecoderCrashed     the decoding process died on it
        ├── WorkerDied         the worker process died on it, twice
        ├── MissingInput       something the step reads is not there for this clip
        └── Transient          server, network or memory trouble: tried again on the next run
            └── BadAnswer      a model's answer is of no use: a refusal, empty, cut off, a loop

A message has four parts: what, where (file, row or clip, column), got and wanted, what to type.
Exercised by `pytest tests/vapdata/test_errors.py`.
"""

from typing import ClassVar


class VapdataError(Exception):
    """Root of the tree; its text is a whole sentence that a user can act upon."""


class CallError(VapdataError):
    """The call was wrong (an unknown name, a bad predicate, a root that is not there). Exit status 2."""


class RunError(VapdataError):
    """The run could not finish (a full disk, a catalog in use, weights that are not here). Exit status 1."""


class CatalogLocked(RunError):
    """Another build holds the catalog; the message says who, where and since when."""


class CatalogDamaged(RunError):
    """The catalog breaks one of its own promises; `vapdata verify` lists which."""


class SettingsRefused(RunError):
    """A product of this name was made with other settings; the message shows both."""


class MissingWeights(RunError):
    """Model files that a recipe needs are not on this machine; the message names each and how to get it."""


class ClipError(VapdataError):
    """One video or clip failed. Becomes a row of `failures`; the rest of the shard goes on.

    `permanent` tells whether another attempt on the same bytes can succeed: permanent failures are
    only tried again by `vapdata retry`, the others on the next run, three times in all.
    """

    permanent: ClassVar[bool] = True


class Unreadable(ClipError):
    """The file cannot be opened as video, or its decoder raised part-way."""


class NoVideo(ClipError):
    """The file opens but holds no video stream."""


class TooLarge(ClipError):
    """The picture needs more pixels or memory than the decoder is allowed."""


class DecodeTimeout(ClipError):
    """The decoder answered nothing within its time limit and was killed."""


class DecoderCrashed(ClipError):
    """The decoding process died while working on this file."""


class WorkerDied(ClipError):
    """The worker process died on this clip, twice."""


class MissingInput(ClipError):
    """Something that the step reads does not exist for this clip."""


class Transient(ClipError):
    """Server, network or memory trouble that may pass."""

    permanent: ClassVar[bool] = False


class BadAnswer(Transient):
    """A model answered with what cannot be used: a refusal, nothing, a text that was cut off or goes round in a loop."""
