"""A network as a torch.fx graph, which gates, taps and costs refer to."""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from benchmark.cifar_resnet import Shortcut
from methods.api import Unsupported

WEIGHTED = (nn.Conv2d, nn.Linear)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
# operations that move channels and that DependencyGraph follows; others it takes for element-wise
FOLLOWED = {"cat", "concat", "flatten", "view", "reshape", "permute", "mean"}
FOLLOWED_MODULES = (*WEIGHTED, Shortcut, nn.Flatten)
GLOBAL_AVERAGES = ("mean", "adaptive")  # the latter also of one position, in small images
IN_PLACE: dict[object, Callable[..., object]] = {
    operator.iadd: operator.add,
    operator.imul: operator.mul,
}
IN_PLACE_METHODS = ("relu_", "add_", "mul_")


class LayerTracer(fx.Tracer):
    """Opens every container; weighted layers, norms and childless modules stay whole."""

    inside = ""  # the module that is being traced: after a failure, the one that failed

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, WEIGHTED + NORMS) or next(m.children(), None) is None

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        outer, self.inside = self.inside, self.path_of_module(m)
        found = super().call_module(m, forward, args, kwargs)
        self.inside = outer
        return found


def trace(model: nn.Module) -> fx.GraphModule:
    """A private GraphModule forward(x, labels=None): same parameter names, nothing in place,
    norm and activation apart.

    Raises:
        Unsupported: the forward pass depends on values, or on `self.training` outside a leaf
            module; the text names the module.
    """
    model = copy.deepcopy(model)
    graph, other = (_graph(model.train(mode)) for mode in (True, False))
    if graph.python_code("self").src != other.python_code("self").src:
        where = _first_difference(graph, other)
        raise Unsupported(
            f"the forward pass reads self.training outside a leaf module, first seen at {where}"
        )
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    for node in graph.nodes:
        _make_functional(node)
    _split_norm_and_activation(model, graph)
    with graph.inserting_after(next(iter(graph.nodes))):
        graph.placeholder("labels", default_value=None)
    return fx.GraphModule(model, graph)


def _graph(model: nn.Module) -> fx.Graph:
    tracer = LayerTracer()
    try:
        return tracer.trace(model)
    except Exception as error:  # a forward pass meets proxies in place of tensors, and fails anyhow
        where = f"module {tracer.inside}" if tracer.inside else "the network's own forward"
        raise Unsupported(f"the forward pass cannot be traced: {where}: {_said(error)}") from error


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _first_difference(graph: fx.Graph, other: fx.Graph) -> str:
    pairs = itertools.zip_longest(graph.nodes, other.nodes)
    return next(
        str(a or b) for a, b in pairs if not (a and b and a.format_node() == b.format_node())
    )


def _make_functional(node: fx.Node) -> None:
    if node.op == "call_function":
        node.target = IN_PLACE.get(node.target, node.target)
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
    if node.op == "call_method" and node.target in IN_PLACE_METHODS:
        node.target = str(node.target)[:-1]


def _split_norm_and_activation(model: nn.Module, graph: fx.Graph) -> None:
    """timm's BatchNormAct2d becomes norm, drop, act: a pass over the graph, not the tracer, since
    unpickling traces again and would apply the activation twice."""
    for node in [n for n in graph.nodes if n.op == "call_module"]:
        module = model.get_submodule(node.target)
        if isinstance(module, nn.BatchNorm2d) and hasattr(module, "act"):
            module.__class__ = nn.BatchNorm2d
            for part in ("act", "drop"):
                insert_after(graph, node, f"{node.target}.{part}", (node,))


def insert_after(graph: fx.Graph, node: fx.Node, target: str, args: tuple[Any, ...]) -> fx.Node:
    """A module call after the node; every other user of the node reads the call instead."""
    with graph.inserting_after(node):
        new = graph.call_module(target, args)
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    return new


def shape_of(node: fx.Node) -> torch.Size:
    """Output shape found by `propagate_shapes`; empty for anything but a tensor."""
    found: torch.Size = node.meta.get("shape", torch.Size())
    return found


class _Shapes(fx.Interpreter):
    """Runs the network once and keeps the shape of every tensor."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.extra_traceback = False  # it would be added to the text of our own errors

    def run_node(self, n: fx.Node) -> Any:
        try:
            found = super().run_node(n)
        except Exception as error:
            raise Unsupported(f"the forward pass fails at {place_of(n)}: {_said(error)}") from error
        n.meta["shape"] = found.shape if isinstance(found, Tensor) else torch.Size()
        return found


def place_of(node: fx.Node) -> str:
    """Module and operation of a node, for messages."""
    if node.op == "call_module":
        return f"module {node.target}"
    stack = list(node.meta.get("nn_module_stack", {}))
    return f"{node.name} in module {stack[-1]}" if stack and stack[-1] else node.name


def propagate_shapes(traced: fx.GraphModule, example: Tensor) -> None:
    """Store every node's output shape, and refuse operations that move channels unseen.

    Raises:
        Unsupported: the network does not take such an image, or an operation changes the channels
            and is not one that can be followed.
    """
    with torch.no_grad():
        _Shapes(traced.eval()).run(example)
    for node in traced.graph.nodes:
        out = shape_of(node)
        name = _operation(traced, node)
        if not name or len(out) < 2 or name.lower() in FOLLOWED:
            continue
        inputs = [n for n in node.all_input_nodes if n.op != "get_attr"]  # constants are spread out
        sources = [s for s in map(shape_of, inputs) if len(s) != 1]
        if any(s[1:2] != out[1:2] for s in sources):
            raise Unsupported(
                f"operation {name} moves channels at {place_of(node)}: "
                "make it a module with a registered pruner"
            )


def _operation(traced: fx.GraphModule, node: fx.Node) -> str:
    """Name of what the node does; empty for inputs, outputs, and modules that can be followed."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        return "" if isinstance(module, FOLLOWED_MODULES) else type(module).__name__
    if node.op not in ("call_function", "call_method"):
        return ""
    return getattr(node.target, "__name__", str(node.target))


def pooled_nodes(traced: fx.GraphModule) -> set[fx.Node]:
    """Nodes whose values come from global averages alone, so that no positions are left: the
    inside of squeeze-and-excitation, and the head."""
    found: set[fx.Node] = set()
    for node in traced.graph.nodes:
        inputs = [n for n in node.all_input_nodes if shape_of(n)]
        one_value = shape_of(node)[2:].numel() == 1 if shape_of(node) else False
        averages = any(word in _operation(traced, node).lower() for word in GLOBAL_AVERAGES)
        if inputs and ((averages and one_value) or all(n in found for n in inputs)):
            found.add(node)
    return found


def output_layers(traced: fx.GraphModule) -> list[str]:
    """The weighted layers nearest to the output; their outputs are never pruned."""
    todo = [n for n in traced.graph.nodes if n.op == "output"]
    heads: list[str] = []
    while todo:
        for node in todo.pop().all_input_nodes:
            if node.op == "call_module" and isinstance(
                traced.get_submodule(str(node.target)), WEIGHTED
            ):
                heads.append(str(node.target))
            else:
                todo.append(node)
    return heads


def is_depthwise(module: nn.Module) -> bool:
    """One filter per input channel: such a layer belongs to its input's group."""
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels
