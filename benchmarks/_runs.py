"""What benchmarks read from the folder of a pre-training run."""

from pathlib import Path

from selectivemae.core.records import read_metrics


def steps(run: Path) -> list[dict]:
    """The lines of the training steps of a run's ``metrics.jsonl``."""
    return [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"]


def loss_tenths(run: Path) -> tuple[float, float]:
    """Mean loss of the first and of the last tenth of a run's steps."""
    losses = [line["loss"] for line in steps(run)]
    tenth = max(len(losses) // 10, 1)
    return sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
