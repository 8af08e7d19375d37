"""uv is run with what pip is configured for, since it reads none of that itself."""

from pathlib import Path

import pytest

from tests.architecture.sources import ROOT
from tradesaga.infra.install.uv import parse_config, uv_lines, uv_options, uv_variables

LISTING = r"""
:env:.timeout='180'
download.index-url='https://download.example/simple'
global.cert='/etc/ssl/corporate.pem'
global.extra-index-url='\nhttps://a.example/simple\nhttps://b.example/simple'
global.index-url='https://one.example/simple'
global.timeout='15'
global.trusted-host='one.example:8080 two.example'
install.index-url='https://user:it%27s@two.example/simple'
"""


def test_the_last_section_that_pip_install_reads_wins() -> None:
    """Variables before the section of the command, before the global one; other commands' sections are theirs."""
    config = parse_config(LISTING)

    assert config["index-url"] == "https://user:it%27s@two.example/simple"
    assert config["timeout"] == "180"


def test_indexes_certificate_hosts_and_time_limit_are_passed_on() -> None:
    """Each as the variable that uv reads."""
    assert uv_variables(parse_config(LISTING), {}) == {
        "UV_INDEX_URL": "https://user:it%27s@two.example/simple",
        "UV_EXTRA_INDEX_URL": "https://a.example/simple https://b.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_INSECURE_HOST": "one.example:8080 two.example",
        "UV_HTTP_TIMEOUT": "180",
        "SSL_CERT_FILE": "/etc/ssl/corporate.pem",
    }


def test_what_uv_is_told_itself_stays() -> None:
    """A variable of uv's own goes before pip's; the certificate is everybody's, and pip's choice goes before it."""
    given = {"UV_INDEX_URL": "https://mine.example/simple", "SSL_CERT_FILE": "/etc/ssl/all.pem"}

    chosen = uv_variables(parse_config(LISTING), given)

    assert "UV_INDEX_URL" not in chosen
    assert chosen["SSL_CERT_FILE"] == "/etc/ssl/corporate.pem"


def test_folders_of_wheels_are_passed_on_as_far_as_they_exist(tmp_path: Path) -> None:
    """Where pip only warns of a folder that is not there, uv would stop."""
    config = {"find-links": f"{tmp_path}/gone\n{tmp_path} https://a.example/wheels", "no-index": "true"}

    assert uv_variables(config, {}) == {"UV_FIND_LINKS": f"{tmp_path},https://a.example/wheels"}
    assert uv_options(config) == ["--no-index"]
    assert uv_options({}) == []


def test_uv_is_pinned_with_its_hashes() -> None:
    """The lines that pip installs uv from are those of the lock, and nothing else."""
    name, *rest = uv_lines((ROOT / "requirements-dev.lock").read_text(encoding="utf-8")).splitlines()

    assert name.startswith("uv==")
    assert rest
    assert all(line.strip().startswith("--hash=sha256:") for line in rest)


def test_a_lock_without_uv_is_named() -> None:
    """What to do is in the sentence."""
    with pytest.raises(SystemExit, match="make lock"):
        uv_lines("pip==1 \\\n    --hash=sha256:0\n")
