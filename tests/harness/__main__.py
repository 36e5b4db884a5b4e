"""`python -m harness`: the node and its images, for people."""

import argparse
import shutil
import sys

from harness import images, leftovers, node, preflight, tools
from harness.cache import cache_folder
from harness.errors import HarnessError
from harness.instance import Instance
from harness.node import Node, NodeError
from harness.progress import say


def up(arguments: argparse.Namespace) -> None:
    started = node.up(Instance(arguments.name))
    say(f"Use it:  export KUBECONFIG={started.kubeconfig}\n         {started.kubectl_program} get pods -A")


def down(arguments: argparse.Namespace) -> None:
    node.down(Instance(arguments.name))
    say(f"Nothing is left of the node {arguments.name}")


def status(arguments: argparse.Namespace) -> None:
    instance = Instance(arguments.name)
    if not node.is_running(instance):
        traces = leftovers.find(instance)
        raise NodeError(
            f"The node {instance.name} does not run" + "".join(f"\n  left behind: {trace}" for trace in traces)
        )
    running = Node.of(instance)
    print(f"KUBECONFIG={running.kubeconfig}\n{running.kubectl('get', 'nodes,pods', '--all-namespaces')}", end="")


def check(arguments: argparse.Namespace) -> None:
    instance = Instance(arguments.name)
    if not node.is_running(instance):
        preflight.check(preflight.ENGINE if images.layout_folder().exists() else preflight.EVERYTHING, instance)


def gpu(arguments: argparse.Namespace) -> None:
    Node.of(Instance(arguments.name)).set_gpus(arguments.count, arguments.resource)


def demo(_arguments: argparse.Namespace) -> None:
    # Here, because it needs packages that the other commands do without.
    from harness import demo as demonstration

    demonstration.run_demo()


def clean(_arguments: argparse.Namespace) -> None:
    node.down_all()
    shutil.rmtree(cache_folder(), ignore_errors=True)
    say(f"Nothing is left of the nodes, nor of {cache_folder()}")


def build_images(arguments: argparse.Namespace) -> None:
    chosen = [image for image in images.IMAGES if not arguments.image or image.name in arguments.image]
    images.ensure(*chosen)
    for image in chosen:
        print(image.name)


def build_tools(_arguments: argparse.Namespace) -> None:
    tools.install_packages()
    for name, path in tools.build().items():
        print(f"{name}: {path}")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m harness", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default="demo", help="which node (default: demo)")

    for function, text in (
        (up, "start a node and leave it running"),
        (down, "end a node and remove every trace of it"),
        (status, "say whether a node runs and what is on it"),
        (check, "say whether this machine can run a node with everything on it"),
    ):
        commands.add_parser(function.__name__, help=text, parents=[named]).set_defaults(run=function)
    commands.add_parser("demo", help="from nothing to an answer about a picture").set_defaults(run=demo)
    commands.add_parser("clean", help="end every node and remove the cache").set_defaults(run=clean)
    gpus = commands.add_parser("gpu", help="have a node offer simulated GPUs", parents=[named])
    gpus.add_argument("--count", type=int, required=True)
    gpus.add_argument("--resource", default="nvidia.com/gpu")
    gpus.set_defaults(run=gpu)
    commands.add_parser("tools", help="build or find every program that is needed").set_defaults(run=build_tools)
    built = commands.add_parser("images", help="build the project's images, where anything in them has changed")
    names = [image.name for image in images.IMAGES]
    built.add_argument("--image", action="append", choices=names, help="only this one; may be repeated")
    built.set_defaults(run=build_images)
    return top


def main() -> int:
    arguments = parser().parse_args()
    try:
        arguments.run(arguments)
    except HarnessError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted; what was started is gone, what was built is kept.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
