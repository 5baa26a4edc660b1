"""Sources files: what they mean, and that a mistake is named with its line."""

from pathlib import Path

import pytest

from selectivemae.core.errors import ConfigError
from selectivemae.curation.sources import Source, read_sources, sources_of_paths

GOOD = """\
version: 1
defaults: {min_side: 48, licence: {id: cc-by-4.0}}
rules: {cloud: {drop: 0.7}, keep_rate: 0.2}
sources:
  - name: dota
    path: [part1.zip, /data/part2.zip]
    include: ["**/images/**"]
    exclude: ["**/*_label.png"]
    bands: [3, 2, 1]
    range: {percentile: [1, 99]}
    category: {regex: "images/(?P<c>[^/]+)/", map: {airport: transport}}
    slice: {tile: 256, overlap: 32}
  - name: aid
    path: aid
    min_side: 64
    gsd_m: 0.5
    split_role: eval
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "sources.yaml"
    path.write_text(text)
    return path


def test_a_file_of_sources(tmp_path: Path) -> None:
    sources = read_sources(write(tmp_path, GOOD))
    dota, aid = sources.sources
    assert dota.path == (str(tmp_path / "part1.zip"), "/data/part2.zip")
    assert (dota.min_side, aid.min_side) == (48, 64)
    assert dota.licence.id == aid.licence.id == "cc-by-4.0"
    assert sources.rules.cloud.drop == 0.7
    assert sources.rules.nodata.drop == 0.25
    assert (dota.slice.tile, dota.slice.overlap, aid.slice.tile) == (256, 32, 512)
    assert dota.category.find("x/images/airport/1.png") == {"c": "transport"}  # type: ignore[union-attr]
    assert aid.split_role == "eval"


@pytest.mark.parametrize(
    ("member", "wanted"),
    [("a/images/x.png", True), ("images/b/x.png", True), ("a/x.png", False), ("images/x_label.png", False)],
)
def test_globs(member: str, wanted: bool) -> None:
    source = Source(name="s", path=("p",), include=("**/images/**",), exclude=("**/*_label.png",))
    assert source.wants(member) is wanted


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    bands:", "    band:", r"sources.yaml, line 9: unknown key 'band'; did you mean.*bands|line 9.*bands"),
        ("tile: 256", "tiles: 256", r"line 12: unknown key 'tiles'.*tile"),
        ("cloud:", "clouds:", r"line 3: unknown key 'clouds'.*cloud"),
        ("version: 1", "version: 2", r"line 1: version"),
        ("overlap: 32", "overlap: 300", r"line 12: sources.0.slice: overlap must be smaller"),
        ("name: aid", "name: dota", r"source name 'dota' is given twice"),
        ("version: 1", "version: 1\ncategories: [agriculture]", r"category .transport. is not among categories"),
        ("name: aid", "name: A I D", r"line 13: sources.1.name"),
        ("[3, 2, 1]", "[0, 2, 1]", r"line 9: sources.0.bands.*numbered from 1"),
        ('"images/(?P<c>[^/]+)/"', '"images/("', r"line 11.*no valid regular expression"),
        ('"images/(?P<c>[^/]+)/"', '"images/"', r"line 11.*no named group"),
        ("split_role: eval", "split_role: test", r"line 17: sources.1.split_role"),
        ("min_side: 48", "min_side: 4", r"line 2: sources.0.min_side"),
        ("    path: aid\n", "", r"line 13: sources.1.path"),
        ("sources:", "sources: [", r"sources.yaml, line \d+ is no valid YAML"),
        ("licence: {id: cc-by-4.0}", "licence: 5", r"line 2: sources.0.licence"),
        (
            "licence: {id: cc-by-4.0}",
            "licence: mit",
            r"line 2: .*licence: must be written as {id: mit, redistribute: true}",
        ),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=message) as caught:
        read_sources(write(tmp_path, GOOD.replace(old, new)))
    assert "\n" not in str(caught.value)


def test_bare_paths_get_distinct_names(tmp_path: Path) -> None:
    names = [s.name for s in sources_of_paths(["/a/My Set.zip", "/b/my-set.tar", "/c/日本"])]
    assert names == ["my_set", "my_set_2", "source"]


def test_missing_file_and_empty_glob(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_sources(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match="source a: nothing matches"):
        read_sources(write(tmp_path, "sources: [{name: a, path: 'x/*.zip'}]"))
