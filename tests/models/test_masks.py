"""The masks of packed rows: what they allow, and that FlexAttention is told the same."""

import pytest
import torch

from llmkit.models import masks

SOURCE = torch.tensor([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 2, 2]])
TARGET = torch.tensor([[1, 1, 2, 2, 0], [1, 1, 2, 2, 2]])


def pairs(allowed, row, queries, keys):
    return [[bool(allowed[row, 0, q, k]) for k in range(keys)] for q in range(queries)]


def test_both_directions_inside_a_document_and_nothing_else():
    seen = masks.dense(masks.within(SOURCE, 6), 2, 6, 6, "cpu")
    for row in range(2):
        segments = SOURCE[row].tolist()
        assert pairs(seen, row, 6, 6) == [[a == b for b in segments] for a in segments]


def test_a_causal_token_sees_its_own_document_up_to_itself_and_nothing_else():
    seen = masks.dense(masks.within(SOURCE, 6, causal=True), 2, 6, 6, "cpu")
    for row, segments in enumerate(SOURCE.tolist()):
        wanted = [[k <= q and segments[q] == segments[k] for k in range(6)] for q in range(6)]
        assert pairs(seen, row, 6, 6) == wanted
    assert seen.any(-1).all()  # padding sees padding: no softmax is empty


def test_a_local_layer_reaches_as_far_to_both_sides():
    one = torch.ones(1, 9, dtype=torch.int32)
    seen = masks.dense(masks.within(one, 9, reach=2), 1, 9, 9, "cpu")
    assert pairs(seen, 0, 9, 9) == [[abs(q - k) <= 2 for k in range(9)] for q in range(9)]


def test_the_newest_queries_ask_as_they_would_in_the_whole_row():
    whole = masks.dense(masks.within(SOURCE, 6, causal=True, reach=1), 2, 6, 6, "cpu")
    newest = masks.dense(masks.within(SOURCE, 2, causal=True, reach=1), 2, 2, 6, "cpu")
    assert torch.equal(whole[:, :, 4:], newest)


def test_a_target_sees_its_own_source_alone_and_no_softmax_is_empty():
    seen = masks.dense(masks.across(TARGET, SOURCE), 2, 5, 6, "cpu")
    for row in range(2):
        wanted = [[t in (s, 0) for s in SOURCE[row].tolist()] for t in TARGET[row].tolist()]
        assert pairs(seen, row, 5, 6) == wanted
    assert seen.any(-1).all()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_computes_what_dense_masks_do():
    from torch.nn.attention.flex_attention import flex_attention

    generator = torch.Generator().manual_seed(1)
    segments = torch.ones(2, 160, dtype=torch.int32)
    segments[0, 70:], segments[1, 150:] = 2, 0
    q, k, v = (torch.randn(2, 2, 160, 8, generator=generator) for _ in range(3))
    rule = masks.within(segments, 160, reach=3)
    blocks = masks.blockwise(rule, 2, 160, 160, "cpu")
    dense = masks.dense(rule, 2, 160, 160, "cpu")
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=dense)
    torch.testing.assert_close(flex_attention(q, k, v, block_mask=blocks), plain, atol=1e-5, rtol=1e-5)


def test_blocks_between_documents_are_skipped():
    segments = torch.ones(1, 512, dtype=torch.int32)
    segments[:, 256:] = 2
    blocks = masks.blockwise(masks.within(segments, 512), 1, 512, 512, "cpu")
    assert blocks.sparsity() == 50.0
