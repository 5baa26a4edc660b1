"""The Hugging Face hub: fetching weight files and pushing folders."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from selectivemae.core.errors import OutputError, WeightsError
from selectivemae.weights.files import FOLDER_NAMES

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".tar")


def fetch(repo: str, file: str | None = None) -> Path:
    """Download the weights of a hub repository and give the file's path, or the folder's when ``file`` is None.

    Without ``file`` the repository must hold one of ``FOLDER_NAMES`` or a single weight file. What is in the cache is
    not fetched again, and is all there is when ``HF_HUB_OFFLINE`` is set. Raises ``WeightsError`` when the repository
    cannot be reached or it is not clear which of its files is meant (all are named).
    """
    with explained(f"hf:{repo}"):
        try:
            names = HfApi().list_repo_files(repo)
        except OfflineModeIsEnabled:
            folder = Path(snapshot_download(repo, local_files_only=True))
            names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        wanted = choose(names, file, repo)
        folder = Path(snapshot_download(repo, allow_patterns=[*wanted, "config.json"]))
    return folder / wanted[0] if file or len(wanted) == 1 else folder


def choose(names: list[str], file: str | None, repo: str) -> list[str]:
    """Which of a repository's files to download; raises ``WeightsError`` naming them when that is not clear."""
    weights = [name for name in names if name.endswith(SUFFIXES)]
    if file is not None:
        if file not in names:
            raise WeightsError(f"hf:{repo}: no file {file!r}; its weights: {', '.join(weights) or 'none'}")
        return [file]
    for known in FOLDER_NAMES:
        if known in names:
            sharded = known.endswith(".index.json")
            return [known, *(name for name in weights if "-of-" in name)] if sharded else [known]
    if len(weights) == 1:
        return weights
    raise WeightsError(f"hf:{repo}: say which file, as hf:{repo}/FILE: {', '.join(weights) or 'it holds no weights'}")


def push(folder: Path, repo: str, *, private: bool = False, message: str = "Add weights") -> str:
    """Upload a folder to a hub repository, made when it is not there; gives the page's address.

    The token is the one of ``huggingface-cli login`` or ``HF_TOKEN``. Raises ``OutputError`` when the hub refuses.
    """
    if not (folder / "config.json").is_file():
        raise OutputError(f"{folder}: no config.json; make the folder with selectivemae export WEIGHTS --to hf")
    api = HfApi()
    try:
        page = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        raise OutputError(f"cannot push {folder} to {repo}: {_line(error)}; see huggingface-cli login") from error
    return str(page)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what goes wrong on the way to the hub into one ``WeightsError``."""
    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise WeightsError(f"{what}: cannot be fetched ({_line(error)})") from error


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
