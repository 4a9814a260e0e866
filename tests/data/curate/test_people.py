"""The detector of the user: layouts, boxes, and what is wrong with a model in one line."""

import dataclasses

import numpy as np
import pytest
from curate_videos import moving, write

from vmae_jax.data.curate.examine import ExamineSettings, examine
from vmae_jax.data.curate.gates import GateLimits, judge
from vmae_jax.data.curate.items import CurationError, Item
from vmae_jax.data.curate.people import check_model, layout_of, letterbox, open_detector

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIDE = 64  # pixels of the model's input: 84 cells
BOX = (32.0, 32.0, 16.0, 24.0)  # center x, center y, width, height in the input


def save(path, output: np.ndarray, shape=(1, 3, SIDE, SIDE), kind=None, by_brightness=True) -> str:
    """A model that answers `output`, times the brightness of its picture's middle."""
    helper, tensor = onnx.helper, onnx.TensorProto
    value = onnx.numpy_helper.from_array(output.astype(np.float32), "value")
    corner = [
        onnx.numpy_helper.from_array(np.array(v, np.int64), n)
        for n, v in (("begin", [0, 0, 32, 32]), ("end", [1, 1, 33, 33]), ("axes", [0, 1, 2, 3]))
    ]
    nodes = [
        helper.make_node("Slice", ["images", "begin", "end", "axes"], ["pixel"]),
        helper.make_node("ReduceMax", ["pixel"], ["light"], keepdims=0),
        helper.make_node("Mul" if by_brightness else "Add", ["value", "light"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", kind or tensor.FLOAT, shape)],
        [helper.make_tensor_value_info("output", tensor.FLOAT, output.shape)],
        [value, *corner],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return str(path)


def output_of(layout: str) -> np.ndarray:
    x, y, w, h = BOX
    if layout == "v5":
        out = np.zeros((1, 252, 7))
        out[0, 5] = [x, y, w, h, 1.0, 0.9, 0.0]
        out[0, 6] = [x, y, w, h, 1.0, 0.0, 0.9]  # another class
    elif layout == "v8":
        out = np.zeros((1, 6, 84))
        out[0, :, 5] = [x, y, w, h, 0.9, 0.0]
        out[0, :, 6] = [x, y, w, h, 0.0, 0.9]
    else:
        out = np.zeros((1, 30, 6))
        corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        out[0, 0] = [*corners, 0.9, 0]
        out[0, 1] = [*corners, 0.8, 0]
        out[0, 2] = [*corners, 0.3, 0]  # not sure enough
    return out


@pytest.mark.parametrize("layout", ["v5", "v8", "end to end"])
def test_boxes_of_each_layout(tmp_path, layout):
    model = check_model(save(tmp_path / "m.onnx", output_of(layout)))
    white = np.full((90, 180, 3), 255, np.uint8)  # letterboxed to 32 x 64, 16 rows of grey above
    boxes = open_detector(model).boxes(white)
    expected = [24 / 64, 4 / 32, 40 / 64, 28 / 32]
    np.testing.assert_allclose(boxes[0], [*expected, 0.9], atol=1e-5)
    assert len(boxes) == (2 if layout == "end to end" else 1)
    assert open_detector(model)(white) == pytest.approx(0.9)
    small = dataclasses.replace(model, min_height=0.9)
    assert open_detector(small)(white) == 0


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1, 25200, 85), "v5"),
        ((1, 84, 8400), "v8"),
        ((1, 5, 8400), "v8"),
        ((1, 300, 6), "end to end"),
        ((1, 25200, 6), "v5"),
        ((1, 6, 8400), "v8"),
        ((1, 102000, 85), "v5"),  # four grids
        ((1, 1000), None),
        ((2, 84, 8400), None),
        ((1, 3, 640), None),
    ],
)
def test_layouts(shape, layout):
    assert layout_of(shape, (640, 640)) == layout


def test_letterbox_keeps_the_aspect():
    canvas, scale, (left, top) = letterbox(np.zeros((100, 50, 3), np.uint8), (64, 64))
    assert (scale, left, top) == (0.64, 16, 0)
    assert set(np.unique(canvas[:, :16])) == {114}
    assert not canvas[:, 16:48].any()


def test_what_is_wrong_with_a_model_is_one_line(tmp_path):
    noise = tmp_path / "noise.onnx"
    noise.write_bytes(b"no model")
    good = output_of("v8")
    wrong = {
        str(tmp_path / "missing.onnx"): "no model there",
        str(noise): "does not load as ONNX",
        save(tmp_path / "classes.onnx", np.zeros((1, 1000))): r"output \(1, 1000\): expected",
        save(tmp_path / "gray.onnx", good, shape=(1, 1, SIDE, SIDE)): r"expected \[1, 3, H, W\]",
    }
    for path, message in wrong.items():
        with pytest.raises(CurationError, match=message) as caught:
            check_model(path)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(path)
    model = check_model(save(tmp_path / "m.onnx", good))
    save(tmp_path / "m.onnx", good[:, :, ::-1])
    open_detector.cache_clear()
    with pytest.raises(CurationError, match="changed since"):
        open_detector(model)
    with pytest.raises(CurationError, match="confidence 2"):
        check_model(tmp_path / "m.onnx", confidence=2)


def test_the_share_of_time_with_people_is_a_score(tmp_path):
    """Bright in the middle for the first half: a person for this detector."""
    model = check_model(save(tmp_path / "m.onnx", output_of("v8")))
    pictures = moving(2, 96)
    pictures[:48, 90:150, 180:246], pictures[48:, 90:150, 180:246] = 255, 0
    file = write(tmp_path / "v.mp4", pictures)
    video = examine(Item("v", "v"), file, ExamineSettings(detector=model))
    (clip,) = video.clips
    assert clip.scores["people"] == 0.5
    assert judge(clip, video, GateLimits(min_people=0.4, max_text=0)) is None
    assert judge(clip, video, GateLimits(min_people=0.6)).reason == "too few people"
