"""The model's folder as Hugging Face lays it out: what vLLM loads, and what the harness copies into a model volume.

`PATH` is the trained one in the repository. Pure path arithmetic unless something is written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3VLMoeForConditionalGeneration

PATH = Path(__file__).parent / "snapshot"


def write_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Everything but the model: enough to load the processor from."""
    from harness.tiny_model import config

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    video = {key: value for key, value in config.VIDEO_PREPROCESSOR.items() if value is not None}
    _write_json(folder / "preprocessor_config.json", config.PREPROCESSOR)
    _write_json(folder / "video_preprocessor_config.json", video)
    _open_to_all(folder)


def write_model(model: Qwen3VLMoeForConditionalGeneration, folder: Path, training: dict[str, Any]) -> None:
    """Configuration and weights in bfloat16; `training` records how they came about."""
    import torch
    from safetensors.torch import save_file

    from harness.tiny_model import config

    settings = model.config.to_dict() | {"dtype": "bfloat16"}
    generation = {key: model.config.text_config.to_dict()[key] for key in ("eos_token_id", "pad_token_id")}
    _write_json(folder / "config.json", settings)
    _write_json(folder / "generation_config.json", config.GENERATION | generation)
    _write_json(folder / "training.json", training)
    weights = {
        name: (value.transpose(-1, -2) if ".experts." in name else value).to(torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _open_to_all(folder)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _open_to_all(folder: Path) -> None:
    """safetensors writes with mode 600, which the runtime's own user could not read."""
    for path in folder.iterdir():
        path.chmod(0o644)
