"""VGGT's tokens as an addend to a feature map."""

import torch

from models.nerf.token_context import TokenContext, trusted


def test_layers_are_summed_and_tokens_tile_the_map() -> None:
    """A token that alone is not zero shows in its quarter of the map; layers add up."""
    context = TokenContext(2, 6, 4)
    tokens = torch.zeros(1, 2, 6, 2, 2)
    nothing = context(tokens, (16, 16))
    tokens[0, 1, :, 0, 1] = torch.randn(6)
    change = (context(tokens, (16, 16)) - nothing).abs().amax(1)[0]
    assert change[:4, 12:].min() > 0
    both = tokens.clone()
    both[0, 0] = tokens[0, 1]
    assert not torch.equal(context(both, (16, 16)), context(tokens, (16, 16)))


def test_what_is_not_trusted_is_zero() -> None:
    values = torch.randn(3, 4, 2, 2)
    found = trusted(values, (4, 6), torch.tensor([0.0, 0.5, 1.0]))
    assert not found[0].any()
    torch.testing.assert_close(
        found[1:], trusted(values, (4, 6), None)[1:] * torch.tensor([0.5, 1.0])[:, None, None, None]
    )


def test_a_context_that_says_nothing_learns_from_the_first_step_on() -> None:
    context = TokenContext(2, 6, 4)
    context.say_nothing()
    added = context(torch.randn(2, 2, 6, 3, 3), (6, 6))
    assert not added.any()
    added.sum().backward()
    assert context.out.weight.grad.abs().max() > 0
    assert all(parameter.grad is not None for parameter in context.parameters())
