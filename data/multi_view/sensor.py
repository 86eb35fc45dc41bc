"""What a camera does to the light it gets: exposure, white balance, blur, noise, clipping, JPEG; per frame.

Rendered pictures are clean, equally bright and sharp in all frames of a group. Those of a phone are not: it meters and
balances every frame anew, is shaken, adds noise in the dark, cuts the highlights and compresses.
"""

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

GAMMA = 2.2
"""Between the colors of a file and linear light."""
# chosen by hand; standard deviations in stops (exposure) and natural logarithms (white balance)
GROUP_EXPOSURE, FRAME_EXPOSURE = 0.4, 0.2
GROUP_BALANCE, FRAME_BALANCE = 0.10, 0.03
DEFOCUS_SHARE, DEFOCUS = 0.5, (0.3, 1.0)
"""Share of blurred frames; standard deviation in pixels."""
SHAKE_SHARE, SHAKE = 0.15, (1.0, 3.0)
"""Share of frames with motion blur; its length in pixels."""
SHOT_NOISE, READ_NOISE = (1e-4, 3e-3), (1e-3, 1e-2)
"""Log-uniform: variance per unit of light, and standard deviation in the dark."""
JPEG_SHARE, JPEG_QUALITY = 0.7, (40, 96)
"""Share of groups that are compressed; OpenCV's quality."""


def photographed(
    images: Float[Tensor, "view 3 height width"], rng: np.random.Generator
) -> Float[Tensor, "view 3 height width"]:
    """The frames of a group as one camera would have taken them one after the other; RGB [0, 1], a new tensor."""
    gain = 2.0 ** rng.normal(0, GROUP_EXPOSURE) * np.exp(rng.normal(0, GROUP_BALANCE, 3))
    shot, read = (float(np.exp(rng.uniform(*np.log(bounds)))) for bounds in (SHOT_NOISE, READ_NOISE))
    quality = int(rng.integers(*JPEG_QUALITY)) if rng.random() < JPEG_SHARE else None
    frames = [_photographed(image, rng, gain, shot, read) for image in images.permute(0, 2, 3, 1).numpy()]
    if quality is not None:
        frames = [_compressed(frame, quality) for frame in frames]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()


def _photographed(
    image: Float[np.ndarray, "height width 3"], rng: np.random.Generator, gain: np.ndarray, shot: float, read: float
) -> Float[np.ndarray, "height width 3"]:
    own = gain * 2.0 ** rng.normal(0, FRAME_EXPOSURE) * np.exp(rng.normal(0, FRAME_BALANCE, 3))
    light = np.clip(image, 0, 1) ** np.float32(GAMMA) * own.astype(np.float32)
    if rng.random() < DEFOCUS_SHARE:
        light = cv2.GaussianBlur(light, (0, 0), rng.uniform(*DEFOCUS))
    if rng.random() < SHAKE_SHARE:
        light = cv2.filter2D(light, -1, _streak(rng.uniform(*SHAKE), rng.uniform(0, np.pi)))
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    light = light + noise * np.sqrt(np.float32(shot) * np.maximum(light, 0) + np.float32(read**2))
    return np.clip(light, 0, 1) ** np.float32(1 / GAMMA)


def _streak(length: float, angle: float) -> Float[np.ndarray, "side side"]:
    """Weights of a line of this length through the middle, which sum to 1."""
    side = 2 * int(np.ceil(length / 2)) + 1
    kernel = np.zeros((side, side), dtype=np.float32)
    for step in np.linspace(-length / 2, length / 2, 16):
        x, y = side // 2 + step * np.cos(angle), side // 2 + step * np.sin(angle)
        kernel[min(max(round(y), 0), side - 1), min(max(round(x), 0), side - 1)] += 1
    return kernel / kernel.sum()


def _compressed(image: Float[np.ndarray, "height width 3"], quality: int) -> Float[np.ndarray, "height width 3"]:
    _, data = cv2.imencode(
        ".jpg", np.rint(image[..., ::-1] * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255
