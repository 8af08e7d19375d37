"""The pages that a program writes: settings, commands, messages and topics, metrics, modules, the list of decisions.

`python -m tests.documents` writes them, as `make reference` does; a test holds the committed pages to what it writes.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import cache
from typing import Any, Final, TypeGuard

from prometheus_client import REGISTRY
from pydantic import SecretStr
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from tests.architecture.sources import ROOT, named, parsed, shipped_files
from tests.documents.shell import root
from tradesaga.infra.local_stack.kafka import DEFAULT_HEAP
from tradesaga.infra.local_stack.postgres import DEFAULT_BUFFERS
from tradesaga.infra.settings import PREFIX, SERVICE_DATABASE, Settings
from tradesaga.infra.telemetry import metrics
from tradesaga.infra.telemetry.metrics import WorkerCollector
from tradesaga.producers.backpressure import Limits
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.messages import lifecycle
from tradesaga.schemas.messages.message import Command, Compensation, Event, Message, wire_type
from tradesaga.schemas.topics import DAY_MS, SIGNALS, saga_topics

OF_ONE_PROGRAM: Final = (
    ("TRADESAGA_KAFKA_HEAP", DEFAULT_HEAP, "Memory of the local broker."),
    (
        "TRADESAGA_PG_BUFFERS",
        DEFAULT_BUFFERS,
        "Shared buffers of the local PostgreSQL. They should hold the indexes once there are very many sagas.",
    ),
    ("TRADESAGA_PG_BIN", "", "Folder of the programs of another PostgreSQL than the packaged one."),
    ("TRADESAGA_MAVEN_MIRROR", "", "Where Kafka's jars are fetched from; Maven Central if it is not set."),
    ("TRADESAGA_VENUE_ADMIN_KEY", "", "Key of the paper venue's `/paper` endpoints; one is made if it is not set."),
    ("TRADESAGA_DEBUG", "", "`1` shows the stack trace of an unexpected error."),
)
"""Variables that a single program reads by itself: name, default, meaning."""
EXAMPLE: Final = re.compile(r"Examples?: +(.+)", re.DOTALL)
ALIAS: Final = re.compile(r"[A-Z]\w*[a-z]\w*")
"""The name of a type alias; constants have no small letters."""
CODE: Final = re.compile(r"`(tradesaga [^`]+)`")


def render() -> dict[str, str]:
    """Return every written page by its path below the repository's folder."""
    return {
        "docs/reference/settings.md": settings_page(),
        "docs/reference/commands.md": commands_page(),
        "docs/reference/messages.md": messages_page(),
        "docs/reference/metrics.md": metrics_page(),
        "docs/reference/modules.md": modules_page(),
        "docs/decisions/index.md": decisions_page(),
    }


def settings_page() -> str:
    """Return the page of settings: one row for each environment variable."""
    limits = f"{PREFIX}GATEWAY_"
    rows = [*_settings(Settings, PREFIX), *_settings(Limits, limits)]
    head = """# Settings

Each setting is an environment variable. A setting that is not set is taken from the local stack in `TRADESAGA_HOME`,
if the stack knows it, and otherwise has its default. A wrong value ends the program with exit code 2; the error names
the variable, never the value.
"""
    alone = "## Read by one program alone\n\nThese are for the local stack, the paper venue and the command line.\n"
    header = ("variable", "default", "meaning")
    return _page(head, _table(header, rows), alone, _table(header, OF_ONE_PROGRAM_ROWS))


def _settings(model: type[BaseSettings], prefix: str) -> Iterator[tuple[str, str, str]]:
    meanings = attribute_docstrings(model)
    for name, field in model.model_fields.items():
        variable = f"{SERVICE_DATABASE}<SERVICE>" if name == "service_databases" else f"{prefix}{name.upper()}"
        yield f"`{variable}`", _default(field.default), _cell(meanings[name])


def attribute_docstrings(model: type[BaseSettings]) -> dict[str, str]:
    """Return the docstring below each field. Raises `KeyError` where a field has none."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                found[name] = words
            case _:
                pass
    return {name: found[name] for name in model.model_fields}


def _default(value: Any) -> str:
    value = value.get_secret_value() if isinstance(value, SecretStr) else value
    if value is PydanticUndefined or value is None or value in ("", (), {}):
        return ""
    if isinstance(value, float | Decimal):
        return f"`{value:f}`" if isinstance(value, Decimal) else f"`{value:g}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


OF_ONE_PROGRAM_ROWS: Final = [
    (f"`{name}`", f"`{default}`" if default else "", meaning) for name, default, meaning in OF_ONE_PROGRAM
]


def commands_page() -> str:
    """Return the page of commands: usage, meaning, arguments, options and an example of each."""
    head = """# Commands

Every command has `--help`. Exit codes: 0 success, 1 a check failed, 2 wrong usage, 3 not found, 4 refused, 5 a server
is unavailable. With `--json`, results and errors are JSON.
"""
    return _page(head, *(_command(path, command) for path, command in leaves()))


def leaves() -> Iterator[tuple[str, Any]]:
    """Yield every command that can be run, with its full name, in the order of names."""
    yield from _leaves("tradesaga", root())


def _leaves(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    children: dict[str, Any] | None = getattr(command, "commands", None)
    if children is None or (command.invoke_without_command and path != "tradesaga"):
        yield path, command
    for name, child in sorted((children or {}).items()):
        yield from _leaves(f"{path} {name}", child)


def examples(command: Any) -> list[str]:
    """Return the commands of the example in a command's help."""
    text = " ".join(f"{command.help or ''} {command.epilog or ''}".split())
    found = EXAMPLE.search(text)
    return CODE.findall(found[1]) if found else []


def _command(path: str, command: Any) -> str:
    meaning = EXAMPLE.split(inspect.cleandoc(command.help or ""))[0].strip()
    parameters = [each for each in command.params if each.name != "help" and not getattr(each, "hidden", False)]
    words = [_argument(each) for each in parameters if each.param_type_name == "argument"]
    usage = f"`{' '.join([path, *words])}`"
    rows = [(_name(each), _cell(_meaning(each))) for each in parameters]
    table = _table(("argument or option", "meaning"), rows) if rows else ""
    shown = "\n".join(examples(command))
    return (
        _page(f"## {path}\n\n{usage}\n\n{meaning}\n", table, f"```sh\n{shown}\n```\n" if shown else "").rstrip() + "\n"
    )


def _argument(parameter: Any) -> str:
    name = (parameter.metavar or parameter.name).upper()
    name = f"{name}..." if parameter.nargs == -1 else name
    return name if parameter.required else f"[{name}]"


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{(parameter.metavar or parameter.name).upper()}`"
    return ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))


def _meaning(parameter: Any) -> str:
    text = " ".join((getattr(parameter, "help", None) or "").split())
    required = " Required." if parameter.required and parameter.param_type_name == "option" else ""
    default = parameter.default
    shown = default is not None and not callable(default) and default not in (False, True, "", (), [])
    return f"{text}{required}{f' Default: `{default}`.' if shown else ''}"


def messages_page() -> str:
    """Return the page of topics and messages: what each carries, and the fields of each."""
    head = """# Topics and messages

Every saga has the topics below, named after it. The [wire contract](../wire-contract.md) describes keys, headers and
what a record can do. `tradesaga schema show TYPE` prints the JSON Schema of a message, `tradesaga schema topics` the
settings of the topics. `TRADESAGA_PARTITIONS` replaces the 12. A `?` marks a field that may be left out.
"""
    topics = [
        (f"`{each.name}`", _cell(each.carries), _cell(each.writers), str(each.partitions), _kept(each.retention_ms))
        for each in (*saga_topics(trade.name), SIGNALS)
    ]
    steps = [
        (
            f"`{step.name}`",
            _types(step.on),
            _types([step.emits]),
            _types([step.rejects] if step.rejects else []),
            *(_types([each]) for each in step.back or ()),
            *([""] if step.back is None else []) * 2,
        )
        for step in trade.steps
    ]
    ours = list(dict.fromkeys(message for step in trade.steps for message in step.messages))
    shared = [each for _, each in inspect.getmembers(lifecycle, inspect.isclass) if _is_message(each)]
    return _page(
        head,
        "## Topics\n",
        _table(("topic", "carries", "written by", "partitions", "kept"), topics),
        "## Steps of the trade\n",
        _table(("step", "starts on", "success", "refusal", "compensation", "compensated"), steps),
        "## Messages of the trade\n",
        _messages(ours),
        "## Facts and commands of every saga\n",
        _messages(shared),
    )


def _is_message(found: type) -> TypeGuard[type[Message]]:
    return issubclass(found, Message) and found not in {Command, Compensation, Event, Message}


def _messages(messages: Iterable[type[Message]]) -> str:
    header = ("type", "fields", "meaning")
    return _table(
        header, [(f"`{wire_type(trade.name, each)}`", _fields(each), _cell(each.__doc__ or "")) for each in messages]
    )


def _fields(message: type[Message]) -> str:
    fields = message.model_fields.items()
    return ", ".join(f"`{name}`" if field.is_required() else f"`{name}`?" for name, field in fields)


def _types(messages: Iterable[type[Message]]) -> str:
    return ", ".join(f"`{each.NAME}`" for each in messages)


def _kept(milliseconds: int) -> str:
    return "for ever" if milliseconds == -1 else f"{milliseconds // DAY_MS} days"


def metrics_page() -> str:
    """Return the page of metrics: name as Prometheus shows it, type, labels, meaning."""
    head = """# Metrics

Each process serves its metrics under `/metrics` on `TRADESAGA_METRICS_PORT`. Labels name definitions (saga, step,
group), never a single saga, account or order. [Operations](../operations.md#what-to-alert-on) says which of them to
alert on.
"""
    found = [
        each for each in REGISTRY.collect() if each.name.startswith("tradesaga_") and each.name not in _worker_names()
    ]
    rows = [_metric(each) for each in sorted([*found, *WorkerCollector().collect()], key=lambda each: each.name)]
    return _page(
        head.replace(" A name with `?` after its labels\nhas them only on some samples.", ""),
        _table(("metric", "type", "labels", "meaning"), rows),
    )


def _worker_names() -> set[str]:
    return {each.name for each in WorkerCollector().collect()}


def _metric(metric: Any) -> tuple[str, str, str, str]:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    return f"`{name}`", metric.type, _labels(metric.name), _cell(metric.documentation)


@cache
def _label_names() -> dict[str, tuple[str, ...]]:
    """Return the labels of each metric, from the calls that make them: the library does not tell them."""
    calls = [each for each in ast.walk(ast.parse(inspect.getsource(metrics))) if isinstance(each, ast.Call)]
    made = [each for each in calls if getattr(each.func, "id", "") in {"Counter", "Gauge", "Histogram"}]
    return {ast.literal_eval(each.args[0]): ast.literal_eval(each.args[2]) for each in made if len(each.args) > 2}


def _labels(name: str) -> str:
    names = ("group",) if name in _worker_names() else _label_names().get(name, ())
    return ", ".join(f"`{each}`" for each in names)


def modules_page() -> str:
    """Return the page of modules: by folder, each module's first sentence and the names that it defines."""
    head = """# Modules

Every module of the package, by folder: what it contains, and the public classes, functions and type aliases that it
defines. The [architecture page](../architecture.md) describes the folders and the path of a trade through them.
"""
    folders: dict[str, list[tuple[str, str, str]]] = {}
    for path in shipped_files():
        tree = parsed(path)
        if path.name == "__init__.py" or "versions" in path.parts:
            continue
        about = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
        defined = ", ".join(f"`{name}`" for name in dict.fromkeys(_defined(tree)) if name[0] != "_")
        folders.setdefault(named(path.parent), []).append((f"`{path.name}`", _cell(about), defined))
    header = ("module", "contents", "defines")
    tables = (part for name, rows in folders.items() for part in (f"## `{name}/`\n", _table(header, rows)))
    return _page(head, *tables)


def _defined(tree: ast.Module) -> Iterator[str]:
    """Yield the names of a module's classes, functions and type aliases."""
    for each in tree.body:
        match each:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Subscript() | ast.BinOp() | ast.Name()):
                if ALIAS.fullmatch(name):
                    yield name
            case _:
                pass


def decisions_page() -> str:
    """Return the list of decisions, oldest first."""
    head = """# Decisions

Each page explains one design decision: the reasons, the alternatives that were not chosen, and the consequences. A page
is written with the change that it explains and describes the project as it was then.
"""
    listed: list[str] = []
    for page in sorted((ROOT / "docs" / "decisions").glob("0*.md")):
        title = re.sub(r"^# \d+\W+", "", page.read_text(encoding="utf-8").splitlines()[0])
        listed.append(f"* {page.name[:4]} [{title}]({page.name})")
    return _page(head, "\n".join(listed) + "\n")


def _cell(text: str) -> str:
    """Return the first paragraph of a text on one line, safe in a table."""
    paragraph = inspect.cleandoc(text).split("\n\n")[0]
    return (
        " ".join(paragraph.split()).replace("|", "\\|").replace("<", "&lt;")
        if "`" not in paragraph
        else _quoted(paragraph)
    )


def _quoted(paragraph: str) -> str:
    return " ".join(paragraph.split()).replace("|", "\\|")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)


def _page(*parts: str) -> str:
    return "\n".join(part for part in parts if part)
