"""The command: which runs, that none runs twice, that any stop continues, and what is written."""

import csv
import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_main import accuracy

from vmae_jax.config import ConfigError
from vmae_jax.data.records import open_dataset
from vmae_jax.data.shards import ShardWriter
from vmae_jax.study import jobs, settings

ROOT = Path(__file__).parents[2]
STUDY = """
from vmae_jax.study import settings
def get_config(arg=""):
    study = settings.defaults()
    study.pretrain.recipe = "configs/pretrain_synthetic.py"
    study.pretrain.settings = {{"train": {{"steps": 7}}}}
    study.arms = {{
        "good": {{"dataset": "{data}", "splits": ("a", "b", "c")}},
        "poor": {{"dataset": "{data}", "splits": ("a+b",)}},
    }}
    place = {{"data": {{"dataset": "{data}", "split": "c"}}, "eval": {{"split": "a"}}}}
    study.benchmarks = {{"test": {{"recipe": "configs/finetune_synthetic.py", "settings": place}}}}
    study.seeds = (0, 1)
    return settings.recipe(study, arg)
"""
COUNTS = {"a": 2, "b": 6, "c": 24}
PRETRAINING = [
    f"{of}_seed{seed}/pretrain"
    for seed in (0, 1)
    for of in ("good_2", "good_8", "good_32", "poor_8")
]
FINETUNING = [
    f"{of}_seed{seed}/finetune_test"
    for seed in (0, 1)
    for of in ("good_2", "good_8", "good_32", "poor_8", "scratch")
]


@pytest.fixture
def study(tmp_path):
    """A study's file beside an empty folder for it; its data sets have no real videos."""
    data = tmp_path / "data"
    data.mkdir()
    for split, count in COUNTS.items():
        with ShardWriter(data / f"videos-{split}.tfrecord-00000-of-00001") as writer:
            for i in range(count):
                writer.write(f"{split}{i}".encode())
    splits = [{"name": name, "shardLengths": [str(n)]} for name, n in COUNTS.items()]
    (data / "dataset_info.json").write_text(json.dumps({"name": "videos", "splits": splits}))
    (tmp_path / "runs").mkdir()
    (tmp_path / "study.py").write_text(STUDY.format(data=data))
    return tmp_path


def start(study, *flags, folder="runs", **environment):
    return subprocess.Popen(
        [
            sys.executable, "tests/study/fake_study.py", f"--config={study}/study.py",
            f"--folder={study / folder}", *flags,
        ],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def run(study, *flags, status=0, folder="runs", **environment):
    process = start(study, *flags, folder=folder, **environment)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == status, output
    return output


def calls(study, folder="runs"):
    path = study / folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def loaded(study, **changes):
    """The study's settings, changed by dotted keys."""
    exec(compile((study / "study.py").read_text(), "study", "exec"), found := {})
    values = found["get_config"]().to_dict()
    for key, value in changes.items():
        *groups, last = key.split("__")
        target = values
        for group in groups:
            target = target[group]
        target[last] = value
    return settings.from_config_dict(values)


def test_everything_runs_once_and_is_written(study):
    output = run(study)
    assert sorted(calls(study)) == sorted(PRETRAINING + FINETUNING)
    first_half = calls(study)[:9]
    assert {name.split("/")[0][-1] for name in first_half} == {"0"}, "a seed after the other"
    again = run(study)
    assert sorted(calls(study)) == sorted(PRETRAINING + FINETUNING), "nothing runs twice"
    assert output.splitlines()[-20:] == again.splitlines()[-20:]
    with open(study / "runs/study.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(FINETUNING)
    for row in rows:
        expected = accuracy(row["arm"], int(row["clips"]), int(row["seed"]))
        assert float(row["top1"]) == pytest.approx(expected)
    found = json.loads((study / "runs/study.json").read_text())
    (law,) = found["laws"]
    assert law["arm"] == "good"
    assert law["limit"]["value"] == pytest.approx(80, abs=0.5)
    assert law["limit"]["low"] < 80.1 < law["limit"]["high"]
    (arms,) = found["arms"]
    assert arms["gain"]["value"] == pytest.approx(10)
    assert [round(d["gain"]["value"], 2) for d in found["doublings"]] == [10.0, 5.0]
    text = (study / "runs/study.md").read_text()
    assert "10 of 10 runs are done" in text
    assert "| good | 32 | 2 | 70.1 |" in text
    assert (study / "runs/study.png").read_bytes().startswith(b"\x89PNG")


def test_one_run_per_index_ends_in_the_same_files(study):
    few = ("--config.seeds=(1,)", "--config.scratch=False", "--config.arms.good.splits=('a',)")
    run(study, *few)
    listed = run(study, *few, "--list", folder="single").splitlines()
    assert listed[0].split()[:2] == ["0", "ready"]
    assert listed[2].split()[:2] == ["2", "waiting"]
    assert listed[-1] == "--index=0 to 1 have to be done before 2 to 3."
    (study / "single").mkdir()
    for index in range(4):
        run(study, *few, f"--index={index}", folder="single")
    names = [f"{of}_seed1" for of in ("good_2", "poor_8")]
    expected = [f"{name}/{job}" for job in ("pretrain", "finetune_test") for name in names]
    assert calls(study, "single") == expected
    assert sorted(calls(study)) == sorted(expected)
    assert "is done" in run(study, *few, "--index=3", folder="single")
    assert len(calls(study, "single")) == 4
    run(study, *few, "--results", folder="single")
    for name in ("study.md", "study.png"):
        assert (study / "single" / name).read_bytes() == (study / "runs" / name).read_bytes()


def test_the_command_of_a_run_is_what_a_user_types(study):
    (line,) = run(study, "--dry_run", "--index=16").splitlines()
    words = shlex.split(line)[2:]
    runs = study / "runs"
    assert words[:2] == [
        "--config=configs/finetune_synthetic.py",
        f"--workdir={runs}/poor_8_seed1/finetune_test",
    ]
    assert f"--config.init_from={runs}/poor_8_seed1/pretrain" in words
    assert {"--config.seed=1", "--config.eval.split=a", "--config.data.split=c"} < set(words)
    assert calls(study) == []


def test_a_failed_run_stops_the_study_and_the_same_command_continues(study):
    few = ("--config.scratch=False", "--config.arms.good.splits=('a',)")
    (study / "runs/fail_1").touch()
    output = run(study, *few, status=1)
    assert "good, 2 clips, seed 1: pre-training ended with status 1" in output
    done = calls(study)
    assert "2 of 4 runs are done" in (study / "runs/study.md").read_text()
    assert "begun    good, 2 clips, seed 1" in run(study, *few, "--list")
    (study / "runs/fail_1").unlink()
    run(study, *few)
    half, rest = done[-1], calls(study)[len(done) :]
    assert rest[0] == half == "good_2_seed1/pretrain"
    assert not set(done[:-1]) & set(rest), "what is done is not run again"
    assert "4 of 4 runs are done" in (study / "runs/study.md").read_text()


def test_a_killed_study_does_not_run_a_job_twice_at_once(study):
    """The run outlives its parent, is left alone while it works, and its work is not lost."""
    (study / "runs/wait").touch()
    few = ("--config.seeds=(0,)", "--config.scratch=False")
    process = start(study, *few)
    wait_for(lambda: calls(study))
    process.kill()
    process.wait()
    process.stdout.close()  # the run still holds the other end
    message = run(study, *few, "--index=0", status=1)
    assert "is run by another process" in message
    (study / "runs/wait").unlink()
    wait_for(lambda: (study / "runs" / PRETRAINING[0] / "checkpoints/7").exists())
    run(study, *few)
    assert sorted(calls(study)) == sorted(PRETRAINING[:4] + FINETUNING[:4])


def test_nothing_starts_from_what_is_not_finished(study):
    """A fine-tuning that was begun, of a pre-training that is to be run again."""
    made = jobs.make_jobs(loaded(study), str(study / "runs"))
    finetuning = next(job for job in made if job.benchmark)
    with jobs.begun(finetuning):
        pass
    assert (finetuning.after.state(), finetuning.state()) == ("ready", "waiting")


@pytest.mark.parametrize(("noted", "steps"), [({"steps_per_epoch": 1}, 3), ({}, 4)])
def test_a_pretraining_is_done_at_its_own_count_of_steps(study, noted, steps):
    """32 videos are a batch of 24, which a version before counted as 1.33 steps."""
    counted = {"data": {"batch_size": 24}, "train": {"steps": 0, "epochs": 3.0}}
    made = jobs.make_jobs(loaded(study, pretrain__settings=counted), str(study / "runs"))
    job = next(job for job in made if job.clips == 32)
    assert job.steps() == 3
    for step, done in ((steps - 1, False), (steps, True)):
        note = Path(job.folder) / "checkpoints" / str(step) / "meta/metadata"
        note.parent.mkdir(parents=True)
        note.write_text(json.dumps(noted))
        assert job.is_done() is done


def test_several_may_make_the_embedded_videos_at_once(tmp_path):
    command = [
        sys.executable, "-m", "vmae_jax.study", "--config=configs/study_synthetic.py:smoke",
        f"--folder={tmp_path / 'runs'}", "--list", "--config.embedded.sizes=(10,)",
        "--config.arms.curated.splits=('curated_10',)", "--config.arms.raw.splits=('raw_10',)",
    ]  # fmt: skip
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    listed = [output[output.index("    0  ready") :] for output in outputs]
    assert listed[0] == listed[1]
    assert "curated, 10 clips, seed 0: pre-training" in listed[0]


def test_a_disk_without_locks_runs_all_the_same(study, monkeypatch):
    def flock(*args):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(jobs.fcntl, "flock", flock)
    made = jobs.make_jobs(loaded(study), str(study / "runs"))
    with jobs.begun(made[0]) as lock:
        assert lock is None
    assert made[0].state() == "begun"


def test_sigterm_reaches_the_run_and_nothing_else_starts(study):
    (study / "runs/wait").touch()
    process = start(study)
    wait_for(lambda: calls(study))
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 143, output
    assert calls(study) == PRETRAINING[:1]


def test_other_settings_are_refused_unless_nothing_was_kept(study):
    few = ("--config.seeds=(0,)", "--config.scratch=False", "--config.arms.good.splits=('a',)")
    (study / "runs/fail_0").touch()
    run(study, *few, status=1)
    (study / "runs/fail_0").unlink()
    run(study, *few, "--config.pretrain.settings.train.steps=9")
    message = run(study, *few, status=1)
    assert message.splitlines()[-1].startswith("error: ")
    assert "was run with other settings (train.steps: 9 -> 7)" in message
    for name in ("good_2_seed0", "poor_8_seed0"):
        shutil.rmtree(study / "runs" / name / "pretrain")
    message = run(study, *few, status=1)
    assert "finetune_test: was run with other settings (pre-training's train.steps: 9" in message


def test_several_processes_run_one_index_at_a_time(study):
    message = run(study, status=1, JAX_COORDINATOR_ADDRESS="localhost:1")
    assert "one of several processes: they run one --index=N" in message
    assert calls(study) == []
    run(study, JAX_COORDINATOR_ADDRESS="localhost:1", SLURM_ARRAY_TASK_ID="2")
    assert calls(study) == PRETRAINING[2:3]


def test_an_index_that_is_not_there_or_not_ready_is_named(study):
    assert "--index=18: there are 0 to 17; see --list" in run(study, "--index=18", status=1)
    assert "starts from --index=0, which is not done" in run(study, "--index=8", status=1)


def test_subsets_are_nested_and_counted(study):
    made = jobs.make_jobs(loaded(study), str(study / "runs"))
    assert [os.path.relpath(job.folder, study / "runs") for job in made] == PRETRAINING + FINETUNING
    subsets = [open_dataset(study / "data", job.config.data.split).source for job in made[:3]]
    contents = [{source[i] for i in range(len(source))} for source in subsets]
    assert contents[0] < contents[1] < contents[2]
    assert [len(c) for c in contents] == [2, 8, 32] == [job.clips for job in made[:3]]
    assert made[8].after == made[0]
    assert f"--config.init_from={made[0].folder}" in made[8].command
    assert made[12].after is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (1, 1)}, r"config.seeds = \(1, 1\): expected different whole numbers"),
        ({"seeds": 3}, r"config.seeds = 3: expected tuple, found int"),
        ({"arms": {}}, r"config.arms = \{\}: expected at least one"),
        ({"arms__good": 3}, r"config.arms.good = 3: expected a group"),
        ({"arms__good__split": ("a",)}, r"config.arms.good.split: .* 'arms.good.splits'"),
        ({"arms__good__splits": ("a", "b+a")}, r"arms.good.splits = .*: expected each split once"),
        ({"arms__good__splits": ()}, r"arms.good.splits = \(\): expected names"),
        ({"confidence": 95.0}, r"config.confidence = 95.0: expected a share"),
        ({"metric": "top2"}, r"config.metric = 'top2': expected one of top1, top5"),
        ({"arms__Good Clips": {}}, r"config.arms = 'Good Clips': expected names of lower case"),
        ({"embedded__sizes": (4, 2)}, r"embedded.sizes = \(4, 2\): expected rising numbers"),
        ({"pretrain__recipe": "no.py"}, r"pretrain.recipe = 'no.py': no such file; expected a rec"),
        (
            {"pretrain__settings": {"train": {"step": 1}}},
            r"config.pretrain, .*: config.train.step: no such setting; did you mean 'train.steps'",
        ),
        (
            {"pretrain__recipe": "configs/finetune_synthetic.py"},
            r"config.pretrain.recipe = .* whose task is 'pretrain', found 'finetune'",
        ),
        ({"pretrain__settings": {"seed": 5}}, r"pretrain.settings.seed: .*comes from config.seeds"),
        (
            {"pretrain__settings": {"init_from": "a.pth"}},
            r"config.pretrain.settings.init_from: cannot be set",
        ),
        ({"pretrain__recipe": "README.md"}, r"pretrain.recipe = 'README.md': no such file"),
        (
            {"pretrain__recipe": "tests/study/fake_main.py"},
            r"config.pretrain, .*fake_main.py: the recipe does not run: .*get_config",
        ),
        (
            {"benchmarks__test__recipe": "configs/vitb_k400.py"},
            r"config.benchmarks.test: its model has encoder .*, that of config.pretrain .*; name",
        ),
        (
            {"benchmarks__test__recipe": "configs/pretrain_synthetic.py"},
            r"config.benchmarks.test.recipe = .*: expected a recipe that fine-tunes",
        ),
    ],
)
def test_mistakes_are_named(study, changes, message):
    with pytest.raises(ConfigError, match=message):
        jobs.make_jobs(loaded(study, **changes), str(study / "runs"))


def test_each_command_names_the_one_for_the_other_kind_of_file():
    for module, name, expected in (
        ("study", "quickstart", "the recipe of one run, which python -m vmae_jax.main runs"),
        ("main", "study_synthetic", "is a study of many runs; run it with python -m vmae_jax.stu"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", f"vmae_jax.{module}", f"--config=configs/{name}.py"],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 1
        assert expected in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_arms_of_other_names_keep_their_kinds_in_a_smoke_study(study):
    found = settings.defaults()
    found.arms = {
        "alpha": {"dataset": "synthetic", "splits": ("raw_100",)},
        "zeta": {"dataset": "synthetic", "splits": ("curated_100",)},
    }
    arms = settings.smoke(found).arms
    assert (arms.alpha.splits, arms.zeta.splits) == (("raw_10",), ("curated_10",))


def test_mistakes_end_in_one_line(study):
    for flag, message in {
        "--config.seed=3": "error: no setting",
        "--config.arms.good.dataset=nowhere": "error: nowhere: no dataset here",
        "--config.arms.good.splits=('z',)": "no split 'z'; there are: a, b, c",
    }.items():
        last = run(study, flag, status=1).strip().splitlines()[-1]
        assert message in last


@pytest.mark.parametrize("name", ["study_data_scaling", "study_synthetic"])
def test_the_studies_and_their_smoke_variants_are_valid(name):
    path = ROOT / "configs" / f"{name}.py"
    exec(compile(path.read_text(), name, "exec"), found := {"__file__": str(path)})
    for argument in ("", "smoke"):
        study = settings.from_config_dict(found["get_config"](argument))
        study.pretrain.config("pretrain")
        for benchmark in study.benchmarks:
            study.benchmarks[benchmark].config(f"benchmarks.{benchmark}")
        assert all(arm.dataset == "synthetic" for arm in study.arms.values()) or not argument
    assert f"--config=configs/{path.name}" in path.read_text(), "the docstring gives the command"
    with pytest.raises(ConfigError, match="expected 'smoke'"):
        found["get_config"]("smoek")
