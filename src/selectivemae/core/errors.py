"""What can go wrong for a user, as types.

Every message says what happened, where (file, member, line) and what to do, in one line.
The command line prints it and exits with ``exit_code``; a program catches ``UserError``.
"""


class UserError(Exception):
    """Bad input or usage: one clear line, exit code 2."""

    exit_code = 2


class ConfigError(UserError):
    """A setting that is unknown, out of range or does not fit another."""


class DataError(UserError):
    """A data source that is missing, empty or cannot be used."""


class StoreError(DataError):
    """An archive, folder or member that cannot be read; names the file and the member."""


class DecodeError(DataError):
    """Bytes that are no usable image.

    ``reason`` is a short code (``truncated``, ``not_an_image``, ``bomb`` …) that goes into ``quarantine.csv``;
    the message says more.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class WeightsError(UserError):
    """A weight file that is damaged, unsafe or of another architecture; names the keys."""


class CheckpointError(UserError):
    """A checkpoint that is damaged or belongs to another run."""


class OutputError(UserError):
    """An output folder that is full, locked, unwritable or on a full disk."""


class TrainingError(UserError):
    """Training cannot go on: repeated non-finite losses, a dead worker."""


class ProcessError(UserError):
    """Processes of one training that do not meet, or of which one is gone or hangs."""


class ElsewhereError(UserError):
    """Another process of the same training, the ``speaker``, failed and says so; here there is nothing more to say."""

    def __init__(self, exit_code: int, speaker: int = 0) -> None:
        super().__init__("")
        self.exit_code, self.speaker = exit_code, speaker


class Interrupted(UserError):  # noqa: N818 (it is no error)
    """A signal asked the work to stop; its state is saved."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
