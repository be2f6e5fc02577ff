"""Detection and segmentation on original, compressed and restored pictures, with networks that are trained here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner, Result

pytest.importorskip("skimage")
pytest.importorskip("torch")
pytest.importorskip("torchmetrics")
pytest.importorskip("transformers")
pytest.importorskip("faster_coco_eval")

import torch
import transformers
from faster_coco_eval import COCO, COCOeval_faster
from torchmetrics.functional.classification import multiclass_jaccard_index

from studies.downstream.checkpoints import Checkpoint
from studies.downstream.detection import Boxes, Detection, compute_mean_average_precision, match_boxes
from studies.downstream.labels import choose_colour, match_labels
from studies.downstream.masks import NOT_COUNTED, VOC_CLASSES, VocFolder
from studies.downstream.measure import app
from studies.downstream.segmentation import Segmentation
from unjpeg.errors import MeasurementError, SettingError, TrainingDataError
from unjpeg.evaluate.pairs import Pixels8

SIDE = 48
INKS = ((220, 40, 40), (40, 60, 220))
LABELS = {0: "Sofa", 1: "bird"}
"""What the detector calls a red square, and a blue one."""


def scene(rng: np.random.Generator) -> tuple[Pixels8, int, tuple[int, int, int]]:
    """A square of one of two colours on a grainy ground; its colour's number, and its left, top and side."""
    pixels = rng.integers(90, 150, (1, 1, 3)) + rng.normal(0, 6, (SIDE, SIDE, 3))
    kind, side = int(rng.integers(2)), 24
    top, left = (8 * rng.integers(0, (SIDE - side) // 8 + 1, 2)).tolist()
    pixels[top : top + side, left : left + side] = INKS[kind]
    return pixels.clip(0, 255).astype(np.uint8), kind, (left, top, side)


def as_input(scenes: Sequence[tuple[Pixels8, int, tuple[int, int, int]]]) -> Any:
    return torch.from_numpy(np.stack([pixels for pixels, _, _ in scenes])).permute(0, 3, 1, 2).float() / 127.5 - 1


def fit(network: Any, batch: Any, rate: float, steps: int) -> None:
    """Train with the network's own loss; ``batch`` makes its arguments."""
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        network(**batch()).loss.backward()
        optimizer.step()
        schedule.step()


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YOLOS with one query, trained for seconds."""
    folder = tmp_path_factory.mktemp("detector")
    config = transformers.YolosConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        image_size=[SIDE, SIDE],
        patch_size=8,
        num_detection_tokens=1,
        use_mid_position_embeddings=False,
        initializer_range=0.15,
        id2label=LABELS,
    )
    torch.manual_seed(0)
    network = transformers.YolosForObjectDetection(config)
    with torch.no_grad():
        for parameter in (network.vit.embeddings.position_embeddings, network.vit.embeddings.detection_tokens):
            parameter.normal_()  # they start at zero, and leave it slowly
    rng = np.random.default_rng(0)

    def batch() -> dict[str, Any]:
        scenes = [scene(rng) for _ in range(16)]
        labels = [
            {
                "class_labels": torch.tensor([kind]),
                "boxes": torch.tensor([[left + side / 2, top + side / 2, side, side]]) / SIDE,
            }
            for _, kind, (left, top, side) in scenes
        ]
        return {"pixel_values": as_input(scenes), "labels": labels}

    fit(network, batch, 3e-3, 250)
    network.save_pretrained(folder)
    transformers.YolosImageProcessorPil(
        size={"shortest_edge": SIDE, "longest_edge": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SegFormer, trained for seconds; it numbers its classes otherwise than the data set does."""
    folder = tmp_path_factory.mktemp("segmenter")
    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[16, 32],
        patch_sizes=[7, 3],
        strides=[2, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=32,
        id2label={0: "bird", 1: "couch", 2: "wall"},
    )
    torch.manual_seed(0)
    network = transformers.SegformerForSemanticSegmentation(config)
    rng = np.random.default_rng(0)

    def batch() -> dict[str, Any]:
        scenes = [scene(rng) for _ in range(8)]
        labels = torch.full((8, SIDE, SIDE), 2)
        for mask, (_, kind, (left, top, side)) in zip(labels, scenes, strict=True):
            mask[top : top + side, left : left + side] = 1 - kind
        return {"pixel_values": as_input(scenes), "labels": labels}

    fit(network, batch, 5e-3, 120)
    network.save_pretrained(folder)
    transformers.SegformerImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, of which one is broken, and ``boxes.json``."""
    folder = tmp_path_factory.mktemp("coco")
    rng = np.random.default_rng(100)
    images, annotations = [], []
    for number in range(12):
        pixels, kind, (left, top, side) = scene(rng)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        images.append({"id": 70 + number, "file_name": f"{number:02}.png"})
        annotations.append({"image_id": 70 + number, "category_id": (63, 16)[kind], "bbox": [left, top, side, side]})
    (folder / "05.png").write_bytes(b"broken")
    categories = [{"id": 16, "name": "bird"}, {"id": 63, "name": "couch"}, {"id": 1, "name": "person"}]
    record = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures with masks, the border of each not counted."""
    folder = tmp_path_factory.mktemp("voc")
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(200)
    for number in range(8):
        pixels, kind, (left, top, side) = scene(rng)
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{number}.jpg", quality=95, subsampling=0)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[top : top + side, left : left + side] = VOC_CLASSES.index(("sofa", "bird")[kind])
        mask[:, 0] = NOT_COUNTED
        indexed = Image.fromarray(mask)
        indexed.putpalette([channel for entry in range(256) for channel in choose_colour(entry)])
        indexed.save(folder / "SegmentationClass" / f"{number}.png")
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(map(str, range(8))))
    return folder


def command(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


# --- detection ----------------------------------------------------------------------------------------------------


def test_boxes_are_found_scored_and_drawn(detector: Path, coco: Path, tmp_path: Path) -> None:
    arguments: list[str | Path] = ["detection", detector, "--data", coco, "--annotations", coco / "boxes.json"]
    arguments += ["--method", "jpeg", "--method", "again=cp {input} {output.jpg}", "--quality", "1"]
    arguments += ["--work", tmp_path / "work", "--out", tmp_path / "out"]
    said = command(*arguments, code=1).stderr
    assert "05.png: left out" in said
    written = (tmp_path / "out" / "downstream-detection.json").read_text()
    record = json.loads(written)
    assert record["pictures"] == 11
    summary = record["summary"]
    original = summary["original"]["original"]
    assert original["map_50"] > 0.6
    assert 0.2 < original["map"] < original["map_50"]
    assert summary["jpeg-1"]["jpeg"]["map"] < original["map"] - 0.1
    assert summary["jpeg-1"]["again"]["gains"]["map"] == pytest.approx({"mean": 0, "low": 0, "high": 0}, abs=0.1)
    with Image.open(tmp_path / "work" / "detection.png") as sheet:
        assert sheet.width > 4 * SIDE
    command(*arguments, code=1)
    assert (tmp_path / "out" / "downstream-detection.json").read_text() == written


def test_a_second_run_does_not_look_again(
    detector: Path, coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from studies.downstream.task import measure_task
    from unjpeg.evaluate.methods import Decoder
    from unjpeg.evaluate.pairs import Degradation

    task = Detection(str(detector), coco, coco / "boxes.json")
    what = ([Degradation("jpeg", 20)], [Decoder()], tmp_path / "journal")
    record = measure_task(task, *what, limit=3)
    monkeypatch.setattr(Checkpoint, "find_boxes", lambda *_: pytest.fail("looked again"))
    assert measure_task(task, *what, limit=3) == record


def test_a_box_is_drawn_where_it_was_found(detector: Path, coco: Path) -> None:
    task = Detection(str(detector), coco, coco / "boxes.json")
    pixels, truth = task.load("03.png")
    left, top, side, _ = map(int, truth[0]["bbox"])
    right = np.asarray(task.draw_truth(pixels, truth))
    (edge,) = {tuple(pixel) for pixel in right[top + side, left + 1 : left + side].tolist()}
    assert max(edge) == 255
    assert np.array_equal(right[top + side + 1 :], pixels[top + side + 1 :])
    assert (np.asarray(task.draw(pixels)) != pixels).any()


def boxes(*given: tuple[float, ...], score: float | None = None) -> Boxes:
    """Left, top, width, height, category; with scores where they are found."""
    more: dict[str, Any] = {"iscrowd": 0, "area": 1.0} if score is None else {"score": score}
    return [{"bbox": list(box[:4]), "category_id": int(box[4]), **more} for box in given]


def score(*pictures: tuple[Boxes, Boxes]) -> dict[str, float]:
    return compute_mean_average_precision([match_boxes(found, right) for found, right in pictures])


def test_average_precision_of_cases_made_by_hand() -> None:
    right = boxes((0, 0, 10, 10, 3), (30, 30, 10, 10, 3))
    both = boxes((0, 0, 10, 10, 3), score=0.9) + boxes((30, 30, 10, 10, 3), score=0.8)
    assert score((both, right)) == pytest.approx({"map": 1, "map_50": 1})
    assert score(([], right)) == {"map": 0, "map_50": 0}
    # An overlap of 2/3 counts at 50, 55, 60 and 65 %.
    half_off = boxes((2, 0, 10, 10, 3), score=0.9) + boxes((32, 30, 10, 10, 3), score=0.8)
    assert score((half_off, right)) == pytest.approx({"map": 0.4, "map_50": 1})
    # One of two: precision 1 up to a recall of 0.5, which 51 of 101 points reach.
    one = boxes((0, 0, 10, 10, 3), score=0.9)
    assert score((one, right))["map_50"] == pytest.approx(51 / 101)
    # A false one, surer than both: precision 1/2, then 2/3; and 2/3 from the right for lower recalls.
    false = boxes((60, 60, 10, 10, 3), score=0.99)
    assert score((false + both, right))["map_50"] == pytest.approx(2 / 3)
    # Another picture's, of another category: the mean over both categories.
    other = (boxes((5, 5, 10, 10, 7), score=0.5), boxes((40, 5, 10, 10, 7)))
    assert score((both, right), other)["map_50"] == pytest.approx(0.5)
    # What occurs in no picture is not held against the network, and a crowd is neither right nor wrong.
    stranger = boxes((70, 70, 5, 5, 9), score=0.99)
    crowd = [{**box, "iscrowd": 1} for box in boxes((60, 60, 10, 10, 3))]
    assert score((false + both + stranger, right + crowd)) == pytest.approx({"map": 1, "map_50": 1})
    assert score((both, [])) == {"map": 0, "map_50": 0}


def score_by_reference(pictures: Sequence[tuple[Boxes, Boxes]]) -> dict[str, float]:
    categories = sorted({box["category_id"] for _, right in pictures for box in right if not box["iscrowd"]})
    found, truth = (
        [
            {**box, "image_id": number, "id": identity}
            for identity, (number, box) in enumerate(
                ((number, box) for number, picture in enumerate(pictures, 1) for box in picture[which]), 1
            )
            if box["category_id"] in categories
        ]
        for which in (0, 1)
    )
    images = [{"id": number} for number in range(1, len(pictures) + 1)]
    named = [{"id": category, "name": str(category)} for category in categories]
    right = COCO({"images": images, "categories": named, "annotations": truth})
    scorer = COCOeval_faster(right, right.loadRes(found), "bbox")
    scorer.params.areaRng, scorer.params.areaRngLbl = [[0, 1e10]], ["all"]
    scorer.params.maxDets = [100]
    scorer.evaluate()
    scorer.accumulate()
    precision = np.asarray(scorer.eval["precision"])
    known = precision[:, :, (precision[0, 0] > -1).all(axis=(1, 2))]
    return {"map": float(known.mean()), "map_50": float(known[0].mean())}


@pytest.mark.parametrize("seed", range(8))
def test_average_precision_is_coco_s(seed: int) -> None:
    """On crowded pictures with scores that repeat, crowds, boxes found twice, and more than a hundred of them."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(6):
        right, found = [], []
        for _ in range(rng.integers(0, 12)):
            box = np.concatenate([rng.uniform(0, 60, 2), rng.uniform(5, 30, 2)]).round(1)
            category, crowd = int(rng.integers(1, 4)), int(rng.random() < 0.15)
            area = float(box[2] * box[3])
            right.append({"bbox": box.tolist(), "category_id": category, "iscrowd": crowd, "area": area})
            for _ in range(rng.integers(0, 3) if rng.random() < 0.9 else 60):
                near = (box + rng.normal(0, 2, 4)).clip(1).round(1)
                found.append({"bbox": near.tolist(), "category_id": category, "score": float(rng.choice(20) / 20)})
        for _ in range(rng.integers(0, 6)):
            box = np.concatenate([rng.uniform(0, 60, 2), rng.uniform(5, 30, 2)])
            found.append({"bbox": box.tolist(), "category_id": int(rng.integers(1, 5)), "score": float(rng.random())})
        pictures.append((found, right))
    assert score(*pictures) == pytest.approx(score_by_reference(pictures), abs=1e-9)


def test_matches_come_back_from_the_journal(detector: Path, coco: Path) -> None:
    task = Detection(str(detector), coco, coco / "boxes.json")
    found = boxes((0, 0, 10, 10, 63), score=0.9) + boxes((1, 1, 10, 10, 63), score=0.7)
    right = [*boxes((0, 1, 10, 10, 63)), {**boxes((0, 0, 40, 40, 63))[0], "iscrowd": 1}]
    matches = match_boxes(found, right)
    again = task.from_json(json.loads(json.dumps(task.to_json(matches))))
    assert again.keys() == matches.keys() == {63}
    assert again[63].wanted == matches[63].wanted == 1
    for name in ("scores", "right", "counted"):
        assert np.array_equal(getattr(again[63], name), getattr(matches[63], name))


def test_annotations_that_are_none_are_said(tmp_path: Path, detector: Path) -> None:
    file = tmp_path / "boxes.json"
    good = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "bird"}]}
    for text in (
        "no json",
        "[]",
        "{}",
        json.dumps(good | {"annotations": [{"image_id": 2, "category_id": 1, "bbox": [0, 0, 1, 1]}]}),
        json.dumps(good | {"annotations": [{"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1]}]}),
        json.dumps(good | {"annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0]}]}),
    ):
        file.write_text(text)
        with pytest.raises(TrainingDataError, match="no annotations as COCO has them"):
            Detection(str(detector), tmp_path, file)
    file.write_text(json.dumps(good | {"categories": [{"id": 1, "name": "zebra"}]}))
    with pytest.raises(MeasurementError, match=r"none of the network's labels \(Sofa, bird, \.\.\.\)"):
        Detection(str(detector), tmp_path, file)


# --- segmentation -------------------------------------------------------------------------------------------------


def test_pixels_are_classed_scored_and_drawn(segmenter: Path, voc: Path, tmp_path: Path) -> None:
    arguments: list[str | Path] = ["segmentation", segmenter, "--data", voc, "--method", "jpeg", "--quality", "1"]
    command(*arguments, "--work", tmp_path / "work", "--out", tmp_path / "out", "--show", "4")
    record = json.loads((tmp_path / "out" / "downstream-segmentation.json").read_text())
    summary = record["summary"]
    assert summary["original"]["original"]["mean_iou"] > 0.8
    assert summary["jpeg-1"]["jpeg"]["mean_iou"] < summary["original"]["original"]["mean_iou"] - 0.03
    assert record["pictures"] == 8
    with Image.open(tmp_path / "work" / "segmentation.png") as sheet:
        assert sheet.height < 3 * SIDE  # one picture


def test_iou_is_that_of_all_pixels_together(segmenter: Path, voc: Path) -> None:
    task = Segmentation(str(segmenter), VocFolder(voc))
    everything = [(task.load(name)[1], task.examine(*task.load(name))) for name in task.list_names()]
    found = [task._find(task.load(name)[0]) for name in task.list_names()]
    expected = multiclass_jaccard_index(
        torch.from_numpy(np.stack(found)),
        torch.from_numpy(np.stack([truth for truth, _ in everything])),
        num_classes=len(VOC_CLASSES),
        ignore_index=NOT_COUNTED,
    )
    counts = [task.from_json(json.loads(json.dumps(task.to_json(counts)))) for _, counts in everything]
    assert task.summarise(counts)["mean_iou"] == pytest.approx(float(expected), abs=1e-6)
    assert sum(int(each.sum()) for each in counts) == 8 * SIDE * (SIDE - 1)
    nothing = np.zeros_like(counts[0])
    assert task.summarise([nothing]) == {"mean_iou": 0}
    # 6 of 8 background pixels right, 2 called class 1: 6/8 and 0.
    by_hand = nothing.copy()
    by_hand[0, :2] = 6, 2
    assert task.summarise([by_hand]) == {"mean_iou": 0.375}


def test_classes_lie_over_the_picture(segmenter: Path, voc: Path) -> None:
    task = Segmentation(str(segmenter), VocFolder(voc))
    pixels, mask = task.load("2")
    drawn = np.asarray(task.draw_truth(pixels, mask)).astype(int)
    (number,) = set(np.unique(mask)) - {0, NOT_COUNTED}
    below = slice(20, None)  # its name stands above
    inside, outside = drawn[below][mask[below] == number], drawn[below][mask[below] == 0]
    assert (outside == outside[:, :1]).all()  # grey
    strongest, weakest = np.argmax(choose_colour(number)), np.argmin(choose_colour(number))
    assert (inside[:, strongest] > inside[:, weakest] + 30).all()


@pytest.mark.parametrize("case", ["no list", "no mask", "other size", "strange class"])
def test_a_folder_that_is_not_voc_s_is_said(case: str, segmenter: Path, voc: Path, tmp_path: Path) -> None:
    shutil.copytree(voc, tmp_path, dirs_exist_ok=True)
    mask = tmp_path / "SegmentationClass" / "1.png"
    wrong: NDArray[np.uint8] = np.full((SIDE, SIDE), 77, np.uint8)
    if case == "no list":
        (tmp_path / "ImageSets" / "Segmentation" / "val.txt").unlink()
    elif case == "no mask":
        mask.unlink()
    else:
        Image.fromarray(wrong[1:] if case == "other size" else wrong).save(mask)
    with pytest.raises(TrainingDataError, match=str(tmp_path)):
        Segmentation(str(segmenter), VocFolder(tmp_path)).load("1")


def test_a_folder_may_have_classes_of_its_own(segmenter: Path, voc: Path, tmp_path: Path) -> None:
    shutil.copytree(voc, tmp_path, dirs_exist_ok=True)
    (tmp_path / "labels.txt").write_text("\n".join(VOC_CLASSES[:19]))
    assert (
        len(
            Segmentation(str(segmenter), VocFolder(tmp_path)).examine(
                *Segmentation(str(segmenter), VocFolder(voc)).load("0")
            )
        )
        == 19
    )


# --- networks -----------------------------------------------------------------------------------------------------


def test_labels_are_matched_by_name() -> None:
    voc = dict(enumerate(VOC_CLASSES))
    assert match_labels({0: "N/A", 5: "Airplane", 7: "dining table", 8: "TV", 9: "zebra"}, voc) == {
        5: 1,
        7: 11,
        8: 20,
    }
    assert match_labels({0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, {1: "cat", 2: "dog"}) == {1: 1, 2: 2}
    with pytest.raises(MeasurementError, match="is a category of the data set"):
        match_labels({0: "zebra"}, voc)


def test_colours_are_voc_s() -> None:
    assert [choose_colour(number) for number in (0, 1, 15, 255)] == [
        (0, 0, 0),
        (128, 0, 0),
        (192, 128, 128),
        (224, 224, 192),
    ]


def test_networks_that_cannot_be_used_are_said(detector: Path, segmenter: Path, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="no network for detection can be loaded"):
        Checkpoint(str(tmp_path), "detection")
    for nowhere in ("nobody/has-this", str(tmp_path / "nothing")):
        with pytest.raises(SettingError, match="no such folder, nor anything of that name in the library's cache"):
            Checkpoint(nowhere, "detection")
    with pytest.raises(MeasurementError, match="a network of type segformer, not one for detection"):
        Checkpoint(str(segmenter), "detection")
    with pytest.raises(MeasurementError, match="a network of type yolos, not one for segmentation"):
        Checkpoint(str(detector), "segmentation")


def test_weights_of_another_task_are_no_network(segmenter: Path, tmp_path: Path) -> None:
    """The library would fill in what lacks with random numbers."""
    config = transformers.AutoConfig.from_pretrained(segmenter)
    transformers.SegformerForImageClassification(config).save_pretrained(tmp_path)
    transformers.SegformerImageProcessorPil().save_pretrained(tmp_path)
    with pytest.raises(MeasurementError, match="holds no weights for segmentation"):
        Checkpoint(str(tmp_path), "segmentation")


def test_no_pickle_is_loaded(detector: Path, tmp_path: Path) -> None:
    shutil.copytree(detector, tmp_path / "network")
    state = transformers.YolosForObjectDetection.from_pretrained(detector).state_dict()
    (tmp_path / "network" / "model.safetensors").unlink()
    torch.save(state, tmp_path / "network" / "pytorch_model.bin")
    with pytest.raises(MeasurementError, match="safetensors"):
        Checkpoint(str(tmp_path / "network"), "detection")


def test_another_network_is_another_identity(detector: Path, tmp_path: Path) -> None:
    one = Checkpoint(str(detector), "detection")
    assert Checkpoint(str(detector), "detection").identity == one.identity
    network: Any = transformers.YolosForObjectDetection.from_pretrained(detector)
    with torch.no_grad():
        network.bbox_predictor.layers[0].bias[0] += 1e-3
    network.save_pretrained(tmp_path)
    shutil.copy(detector / "preprocessor_config.json", tmp_path)
    assert Checkpoint(str(tmp_path), "detection").identity != one.identity


def test_help_names_the_extra() -> None:
    for name in ("detection", "segmentation"):
        assert "unjpeg[downstream]" in " ".join(command(name, "--help").stdout.split())
