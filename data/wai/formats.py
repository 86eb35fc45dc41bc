"""How WAI scenes store modalities: `load(path, format)` and `store(path, array, format)` (docs/wai.md, "Formats").

Loading changes nothing: depth keeps infinities, NaN and negative values as they are stored (`cleaned_depth`).
"""

import gzip
import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR
import torch
import yaml
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from data.image_io import DECODE_ERRORS, UnreadableFileError, is_file, open_image, write_atomic, write_bytes
from data.untrusted_files import map_array, read_archive, read_array, read_gzip
from geometry import InputError, require
from geometry.plain_files import is_inflated
from geometry.plain_json import parse_json

MAX_HALF = 65504.0
"""Largest finite number of a half float; farther depth is stored as infinity."""
_MOST_PIXELS = 2**27
"""Of an EXR file: its window may claim 2^62, and memory is taken for them before any is read."""
_UNIT_LENGTH = 1e-3
"""Tolerance of the length of a stored normal."""
_MAPPED_NAME = re.compile(r"(.+)--(\d+(?:[x,]\d+)*)\.npy")
_DECODE_ERRORS = (
    *DECODE_ERRORS,
    SafetensorError,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    yaml.YAMLError,
    RuntimeError,
    MemoryError,
    EOFError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
)


@dataclass(frozen=True)
class Format:
    """One way to store an array."""

    load: Callable[[Path], Any] | None
    """None: known by name, not supported."""
    store: Callable[[Path, Any], Path | None] | None = None
    """Returns where it wrote, if not where it was told to."""
    suffixes: tuple[str, ...] = ()


def load(path: Path, kind: str | None = None) -> Any:
    """What a file holds; `kind`: name of its format, None: by its suffix.

    Raises:
        InputError: for an unknown or unsupported format.
        UnreadableFileError: for a missing or damaged file.
    """
    entry = _format(path, kind)
    if entry.load is None:
        raise InputError(f"{path}: expected a format that is supported, got {kind!r}, which is not")
    if not is_file(path):
        raise UnreadableFileError(f"{path}: expected a file, got none")
    try:
        return entry.load(path)
    except InputError:
        raise
    except _DECODE_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        name = kind or format_of_suffix(path)
        raise UnreadableFileError(
            f"{path}: expected a file of format {name}, got one that cannot be read ({reason})"
        ) from None


def store(path: Path, value: Any, kind: str | None = None) -> Path:
    """Write a file atomically, folders are made; returns its path (`mmap` appends the shape to the name).

    Raises:
        InputError: for an unknown format, or a value that it cannot hold.
    """
    entry = _format(path, kind)
    if entry.store is None:
        raise InputError(f"{path}: expected a format that can be written, got {kind or path.suffix!r}")
    return entry.store(path, value) or path


def format_of_suffix(path: Path) -> str:
    """The format of a file that names none.

    Raises:
        InputError: for an unknown suffix.
    """
    suffix = path.suffix.lower().removeprefix(".")
    for name, entry in FORMATS.items():
        if suffix in entry.suffixes:
            return name
    known = ", ".join(sorted(suffix for entry in FORMATS.values() for suffix in entry.suffixes))
    raise InputError(f"{path}: expected a format, or one of the suffixes {known}, got {path.suffix!r}")


def store_depth(path: Path, depth: Float[np.ndarray, "height width"], *, is_half: bool = True) -> Path:
    """Depth as one EXR channel Y; half floats as the format says, or float32, which every reader takes as well."""
    return _store_depth(path, depth, np.float16 if is_half else np.float32)


def cleaned_depth(depth: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """0 where depth is not a positive finite number."""
    return np.where(np.isfinite(depth) & (depth > 0), depth, 0).astype(np.float32)


def _format(path: Path, kind: str | None) -> Format:
    name = kind or format_of_suffix(path)
    if name not in FORMATS:
        raise InputError(f"{path}: expected one of the formats {', '.join(sorted(FORMATS))}, got {name!r}")
    return FORMATS[name]


def _load_image(path: Path) -> Float[np.ndarray, "channel height width"]:
    with open_image(path) as image:
        image.load()
        shown = image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB")
        require(not image.mode.startswith(("I", "F")), f"{path}: expected an 8-bit image, got mode {image.mode}")
        array = np.asarray(shown, np.float32) / 255
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _store_image(path: Path, image: np.ndarray) -> None:
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[0] in (3, 4) and array.shape[-1] not in (3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] not in (3, 4):
        raise InputError(f"{path}: expected an image of 3 or 4 channels, got an array of shape {array.shape}")
    codes = np.rint(255 * np.clip(array, 0, 1)).astype(np.uint8)
    suffix = path.suffix.lower()
    options: dict[str, Any] = {".png": {"compress_level": 1}, ".jpg": {"quality": "high"}}.get(
        suffix.replace("jpeg", "jpg"), {}
    )
    content = io.BytesIO()
    Image.fromarray(codes).save(content, Image.registered_extensions()[suffix], **options)
    write_bytes(path, content.getvalue())


def _load_binary(path: Path) -> np.ndarray:
    with open_image(path) as image:
        image.load()
        require(image.mode in ("1", "L"), f"{path}: expected a mask of 1 or 8 bits, got mode {image.mode}")
        return np.asarray(image).astype(bool) if image.mode == "1" else np.asarray(image) > 127


def _store_binary(path: Path, mask: np.ndarray) -> None:
    content = io.BytesIO()
    Image.fromarray(_flat(path, mask).astype(bool)).save(content, "PNG")
    write_bytes(path, content.getvalue())


def _load_exr(path: Path) -> np.ndarray:
    """Channel Y (or the only one) alone; of three B, G, R, the order in which OpenCV writes components 0, 1, 2."""
    with OpenEXR.File(str(path), header_only=True) as file:
        low, high = (corner.astype(np.int64) for corner in file.header()["dataWindow"])
    sides = high - low + 1
    require(
        bool((sides > 0).all()) and int(sides.prod()) <= _MOST_PIXELS,
        f"{path}: expected an image, got a window of {sides.tolist()}",
    )
    with OpenEXR.File(str(path), separate_channels=True) as file:
        channels = {name: np.array(channel.pixels) for name, channel in file.channels().items()}
    if len(channels) == 1:
        return next(iter(channels.values())).astype(np.float32)
    require({"R", "G", "B"} <= channels.keys(), f"{path}: expected channel Y, or R, G and B, got {sorted(channels)}")
    return np.stack([channels[name] for name in "BGR"], axis=-1).astype(np.float32)


def _load_depth(path: Path) -> Float[np.ndarray, "height width"]:
    depth = _load_exr(path)
    require(depth.ndim == 2, f"{path}: expected depth of one channel, got shape {depth.shape}")
    return depth


def _load_normals(path: Path) -> Float[np.ndarray, "height width 3"]:
    normals = _load_exr(path)
    require(normals.ndim == 3, f"{path}: expected normals of three channels, got one")
    return normals


def _store_exr(path: Path, channels: dict[str, np.ndarray]) -> None:
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    pixels = {name: np.ascontiguousarray(channel) for name, channel in channels.items()}
    write_atomic(path, lambda temporary: OpenEXR.File(header, pixels).write(str(temporary)))


def _store_depth(path: Path, depth: np.ndarray, dtype: type = np.float16) -> Path:
    with np.errstate(over="ignore"):
        _store_exr(path, {"Y": _flat(path, depth).astype(np.float32).astype(dtype)})
    return path


def _store_scalar(path: Path, values: np.ndarray) -> None:
    array = np.asarray(values, np.float32)
    if array.ndim == 3 and array.shape[-1] == 3:
        _store_exr(path, {name: array[..., index] for index, name in enumerate("BGR")})
    else:
        _store_exr(path, {"Y": _flat(path, array)})


def _store_normals(path: Path, normals: np.ndarray) -> None:
    array = np.asarray(normals, np.float32)
    require(array.ndim == 3 and array.shape[-1] == 3, f"{path}: expected normals (h, w, 3), got shape {array.shape}")
    length = np.linalg.norm(array, axis=-1)
    wrong = int((~((np.abs(length - 1) <= _UNIT_LENGTH) | (length == 0))).sum())
    require(wrong == 0, f"{path}: expected normals of length 1 or 0, got {wrong} pixels with another")
    _store_scalar(path, array)


def _load_numpy(path: Path) -> np.ndarray:
    found = read_archive(path) if path.suffix == ".npz" else {"arr_0": read_array(path)}
    require("arr_0" in found, f"{path}: expected an array arr_0, got {', '.join(found)}")
    array = found["arr_0"]
    require(array.dtype.kind in "fiub", f"{path}: expected numbers, got {array.dtype}")
    return array


def _store_numpy(path: Path, array: np.ndarray) -> None:
    content = io.BytesIO()
    if path.suffix == ".npz":
        np.savez_compressed(content, np.asarray(array))
    else:
        np.save(content, np.asarray(array), allow_pickle=False)
    write_bytes(path, content.getvalue())


def _load_mapped(path: Path) -> np.ndarray:
    """Mapped into memory, read-only; the shape in the name must be that of the file's own header."""
    array = map_array(path)
    match = _MAPPED_NAME.fullmatch(path.name)
    require(match is not None, f"{path}: expected a name like name--4x4.npy")
    named = tuple(int(side) for side in re.split("[x,]", match[2]))
    require(array.dtype == np.float32, f"{path}: expected float32 values, got {array.dtype}")
    require(array.shape == named, f"{path}: expected the shape that its name says, got {array.shape}")
    return array


def _store_mapped(path: Path, array: np.ndarray) -> Path:
    values = np.ascontiguousarray(array, np.float32)
    require(values.ndim > 0, f"{path}: expected an array with at least one axis, got a number")
    target = path.with_name(f"{path.stem}--{'x'.join(str(side) for side in values.shape)}.npy")
    _store_numpy(target, values)
    return target


def _load_pickled_tensor(path: Path) -> Any:
    content = io.BytesIO(read_gzip(path))
    require(not (zipfile.is_zipfile(content) and is_inflated(content)), f"{path}: expected a tensor packed once")
    content.seek(0)
    return torch.load(content, weights_only=True, map_location="cpu")


def _store_pickled_tensor(path: Path, tensor: Any) -> None:
    content = io.BytesIO()
    torch.save(tensor, content)
    write_bytes(path, gzip.compress(content.getvalue()))


def _load_latent(path: Path) -> torch.Tensor:
    tensors = load_safetensors(path.read_bytes())
    require("latent" in tensors, f"{path}: expected a tensor named latent, got {', '.join(tensors)}")
    return tensors["latent"]


def _store_latent(path: Path, tensor: torch.Tensor) -> None:
    write_bytes(path, save_safetensors({"latent": tensor.contiguous()}))


def _load_readable(path: Path) -> Any:
    text = path.read_text()
    return parse_json(text) if path.suffix == ".json" else yaml.safe_load(text)


def _store_readable(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2) + "\n" if path.suffix == ".json" else yaml.safe_dump(value, sort_keys=False)
    write_bytes(path, text.encode())


def _load_mesh(path: Path) -> Any:
    import trimesh  # slow to import, and nothing else here needs it

    return trimesh.load(path, force="mesh")


def _flat(path: Path, array: np.ndarray) -> np.ndarray:
    """(h, w) of an array that may have axes of length 1 besides."""
    values = np.asarray(array)
    if values.ndim > 2:
        values = values.reshape([side for side in values.shape if side != 1])
    require(values.ndim == 2, f"{path}: expected one value per pixel, got an array of shape {np.shape(array)}")
    return values


FORMATS: dict[str, Format] = {
    "readable": Format(_load_readable, _store_readable, ("json", "yaml", "yml")),
    "scene_meta": Format(_load_readable, _store_readable),
    "image": Format(_load_image, _store_image, ("jpg", "jpeg", "png", "webp")),
    "binary": Format(_load_binary, _store_binary),
    "depth": Format(_load_depth, _store_depth),
    "scalar": Format(_load_exr, _store_scalar, ("exr",)),
    "normals": Format(_load_normals, _store_normals),
    "numpy": Format(_load_numpy, _store_numpy, ("npy", "npz")),
    "ptz": Format(_load_pickled_tensor, _store_pickled_tensor, ("ptz",)),
    "sft": Format(_load_latent, _store_latent, ("sft",)),
    "latent": Format(_load_latent, _store_latent),
    "mmap": Format(_load_mapped, _store_mapped),
    "mesh": Format(_load_mesh, None, ("glb", "obj", "ply")),
    "labeled_mesh": Format(None),
    "labeled_image": Format(None),
    "video": Format(None),
}
"""By name. Scenes with an unsupported one are read; asking for such a modality is refused by name."""
