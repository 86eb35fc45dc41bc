"""A description in the places of visual embeddings: what a language model reads there when it learns from text alone,
and what the Perceiver can be made to write there, all words at once.

A description is "view 1: red ball, blue box; view 2: ...". Each item has a place of its own that holds all its words
and those before the colon at once, as a sum of word embeddings: a visual embedding tells of a thing, not of a word.
Each part has a fixed share of the places, so that what stands in one does not depend on how long the others are; one
more share is left to the Perceiver. It is a captioner without autoregression whose output layer is the language model's
own table of words (compare Frozen, Tsimpoukelli et al. 2021, where the words' gradient passes the language model).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from models.vqa.prompt import END_OF_TEXT, IGNORED, Tokenizer

SEPARATOR, COLON, COMMA = "; ", ": ", ", "
"""Between the parts of a description, its head and its items, and its items."""
_SHARPNESS = 16.0
"""Factor on the cosine of an embedding and the words: the sum of four words of 420 gives each 24 %. Chosen by hand."""

Bags = Int[Tensor, "batch place word"]


def spelled(tokenizer: Tokenizer, description: str, num_places: int) -> list[list[int]]:
    """Ids of the words in each of the first places; one that is empty holds the end of text.

    Items that are too many for the share of their part are left out.
    """
    parts = description.split(SEPARATOR)
    share = num_places // (len(parts) + 1)
    empty = tokenizer.special(END_OF_TEXT)
    places: list[list[int]] = []
    for part in parts:
        head, _, rest = part.rpartition(COLON)
        items = [tokenizer.encode(f"{head} {item}" if head else item) for item in rest.split(COMMA)][:share]
        places += [*items, *[[empty]] * (share - len(items))]
    return places


def spelled_rows(tokenizer: Tokenizer, descriptions: Sequence[str], num_places: int) -> Bags:
    """`spelled` of each description, filled up with -100; "" has no words."""
    rows = [spelled(tokenizer, one, num_places) if one else [] for one in descriptions]
    width = max((len(bag) for row in rows for bag in row), default=0)
    bags = torch.full((len(rows), max(map(len, rows), default=0), width), IGNORED)
    for row, places in enumerate(rows):
        for place, bag in enumerate(places):
            bags[row, place, : len(bag)] = torch.tensor(bag)
    return bags


def written(words: Float[Tensor, "vocabulary dim"], bags: Bags) -> Float[Tensor, "batch place dim"]:
    """Embeddings of places: sums of their words over the root of their number, so that they have the size of words."""
    is_word = bags != IGNORED
    embedded = words[bags.clamp(min=0)] * is_word[..., None]
    return embedded.sum(2) / is_word.sum(2, keepdim=True).clamp(min=1).sqrt()


def spelling_losses(
    visual: Float[Tensor, "batch visual dim"], words: Float[Tensor, "vocabulary dim"], bags: Bags
) -> Float[Tensor, " batch"]:
    """Mean negative log-likelihood, nats, of the words in the first places, by the cosine of embeddings and words.

    0 for rows without words. What a place cannot say less than is the logarithm of the number of its words.
    """
    table = F.normalize(words.float(), dim=-1)
    logits = _SHARPNESS * F.normalize(visual[:, : bags.shape[1]].float(), dim=-1) @ table.T
    is_word = bags != IGNORED
    each = -logits.log_softmax(-1).gather(2, bags.clamp(min=0)) * is_word
    of_place = each.sum(2) / is_word.sum(2).clamp(min=1)
    return of_place.sum(1) / is_word.any(2).sum(1).clamp(min=1)
