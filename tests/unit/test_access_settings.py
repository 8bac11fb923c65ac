"""Secrets come from where no other user of the machine reads them, and show nowhere; the door is never open
by oversight."""

from __future__ import annotations

import argparse
import ipaddress
import json
import logging
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from pxbridge import settings
from pxbridge.cli import main
from pxbridge.commands import engine_serve
from pxbridge.errors import ConfigError
from pxbridge.settings import Settings, check_access, load

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PASSWORD = "correct-horse-battery"
KEY = "0123456789abcdef" * 4
TOKEN = "f00dfeedf00dfeed"
SECRETS = {
    "PXBRIDGE_CREDENTIALS": f"asha:{PASSWORD} ravi:{PASSWORD}2",
    "PXBRIDGE_TOKEN_KEYS": KEY,
    "PXBRIDGE_ENGINE_TOKEN": TOKEN,
}


def refusal(flags: Mapping[str, object], environ: Mapping[str, str]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        check_access(load(flags, environ))
    assert "\n" not in str(caught.value)
    return caught.value


def plain(secrets: settings.Secrets) -> list[str]:
    return [secret.get_secret_value() for secret in secrets]


# Where secrets come from


def test_a_secret_comes_from_the_environment() -> None:
    loaded = load({}, SECRETS)
    assert plain(loaded.settings.credentials) == [f"asha:{PASSWORD}", f"ravi:{PASSWORD}2"]
    assert plain(loaded.settings.token_keys) == [KEY]


def test_a_secret_comes_from_a_file_that_any_source_may_name(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    file.write_text(f"asha:{PASSWORD}\nravi:{PASSWORD}2\n")
    expected = [f"asha:{PASSWORD}", f"ravi:{PASSWORD}2"]
    assert plain(load({"credentials_file": str(file)}, {}).settings.credentials) == expected
    loaded = load({}, {"PXBRIDGE_CREDENTIALS_FILE": str(file)})
    assert plain(loaded.settings.credentials) == expected
    assert loaded.origins["credentials"] == ("PXBRIDGE_CREDENTIALS_FILE", "environment")
    toml = tmp_path / "pxbridge.toml"
    toml.write_text('credentials_file = "passwords"')
    assert plain(load({"config": str(toml)}, {}).settings.credentials) == expected
    toml.write_text(f'credentials = ["asha:{PASSWORD}", "ravi:{PASSWORD}2"]')
    assert plain(load({"config": str(toml)}, {}).settings.credentials) == expected


def test_a_secret_comes_from_systemd_if_from_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "pxbridge_credentials").write_text(f"systemd:{PASSWORD}")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    loaded = load({}, environ)
    assert plain(loaded.settings.credentials) == [f"systemd:{PASSWORD}"]
    assert loaded.origins["credentials"] == ("pxbridge_credentials", "systemd credential")
    assert plain(load({}, environ | SECRETS).settings.credentials)[0] == f"asha:{PASSWORD}"


def test_a_secret_has_no_flag_for_the_machines_other_users_to_read() -> None:
    parser = argparse.ArgumentParser()
    settings.add_arguments(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert "--credentials" not in flags and "--token-keys" not in flags
    assert {"--credentials-file", "--token-keys-file"} <= flags


def test_a_secret_and_its_file_contradict(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    file.write_text(f"asha:{PASSWORD}")
    error = refusal({}, {**SECRETS, "PXBRIDGE_CREDENTIALS_FILE": str(file)})
    assert error.setting == "PXBRIDGE_CREDENTIALS_FILE"
    toml = tmp_path / "pxbridge.toml"
    toml.write_text(f'credentials = "asha:{PASSWORD}"\ncredentials_file = "passwords"')
    assert "contradicts credentials" in refusal({"config": str(toml)}, {}).problem


def test_a_secrets_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing")
    assert "cannot read" in refusal({}, {"PXBRIDGE_TOKEN_KEYS_FILE": missing}).problem
    assert refusal({"token_keys_file": missing}, {}).setting == "--token-keys-file"
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "not a text" in refusal({"token_keys_file": str(tmp_path / "binary")}, {}).problem


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        (
            "PXBRIDGE_CREDENTIALS",
            f"asha:{PASSWORD} {PASSWORD}",
            "the second is not of the form USER:PASSWORD",
        ),
        ("PXBRIDGE_CREDENTIALS", f":{PASSWORD}", "the first is not of the form"),
        ("PXBRIDGE_CREDENTIALS", "asha:hunter2", "a password of 7 characters; use at least 12"),
        ("PXBRIDGE_CREDENTIALS", f"asha:{PASSWORD}ü", "characters that a URL cannot contain"),
        ("PXBRIDGE_TOKEN_KEYS", f"{KEY} {KEY[:31]}", "the second has 31 characters; use at least 32"),
        ("PXBRIDGE_CREDENTIALS", f"asha:{PASSWORD},ravi:{PASSWORD}", "separate them by spaces"),
        ("PXBRIDGE_CREDENTIALS", f"asha:{PASSWORD}, ravi:{PASSWORD}", "separate them by spaces"),
        ("PXBRIDGE_TOKEN_KEYS", f"{KEY},{KEY}", "separate them by spaces"),
        ("PXBRIDGE_CONSOLE_CREDENTIALS", f"asha:{PASSWORD},ravi:{PASSWORD}", "separate them by spaces"),
    ],
)
def test_a_secret_that_is_none_is_explained_and_not_repeated(name: str, value: str, problem: str) -> None:
    error = refusal({}, {name: value})
    assert error.setting == name
    assert problem in error.problem
    assert not any(word in str(error) for word in ("hunter2", PASSWORD, KEY[:31]))


@pytest.mark.parametrize("quote", ['"', "'"])
def test_quotes_around_secrets_are_not_part_of_them(quote: str) -> None:
    each = f"{quote}asha:{PASSWORD}{quote} {quote}ravi:{PASSWORD}2{quote}"
    for written in (f"{quote}asha:{PASSWORD} ravi:{PASSWORD}2{quote}", each):
        loaded = load({}, {"PXBRIDGE_CREDENTIALS": written})
        assert plain(loaded.settings.credentials) == [f"asha:{PASSWORD}", f"ravi:{PASSWORD}2"]


@pytest.mark.parametrize("quote", ['"', "'"])
def test_bridge_and_engine_read_the_same_token_from_an_env_file(quote: str, tmp_path: Path) -> None:
    environ = {"PXBRIDGE_ENGINES": "wss://gpu1", "PXBRIDGE_ENGINE_TOKEN": f"{quote}{TOKEN}{quote}"}
    token = load({}, environ).settings.engine_token
    assert token is not None and token.get_secret_value() == TOKEN
    assert engine_serve.token_in(environ) == TOKEN
    (tmp_path / "token").write_text(f"{quote}{TOKEN}{quote}\r\n")
    token = load({"engine_token_file": str(tmp_path / "token")}, {}).settings.engine_token
    assert token is not None and token.get_secret_value() == TOKEN


@pytest.mark.parametrize("text", ["", "\n", "\ufeff \r\n"])
@pytest.mark.parametrize("name", ["credentials", "token_keys", "console_tokens", "engine_token"])
def test_an_empty_file_of_a_secret_does_not_open_a_door(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(text, encoding="utf-8")
    error = refusal({f"{name}_file": str(tmp_path / "secret")}, {})
    assert error.setting == f"--{name.replace('_', '-')}-file"
    assert "secret' is empty; write the secret into it" in error.problem


def test_an_empty_file_of_engines_names_none(tmp_path: Path) -> None:
    """The compose file has one if no PersonaPlex server is set up yet."""
    (tmp_path / "engines").touch()
    assert load({"engines_file": str(tmp_path / "engines")}, {}).settings.engines == ()


def test_a_comma_in_a_password_stays() -> None:
    loaded = load({}, {"PXBRIDGE_CREDENTIALS": f"asha:{PASSWORD},and-more"})
    assert plain(loaded.settings.credentials) == [f"asha:{PASSWORD},and-more"]


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY, encoding="utf-8-sig")
    (tmp_path / "pxbridge.toml").write_text('token_keys_file = "key"\nport = 5060\n', encoding="utf-8-sig")
    loaded = load({"config": str(tmp_path / "pxbridge.toml")}, {})
    assert plain(loaded.settings.token_keys) == [KEY]
    assert loaded.settings.port == 5060


def test_a_secret_of_a_wrong_type_is_not_repeated(tmp_path: Path) -> None:
    toml = tmp_path / "pxbridge.toml"
    for value in (f'{{ asha = "{PASSWORD}" }}', "7", "true", f'[["{PASSWORD}"]]', f'["{PASSWORD}", 7]'):
        toml.write_text(f"credentials = {value}")
        assert PASSWORD not in str(refusal({"config": str(toml)}, {}))


def test_secrets_show_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    loaded = load({}, {**SECRETS, "PXBRIDGE_HOST": "0.0.0.0"})
    logging.getLogger("pxbridge").warning("%s %r %s", loaded, loaded.settings, loaded.settings.model_dump())
    texts = [
        repr(loaded),
        str(loaded.settings),
        repr(loaded.settings),
        f"{loaded.settings:}",
        repr(loaded.settings.model_dump()),
        json.dumps(loaded.settings.model_dump(mode="json")),
        loaded.settings.model_dump_json(),
        repr(loaded.origins),
        *check_access(loaded),
        caplog.text,
        settings.markdown_table(),
    ]
    for text in texts:
        assert PASSWORD not in text and KEY not in text and TOKEN not in text


def test_every_setting_that_sounds_like_a_secret_is_one() -> None:
    for name in Settings.model_fields:
        if any(
            word in name
            for word in ("password", "secret", "credential", "token_key", "engine_token", "api_key")
        ):
            assert settings.is_secret(name), name


# Who may come in


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_loopback_with_the_rehearsal_engine_nothing_need_be_set(host: str) -> None:
    assert check_access(load({"host": host}, {})) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "voice.example.com"])
def test_on_a_public_address_it_refuses_to_let_everyone_in(host: str) -> None:
    error = refusal({}, {"PXBRIDGE_HOST": host})
    assert (error.setting, error.source) == ("PXBRIDGE_HOST", "environment")
    for mend in ("CREDENTIALS", "TOKEN_KEYS", "ALLOWED_NETWORKS", "ALLOW_ANONYMOUS=true"):
        assert f"PXBRIDGE_{mend}" in error.problem


def test_in_front_of_a_real_engine_it_refuses_to_let_everyone_in() -> None:
    assert refusal({"engines": "ws://gpu"}, {}).setting == "--engines"


@pytest.mark.parametrize(
    "guard",
    [
        {"PXBRIDGE_CREDENTIALS": f"asha:{PASSWORD}"},
        {"PXBRIDGE_TOKEN_KEYS": KEY},
        {"PXBRIDGE_ALLOWED_NETWORKS": "203.0.113.0/24"},
    ],
)
def test_any_guard_is_enough(guard: dict[str, str]) -> None:
    (note,) = check_access(load({"host": "0.0.0.0", "engines": "ws://gpu"}, guard))
    assert "unencrypted" in note
    assert check_access(load({"host": "0.0.0.0", "trusted_proxies": "10.0.0.1"}, guard)) == []


def test_anonymous_callers_are_never_let_in_silently() -> None:
    (note,) = check_access(load({"host": "0.0.0.0", "allow_anonymous": True}, {}))
    assert "anyone" in note
    error = refusal({"allow_anonymous": True}, {"PXBRIDGE_TOKEN_KEYS": KEY})
    assert "contradicts PXBRIDGE_TOKEN_KEYS" in error.problem


def test_networks_are_written_as_people_write_them(tmp_path: Path) -> None:
    written = "203.0.113.0/24, 198.51.100.7 2001:db8::/32"
    expected = tuple(map(ipaddress.ip_network, ("203.0.113.0/24", "198.51.100.7", "2001:db8::/32")))
    assert load({}, {"PXBRIDGE_ALLOWED_NETWORKS": written}).settings.allowed_networks == expected
    assert load({"trusted_proxies": [written]}, {}).settings.trusted_proxies == expected
    toml = tmp_path / "pxbridge.toml"
    toml.write_text('allowed_networks = ["203.0.113.0/24", "198.51.100.7", "2001:db8::/32"]')
    assert load({"config": str(toml)}, {}).settings.allowed_networks == expected


@pytest.mark.parametrize("written", ["203.0.113.7/24", "exotel.com", "300.1.1.1", "203.0.113.0/33"])
def test_what_is_no_network_is_explained(written: str) -> None:
    assert f"{written!r} is not an address or a network" in refusal({"allowed_networks": written}, {}).problem


@pytest.mark.parametrize(
    "written",
    ["voice.example.com", "https://voice.example.com", "wss://", "wss://a:pw@host", "wss://host?token=x"],
)
def test_what_is_no_public_url_is_explained(written: str) -> None:
    error = refusal({"public_url": written}, {})
    assert error.setting == "--public-url" and "pw" not in str(error).replace("pxbridge", "")


def test_a_key_without_a_certificate_stops_the_start(tmp_path: Path) -> None:
    assert "PXBRIDGE_TLS_CERT_FILE" in refusal({"tls_key_file": str(tmp_path / "key.pem")}, {}).problem


@pytest.mark.parametrize(
    ("host", "written"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("0.0.0.0", "localhost"), ("::", "localhost")],
)
def test_an_address_stands_in_a_url_as_it_can_be_dialled(host: str, written: str) -> None:
    assert settings.url_host(host) == written


# The console


def test_a_console_on_a_public_address_is_warned_about() -> None:
    environ = {"PXBRIDGE_CONSOLE_HOST": "0.0.0.0", "PXBRIDGE_CONSOLE_CREDENTIALS": f"asha:{PASSWORD}"}
    (note,) = check_access(load({}, environ))
    assert "operators' passwords" in note and "unencrypted" in note
    assert check_access(load({}, environ | {"PXBRIDGE_CONSOLE_PORT": "0"})) == []
    assert check_access(load({}, {})) == []


# Passwords in URLs

PASSWORDS = st.text(min_size=1, max_size=20).map(lambda text: f"s3cr3t{text}s3cr3t")
"""Of any characters, recognisable at both ends."""


def told(environ: Mapping[str, str], capsys: pytest.CaptureFixture[str]) -> str:
    """Everything that is said of such settings: as the error, as they print, and by check-config."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        try:
            loaded = load({}, environ)
            said = repr(loaded) + str(loaded.settings)
        except ConfigError as error:
            said = repr(error) + str(error)
        main(["check-config"])
        main(["check-config", "--json"])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return said + captured.out + captured.err


@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix", "wrong"])
@given(password=PASSWORDS.filter(lambda text: "\0" not in text))
@example(password="s3cr3t/s3cr3t")
@example(password="s3cr3t#s3cr3t")
@example(password="s3cr3t@s3cr3t/x?y=1@s3cr3t")
@settings_of_hypothesis(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)
def test_no_password_of_the_lease_store_is_told(
    scheme: str, password: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for url in (
        f"{scheme}://:{password}@h:6379/0",
        f"{scheme}://user:{password.replace('@', '')}",
        f"{scheme}://h?p={password}",
    ):
        assert "s3cr3t" not in told({"PXBRIDGE_LEASE_STORE": url}, capsys)


@pytest.mark.parametrize("scheme", ["wss", "http", "wrong"])
@given(password=PASSWORDS.filter(lambda text: "\0" not in text and " " not in text))
@example(password="s3cr3t/s3cr3t")
@example(password="s3cr3t:1#s3cr3t")
@settings_of_hypothesis(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)
def test_no_password_of_an_engine_is_told(
    scheme: str, password: str, capsys: pytest.CaptureFixture[str]
) -> None:
    password = re.sub(r"[\s,]", "", password)  # which part URLs
    for url in (
        f"{scheme}://u:{password}@h/api/chat",
        f"u:{password}@h",
        f"{scheme}://h/api/chat?t={password}",
    ):
        assert "s3cr3t" not in told({"PXBRIDGE_ENGINES": url, "PXBRIDGE_ALLOW_ANONYMOUS": "1"}, capsys)


@pytest.mark.parametrize(
    "url",
    ["redis://h:abc", "redis://h:99999", "redis://:pass/word@h", "redis://h/0?colour=red", "redis://[::1"],
)
def test_a_store_url_that_the_client_would_stumble_over_stops_the_start_with_a_line(url: str) -> None:
    error = refusal({}, {"PXBRIDGE_LEASE_STORE": url})
    assert (error.setting, "%2F" in error.problem) == ("PXBRIDGE_LEASE_STORE", True)


def test_a_url_with_a_password_comes_from_a_file_or_from_systemd_too(tmp_path: Path) -> None:
    url = "redis://:s3cr3t@h:6379/0"
    file = tmp_path / "pxbridge_lease_store"
    file.write_text(url + "\n")
    toml = tmp_path / "pxbridge.toml"
    toml.write_text('lease_store_file = "pxbridge_lease_store"')
    for loaded in (
        load({"lease_store_file": str(file)}, {}),
        load({}, {"PXBRIDGE_LEASE_STORE_FILE": str(file)}),
        load({}, {"CREDENTIALS_DIRECTORY": str(tmp_path)}),
        load({"config": str(toml)}, {}),
    ):
        assert loaded.settings.lease_store == url
        assert "s3cr3t" not in repr(loaded)
    (tmp_path / "engines").write_text("wss://u:s3cr3t@a\nwss://b\n")
    loaded = load({}, {"PXBRIDGE_ENGINES_FILE": str(tmp_path / "engines"), "PXBRIDGE_ALLOW_ANONYMOUS": "1"})
    assert loaded.settings.engines == ("wss://u:s3cr3t@a/api/chat", "wss://b/api/chat")
    error = refusal({"lease_store": url, "lease_store_file": str(file)}, {})
    assert error.setting == "--lease-store-file" and "contradicts --lease-store" in error.problem


@pytest.mark.parametrize(
    "url", ["wss://u:abc/s3cr3t@h", "wss://u:s3cr3t@h", "wss://h:s3cr3t", "wss://[s3cr3t]"]
)
def test_a_public_url_has_no_password_and_none_is_told(url: str) -> None:
    error = refusal({}, {"PXBRIDGE_PUBLIC_URL": url})
    assert error.setting == "PXBRIDGE_PUBLIC_URL" and "s3cr3t" not in str(error)


# The PROXY protocol


def test_headers_of_proxies_are_believed_only_from_proxies_that_are_named() -> None:
    error = refusal({}, {"PXBRIDGE_PROXY_PROTOCOL": "true"})
    assert error.setting == "PXBRIDGE_PROXY_PROTOCOL"
    assert "set PXBRIDGE_TRUSTED_PROXIES to the proxy's address" in error.problem
    named = {"PXBRIDGE_PROXY_PROTOCOL": "true", "PXBRIDGE_TRUSTED_PROXIES": "10.0.0.1"}
    check_access(load({}, named))
    assert not load({}, {}).settings.proxy_protocol
