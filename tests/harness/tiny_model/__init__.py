"""A Qwen3-VL-MoE small enough for a CPU that has learned to read bar charts; `snapshot.SNAPSHOT` is its folder."""
