"""The functions of a step, by the version of the definition that a saga runs under."""

from collections.abc import Mapping

from tradesaga.consumers.participant import Binding, Participant
from tradesaga.consumers.runtime.step_rows import Row
from tradesaga.infra.kafka.codec import unpack
from tradesaga.infra.registry.sagas import UNKNOWN_VERSION
from tradesaga.schemas.envelope import VERSION, EnvelopeError

_LENGTH = 4


class UnknownVersionError(EnvelopeError):
    """A saga runs under a version of its definition that is not registered here: it waits until one is."""


class Bindings:
    """A participant's bindings; the step's name alone decides where all versions have the same step of that name."""

    def __init__(self, participant: Participant) -> None:
        saga = participant.saga
        self.unversioned = 1 if 1 in saga.versions else min(saga.versions)
        self.by_version: Mapping[int, Mapping[str, Binding]] = {
            version: participant.under(version) for version in saga.versions
        }
        self.known = "version " + ", ".join(map(str, sorted(self.by_version)))
        self._newest = participant.bindings
        variants = [(name, binding) for each in self.by_version.values() for name, binding in each.items()]
        self._alike = {
            name: binding
            for name, binding in participant.bindings.items()
            if all(other is binding for known, other in variants if known == name)
        }

    def at(self, step: str, version: int) -> Binding:
        """Return the binding of a step under a version, 0 standing for a record that names none.

        Raises `UnknownVersionError`, and `KeyError` for a step that this participant does not own under that version.
        """
        if version:
            self.check(version)
        alike = self._alike.get(step)
        return alike if alike is not None else self.by_version[version or self.unversioned][step]

    def check(self, version: int) -> None:
        """Raise `UnknownVersionError` for a version that is not registered here."""
        if version and version not in self.by_version:
            raise UnknownVersionError(f"{UNKNOWN_VERSION} {version}; this service knows {self.known}")

    def newest(self, step: str) -> Binding:
        """Return the binding of a step in the newest version that has it; raises `KeyError`."""
        return self._newest[step]

    def of(self, row: Row) -> Binding:
        """Return the binding of a row, whose version is in what it keeps of its saga's records.

        A row of which only reports from outside have come has no version yet: the newest reads those.
        """
        alike = self._alike.get(row.step)
        if alike is not None:
            return alike
        kept = row.input[_LENGTH:] if row.input else row.back_input[_LENGTH:] if row.back_input else row.answer
        if kept is None:
            return self._newest[row.step]
        return self.at(row.step, int(dict(unpack(kept)[0]).get(VERSION) or 0))
