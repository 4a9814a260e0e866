"""Clips that show the same are found, others are not; the best of a group stays."""

import collections
import random

import cv2
import numpy as np
import pytest

from vmae_jax.data import synthetic, videos
from vmae_jax.data.curate import pairs, unique_bench
from vmae_jax.data.curate.fingerprints import Fingerprints
from vmae_jax.data.curate.hashes import BLANK, frame_hash, mirrored
from vmae_jax.data.curate.items import HASHES_PER_SECOND, Clip, CurationError
from vmae_jax.data.curate.unique import (
    Group,
    Limits,
    Match,
    choose,
    find_groups,
    load_fingerprints,
    save_fingerprints,
)


def clip(item: str, hashes, number: int = 0) -> Clip:
    hashes = np.asarray(hashes, np.uint64)
    return Clip(item, number, 0.0, len(hashes) / HASHES_PER_SECOND, {}, hashes)


def walk(seed: int, steps: int = 40, change: float = 0.1) -> np.ndarray:
    """Hashes of a clip that moves: each differs from the one before in a share of its bits."""
    rng = np.random.default_rng(seed)
    flips = noise(rng, steps, change)
    flips[0] = rng.integers(0, 2**64, dtype=np.uint64)
    return np.bitwise_xor.accumulate(flips)


def noise(rng: np.random.Generator, number: int, share: float) -> np.ndarray:
    return np.packbits(rng.random((number, 64)) < share, axis=1).view(np.uint64)[:, 0]


def noisy(hashes: np.ndarray, share: float = 0.05) -> np.ndarray:
    return hashes ^ noise(np.random.default_rng(7), len(hashes), share)


def the_match(a, b, **options) -> Match | None:
    """The one match between two clips of hashes; None: they are kept apart."""
    groups = find_groups([[clip("a", a), clip("b", b)]], {}, **options)
    return groups[0].matches[0] if groups else None


ONE = walk(1)


@pytest.mark.parametrize(
    ("copy", "offset", "frames", "turned"),
    [
        (ONE, 0.0, 40, False),
        (noisy(ONE), 0.0, 36, False),
        (mirrored(noisy(ONE)), 0.0, 36, True),
        (ONE[2:], -0.5, 38, False),
        (noisy(ONE[12:24]), -3.0, 11, False),
        (np.concatenate([walk(2, 60), noisy(ONE), walk(3, 9)]), 15.0, 36, False),
        (np.concatenate([[BLANK] * 9, ONE]), 2.25, 40, False),
    ],
)
def test_a_copy_is_found_where_it_lies(copy, offset, frames, turned):
    match = the_match(ONE, copy)
    # Between two steps the offset is what the bits say.
    found = match.seen_from_b() if match.a == "b#0" else match
    assert (found.a, found.b) == ("a#0", "b#0")
    assert found.offset == pytest.approx(offset, abs=0.1)
    assert found.mirrored == turned
    assert found.frames >= frames
    assert found.evidence > 0.4


def test_grids_that_do_not_agree_match():
    fine = walk(4, 81, 0.06)
    match = the_match(fine[::2], noisy(fine[1::2], 0.02))
    assert abs(abs(match.offset) - 0.5 / HASHES_PER_SECOND) < 0.08


BACKGROUND = np.full(40, walk(9, 1)[0])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (ONE, walk(5)),
        (ONE[:20], ONE[20:]),  # two stretches of one video
        (BACKGROUND, BACKGROUND),  # nothing moves: no evidence
        (noisy(BACKGROUND), BACKGROUND),
        (BACKGROUND ^ noise(np.random.default_rng(1), 40, 0.02), noisy(BACKGROUND, 0.02)),
        ([BLANK] * 40, [BLANK] * 40),
        (np.append(ONE[:8], walk(6, 32)), np.append(ONE[:8], walk(7, 32))),  # the same logo first
        (ONE[:3], ONE),  # too short to tell
        ([], ONE),
        ([], []),
    ],
)
def test_other_clips_are_kept_apart(a, b):
    assert the_match(a, b) is None


def scene(seed: int, background: np.ndarray) -> list[np.ndarray]:
    """Frames at the rate of hashes: discs that move before a background that stands."""
    rng = np.random.default_rng(seed)
    start, speed = rng.uniform(0, 1, (3, 2)), rng.uniform(-0.08, 0.08, (3, 2))
    frames = []
    for t in range(24):
        frame = background.copy()
        for x, y in (start + speed * t) % 1 * (background.shape[1], background.shape[0]):
            cv2.circle(frame, (int(x), int(y)), 8, (250, 240, 230), -1)
        frames.append(frame)
    return frames


def test_one_camera_is_not_one_clip_but_a_cropped_copy_is():
    background = synthetic.render("move_up", np.random.default_rng(0), num_frames=1)[0]
    scenes = {f"s{i}": scene(i, background) for i in range(8)}
    copies = {f"{name}-copy": [f[5:, 6:] for f in frames] for name, frames in scenes.items()}
    clips = [
        clip(name, [frame_hash(frame) for frame in frames])
        for name, frames in (scenes | copies).items()
    ]
    counts = collections.Counter()
    groups = find_groups([clips], {}, counts=counts)
    assert [g.members for g in groups] == [(f"s{i}#0", f"s{i}-copy#0") for i in range(8)]
    assert counts["pairs that look alike but do not move alike"] > 0


def test_synthetic_videos_are_unlike_each_other():
    clips = [
        clip(f"{name}{i}", [frame_hash(frame) for frame in synthetic.render(name, rng)[::6]])
        for c, name in enumerate(synthetic.CLASSES)
        for i, rng in enumerate(map(np.random.default_rng, ([c, 0], [c, 1])))
    ]
    assert find_groups([clips], {}) == []


def squeezed(frame: np.ndarray) -> np.ndarray:
    _, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 25])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def inset(frame: np.ndarray, left: float, right: float) -> np.ndarray:
    """Without these shares of the height and the width, at the upper left and the lower right."""
    height, width = frame.shape[:2]
    low, high = np.int64((height * left, width * left)), np.int64((height * right, width * right))
    return frame[low[0] : height - high[0], low[1] : width - high[1]]


COPIES = {  # what is done to each frame, and seconds cut away first
    "encoded": (squeezed, 0.0),
    "small": (lambda frame: cv2.resize(frame, None, fx=0.3, fy=0.3), 0.0),
    "mirrored": (lambda frame: squeezed(frame[:, ::-1]), 0.0),
    "cropped": (lambda frame: squeezed(inset(frame, 0.025, 0.025)), 0.0),
    "corner": (lambda frame: squeezed(inset(frame, 0.05, 0.0)), 0.0),
    "shifted": (squeezed, 0.5),
    "off the grid": (squeezed, 0.37),
    "all": (lambda frame: squeezed(inset(frame[:, ::-1], 0.025, 0.025)), 0.37),
}


def test_copies_of_real_clips_are_found_and_their_other_halves_are_not(shared):
    """Recall of at least 95 % at a precision of at least 99 %: halves share camera and scene."""
    clips = []
    for path in sorted((shared / "videos" / "actions").iterdir()):
        fps = videos.open_video(path).fps
        frames = [cv2.resize(f, (192, 144)) for f in videos.stream_video(path, 256)]
        half = len(frames) // 2
        for part, some in (("1", frames[:half]), ("2", frames[half:])):
            for kind, (change, cut) in {"original": (np.asarray, 0.0), **COPIES}.items():
                times = np.arange(cut, len(some) / fps - 1 / fps, 1 / HASHES_PER_SECOND)
                hashes = [frame_hash(change(some[round(t * fps)])) for t in times]
                clips.append(clip(f"{path.stem} {part} {kind}", hashes))
    groups = find_groups([clips], {})
    found = {(m.a, m.b) for group in groups for m in group.matches}
    found |= {(b, a) for a, b in found}
    right = [pair for pair in found if pair[0].split(" ")[:2] == pair[1].split(" ")[:2]]
    originals = [c.id for c in clips if c.id.endswith("original#0")]
    recalled = [b for a, b in right if a in originals]
    assert len(recalled) >= 0.95 * len(originals) * len(COPIES)
    assert len(right) >= 0.99 * len(found)
    kept, _ = choose(groups, {c.id: (1 + (c.id in originals), c.end) for c in clips})
    assert len(set(kept) & set(originals)) == len(originals)
    assert len(kept) <= 1.05 * len(originals)


# ---- Many clips ----

MANY = [c for chunk in unique_bench.records(300) for c in chunk]


@pytest.mark.parametrize("size", [1, 7, 300])
def test_order_and_chunks_do_not_matter(size):
    clips = list(MANY)
    random.Random(size).shuffle(clips)
    groups = find_groups((clips[i : i + size] for i in range(0, 300, size)), {})
    assert groups == find_groups([MANY], {})
    ids = [c.id for c in MANY]
    assert [g.members for g in groups] == [(ids[i], ids[i + 9]) for i in range(0, 300, 10)]


def test_beam_finds_the_same(monkeypatch):
    pytest.importorskip("apache_beam", reason="Beam is not installed (extra 'build')")
    from vmae_jax.data.curate import unique_beam

    monkeypatch.setattr(unique_beam, "_PIECE", 70)
    old = Fingerprints("old", ("x#0",), (noisy(MANY[4].hashes),), {})
    expected = find_groups([MANY], {}, against=[old])
    options = "runner=DirectRunner,direct_num_workers=1"
    assert find_groups([MANY], {}, against=[old], beam_options=options) == expected
    with pytest.raises(CurationError, match="no_such_option: no such Beam option"):
        find_groups([MANY], {}, beam_options="no_such_option=1")
    with pytest.raises(CurationError, match=r"runner=FlinkRunner .* add temp_location="):
        find_groups([MANY], {}, beam_options="runner=FlinkRunner")


def test_full_buckets_are_counted_and_all_copies_still_go():
    """Of forty copies each meets the first few only, and these change with the noise."""
    rng = np.random.default_rng(0)
    clips = [clip(f"c{i:02d}", ONE ^ noise(rng, 40, 0.01)) for i in range(40)]
    counts = collections.Counter()
    (group,) = find_groups([clips], {}, limits=Limits(bucket=4), counts=counts)
    assert counts["frames in full buckets"] > 1000
    assert len(group.matches) < 40 * 39 / 2
    quality = {c.id: (100 + (c.item == "c20"), 10.0) for c in clips}
    kept, removed = choose([group], quality)
    assert kept == ("c20#0",)
    assert len(removed) == 39


def test_other_sets_are_met_in_full_buckets_and_not_compared_among_themselves():
    old = Fingerprints("old", tuple(f"x{i}#0" for i in range(9)), (ONE,) * 9, {})
    clips = [clip(f"c{i}", noisy(ONE, 0.01 * i)) for i in range(6)]
    (group,) = find_groups([clips], {}, against=[old], limits=Limits(bucket=2))
    assert {m.a for m in group.matches if m.against == "old"} == {c.id for c in clips}
    assert not [m for m in group.matches if m.a.startswith("x")]


def test_a_clip_that_comes_twice_is_named():
    with pytest.raises(CurationError, match="clip a#0 comes twice"):
        find_groups([[clip("a", ONE)], [clip("a", ONE)]], {})


# ---- Exact copies, other sets ----


def test_files_that_are_the_same_match_clip_by_clip_and_are_not_compared():
    still = np.full(20, ONE[0])
    clips = [clip(item, still, n) for item in "cab" for n in (0, 1)]
    groups = find_groups([clips], dict.fromkeys("abc", "d" * 64))
    assert [g.members for g in groups] == [(f"a#{n}", f"b#{n}", f"c#{n}") for n in (0, 1)]
    assert all(m.exact for g in groups for m in g.matches)
    kept, removed = choose(groups, {c.id: (1, 5.0) for c in clips})
    assert kept == ("a#0", "a#1")
    assert {(r.id, r.reason, r.detail) for r in removed if r.id == "c#1"} == {
        ("c#1", "exact duplicate", "the same file as a#1")
    }


def test_what_another_set_holds_goes_whatever_its_quality():
    old = Fingerprints("ucf", ("v#0", "w#0"), (noisy(ONE[4:30]), walk(8)), {"w": "e" * 64})
    clips = [clip("a", ONE), clip("b", noisy(ONE)), clip("c", walk(11)), clip("d", walk(12))]
    groups = find_groups([clips], {"c": "e" * 64, "d": "f" * 64}, against=[old])
    kept, removed = choose(groups, {c.id: (10**6, 60.0) for c in clips})
    assert kept == ()
    assert [(r.id, r.reason) for r in removed] == [(f"{i}#0", "in another set") for i in "abc"]
    assert "26 frames (100%) as in v#0 of ucf at -0." in removed[0].detail
    assert removed[2].detail == "the same file as w of ucf"


def test_sets_that_were_saved_are_found_again(tmp_path):
    path = str(tmp_path / "earlier run.fp")
    clips = [clip("é/a", ONE), clip("b", [], 3), clip("c#2", walk(3))]
    save_fingerprints(path, [clips[:1], clips[1:]], {"é/a": "0a" * 32})
    back = load_fingerprints(path)
    assert (back.name, back.ids) == ("earlier run", ("b#3", "c#2#0", "é/a#0"))
    assert back.digests == {"é/a": "0a" * 32}
    for name, hashes in zip(back.ids, back.hashes, strict=True):
        (expected,) = [c.hashes for c in clips if c.id == name]
        assert np.array_equal(hashes, expected)
    again = str(tmp_path / "again.fp")
    save_fingerprints(again, [clips[::-1]], {"é/a": "0a" * 32, "b": ""})
    assert (tmp_path / "again.fp").read_bytes() == (tmp_path / "earlier run.fp").read_bytes()
    save_fingerprints(again, [], {})
    assert load_fingerprints(again).ids == ()
    assert find_groups([clips], {}, against=[back, load_fingerprints(again)])


def test_a_damaged_file_of_fingerprints_is_refused(tmp_path):
    file = tmp_path / "a.fp"
    save_fingerprints(str(file), [MANY[:5]], {})
    whole = file.read_bytes()
    for place in range(0, len(whole), 61):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(CurationError, match=r"a\.fp: .*again"):
            load_fingerprints(str(file))
    for size in (0, 3, 30, 60, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(CurationError, match=r"a\.fp: .*again") as raised:
            load_fingerprints(str(file))
        assert "\n" not in str(raised.value)
    with pytest.raises(CurationError, match=r"none\.fp: the fingerprints cannot be read \(No such"):
        load_fingerprints(str(tmp_path / "none.fp"))


# ---- The choice ----


def near(a: str, b: str, of_longer: float = 0.5) -> Match:
    return Match(a, b, frames=9, of_longer=of_longer)


def chosen(matches, **quality):
    members = tuple(sorted({n for m in matches for n in (m.a, m.b)}))
    default = dict.fromkeys(members, (100, 10.0))
    return choose([Group(members, tuple(matches))], default | quality)


@pytest.mark.parametrize(
    ("quality", "best"),
    [
        ({}, "a"),
        ({"c": (101, 1.0)}, "c"),
        ({"b": (100, 11.0)}, "b"),
        ({"b": (100, 99.0), "c": (200, 1.0)}, "c"),
    ],
)
def test_the_best_stays(quality, best):
    kept, removed = chosen([near("a", "b"), near("a", "c"), near("b", "c")], **quality)
    assert kept == (best,)
    assert [r.id for r in removed] == sorted({"a", "b", "c"} - {best})
    assert all(f"as in {best} " in r.detail for r in removed)


def test_a_chain_of_others_does_not_pull_a_clip_along():
    chain = [near("a", "b"), near("b", "c"), near("c", "d")]
    kept, _ = chosen(chain)
    assert kept == ("a", "c")


def test_a_copy_of_a_copy_goes_by_way_of_one_in_between():
    chain = [near("a", "b", 0.9), near("b", "c"), near("c", "d")]
    kept, removed = chosen(chain)
    assert kept == ("a", "d")
    way = "9 frames (100%) as in b at +0.00 s, of which 9 frames (100%) as in a at +0.00 s"
    assert removed[1].detail == way


def test_parts_of_a_longer_clip_go_with_it_and_stay_without():
    parts = [near("long", "x"), near("long", "y")]
    assert chosen(parts, long=(100, 60.0))[0] == ("long",)
    assert chosen(parts, x=(900, 5.0))[0] == ("x", "y")


def test_limits_are_kept():
    assert pairs.NUM_BANDS == 15
    assert the_match(ONE[:6], ONE) is not None
    assert the_match(ONE[:6], ONE, limits=Limits(frames=7)) is None
    assert the_match(ONE, ONE ^ np.uint64(7), limits=Limits(differ=0.0)) is None
