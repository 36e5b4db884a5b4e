"""Process 1 of the runtime pod: starts vLLM, speaks HTTP for it, warms it up, reports readiness, drains."""
