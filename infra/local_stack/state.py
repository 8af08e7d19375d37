"""What a stack remembers of itself between commands: ports, process ids, secrets."""

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


class ProcessId(BaseModel):
    """A pid with its start time, so that it is not confused with a later process of the same number."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: float


class PostgresState(BaseModel):
    """PostgreSQL's data folder, port, password and process; `data` may lie outside the stack's folder."""

    model_config = ConfigDict(frozen=True)

    port: int = 0
    password: str = ""
    data: str = ""
    process: ProcessId | None = None

    @property
    def url(self) -> str:
        """Return the URL of the stack's database."""
        return f"postgresql://tradesaga:{self.password}@{LOOPBACK}:{self.port}/tradesaga"


class KafkaState(BaseModel):
    """Kafka's two ports and its process."""

    model_config = ConfigDict(frozen=True)

    port: int = 0
    controller_port: int = 0
    process: ProcessId | None = None

    @property
    def bootstrap(self) -> str:
        """Return the address that clients connect to first."""
        return f"{LOOPBACK}:{self.port}"


class PartState(BaseModel):
    """One supervised process: its `tradesaga` command, what services it runs, its port and how often it was started."""

    model_config = ConfigDict(frozen=True)

    name: str
    command: tuple[str, ...] = ()
    serves: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    port: int = 0
    process: ProcessId | None = None
    starts: int = 0


class StackState(BaseModel):
    """The whole state file; a server that is not our own was given by the environment and is never started here."""

    model_config = ConfigDict(frozen=True)

    kafka: str = ""
    database_url: str = ""
    venue_url: str = ""
    venue_key: str = ""
    venue_secret: str = ""
    http_port: int = 0
    app: tuple[str, ...] = ()
    topic_prefix: str = ""
    postgres: PostgresState = PostgresState()
    broker: KafkaState = KafkaState()
    own_postgres: bool = True
    own_broker: bool = True
    supervisor: ProcessId | None = None
    parts: tuple[PartState, ...] = ()


def read_state(home: Path) -> StackState:
    """Read the stack's state; an empty one when there is none yet. Raises CommandError when it is not readable."""
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
    """Replace the state file in one step; only its owner may read it, for it holds a password."""
    home.mkdir(parents=True, exist_ok=True)
    draft = home / f".{STATE_FILE}.{os.getpid()}.{secrets.token_hex(4)}"
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(state.model_dump(mode="json"), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(home / STATE_FILE)


def change_state(home: Path, change: Callable[[StackState], StackState]) -> StackState:
    """Read, change and replace the state file, nobody else doing so meanwhile."""
    with lock(home, "state.lock"):
        state = change(read_state(home))
        write_state(home, state)
    return state


@contextlib.contextmanager
def lock(home: Path, name: str = "stack.lock") -> Generator[None]:
    """Hold a lock file of the stack, so that two commands never start or stop the same servers at once."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
