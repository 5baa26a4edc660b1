"""What a command ends with: exit codes, the one line of an error, and where a traceback goes."""

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from selectivemae.core.errors import Interrupted, UserError


def guarded(call: Callable[[], Any], usage_error: type[Exception]) -> int:
    """Run a command; 0 done, its own code if it returns one, 2 bad input or usage with one line on stderr,
    130 / 143 interrupted with the state saved, 3 internal error with the traceback in a file."""
    before = _on_terminate(_terminated)
    try:
        result = call()
        return result if isinstance(result, int) and not isinstance(result, bool) else 0
    except UserError as e:
        if str(e):  # what another process of the same training says need not be said twice
            _say(str(e))
        return e.exit_code
    except usage_error as e:
        _say(_usage(e))
        return 2
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough of it (`| head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as e:
        path = Path(tempfile.gettempdir()) / f"selectivemae-error-{os.getpid()}.txt"
        where = f"traceback in {path}"
        try:
            path.write_text(traceback.format_exc())
        except OSError as refused:
            where = f"no traceback: {path} cannot be written ({refused.strerror})"
        _say(f"internal error: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''} ({where})")
        return 3
    finally:
        _on_terminate(before)


def _on_terminate(handler: Any) -> Any:
    """Set what SIGTERM does and give what it did; None off the main thread, where whoever runs us handles signals."""
    try:
        return signal.signal(signal.SIGTERM, handler) if handler is not None else None
    except ValueError:
        return None


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM before there is anything to save; training notes signals by itself (engine.signals)."""
    raise Interrupted("terminated", 128 + number)


def _usage(error: Exception) -> str:
    """One line; a value that settings refuse is told as if it stood in a file of settings."""
    from pydantic import ValidationError

    from selectivemae.core.config import first_problem

    cause = error.__cause__ or error.__context__
    return first_problem(cause, []) if isinstance(cause, ValidationError) else " ".join(str(error).split())


def _say(message: str) -> None:
    print(f"selectivemae: {message}", file=sys.stderr, flush=True)
