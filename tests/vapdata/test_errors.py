"""The error tree: who descends from whom, and what may be tried again."""

import inspect

import pytest

from vapdata import errors


def test_every_error_of_the_module_stands_in_the_tree_at_its_head():
    names = [name for name, item in vars(errors).items() if inspect.isclass(item) and issubclass(item, Exception)]
    assert [name for name in names if name not in errors.__doc__] == []


def test_there_is_one_root():
    classes = [item for item in vars(errors).values() if inspect.isclass(item) and issubclass(item, Exception)]
    assert all(issubclass(item, errors.VapdataError) for item in classes)


@pytest.mark.parametrize("name", ["Unreadable", "NoVideo", "TooLarge", "DecodeTimeout", "DecoderCrashed", "WorkerDied", "MissingInput"])
def test_the_same_bytes_fail_again(name):
    error = getattr(errors, name)
    assert issubclass(error, errors.ClipError)
    assert error.permanent


def test_server_and_memory_trouble_may_pass():
    assert errors.Transient.permanent is False


def test_a_wrong_call_and_a_run_that_cannot_finish_are_told_apart_from_a_clip_that_failed():
    for error in (errors.CallError, errors.RunError):
        assert not issubclass(error, errors.ClipError)
    assert not issubclass(errors.CallError, errors.RunError)
