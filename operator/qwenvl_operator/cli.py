"""The command `qwenvl`: what can be asked and done without the operator, in any of the images or on a desk."""

from __future__ import annotations

import argparse
import importlib
import sys

# By name: the module with `add_arguments` and `run`, and what it is for. Imported only when it is called, since the
# runtime image has no Kubernetes client.
COMMANDS = {
    "doctor": ("qwenvl_operator.doctor.command", "what is wrong with a cluster or a resource, and what to do"),
    "fit": ("qwenvl_operator.fit_command", "whether the model fits the hardware, without a cluster"),
    "manifest": ("qwenvl_runtime.manifest_command", "the manifest that pins the files of a snapshot"),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="qwenvl", description="Helpers for QwenVLDeployment resources.")
    parser.add_argument(
        "command", choices=COMMANDS, help="; ".join(f"{name}: {what}" for name, (_, what) in COMMANDS.items())
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(arguments)
    module, _ = COMMANDS[chosen.command]
    command = importlib.import_module(module)
    own = argparse.ArgumentParser(prog=f"qwenvl {chosen.command}", description=command.__doc__)
    command.add_arguments(own)
    return int(command.run(own.parse_args(chosen.arguments)))


if __name__ == "__main__":
    sys.exit(main())
