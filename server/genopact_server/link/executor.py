"""The resident executor: it takes submitted runs from the SuperLink and calls a function that is installed here.

The run's app bundle is neither unpacked nor imported, so submitting a run can start this function and nothing else.
"""

import threading
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

import structlog

from genopact_server.link.accounts import Membership
from genopact_server.link.grid import GridCourier
from genopact_server.link.runtime import RunGrid, acquire
from genopact_shared.errors import GenopactError

_log = structlog.get_logger()


class RunInfo(NamedTuple):
    """A courier's run: its number at the SuperLink and the study it was submitted for."""

    run_id: int
    study_hash: str


class ExecutorConfig(NamedTuple):
    """`address` is host:port of the runtime API on loopback; `poll` are seconds between questions for a new run."""

    address: str
    secret: bytes
    membership: Membership
    poll: float = 1.0


Main = Callable[[GridCourier, RunInfo], None]


def serve(config: ExecutorConfig, main: Main, stop: threading.Event | None = None) -> None:
    """Execute runs one after another until `stop` is set; outlives restarts of the SuperLink.

    A run whose `main` raises is marked as failed, with the code of its error and nothing else. Raises LINK_SIGN_IN if
    the secret is wrong.
    """
    stop = stop or threading.Event()
    pause = config.poll
    while not stop.is_set():
        try:
            token = acquire(config.address, config.secret)
            pause = config.poll
            if token is not None:
                _execute(config, token, main)
                continue
        except GenopactError as error:
            if error.code == "LINK_SIGN_IN":
                raise
            _log.warning("executor_interrupted", code=error.code)
            pause = min(10.0, pause * 1.5)
        stop.wait(pause)


def _execute(config: ExecutorConfig, token: str, main: Main) -> None:
    with closing(RunGrid(config.address, token)) as grid:
        try:
            main(GridCourier(grid, lambda: config.membership.nodes(grid.study)), RunInfo(grid.run_id, grid.study))
        except GenopactError as error:
            _log.error("run_failed", code=error.code)
            grid.finish(error)
        except BaseException:
            grid.finish(GenopactError("LINK_RUN_ENDED"))
            raise
        else:
            grid.finish(None)
