"""Who owns which steps: the participants that this installation has registered, as recovery needs to know them."""

from collections.abc import Sequence
from dataclasses import dataclass

from tradesaga.consumers.participant import Participant
from tradesaga.infra.registry.owners import registered_owners, unowned_steps
from tradesaga.infra.registry.sagas import registered_sagas
from tradesaga.infra.settings import Settings
from tradesaga.sagas.definition import AnySaga


@dataclass(frozen=True, slots=True)
class Cast:
    """One saga and the participants that run it."""

    saga: AnySaga
    participants: Sequence[Participant]

    @property
    def orphans(self) -> list[str]:
        """Name the steps that no participant owns: their rows cannot be made anew."""
        return unowned_steps(self.saga, self.participants)


def registered_casts(settings: Settings) -> list[Cast]:
    """Return each registered saga with its participants. Raises `CommandError` for one that cannot be loaded."""
    found = [each for each in registered_owners(settings) if isinstance(each, Participant)]
    sagas = registered_sagas(settings.app)
    return [Cast(saga, [each for each in found if each.saga.name == name]) for name, saga in sorted(sagas.items())]
