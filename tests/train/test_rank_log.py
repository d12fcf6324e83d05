import json
import logging
from pathlib import Path

import pytest
import torch

from train.rank_log import rank_log
from train.world import World
from vapdata.errors import RunError

CPU = torch.device("cpu")


def test_each_process_of_several_keeps_its_numbers_and_what_it_logged_over_all_its_lives(tmp_path: Path) -> None:
    here = World(rank=3, ranks=4, device=CPU)
    for step in (1, 2):
        with rank_log(tmp_path, here) as log:
            log.write({"step": step})
            logging.getLogger("train").warning("of step %d", step)
    logging.getLogger("train").warning("behind it")
    assert [json.loads(line) for line in (tmp_path / "logs" / "rank-00003.jsonl").read_text().splitlines()] == [{"step": 1}, {"step": 2}]
    said = (tmp_path / "logs" / "rank-00003.log").read_text()
    assert said.count("process 3 of 4 on ") == 2 and "WARNING of step 1" in said and "WARNING of step 2" in said and "behind it" not in said


@pytest.mark.parametrize(("error", "traced"), [(RunError("the disk is full"), False), (ValueError("nobody knows"), True)])
def test_what_a_process_dies_of_stands_in_its_log_and_with_a_trace_where_it_was_not_foreseen(error: Exception, traced: bool, tmp_path: Path) -> None:
    with pytest.raises(type(error)), rank_log(tmp_path, World(rank=0, ranks=2, device=CPU)):
        raise error
    said = (tmp_path / "logs" / "rank-00000.log").read_text()
    assert f"ERROR {error}" in said and ("Traceback" in said) is traced


def test_a_run_of_one_process_keeps_none(tmp_path: Path) -> None:
    with rank_log(tmp_path, World(rank=0, ranks=1, device=CPU)) as log:
        log.write({"step": 1})
    assert not [*tmp_path.iterdir()]
