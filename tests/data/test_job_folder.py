import os
import time

import pytest

from tapadl.data.job_folder import JobKind, open_job_folder

KIND = JobKind(name="test", schema=1, parts="parts", made="result", finished="result", page="page")
JOB = {"settings": {"a": 1}}


def test_a_second_one_at_work_in_a_folder_is_refused(tmp_path):
    with open_job_folder(tmp_path / "out", KIND, JOB), pytest.raises(BlockingIOError, match="is at work in"):
        open_job_folder(tmp_path / "out", KIND, JOB).__enter__()


def test_a_process_that_was_forked_meanwhile_does_not_hold_the_folder(tmp_path):
    reader, writer = os.pipe()
    with open_job_folder(tmp_path / "out", KIND, JOB):
        child = os.fork()
        if child == 0:
            os.write(writer, b"alive")
            time.sleep(60)
            os._exit(0)
        assert os.read(reader, 5) == b"alive"
    os.close(reader)
    os.close(writer)
    try:
        with open_job_folder(tmp_path / "out", KIND, JOB) as folder:
            assert folder.continued
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_forked_process_lets_nobody_else_in(tmp_path):
    with open_job_folder(tmp_path / "out", KIND, JOB):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(BlockingIOError, match="is at work in"):
            open_job_folder(tmp_path / "out", KIND, JOB).__enter__()
