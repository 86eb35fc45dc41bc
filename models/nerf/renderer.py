"""The contract between radiance fields and everything that trains, evaluates or films them.

    maps   = renderer.encode(source, seen)            once per set of source views; `seen`: what VGGT sees there
    view   = renderer.view(maps, camera, near, far)   once per target view, which owns its depth bounds
    output = view.render(rays, jitter)                rays of that view, as many and as often as wanted
    losses = view.losses(output, truth, wanted)       against what is known of the target

Every sampler (`models/nerf/samplers.py`) implements it; nobody outside `models/nerf` needs to know which one it has.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from geometry import Cameras, InputError, RayBundle, TensorStruct, Views
from models.nerf.compositing import RenderOutput
from models.nerf.depth_prior import DepthPrior, depth_prior
from models.nerf.depth_range import DepthRange, automatic_range
from models.nerf.losses import photometric_loss
from models.vggt.frozen import FrozenFeatures

Jitter = Callable[[int], Float[Tensor, "batch ray count"]]
"""Uniform numbers in [0, 1) for `count` samples of every ray."""
NearFar = Literal["data", "auto", "open"]
NEAR_FAR: tuple[NearFar, ...] = get_args(NearFar)
SOURCES_ADVICE = "--imgScale_test or --n_views"
RENDER_ADVICE = "--imgScale_test or --chunk"
"""Options that make the three calls smaller, for errors where memory does not suffice."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What determines the shapes of a renderer's weights, in all samplers; stored in every checkpoint."""

    feature_channels: int = 24
    """Of the feature maps."""
    hidden: int = 32
    """Width of the layers that see single views."""
    fused: int = 64
    """Width of the layers behind the fusion of views."""
    residual_channels: int = 0
    """Of the per-scene residual; 0 = a general model, which has none."""
    residual_resolution: int = 128
    """Cells of the residual along each side of the scene's box."""
    depth_prior: bool = False
    """The network is told the depth that VGGT sees in every source view."""

    @property
    def reads_tokens(self) -> bool:
        """Whether VGGT's tokens are read, not only its depth."""
        raise NotImplementedError


@dataclass(frozen=True)
class SourceMaps(TensorStruct):
    """Source views as a renderer sees them; a sampler adds feature maps of its own."""

    images: Float[Tensor, "batch view 3 height width"]
    cameras: Cameras
    prior: DepthPrior | None
    """Where VGGT sees the surfaces; None without its depth head."""


@dataclass(frozen=True)
class TargetRays(TensorStruct):
    """Rays of target views (one per scene), and what is known of them."""

    view: Views
    """The whole target; one leading axis, the scenes."""
    pixels: Float[Tensor, "batch ray 2"]
    rays: RayBundle
    rgb: Float[Tensor, "batch ray 3"]
    depth: Float[Tensor, "batch ray"] | None
    """Camera z, 0 = unknown."""


class TargetView(ABC):
    """One target camera per scene, seen from source views."""

    camera: Cameras
    bounds: DepthRange
    """Between which depths its rays are marched."""

    @abstractmethod
    def render(self, rays: RayBundle, jitter: Jitter | None = None) -> RenderOutput:
        """March rays of this view; without `jitter` the samples sit in the middle of their bins."""

    @abstractmethod
    def depth_loss(self, output: RenderOutput, truth: TargetRays) -> Float[Tensor, ""]:
        """How badly the known depth of the target is met."""

    def losses(self, output: RenderOutput, truth: TargetRays, wanted: Collection[str] = ()) -> dict[str, Tensor]:
        """Unweighted terms by name: `photometric` and those wanted of `Renderer.loss_names`."""
        terms = {name: getattr(self, f"{name}_loss")(output, truth) for name in wanted}
        return {"photometric": photometric_loss(output, truth.rgb), **terms}


class Renderer(nn.Module, ABC):
    """Renders a scene it has never seen from a few posed images of it."""

    Config: ClassVar[type[NetworkConfig]]
    has_default_layers: ClassVar[bool]
    """Whether VGGT's tokens are read where `--vggt_layers` names no layers: then `default_layers`."""
    trusts_tokens_by_depth: ClassVar[bool]
    """Whether tokens are read only as far as VGGT's depth is trusted, so that its heads are needed for tokens too."""
    Samples: ClassVar[type]
    """Frozen dataclass of how many samples a ray gets; its fields are named as the options are."""
    loss_names: ClassVar[tuple[str, ...]] = ("depth",)
    """What `TargetView.losses` knows besides the photometric term; weighted by the options `<name>_loss`."""
    needs_one_of: ClassVar[tuple[str, ...]] = ()
    """Those of `loss_names` of which one at least must have a weight: parts of the network learn from nothing else."""

    def __init__(self, config: Any, samples: Any, *, background: float = 0.0, near_far: NearFar = "data") -> None:
        """`background`: gray level of what a ray does not hit; `near_far`: see `view`."""
        super().__init__()
        self.config = config
        self.samples = samples
        self.background = background
        self.near_far = near_far

    @property
    def reads_tokens(self) -> bool:
        """Whether VGGT's tokens are read, not only its depth."""
        return self.config.reads_tokens

    @property
    def reads_depth(self) -> bool:
        """Whether VGGT's depth is read, be it for bounds only."""
        return self.config.depth_prior or self.near_far == "auto"

    @property
    def uses_backbone(self) -> bool:
        """Whether anything of VGGT is read."""
        return self.reads_tokens or self.reads_depth

    def with_new_parts(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a network that was told or read less, for this one, which starts by making nothing of the rest.

        Other weights are returned as they are.
        """
        return dict(weights)

    @abstractmethod
    def training_window(self, height: int, width: int) -> tuple[int, int] | None:
        """Rows and columns of the part of a height x width target that a training step views; None = all of it."""

    @abstractmethod
    def _encode(self, source: Views, seen: FrozenFeatures | None, prior: DepthPrior | None) -> SourceMaps: ...

    @abstractmethod
    def _view(self, maps: Any, camera: Cameras, bounds: DepthRange) -> TargetView: ...

    def encode(self, source: Views, seen: FrozenFeatures | None, *, drops_backbone: bool = False) -> SourceMaps:
        """Once per set of source views; all targets share the result. `seen` None: without a VGGT.

        `drops_backbone`: as if VGGT had contradicted the given cameras (backbone dropout in training).
        """
        prior = None
        if seen is not None and seen.depth is not None:
            prior = depth_prior(seen, source.cameras, *source.images.shape[-2:])
            prior = prior.dropped() if drops_backbone else prior
        return self._encode(source, seen, prior)

    def view(
        self, maps: SourceMaps, camera: Cameras, near: Float[Tensor, " batch"], far: Float[Tensor, " batch"]
    ) -> TargetView:
        """One target camera per scene; `near` and `far` (camera z) are the data set's bounds, see `bounds`."""
        return self._view(maps, camera, self.bounds(maps, camera, near, far))

    def bounds(
        self, maps: SourceMaps, camera: Cameras, near: Float[Tensor, " batch"], far: Float[Tensor, " batch"]
    ) -> DepthRange:
        """Where rays start and end: at the data set's bounds or, with `near_far` "auto", where VGGT's depth says.

        With "open" well before and behind the data set's, see `DepthRange.opened`.

        Raises:
            InputError: for "auto" without VGGT's depth.
        """
        data = self.bounds_without_sources(near, far)
        if self.near_far != "auto":
            return data
        if maps.prior is None:
            raise InputError("--near_far auto: expected a VGGT with camera and depth heads, got one without")
        return automatic_range(maps.prior, maps.cameras, camera, data)

    def bounds_without_sources(self, near: Float[Tensor, " batch"], far: Float[Tensor, " batch"]) -> DepthRange:
        """The data set's bounds, opened where `near_far` says so."""
        data = DepthRange.of_data(near, far)
        return data.opened() if self.near_far == "open" else data
