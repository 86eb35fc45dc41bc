"""Install with `pip install -e .[test]`; the packages are flat because they are meant to be changed in place."""

from setuptools import find_packages, setup

VQA = ["transformers>=5,<6", "peft>=0.18,<1"]

setup(
    name="vggt-nerf",
    version="0.1.0",
    description="Generalizable radiance fields on a frozen VGGT",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(
        include=[
            f"{name}{suffix}" for name in ("geometry", "data", "models", "training", "render") for suffix in ("", ".*")
        ]
    ),
    py_modules=[
        *("train_general", "train_finetune", "train_vggt", "train_mapanything", "train_vqa", "train_occupancy"),
    ],
    package_data={
        "data": ["lists/*.txt"],
        "models.vggt": ["configs/*.json"],
        "models.mapanything": ["configs/*.json"],
        "models.vqa": ["configs/*/*.json"],
    },
    install_requires=[
        "torch>=2.9,<3",
        "torchvision>=0.24,<1",
        "pytorch-lightning>=2.6,<3",
        "configargparse>=1.7,<2",
        "kornia>=0.7.3,<1",
        "lpips>=0.1.4,<0.2",
        "imageio>=2.34,<3",
        "imageio-ffmpeg>=0.5,<1",
        "scikit-image>=0.22,<1",
        "opencv-python>=4.9,<6",
        "matplotlib>=3.8,<4",
        "warmup-scheduler==0.3",
        "numpy>=1.26,<3",
        "Pillow>=10,<13",
        "jaxtyping>=0.2.34,<1",
        "safetensors>=0.4.3,<1",
        "huggingface-hub>=0.25,<3",
        "tensorboard>=2.16,<3",
        "tqdm>=4.66,<5",
        "filelock>=3.13,<4",
        "networkx>=3,<4",
        "trimesh>=4,<6",
        "pycolmap>=4,<5",  # structure from motion, bundle adjustment, COLMAP's files
        "pi-heif>=0.20,<2",  # iPhone photographs; decodes only
        "viser>=1,<2",
        "OpenEXR>=3.3,<4",  # depth maps of WAI scenes; OpenCV's wheel is built without EXR
        "PyYAML>=6,<7",
        "lxml>=5,<7",  # CityGML
        "mapbox_earcut>=1,<3",  # polygons of meshes and city models to triangles
    ],
    extras_require={
        "vqa": VQA,
        "deepspeed": ["deepspeed>=0.16,<1"],  # --strategy deepspeed, imported only there
        "browser": ["playwright>=1.45,<2"],  # tests of the viewer in Debian's Chromium
        "test": [
            *VQA,
            "pytest>=8,<10",
            "pytest-xdist>=3.6,<4",
            "beartype>=0.19,<1",
            "hypothesis>=6.100,<7",
            "ruff==0.17.5",
            "basedpyright>=1.40,<2",  # pyright from PyPI alone: it brings its own node
            "nbclient>=0.10,<1",
            "nbformat>=5.10,<6",
            "ipykernel>=6.29,<8",
            "pdoc>=15,<17",  # make api-docs
        ],
    },
)
