"""The ledger's file by itself."""

from pathlib import Path

from tradesaga.infra.paper_exchange.ledger import Ledger


def test_a_setting_keeps_its_first_value(tmp_path: Path) -> None:
    """The admin key that a venue generates is the same at the next start."""
    for value in ("first", "second"):
        ledger = Ledger(tmp_path / "ledger.sqlite")
        assert ledger.setting("admin_key", value) == "first"
        ledger.close()
