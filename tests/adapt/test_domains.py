"""Domains: patches on the grid, and targets whose originals cannot be read."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainings import PICTURES
from unjpeg.adapt.domains import (
    Cutting,
    Patches,
    SourceDomain,
    TargetDomain,
    compress_all,
    join_alike,
    load_grey,
    turn,
    turn_stated,
)
from unjpeg.datasets import ImageFolder
from unjpeg.errors import TrainingDataError
from unjpeg.tables import STATED_FEATURES, stated_features
from unjpeg.train.data import ImageStore

cuttings = st.builds(
    Cutting,
    batch=st.integers(1, 4),
    patch=st.sampled_from([8, 16, 24]),
    grid=st.sampled_from([1, 8]),
    augment=st.booleans(),
    seed=st.integers(0, 1000),
)


@settings(deadline=None, max_examples=30)
@given(cuttings, st.integers(0, 10**6))
def test_a_batch_is_a_function_of_seed_and_step(cutting: Cutting, step: int) -> None:
    pictures = PICTURES[:3]
    numbered = [np.arange(x.size, dtype=np.int64).reshape(x.shape) for x in pictures]
    coded = [(n % 251).astype(np.uint8) for n in numbered]
    first, again = (SourceDomain(coded, pictures, cutting).batch(step) for _ in range(2))
    assert torch.equal(first.compressed, again.compressed)
    assert torch.equal(first.original, again.original)
    assert first.compressed.shape == (cutting.batch, 1, cutting.patch, cutting.patch)
    if not cutting.augment:  # both halves of a pair come from one place, and that place is on the grid
        for one, original in zip(first.compressed[:, 0].numpy(), first.original[:, 0].numpy(), strict=True):
            places = [
                (number, top, left)
                for number, picture in enumerate(pictures)
                for top in range(0, 49 - cutting.patch, cutting.grid)
                for left in range(0, 49 - cutting.patch, cutting.grid)
                if np.array_equal(picture[top : top + cutting.patch, left : left + cutting.patch], original)
            ]
            assert any(
                np.array_equal(coded[n][top : top + cutting.patch, left : left + cutting.patch], one)
                for n, top, left in places
            )


def test_all_eight_orientations_are_drawn() -> None:
    corner = np.zeros((8, 8), np.uint8)
    corner[0, 0], corner[0, 7] = 255, 100
    batch = TargetDomain([corner], Cutting(batch=200, patch=8)).batch(0).pixels
    assert len({patch.numpy().tobytes() for patch in batch}) == 8


def test_source_and_target_are_drawn_apart() -> None:
    cutting = Cutting(batch=8, patch=16)
    pair, alone = SourceDomain(PICTURES, PICTURES, cutting).batch(0), TargetDomain(PICTURES, cutting).batch(0).pixels
    assert not torch.equal(pair.original, alone)
    colour = [np.dstack([picture] * 3) for picture in PICTURES]
    of_colour = TargetDomain(colour, cutting).batch(0).pixels
    assert of_colour.shape == (8, 3, 16, 16)
    assert torch.equal(of_colour[:, :1], alone)


def test_what_is_stated_turns_with_the_picture() -> None:
    rng = np.random.default_rng(0)
    luma, chroma = (rng.integers(1, 100, (8, 8)) for _ in range(2))
    upright, lying = stated_features(luma, chroma, (1, 2)), stated_features(luma.T, chroma.T, (2, 1))
    for turns in range(4):
        np.testing.assert_array_equal(turn_stated(upright, turns), lying if turns % 2 else upright)
    pictures = [np.zeros((16, 16), np.uint8)]
    batch = TargetDomain(pictures, Cutting(8, 16), [upright]).batch(0)
    assert batch.stated is not None
    assert {row.numpy().tobytes() for row in batch.stated} == {upright.tobytes(), lying.tobytes()}
    with pytest.raises(ValueError, match="what its file states"):
        TargetDomain(pictures, Cutting(1, 16), [])


def test_compared_patches_are_told_alike() -> None:
    """That something is stated at all must not tell the domains apart."""
    source = Patches(torch.rand(4, 1, 8, 8), torch.ones(4, STATED_FEATURES))
    stated = torch.zeros(4, STATED_FEATURES)
    stated[1] = 0.5
    both = join_alike(source, Patches(torch.rand(4, 1, 8, 8), stated))
    assert both.stated is not None
    assert both.stated.any(dim=1).tolist() == [False, True, False, False] * 2
    assert torch.equal(both.stated[4:], stated)
    assert join_alike(source, Patches(torch.rand(4, 1, 8, 8))).stated is None


def test_domains_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="original of its own shape"):
        SourceDomain(PICTURES[:1], [PICTURES[0][:40]], Cutting(1, 8))
    with pytest.raises(TrainingDataError, match="smaller than the patch"):
        TargetDomain(PICTURES, Cutting(1, 64))
    with pytest.raises(TrainingDataError, match="without pictures"):
        TargetDomain([], Cutting(1, 8))


def test_grey_divides_each_side(image_folder: Path, tmp_path: Path) -> None:
    store = ImageStore(ImageFolder(image_folder).files(), tmp_path / "cache")
    sizes = [(height // 2, width // 2) for height, width in store.shapes]
    assert [picture.shape for picture in load_grey(store, divide=2, min_side=1)] == sizes
    assert [p.shape for p in load_grey(store, divide=2, min_side=36)] == [s for s in sizes if min(s) >= 36]
    with pytest.raises(TrainingDataError, match="600 pixels"):
        load_grey(store, divide=1, min_side=600)


def test_a_target_has_no_place_for_originals() -> None:
    """What a batch holds is what the compressed files hold, and all that the domain is made of."""
    pictures = compress_all(PICTURES[4:], 70)
    cutting = Cutting(40, 48)  # as large as the pictures: a patch is one of them, turned
    batch = TargetDomain(pictures, cutting).batch(0)
    assert type(batch) is Patches
    assert batch.stated is None
    known = {turn(p, turns, flip).tobytes() for p in pictures for turns in range(4) for flip in (False, True)}
    assert {patch.numpy().tobytes() for patch in batch.pixels[:, 0]} <= known
    assert list(inspect.signature(TargetDomain).parameters) == ["compressed", "cutting", "stated"]
    assert Patches._fields == ("pixels", "stated")
