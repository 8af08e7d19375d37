"""Signed notes and checkpoints: what is signed is read back, and nothing else is."""

import base64
from dataclasses import replace

import pytest

from tradesaga.infra.audit_log.checkpoint import Checkpoint, hash_note
from tradesaga.infra.audit_log.merkle import EMPTY_ROOT
from tradesaga.infra.audit_log.note import NoteError, Signer, Verifier, open_note

# The example of c2sp.org/signed-note, made by Go's golang.org/x/mod/sumdb/note.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "\N{EM DASH} PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_a_note_of_another_tool_is_read() -> None:
    """Key, note and signature are from Go's own documentation."""
    verifier = Verifier.parse(PETER)
    text, signers = open_note(NOTE, {verifier.id: verifier})
    assert text.startswith("If you think")
    assert signers == [verifier]
    assert str(verifier) == PETER


def test_what_is_signed_is_read_back() -> None:
    """With the key written and read back too."""
    signer = Signer.parse(Signer.generate("desk/log").secret())
    verifier = Verifier.parse(str(signer.verifier))
    assert open_note(signer.sign("a\n\nb\n"), {verifier.id: verifier}) == ("a\n\nb\n", [verifier])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("answer", "question"),
        ("x08go/ZJ", "x08go/ZK"),
        ("\n\n", "\n"),
        ("BwJnAM=\n", "BwJnAM="),
        ("x08g", "!!!!"),
        ("x08g", "x\N{SNOWMAN}8g"),
        ("\N{EM DASH} Peter", "\N{EM DASH} Paul"),
    ],
)
def test_a_spoilt_note_is_refused(old: str, new: str) -> None:
    """Text, signature, form or name."""
    verifier = Verifier.parse(PETER)
    assert old in NOTE
    with pytest.raises(NoteError):
        open_note(NOTE.replace(old, new), {verifier.id: verifier})


@pytest.mark.parametrize("text", ["", "a+b", "a+00000000+AAAA", PETER.replace("c74f20a3", "c74f20a4"), "x+00000000+!"])
def test_what_is_no_key_is_refused(text: str) -> None:
    """A key whose id does not fit it is no key either."""
    with pytest.raises(NoteError):
        Verifier.parse(text)


def test_a_private_key_is_not_repeated_when_it_is_refused() -> None:
    """An error ends in a log."""
    secret = base64.b64encode(b"secret").decode()
    with pytest.raises(NoteError) as refused:
        Signer.parse(f"PRIVATE+KEY+a+00000000+{secret}")
    assert secret not in str(refused.value)


CHECKPOINT = Checkpoint("tradesaga/1/trade.events/3", 7, EMPTY_ROOT, 12, "", 1_700_000_000_000_000_000)


def test_a_checkpoint_is_read_back() -> None:
    """With a clock that is known, and one that is not."""
    for checkpoint in (CHECKPOINT, replace(CHECKPOINT, clock="chrony", clock_error=1500, previous=hash_note("x"))):
        assert Checkpoint.parse(checkpoint.to_text()) == checkpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\n1\n",
        CHECKPOINT.to_text() + "more\n",
        CHECKPOINT.to_text().replace("\n7\n", "\n07\n"),
        CHECKPOINT.to_text().replace("\n7\n", "\n-7\n"),
        CHECKPOINT.to_text().replace("time ", "tide "),
        CHECKPOINT.to_text().replace("47DEQ", "47DE"),
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    """One text for one checkpoint: a second spelling is not taken."""
    with pytest.raises(NoteError):
        Checkpoint.parse(text)
