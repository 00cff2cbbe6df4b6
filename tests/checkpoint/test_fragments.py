"""Any split of the tensors reads any other; what does not fit is listed before anything is written."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from llmkit.checkpoint import fragments
from llmkit.checkpoint.fragments import Reader
from llmkit.errors import CheckpointError
from llmkit.objectives.phase import keyed

SHAPES = {"g/w": (5, 7), "g/b": (3,), "d/w": (2, 3, 4), "d/scalar": ()}
KINDS = ("param", "exp_avg", "ema")


def whole():
    """{(name, kind): flat tensor} of two nets."""
    return {
        (name, kind): torch.randn(torch.Size(shape).numel(), generator=keyed(name, kind))
        for name, shape in SHAPES.items()
        for kind in KINDS
    }


def pieces(tensors, cuts):
    """One list of pieces per rank; rank r has cuts[r] to cuts[r + 1] of every tensor, in 10000ths."""
    ranks = []
    for low, high in zip(cuts, cuts[1:]):
        own = []
        for name, shape in SHAPES.items():
            numel = torch.Size(shape).numel()
            a, b = low * numel // 10_000, high * numel // 10_000
            if a < b:
                own.append((name, shape, a, {kind: tensors[name, kind][a:b] for kind in KINDS}))
        ranks.append(own)
    return ranks


def written(folder, ranks):
    for rank, own in enumerate(ranks):
        fragments.write(folder, rank, own)
    fragments.write_index(folder)
    return Reader(folder)


SPLITS = [(0, 10_000), (0, 5_000, 10_000), (0, 1, 3_333, 9_999, 10_000), (0, 4_000, 4_000, 10_000)]


@pytest.mark.parametrize("wrote", SPLITS)
@pytest.mark.parametrize("reads", SPLITS)
def test_any_split_reads_any_other_bit_for_bit(tmp_path, wrote, reads):
    tensors = whole()
    reader = written(tmp_path, pieces(tensors, wrote))
    empty = {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}
    for own in pieces(empty, reads):
        reader.into(own)
    assert all(torch.equal(empty[key], tensors[key]) for key in tensors)


def test_whole_tensors_come_without_any_engine(tmp_path):
    tensors = whole()
    reader = written(tmp_path, pieces(tensors, (0, 5_000, 10_000)))
    assert reader.nets() == ["d", "g"]
    assert reader.kinds("g") == ["ema", "exp_avg"]
    found = reader.whole("d", "ema")
    assert set(found) == {"w", "scalar"}
    assert torch.equal(found["w"], tensors["d/w", "ema"].view(2, 3, 4))


def test_the_files_are_plain_safetensors(tmp_path):
    tensors = whole()
    written(tmp_path, pieces(tensors, (0, 10_000)))
    file = load_file(tmp_path / "rank_00000.safetensors")
    assert torch.equal(file["g/w|param|0"], tensors["g/w", "param"])
    assert len(file) == len(tensors)


def test_low_precision_is_stored_wide_and_comes_back_as_it_was(tmp_path):
    weight = torch.randn(9).bfloat16()
    reader = written(tmp_path, [[("m/w", (9,), 0, {"param": weight})]])
    assert reader.whole("m")["w"].dtype == torch.float32
    back = torch.zeros_like(weight)
    reader.into([("m/w", (9,), 0, {"param": back})])
    assert torch.equal(back, weight)


def test_persistent_buffers_travel_in_their_own_type(tmp_path):
    norm = nn.BatchNorm1d(3)
    norm.num_batches_tracked += 5
    norm.register_buffer("scratch", torch.ones(2), persistent=False)
    reader = written(tmp_path, [list(fragments.of_net("m", fragments.buffers(norm)))])
    other = nn.BatchNorm1d(3)
    reader.into(fragments.of_net("m", fragments.buffers(other)))
    assert int(other.num_batches_tracked) == 5
    assert set(reader.whole("m", "buffer")) == {"running_mean", "running_var", "num_batches_tracked"}


def test_a_hole_or_an_overlap_is_found_when_the_index_is_made(tmp_path):
    tensors = whole()
    first, last = pieces(tensors, (0, 4_000, 10_000))
    fragments.write(tmp_path, 0, first)
    with pytest.raises(CheckpointError, match=r"g/w \(param\): elements 14 to 35 are missing"):
        fragments.write_index(tmp_path)
    fragments.write(tmp_path, 1, pieces(tensors, (0, 10_000))[0])
    with pytest.raises(CheckpointError, match="are there twice"):
        fragments.write_index(tmp_path)
    fragments.write(tmp_path, 1, last)
    assert fragments.write_index(tmp_path) == "index.json"


def test_an_index_that_lies_about_its_ranges_is_refused(tmp_path):
    written(tmp_path, pieces(whole(), (0, 10_000)))
    index = json.loads((tmp_path / "index.json").read_text())
    index["tensors"]["g/w"]["kinds"]["param"]["ranges"] = [[0, 34, 0]]
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"g/w \(param\): elements 34 to 35 are missing"):
        Reader(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 9}', '{"format": 1, "files": 3, "tensors": [1]}']
)
def test_an_index_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        Reader(tmp_path)


MISFITS = {
    "missing": ({"new": (4,)}, torch.float32, "g/new (param): expected [4] F32, found none"),
    "transposed": ({"w": (7, 5)}, torch.float32, "g/w (param): expected [7, 5] F32, found [5, 7] F32"),
    "integers": ({"w": (5, 7)}, torch.int64, "g/w (param): expected [5, 7] I64, found [5, 7] F32"),
    "left over": ({"w": (5, 7)}, torch.float32, "g/b: the run has no such tensor, found [3]"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_named_with_shapes_and_types(tmp_path, case):
    shapes, dtype, said = MISFITS[case]
    reader = written(tmp_path, pieces(whole(), (0, 10_000)))
    views = [
        (f"g/{name}", shape, 0, {"param": torch.zeros(torch.Size(shape).numel(), dtype=dtype)})
        for name, shape in shapes.items()
    ]
    with pytest.raises(CheckpointError) as caught:
        reader.into(views, {f"g/{name}": shape for name, shape in shapes.items()})
    assert said in str(caught.value)


def test_all_misfits_stand_in_one_error_and_nothing_is_loaded(tmp_path):
    reader = written(tmp_path, pieces(whole(), (0, 10_000)))
    fits, wrong, new = torch.zeros(35), torch.zeros(4), torch.zeros(2)
    views = [
        ("g/w", (5, 7), 0, {"param": fits}),
        ("g/b", (4,), 0, {"param": wrong}),
        ("g/n", (2,), 0, {"param": new}),
    ]
    with pytest.raises(CheckpointError, match="does not fit the run in 2 tensors") as caught:
        reader.into(views)
    assert "g/b" in str(caught.value)
    assert "g/n" in str(caught.value)
    assert not fits.any()


def test_only_the_wanted_kinds_are_read(tmp_path):
    tensors = whole()
    reader = written(tmp_path, pieces(tensors, (0, 10_000)))
    weight, average = torch.zeros(35), torch.zeros(35)
    reader.into([("g/w", (5, 7), 0, {"param": weight, "ema": average})], kinds=("param",))
    assert torch.equal(weight, tensors["g/w", "param"])
    assert not average.any()
