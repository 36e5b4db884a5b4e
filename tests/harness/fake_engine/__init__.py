"""A stand-in for vLLM that starts at once: put `PACKAGES` on PYTHONPATH and `python -m vllm...` runs it.

It takes the arguments that the runtime passes (any other ends it with code 2), counts a picture's tokens as the model
would, and misbehaves as the JSON file named by FAKE_ENGINE_FAULTS says, which is read anew for each request; with
`--faults=JSON` it writes that file itself when it starts. What happens to it is written to the file named by
FAKE_ENGINE_JOURNAL, a JSON object a line.
"""

from __future__ import annotations

from pathlib import Path

PACKAGES = Path(__file__).parent
MODEL = PACKAGES / "model"
"""What its image has as a snapshot, with a manifest."""
