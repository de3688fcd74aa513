"""A short run of benchmarks/fuzz.py over every reader: each damaged input is read, or refused with one line."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import fuzz

TARGETS = fuzz.targets()


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_read_or_refused_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failures = []
    report = fuzz.fuzz(name, TARGETS[name], 120, 1, lambda data, why: failures.append((why, data[:200])))
    assert failures == []
    assert report.inputs == 120
    assert not list(tmp_path.iterdir()), "a reader wrote something"


def test_good_inputs_are_read_and_most_damaged_ones_differ():
    draw = fuzz.random.Random(0)
    for target in TARGETS.values():
        for seed in target.seeds:
            target.read(seed)
        made = {fuzz.mutated(target.seeds, draw) for _ in range(50)}
        assert len(made - set(target.seeds)) > 35
