from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxbridge import settings
from pxbridge.app.assembly import engine_addresses
from pxbridge.engines.address import Pinned
from pxbridge.errors import ConfigError
from pxbridge.settings import Settings, load, mask_url
from pxbridge.settings.values import Right

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
FINGERPRINT = "ab" * 32

# Self-signed, for engine.test; its key was thrown away.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBhDCCASmgAwIBAgIUAITfzlBVEhoTx6Wc5Gh53q+yjRowCgYIKoZIzj0EAwIw
FjEUMBIGA1UEAwwLZW5naW5lLnRlc3QwIBcNMjYxMTIyMTc0MDEyWhgPMjEyNjEw
MjkxNzQwMTJaMBYxFDASBgNVBAMMC2VuZ2luZS50ZXN0MFkwEwYHKoZIzj0CAQYI
KoZIzj0DAQcDQgAELt6bNi/T9X3qOVgZgwV13+5LTGXcbnms+PiLfjMqD74YiJGK
S6sl+iJvK1G5Td+1wNQVx9bCgrUfULo/6fvhaqNTMFEwHQYDVR0OBBYEFOH7u6bw
vy29PPgTidSVgOoQ9T32MB8GA1UdIwQYMBaAFOH7u6bwvy29PPgTidSVgOoQ9T32
MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSQAwRgIhAIlao66lhIo6Fhi0
ldIwYK+ewP82FYRq4toVjrTlenbZAiEA+r0BNq2lqBkMblvse6J69JQuPgIFtAiH
ieuhHD4q9yo=
-----END CERTIFICATE-----
"""


def toml(tmp_path: Path, text: str) -> str:
    file = tmp_path / "pxbridge.toml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def refusal(
    flags: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None
) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(flags or {}, environ or {})
    assert "\n" not in str(caught.value)
    return caught.value


def test_nothing_given_means_the_defaults() -> None:
    loaded = load({}, {"HOME": "/root"})
    assert loaded.settings == Settings()
    assert (loaded.settings.host, loaded.settings.port, loaded.settings.engines) == ("127.0.0.1", 5050, ())
    assert loaded.settings.voice_prompt == "NATF0.pt"
    assert loaded.notes == []


def test_a_flag_wins_over_the_environment_over_a_file(tmp_path: Path) -> None:
    config = toml(tmp_path, 'port = 1\nmax_calls = 1\nvoice_prompt = "NATM1.pt"')
    environ = {"PXBRIDGE_PORT": "2", "PXBRIDGE_MAX_CALLS": "2", "PXBRIDGE_CONFIG": config}
    loaded = load({"port": "3"}, environ)
    assert (loaded.settings.port, loaded.settings.max_calls) == (3, 2)
    assert loaded.settings.voice_prompt == "NATM1.pt"
    assert loaded.origins == {
        "port": ("--port", "command line"),
        "max_calls": ("PXBRIDGE_MAX_CALLS", "environment"),
        "voice_prompt": ("voice_prompt", config),
    }


def test_the_flag_for_the_file_wins_over_the_variable(tmp_path: Path) -> None:
    config = toml(tmp_path, "port = 7")
    assert load({"config": config}, {"PXBRIDGE_CONFIG": "/nowhere"}).settings.port == 7


def test_the_prototypes_variables_work_and_are_noted() -> None:
    loaded = load({}, {"BRIDGE_HOST": "0.0.0.0", "BRIDGE_PORT": "6000"})
    assert (loaded.settings.host, loaded.settings.port) == ("0.0.0.0", 6000)
    assert [note.split()[0] for note in loaded.notes] == ["BRIDGE_HOST", "BRIDGE_PORT"]


def test_the_new_name_wins_over_the_prototypes() -> None:
    loaded = load({}, {"BRIDGE_PORT": "6000", "PXBRIDGE_PORT": "7000"})
    assert loaded.settings.port == 7000
    assert loaded.notes == []


def test_a_wrong_value_under_the_prototypes_name_is_told_under_that_name() -> None:
    assert str(refusal({}, {"BRIDGE_PORT": "x"})).startswith(
        "BRIDGE_PORT (environment): 'x' is not a port number"
    )


def test_an_empty_variable_counts_as_not_set() -> None:
    assert (
        load({}, {"PXBRIDGE_PORT": "", "PXBRIDGE_ENGINES": "", "PXBRIDGE_CONFIG": ""}).settings == Settings()
    )


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("port", "50x50", "a port number from 0 (any free one) to 65535"),
        ("port", "65536", "a port number"),
        ("port", "-1", "a port number"),
        ("port", "50.5", "a port number"),
        ("host", "two words", "a host name or an address"),
        ("max_calls", "0", "a whole number from 1"),
        ("engine_connect_timeout_s", "0", "a number of seconds above 0"),
        ("engine_handshake_timeout_s", "nan", "a number of seconds above 0"),
        ("engine_handshake_timeout_s", "inf", "a number of seconds above 0"),
        ("engine_insecure", "perhaps", "true or false"),
        ("voice_prompt", "NATF0", "a voice the engine has, such as NATF0.pt"),
        ("text_prompt", "  ", "a text of at least one letter"),
        ("log_level", "loud", "one of debug, info, warning, error"),
        ("engine_fingerprint", "abc", "a SHA-256 fingerprint of 64 hex digits"),
    ],
)
def test_a_bad_value_names_the_setting_its_source_and_the_fix(name: str, value: str, right: str) -> None:
    error = refusal({}, {settings.variable(name): value})
    assert (error.setting, error.source) == (settings.variable(name), "environment")
    assert right in error.problem
    error = refusal({name: value})
    assert (error.setting, error.source) == (settings.flag(name), "command line")
    assert right in error.problem


def test_a_bad_value_in_a_file_names_the_file(tmp_path: Path) -> None:
    config = toml(tmp_path, "port = true")
    error = refusal({"config": config})
    assert (error.setting, error.source) == ("port", config)
    assert "True is not a port number" in error.problem


@pytest.mark.parametrize(
    ("written", "near"),
    [
        ("PXBRIDGE_ENGINE", "PXBRIDGE_ENGINES"),
        ("PXBRIDGE_VOICE", "PXBRIDGE_VOICE_PROMPT"),
        ("PXBRIDGE_PRT", "PXBRIDGE_PORT"),
    ],
)
def test_an_unknown_variable_is_answered_with_the_nearest_name(written: str, near: str) -> None:
    assert f"did you mean {near}?" in refusal({}, {written: "1"}).problem


def test_a_variable_that_resembles_no_setting_gets_no_guess() -> None:
    """All variables begin alike; that says nothing."""
    problem = refusal({}, {"PXBRIDGE_FOO": "1"}).problem
    assert problem == "no such setting; `pxbridge help settings` lists them all"


@pytest.mark.parametrize("quote", ['"', "'"])
def test_quotes_that_an_env_file_leaves_around_a_value_are_no_part_of_it(quote: str, tmp_path: Path) -> None:
    config = toml(tmp_path, "max_calls = 7")
    written = {
        "PXBRIDGE_PORT": "5060",
        "PXBRIDGE_ENGINES": "ws://a:1 ws://b:2",
        "PXBRIDGE_TEXT_PROMPT": "You're Asha.",
        "PXBRIDGE_TRUSTED_PROXIES": "10.0.0.0/8",
        "PXBRIDGE_ALLOW_ANONYMOUS": "true",
        "PXBRIDGE_CONFIG": config,
    }
    if quote == "'":
        written["PXBRIDGE_TEXT_PROMPT"] = "You are Asha."
    quoted = {name: f"{quote}{value}{quote}" for name, value in written.items()}
    assert settings.load({}, quoted).settings == settings.load({}, written).settings


def test_an_address_with_a_length_is_told_what_it_could_mean() -> None:
    problem = refusal({"trusted_proxies": ["10.0.0.1/8"]}).problem
    assert "write 10.0.0.0/8 for the network, or 10.0.0.1 for the address alone" in problem


def test_an_unknown_key_in_a_file_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    config = toml(tmp_path, 'engine_finger_print = "ab"')
    assert str(refusal({"config": config})) == (
        f"engine_finger_print ({config}): no such setting; did you mean engine_fingerprint?"
    )


def test_there_is_no_sample_rate_to_get_wrong() -> None:
    assert "no such setting" in refusal({}, {"PXBRIDGE_SAMPLE_RATE": "8000"}).problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [("port 5", "is not a TOML file"), (None, "cannot read"), ("\x00", "is not a TOML file")],
)
def test_a_file_that_cannot_be_used_names_who_asked_for_it(
    tmp_path: Path, text: str | None, problem: str
) -> None:
    config = str(tmp_path / "absent.toml") if text is None else toml(tmp_path, text)
    error = refusal({"config": config})
    assert (error.setting, error.source) == ("--config", "command line")
    assert problem in error.problem
    assert refusal({}, {"PXBRIDGE_CONFIG": config}).setting == "PXBRIDGE_CONFIG"


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("wss://gpu:8998/api/chat", "wss://gpu:8998/api/chat"),
        ("ws://gpu:8998", "ws://gpu:8998/api/chat"),
        ("https://gpu:8998/", "wss://gpu:8998/api/chat"),
        ("HTTP://gpu/px/api/chat", "ws://gpu/px/api/chat"),
        ("wss://[::1]:8998?token=t", "wss://[::1]:8998/api/chat?token=t"),
    ],
)
def test_an_engines_url_may_be_written_as_people_write_it(written: str, means: str) -> None:
    assert load({}, {"PXBRIDGE_ENGINES": written}).settings.engines == (means,)


def test_engines_are_a_list_in_every_source(tmp_path: Path) -> None:
    both = ("ws://a/api/chat", "ws://b/api/chat")
    assert load({}, {"PXBRIDGE_ENGINES": " ws://a,\n ws://b "}).settings.engines == both
    assert load({"engines": ["ws://a", "ws://b"]}, {}).settings.engines == both
    config = toml(tmp_path, 'engines = ["ws://a", "ws://b"]')
    assert load({"config": config}, {}).settings.engines == both


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("wss://gpu..example:8998", "has an impossible host name"),
        ("wss://" + "g" * 64 + ".example", "has an impossible host name"),
        ("gpu:8998", "has no scheme; write wss://gpu:8998 (TLS) or ws://gpu:8998 (plain)"),
        ("ftp://gpu", "begins with ftp://"),
        ("ws://", "names no host"),
        ("ws://gpu:99999", "is not a URL"),
        ("ws://gpu/#x", "#fragment"),
        ("ws://gpu/?seed=1", "has seed= in its query"),
        ("ws://gpu ws://gpu/api/chat", "is named twice"),
    ],
)
def test_an_engines_url_that_cannot_work_is_explained(written: str, problem: str) -> None:
    assert problem in refusal({}, {"PXBRIDGE_ENGINES": written}).problem


def test_engines_of_a_wrong_type_are_explained(tmp_path: Path) -> None:
    assert "is not a list of WebSocket URLs" in refusal({"config": toml(tmp_path, "engines = 5")}).problem


SECRET = "s3cret"


@pytest.mark.parametrize(
    "url",
    [f"wss://user:{SECRET}@gpu:8998/api/chat", f"wss://{SECRET}@gpu/", f"wss://gpu/api/chat?token={SECRET}="],
)
def test_what_an_engines_url_keeps_secret_is_shown_nowhere(url: str) -> None:
    loaded = load({}, {"PXBRIDGE_ENGINES": url})
    assert SECRET in "".join(loaded.settings.engines)
    assert SECRET not in repr(loaded.settings) + str(loaded.settings)
    broken = url.replace("wss:", "ftp:")
    assert SECRET not in str(refusal({}, {"PXBRIDGE_ENGINES": broken}))
    assert SECRET not in str(refusal({}, {"PXBRIDGE_ENGINES": url.removeprefix("wss://")}))


@given(st.text(max_size=40))
def test_an_engine_is_refused_or_normalised_and_never_anything_else(text: str) -> None:
    try:
        engines = load({}, {"PXBRIDGE_ENGINES": text}).settings.engines
    except ConfigError:
        return
    assert all(re.match(r"wss?://[^/]", url) for url in engines)
    assert load({"engines": engines}, {}).settings.engines == engines


@given(st.text(max_size=40))
def test_masking_leaves_a_url_without_secrets_as_it_is(host: str) -> None:
    url = "wss://" + re.sub(r"[@=?#:\[\]]", "", host) + "/api/chat"
    assert mask_url(url) == url


@pytest.mark.parametrize(
    "written",
    [
        FINGERPRINT,
        FINGERPRINT.upper(),
        ":".join(["AB"] * 32),
        "sha256 Fingerprint=" + ":".join(["AB"] * 32),
        "SHA-256:" + FINGERPRINT,
    ],
)
def test_a_fingerprint_is_taken_as_openssl_prints_it(written: str) -> None:
    environ = {"PXBRIDGE_ENGINE_FINGERPRINT": written, "PXBRIDGE_ENGINES": "wss://gpu"}
    loaded = load({}, environ)
    assert loaded.settings.engine_fingerprint == (FINGERPRINT,)
    assert loaded.notes == []


OTHER = "cd" * 32


def test_one_fingerprint_is_for_all_engines_or_each_has_its_own() -> None:
    engines = "wss://one wss://two"

    def pins(written: str) -> list[object]:
        environ = {"PXBRIDGE_ENGINE_FINGERPRINT": written, "PXBRIDGE_ENGINES": engines}
        return [engine.trust for engine in engine_addresses(load({}, environ).settings)]

    assert pins(FINGERPRINT) == [Pinned(FINGERPRINT)] * 2
    assert pins(f"SHA256 Fingerprint={':'.join(['AB'] * 32)}, {OTHER}") == [
        Pinned(FINGERPRINT),
        Pinned(OTHER),
    ]
    assert pins(f"{OTHER} {OTHER}") == [Pinned(OTHER)] * 2
    error = refusal(
        {}, {"PXBRIDGE_ENGINE_FINGERPRINT": f"{OTHER},{FINGERPRINT}", "PXBRIDGE_ENGINES": "wss://x"}
    )
    assert error.problem == "has 2 fingerprints for 1 engine; give one for all, or one for each"


def test_a_list_of_fingerprints_is_a_list_in_a_file(tmp_path: Path) -> None:
    config = toml(
        tmp_path, f'engines = ["wss://one", "wss://two"]\nengine_fingerprint = ["{FINGERPRINT}", "{OTHER}"]'
    )
    assert load({"config": config}, {}).settings.engine_fingerprint == (FINGERPRINT, OTHER)


def test_all_engines_get_the_token(tmp_path: Path) -> None:
    config = toml(tmp_path, 'engines = ["wss://one", "wss://two"]\nengine_token = "0123456789abcdef"')
    loaded = load({"config": config}, {})
    assert [engine.token for engine in engine_addresses(loaded.settings)] == ["0123456789abcdef"] * 2
    assert loaded.notes == []
    assert "0123456789abcdef" not in f"{loaded} {engine_addresses(loaded.settings)}"


@pytest.mark.parametrize(
    ("engines", "noted"),
    [
        ("ws://gpu", "crosses the network unencrypted to engines at ws://"),
        ("wss://gpu ws://gpu2", "crosses the network unencrypted to engines at ws://"),
        ("ws://127.0.0.1 ws://[::1]:8998 wss://gpu", None),
        ("", "has no effect: PXBRIDGE_ENGINES names no engine"),
    ],
)
def test_a_token_that_the_network_could_read_is_noted(engines: str, noted: str | None) -> None:
    environ = {"PXBRIDGE_ENGINES": engines, "PXBRIDGE_ENGINE_TOKEN": "0123456789abcdef"}
    notes = load({}, environ).notes
    assert (noted is None and notes == []) or (noted is not None and noted in notes[0])


@pytest.mark.parametrize("token", ["two words", "n\u00f6", " ", "a\tb"])
def test_a_token_that_fits_no_header_is_refused_and_not_repeated(token: str) -> None:
    error = refusal({}, {"PXBRIDGE_ENGINE_TOKEN": token})
    assert "is not a token of ASCII characters without spaces" in str(error)
    assert token.strip() == "" or token not in str(error)


def test_a_ca_file_is_looked_for_beside_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(CERTIFICATE)
    config = toml(tmp_path, 'engines = ["wss://gpu"]\nengine_ca_file = "ca.pem"')
    assert load({"config": config}, {}).settings.engine_ca_file == tmp_path / "ca.pem"


def test_a_ca_file_without_a_certificate_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    error = refusal({"engine_ca_file": str(tmp_path / "ca.pem")})
    assert error.problem.endswith("holds no certificate in PEM form")


def test_a_ca_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.pem")
    error = refusal({}, {"PXBRIDGE_ENGINE_CA_FILE": absent})
    assert error.problem == f"cannot read {absent!r}: No such file or directory"


def test_an_unchecked_certificate_is_never_silent() -> None:
    loaded = load({"engine_insecure": True}, {"PXBRIDGE_ENGINES": "wss://gpu"})
    assert any("NOT checked" in note for note in loaded.notes)


def test_two_ways_to_trust_an_engine_contradict() -> None:
    error = refusal({"engine_insecure": True}, {"PXBRIDGE_ENGINE_FINGERPRINT": FINGERPRINT})
    assert str(error) == (
        "--engine-insecure (command line): contradicts PXBRIDGE_ENGINE_FINGERPRINT (environment); "
        "keep one of the two"
    )


def test_trust_without_tls_is_noted() -> None:
    environ = {"PXBRIDGE_ENGINE_FINGERPRINT": FINGERPRINT, "PXBRIDGE_ENGINES": "ws://gpu"}
    assert "has no effect" in load({}, environ).notes[0]


@pytest.mark.parametrize("service", ["PXBRIDGE", "PXBRIDGE_ENGINE", "PXBRIDGE_CONSOLE"])
def test_what_kubernetes_sets_for_a_service_of_our_name_is_not_taken_for_settings(service: str) -> None:
    loaded = load(
        {},
        {
            f"{service}_SERVICE_HOST": "10.0.0.1",
            f"{service}_SERVICE_PORT": "5050",
            f"{service}_SERVICE_PORT_CALLS": "5050",
            f"{service}_PORT_5050_TCP_ADDR": "10.0.0.1",
            f"{service}_PORT": "tcp://10.0.0.1:5050",
        },
    )
    assert loaded.settings == Settings()
    assert len(loaded.notes) == 5


def test_settings_cannot_be_changed_once_loaded() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1


def test_every_setting_is_described_and_says_what_is_right() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert name == "engines" or any(isinstance(extra, Right) for extra in field.metadata), name


def test_the_documentation_shows_the_settings_as_they_are() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert settings.markdown_table() in page, "run `make docs-tables`"
