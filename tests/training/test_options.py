"""Options and txt configs."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from geometry import InputError
from training.cli import parse_options, write_config
from training.mapanything.options import MapAnythingOptions
from training.nerf.options import FinetuneOptions, GeneralOptions
from training.occupancy.options import OccupancyOptions
from training.options import RunOptions, option
from training.vggt.options import VGGTOptions
from training.vqa.options import VQAOptions

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.txt"))


def options_class(config: Path) -> type[RunOptions]:
    if config.parent.name == "mapanything":
        return MapAnythingOptions
    if config.parent.name == "occupancy":
        return OccupancyOptions
    if config.parent.name == "vqa":
        return VQAOptions
    if "finetune" in config.name:
        return FinetuneOptions
    is_general = config.stem == "demo" or "general" in config.name or config.parent.name == "nerf"
    return GeneralOptions if is_general else VGGTOptions


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_understood_completely(config: Path) -> None:
    options = parse_options(options_class(config), "test", ["--config", str(config)])
    written = [line.split("=")[0].strip() for line in config.read_text().splitlines() if "=" in line and line[0] != "#"]
    changed = {name for name in written if getattr(options, name) != getattr(options_class(config), name, None)}
    assert len(written) == len(set(written)) > 5
    assert changed


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_resolved_options_read_back_the_same(config: Path, tmp_path: Path) -> None:
    options = parse_options(options_class(config), "test", ["--config", str(config)])
    write_config(options, tmp_path / "config.txt", "commit abc")
    again = parse_options(options_class(config), "test", ["--config", str(tmp_path / "config.txt")])
    assert again == options


@pytest.mark.parametrize("text", ["/a #1", "/a ; b", "'a'", '"a"', " a", "[a", "a,b", "true", "null", "#", "ä"])
def test_any_text_reads_back_the_same(text: str, tmp_path: Path) -> None:
    options = GeneralOptions(datadir=text, scans=(text, "b"))
    write_config(options, tmp_path / "config.txt", "commit abc")
    assert parse_options(GeneralOptions, "test", ["--config", str(tmp_path / "config.txt")]) == options


@pytest.mark.parametrize("text", ["a\nb", "[a]"])
def test_what_a_config_cannot_hold_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--datadir: expected a value that a config file can hold"):
        write_config(GeneralOptions(datadir=text), tmp_path / "config.txt", "commit abc")


def test_command_line_wins_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "c.txt"
    config.write_text("white_bkgd = True\nlrate = 1e-3\nscans = [scan1, scan2]\nn_views = [2, 5]\n")
    base = parse_options(GeneralOptions, "test", ["--config", str(config)])
    assert (base.white_bkgd, base.lrate, base.scans, base.view_range) == (True, 1e-3, ("scan1", "scan2"), (2, 5))
    more = ["--no-white_bkgd", "--lrate", "2e-3", "--scans", "scan9", "--n_views", "4"]
    options = parse_options(GeneralOptions, "test", ["--config", str(config), *more])
    assert (options.white_bkgd, options.lrate, options.scans, options.view_range) == (False, 2e-3, ("scan9",), (4, 4))


def test_help_shows_a_percent_sign(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Shares:
        share: float = option(0.6, "below 60 % of these, 100%")

    with pytest.raises(SystemExit, match=r"^0$"):
        parse_options(Shares, "Of 50 % too.", ["--help"])
    shown = capsys.readouterr().out
    assert "below 60 % of these, 100% (default: 0.6)" in shown
    assert "Of 50 % too." in shown


def test_a_list_can_be_emptied(tmp_path: Path) -> None:
    """On the command line against a config, and in a config; what comes behind the bare option is not taken for it."""
    frozen = ["--config", str(ROOT / "configs" / "vggt" / "co3d.txt")]
    assert parse_options(VGGTOptions, "test", frozen).freeze == ("*aggregator*",)
    options = parse_options(VGGTOptions, "test", [*frozen, "--freeze", "--lora_rank", "16"])
    assert (options.freeze, options.lora_rank, options.dataset_name) == ((), 16, ("co3d",))
    assert parse_options(VGGTOptions, "test", ["--lora_rank", "16", "--freeze", *frozen]).freeze == ()
    config = tmp_path / "c.txt"
    config.write_text("freeze = []\nscans = [ ]\n")
    assert parse_options(VGGTOptions, "test", ["--config", str(config)]).freeze == ()
    again = parse_options(VGGTOptions, "test", ["--config", str(config), "--freeze", "camera_head*"])
    assert (again.freeze, again.scans) == (("camera_head*",), ())


@pytest.mark.parametrize("name", ["n_views", "aspect", "dataset_name", "datadir", "len_train"])
def test_a_list_that_needs_a_value_is_refused_without_one(name: str, tmp_path: Path) -> None:
    config = tmp_path / "c.txt"
    config.write_text(f"{name} = []\n")
    for arguments in ([f"--{name}"], ["--config", str(config)], [f"--{name}", "--seed", "1"]):
        with pytest.raises(InputError, match=f"^--{name}: expected at least one value, got none$"):
            parse_options(VGGTOptions, "test", arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--n_sampels", "3"], "--n_sampels"),
        (["--N_sample", "3"], "--N_sample"),
        (["--lrate", "fast"], "--lrate"),
        (["--lrate", "-1"], "--lrate"),
        (["--lrate", "inf"], "--lrate"),
        (["--muon_lrate", "-1"], "--muon_lrate"),
        (["--muon_lrate", "inf"], "--muon_lrate"),
        (["--imgScale_train", "0.5", "0"], "--imgScale_train"),
        (["--imgScale_train", "0.5", "nan"], "--imgScale_train"),
        (["--n_views", "1"], "--n_views"),
        (["--n_views", "5", "3"], "--n_views"),
        (["--rays_per_step", "0"], "--rays_per_step"),
        (["--max_steps", "0"], "--max_steps"),
        (["--expname", "a/b"], "--expname"),
        (["--expname", ".."], "--expname"),
        (["--expname", "run_{scan}"], r"--expname 'run_\{scan\}': expected placeholders among .*, got 'scan'"),
        (["--expname", "run_{}"], "--expname"),
        (["--expname", "run_{scans!r}"], "--expname"),
        (["--expname", "run_{scans"], "--expname"),
        (["--expname", "run_{scans}", "--scans", *(f"scan{i}" for i in range(60))], "--expname.*at most 255 bytes"),
        (["--config", "absent.txt"], "absent.txt"),
    ],
)
def test_bad_options_stop_by_name(arguments: list[str], named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        parse_options(GeneralOptions, "test", arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "arguments", "name"),
    [
        (GeneralOptions, ["--expname", "run_{scans}", "--scans", "scan4"], "run_scan4"),
        (GeneralOptions, ["--expname", "{dataset_name}_{scans}", "--scans", "scan4", "scan1"], "dtu_scan4-scan1"),
        (GeneralOptions, ["--expname", "{dataset_name}_{scans}"], "dtu_all"),
        (GeneralOptions, ["--expname", "{scans}", "--scans", "apple/110_13_23"], "apple_110_13_23"),
        (VGGTOptions, ["--expname", "v_{dataset_name}", "--dataset_name", "co3d", "dtu"], "v_co3d-dtu"),
    ],
)
def test_runs_name_themselves(cls: type[RunOptions], arguments: list[str], name: str, tmp_path: Path) -> None:
    more = ["--datadir", "a", "b"] if "co3d" in arguments else []
    options = parse_options(cls, "test", [*arguments, *more, "--basedir", str(tmp_path)])
    assert options.run_dir == tmp_path / name
    write_config(options, tmp_path / "config.txt", "commit abc")
    assert f"expname = {name}\n" in (tmp_path / "config.txt").read_text()


@pytest.mark.parametrize(
    "config", sorted((ROOT / "configs" / "nerf").glob("*finetune.txt")), ids=lambda path: path.stem
)
def test_shipped_fine_tuning_runs_are_named_after_their_scan(config: Path) -> None:
    options = parse_options(FinetuneOptions, "test", ["--config", str(config), "--scans", "scan4", "--init_from", "c"])
    assert options.expname.endswith("_scan4")


def test_misspelt_key_in_a_file_stops_by_name(tmp_path: Path) -> None:
    config = tmp_path / "c.txt"
    config.write_text("lrte = 1e-3\n")
    with pytest.raises(InputError, match="lrte"):
        parse_options(GeneralOptions, "test", ["--config", str(config)])


def test_finetuning_needs_a_start() -> None:
    with pytest.raises(InputError, match="--init_from"):
        parse_options(FinetuneOptions, "test", ["--scans", "scan1"])


def test_older_names_of_options_keep_working(tmp_path: Path) -> None:
    config = tmp_path / "c.txt"
    config.write_text("distrust = 0.25\ndepth_prior = True\n")
    assert parse_options(GeneralOptions, "test", ["--config", str(config)]).backbone_dropout == 0.25
    assert parse_options(GeneralOptions, "test", ["--depth_prior", "--distrust", "0.5"]).backbone_dropout == 0.5


def test_a_word_without_a_name(tmp_path: Path) -> None:
    """It may stand before or behind the options; it is none itself, in a config neither."""

    @dataclass(frozen=True)
    class Copy:
        source: str = option("", "what to copy", is_positional=True)
        size: int = option(3, "its size")

    assert parse_options(Copy, "test", ["a b", "--size", "5"]) == Copy("a b", 5)
    assert parse_options(Copy, "test", ["--size", "5", "a"]) == Copy("a", 5)
    assert parse_options(Copy, "test", []) == Copy()
    with pytest.raises(InputError, match="second"):
        parse_options(Copy, "test", ["first", "second"])
    with pytest.raises(InputError, match="--source"):
        parse_options(Copy, "test", ["--source", "a"])


def test_help_stands_in_groups_by_the_class_that_has_the_option(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        parse_options(_Child, "a script", ["--help"])
    text = capsys.readouterr().out
    own, base = text.index("The child's:"), text.index("The base's:")
    assert text.count("--length") == 1
    assert own < text.index("--width INT") < base < text.index("--length INT")
    assert "pixels (default: 7)" in text
    assert "scan names (default: a b)" in text  # as it is typed
    assert "none: all\n" in text


@dataclass(frozen=True)
class _Base:
    """The base's."""

    length: int = option(3, "pixels")
    scans: tuple[str, ...] = option(("a", "b"), "scan names", nargs="+")
    views: tuple[int, ...] = option((), "none: all", nargs="*")


@dataclass(frozen=True)
class _Child(_Base):
    """The child's.

    It has another length.
    """

    width: int = option(5, "pixels")
    length: int = option(7, "pixels")
