"""Requests: the rows they name, drawn from those that are not held out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import DataError, PlanError
from secateur.lab.request import Known, read_request

Y = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 5])
FREE = np.array([0, 1, 2, 3, 5, 8, 9])
KNOWN = Known(Y, np.arange(10), {})
# a sample of more rows, of which more is known
COLUMNS = {
    "subject": np.array(["ann", "bob", "ann", "cid", "bob", "ann", "bob", "ann", "eve", "ünï"]),
    "year": np.array([1999, 2001, 1999, 2005, 2001, 2005, 2001, 2001, 3, 3], dtype=np.uint16),
    "good": np.array([True, False] * 5),
}
SAMPLE = Known(Y, 10 * np.arange(10) + 7, COLUMNS)


def choose(seed=0, known=KNOWN, **table):
    return read_request(table, "data.forget").choose(known, FREE, seed).tolist()


def test_a_class_goes_whole_but_for_held_out_rows():
    assert choose(how="class", classes=[2]) == [2, 5, 8]
    assert choose(how="class", classes=[5, 0]) == [0, 3, 9]


def test_named_rows_are_taken_as_they_are():
    assert choose(how="rows", rows=[8, 1]) == [8, 1]


@given(count=st.integers(1, len(FREE)), seed=st.integers(0, 10**6))
def test_random_rows_are_free_rows_fixed_by_the_seed(count, seed):
    rows = choose(seed, how="random", count=count)
    assert len(rows) == count
    assert rows == sorted(set(rows) & set(FREE.tolist()))
    assert rows == choose(seed, how="random", count=count)


def test_a_share_is_of_the_free_rows():
    assert len(choose(how="random", share=0.43)) == 3
    draws = {tuple(choose(seed, how="random", share=0.43)) for seed in range(20)}
    assert len(draws) > 5


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"how": "class", "classes": [3]}, "class 3"),
        ({"how": "class", "classes": [3, 5]}, "classes 3, 5"),
        ({"how": "random", "share": 0.1}, "random 10 %"),
        ({"how": "random", "count": 4}, "4 random rows"),
        ({"how": "rows", "rows": [7]}, "row 7"),
        ({"how": "rows", "rows": [7, 9]}, "2 named rows"),
        ({"how": "file", "path": "requests/may.txt"}, "rows of may.txt"),
        ({"how": "column", "column": "subject", "equals": "ann"}, "subject = ann"),
        ({"how": "column", "column": "good", "equals": True}, "good = True"),
    ],
)
def test_it_says_what_it_asks(table, words):
    assert str(read_request(table, "data.forget")) == words


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("class 3", r"data\.forget should be a table such as"),
        ({}, r"data\.forget\.how should name a way .* got None: one of: class, column, file, random, rows"),
        ({"how": "clas"}, r"got 'clas': did you mean \"class\"\?"),
        ({"how": ["class"]}, r"how should name a way to choose rows, got \['class'\]"),
        ({"how": "class"}, '"classes" is missing'),
        ({"how": "class", "classes": []}, r"classes = \[\] names none: name at least one class"),
        ({"how": "class", "classes": [3, 3]}, "class 3 is named 2 times: name each class once"),
        ({"how": "class", "classes": [-1]}, "greater than or equal to 0"),
        ({"how": "class", "classes": [2.0]}, "valid integer"),
        ({"how": "class", "classes": [True]}, "valid integer"),
        ({"how": "class", "classes": 3}, r"classes should be .*got 3"),
        ({"how": "class", "clases": [3]}, r'unknown key "clases", did you mean "classes"\?'),
        ({"how": "random"}, 'either "share" or "count"'),
        ({"how": "random", "share": 0.1, "count": 3}, 'either "share" or "count"'),
        ({"how": "random", "share": 0.0}, "greater than 0"),
        ({"how": "random", "share": 1}, "less than 1"),
        ({"how": "random", "count": 0}, "greater than or equal to 1"),
        ({"how": "rows", "rows": []}, r"rows = \[\] names none: name at least one row"),
        ({"how": "rows", "rows": [2**63]}, "less than 9223372036854775808"),
        ({"how": "rows", "rows": ["1"]}, "valid integer"),
        ({"how": "file"}, '"path" is missing'),
        ({"how": "file", "path": 3}, "path should be a valid string, got 3"),
        ({"how": "column", "column": "subject"}, '"equals" is missing'),
        ({"how": "column", "column": "year", "equals": 3.0}, r"equals should be .*got 3\.0"),
        ({"how": "column", "column": "year", "equals": [3]}, r"equals should be .*got \[3\]"),
    ],
)
def test_what_means_nothing_is_refused(table, fault):
    with pytest.raises(PlanError, match=fault) as caught:
        read_request(table, "data.forget")
    assert all(one.startswith("data.forget") for one in caught.value.faults)


def test_absent_classes_and_too_many_rows_show_with_the_data():
    with pytest.raises(
        DataError, match=r"classes that training rows have, got 4, which none has: .* 0\.\.5$"
    ):
        choose(how="class", classes=[0, 4])
    with pytest.raises(DataError, match="at most 7 rows to forget, got 8: the others are held out"):
        choose(how="random", count=8)


def test_requests_name_stable_ids_not_positions():
    assert choose(known=SAMPLE, how="class", classes=[2]) == [27, 57, 87]
    assert set(choose(known=SAMPLE, how="random", share=0.5)) < set((10 * FREE + 7).tolist())
    assert choose(known=SAMPLE, how="rows", rows=[8, 27]) == [8, 27]


# --- a file ---


@pytest.fixture
def file(tmp_path):
    return tmp_path / "may.txt"


def from_file(path):
    return choose(known=SAMPLE, how="file", path=str(path))


@pytest.mark.parametrize(
    "text",
    [
        "27\n7\n",
        "27\n7",
        "27\r\n7\r\n",
        "\n  27  \n\n\t7\n\n",
        "# ticket 4711\n27 # Ann\n#7\n7#\n",
        "\ufeff27\n7\n",  # as some editors begin a text
        "027\n0007\n",
    ],
)
def test_a_file_has_one_id_a_line_and_room_for_remarks(text, file):
    file.write_bytes(text.encode())
    assert from_file(file) == [27, 7]


def test_a_file_is_read_as_it_is_now(file):
    request = read_request({"how": "file", "path": str(file)}, "data.forget")
    file.write_text("7")
    assert request.choose(SAMPLE, FREE, 0).tolist() == [7]
    file.write_text("27")
    assert request.choose(SAMPLE, FREE, 0).tolist() == [27]


@pytest.mark.parametrize(
    ("line", "got"),
    [
        ("-1", "'-1'"),
        ("7.0", r"'7\.0'"),
        ("7, 27", "'7, 27'"),
        ("seven", "'seven'"),
        ("1_000", "'1_000'"),
        ("+7", r"'\+7'"),
        ("٣", "'٣'"),
        ("²", "'²'"),
        ("9" * 30, "'9{30}'"),
        ("x" * 500, "'x{40}'"),
        ("7\0", r"'7\\x00'"),
    ],
)
def test_a_line_that_is_no_id_is_named(line, got, file):
    file.write_text(f"# ids\n7\n{line}\n27\n", encoding="utf-8")
    with pytest.raises(
        DataError, match=rf'a row id in line 3 of ".*may\.txt", got {got}: an id is the position'
    ):
        from_file(file)


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing yet\n"])
def test_a_file_without_ids(text, file):
    file.write_text(text)
    with pytest.raises(DataError, match="one a line, got none: name at least one row"):
        from_file(file)


def test_a_file_that_cannot_be_read(file, tmp_path):
    with pytest.raises(DataError, match=r"cannot be read \(No such file or directory\): correct the path in"):
        from_file(file)
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        from_file(tmp_path)
    with pytest.raises(DataError, match=r"cannot be read \(it is no text\)"):
        from_file("a\0b")
    for binary in (bytes(range(256)), "7\n".encode("utf-16")):
        file.write_bytes(binary)
        with pytest.raises(DataError, match=r"cannot be read \(it is no text\)"):
            from_file(file)


# --- a column ---


def by_column(column, equals, known=SAMPLE):
    return choose(known=known, how="column", column=column, equals=equals)


def test_a_value_names_all_rows_that_have_it_but_for_held_out_ones():
    assert by_column("subject", "ann") == [7, 27, 57]
    assert by_column("subject", "ünï") == [97]
    assert by_column("year", 2001) == [17]
    assert by_column("good", False) == [17, 37, 57, 97]


@pytest.mark.parametrize(
    ("column", "equals", "first"),
    [
        ("year", "2001", "1999"),
        ("year", True, "1999"),
        ("subject", 3, "'ann'"),
        ("good", 1, "True"),
        ("good", "True", "True"),
        ("year", 10**30, "1999"),
    ],
)
def test_a_value_is_of_the_columns_kind(column, equals, first):
    """The word "3" is not the number 3, nor is true one: no row would be found, and nobody would notice."""
    says = rf'those of the column "{column}" \({first} in the first row\), got {equals!r}: write it as'
    with pytest.raises(DataError, match=says):
        by_column(column, equals)


def test_a_column_that_is_not_there():
    with pytest.raises(DataError, match=r'a column "subjct" .*: none is called so, did you mean "subject"\?'):
        by_column("subjct", "ann")
    with pytest.raises(DataError, match="none is called so, one of: good, subject, year"):
        by_column("patient", "ann")
    with pytest.raises(DataError, match="none is called so, and the data has no columns"):
        by_column("subject", "ann", KNOWN)


@pytest.mark.parametrize(
    ("column", "equals"), [("subject", "dan"), ("subject", "an"), ("year", 70000), ("year", -1)]
)
def test_a_value_that_no_row_has(column, equals):
    says = rf"rows with {column} = {equals!r}, got none among the 7 that are not held out: correct the value"
    with pytest.raises(DataError, match=says):
        by_column(column, equals)


def test_a_value_that_only_held_out_rows_have():
    with pytest.raises(DataError, match="subject = 'bob', got none among the 2 that are not held out"):
        read_request({"how": "column", "column": "subject", "equals": "bob"}, "data.forget").choose(
            SAMPLE, np.array([0, 2]), 0
        )
