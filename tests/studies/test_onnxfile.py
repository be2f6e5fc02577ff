"""Networks as ONNX files: how they are fed, and how each kind of output is read. The graphs are made here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("skimage")

import onnx

from studies.downstream.classification import Classification
from studies.downstream.figures import main
from studies.downstream.labels import LABELS
from studies.downstream.masks import NOT_COUNTED, VOC_CLASSES, CocoOutlines
from studies.downstream.measure import app
from studies.downstream.onnxfile import FOLDER, OnnxNetwork, find_description, read_description, suppress_overlaps
from studies.downstream.recognition import open_recogniser
from studies.downstream.segmentation import Agreement, Segmentation, count_pixels
from unjpeg.errors import MeasurementError, SettingError, TrainingDataError

Array = NDArray[np.float32]


def save(path: Path, nodes: Sequence[Any], shape: Sequence[int], constants: dict[str, Any], *out: str) -> Path:
    """A graph from ``image`` to the values of these names."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name in out],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def save_constant(path: Path, size: tuple[int, int], *values: Array) -> Path:
    """A network that gives the same for every picture."""
    nodes = [onnx.helper.make_node("ReduceSum", ["image"], ["sum"], keepdims=0)]
    nodes.append(onnx.helper.make_node("Mul", ["sum", "zero"], ["nothing"]))
    constants: dict[str, Any] = {"zero": np.float32(0)}
    for number, value in enumerate(values):
        constants[f"value{number}"] = value
        nodes.append(onnx.helper.make_node("Add", [f"value{number}", "nothing"], [f"out{number}"]))
    return save(path, nodes, (1, 3, *size), constants, *(f"out{number}" for number in range(len(values))))


def save_brightness(path: Path, size: tuple[int, int], *, last: bool = False) -> Path:
    """A segmenter of two classes: ``red - 0.5`` is class 1's score, and 0 the other's. Input is what it is fed."""
    axis = 3 if last else 1
    split = onnx.helper.make_node("Split", ["image"], ["r", "g", "b"], axis=axis)
    nodes = [split, onnx.helper.make_node("Sub", ["r", "half"], ["one"])]
    nodes.append(onnx.helper.make_node("Mul", ["one", "zero"], ["other"]))
    nodes.append(onnx.helper.make_node("Concat", ["other", "one"], ["both"], axis=axis))
    nodes.append(onnx.helper.make_node("Transpose", ["both"], ["logits"], perm=[0, 3, 1, 2] if last else [0, 1, 2, 3]))
    shape = (1, *size, 3) if last else (1, 3, *size)
    return save(path, nodes, shape, {"half": np.float32(0.5), "zero": np.float32(0)}, "logits")


def describe(path: Path, **how: Any) -> Path:
    path.with_suffix(".json").write_text(json.dumps(how))
    return path


def grey(height: int, width: int, level: int = 100) -> NDArray[np.uint8]:
    return np.full((height, width, 3), level, np.uint8)


# --- boxes --------------------------------------------------------------------------------------------------------


def test_yolox_is_decoded_from_its_grid(tmp_path: Path) -> None:
    """32x64 with strides 16 and 32: 2x4 cells, then 1x2. One box in each grid."""
    rows = np.zeros((1, 10, 5 + 2), np.float32)
    rows[0, 5] = (0.5, 0.25, np.log(2), np.log(0.5), 0.9, 0.1, 1.0)  # row 1, column 1 of the cells of 16
    rows[0, 9] = (0.5, 0.5, 0, 0, 0.5, 0.8, 0.0)  # the second of the cells of 32
    path = save_constant(tmp_path / "net.onnx", (32, 64), rows)
    describe(path, kind="detection", size=[32, 64], decoding="yolox", strides=[16, 32], fit="letterbox")
    network = OnnxNetwork(path, "detection")
    assert network.labels == {0: "LABEL_0", 1: "LABEL_1"}
    found, labels, scores = network.find_boxes(grey(64, 128))  # twice the input's size
    assert labels == [1, 0]
    assert scores == pytest.approx([0.9, 0.4])
    middle, size = np.array([16 * 1.5, 16 * 1.25]), np.array([32, 8])
    assert np.allclose(found[0], 2 * np.concatenate([middle - size / 2, middle + size / 2]))
    assert np.allclose(found[1], 2 * np.array([32, 0, 64, 32]))
    # A square picture fills the left half alone: the second box lies outside, and is cut to nothing.
    found, _, _ = network.find_boxes(grey(16, 16))
    assert np.allclose(found[0], [4, 8, 16, 12])
    assert found[1][0] == found[1][2] == 16


@pytest.mark.parametrize("decoding", ["centres", "centres across", "corners"])
def test_the_same_boxes_in_other_words(decoding: str, tmp_path: Path) -> None:
    boxes = np.array(
        [[10, 10, 30, 20], [11, 10, 31, 20], [40, 5, 60, 25], [0, 0, 4, 4], *[[0, 0, 1, 1]] * 4], np.float32
    )
    scores = np.array([[0.9, 0.1], [0.8, 0.0], [0.0, 0.7], [0.001, 0.002], *[[0, 0]] * 4], np.float32)
    if decoding == "corners":
        path = save_constant(tmp_path / "net.onnx", (32, 64), boxes[None], scores[None])
    else:
        middle, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        rows = np.concatenate([middle, size, scores], axis=1)[None]
        path = save_constant(tmp_path / "net.onnx", (32, 64), rows.transpose(0, 2, 1) if "across" in decoding else rows)
    describe(path, kind="detection", size=[32, 64], decoding=decoding.split()[0], labels=["cat", "dog"])
    found, labels, sure = OnnxNetwork(path, "detection").find_boxes(grey(32, 64))
    assert np.allclose(found, boxes[[0, 2]], atol=1e-4)  # the second is the first again, the fourth is unsure
    assert labels == [0, 1]
    assert sure == pytest.approx([0.9, 0.7])


@given(
    arrays(np.float32, (12, 2), elements=st.floats(0, 50, width=32)),
    arrays(np.float32, (12, 2), elements=st.floats(1, 30, width=32)),
    arrays(np.float32, 12, elements=st.floats(0, 1, width=32)),
    arrays(np.int64, 12, elements=st.integers(0, 2)),
)
def test_what_stays_does_not_overlap_and_what_goes_does(low: Array, size: Array, scores: Array, labels: Any) -> None:
    boxes = np.concatenate([low, low + size], axis=1)
    kept = suppress_overlaps(boxes, scores, labels, 0.5).tolist()
    assert scores[kept].tolist() == sorted(scores[kept].tolist(), reverse=True)

    def iou(one: int, other: int) -> float:
        a, b = boxes[one].astype(float), boxes[other].astype(float)
        sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        shared = sides.clip(0).prod()
        return float(shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared))

    for number in range(12):
        better = [k for k in kept if k != number and labels[k] == labels[number] and scores[k] >= scores[number]]
        if number in kept:
            assert all(iou(number, k) <= 0.5 + 1e-5 for k in better if scores[k] > scores[number])
        else:
            assert any(iou(number, k) > 0.5 - 1e-5 for k in better)


# --- pixels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("channels", "red"), [("rgb", 0), ("bgr", 2)])
@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_pixels_are_classed_where_they_are(last: bool, channels: str, red: int, fit: str, tmp_path: Path) -> None:
    path = save_brightness(tmp_path / "net.onnx", (32, 32), last=last)
    how = {"channels": channels, "fit": fit, "highest": 1.0, "labels": ["nothing", "cat"]}
    describe(path, kind="segmentation", size=[32, 32], decoding="logits", **how)
    pixels = grey(40, 80, 30)
    pixels[8:24, 40:64, red] = 230
    found = OnnxNetwork(path, "segmentation").find_labels(pixels)
    expected = np.zeros((40, 80), bool)
    expected[8:24, 40:64] = True
    assert found.shape == (40, 80)
    # Within two pixels of the edge the resizing decides.
    edge = np.zeros_like(expected)
    edge[5:27, 37:67], edge[11:21, 43:61] = True, False
    assert np.array_equal(found[~edge] == 1, expected[~edge])


def test_mean_and_deviation_are_taken_off(tmp_path: Path) -> None:
    """White, with mean 1 and deviation 0.1, is 0: below the half that is asked for. 0.4 below is -4."""
    path = save_brightness(tmp_path / "net.onnx", (8, 8))
    how: dict[str, Any] = {"kind": "segmentation", "size": [8, 8], "decoding": "logits", "highest": 1.0}
    for mean, found in (([1.0, 0, 0], 0), ([0.9, 0, 0], 1), ([0.96, 0, 0], 0)):
        describe(path, **how, mean=mean, std=[0.1, 1, 1])
        assert (OnnxNetwork(path, "segmentation").find_labels(grey(8, 8, 255)) == found).all()


def test_numbers_of_classes_are_read(tmp_path: Path) -> None:
    numbers = np.arange(4, dtype=np.float32).reshape(1, 2, 2)
    path = save_constant(tmp_path / "net.onnx", (16, 16), numbers)
    describe(path, kind="segmentation", size=[16, 16], decoding="numbers", labels=["a", "b", "c", "d"])
    found = OnnxNetwork(path, "segmentation").find_labels(grey(6, 4))
    assert found.tolist() == [[0, 0, 1, 1]] * 3 + [[2, 2, 3, 3]] * 3


def test_a_network_agrees_with_itself(tmp_path: Path) -> None:
    path = save_brightness(tmp_path / "net.onnx", (16, 16))
    describe(path, kind="segmentation", size=[16, 16], decoding="logits", highest=1.0)
    pixels = grey(16, 16, 0)
    pixels[:8, :8, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    task = Agreement(str(path), tmp_path)
    assert task.list_names() == ["a.png"]
    original, truth = task.load("a.png")
    assert task.summarise([task.examine(original, truth)]) == {"mean_iou": 1, "same": 1}
    # A quarter is class 1; half of that is lost: 32 of 64, and 192 of 224 of the other.
    pixels[:4, :8, 0] = 0
    figures = task.summarise([task.from_json(json.loads(json.dumps(task.to_json(task.examine(pixels, truth)))))])
    assert figures == pytest.approx({"mean_iou": (32 / 64 + 192 / 224) / 2, "same": 224 / 256})


def test_coco_s_outlines_are_filled_and_mapped(tmp_path: Path) -> None:
    Image.fromarray(grey(20, 30)).save(tmp_path / "a.png")
    runs = [25 * 20, 100]  # the last five columns, as a crowd
    square = [[2.0, 3.0, 12.0, 3.0, 12.0, 13.0, 2.0, 13.0]]
    inner = [[4.0, 5.0, 8.0, 5.0, 8.0, 9.0, 4.0, 9.0]]
    things: list[dict[str, Any]] = [
        {"category_id": 63, "area": 16, "segmentation": inner},
        {"category_id": 1, "area": 100, "segmentation": square},
        {"category_id": 44, "area": 1, "segmentation": [[14.0, 0, 16, 0, 16, 2, 14, 2]]},  # no class of VOC's
        {"category_id": 1, "area": 100, "iscrowd": 1, "segmentation": {"size": [20, 30], "counts": runs}},
    ]
    record = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}, {"id": 3, "file_name": "c.png"}],
        "categories": [{"id": 1, "name": "person"}, {"id": 63, "name": "couch"}, {"id": 44, "name": "bottle opener"}],
        "annotations": [{"image_id": 1, **thing} for thing in things]
        + [{"image_id": 2, "category_id": 1, "bbox": [0, 0, 1, 1]}],  # a box alone
    }
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(record))
    masks = CocoOutlines(tmp_path, file)
    assert masks.list_names() == ["a.png"]
    _, mask = masks.load("a.png")
    person, sofa = VOC_CLASSES.index("person"), VOC_CLASSES.index("sofa")
    assert (mask[3:13, 2:4] == person).all()
    assert (mask[5:9, 4:8] == sofa).all()
    assert (mask[:, 25:] == NOT_COUNTED).all()
    assert (mask[14:, :25] == 0).all()
    assert (mask[0:2, 14:16] == 0).all()
    assert [(mask == number).sum() for number in (person, sofa)] == [10 * 10 - 4 * 4, 4 * 4]
    path = save_brightness(tmp_path / "net.onnx", (16, 16))
    describe(path, kind="segmentation", size=[16, 16], decoding="logits", highest=1.0, labels=["background", "person"])
    counts = Segmentation(str(path), masks).examine(*masks.load("a.png"))
    assert counts.sum() == 20 * 25
    assert counts[person, 0] == (mask == person).sum()
    file.write_text(json.dumps(record | {"images": []}))
    with pytest.raises(TrainingDataError, match="no annotations as COCO has them"):
        CocoOutlines(tmp_path, file)


def test_pixels_that_do_not_count_are_left_out() -> None:
    truth = np.array([[0, 1, NOT_COUNTED], [2, 2, 2]])
    found = np.array([[0, 0, 1], [2, 2, 1]])
    assert count_pixels(found, truth, 3).tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 2]]


def test_a_sheet_shows_what_is_found_in_each_version(tmp_path: Path) -> None:
    segmenter = save_brightness(tmp_path / "pixels.onnx", (32, 32))
    how: dict[str, Any] = {"size": [32, 32], "highest": 1.0, "labels": ["background", "cat"]}
    describe(segmenter, kind="segmentation", decoding="logits", **how)
    boxes, scores = np.array([[[8, 8, 24, 24]]], np.float32), np.array([[[0.1, 0.9]]], np.float32)
    detector = describe(
        save_constant(tmp_path / "boxes.onnx", (32, 32), boxes, scores), kind="detection", decoding="corners", **how
    )
    pixels = grey(300, 300, 30)
    pixels[100:200, 100:200, 0] = 230
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for network, kind in ((segmenter, "segmentation"), (detector, "detection")):
        out = tmp_path / "sheets" / f"{kind}.png"
        main(str(network), [tmp_path / "a.png"], kind, None, ["jpeg"], 30, 300, out)
        drawn = np.asarray(Image.open(out).convert("RGB"), int)
        assert drawn.shape[1] == 606
        for left in (0, 306):
            inside, corner = drawn[120:180, left + 120 : left + 180], drawn[250:290, left + 10 : left + 60]
            assert np.ptp(corner, axis=2).max() < 20  # nothing is found there
            assert np.ptp(inside, axis=2).mean() > 30
    with pytest.raises(SettingError, match="there are detection and segmentation"):
        main(str(segmenter), [tmp_path / "a.png"], "reading", None, ["jpeg"], 30, 300, out)
    with pytest.raises(SettingError, match=r"ends in \.png or \.webp"):
        main(str(segmenter), [tmp_path / "a.png"], "detection", None, ["jpeg"], 30, 300, tmp_path / "a.jpg")


# --- pictures -----------------------------------------------------------------------------------------------------


def test_guesses_are_counted(tmp_path: Path) -> None:
    """The mean of a channel is its class's score: of red, green and blue pictures, those with the right name."""
    nodes = [onnx.helper.make_node("ReduceMean", ["image"], ["logits"], axes=[2, 3], keepdims=0)]
    path = save(tmp_path / "net.onnx", nodes, (1, 3, 8, 8), {}, "logits")
    describe(path, kind="classification", size=[8, 8], decoding="logits", fit="crop", share=0.5)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, channel in (("a_1", 0), ("a_2", 0), ("b_1", 1), ("c_1", 0)):
        pixels = grey(32, 48, 0)
        pixels[..., 0] = 10
        pixels[8:24, 16:32, channel] = 200  # the middle, half of the short side
        pixels[:8] = 255 * np.array([0, 0, 1])  # what is cropped
        Image.fromarray(pixels).save(pictures / f"{name}.png")
    arguments = ["classification", path, "--data", pictures, "--method", "jpeg", "--quality", "90"]
    arguments += ["--out", tmp_path, "--work", tmp_path / "work"]
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "downstream-classification.json").read_text())
    assert record["summary"]["original"]["original"] == {"top_1": 0.75, "top_5": 1}
    assert record["pictures"] == 4
    assert "rows" not in record
    (pictures / "d_1.png").write_bytes((pictures / "a_1.png").read_bytes())
    with pytest.raises(TrainingDataError, match=r"has 4 classes, and .* tells 3 apart"):
        Classification(path, pictures)


# --- what is wrong ------------------------------------------------------------------------------------------------


def test_our_descriptions_can_be_read() -> None:
    names = {path.stem: read_description(path) for path in FOLDER.glob("*.json")}
    assert names["yolox_nano"].labels == "coco"
    assert len(LABELS["coco"]) == 80
    assert len(LABELS["voc"]) == 21


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "reading"}, "kind must be one of"),
        ({"decoding": "logits"}, "decoding of detection must be one of"),
        ({"size": [8]}, "size needs 2 numbers"),
        ({"std": [0, 1, 1]}, "must be positive"),
        ({"fit": "crop"}, "crop leaves parts"),
        ({"fit": "squeeze"}, "fit must be one of"),
        ({"labels": "imagenet"}, "labels must be a list"),
        ({"colour": "rgb"}, "there is no field 'colour'"),
    ],
)
def test_a_description_that_is_none_is_said(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    file = tmp_path / "net.json"
    file.write_text(json.dumps({"kind": "detection", "size": [8, 8], "decoding": "yolox"} | change))
    with pytest.raises(SettingError, match=rf"net\.json: describes no network .*{reason}"):
        read_description(file)


def test_networks_that_cannot_be_used_are_said(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no such file"):
        open_recogniser(str(tmp_path / "net.onnx"), "detection")
    path = save_constant(tmp_path / "net.onnx", (8, 8), np.zeros((1, 3, 7), np.float32))
    with pytest.raises(SettingError, match=r"no net\.json beside it .* none of .*yolox_nano"):
        find_description(path)
    how: dict[str, Any] = {"kind": "detection", "size": [8, 8], "decoding": "yolox", "strides": [8]}
    describe(path, **how, labels=["a", "b"])
    with pytest.raises(MeasurementError, match="a network for detection, not one for segmentation"):
        open_recogniser(str(path), "segmentation")
    with pytest.raises(MeasurementError, match="wanted 1 rows for its strides, gives 3"):
        open_recogniser(str(path), "detection").find_boxes(grey(8, 8))
    describe(path, **how | {"size": [16, 8]})
    with pytest.raises(MeasurementError, match="takes pictures of 8x8"):
        open_recogniser(str(path), "detection")
    path.write_bytes(b"no graph")
    describe(path, **how)
    with pytest.raises(MeasurementError, match="ONNX Runtime cannot load it"):
        open_recogniser(str(path), "detection")


def test_another_description_is_another_identity(tmp_path: Path) -> None:
    path = save_brightness(tmp_path / "net.onnx", (8, 8))
    how: dict[str, Any] = {"kind": "segmentation", "size": [8, 8], "decoding": "logits"}
    one = OnnxNetwork(describe(path, **how), "segmentation").identity
    assert OnnxNetwork(describe(path, **how), "segmentation").identity == one
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**how, "channels": "bgr"}))
    assert OnnxNetwork(path, "segmentation", other).identity != one
