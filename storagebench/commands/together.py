"""A verb that all members of a launched command carry out together: joined, told of each other's end, and ended alike."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storagebench.cluster.crew import Crew

_LAUNCHER_TELLS_WITHIN_S = 1.5


@contextmanager
def together(what: str, hint: str) -> Iterator[Crew]:
    """The crew of this command; a command started by hand is alone, and nothing is different for it. `what` names the verb's work in messages ("generate"),
    and `hint` says what to do after a member was lost.

    An error within the block ends the others, and one of theirs is raised here as what it is: with the host's name.
    """
    from storagebench.cluster.crew import Alone
    from storagebench.cluster.join import join
    from storagebench.launch import handling_signals
    from storagebench.launchers import launched

    found = launched(os.environ)
    if found is None:
        yield Alone()
        return
    with handling_signals(), closing(join(found)) as crew, _ending(crew, what, hint):
        yield crew


@contextmanager
def _ending(crew: Crew, what: str, hint: str) -> Iterator[None]:
    from storagebench.cluster.crew import Cause
    from storagebench.errors import EXIT_RANK, InterruptedRunError, StorageBenchError
    from storagebench.launch import Interrupted

    try:
        yield
    except StorageBenchError as error:
        if isinstance(error, Interrupted):
            crew.await_cause(_LAUNCHER_TELLS_WITHIN_S)  # a launcher that ends us does so because of another one, most of the time
        cause = crew.cause
        if cause is None:
            ended = error
            if isinstance(error, Interrupted):
                ended = InterruptedRunError(error.message.replace("the run", what), hint)
                ended.exit_code = error.exit_code
            crew.fail(Cause(crew.member, crew.hosts[crew.member], ended.message, ended.hint, ended.exit_code))
            raise ended from None
        told = cause.error()
        if cause.lost:
            told.message, told.hint = told.message.removesuffix("; the run was ended"), hint
        raise told from None
    except Exception as error:
        why = f"member {crew.member} on host {crew.hosts[crew.member]} failed: {type(error).__name__}: {error}"
        crew.fail(Cause(crew.member, crew.hosts[crew.member], why, "run it with --debug and report it", EXIT_RANK))
        raise
    finally:
        crew.on_end(None)
