"""The question box of the page, on a real server without a visitor."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import viser

from data.readers.blendedmvs import read_blendedmvs
from geometry import InputError
from render.answering import Answer, ShownViews
from render.source_pool import SourcePool
from render.viewer.options import ViewerOptions
from render.viewer.page import Page
from render.viewer.questions import Asking, QuestionBox
from tests.data.tiny_scenes import write_blendedmvs
from tests.render.answering import BrightestView


@pytest.fixture(scope="module")
def gui() -> Iterator[viser.GuiApi]:
    with contextlib.redirect_stdout(io.StringIO()):
        server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
        yield server.gui
        server.stop()


class Silent(BrightestView):
    """Refuses empty questions, as the network does."""

    def ask(self, views: ShownViews, question: str, situation: str = "", *, max_new_tokens: int = 1) -> Answer:
        if not question:
            raise InputError("question: expected text, got none")
        return super().ask(views, question, situation, max_new_tokens=max_new_tokens)


def test_an_answer_marks_its_view(gui: viser.GuiApi):
    images = torch.stack([torch.full((3, 16, 16), level) for level in (0.1, 0.9, 0.2)])
    asking = Asking(Silent(), ShownViews(images, None, ("24", "32", "44")), (5, 7, 9))
    marked: list[int | None] = []
    visited: list[int] = []
    box = QuestionBox(gui, asking, marked.append, visited.append)
    assert box.visit.disabled
    box.question.value = "Which is bright?"
    box.ask()
    assert box.answer.content.startswith("**view 2**  \nmostly from view 32; read of view 1 8 %, view 2 75 %")
    assert (marked, box.visit.disabled, box.button.disabled) == ([7], False, False)
    before = box._picture
    box.ask()
    assert box._picture is before
    box.question.value = ""
    box.ask()
    assert box.answer.content == "question: expected text, got none"
    assert marked == [7, 7, None]
    assert box.visit.disabled
    box.question.value = "why " * 1000
    box.ask()
    assert box.answer.content == "expected a question of at most 2000 characters, got 4000"


def test_the_frustum_of_the_view_changes_its_color():
    page = Page.__new__(Page)
    page._frustum_handles = [SimpleNamespace(color=None) for _ in range(3)]
    page._highlight(1)
    colors = [handle.color for handle in page._frustum_handles]
    assert colors[0] == colors[2] != colors[1]
    page._highlight(None)
    assert {handle.color for handle in page._frustum_handles} == {colors[0]}


def test_source_views_are_spread_evenly(tmp_path: Path):
    write_blendedmvs(tmp_path / "hall")
    (scene,) = read_blendedmvs(tmp_path, split="all")
    pool = SourcePool.of(scene, [5, 1, 3, 2], 1.0)
    asking = Asking.about(scene, pool, BrightestView(), 2)
    assert asking.views.names == ("1", "3")
    assert [pool.ids[index] for index in asking.indices] == [1, 3]
    assert asking.views.geometry is not None
    with pytest.raises(InputError, match="--qa_views: expected 1 to 4"):
        Asking.about(scene, pool, BrightestView(), 5)


def test_options_of_questions_need_weights(tmp_path: Path):
    with pytest.raises(InputError, match="--qa_vggt_ckpt: expected --qa_ckpt beside it"):
        ViewerOptions(watch=str(tmp_path), datadir="d", qa_vggt_ckpt="v")
