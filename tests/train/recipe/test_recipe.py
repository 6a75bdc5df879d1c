"""Recipes and the command line: complete, validated at once, overridable, and clear about what is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from store.errors import InvalidConfig, InvalidInput, MissingFile
from tests.train.builders import build_cache, tiny
from train.__main__ import main
from train.recipe.config import Recipe, changed, from_mapping, overridden
from train.recipe.named import RECIPES, find


@pytest.mark.parametrize("name", RECIPES)
def test_named_recipes_survive_json(name: str) -> None:
    recipe = find(name)
    assert recipe.name == name
    assert Recipe.model_validate_json(recipe.to_json()) == recipe


def test_dune_recipes_follow_the_released_budget() -> None:
    first, second = find("dune-base-336"), find("dune-base-448")
    assert first.steps == 250_228  # 100 x 1,281,167 images in batches of 512, made even
    assert second.steps == 125_114
    assert (first.optim.lr, second.optim.lr) == (3e-4, 5e-5)
    assert (first.student.image_size, second.student.image_size) == (336, 448)
    assert second.start.required
    assert not first.start.required


def test_every_problem_is_listed_with_its_path_and_a_suggestion() -> None:
    data = {
        "optim": {"lrr": 1, "weight_decay": -1, "betas": [0.9, 1.0]},
        "loss": {"cosine": 0, "smooth_l1": 0},
        "sharing": {"mode": "ful"},
        "dat": {},
    }
    with pytest.raises(InvalidConfig) as caught:
        from_mapping(data, subject="recipe 'x'")
    message = str(caught.value)
    assert len(caught.value.problems) == 6
    assert "optim.lrr: unknown key (did you mean 'lr'?)" in message
    assert "dat: unknown key (did you mean 'data'?)" in message
    assert "loss: both weights are 0" in message
    for part in ("optim.weight_decay", "-1", "optim.betas[1]", "sharing.mode", "'ful'"):
        assert part in message


def test_overrides_take_dotted_and_nested_keys() -> None:
    recipe = overridden(find("demo"), {"optim.lr": 0.5, "data": {"batch": 7, "teachers": ["a"]}}, subject="x")
    assert (recipe.optim.lr, recipe.data.batch, recipe.data.teachers) == (0.5, 7, ("a",))
    assert recipe.schedule == find("demo").schedule


def test_a_toml_recipe_builds_on_a_named_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "demo"\n[optim]\nlr = 0.25\n[data]\nbatch = 12\n')
    recipe = find(str(path))
    assert (recipe.name, recipe.optim.lr, recipe.data.batch) == ("mine", 0.25, 12)
    assert recipe.student == find("demo").student
    path.write_text('base = "demi"\n')
    with pytest.raises(InvalidConfig, match=r"unknown recipe 'demi'.*did you mean 'demo'"):
        find(str(path))
    with pytest.raises(MissingFile, match="nowhere"):
        find("nowhere.toml")


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'dune-base-336'"):
        find("dune-bas-336")


def test_only_what_no_number_depends_on_may_change_on_resume() -> None:
    assert changed(tiny(), tiny(machine__readers=7, log__fidelity_every_steps=1, checkpoint__keep=9)) == []
    assert changed(tiny(), tiny(optim__lr=1.0, data__batch=2)) == [
        "data.batch: stored 6, asked 2",
        "optim.lr: stored 0.02, asked 1.0",
    ]


def test_the_command_line_trains_refuses_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_cache(tmp_path / "cache")
    run = ["run", "tiny", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]
    short = ["--schedule.steps", "2", "--log.fidelity-every-steps", "0"]
    assert main([*run, *short]) == 0
    output = capsys.readouterr()
    assert "trained 2 steps" in output.out
    assert "host memory for 6 x 0.00 MB x 3 batches: 0 MB" in output.err  # of a tiny cache
    assert main([*run, *short]) == 2
    assert "Pass --resume to continue it, --overwrite to delete it, or choose another --out" in capsys.readouterr().err
    assert main([*run, *short, "--resume", "--optim.lr", "3"]) == 2
    assert "optim.lr: stored 0.02, asked 3.0" in capsys.readouterr().err
    assert main([*run, *short, "--resume"]) == 0
    assert main([*run, "--overwrite", "--schedule.steps", "1"]) == 0


def test_bad_input_is_one_message_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_cache(tmp_path / "cache")
    run = ["run", "tiny", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]
    assert main([*run, "--optim.lr", "-1", "--data.batch", "0"]) == 2
    message = capsys.readouterr().err
    assert "2 problems" in message
    assert "optim.lr" in message
    assert "data.batch" in message
    assert main(["run", "tinny", *run[2:]]) == 2
    assert "did you mean 'tiny'" in capsys.readouterr().err
    assert main([*run, "--data.teachers", "alfa", "--student.image-size", "30"]) == 2
    message = capsys.readouterr().err
    assert "'alfa' is not in this cache (did you mean 'alpha'?); available: alpha, beta" in message
    assert "for 30 px, the cache has 28 px" in message
    wrong = ["--student.num-heads", "5", "--data.subset", "vieww < 4", "--start.checkpoint", "nowhere"]
    assert main([*run, *wrong, "--data.teachers", "alfa"]) == 2
    message = capsys.readouterr().err
    assert "4 problems" in message
    for part in ("num_heads 5: does not divide", "unknown column 'vieww'", "'nowhere' does not exist", "'alfa'"):
        assert part in message
    assert main([*run, "--projector.kind", "lp", "--projector.which-blocks", "5", "--start.required"]) == 2
    message = capsys.readouterr().err
    assert "2 problems" in message
    assert "projector: which_blocks [5]" in message
    assert "Name what to start from" in message
    assert main([*run, "--optim.lrr", "1"]) == 2
    assert "unknown option '--optim.lrr' (did you mean '--optim.lr'?)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_help_needs_no_torch() -> None:
    script = (
        "import sys; from train.__main__ import main\ntry: main(['run', 'demo', '--help'])\nexcept SystemExit: pass\n"
    )
    script += "assert 'torch' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "codistill train run demo --cache" in shown.stdout


HUGE = {
    "seed.toml": ('base = "tiny"\nseed = 0x' + "f" * 9000, "seed: input should be less than 9223372036854775808"),
    "digits.toml": ('base = "tiny"\nseed = ' + "9" * 9000, "not valid TOML: Exceeds the limit"),
    "digits.json": ('{"base": "tiny", "seed": ' + "9" * 9000 + "}", "is out of bounds"),
    "deep.json": ('{"a":' * 100_000, "nested deeper than 64 levels"),
    "deep.toml": ('base = "tiny"\na = ' + "[" * 100_000, "nested deeper than 64 levels"),
    "dotted.toml": ('base = "tiny"\n' + ".".join(["a"] * 5000) + " = 1", "nested deeper than 64 levels"),
    "list.json": ("[1]", "expected a JSON object"),
    "base.json": ('{"base": ["tiny"]}', "base: unknown recipe"),
    "batch.toml": ('base = "tiny"\ndata.batch = 1000000000000', "data.batch: input should be less than"),
    "steps.toml": ('base = "tiny"\nschedule.steps = 1000000000000', "schedule.steps: input should be less than"),
    "epochs.toml": ('base = "demo"\nschedule = { epochs = 1e300, steps = 9 }', "schedule.epochs: input should be less"),
    "more.toml": ('base = "dune-base-336"\nschedule.epochs = 1e9', r"schedule.epochs: 1e\+09 are more than 10,000,000"),
    "width.toml": (
        'base = "tiny"\nstudent.embed_dim = 100000000000000',
        "student.embed_dim: input should be less than",
    ),
    "lr.toml": ('base = "tiny"\noptim.lr = 1e308', "optim.lr: input should be less than"),
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_numbers_and_nesting_are_one_clear_refusal(name: str, tmp_path: Path) -> None:
    text, message = HUGE[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidConfig, match=message) as caught:
        find(str(tmp_path / name))
    assert len(str(caught.value)) < 600


def test_what_no_memory_holds_is_refused_before_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_cache(tmp_path / "cache")
    run = ["run", "tiny", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]
    assert main([*run, "--student.embed-dim", "65536", "--student.depth", "20"]) == 2
    assert (
        "billion parameters need 17.3 TB (weights, gradients, AdamW's moments), this machine has"
        in capsys.readouterr().err
    )
    assert main([*run, "--data.batch", "1000000", "--machine.prefetch", "1000"]) == 2
    assert "data.batch: 1,000,000 images of 2.53 kB, 1001 batches at once, need 2.53 TB" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
