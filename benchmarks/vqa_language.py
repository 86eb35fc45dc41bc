"""A toy language model that has read about rooms but seen none: `python -m benchmarks.vqa_language`.

It stands for what a pretrained language model knows: from descriptions of rooms, in the places where an image would be,
it learns to answer questions about them, with all its weights and from text alone. Rooms are drawn, none is rendered,
and none of them is one that images are trained or tested on. Part of the questions come without any description.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data.procedural.qa_questions import READING
from data.scene_qa.sources import RoomSource
from data.scene_qa.types import QARecord
from data.seeds import derived_seed
from geometry import TensorStruct
from geometry.errors import one_line_errors, require
from models.vqa.language import LanguageModel, load_language
from models.vqa.network import TokenLosses, token_losses
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
_COMPARED = 2.0
"""How much more often than others a question about sides is read, of the rest."""
_POOL = 8
"""Batches that are drawn together and cut by length, so that little is padded."""
_FINAL_RATE = 0.02
"""Of the learning rate, at the end."""
_COPY, _SIDE, _OTHER = range(3)


@dataclass(frozen=True)
class TextSample:
    """A question, its answer and what is said about the room."""

    record: QARecord
    description: str

    @property
    def kind(self) -> int:
        """What it is drawn as."""
        if self.record.answers[0] == self.description:
            return _COPY
        return _SIDE if self.record.task in ("side", READING) else _OTHER


def text_samples(seed: int, rooms: int, first: int = 0, *, reads: bool = True) -> list[TextSample]:
    """Questions and captions about rooms; `reads`: what makes sides easier to learn as well (`room_readings`)."""
    kinds = ("questions", "captions", *(["readings"] if reads else []))
    source = RoomSource(derived_seed(seed, _TEXT_STREAM), first, rooms, 8, kinds=kinds)
    whole = {one.scene: one.answers[0] for one in source.records if one.task == "caption" and ";" in one.answers[0]}
    return [TextSample(record, whole[record.scene]) for record in source.records]


@dataclass(frozen=True)
class Texts(TensorStruct):
    """Samples as numbers, ready to be picked from."""

    rows: TextRows
    words: Int[Tensor, "sample place word"]
    """Of the description, see `spelled_rows`."""
    lengths: Int[Tensor, " sample"]
    """Tokens of a row; on the CPU."""
    HOST_FIELDS = frozenset({"lengths"})

    def cut(self) -> "Texts":
        """Without the columns that only longer samples have."""
        longest = int(self.lengths.max())
        return Texts(self.rows.map(lambda values: values[:, :longest]), self.words, self.lengths)


class Reader:
    """A language model and how descriptions are shown to it."""

    def __init__(self, language: LanguageModel, num_visual: int, num_geometry: int) -> None:
        """`num_visual` placeholders, of which the first `num_geometry` stay empty."""
        self.language, self.num_geometry = language, num_geometry
        self.prompts = PromptBuilder(language.codec, "chat", num_visual, 512)
        self.device = language.inner.get_input_embeddings().weight.device

    def texts(self, samples: Sequence[TextSample]) -> Texts:
        """On the model's device."""
        rows = self.prompts.training(
            [one.record.question for one in samples], [one.record.answers[0] for one in samples]
        )
        places = self.prompts.num_visual - self.num_geometry
        words = spelled_rows(self.language.codec, [one.description for one in samples], places)
        return Texts(rows, words, rows.attention_mask.sum(1)).to(self.device)

    def losses(
        self, texts: Texts, described: Float[Tensor, " sample"], noise: torch.Generator | None = None
    ) -> TokenLosses:
        """Word embeddings, with those of descriptions (times `described`) in the places of visual ones."""
        rows, table = texts.rows, self.language.inner.get_input_embeddings().weight
        embedded = self.language.embed(rows.input_ids).masked_fill(rows.visual[..., None], 0.0)
        places = written(table, texts.words)
        if noise is not None:
            size = places.detach().square().mean(-1, keepdim=True).sqrt()
            places = places + _NOISE * size * torch.randn(places.shape, generator=noise, device=self.device)
        places = (places * described[:, None, None]).to(embedded)
        start = int(rows.visual[0].long().argmax()) + self.num_geometry  # a chat has it at one place in all rows
        parts = [embedded[:, :start], places, embedded[:, start + places.shape[1] :]]
        return token_losses(self.language, torch.cat(parts, dim=1), rows)

    @torch.no_grad()
    def accuracy(self, samples: Sequence[TextSample], *, is_blind: bool) -> dict[str, float]:
        """Share of exact answers by task, with descriptions or without."""
        found: dict[str, list[float]] = {}
        for first in range(0, len(samples), 256):
            part = samples[first : first + 256]
            described = torch.full((len(part),), 0.0 if is_blind else 1.0, device=self.device)
            losses = self.losses(self.texts(part), described)
            for sample, is_exact in zip(part, losses.is_exact.tolist(), strict=True):
                found.setdefault(sample.record.task, []).append(float(is_exact))
        return {task: sum(values) / len(values) for task, values in sorted(found.items())}


def pretrain(
    reader: Reader, samples: Sequence[TextSample], *, steps: int, batch: int, lrate: float, seed: int, log_every: int
) -> None:
    """All weights, AdamW, half a cosine after a warm-up; a line every `log_every` steps."""
    language, texts = reader.language.train(), reader.texts(samples)
    language.requires_grad_(True)
    parameters = [parameter for parameter in language.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lrate, betas=(0.9, 0.95), weight_decay=0.05)
    warmup = max(1, min(300, steps // 10))

    def rate(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        return min(1.0, (step + 1) / warmup) * (_FINAL_RATE + (1 - _FINAL_RATE) * cosine)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    noise = torch.Generator(reader.device).manual_seed(seed)
    draws = Draws(samples, texts.lengths, batch, torch.Generator().manual_seed(seed))
    start, mean = time.perf_counter(), 0.0
    for step in range(1, steps + 1):
        part = texts[draws.next()].cut()
        described = (torch.rand(batch, generator=noise, device=reader.device) >= _BLIND).float()
        loss = reader.losses(part, described, noise).mean
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


class Draws:
    """Batches of samples of about one length, kinds in their shares."""

    def __init__(
        self, samples: Sequence[TextSample], lengths: Int[Tensor, " sample"], batch: int, generator: torch.Generator
    ) -> None:
        kinds = torch.tensor([one.kind for one in samples])
        self.members = [(kinds == kind).nonzero()[:, 0] for kind in (_COPY, _SIDE, _OTHER)]
        _, sides, others = (len(members) for members in self.members)
        asked = torch.tensor([0.0, _COMPARED * sides, float(others)])
        self.shares = (1 - _COPIED) * asked / asked.sum() + torch.tensor([_COPIED, 0.0, 0.0])
        self.lengths, self.batch, self.generator = lengths, batch, generator
        self.pool: list[Tensor] = []

    def next(self) -> Int[Tensor, " batch"]:
        """Numbers of samples."""
        if not self.pool:
            kinds = torch.multinomial(self.shares, self.batch * _POOL, replacement=True, generator=self.generator)
            drawn = torch.empty_like(kinds)
            for kind, members in enumerate(self.members):
                chosen = kinds == kind
                count = int(chosen.sum())
                if count:
                    drawn[chosen] = members[torch.randint(len(members), (count,), generator=self.generator)]
            order = self.lengths[drawn].argsort(stable=True)
            batches = drawn[order].view(_POOL, self.batch)
            self.pool = list(batches[torch.randperm(_POOL, generator=self.generator)])
        return self.pool.pop()


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    """Pretrain, print accuracies on other rooms, write the folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vqa_language", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/vqa_language"), help="folder for transformers")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lrate", type=float, default=2e-3)
    parser.add_argument("--rooms", type=int, default=6000)
    parser.add_argument("--no_readings", action="store_true", help="nothing that makes sides easier to learn")
    parser.add_argument("--latents", type=int, default=16, help="places of a description")
    parser.add_argument("--geometry_tokens", type=int, default=3, help="placeholders before them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args(arguments)
    require(min(options.steps, options.batch, options.rooms) >= 1, "--steps, --batch, --rooms: expected 1 or more")
    torch.manual_seed(options.seed)
    language = load_language(f"tiny:{options.seed}").to(options.device)
    reader = Reader(language, options.latents + options.geometry_tokens, options.geometry_tokens)
    samples = text_samples(options.seed, options.rooms, reads=not options.no_readings)
    pretrain(
        reader, samples, steps=options.steps, batch=options.batch, lrate=options.lrate, seed=options.seed, log_every=100
    )
    held_out = text_samples(options.seed, min(200, options.rooms), options.rooms)
    for title, is_blind in (("described", False), ("no description", True)):
        scores = reader.accuracy(held_out, is_blind=is_blind)
        print(f"{title:<16}" + "  ".join(f"{task} {value:.2f}" for task, value in scores.items()))
    with staged_folder(options.out) as folder:
        reader.language.cpu().save(folder)
    sys.stdout.write(f"wrote {options.out}\n")


if __name__ == "__main__":
    main()
