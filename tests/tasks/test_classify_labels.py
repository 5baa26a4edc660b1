"""Readers of class folders and published split files, and what is wrong with bad ones."""

import csv
from pathlib import Path

import pytest

from selectivemae.core.errors import DataError
from selectivemae.data.labels import TEST, TRAIN, Labelled, read_labels
from selectivemae.data.lists import find_lists, read_lists
from selectivemae.data.stores import open_store


class Names:
    """A store that has names only."""

    def __init__(self, *paths: str) -> None:
        self.paths = sorted(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def id(self, index: int) -> str:
        return f"store/{self.paths[index]}"


def told(labelled: Labelled, store: Names) -> dict[str, tuple[str, int]]:
    """Class and part by path."""
    rows = zip(labelled.index, labelled.label, labelled.part, strict=True)
    return {store.paths[i]: (labelled.classes[label], int(part)) for i, label, part in rows}


def classes_of(count: int, *names: str) -> list[str]:
    return [f"{name}/{name.lower()}_{i}.jpg" for name in names for i in range(count)]


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_parts_are_drawn_in_each_class(share: float) -> None:
    store = Names(*classes_of(10, "Airport", "Beach"), *classes_of(5, "Church"))
    labelled = read_labels(store, None, 3, test_share=share)
    for number, count in enumerate((10, 10, 5)):
        parts = labelled.part[labelled.label == number]
        assert (parts == TEST).sum() == round(share * count)
        assert len(parts) == count
    again, other = read_labels(store, None, 3, test_share=share), read_labels(store, None, 4, test_share=share)
    assert again.part.tolist() == labelled.part.tolist() != other.part.tolist()


def test_trees_of_two_depths_without_labels_in_the_test_part() -> None:
    """MillionAID: train/SCENE/CLASS or train/SCENE/SUB/CLASS, test flat."""
    inside = [f"train/agriculture/arable land/{i}.jpg" for i in range(4)]
    inside += [f"train/transport/air/runway/{i}.jpg" for i in range(4)]
    store = Names(*inside, "test/P1.jpg", "test/P2.jpg")
    labelled = read_labels(store, None)
    assert labelled.classes == ("arable land", "runway")
    assert set(told(labelled, store)) == set(inside)
    assert "2 images in no class folder left out" in labelled.how


def test_images_beside_class_folders_have_no_label() -> None:
    store = Names(*classes_of(4, "A", "B"), "preview.jpg")
    labelled = read_labels(store, None)
    assert labelled.classes == ("A", "B")
    assert "1 images in no class folder" in labelled.how


def test_train_and_test_folders() -> None:
    store = Names("train/a/1.jpg", "train/b/1.jpg", "val/a/2.jpg", "val/b/2.jpg")
    assert told(read_labels(store, None), store) == {
        "train/a/1.jpg": ("a", TRAIN), "train/b/1.jpg": ("b", TRAIN),
        "val/a/2.jpg": ("a", TEST), "val/b/2.jpg": ("b", TEST),
    }  # fmt: skip


def test_a_class_without_test_images_only_matters_where_it_is_asked_for() -> None:
    store = Names("train/a/1.jpg", "train/b/1.jpg", "test/a/2.jpg")
    with pytest.raises(DataError, match="no test image of class b"):
        read_labels(store, None)
    labelled = read_labels(store, None, parts=(TRAIN,))
    assert labelled.lacking(TEST) == ["b"]


def test_one_image_of_a_class_cannot_be_in_both_parts() -> None:
    with pytest.raises(DataError, match="no training image of class B"):
        read_labels(Names(*classes_of(4, "A"), "B/b_1.jpg"), None)


def test_an_empty_class_folder_is_an_error(tmp_path: Path) -> None:
    for folder in ("A", "B", "Lake"):
        (tmp_path / folder).mkdir()
    for folder in ("A", "B"):
        (tmp_path / folder / "1.jpg").touch()
    with pytest.raises(DataError, match=r"Lake is empty"):
        read_labels(Names(*classes_of(3, "A", "B")), tmp_path)


def test_absent_files_of_a_table_are_listed(tmp_path: Path) -> None:
    rows = [f"A/{i}.jpg,A,train" for i in range(14)]
    (tmp_path / "split.csv").write_text("file,label,split\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError, match=r"names 14 files that are not there: A/0.jpg, .*A/9.jpg and 4 more"):
        read_labels(Names("A/x.jpg"), tmp_path)


def write_pair(folder: Path, train: list[str], test: list[str], name: str = "28_0") -> tuple[Path, Path]:
    paths = folder / f"train_labels_{name}.txt", folder / f"valid_labels_{name}.txt"
    for path, lines in zip(paths, (train, test), strict=True):
        path.write_text("".join(line + "\n" for line in lines))
    return paths


def test_lists_of_three_fields_keep_their_order(tmp_path: Path) -> None:
    """The first classes of AID's list: Beach 0, River 1, Forest 2 (downstream.md, A.1)."""
    root = "/home/some one/data/AID/images"
    pair = write_pair(
        tmp_path,
        [f"beach_1.jpg {root}/Beach 0", f"river_1.jpg {root}/River 1", f"forest_1.jpg {root}/Forest/ 2"],
        [f"beach_0.jpg {root}/Beach 0", f"forest_0.jpg {root}/Forest 2"],
    )
    store = Names(*(f"images/{path}" for path in classes_of(2, "Beach", "River", "Forest")))
    labelled = read_lists(store, *find_lists(tmp_path, "28"))
    assert find_lists(tmp_path, "28_0") == pair
    assert labelled.classes == ("Beach", "River", "Forest")
    assert told(labelled, store) == {
        "images/Beach/beach_1.jpg": ("Beach", TRAIN), "images/River/river_1.jpg": ("River", TRAIN),
        "images/Forest/forest_1.jpg": ("Forest", TRAIN), "images/Beach/beach_0.jpg": ("Beach", TEST),
        "images/Forest/forest_0.jpg": ("Forest", TEST),
    }  # fmt: skip


def test_lists_of_two_fields_and_of_one_folder(tmp_path: Path) -> None:
    write_pair(tmp_path, ["b/b_0.jpg 0", "a/a_0.jpg 1"], ["a/a_1.jpg 1", "b/b_1.jpg 0"])
    store = Names(*classes_of(2, "a", "b"))
    assert read_lists(store, *find_lists(tmp_path, "28")).classes == ("b", "a")
    # UC Merced: all images in one folder, whose name tells no class.
    write_pair(tmp_path, ["river00.tif x/all_img 0", "beach00.tif x/all_img 1"], ["beach01.tif x/all_img 1"], "55_0")
    store = Names("all_img/river00.tif", "all_img/beach00.tif", "all_img/beach01.tif")
    assert read_lists(store, *find_lists(tmp_path, "55")).classes == ("river", "beach")


@pytest.mark.parametrize(
    ("train", "test", "complaint"),
    [
        (["a_0.jpg x/a 0", "b_0.jpg x/b 1", "no.jpg x/a 0"], ["a_1.jpg x/a 0"], "names 1 files .* a/no.jpg"),
        (["a_0.jpg x/a 0", "b_0.jpg x/b one"], [], "line 2: 'b_0.jpg x/b one' is neither"),
        (["a_0.jpg x/a 0", "b_0.jpg x/b 1"], ["a_0.jpg x/a 0"], "line 1: a/a_0.jpg is named in train_labels_28_0.txt"),
        (["a_0.jpg x/a 0", "b_0.jpg x/b 2"], ["a_1.jpg x/a 0"], "no image of class number 1"),
        (["a_0.jpg x/a 0"], ["a_1.jpg x/a 0"], "fewer than two classes"),
    ],
)
def test_bad_lists_are_named_by_line(tmp_path: Path, train: list[str], test: list[str], complaint: str) -> None:
    write_pair(tmp_path, train, test)
    with pytest.raises(DataError, match=complaint):
        read_lists(Names(*classes_of(2, "a", "b")), *find_lists(tmp_path, "28"))


def test_an_unknown_split_says_which_there_are(tmp_path: Path) -> None:
    write_pair(tmp_path, [], [], "55_0")
    with pytest.raises(DataError, match=r"there: 55_0"):
        find_lists(tmp_path, "28")


@pytest.mark.parametrize(("name", "classes"), [("aid", 30), ("ucmerced", 21)])
def test_real_trees(shared_data: Path, name: str, classes: int) -> None:
    """The parts are those of split.csv, read here line by line; and by folders alone the labels are the same."""
    store = open_store(shared_data / name)
    labelled = read_labels(store, shared_data / name)
    with open(shared_data / name / "split.csv", newline="") as f:
        rows = {row["file"]: (row["label"], TRAIN if row["split"] == "train" else TEST) for row in csv.DictReader(f)}
    found = {
        store.id(int(i)).partition("/")[2]: (labelled.classes[label], int(part))
        for i, label, part in zip(labelled.index, labelled.label, labelled.part, strict=True)
    }
    assert found == rows
    assert len(labelled.classes) == classes
    assert read_labels(store, None).classes == labelled.classes


@pytest.mark.parametrize(
    ("head", "lines"),
    [
        ("", ["b_0.jpg\t/some one/b\t0", "a_0.jpg /x/a 1"]),
        ("\ufeff", ["b_0.jpg /x/b 0", "a_0.jpg /x/a 1"]),
        ("", ["x y/b/b_0.jpg 0", "a/a_0.jpg 1"]),
        ("", ["b\\b_0.jpg 0", "a_0.jpg C:\\x\\a 1"]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_as_programs_of_all_kinds_write_them(tmp_path: Path, head: str, lines: list[str], end: str) -> None:
    train, test = write_pair(tmp_path, [], ["b_1.jpg x/b 0", "a_1.jpg x/a 1"])
    train.write_bytes((head + end.join([*lines, "", ""])).encode())
    store = Names(*classes_of(2, "a", "b"))
    assert told(read_lists(store, train, test), store) == {
        "a/a_0.jpg": ("a", TRAIN), "a/a_1.jpg": ("a", TEST), "b/b_0.jpg": ("b", TRAIN), "b/b_1.jpg": ("b", TEST),
    }  # fmt: skip


def test_a_class_of_a_list_may_have_spaces_in_its_name(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, ["arable land/1.jpg 1", "dry_field/1.jpg 0"], ["2.jpg /some one/arable land 1"])
    store = Names(
        "train/agriculture land/arable land/1.jpg", "train/agriculture land/arable land/2.jpg", "dry_field/1.jpg"
    )
    assert read_lists(store, *pair).classes == ("dry_field", "arable land")


def test_what_both_lists_lack_is_told_at_once(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, ["a_0.jpg x/a 0", "b_7.jpg x/b 1"], ["b_8.jpg x/b 1", "b_9.jpg x/b 1"])
    with pytest.raises(
        DataError, match=r"train_.*names 1 files .*: b/b_7.jpg; .*valid_.*names 2 files .*: b/b_8.jpg, b/b_9"
    ):
        read_lists(Names(*classes_of(2, "a", "b")), *pair)


def test_a_directory_of_two_numbers_is_named(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, ["a_0.jpg x/a 0", "b_0.jpg x/b 1"], ["a_1.jpg x/a 1"])
    with pytest.raises(DataError, match=r"directory a class number 0, and 1 in line 1 \(a_1.jpg\)"):
        read_lists(Names(*classes_of(2, "a", "b")), *pair)


def test_parts_inside_a_folder_that_holds_all() -> None:
    store = Names(
        "set/images/train/a/1.jpg", "set/images/train/b/1.jpg", "set/images/Test/a/2.jpg", "set/images/Test/b/2.jpg"
    )
    labelled = read_labels(store, None)
    assert {path.split("/")[2]: part for path, (_, part) in told(labelled, store).items()} == {
        "train": TRAIN,
        "Test": TEST,
    }
    assert not labelled.drawn


def test_what_people_tune_on_is_not_judged(tmp_path: Path) -> None:
    store = Names(*(f"{part}/{name}/{part}.jpg" for part in ("train", "val", "test") for name in "ab"))
    by_folder = read_labels(store, None)
    rows = [f"{path},{path.split('/')[1]},{path.split('/')[0]}" for path in store.paths]
    (tmp_path / "split.csv").write_text("file,label,split\n" + "\n".join(rows), encoding="utf-8-sig")
    for labelled in (by_folder, read_labels(store, tmp_path)):
        assert {p for p, (_, part) in told(labelled, store).items() if part == TEST} == {
            "test/a/test.jpg",
            "test/b/test.jpg",
        }
        assert len(labelled.index) == 4
        assert "2 images of the val part left out" in labelled.how


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_draw_leaves_something_on_both_sides(share: float) -> None:
    labelled = read_labels(Names(*classes_of(2, "A", "B"), *classes_of(9, "C")), None, test_share=share)
    assert labelled.drawn
    assert not labelled.lacking(TRAIN)
    assert not labelled.lacking(TEST)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (b"file,label,split\nA/0.jpg,A,train\nA/0.jpg,A,test\n", "line 3: A/0.jpg stands in line 2 too"),
        (b"file,label,split\nA/0.jpg,,train\n", "line 2: needs the columns"),
        (b"file,label,split\nA/\xe9.jpg,A,train\n", "cannot read"),
        (b"file;label;split\nA/0.jpg;A;train\n", "line 2: needs the columns"),
    ],
)
def test_bad_tables_of_parts(tmp_path: Path, table: bytes, complaint: str) -> None:
    (tmp_path / "split.csv").write_bytes(table)
    with pytest.raises(DataError, match=complaint):
        read_labels(Names(*classes_of(2, "A", "B")), tmp_path)


def test_one_class_does_where_nothing_is_learned() -> None:
    store = Names(*classes_of(3, "A"))
    assert read_labels(store, None, parts=()).classes == ("A",)
    with pytest.raises(DataError, match="at least two class folders"):
        read_labels(store, None)
