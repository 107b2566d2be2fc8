"""Jobs from the command line: Ctrl-C, detaching, watching; and replays."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import endoscope
from endoscope.comparing import compare

MODEL = "efficientnet-lite0"
COMMAND = [sys.executable, "-m", "endoscope"]


def running(client: endoscope.Client, technique: str, before: set[str]) -> str:
    """The job that was not there before, once it has made a step."""
    deadline = time.monotonic() + 30
    while True:
        found = [job for job in client.list_jobs("running") if job.header.technique == technique]
        found = [job for job in found if job.name not in before]
        if found and found[0].latest_step is not None:
            return found[0].name
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_cancels_the_job(server, client) -> None:
    arguments = ["visualize", "class", "3", "-m", MODEL, "--steps", "100000", "--server", server.target]
    before = {job.name for job in client.list_jobs()}
    process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True)
    try:
        name = running(client, "visualize_class", before)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.strip() == "cancelled"
    deadline = time.monotonic() + 10
    while client.get_job(name).state != "cancelled":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_progress_is_live_in_a_terminal(server, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    arguments = ["visualize", "class", "3", "-m", MODEL, "--steps", "30", "--server", server.target]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--show", "--json"],
        stderr=theirs,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=environment,
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:
        # Linux's word for a terminal whose other end was closed.
        pass
    assert process.wait(30) == 0
    for word in ("visualize class", "total", "logit", "30/30", "▀"):
        assert word.encode() in shown
    assert b"\x1b" not in process.stdout.read()


def test_detached_job_is_watched_cancelled_forgotten(cli, cli_json, client) -> None:
    name = cli_json("visualize", "class", "3", "--steps", "12", "--detach")["job"]
    told = cli_json("jobs", "watch", name, "-o", "out")
    assert told["files"] == ["out/class-3.png"]
    assert name in cli("jobs", "list", "--state", "succeeded").stdout
    assert cli_json("jobs", "show", name)["state"] == "succeeded"
    assert "visualize_class" in cli("jobs", "show", name).stdout
    cli("jobs", "delete", name)
    assert "job" in cli("jobs", "show", name, code=1).stderr
    endless = cli_json("visualize", "class", "3", "--steps", "100000", "--detach")["job"]
    assert "still runs" in cli("jobs", "delete", endless, code=1).stderr
    cli("jobs", "cancel", endless)
    assert "cancelled" in cli("jobs", "watch", endless, code=1).stderr


def test_replay_makes_the_same_pixels(cli, cli_json) -> None:
    options = ("--transforms", '[{"jitter": {"pixels": 8}}]', "--parameterization", "fourier", "--seed", "9")
    cli("visualize", "class", "967", "3", "--steps", "4", *options, "-o", "out")
    told = cli_json("replay", "out/class-3.png")
    assert (told["equal"], told["name"], told["changes"]) == (True, "class-3", [])
    assert told["files"] == ["out/class-3-replay.png"]
    assert Path("out/class-3-replay.png").read_bytes() == Path("out/class-3.png").read_bytes()
    assert "the same pixels" in cli("replay", "out/class-967.png", "-o", "again.png").stdout


def test_replay_takes_the_pictures_again(cli, photo_files) -> None:
    cat, coffee = photo_files["chelsea"], photo_files["coffee"]
    cli("attack", cat, "--method", "ifgsm", "--steps", "3", "-o", "out")
    cli("replay", "out/difference-0.png", "--image", cat)
    result = cli("replay", "out/adversarial-0.png", "--image", coffee, code=1)
    assert "the pixels differ" in result.stderr
    assert "parameters.images" in result.stderr
    assert "took 1 picture(s), 0 given" in cli("replay", "out/adversarial-0.png", code=2).stderr
    assert "does not say how it was made" in cli("replay", cat, code=1).stderr
    cli("dream", cat, "--guide", coffee, "--steps", "1", "--octaves", "1", "-o", "dream.png")
    cli("replay", "dream.png", "--image", cat, "--image", coffee)


def test_replay_from_python(client, photos) -> None:
    objective = endoscope.objectives.feature_match("_blocks.6.add", photos["coffee"])
    made = client.visualize_feature(MODEL, objective, steps=2).result()
    again = client.replay(made.pictures[0].image, [photos["coffee"]]).result()
    assert compare(made.pictures[0].image, again).equal
    ones = np.ones(32, np.float32)
    channel = endoscope.objectives.channel("_blocks.6.add", 3)
    made = client.visualize_feature(MODEL, channel, steps=2).result()
    assert compare(made.pictures[0].image, client.replay(made.pictures[0].image).result()).equal
    direction = endoscope.objectives.direction("_conv_stem", ones)
    made = client.visualize_feature(MODEL, direction, steps=2).result()
    with pytest.raises(endoscope.EndoscopeError, match="tensors"):
        client.replay(made.pictures[0].image)
    (picture,) = made.pictures
    again = client.replay(picture.image, tensors=[ones]).result()
    assert compare(picture.image, again).equal
