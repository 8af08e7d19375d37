"""Draw a saga from its definition, as Mermaid or Graphviz text."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.step import AnyStep, StepKind
from tradesaga.sagas.validation import ancestors, predecessors


class Shape(Enum):
    """Shapes of nodes: Mermaid's brackets and Graphviz's shape."""

    TERMINAL = ("([", "])", "oval")
    STEP = ("[", "]", "box")
    PIVOT = ("{{", "}}", "hexagon")
    RETRIABLE = ("[/", "/]", "parallelogram")
    COMPENSATION = ("(", ")", "box")


@dataclass(frozen=True, slots=True)
class Node:
    """A node; `name` is unique in the drawing."""

    name: str
    label: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge; dashed if it leads to a compensation."""

    source: str
    target: str
    label: str
    back: bool = False


_SHAPES: Final = {
    StepKind.COMPENSATABLE: Shape.STEP,
    StepKind.PIVOT: Shape.PIVOT,
    StepKind.RETRIABLE: Shape.RETRIABLE,
}


def draw_mermaid(saga: AnySaga) -> str:
    """Return the drawing as Mermaid text."""
    nodes, edges = _draw(saga)
    lines = ["flowchart TD"]
    for node in nodes:
        opening, closing, _ = node.shape.value
        lines.append(f'    {node.name}{opening}"{node.label}"{closing}')
    for edge in edges:
        arrow = "-.->" if edge.back else "-->"
        label = f'|"{edge.label}"|' if edge.label else ""
        lines.append(f"    {edge.source} {arrow}{label} {edge.target}")
    pivots = ",".join(node.name for node in nodes if node.shape is Shape.PIVOT)
    if pivots:
        lines += ["    classDef pivot stroke-width:4px", f"    class {pivots} pivot"]
    return "\n".join(lines) + "\n"


def draw_dot(saga: AnySaga) -> str:
    """Return the drawing as Graphviz text."""
    nodes, edges = _draw(saga)
    lines = [f'digraph "{saga.name}" {{']
    for node in nodes:
        label = node.label.replace("<br/>", "\\n")
        extra = ", penwidth=3" if node.shape is Shape.PIVOT else ""
        rounded = ", style=rounded" if node.shape is Shape.COMPENSATION else ""
        lines.append(f'    {node.name} [label="{label}", shape={node.shape.value[2]}{rounded}{extra}];')
    for edge in edges:
        style = ", style=dashed" if edge.back else ""
        lines.append(f'    {edge.source} -> {edge.target} [label="{edge.label}"{style}];')
    return "\n".join([*lines, "}"]) + "\n"


def _draw(saga: AnySaga) -> tuple[list[Node], list[Edge]]:
    nodes = [Node("start", saga.name, Shape.TERMINAL)]
    nodes += [_node(index, each) for index, each in enumerate(saga.steps)]
    nodes += [
        Node(f"undo{index}", each.back[0].__name__, Shape.COMPENSATION)
        for index, each in reversed(list(enumerate(saga.steps)))
        if each.back
    ]
    nodes.append(Node("completed", "COMPLETED", Shape.TERMINAL))
    edges = [*_forward(saga), *_refusals(saga), *_back(saga)]
    if any(edge.target == "aborted" for edge in edges):
        nodes.append(Node("aborted", "ABORTED", Shape.TERMINAL))
    return nodes, edges


def _node(index: int, step: AnyStep) -> Node:
    notes = [step.name]
    if step.waits_for is not None:
        notes.append(f"waits for {step.waits_for.__name__}")
    if step.kind is StepKind.PIVOT:
        notes.append("pivot")
    return Node(f"step{index}", "<br/>".join(notes), _SHAPES[step.kind])


def _forward(saga: AnySaga) -> Iterator[Edge]:
    sources = {saga.start: "start"} | {each.emits: f"step{index}" for index, each in enumerate(saga.steps)}
    for index, each in enumerate(saga.steps):
        for event in each.on:
            yield Edge(sources[event], f"step{index}", event.__name__)
    used = 0
    for before in predecessors(saga.steps):
        used |= before
    for index, each in enumerate(saga.steps):
        if not used >> index & 1:
            yield Edge(f"step{index}", "completed", each.emits.__name__)


def _refusals(saga: AnySaga) -> Iterator[Edge]:
    """Lead each rejection to the compensation of the last step that may be done then."""
    reached = ancestors(predecessors(saga.steps))
    for index, each in enumerate(saga.steps):
        if each.rejects is not None:
            beside = [other for other in range(len(saga.steps)) if other != index and not reached[other] >> index & 1]
            yield Edge(f"step{index}", _last_undo(saga, beside), each.rejects.__name__, back=True)


def _back(saga: AnySaga) -> Iterator[Edge]:
    for index, each in reversed(list(enumerate(saga.steps))):
        if each.back is not None:
            yield Edge(f"undo{index}", _last_undo(saga, range(index)), each.back[1].__name__, back=True)


def _last_undo(saga: AnySaga, standing: Iterable[int]) -> str:
    """Return the compensation that runs first if these steps are done, or the end."""
    undoable = [index for index in standing if saga.steps[index].back]
    return f"undo{undoable[-1]}" if undoable else "aborted"
