"""The one table by which documented commands shrink to toy size. Extend it here when a test says what is missing.

A command `python -m SCRIPT ...` or `python SCRIPT.py ...` runs with
1. `WORDS`: words that stand for something of the reader's, such as /path/to/dtu, replaced, also in its config;
2. `SMALLER`: options that it sets, on the command line or in its config, set to a small value;
3. `TOY[SCRIPT]`: options added to every command of that script.
Everything else stays as documented: names of options, configs, scans, runs and files. A file that is read must be one
of the repository, one that another documented command writes (that one then runs first), or one of `toys.py`.
Commands that match `NOT_RUN` do not run, but their options are parsed.
"""

WORDS: list[tuple[str, str]] = [
    # pattern of the whole word -> what stands for it
    (
        r"/(?:path/to|data)/(wai(?:/room)?|dtu|co3d|annotations|vkitti|blendedmvs|llff|nerf_llff_data|blender|nerf_synthetic|peer)",
        r"toys/\1",
    ),
    (r"facebook/VGGT-1B(-Commercial)?", "toys/vggt.safetensors"),
    (r"cuda", "cpu"),
    (
        r"photos|SCENE|/path/to/(scene|herz_jesu_p25|entry_p10|castle_p30|sceaux|lund_door|photographs|others)",
        "toys/photos",
    ),
    (r"colmap:/path/to/photographs:(\S+)", r"colmap:toys/photos:\1"),
    (r"(?:/path/to/)?(city\.gml)", r"toys/\1"),
    (r"/path/to/(sessions(?:/drone_\w+)?|sweeps|poses\.txt)", r"toys/\1"),
    (r"SESSION", "toys/sessions/drone_20260101_000000"),
    (r"forecaster\.safetensors", "toys/forecaster.safetensors"),
    (r"/path/to/(records\.jsonl|questions\.json|vqa\.safetensors|room/view\d\.png)", r"toys/\1"),
    # what commands write that do not run here
    (r"runs/vqa_rooms_merged", "ckpts/vqa_rooms.lm"),
    (r"runs/vqa_actions/vqa_actions\.safetensors", "ckpts/vqa_rooms.safetensors"),
    (r"scan10\d\d", "scan1001"),  # the scan of runs/general_nano_data
    # one letter for a path of the reader's, in usage lines of docstrings
    (r"[CG]", "ckpts/general_guided.ckpt"),
    (r"H", "ckpts/general_nano.ckpt"),
    (r"[DR]", "toys/dtu"),
    (r"DIR", "results_of_usage"),
    (r"V\.mp4", "usage.mp4"),
    (r"camera_path\.json", "toys/camera_path.json"),
]

SMALLER: dict[str, str] = {
    "N_samples": "4",
    "N_importance": "2",
    "N_guided": "4",
    "sweep_planes": "12",
    "n_views": "2",
    "imgScale_train": "1",
    "imgScale_test": "1",
    "feature_channels": "8",
    "hidden": "8",
    "fused": "8",
    "residual_resolution": "8",
    "residual_channels": "2",
    "scene_field": "8",
    "scene_field_steps": "2",
    "extra_views": "1",
    "procedural_scenes": "2",
    "window_rays": "8",
}

SHAPES = ("feature_channels", "hidden", "fused")
"""Those of them that weights depend on."""

_RUN = "--num_workers 0 --num_val 1 --accelerator cpu --devices 1 --strategy auto --precision 32-true"
_NERF = f"{_RUN} --rays_per_step 8 --warmup_steps 1 --max_steps 5 --val_every 5 --save_every 5"

TOY: dict[str, str] = {
    "train_general": f"{_NERF} --vggt_image_size 56",
    "train_finetune": _NERF,
    "train_vggt": f"{_RUN} --max_steps 2 --val_every 2 --save_every 2 --n_views 2 --max_img_per_gpu 2 --image_size 56 "
    "--aspect 1 --max_groups 1",
    "train_mapanything": f"{_RUN} --max_steps 2 --val_every 2 --save_every 2 --n_views 2 --max_img_per_gpu 2 "
    "--image_size 40 --max_groups 1 --eval_inputs images --aspect 0.8",
    "train_occupancy": "--num_workers 0 --num_val 2 --accelerator cpu --max_steps 2 --val_every 2 --save_every 2 "
    "--num_worlds 8 --num_val_worlds 2 --width 8",
    "train_vqa": f"{_RUN} --max_steps 2 --val_every 2 --save_every 2 --rooms 4 --val_rooms 1 --image_size 32 "
    "--samples_per_update 2 --token_cache tokens",
    "training.vggt.inspect": f"{_RUN} --n_views 2 --max_img_per_gpu 2 --image_size 56 --aspect 1",
    "data.check": "--max_pairs 1",
    "data.occupancy.convert": "--range -4 -4 -4 4 4 4 --voxel 1 1 1 --frames 2",
    "data.occupancy.view": "--port 0 --seconds 0.1",
    "data.download": "",
    "data.wai.convert": "--workers 1",
    "data.wai.covisibility": "--long_side 32",
    "data.wai.depth_confidence": "--long_side 32",
    "data.wai.split_lists": "",
    "data.wai.undistort": "",
    "data.wai.view": "--port 0 --seconds 0.1 --points 100",
    "data.scene_qa.build": "--views 2",
    "data.scene_qa.check": "",
    "data.procedural": "--scenes 1 --width 40 --height 32 --views 20 --workers 1",
    "render.ask": "--device cpu --max_new_tokens 2",
    "render.benchmark": "--device cpu --devices 1",
    "render.evaluate": "--device cpu",
    "render.export": "--device cpu --agreeing 0 --voxels 16",
    "render.forecast": "--device cpu --side 16 --max_windows 1 --gif",
    "render.occupancy": "--device cpu --vggt_image_size 56 --max_images 3 --range -1 -1 -1 1 1 1 --voxel 0.2 0.2 0.2",
    "render.photos": "--poses model --max_side 96 --steps 4 --n_views 3 --frames 2 --device cpu",
    "render.reconstruction_benchmark": "--accelerator cpu --sets_per_scene 1 --views 2 --image_size 40",
    "render.reconstruction_demo": "--families coordinate --views 2",
    "render.video": "--device cpu --frames 2",
    "render.viewer": "--device cpu --port 0 --seconds 0.1",
    "benchmarks.camera_refinement": "--degrees 2 --max_images 3",
    "benchmarks.co3d_index": "--frames 200 --repeats 1",
    "benchmarks.covisibility_memory": "",
    "benchmarks.features": "--steps 2 --rays 8 --views_per_scan 1 --seeds 0 --photos_scale 1 --real_scale 1",
    "benchmarks.finetune": f"{_NERF} --held_out_every 5 --n_sources 2 --threads 1",
    "benchmarks.guided_memory": "--scenes 1 --width 64 --height 64 --rays_per_step 8 --vggt_config toys/sizes.json",
    "benchmarks.peer_scene": "--sizes 64x32 --seeds 0 --threads 1",
    "benchmarks.fuzzing": "--cases 2",
    "benchmarks.reliability": "",
    "benchmarks.samplers": "--samples 2 4",
    "benchmarks.scaling": "--repeats 1 --views 2 3 --sizes 64x32 64x64 --samples 2 3 --threads 1",
    "benchmarks.speed": "--repeats 1 --width 64 --height 32 --threads 1",
    "benchmarks.viewer_latency": "--device cpu --steps 6 --max_side 40",
    "benchmarks.video_stability": "--device cpu --frames 2 --apart 1",
    "benchmarks.voxelization": "--buildings 20 --extent 100 --frames 1",
    "benchmarks.mapanything": "--quick --seeds 0 --steps 2",
    "benchmarks.mapanything_real": "--sets 1",
    "benchmarks.vqa_language": "--steps 2 --rooms 2 --batch 8",
    "benchmarks.mapanything_memory": "--config models/mapanything/configs/rooms.json --size 32 40 --views 2 "
    "--modes forward",
    "benchmarks.occupancy_memory": "--grids 20x20x12 --modes stream --repeats 1",
    "benchmarks.vggt_full_size": "--views 1 --size 14 14",
    "benchmarks.vggt_memory": "--config toys/sizes.json --size 56 56 --frames 2 --modes frozen",
}

NOT_RUN: list[tuple[str, str]] = [
    # pattern at the start of the command -> why it does not run here
    (r"pip install|pre-commit install", "downloads packages"),
    (r"hf auth login", "asks for a token of the reader's"),
    (r"make (demo|test)$", "the Makefile's lines are checked; tests/render/test_demo.py runs the demonstration"),
    (
        r"make demo-reconstruction$|python -m render\.reconstruction_demo",
        "tests/render/test_reconstruction_demo.py runs it",
    ),
    (
        r"python -m benchmarks\.mapanything( |$)",
        "trains for minutes; tests/test_benchmarks_mapanything.py runs it --quick",
    ),
    (
        r"python train_vqa\.py .*(vqa_rooms_merged|tiny_actions\.txt)",
        "trains on shipped weights, which have no toy size; tests/training/vqa/test_shipped.py runs them",
    ),
    (
        r"python -m benchmarks\.reliability ",
        "kills hundreds of runs; tests/training/test_endings.py is its short form",
    ),
    (
        r"python -m benchmarks\.speed --under_load",
        "keeps all cores busy; tests/test_benchmarks_reliability.py runs its parts",
    ),
    (r"ruff |basedpyright|python -m pytest", "the test command itself"),
    (r"cp \S+ ckpts/", "replaces weights that ship"),
    (r"python -m data\.download", "downloads; tests/data/test_download.py fetches from a repository of its own"),
    (
        r"python -m render\.export --from mapanything",
        "downloads; tests/render/export/test_mapanything.py runs it",
    ),
    (r"python -m benchmarks\.fuzzing", "minutes; tests/test_hostile_input.py runs 300 cases, and the command on a few"),
    (r"python -m benchmarks\.covisibility_memory", "starts processes at full size; tests/test_benchmarks.py measures"),
    (r"python -m benchmarks\.occupancy( |$)", "trains for minutes; tests/test_benchmarks.py runs what it is made of"),
    (r"python -m render\.benchmark", "starts processes at full size; tests/render/test_benchmark.py runs it"),
]

OTHER_OPTIONS = {
    # of programs that are not ours, as pages name them: torchrun, Slurm, ruff
    *("help", "check", "nproc_per_node", "nnodes", "node_rank", "rdzv_backend", "rdzv_endpoint", "rdzv_id"),
    *("master_addr", "master_port", "standalone", "ntasks-per-node", "nodes", "gres", "cpus-per-task", "time"),
    *("job-name", "gpus-per-task"),
}
