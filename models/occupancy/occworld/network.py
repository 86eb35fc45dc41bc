"""Tokenizer, transformer and poses together: teacher-forced training and roll-out."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from geometry import require
from models.occupancy.occworld.config import OccWorldConfig
from models.occupancy.occworld.tokenizer import Labels, Tokenizer
from models.occupancy.occworld.transformer import OccWorldTransformer

Steps = Float[Tensor, "batch step 2"]
"""Motion in the plane, meters."""
Commands = Float[Tensor, "batch step mode"]
"""One-hot."""


class PoseEncoder(nn.Module):
    """Motion in the plane and one-hot command -> token."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.pose_encoder = nn.Sequential(nn.Linear(inputs, channels), nn.ReLU(), nn.Linear(channels, channels))

    def forward(self, steps: Steps, command: Commands) -> Float[Tensor, "batch step channel"]:
        """One token per frame."""
        return self.pose_encoder(torch.cat([steps, command.to(steps)], dim=-1))


class PoseDecoder(nn.Module):
    """Token -> motion in the plane for every command."""

    def __init__(self, channels: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.pose_decoder = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, 2 * modes))

    def forward(self, tokens: Float[Tensor, "batch step channel"]) -> Float[Tensor, "batch step mode 2"]:
        """Meters."""
        return self.pose_decoder(tokens).unflatten(-1, (self.modes, 2))


@dataclass(frozen=True)
class TeacherForced:
    """Predictions of frames 1 to F, each from the true frames before it."""

    code_logits: Float[Tensor, "batch step code x y"]
    code_labels: Int[Tensor, "batch step x y"]
    modes: Float[Tensor, "batch step mode 2"]


@dataclass(frozen=True)
class RollOut:
    """Predicted frames one after the other, each from the predictions before it."""

    codes: Int[Tensor, "batch step code_x code_y"]
    code_logits: Float[Tensor, "batch step code code_x code_y"]
    logits: Float[Tensor, "batch step x y z cls"]
    modes: Float[Tensor, "batch step mode 2"]
    steps: Steps
    """Of the commanded modes."""


class OccWorld(nn.Module):
    """The whole model."""

    def __init__(self, config: OccWorldConfig) -> None:
        super().__init__()
        self.config = config
        self.vae = Tokenizer(config.tokenizer)
        self.transformer = OccWorldTransformer(
            config.transformer, config.tokenizer.num_codes, config.tokenizer.code_plane
        )
        self.pose_encoder = PoseEncoder(2 + config.num_commands, config.pose_channels)
        self.pose_decoder = PoseDecoder(config.pose_channels, config.num_commands)

    def forward(self, labels: Labels, steps: Steps, command: Commands) -> TeacherForced:
        """Frames 0 to F, their motions and commands -> predictions of frames 1 to F.

        Position i reads motion and command i and predicts those of i + 1. Data in which `steps[i]` leads into frame i
        gives nothing away; OccWorld's own infos probably hold the motion out of it.
        """
        with torch.no_grad():
            codes, _ = self.vae.codes(labels)
        tokens = self.vae.vqvae.vectors(codes[:, :-1]).detach()
        code_logits, poses = self.transformer(tokens, self.pose_encoder(steps[:, :-1], command[:, :-1]))
        return TeacherForced(code_logits, codes[:, 1:], self.pose_decoder(poses))

    @torch.no_grad()
    def roll_out(self, labels: Labels, steps: Steps, command: Float[Tensor, "batch frame mode"], count: int) -> RollOut:
        """`count` frames after the observed ones in `labels`.

        `steps` are the observed frames'. `command` has observed and predicted frames: each prediction is read with the
        command of its own frame. For one manoeuvre over the whole horizon repeat it.

        Raises:
            InputError: for more frames than the transformer has places for.
        """
        observed = labels.shape[1]
        places = self.config.transformer.frames
        require(
            observed + count - 1 <= places,
            f"OccWorld: expected at most {places} frames before the last, got {observed + count - 1}",
        )
        codes, sizes = self.vae.codes(labels)
        tokens = self.vae.vqvae.vectors(codes)
        poses = self.pose_encoder(steps[:, :observed], command[:, :observed])
        found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for index in range(observed, observed + count):
            logits, features = self.transformer(tokens, poses)
            modes = self.pose_decoder(features[:, -1:])
            now = command[:, index : index + 1]
            step = (modes * now.to(modes)[..., None]).sum(2)
            code = logits[:, -1:].argmax(2)
            tokens = torch.cat([tokens, self.vae.vqvae.vectors(code)], dim=1)
            poses = torch.cat([poses, self.pose_encoder(step, now)], dim=1)
            found.append((code, logits[:, -1:], modes, step))
        new_codes, code_logits, modes, new_steps = (torch.cat(column, dim=1) for column in zip(*found, strict=True))
        return RollOut(new_codes, code_logits, self.vae.decode(new_codes, sizes), modes, new_steps)


def code_loss(prediction: TeacherForced) -> Float[Tensor, ""]:
    """Cross-entropy over codes of frames 1 to F, all cells alike."""
    return nn.functional.cross_entropy(
        prediction.code_logits.flatten(0, 1), prediction.code_labels.flatten(0, 1).long()
    )


def commands_of_numbers(numbers: Integer[Tensor, "*batch"], count: int) -> Float[Tensor, "*batch mode"]:
    """One-hot."""
    return nn.functional.one_hot(numbers.long(), count).float()
