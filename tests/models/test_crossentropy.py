"""The chunked cross-entropy against plain torch."""

import pytest
import torch
import torch.nn.functional as F

from llmkit.models.crossentropy import IGNORED, linear_cross_entropy, sparse


def problem(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(3, 7, 8, dtype=dtype, generator=generator).requires_grad_()
    weight = torch.randn(11, 8, dtype=dtype, generator=generator).requires_grad_()
    labels = torch.randint(0, 11, (3, 7), generator=generator)
    labels[0, 2:5] = IGNORED
    return hidden, weight, labels


def gradients(nll, *inputs):
    scale = torch.linspace(-1, 2, nll.numel()).view_as(nll)  # the upstream gradient differs by position
    return torch.autograd.grad((nll * scale).sum(), inputs)


@pytest.mark.parametrize("most", [11, 25, 50, 1 << 20])
def test_chunks_of_any_size_give_the_plain_loss_and_gradients(most):
    hidden, weight, labels = problem()
    plain = F.cross_entropy((hidden @ weight.T).flatten(0, 1), labels.flatten(), reduction="none").view(3, 7)
    chunked = linear_cross_entropy(hidden, weight, labels, most)
    assert chunked.dtype == torch.float32
    torch.testing.assert_close(chunked, plain.float())
    pairs = zip(gradients(chunked, hidden, weight), gradients(plain, hidden, weight), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("most", [25, 1 << 20])
def test_a_bias_of_the_logits_has_the_plain_gradient(most):
    hidden, weight, labels = problem()
    bias = torch.linspace(-2, 2, 11, dtype=torch.float64).requires_grad_()
    logits = hidden @ weight.T + bias
    plain = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(3, 7)
    chunked = linear_cross_entropy(hidden, weight, labels, most, bias)
    torch.testing.assert_close(chunked, plain.float())
    inputs = (hidden, weight, bias)
    for ours, theirs in zip(gradients(chunked, *inputs), gradients(plain, *inputs), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("most", [25, 1 << 20])
def test_capped_logits_have_the_plain_gradient(most):
    hidden, weight, labels = problem()
    logits = 1.5 * torch.tanh(hidden @ weight.T / 1.5)
    plain = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(3, 7)
    capped = linear_cross_entropy(hidden, weight, labels, most, cap=1.5)
    torch.testing.assert_close(capped, plain.float())
    pairs = zip(gradients(capped, hidden, weight), gradients(plain, hidden, weight), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("most", [25, 1 << 20])
def test_positions_without_a_label_cost_nothing_and_send_no_gradient(most):
    hidden, weight, labels = problem()
    nll = linear_cross_entropy(hidden, weight, labels, most)
    (grad,) = torch.autograd.grad(nll.sum(), hidden)
    assert (nll[labels == IGNORED] == 0).all()
    assert (grad[labels == IGNORED] == 0).all()
    assert (nll[labels != IGNORED] > 0).all()


def test_a_batch_of_padding_alone_has_loss_and_gradient_zero():
    hidden, weight, labels = problem()
    nll = linear_cross_entropy(hidden, weight, torch.full_like(labels, IGNORED), 25)
    assert nll.sum() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(nll.sum(), (hidden, weight)))


def test_under_autocast_chunks_agree_with_the_plain_path():
    hidden, weight, labels = problem(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        plain, chunked = (linear_cross_entropy(hidden, weight, labels, most) for most in (1 << 20, 25))
    torch.testing.assert_close(plain, chunked, atol=1e-5, rtol=1e-5)
    pairs = zip(gradients(chunked, hidden, weight), gradients(plain, hidden, weight), strict=True)
    for ours, theirs in pairs:
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, atol=5e-2, rtol=5e-2)


def test_never_more_than_the_allowed_logits_exist():
    hidden, weight, labels = problem()
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            nonlocal largest
            out = op(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.shape[-1:] == (11,) and out.shape != weight.T.shape:
                largest = max(largest, out.numel())
            return out

    with Watch():
        linear_cross_entropy(hidden, weight, labels, 25).sum().backward()
    assert 0 < largest <= 25


@pytest.mark.parametrize("most", [25, 1 << 20])
@pytest.mark.parametrize("labelled", [0, 1, 9])
def test_where_few_positions_have_a_label_the_others_change_nothing(labelled, most):
    hidden, weight, labels = problem()
    labels.view(-1)[torch.randperm(21, generator=torch.Generator().manual_seed(2))[labelled:]] = IGNORED
    assert sparse(labels)
    plain = F.cross_entropy((hidden @ weight.T).flatten(0, 1), labels.flatten(), reduction="none").view(3, 7)
    found = linear_cross_entropy(hidden, weight, labels, most)
    torch.testing.assert_close(found, plain.float())
    pairs = zip(gradients(found, hidden, weight), gradients(plain, hidden, weight), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
