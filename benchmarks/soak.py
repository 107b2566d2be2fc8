"""Many clients of mixed methods at once: every answer compared, refusals counted, memory watched.

    python benchmarks/soak.py --clients 64 --minutes 5

Ends with exit code 1 if an answer is wrong or an error is none of the deliberate refusals.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from lite import model, photos
from processes import endoscope_server

import endoscope
from endoscope import objectives
from endoscope.errors import EndoscopeError, ResourceExhausted

MODEL = "efficientnet-lite0"

Answer = Callable[[endoscope.Client], np.ndarray]


def methods() -> Mapping[str, Answer]:
    """What the clients ask, and what of the answer is compared."""
    found = photos()
    cat, coffee = found["chelsea"], found["coffee"]
    return {
        "classify": lambda client: np.array([score.logit for score in client.classify(MODEL, cat)[0].top]),
        "activations": lambda client: (
            client.get_activations(MODEL, coffee, ["_conv_head"])["_conv_head"].tensor
        ),
        "filters": lambda client: client.get_filters(MODEL).weights,
        "class": lambda client: client.visualize_class(MODEL, 967, steps=3).result().pictures[0].pixels,
        "feature": lambda client: (
            client.visualize_feature(MODEL, objectives.channel("_blocks.4.add", 3), steps=2)
            .result()
            .pictures[0]
            .pixels
        ),
        "dream": lambda client: np.asarray(
            client.deep_dream(MODEL, coffee, "_blocks.4.add", octaves=1, steps=1).result().image
        ),
        "attack": lambda client: np.asarray(
            client.create_adversarial(MODEL, cat, method="fgsm").result().adversarials[0].image
        ),
        "models": lambda client: np.array([len(model.model_id) for model in client.list_models()]),
    }


class Tally:
    """What happened, counted by many threads."""

    def __init__(self) -> None:
        self.right: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def count(self, counter: Counter[str], name: str) -> None:
        """Count one."""
        with self._lock:
            counter[name] += 1


def ask(target: str, seed: int, until: float, expected: Mapping[str, np.ndarray], tally: Tally) -> None:
    """One client: random methods until the time is over."""
    choices, asked = random.Random(seed), methods()
    with endoscope.connect(target) as client:
        while time.monotonic() < until:
            name = choices.choice(sorted(asked))
            try:
                answer = asked[name](client)
            except ResourceExhausted as error:
                tally.count(tally.refused, error.reason)
                time.sleep(error.retry_after or 1)
                continue
            except EndoscopeError as error:
                tally.wrong.append(f"{name}: {error.code} {error.message}")
                continue
            if answer.shape == expected[name].shape and np.array_equal(answer, expected[name]):
                tally.count(tally.right, name)
            else:
                tally.wrong.append(f"{name}: another answer than alone")


def memory(process: int) -> float:
    """Resident MiB."""
    for line in Path(f"/proc/{process}/status").read_text("ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise LookupError("no VmRSS")


def main() -> int:
    """Run, and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=5)
    options = parser.parse_args()
    folder = model(MODEL).parent
    with endoscope_server(folder, ["--log-level", "error"]) as (process, target):
        return soak(target, process, options.clients, options.minutes)


def soak(target: str, process: int, clients: int, minutes: float) -> int:
    """Ask, watch, tell."""
    with endoscope.connect(target) as client:
        client.wait_until_ready(60)
        expected = {name: answer(client) for name, answer in methods().items()}
    tally, until = Tally(), time.monotonic() + 60 * minutes
    threads = [
        threading.Thread(target=ask, args=(target, seed, until, expected, tally)) for seed in range(clients)
    ]
    for thread in threads:
        thread.start()
    seen = []
    while time.monotonic() < until:
        time.sleep(min(5, max(until - time.monotonic(), 0.1)))
        seen.append(memory(process))
    for thread in threads:
        thread.join()
    quarter = max(len(seen) // 4, 1)
    print(f"{clients} clients, {minutes:g} minutes: {tally.right.total()} right answers {dict(tally.right)}")
    print(f"refused: {dict(tally.refused) or 'none'}; wrong: {len(tally.wrong)}")
    print(
        f"memory, MiB: {np.mean(seen[:quarter]):.0f} in the first quarter, "
        f"{np.mean(seen[-quarter:]):.0f} in the last, {max(seen):.0f} at most"
    )
    for line in tally.wrong[:10]:
        print(line)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
