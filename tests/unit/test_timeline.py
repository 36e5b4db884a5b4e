"""The stages of a start add up."""

from __future__ import annotations

from harness.timeline import split_by_stage


def test_the_stages_add_up_to_the_whole() -> None:
    def at(second: int) -> str:
        return f"2027-01-15T08:00:{second:02}Z"

    cr = {"metadata": {"creationTimestamp": at(0)}}
    pod = {
        "metadata": {"creationTimestamp": at(1)},
        "status": {
            "conditions": [
                {"type": "PodScheduled", "lastTransitionTime": at(2)},
                {"type": "Ready", "lastTransitionTime": at(40)},
            ],
            "containerStatuses": [{"state": {"running": {"startedAt": at(5)}}}],
        },
    }
    split = split_by_stage(cr, pod, {"engine": 30.0, "warmup": 4.0})
    whole = split.pop("apply to Ready")
    assert whole == 40
    assert sum(split.values()) == whole
    assert split["image and volumes"] == 3
    assert split["probes, gate and endpoint"] == 1
