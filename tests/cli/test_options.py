"""The command line: its options are frozen here, its manners are those of interface.md."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from selectivemae.cli.common import settings_from
from selectivemae.cli.main import main
from selectivemae.core.config import read_recipe, recipe_names
from selectivemae.core.errors import ConfigError
from selectivemae.pretrain.config import PretrainConfig
from selectivemae.probing.run import ProbeConfig

COMMON = "config json quiet verbose"
BOXES = """
    recipe resume overwrite data out weights layout train-split test-split tile overlap difficult
    image-size neck-width head-width checkpointing drop-path epochs batch-size micro-batch
    lr milestones lr-factor warmup-steps layer-decay weight-decay betas clip-grad
    flips rotation photometric device precision workers seed seeds
    eval-every log-every checkpoint-minutes checkpoint-steps keep
"""
# What users and their scripts rely on: a name may be added here, and goes only with a line in CHANGELOG.md.
OPTIONS = {
    "pretrain": f"""
        {COMMON} recipe resume overwrite dry-run
        data data-root out
        model method image-size patch-size channels decoder-depth self-attention norm-pix residual-init init
        mask-ratio reconstruction-ratio richness target-richness richness-mode temperature order phase-boundaries
        early-sizes early-share compile
        epochs samples-seen minutes batch-size micro-batch
        lr base-lr lr-scale-by-tokens min-lr warmup-epochs weight-decay betas clip-grad prune-ratio prune-until
        crop-scale turns dct-scaling device precision workers seed gradient-precision meet-timeout hang-timeout
        shard recompute gpu-decode
        log-every checkpoint-minutes checkpoint-steps keep keep-every probe-data probe-every picture-every track
    """,
    "probe": f"{COMMON} data layout image-size pool k seed baselines workers device",
    "demo": "data json minutes out overwrite quiet seed",
    "inspect": "data out query text top weights",
    "data list": "json",
    "data get": "json out quiet",
    "data pack": "channels data-root json out overwrite quiet resume size workers",
    "data check": "json quiet sample threads",
    "curate run": """
        against chunk-members chunk-mib config decisions dry-run encoding engine json max-quarantine name out overwrite
        preset quiet resume review seed shard-mib shard-samples sources temporal verbose worker-memory-gib workers
    """,
    "curate add": """
        against chunk-members chunk-mib config decisions encoding engine json max-quarantine name out preset quiet
        review seed shard-mib shard-samples sources temporal verbose worker-memory-gib workers
    """,
    "curate verify": "deep json",
    "curate compact": "json",
    "curate rebuild": "data json out overwrite resume workers",
    "export": "image-size json out overwrite quiet to verbose",
    "push": "json message private quiet verbose",
    "weights list": "json",
    "weights get": "file json quiet verbose",
    "finetune classify": """
        base-lr batch-size betas checkpoint-minutes checkpoint-steps clip-grad config crop-scale crop-share
        cutmix data device drop-last drop-path epochs erasing eval-every image-size json keep layer-decay
        layout lists log-every lr micro-batch min-lr mix-share mixup out overwrite pool precision quiet
        rand-augment recipe resume seed seeds smoothing split split-seed test-share turns verbose
        warmup-epochs weight-decay weights workers
    """,
    "finetune detect": f"{COMMON} {BOXES}",
    "finetune oriented": f"{COMMON} {BOXES}",
    "finetune segment": f"""
        {COMMON} recipe resume overwrite data out weights layout classes images masks bands split val-share split-seed
        crop stride taps head-width aux-weight checkpointing drop-path
        steps batch-size micro-batch train-on lr min-lr warmup-steps layer-decay weight-decay betas clip-grad
        class-weights scale resize most turns photometric device precision workers seed seeds
        eval-every log-every checkpoint-minutes checkpoint-steps keep
    """,
    "bench model": """
        against batch-size compile config decoder-depth device image-size json memory method micro-batch model order
        precision richness rounds
    """,
    "bench train": """
        against batch-size compile config data data-root decoder-depth device image-size json memory method micro-batch
        model order precision richness rounds steps trace workers
    """,
    "compare": """
        batch-size config data device dry-run epochs image-size json out overwrite quiet recipe resume seed
        seeds steps tasks verbose weights workers
    """,
    "evaluate": """
        batch-size classes config data device ground-truth images json lists masks out overwrite part precision
        predictions quiet split split-seed submission task test-share verbose workers
    """,
    "predict": """
        area bands batch-size config device image json merge-iou min-pixels min-score nodata only out overlap overwrite
        precision probabilities quiet range resume simplify verbose
    """,
    "embed": """
        area bands batch-size config data device image image-size json layout nodata out overlap overwrite part-size
        pool query quiet range resume verbose workers
    """,
}


def help_of(*command: str) -> tuple[str, float]:
    """The help text of a command in a process of its own, and the CPU seconds that it took."""
    code = (
        "import resource, sys; from selectivemae.cli.main import main; code = main(sys.argv[1:]);"
        "used = resource.getrusage(resource.RUSAGE_SELF); print('CPU', used.ru_utime + used.ru_stime);"
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    environment = os.environ | {"COLUMNS": "500"}
    out = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True, check=True, env=environment
    ).stdout
    text, _, used = out.rpartition("CPU ")
    return text, float(used)


def options_in(text: str) -> set[str]:
    """The long options of a help text's rows, under their first names."""
    return set(re.findall(r"^\W*--([a-z][a-z-]*)", text, re.MULTILINE))


@pytest.mark.parametrize("command", OPTIONS)
def test_the_list_of_options_is_frozen(command: str) -> None:
    text, _ = help_of(*command.split())
    assert "Example: selectivemae" in text
    assert sorted(options_in(text)) == sorted(OPTIONS[command].split())


@pytest.mark.parametrize("kind", [PretrainConfig, ProbeConfig])
def test_every_setting_is_described(kind: type) -> None:
    assert [name for name, field in kind.model_fields.items() if not field.description] == []


def test_no_help_needs_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'timm', 'torchvision'): sys.modules[name] = None\n"
        "from selectivemae.cli.main import main\n"
        f"for command in {list(OPTIONS)!r}: assert main([*command.split(), '--help']) == 0, command"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", [(), *(tuple(name.split()) for name in OPTIONS)])
def test_help_takes_under_half_a_second(command: tuple[str, ...]) -> None:
    assert any(help_of(*command)[1] < 0.5 for _ in range(5))  # a busy machine is slow now and then


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the one line on stderr."""
    code = main(list(arguments))
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("selectivemae: ")
    return code, err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pretrain", "--imge-size", "96"), "--image-size"),
        (("pretrain", "--epoch", "3"), "--epochs"),
        (("probe", "random:vit_tiny_patch16", "--dat", "x"), "--data"),
        (("pretrian",), "pretrain"),
        (("pretrain", "--method", "simclr"), "selectivemae"),
        (("pretrain", "--richness", "sobel"), "hog"),
        (("pretrain", "--epochs", "many"), "--epochs"),
        (("pretrain", "--image-size", "0"), "--image-size"),
        (("pretrain", "--mask-ratio", "1.5"), "--mask-ratio"),
        (("pretrain", "--data", "x"), "--out"),
        (("pretrain", "--out", "x"), "--data"),
        (("pretrain", "--epochs", "1", "--minutes", "1", "--data", "x", "--out", "y"), "give one of --epochs"),
        (("pretrain", "--recipe", "papre", "--data", "x", "--out", "y"), "did you mean 'paper'"),
        (("pretrain", "--config", "/nowhere.yaml"), "cannot read /nowhere.yaml"),
        (("pretrain", "--minutes", "1", "--warmup-epochs", "2"), "--warmup-epochs needs"),
        (("pretrain", "--crop-scale", "0.9", "0.1"), "--crop-scale"),
        (("pretrain", "--workers", "-1"), "--workers"),
        (("probe",), "WEIGHTS"),
        (("probe", "random:vit_tiny_patch16"), "--data"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(capsys, tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    code, line = run(capsys, *arguments)
    assert code == 2
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_key_of_a_config_file_is_named(capsys, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("data: [images]\nout: run\nimge-size: 96\n")
    code, line = run(capsys, "pretrain", "--config", str(file))
    assert code == 2
    assert "unknown key 'imge_size', did you mean 'image_size'?" in line
    assert str(file) in line
    file.write_text("data: [\n")
    code, line = run(capsys, "pretrain", "--config", str(file))
    assert code == 2
    assert f"{file}, line 2 is no valid YAML" in line
    file.write_text("- 1\n")
    assert run(capsys, "pretrain", "--config", str(file))[0] == 2


def test_order_of_strength(tmp_path: Path) -> None:
    """defaults < recipe < a resumed run's own < config file < flags."""
    file = tmp_path / "c.yaml"
    file.write_text("image-size: 64\nseed: 5\n")
    flags = PretrainConfig(seed=7)
    recipe = read_recipe("pretrain", "paper")
    settled = settings_from(PretrainConfig, "pretrain", flags, "paper", file, {"image_size": 32, "batch_size": 16})
    assert settled.seed == 7  # flag over file
    assert settled.image_size == 64  # file over saved
    assert settled.batch_size == 16  # saved over recipe
    assert settled.model == recipe["model"] == "vit_base_patch16"  # recipe over default
    assert settled.temperature == PretrainConfig().temperature  # default


def test_a_length_replaces_one_of_another_kind_in_a_weaker_layer(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("minutes: 3\n")
    saved = {"epochs": 100.0, "samples_seen": None, "minutes": None}
    by_file = settings_from(PretrainConfig, "pretrain", None, None, tmp_path / "c.yaml", saved)
    assert (by_file.epochs, by_file.samples_seen, by_file.minutes) == (None, None, 3)
    by_flag = settings_from(PretrainConfig, "pretrain", PretrainConfig(samples_seen=9), "paper", tmp_path / "c.yaml")
    assert (by_flag.epochs, by_flag.samples_seen, by_flag.minutes) == (None, 9, None)
    with pytest.raises(ConfigError, match="give one of --epochs, --minutes, not several"):
        PretrainConfig.build({"epochs": 1, "minutes": 1})


@pytest.mark.parametrize("name", recipe_names("pretrain"))
def test_recipes_are_valid_and_say_what_the_method_says(name: str) -> None:
    settled = settings_from(PretrainConfig, "pretrain", None, name)
    assert (settled.mask_ratio, settled.reconstruction_ratio, settled.decoder_depth) == (0.85, 0.25, 12)
    assert (settled.batch_size, settled.epochs, settled.warmup_epochs) == (2048, 800, 30)
    assert (settled.base_lr, settled.weight_decay, settled.betas, settled.clip_grad) == (1.5e-4, 0.05, (0.9, 0.95), 1.0)
    assert (settled.prune_ratio, settled.prune_until, settled.order) == (0.5, 0.875, "near-far-random")
    assert settled.lr_scale_by_tokens
    assert settled.richness == {"paper": "uniform", "paper-text": "hog"}[name]


def test_settings_can_be_given_back(tmp_path: Path) -> None:
    first = PretrainConfig.build({"data": ["a"], "out": "b", "epochs": 2, "betas": [0.5, 0.6]})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(first.settled()))
    again = settings_from(PretrainConfig, "pretrain", None, None, tmp_path / "config.yaml")
    assert again.settled() == first.settled()


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="known: paper, paper-text"):
        read_recipe("pretrain", "x")
