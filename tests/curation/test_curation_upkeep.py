"""Plan, audit, tune, remove, the command line and the page, on one small corpus."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from curation_worlds import folder, save, scenery

from selectivemae.cli.curate import app
from selectivemae.core.errors import ConfigError, DataError
from selectivemae.curation.config import CurateConfig
from selectivemae.curation.corpus import read_corpus
from selectivemae.curation.run import curate
from selectivemae.curation.upkeep import audit, plan, tune
from selectivemae.reports.corpus import text_corpus, write_corpus_report


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("upkeep")
    folder(root / "one", 8)
    folder(root / "two", 5, first=50)
    save(root / "two" / "twin.jpg", np.ascontiguousarray(scenery(1)[:, ::-1]), 70)
    out = root / "corpus"
    curate(
        CurateConfig(sources=[str(root / "one"), str(root / "two")], out=out, workers=1, shard_samples=6), quiet=True
    )
    return out


def test_plan_counts_without_pixels(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(corpus.parent / "plan", 8)
    (corpus.parent / "plan" / "notes.txt").write_text("no image")
    found = plan(CurateConfig(sources=[str(corpus.parent / "plan")], against=[str(corpus.parent / "two")]), 2)
    assert {s.name: (s.role, s.files, s.passed_over) for s in found.sources} == {
        "plan": ("train", 8, {"not_an_image": 1}),
        "eval_two": ("eval", 6, {}),
    }
    app(["plan", str(corpus.parent / "plan"), "--json"], result_action="return_value")
    assert json.loads(capsys.readouterr().out)["sources"][0]["files"] == 8


def test_audit_of_a_corpus(corpus: Path, tmp_path: Path) -> None:
    save(tmp_path / "test" / "a.jpg", scenery(52)[::-1].copy(), 60)
    save(tmp_path / "test" / "b.jpg", scenery(999))
    found = audit(CurateConfig(sources=[str(corpus)], against=[str(tmp_path / "test")]), 1)
    assert (found.twins, found.images) == ({"test": 1}, {"test": 2})
    assert found.pairs[0]["image"] == "a.jpg"
    with pytest.raises(ConfigError, match="--against"):
        audit(CurateConfig(sources=[str(corpus)]), 1)


def test_tuning_counts_from_the_manifest(corpus: Path) -> None:
    values = np.concatenate([pq.read_table(p)["std"].to_numpy() for p in (corpus / "g0001/manifest").glob("*")])
    middle = float(np.median(values)) + 1e-4
    assert tune(corpus, "uniform", middle).would_go == (values < middle).sum()
    found = tune(corpus, "noise", float("inf"))
    assert (found.would_go, len(found.kept_nearest)) == (0, min(25, len(values)))
    with pytest.raises(ConfigError, match="unknown rule"):
        tune(corpus, "beauty", 1)


def test_page_and_words(corpus: Path) -> None:
    path = write_corpus_report(corpus)
    assert path == corpus / "report" / "index.html"
    page, figures = path.read_text(), json.loads((corpus / "report.json").read_text())
    assert figures["samples"] == 13
    assert figures["duplicates"]["matrix"] == [[0, 0], [1, 0]]  # the copy of two lies in one
    assert "near_dup" in page
    assert read_corpus(corpus)["digest"] in page
    assert "http" not in page.replace("http-equiv", "")
    assert "one: 8 files, 8 images kept" in text_corpus(corpus)
    assert write_corpus_report(corpus).read_text() == page
    with pytest.raises(DataError, match="no whole corpus"):
        text_corpus(corpus.parent)
    (corpus / "report" / "index.html").unlink()
