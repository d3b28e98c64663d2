"""Experts move between the ranks of a group while streams run: the load of the ranks becomes even, no byte of a stream changes."""
import os
import re
import shutil
import signal
import threading

import pytest
from conftest import Cluster, eventually
from skewed_load import overwrite, prefer, worst
from streams import TEXT, ask, ask_all, long_model

STREAMS = [(TEXT, {"prompt": f"Tell me story {seed}", "max_tokens": 600, "temperature": 1.2, "ignore_eos": True, "seed": seed}) for seed in range(4)]
MOVING = "worker: {redundant_experts: 1, placement_steps: 1}\n"


@pytest.fixture(scope="module")
def skewed(tmp_path_factory):
    """A model whose tokens all go to the experts 0 to 3: rank 0 of two has them all at the start."""
    model = long_model(tmp_path_factory.mktemp("skewed"))
    prefer(model, [10.0] * 4)
    return model


@pytest.fixture(scope="module")
def undisturbed(skewed, tmp_path_factory):
    """The answers where nothing moves; rank 0 computes all rows of experts there."""
    cluster = Cluster(tmp_path_factory.mktemp("undisturbed"), model=skewed, config="worker: {placement_steps: 1}\n")
    answers = [ask(cluster, *stream).content() for stream in STREAMS]
    assert worst(cluster, "choir_expert_rank_imbalance_ratio") == 2
    assert worst(cluster, "choir_expert_moves_total") == worst(cluster, "choir_expert_copies") == 0
    assert cluster.stop() == 0, cluster.logs()
    return answers


def contents(cluster):
    """Of the answers to all streams, asked at once."""
    return [answer.content() for answer in ask_all(cluster, STREAMS)]


def test_experts_move_under_running_streams(skewed, undisturbed, tmp_path):
    cluster = Cluster(tmp_path, model=skewed, config=MOVING)
    try:
        assert contents(cluster) == undisturbed
        # Still the same where experts lie elsewhere; and both ranks have half of the rows.
        assert worst(cluster, "choir_expert_placement_version") >= 1
        assert worst(cluster, "choir_expert_moves_total") >= 1
        assert contents(cluster) == undisturbed
        assert worst(cluster, "choir_expert_rank_imbalance_ratio") < 1.2
        assert worst(cluster, "choir_expert_placements_total", result="failed") == 0
        assert "of experts is in force" in cluster.logs()
    finally:
        assert cluster.stop() == 0, cluster.logs()


def test_a_rank_killed_among_the_moves_changes_no_byte(skewed, undisturbed, tmp_path):
    cluster = Cluster(tmp_path, model=skewed, config=MOVING)
    try:
        for rank, event in ((1, 30), (0, 60)):
            eventually(cluster.serves, what="a ready rank")
            pid = cluster.ready["pids"]["workers"][rank]
            everyone_runs = threading.Barrier(len(STREAMS), action=lambda: os.kill(pid, signal.SIGKILL))
            answers = ask_all(cluster, STREAMS, on_event=lambda n: n == event and everyone_runs.wait(60))
            assert [a.content() for a in answers] == undisturbed, [a.error for a in answers]
            eventually(lambda: cluster.ready["pids"]["workers"][rank] not in (pid, None), what="a new worker")
    finally:
        assert cluster.stop() == 0, cluster.logs()


def test_experts_that_cannot_be_read_stay_where_they_are(skewed, tmp_path):
    model = shutil.copytree(skewed, tmp_path / "model")
    # Weights are converted at the start, so the file is read only for moves then.
    cluster = Cluster(tmp_path, model=model, config="worker: {dtype: bf16, redundant_experts: 1, placement_steps: 1}\n")
    try:
        weights = model / "model.safetensors"
        good = weights.read_bytes()
        overwrite(model, r"experts\.\d\.up_proj", [float("nan")])
        answers = contents(cluster)
        assert worst(cluster, "choir_expert_placements_total", result="failed") >= 1
        assert worst(cluster, "choir_expert_placement_version") == 0
        log = "".join(p.read_text() for p in (cluster.state / "log").glob("worker*.log"))
        assert re.search(r"experts stay where they are: rank \d failed: .*model.safetensors: tensor model.layers.\d.mlp.experts.\d.up_proj.weight: ", log), log
        with open(weights, "r+b") as file:  # in place, as the workers have it open
            file.write(good)
        assert contents(cluster) == answers
        assert worst(cluster, "choir_expert_placement_version") >= 1
    finally:
        assert cluster.stop() == 0, cluster.logs()


def test_cover_puts_every_expert_on_both_ranks(skewed, undisturbed, tmp_path):
    cluster = Cluster(tmp_path, model=skewed, config="worker: {redundant_experts: 5, expert_cover: true, placement_steps: 1}\n")
    try:
        assert worst(cluster, "choir_expert_sole_copies") == 20  # two layers of ten
        assert contents(cluster) == undisturbed
        assert worst(cluster, "choir_expert_sole_copies") == 0
        assert worst(cluster, "choir_expert_copies") == 20
    finally:
        assert cluster.stop() == 0, cluster.logs()


def test_what_the_model_has_no_room_for_is_refused_by_name(skewed, tmp_path):
    with pytest.raises(RuntimeError, match="redundant_experts 6 is not in 0..5: of the 10 experts of a layer a rank holds 5"):
        Cluster(tmp_path, model=skewed, config="worker: {redundant_experts: 6}\n")
