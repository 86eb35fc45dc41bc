"""The page's question box: an answer, and which of the scene's views it was read from."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import viser

from data.scene import PosedScene
from data.seeds import evenly_spread
from geometry import InputError, require
from render.answering import Answer, Answerer, ShownViews, attention_picture, described, views_of_scene
from render.source_pool import SourcePool

_WAITING = "..."
_LONGEST = 2000
"""Characters of a question: visitors may send megabytes, which would keep all others waiting."""


@dataclass(frozen=True)
class Asking:
    """What all visitors' question boxes share; one question is answered at a time."""

    answerer: Answerer
    views: ShownViews
    indices: tuple[int, ...]
    """In the pool, of each view."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def about(cls, scene: PosedScene, pool: SourcePool, answerer: Answerer, num_views: int) -> "Asking":
        """Source views of the scene, evenly spread.

        Raises:
            InputError: for fewer than 1 view, more than the network has codes for, or an image that cannot be read.
        """
        require(
            1 <= num_views <= answerer.max_views,
            f"--qa_views: expected 1 to {answerer.max_views}, which the network has codes for, got {num_views}",
        )
        chosen = evenly_spread(sorted(pool.ids), num_views)
        shown = views_of_scene(scene, answerer.image_size, num_views, view_ids=chosen)
        return cls(answerer, shown, tuple(pool.ids.index(view) for view in chosen))

    def answer(self, question: str) -> Answer:
        """Waits for the questions of others.

        Raises:
            InputError: for a question of more than 2000 characters, and as the answerer.
        """
        require(len(question) <= _LONGEST, f"expected a question of at most {_LONGEST} characters, got {len(question)}")
        with self.lock:
            return self.answerer.ask(self.views, question)


class QuestionBox:
    """Controls of one visitor; `highlight` marks a view of the pool, None: no more."""

    def __init__(
        self,
        gui: viser.GuiApi,
        asking: Asking,
        highlight: Callable[[int | None], None],
        go_to: Callable[[int], None],
    ) -> None:
        self._gui, self._asking, self._highlight, self._go_to = gui, asking, highlight, go_to
        self._found: int | None = None
        self._picture: viser.GuiImageHandle | None = None
        with gui.add_folder("Questions"):
            self.question = gui.add_text("Question", "", hint=f"about {len(asking.indices)} of the source views")
            self.button = gui.add_button("Ask")
            self.answer = gui.add_markdown("")
            self.visit = gui.add_button("Go to the view", hint="the one that most of the answer was read from")
            self._folder = gui.add_folder("Where it was read")
        self.visit.disabled = True
        self.button.on_click(lambda _: self.ask())
        self.visit.on_click(lambda _: None if self._found is None else self._go_to(self._found))

    def ask(self) -> None:
        """Answer what stands in the box."""
        self.button.disabled = True
        self.answer.content = _WAITING
        try:
            self._show(self._asking.answer(self.question.value))
        except InputError as error:
            self.answer.content = str(error)
            self._mark(None)
        finally:
            self.button.disabled = False

    def _show(self, answer: Answer) -> None:
        view = self._asking.views.names[answer.view]
        self.answer.content = f"**{answer.text or '(nothing)'}**  \nmostly from view {view}; {described(answer)}"
        picture = attention_picture(self._asking.views, answer)
        if self._picture is None:
            with self._folder:
                self._picture = self._gui.add_image(picture, format="jpeg")
        else:
            self._picture.image = picture
        self._mark(self._asking.indices[answer.view])

    def _mark(self, index: int | None) -> None:
        self._found = index
        self.visit.disabled = index is None
        self._highlight(index)
