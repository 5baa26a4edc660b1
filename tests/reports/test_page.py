"""The page of a run: what it holds, that it fetches nothing, and that a browser takes it."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from run_folders import lines, picture, write_checkpoint, write_run

from selectivemae.core.errors import DataError
from selectivemae.reports.page import run_of, show_on_page, spaced, text_checkpoint, text_report, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Tags, the addresses that a page names, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data", "action", "poster")]

    def handle_data(self, data: str) -> None:
        self.text += data


def fetches_nothing(page: Page, html: str) -> bool:
    return all(a.startswith("data:") for a in page.addresses) and "url(" not in html and "@import" not in html


def test_the_page_holds_everything_and_fetches_nothing(tmp_path: Path):
    run = write_run(tmp_path / "first")
    html = write_report(run).read_text()
    page = Page(html)
    assert fetches_nothing(page, html)
    assert "script" not in page.tags
    inlined = {base64.b64decode(a.partition(",")[2]) for a in page.addresses if "base64" in a}
    assert (run / "pictures" / "loss.png").read_bytes() in inlined
    assert picture((0, 0, 200)) in inlined  # the newest grid
    assert picture((200, 0, 0)) in inlined  # the first
    assert picture((0, 200, 0)) not in inlined
    for words in ("finished", "19\N{NO-BREAK SPACE}200", "10 min 00 s", "65.0 %", "2 unusable: truncated", "zoo/a.jpg"):
        assert words in page.text
    for hostile in ("<script>alert(1)</script>", "<b>images</b>"):  # shown as it is, never as markup
        assert hostile in page.text


def test_the_same_folder_gives_the_same_page(tmp_path: Path):
    run = write_run(tmp_path / "first")
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_an_unfinished_run_says_how_to_go_on(tmp_path: Path):
    run = write_run(tmp_path / "my run", lines(150))
    write_checkpoint(run, 150, 0.5)
    words = text_report(run)
    assert "50.0% done" in words
    assert "about 5 min 00 s left" in words
    assert f"selectivemae pretrain --out '{run}' --resume" in words
    assert Page(write_report(run).read_text()).text.count("--resume") == 1


def test_a_run_that_ended_between_two_lines_is_judged_by_its_checkpoint(tmp_path: Path):
    run = write_run(tmp_path / "first", lines(290))
    write_checkpoint(run, 300, 1.0)
    assert text_report(run).startswith(f"{run}: finished")


def test_a_fine_tuning_shows_its_figures_and_its_own_command(tmp_path: Path):
    folder = write_run(tmp_path / "run", lines(10))
    judged = {"kind": "eval", "step": 10, "epoch": 0.1, "samples": 640, "time_s": 5.0}
    judged |= {"oa": 91.25, "coco_ap50": 50.0, "images": 80, "unreadable": 0}
    with open(folder / "metrics.jsonl", "a") as f:
        f.write(json.dumps(judged) + "\n")
    write_checkpoint(folder, 10, 0.5)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("# command: pretrain", "# command: selectivemae finetune classify"))
    words = text_report(folder)
    assert re.search(r"OA +91\.25 % \(on 80 images\)", words)
    assert re.search(r"coco ap50 +50\.00 %", words)
    assert f"selectivemae finetune classify --out {folder} --resume" in words
    assert f"selectivemae evaluate {folder} --data DATA" in words
    assert "0.10 %" not in words


def test_a_run_that_has_not_begun_has_a_page(tmp_path: Path):
    run = write_run(tmp_path / "first", [])
    assert "nothing recorded yet" in write_report(run).read_text()
    assert "nothing recorded yet" in text_report(run)


def test_a_checkpoint_is_summed_up_and_its_damage_seen(tmp_path: Path):
    run = write_run(tmp_path / "first")
    folder = write_checkpoint(run, 300, 1.0)
    digest = hashlib.sha256((folder / "state.json").read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  state.json\n")
    words, whole = text_checkpoint(folder)
    assert whole
    assert "vit_tiny_patch16" in words
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  state.json\n")
    words, whole = text_checkpoint(folder)
    assert not whole
    assert "state.json does not match its checksum" in words
    assert run_of(folder) == run
    shutil.copytree(folder, tmp_path / "lone")
    with pytest.raises(DataError, match="outside its run"):
        run_of(tmp_path / "lone")


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        run_of(tmp_path / "nowhere")
    with pytest.raises(DataError, match="neither a run folder"):
        run_of(tmp_path)


@pytest.mark.parametrize("number", [0, 7, 999, 1000, 1234567])
def test_numbers_are_written_in_groups_of_three(number: int):
    groups = spaced(number).split("\N{NO-BREAK SPACE}")
    assert int("".join(groups)) == number
    assert all(len(g) == 3 for g in groups[1:])


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_opens_it_from_disk(tmp_path: Path):
    path = write_report(write_run(tmp_path / "first"))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += f" --disable-component-update --disable-sync --user-data-dir={tmp_path / 'profile'} --dump-dom"
    done = subprocess.run(
        [str(CHROMIUM), *flags.split(), path.as_uri()], capture_output=True, text=True, check=True, timeout=600
    )
    page = Page(done.stdout)
    assert fetches_nothing(page, done.stdout)
    assert "Is it learning?" in page.text
    assert page.tags.count("img") == 3


def test_pictures_of_an_evaluation_and_of_maps(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "evaluation").mkdir()
    (run / "evaluation" / "confusion.png").write_bytes(picture((1, 2, 3)))
    (tmp_path / "a&b.preview.png").write_bytes(picture((4, 5, 6)))
    show_on_page(run, {"a&b": tmp_path / "a&b.preview.png"})
    html = (run / "report.html").read_text()
    page = Page(html)
    for colour in ((1, 2, 3), (4, 5, 6)):
        assert f"data:image/png;base64,{base64.b64encode(picture(colour)).decode()}" in page.addresses
    assert "a&b" in page.text
    assert fetches_nothing(page, html)
    write_report(run)
    assert (run / "report.html").read_text() == html
