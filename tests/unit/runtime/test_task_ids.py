"""Task ids: none twice, not in threads and not after a fork."""

import os
import threading

from headrace.task import check_task_id, new_task_id


def test_none_comes_twice_in_threads() -> None:
    found: list[list[str]] = []

    def make() -> None:
        found.append([new_task_id() for _ in range(2_000)])

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [each for some in found for each in some]
    assert len(set(ids)) == len(ids) == 16_000
    assert all(check_task_id(each) == each and len(each) == 29 for each in ids)


def test_a_forked_child_has_ids_of_its_own() -> None:
    new_task_id()  # what was taken from the system for many is there
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, ",".join(new_task_id() for _ in range(20)).encode())
        os._exit(0)
    os.close(write)
    theirs = b""
    while block := os.read(read, 65536):
        theirs += block
    os.close(read)
    os.waitpid(child, 0)
    ours = {new_task_id() for _ in range(20)}
    assert len(ours | set(theirs.decode().split(","))) == 40
