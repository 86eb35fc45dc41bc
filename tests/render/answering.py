"""An answerer without a network, which looks at the brightest view."""

import torch

from render.answering import MAX_TOKENS, Answer, ShownViews


class BrightestView:
    """Says which view is brightest, and the question."""

    image_size = 16
    max_views = 4

    def __init__(self, text: str = "", *, is_complete: bool = True) -> None:
        self.text, self.is_complete = text, is_complete
        self.asked: list[tuple[str, str, int]] = []

    def ask(self, views: ShownViews, question: str, situation: str = "", *, max_new_tokens: int = MAX_TOKENS) -> Answer:
        """Attention is the brightness of each half."""
        self.asked.append((question, situation, max_new_tokens))
        halves = torch.nn.functional.adaptive_avg_pool2d(views.images.mean(1), (1, 2)) + 1e-6
        brightest = int(halves.flatten(1).sum(1).argmax()) + 1
        return Answer(self.text or f"view {brightest}", self.is_complete, halves / halves.sum())
