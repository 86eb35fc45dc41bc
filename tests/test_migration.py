"""docs/migration.md names every option of the originals, and nothing of ours that does not exist."""

import re

import pytest

from tests.documented.extract import ROOT
from tests.documented.workspace import option_names

PAGE = (ROOT / "docs" / "migration.md").read_text()
TRAIN = ("train_general", "train_finetune")
MVSNERF = """
config expname basedir datadir with_depth with_depth_loss with_rgb_loss imgScale_train imgScale_test
img_downscale pad batch_size num_epochs pts_dim dir_dim alpha_feat_dim net_type dataset_name use_color_volume
use_density_volume use_casmvs netdepth netwidth netdepth_fine netwidth_fine lrate decay_step decay_gamma
lr_scheduler warmup_epochs chunk netchunk ckpt N_samples N_importance use_disp perturb use_viewdirs i_embed
multires multires_views raw_noise_std white_bkgd N_vis depth_loss vggt_ckpt freeze_vggt val_check_interval
check_val_every_n_epoch num_workers scan
"""
"""Options of opt.py, of both repositories."""
VGGT = """
exp_name img_size num_workers seed_value accum_steps patch_size val_epoch_freq max_img_per_gpu
limit_train_batches limit_val_batches max_epochs dataset_configs split CO3D_DIR CO3D_ANNOTATION_DIR VKitti_DIR
len_train len_test expand_ratio shuffle pin_memory fix_img_num fix_aspect_ratio load_track track_num training
inside_random rescale rescale_aug landscape_check debug get_nearby load_depth img_nums allow_duplicate_img
repeat_batch cojitter cojitter_ratio scales aspects color_jitter gray_scale gau_blur log_dir log_visuals
log_freq log_level_primary log_level_secondary all_ranks tensorboard_writer scalar_keys_to_log save_dir
save_freq resume_checkpoint_path strict camera.weight loss_type depth.weight gradient_loss_fn valid_range
point track param_group_modifiers optimizer.lr optimizer.weight_decay frozen_module_names amp.enabled
amp_dtype gradient_clip.configs options.lr options.weight_decay enable_camera enable_depth enable_point
enable_track backend comms_dtype find_unused_parameters timeout_mins gradient_as_bucket_view bucket_cap_mb
broadcast_buffers cudnn_deterministic cudnn_benchmark allow_tf32
"""
"""Keys of default.yaml and default_dataset.yaml; of those that occur twice with the section."""


def rows(title: str) -> list[list[str]]:
    """Cells of the table below a heading."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (text,) = (one for one in section if one.startswith(f"{title}\n"))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[1:]]


SECTIONS = {
    "Scripts and notebooks": TRAIN,
    "Options of opt.py": TRAIN,
    "Checkpoints and outputs": TRAIN,
    "Data": TRAIN,
    "VGGT's training": ("train_vggt",),
}
OURS = [(title, row[0], row[1]) for title in SECTIONS for row in rows(title)]


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def scripts_of(word: str) -> list[str]:
    """`render.evaluate` or `train_vggt.py` as a module."""
    name = word.removesuffix(".py")
    return [name] if re.fullmatch(r"(render|data|benchmarks)\.\w+|train_\w+", name) else []


@pytest.mark.parametrize("name", MVSNERF.split())
def test_every_option_of_mvsnerf_has_a_row(name: str) -> None:
    assert f"--{name}" in {span.split()[0] for row in rows("Options of opt.py") for span in spans(row[0])}


@pytest.mark.parametrize("name", VGGT.split())
def test_every_key_of_vggts_training_has_a_row(name: str) -> None:
    keys = [span for row in rows("VGGT's training") for span in spans(row[0])]
    assert any(f".{key}".endswith(f".{name}") for key in keys)


@pytest.mark.parametrize(("title", "theirs", "ours"), OURS, ids=[row[1] for row in OURS])
def test_what_is_ours_exists(title: str, theirs: str, ours: str) -> None:
    assert ours
    for span in spans(ours):
        words = span.split()
        scripts = scripts_of(words[0]) or list(SECTIONS[title])
        for script in scripts_of(words[0]):
            path = ROOT / script.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), span
        for option in (word[2:] for word in words if word.startswith("--")):
            if option == "config" and len(words) > 1:
                continue
            assert option in set().union(*(option_names(script) for script in scripts)), span
        if "/" in span and not span.startswith(("train/", "val/")) and "<" not in span and "*" not in span:
            assert (ROOT / span).exists(), span


def test_what_is_not_there_says_why() -> None:
    assert [row[0] for title in SECTIONS for row in rows(title) if row[1] == "-" and len(row) < 3] == []
