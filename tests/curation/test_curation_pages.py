"""The pages of a corpus in a real browser: report and review, from disk, with nothing fetched."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from curation_inline import Inline
from curation_worlds import folder, save, scenery

from selectivemae.curation import run as assembly
from selectivemae.curation.config import CurateConfig
from selectivemae.curation.decisions import read_decisions
from selectivemae.curation.run import curate
from selectivemae.reports.corpus import write_corpus_report
from selectivemae.reports.review import ORIENTATIONS, write_review

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(assembly, "LocalPool", Inline)
    folder(tmp_path / "one", 5)
    save(tmp_path / "one" / "twin.jpg", np.ascontiguousarray(scenery(1)[::-1]), 60)
    save(tmp_path / "test" / "t.jpg", scenery(4), 70)
    out = tmp_path / "corpus"
    curate(
        CurateConfig(sources=[str(tmp_path / "one")], against=[str(tmp_path / "test")], out=out, workers=1), quiet=True
    )
    return out


def dom(page: Path, profile: Path) -> str:
    """The page as the browser has it after its scripts ran."""
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += f" --disable-component-update --disable-sync --user-data-dir={profile} --dump-dom"
    call = [str(CHROMIUM), *flags.split(), page.as_uri()]
    return subprocess.run(call, capture_output=True, text=True, check=True, timeout=600).stdout


def test_pages_hold_everything(corpus: Path) -> None:
    page = write_corpus_report(corpus).read_text()
    review = (corpus / "review.html").read_text()
    pairs = [row for p in corpus.glob("g*/review/*") for row in pq.read_table(p).to_pylist()]
    assert review.count("<fieldset") == len(pairs) == 2
    assert review.count("data:image/jpeg") == 4 * len(pairs)
    assert "http" not in (page + review).replace("http-equiv", "")
    assert '<td>test</td><td class="n">1</td><td class="n">1</td>' in page
    assert "review.html" in page


def test_turns_are_named_as_they_turn() -> None:
    """Against the array itself: where the mark in the top left corner goes."""
    from selectivemae.curation.hashes import orient

    mark = np.zeros((3, 5), int)
    mark[0, 0], mark[0, 1] = 2, 1  # corner, and the way along the top edge
    expected = {
        "as it is": mark,
        "mirrored": np.fliplr(mark),
        "upside down, mirrored": np.flipud(mark),
        "turned by 180°": np.rot90(mark, 2),
        "mirrored on the diagonal": mark.T,
        "turned clockwise": np.rot90(mark, -1),
        "turned anticlockwise": np.rot90(mark, 1),
        "mirrored on the other diagonal": np.rot90(mark, 2).T,
    }
    for number, name in enumerate(ORIENTATIONS):
        np.testing.assert_array_equal(orient(mark, number), expected[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_opens_the_report(corpus: Path, tmp_path: Path) -> None:
    found = dom(write_corpus_report(corpus), tmp_path / "profile")
    assert "From files to images" in found
    assert found.count("<img") == 1 + 1 + 2 + 4  # plot, group, left out, some of the images


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_keys_decide_and_the_file_is_read(corpus: Path, tmp_path: Path) -> None:
    """A script presses the keys and writes what would be downloaded into the page."""
    page = write_review(corpus)
    assert page is not None
    keys = "for (const key of ['d', 'ArrowUp', 'ArrowDown', 's']) "
    keys += "document.dispatchEvent(new KeyboardEvent('keydown', { key, cancelable: true }));"
    keys += "document.body.innerHTML = '<pre>' + lines() + document.querySelector('output').value + '</pre>';"
    driven = tmp_path / "driven.html"
    driven.write_text(page.read_text().replace("</script>", keys + "</script>"))
    text = dom(driven, tmp_path / "profile").partition("<pre>")[2].partition("</pre>")[0]
    *lines, count = text.strip().splitlines()
    assert count == "2 of 2 decided"
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    assert [json.loads(line)["decision"] for line in lines] == ["different", "same"]
    assert len(read_decisions(tmp_path / "d.jsonl")) == 2
