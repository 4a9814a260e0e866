"""Manifests in three formats: what is read, what is refused, and where it is named."""

import csv
import dataclasses
import json
import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmae_jax.data.build.fetch import locate
from vmae_jax.data.curate import manifest as manifest_lib
from vmae_jax.data.curate.items import CurationError
from vmae_jax.data.curate.manifest import parse_hashtags, read_items
from vmae_jax.data.curate.roots import Root

ROWS = [
    {"path": "a.mp4", "id": "A", "hashtags": ["Dance", "#Fun"], "views": 5, "duration": 1.5,
     "author": "jane doe", "caption": 'says "hi", twice', "likes": 7},
    {"path": "sub//./b.mp4", "id": None, "hashtags": [], "views": None, "duration": None,
     "author": None, "caption": None, "likes": None},
    {"path": "gs://bucket/c.mp4", "id": "ü", "hashtags": ["料理"], "views": 10**12, "duration": 0.0,
     "author": "jane doe", "caption": "two\nlines", "likes": 0},
    {"path": "../up.mp4", "id": "x", "hashtags": [], "views": 1, "duration": 1.0,
     "author": "someone", "caption": "", "likes": 1},
]  # fmt: skip


def write_csv(path, rows, encoding="utf-8", end="\n"):
    with open(path, "w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator=end)
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {"hashtags": " ".join(f"#{t}" for t in row["hashtags"])})
    return str(path)


def write_jsonl(path, rows, encoding="utf-8", end="\n"):
    text = end.join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes(text.encode(encoding))
    return str(path)


def write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def text(tmp_path, content, name="m.csv"):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def without_lines(table):
    return [dataclasses.replace(item, line=0) for item in table.items]


def bad(table):
    return [(row.line, row.reason) for row in table.bad]


# ---- What is read ----


def test_the_three_formats_say_the_same(tmp_path):
    tables = [
        read_items(write_csv(tmp_path / "m.csv", ROWS), author_key="k"),
        read_items(write_csv(tmp_path / "n.csv", ROWS, "utf-8-sig", "\r\n"), author_key="k"),
        read_items(write_jsonl(tmp_path / "m.jsonl", ROWS), author_key="k"),
        read_items(write_jsonl(tmp_path / "n.ndjson", ROWS, "utf-8-sig", "\r\n"), author_key="k"),
        read_items(write_parquet(tmp_path / "m.parquet", ROWS), author_key=b"k"),
    ]
    for table in tables:
        assert without_lines(table) == without_lines(tables[0])
        assert table.bad_rows == {"path escape": 1}
        assert table.num_rows == 4
    a, b, c = tables[0].items
    assert (a.id, a.path, a.hashtags, a.views, a.seconds) == (
        "A", "a.mp4", ("dance", "fun"), 5, 1.5)  # fmt: skip
    assert a.extra == {"caption": 'says "hi", twice', "likes": "7"}
    assert (b.id, b.path, b.views, b.seconds, b.extra) == ("sub/b.mp4", "sub/b.mp4", None, None, {})
    assert (c.id, c.path, c.views, c.extra["caption"]) == (
        "ü", "gs://bucket/c.mp4", 10**12, "two\nlines")  # fmt: skip


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_delimiter_is_that_of_the_header(tmp_path, caplog, delimiter):
    rows = (("ID", "Path", "hashtags"), ("A\u2028B", "a,1.mp4", "dance, fun"), ("C", "c.mp4", ""))
    content = "\r\n".join(map(delimiter.join, rows)).encode("utf-8-sig")
    (tmp_path / "m.csv").write_bytes(content)
    a, c = read_items(str(tmp_path / "m.csv")).items
    assert (a.id, a.path, a.hashtags) == ("A\u2028B", "a,1.mp4", ("dance", "fun"))
    assert (c.id, c.path, c.line) == ("C", "c.mp4", 3)
    assert f"columns are separated by {delimiter!r}, as in line 1" in caplog.text


def test_lines_are_those_of_the_file(tmp_path):
    content = 'path,caption\na,"x\ny"\n\nb,\n,z\n'
    table = read_items(text(tmp_path, content))
    assert [item.line for item in table.items] == [2, 5]
    assert bad(table) == [(6, "missing path")]
    table = read_items(text(tmp_path, '{"url": "a"}\n\n{"url": ""}\n', "m.jsonl"))
    assert (table.items[0].line, bad(table)) == (1, [(3, "missing path")])


def test_an_author_is_a_keyed_hash_or_nothing(tmp_path):
    content = "path,author\na,Jane\nb,Jane\nc,John\nd\n"
    path = text(tmp_path, content)
    one, other = read_items(path, author_key="k"), read_items(path, author_key="l")
    a, b, c = (item.author for item in one.items)
    assert a == b != c
    assert len(a) == 16
    assert a != other.items[0].author
    assert not any(item.author for item in read_items(path).items)
    assert "Jane" not in repr(one) + repr(other) + repr(read_items(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", "path,views,author\na,1,SECRET,4\n"),
        ("m.csv", f"path,author\na,SECRET{'x' * (1 << 18)}\n"),
        ("m.jsonl", '{"path": "a"}\n{"author": "SECRET",\n'),
        ("m.jsonl", '{"path": "a"}\n{"author": "SECRET", "path": "../x"}\n'),
        ("m.jsonl", '{"path": "a"}\n{"author": "SECRET\\ud800", "path": "b"}\n'),
    ],
)
def test_an_error_keeps_the_author_to_itself(tmp_path, name, content):
    table = read_items(text(tmp_path, content, name), author_key="k")
    assert table.bad
    assert "SECRET" not in repr(table)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("#Cat #DOG", ("cat", "dog")),
        ("cat,dog , cat", ("cat", "dog")),
        ("#cat#dog", ("cat", "dog")),
        (["#Cat", "dog"], ("cat", "dog")),
        ("['cat', 'dog']", ("cat", "dog")),
        ('["cat", "dog"]', ("cat", "dog")),
        ("＃ｃａｔ，dog", ("cat", "dog")),
        ("e\u0301te", ("\xe9te",)),
        (2024, ("2024",)),
        ("# , ##", ()),
        ("<script>", ("<script>",)),
    ],
)
def test_hashtags(value, expected):
    assert parse_hashtags(value) == expected


@given(st.text())
def test_hashtags_are_read_back_as_they_are(value):
    tags = parse_hashtags(value)
    assert list(tags) == sorted(set(tags))
    assert all(not set(tag) & set("# ,\t\n") for tag in tags)


# ---- Bad rows ----


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a,,many,", "views not a number"),
        ("a,,1_000,", "views not a number"),
        ("a,,1.5,", "views not a number"),
        ("a,,nan,", "views not a number"),
        ("a,,-1,", "views negative"),
        ("a,,,x", "duration not a number"),
        ("a,,,1e999", "duration not a number"),
        ("a,,,-0.5", "duration negative"),
        ("first,,,", "duplicate path"),
        ("./first,other,,", "duplicate path"),
        ("a,first,,", "duplicate id"),
        (",,,", "missing path"),
        ("  ,,,", "missing path"),
        ("./,,,", "missing path"),
        ("a,b", "wrong number of columns"),
        ("a,b,1,1,1", "wrong number of columns"),
        ("a\tb,,,", "not a path"),
        ("a,b\x01c,,", "not an id"),
        (f"a,{'x' * (1 << 18)},,", "too long"),
        (f"a,{'x' * (1 << 22)},,", "too long"),
        (f"{'x' * 5000},,,", "not a path"),
    ],
)
def test_a_bad_row_is_named_and_the_next_is_read(tmp_path, row, reason):
    table = read_items(text(tmp_path, f"path,id,views,duration\nfirst,,1,1\n{row}\nlast,,2e3,2\n"))
    assert [item.id for item in table.items] == ["first", "last"]
    assert table.items[1].views == 2000
    assert bad(table) == [(3, reason)]
    assert len(table.bad[0].detail) < 500


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("nonsense", "not JSON"),
        ("[1]", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"path": "a", "PATH": "b"}', "not JSON"),
        ('{"path": 5}', "not a path"),
        ('{"path": null}', "missing path"),
        ('{"path": "a", "views": true}', "views not a number"),
        ('{"path": "a", "views": NaN}', "views not a number"),
        ('{"path": "a", "hashtags": {"a": 1}}', "hashtags not a list"),
        ('{"path": "a", "hashtags": [null]}', "hashtags not a list"),
        ('{"path": "\\ud800"}', "not UTF-8"),
        ('{"path": "a", "n": "\\ud800"}', "not UTF-8"),
        ('{"path": "a", "hashtags": ["\\ud800"]}', "not UTF-8"),
    ],
)
def test_a_bad_line_of_json(tmp_path, row, reason):
    table = read_items(text(tmp_path, f'{row}\n{{"path": "last"}}\n', "m.jsonl"))
    assert [item.id for item in table.items] == ["last"]
    assert bad(table) == [(1, reason)]


def test_bytes_that_are_no_text_spoil_their_row_alone(tmp_path):
    table = read_items(text(tmp_path, b"path,id\n\xff\xfe,\nb,\n"))
    assert ([item.id for item in table.items], bad(table)) == (["b"], [(2, "not UTF-8")])


def test_a_quote_that_is_not_closed_does_not_swallow_the_file(tmp_path):
    rows = "".join(f"{i:050d},\n" for i in range(10_000))
    table = read_items(text(tmp_path, f'path,id\na,"b\n{rows}'))
    assert bad(table)[0] == (2, "too long")
    assert "not closed" in table.bad[0].detail
    assert len(table.items) > 7000
    assert table.items[-1].line == 10_002


def test_bad_rows_are_all_counted_and_some_are_listed(tmp_path):
    table = read_items(text(tmp_path, "path,id\n" + ",x\n" * 3000))
    assert table.bad_rows == {"missing path": 3000}
    assert len(table.bad) == manifest_lib.MAX_LISTED
    assert table.num_rows == 3000


def test_many_rows_take_time_in_proportion(tmp_path):
    def seconds(count):
        path = text(tmp_path, "path,hashtags\n" + "".join(f"v/{i},#a\n" for i in range(count)))
        start = time.process_time()
        assert len(read_items(path).items) == count
        return time.process_time() - start

    seconds(1000)
    assert seconds(40_000) < 12 * max(seconds(10_000), 0.05)


# ---- Files that are no manifest ----


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "file;id\n", "no column path; found file;id"),
        ("m.csv", "", "no column path; found nothing"),
        ("m.csv", "path,Path\n", "column path is there twice"),
        ("m.csv", "pa\x00th\n", "no column path"),
        ("m.csv", "path,a\n".encode("utf-16"), "no column path"),
        ("m.csv", "x" * (1 << 22), "line 1: a line of more than"),
        ("m.jsonl", '{"file": "a"}\n', "no row has a path"),
        ("m.jsonl", "", "no row has a path"),
        ("m.parquet", "PAR1 not really", "cannot be read"),
        ("m.txt", "path\n", "ends in .csv, .jsonl"),
        ("none/m.csv", None, "no such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, name, content, message):
    path = text(tmp_path, content, name) if content is not None else str(tmp_path / name)
    with pytest.raises(CurationError, match=message) as error:
        read_items(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
    str(error.value).encode()


# ---- Paths ----


@pytest.fixture
def tree(tmp_path):
    """A root with a video, links within it and links out of it."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    for file in (root / "a.mp4", root / "sub" / "b.mp4", outside / "secret.mp4"):
        file.write_bytes(b"")
    (tmp_path / "root_twin").mkdir()
    os.symlink(outside, root / "out")
    os.symlink(outside / "secret.mp4", root / "out.mp4")
    os.symlink(root / "out.mp4", root / "twice.mp4")
    os.symlink("../outside/not_yet.mp4", root / "dangling.mp4")
    os.symlink("sub", root / "in")
    os.symlink("a.mp4", root / "in.mp4")
    return root


@pytest.mark.parametrize(
    "path",
    [
        "../outside/secret.mp4", "sub/../../outside/secret.mp4", "..", "sub/..", "..\\x.mp4",
        "/etc/passwd", "{root}/../outside/secret.mp4", "{root}_twin/x.mp4", "{root}",
        "file:///etc/passwd", "local:///etc/passwd", "FILE:///etc/passwd", "file://../x.mp4",
        "out/secret.mp4", "out/none.mp4", "out.mp4", "twice.mp4", "dangling.mp4",
        "gs://bucket/../x.mp4", "https://host/a/%2e%2e/b.mp4", "https://host/a/..%5cb",
        "zip://a.mp4::/etc/x.zip", "simplecache::file:///etc/passwd", "ftp://host/a.mp4",
        "reference://x", "gs://a::file:///etc/passwd",
    ],
)  # fmt: skip
def test_a_path_out_of_the_root_is_refused(tree, tmp_path, path):
    rows = [{"path": path.format(root=tree)}, {"path": "a.mp4"}]
    table = read_items(write_jsonl(tmp_path / "m.jsonl", rows), str(tree))
    assert [item.path for item in table.items] == ["a.mp4"]
    assert set(table.bad_rows) <= {"path escape", "refused URL", "missing path"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("sub/b.mp4", "sub/b.mp4"),
        ("{root}/sub//b.mp4", "sub/b.mp4"),
        ("file://{root}/a.mp4", "a.mp4"),
        ("in/b.mp4", "in/b.mp4"),
        ("in.mp4", "in.mp4"),
        ("none/yet.mp4", "none/yet.mp4"),
        ("a..b.mp4", "a..b.mp4"),
        ("clip::1 50%2e.mp4", "clip::1 50%2e.mp4"),
        ("~/x.mp4", "~/x.mp4"),
        ("https://host/a.mp4?b=1", "https://host/a.mp4?b=1"),
    ],
)
def test_a_path_in_the_root_is_relative_to_it(tree, path, expected):
    root = Root(str(tree))
    found = root.relative(path.format(root=tree))
    assert found == expected
    located = locate(root.path, found)
    assert located == (expected if "://" in expected else f"{tree}/{expected}")


def test_the_root_may_be_a_link_and_is_the_manifests_folder(tree, tmp_path):
    os.symlink(tree, tmp_path / "link")
    rows = [{"path": "a.mp4"}, {"path": f"{tmp_path}/link/in.mp4"}, {"path": f"{tree}/sub/b.mp4"}]
    write_jsonl(tree / "m.jsonl", rows)
    for table in (
        read_items(f"{tmp_path}/link/m.jsonl"),
        read_items(f"{tree}/m.jsonl", f"{tmp_path}/link/"),
    ):
        assert [item.path for item in table.items] == ["a.mp4", "in.mp4", "sub/b.mp4"]


def test_a_root_that_is_a_url_holds_all(tmp_path):
    root = Root("gs://bucket/videos/")
    assert root.relative("a/./b.mp4") == "a/b.mp4"
    assert root.relative("gs://bucket/videos/a.mp4") == "a.mp4"
    assert locate(root.path, "a.mp4") == "gs://bucket/videos/a.mp4"
    rows = ["gs://bucket/other/a", "gs://bucket/videos2/a", "s3://bucket/videos/a", "/a", "x::y"]
    table = read_items(
        write_jsonl(tmp_path / "m.jsonl", [{"path": row} for row in rows]), "gs://bucket/videos"
    )
    assert not table.items
    with pytest.raises(CurationError, match="expected a folder, or a URL of"):
        Root("ftp://host/videos")


def test_a_manifest_at_a_url():
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe("/lists/m.csv", b"path\na.mp4\nmemory://lists/b.mp4\nmemory://c.mp4\n")
    table = read_items("memory://lists/m.csv")
    assert [item.path for item in table.items] == ["a.mp4", "b.mp4"]
    assert table.bad_rows == {"path escape": 1}
