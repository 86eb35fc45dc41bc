"""A toy language model that has read about rooms but seen none: `python -m benchmarks.vqa_language`.

It stands for what a pretrained language model knows: from descriptions of rooms, in the places where an image would be,
it learns to answer questions about them, with all its weights and from text alone. Rooms are drawn, none is rendered,
and none of them is one that images are trained or tested on. Part of the questions come without any description.
"""

import argparse
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.scene_qa.sources import RoomSource
from data.scene_qa.types import QARecord
from data.seeds import derived_seed
from geometry.errors import one_line_errors, require
from models.vqa.language import LanguageModel, load_language
from models.vqa.network import token_losses
from models.vqa.prompt import PromptBuilder, TextRows
from models.vqa.spelling import spelled_rows, written
from training.files import staged_folder

_TEXT_STREAM = 97
"""Keeps rooms that are read about apart from rooms that are seen, for every seed."""
_BLIND = 0.15
"""Share of questions without description."""
_NOISE = 0.2
"""Standard deviation of noise on the words of a description, in units of their own size: visual embeddings are no exact
words either. Chosen by hand."""
_COPIED = 0.3
"""Share of whole descriptions to write down: each of their words is one to learn from."""
_POOL = 16
"""Batches that are drawn together and cut by length, so that little is padded."""


@dataclass(frozen=True)
class TextSample:
    """A question, its answer and what is said about the room."""

    record: QARecord
    description: str


def text_samples(seed: int, rooms: int, first: int = 0) -> list[list[TextSample]]:
    """Questions and captions of rooms, room by room."""
    source = RoomSource(derived_seed(seed, _TEXT_STREAM), first, rooms, 8, kinds=("questions", "captions"))
    by_room: dict[str, list[QARecord]] = {}
    for record in source.records:
        by_room.setdefault(record.scene, []).append(record)
    found = []
    for records in by_room.values():
        description = next(one.answers[0] for one in records if one.task == "caption")
        found.append([TextSample(record, description) for record in records])
    return found


class Reader:
    """A language model and how descriptions are shown to it."""

    def __init__(self, language: LanguageModel, num_visual: int, num_geometry: int) -> None:
        """`num_visual` placeholders, of which the first `num_geometry` stay empty."""
        self.language, self.num_geometry = language, num_geometry
        self.device = language.inner.get_input_embeddings().weight.device
        self.prompts = PromptBuilder(language.codec, "chat", num_visual, 512)

    def embedded(self, rows: TextRows, descriptions: list[str], noise: torch.Generator | None) -> Tensor:
        """Word embeddings, with those of the descriptions in the places of visual ones; "" leaves zeros there."""
        words = self.language.embed(rows.input_ids).masked_fill(rows.visual[..., None], 0.0)
        starts = rows.visual.long().argmax(1) + self.num_geometry
        num_places = self.prompts.num_visual - self.num_geometry
        bags = spelled_rows(self.language.codec, descriptions, num_places).to(self.device)
        places = written(self.language.inner.get_input_embeddings().weight, bags)
        if noise is not None:
            size = places.detach().square().mean(-1, keepdim=True).sqrt()
            places = places + _NOISE * size * torch.randn(places.shape, generator=noise, device=self.device)
        positions = starts[:, None] + torch.arange(places.shape[1], device=self.device)
        is_described = torch.tensor([bool(one) for one in descriptions], device=self.device)
        shown = torch.zeros_like(rows.visual).scatter(1, positions, is_described[:, None].expand_as(positions))
        return torch.where(
            shown[..., None], torch.zeros_like(words).scatter(1, positions[..., None].expand_as(places), places), words
        )

    def accuracy(self, rooms: list[list[TextSample]], *, is_blind: bool) -> dict[str, float]:
        """Share of exact answers by task, with descriptions or without."""
        found: dict[str, list[float]] = {}
        samples = [sample for room in rooms for sample in room]
        for first in range(0, len(samples), 128):
            part = samples[first : first + 128]
            rows = self.rows(part)
            with torch.no_grad():
                embeddings = self.embedded(rows, ["" if is_blind else one.description for one in part], None)
                losses = token_losses(self.language, embeddings, rows)
            for sample, is_exact in zip(part, losses.is_exact.tolist(), strict=True):
                found.setdefault(sample.record.task, []).append(float(is_exact))
        return {task: sum(values) / len(values) for task, values in sorted(found.items())}

    def rows(self, samples: list[TextSample]) -> TextRows:
        """Of training."""
        questions, answers = ([one.record.question for one in samples], [one.record.answers[0] for one in samples])
        return self.prompts.training(questions, answers).to(self.device)


def pretrain(
    reader: Reader, rooms: list[list[TextSample]], *, steps: int, batch: int, lrate: float, seed: int, log_every: int
) -> None:
    """All weights, AdamW, one cycle; a line every `log_every` steps."""
    language = reader.language.train()
    language.requires_grad_(True)
    parameters = [parameter for parameter in language.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lrate, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lrate, total_steps=steps, pct_start=0.1)
    rng, noise = random.Random(seed), torch.Generator(reader.device).manual_seed(seed)
    pool: list[list[TextSample]] = []
    start, mean = time.perf_counter(), 0.0
    for step in range(1, steps + 1):
        if not pool:
            pool = _drawn(rooms, batch, rng, reader)
        part = pool.pop()
        rows = reader.rows(part)
        descriptions = ["" if rng.random() < _BLIND else one.description for one in part]
        loss = token_losses(language, reader.embedded(rows, descriptions, noise), rows).mean
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        mean += (loss.item() - mean) / min(step, log_every)
        if step % log_every == 0:
            print(f"step {step}: loss {mean:.3f}, {(time.perf_counter() - start) / step:.3f} s/step", flush=True)
    language.requires_grad_(False)
    language.eval()


def _drawn(rooms: list[list[TextSample]], batch: int, rng: random.Random, reader: Reader) -> list[list[TextSample]]:
    samples = [_drawn_one(rng.choice(rooms), rng) for _ in range(batch * _POOL)]
    encode = reader.language.codec.encode
    lengths = [len(encode(one.record.question)) + len(encode(one.record.answers[0])) + rng.random() for one in samples]
    order = sorted(range(len(samples)), key=lengths.__getitem__)
    parts = [[samples[index] for index in order[first : first + batch]] for first in range(0, len(order), batch)]
    rng.shuffle(parts)
    return parts


def _drawn_one(room: list[TextSample], rng: random.Random) -> TextSample:
    if rng.random() < _COPIED:
        return next(one for one in room if one.record.answers[0] == one.description)
    return rng.choice(room)


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    """Pretrain, print accuracies on other rooms, write the folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vqa_language", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/vqa_language"), help="folder for transformers")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lrate", type=float, default=3e-3)
    parser.add_argument("--rooms", type=int, default=4000)
    parser.add_argument("--latents", type=int, default=16, help="places of a description")
    parser.add_argument("--geometry_tokens", type=int, default=3, help="placeholders before them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args(arguments)
    require(min(options.steps, options.batch, options.rooms) >= 1, "--steps, --batch, --rooms: expected 1 or more")
    torch.manual_seed(options.seed)
    rooms = text_samples(options.seed, options.rooms)
    language = load_language(f"tiny:{options.seed}").to(options.device)
    reader = Reader(language, options.latents + options.geometry_tokens, options.geometry_tokens)
    pretrain(
        reader, rooms, steps=options.steps, batch=options.batch, lrate=options.lrate, seed=options.seed, log_every=100
    )
    held_out = text_samples(options.seed, min(200, options.rooms), options.rooms)
    for title, is_blind in (("described", False), ("no description", True)):
        scores = reader.accuracy(held_out, is_blind=is_blind)
        print(f"{title:<16}" + "  ".join(f"{task} {value:.2f}" for task, value in scores.items()))
    with staged_folder(options.out) as folder:
        reader.language.save(folder)
    sys.stdout.write(f"wrote {options.out}\n")


if __name__ == "__main__":
    main()
