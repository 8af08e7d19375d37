"""State file of a local stack: ports, process ids, secrets."""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Generator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tradesaga.infra.errors import CommandError
from tradesaga.infra.local_stack.ports import LOOPBACK

STATE_FILE = "state.json"


class Frozen(BaseModel):
    """Base of immutable models."""

    model_config = ConfigDict(frozen=True)


class ProcessId(Frozen):
    """A pid and its start time, which distinguishes it from a later process with the same pid."""

    pid: int
    started: float


class PostgresState(Frozen):
    """PostgreSQL's data folder, port, password and process; `data` may lie outside the stack's folder."""

    port: int = 0
    password: str = ""
    data: str = ""
    process: ProcessId | None = None

    @property
    def url(self) -> str:
        """The URL of the stack's database."""
        return f"postgresql://tradesaga:{self.password}@{LOOPBACK}:{self.port}/tradesaga"


class KafkaState(Frozen):
    """Kafka's two ports and its process."""

    port: int = 0
    controller_port: int = 0
    process: ProcessId | None = None

    @property
    def bootstrap(self) -> str:
        """The bootstrap server."""
        return f"{LOOPBACK}:{self.port}"


class PartState(Frozen):
    """A supervised process: its `tradesaga` command, the services it runs, its port and how often it was started."""

    name: str
    command: tuple[str, ...] = ()
    serves: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    port: int = 0
    process: ProcessId | None = None
    starts: int = 0


class StackState(Frozen):
    """The whole state file. A server that is not our own is given by the environment and never started here."""

    kafka: str = ""
    database_url: str = ""
    venue_url: str = ""
    venue_key: str = ""
    venue_secret: str = ""
    http_port: int = 0
    app: tuple[str, ...] = ()
    topic_prefix: str = ""
    partitions: int = 0
    """Of each topic that is keyed by saga; 0 in a folder of a release that had only one number."""
    postgres: PostgresState = PostgresState()
    broker: KafkaState = KafkaState()
    own_postgres: bool = True
    own_broker: bool = True
    supervisor: ProcessId | None = None
    parts: tuple[PartState, ...] = ()


def read_state(home: Path) -> StackState:
    """Return the stack's state, empty if there is no file. Raises CommandError if the file cannot be read."""
    file = home / STATE_FILE
    try:
        return StackState.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return StackState()
    except (OSError, ValidationError) as error:
        what = "the stack's state file cannot be read"
        do = f"restore it, or remove it once no server of this stack runs ({type(error).__name__})"
        raise CommandError("state-unreadable", what, str(file), do) from error


def write_state(home: Path, state: StackState) -> None:
    """Replace the state file atomically; it contains a password, so only its owner may read it."""
    home.mkdir(parents=True, exist_ok=True)
    draft = home / f".{STATE_FILE}.{os.getpid()}.{secrets.token_hex(4)}"
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(state.model_dump(mode="json"), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(home / STATE_FILE)


def change_state(home: Path, change: Callable[[StackState], StackState]) -> StackState:
    """Read, change and replace the state file under a lock; return the new state."""
    with lock(home, "state.lock"):
        state = change(read_state(home))
        write_state(home, state)
    return state


@contextlib.contextmanager
def lock(home: Path, name: str = "stack.lock") -> Generator[None]:
    """Hold a lock file of the stack, so that only one command at a time starts or stops its servers."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
