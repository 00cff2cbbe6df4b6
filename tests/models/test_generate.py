"""Generation: the cache, padding and batching change no token; sampling follows its settings."""

import pytest
import torch

from llmkit.errors import ConfigError
from llmkit.models import generate as module
from llmkit.models.encdec import EncDec
from llmkit.models.encdec import Settings as TwoSided
from llmkit.models.generate import generate, stream
from tests.nets import random_net, wild

PROMPTS = [[1, 5, 6], [1, 9, 8, 7, 6, 5, 4, 3, 2], [1]]
SAMPLED = {"temperature": 1.0, "top_k": 50, "top_p": 0.9, "seed": 3}


@pytest.mark.parametrize("options", [{}, SAMPLED])
def test_the_cache_changes_no_token(options):
    net = random_net()
    assert generate(net, PROMPTS, 16, **options) == generate(net, PROMPTS, 16, cache=False, **options)


@pytest.mark.parametrize("options", [{}, SAMPLED])
def test_a_row_is_the_same_alone_and_beside_others(options):
    net = random_net()
    together = generate(net, PROMPTS, 12, **options)
    alone = [generate(net, [prompt], 12, keys=[i], **options)[0] for i, prompt in enumerate(PROMPTS)]
    assert together == alone


def test_padding_that_is_not_masked_would_change_the_reply(monkeypatch):
    net, real = random_net(), module.pad_left

    def unmasked(prompts):
        tokens, segments = real(prompts)
        return tokens, torch.ones_like(segments)

    right = generate(net, PROMPTS, 12)
    monkeypatch.setattr(module, "pad_left", unmasked)
    assert generate(net, PROMPTS, 12) != right


def test_hidden_states_do_not_depend_on_the_side_of_the_padding():
    net, text = random_net(), torch.tensor([[5, 6, 7, 8]])
    pad, one, none = torch.zeros(1, 3).long(), torch.ones(1, 4).int(), torch.zeros(1, 3).int()
    left = net.hidden(torch.cat([pad, text], 1), torch.cat([none, one], 1))[:, 3:]
    right = net.hidden(torch.cat([text, pad], 1), torch.cat([one, none], 1))[:, :4]
    torch.testing.assert_close(left, right)
    torch.testing.assert_close(left, net.hidden(text))


def test_a_prompt_may_be_read_in_pieces():
    net, tokens = random_net(), torch.tensor([[1, 9, 8, 7, 6, 5]])
    past = net.past(1, 6)
    pieces = [net.hidden(piece, None, past) for piece in tokens.split([3, 1, 2], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), net.hidden(tokens), atol=1e-5, rtol=1e-5)


def test_a_stop_token_ends_its_row_and_is_not_part_of_the_reply():
    net = random_net()
    free = generate(net, PROMPTS, 10)
    stop = free[1][4]
    stopped = generate(net, PROMPTS, 10, stop=[stop])
    cut = [reply[: reply.index(stop)] if stop in reply else reply for reply in free]
    assert stopped == cut


def test_rows_that_have_ended_yield_none():
    net = random_net()
    stop = generate(net, PROMPTS, 1)[0][0]
    first = next(iter(stream(net, PROMPTS, 4, stop=[stop])))
    assert first[0] is None


def test_the_seed_and_the_key_choose_the_stream():
    net, options = random_net(), {"temperature": 1.5}
    same = generate(net, [[1, 2]] * 2, 8, keys=[7, 7], **options)
    assert same[0] == same[1]
    assert same[0] != generate(net, [[1, 2]], 8, keys=[8], **options)[0]
    assert same[0] != generate(net, [[1, 2]], 8, keys=[7], seed=1, **options)[0]


def frequencies(logits, **settings):
    sampler = module._Sampler(**({"temperature": 1.0, "top_k": 0, "top_p": 1.0} | settings))
    uniform = (torch.arange(10000, dtype=torch.float64) + 0.5) / 10000
    chosen = sampler(torch.tensor(logits).expand(10000, -1), uniform)
    return (chosen.bincount(minlength=len(logits)) / 10000).tolist()


def test_samples_follow_the_softmax():
    assert frequencies([0.6931, 0.0, 1.3863]) == pytest.approx([2 / 7, 1 / 7, 4 / 7], abs=1e-3)


def test_temperature_sharpens():
    assert frequencies([0.6931, 0.0], temperature=0.5) == pytest.approx([0.8, 0.2], abs=1e-3)


def test_top_k_keeps_the_k_likeliest():
    assert frequencies([0.6931, 0.0, 1.3863], top_k=2) == pytest.approx([1 / 3, 0, 2 / 3], abs=1e-3)


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    assert frequencies([0.6931, 0.0, 1.3863], top_p=0.7) == pytest.approx([1 / 3, 0, 2 / 3], abs=1e-3)
    assert frequencies([0.6931, 0.0, 1.3863], top_p=0.1) == [0, 0, 1]


def test_generation_leaves_the_training_mode_as_it_was():
    net = random_net().train()
    generate(net, PROMPTS, 2)
    assert net.training


def test_an_empty_prompt_is_refused():
    with pytest.raises(ConfigError, match="begin it with the tokenizer's BOS"):
        generate(random_net(), [[1], []], 4)


@pytest.mark.parametrize("style", ["transformer", "t5", "bart"])
def test_an_encoder_decoder_writes_the_same_with_and_without_its_cache_and_neighbours(style):
    net = wild(EncDec(TwoSided(style=style, width=48, layers=2, heads=4, vocab_size=400, init_scale=2.0)))
    options = {"temperature": 1.0, "start": [3, 4]}
    cached = generate(net, PROMPTS, 12, **options)
    assert cached == generate(net, PROMPTS, 12, cache=False, **options)
    alone = [generate(net, [p], 12, keys=[i], **options)[0] for i, p in enumerate(PROMPTS)]
    assert cached == alone
    assert len({tuple(reply) for reply in cached}) > 1


def test_an_encoder_decoder_needs_a_start():
    net = wild(EncDec(TwoSided(width=32, layers=1, vocab_size=400)))
    with pytest.raises(ConfigError, match="give `start`"):
        generate(net, PROMPTS, 2)


@torch.no_grad()
@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("cache", [True, False])
def test_a_reader_goes_on_with_the_rows_that_are_kept(two_sided, cache):
    net = wild(EncDec(TwoSided(width=48, layers=2, vocab_size=400))) if two_sided else random_net()
    reader = module.Reader(net, PROMPTS[:2], 4, cache, start=[3])
    reader.step()
    reader.read(torch.tensor([7, 8]))
    rows = torch.tensor([1, 1, 0])
    expected = reader.step()
    again = module.Reader(net, PROMPTS[:2], 4, cache, start=[3])
    again.step()
    again.keep(rows)
    again.read(torch.tensor([8, 8, 7]))
    torch.testing.assert_close(again.step(), expected[rows], atol=1e-4, rtol=1e-4)


def test_a_prompt_of_several_rows_is_read_once_and_what_has_ended_no_more():
    net, sizes = random_net(), []
    prompts = [PROMPTS[1], PROMPTS[0], PROMPTS[1], PROMPTS[1]]
    alone = [generate(net, [prompt], 12, **SAMPLED, keys=[i])[0] for i, prompt in enumerate(prompts)]
    stop = [alone[0][2], alone[1][3], alone[3][4]]
    alone = [
        generate(net, [prompt], 12, **SAMPLED, stop=stop, keys=[i])[0] for i, prompt in enumerate(prompts)
    ]
    honest = net.hidden

    def hidden(tokens, *rest, **more):
        sizes.append(tuple(tokens.shape))
        return honest(tokens, *rest, **more)

    net.hidden = hidden
    assert generate(net, prompts, 12, **SAMPLED, stop=stop) == alone
    assert sizes[:2] == [(2, 9), (4, 1)]
    assert len(set(map(len, alone))) > 1
    assert sizes[-1][0] <= 2
