"""Settings of ``curate``."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from selectivemae.core.config import Settings

Count = Annotated[int, Field(ge=1)]


class CurateConfig(Settings):
    """Everything that decides how a corpus is made; what lies in it depends on no setting under "machine"."""

    sources: list[str] = Field(default=[], description="Sources file (.yaml), or folders and archives; several")
    out: Path | None = Field(default=None, description="Folder of the corpus")
    against: list[str] = Field(default=[], description="Evaluation sets, whose images must not be in the corpus")
    name: str = Field(default="corpus", pattern=r"^[a-z0-9][a-z0-9-]*$", description="Begins the names of the shards")
    preset: Literal["standard", "strict", "loose"] = Field(default="standard", description="When two images are one")
    temporal: Literal["keep", "drop"] = Field(default="keep", description="Like images of one place at other dates")
    decisions: Path | None = Field(default=None, description="Decisions about pairs, from the review page")
    encoding: Literal["jpeg", "png", "webp-lossless"] = Field(default="jpeg", description="Of tiles that are cut")
    seed: int = Field(default=0, description="Of the order in the corpus")
    shard_samples: Count = Field(default=10_000, description="Images in a shard at most")
    shard_mib: Count = Field(default=512, description="MiB in a shard at most")
    review: Annotated[int, Field(ge=0)] = Field(default=100, description="Doubtful pairs to keep for a person's look")
    # machine
    engine: Literal["local", "ray"] = Field(default="local", description="Processes here, or a running Ray cluster")
    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(default="auto", description="Worker processes")
    worker_memory_gib: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Address space that a worker may take (no limit)"
    )
    chunk_members: Count = Field(default=2000, description="Files in one piece of work at most")
    chunk_mib: Count = Field(default=256, description="MiB in one piece of work at most")
    max_quarantine: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.001, description="Share of files that may kill their worker before the run counts as failed"
    )


# Settings that decide what lies in a corpus: their digest goes into corpus.json.
CONTENT = ("name", "preset", "temporal", "encoding", "seed", "review", "shard_samples", "shard_mib")
