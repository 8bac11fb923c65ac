"""Where the values of the settings come from, which of them wins, and which name an error shows.

The merge is our own because of its errors. An error shows which of the four places to correct, with the name
that is written there. A wrong value, or an unknown name, stops the start
(:class:`pxbridge.errors.ConfigError`). Nothing is guessed and nothing is ignored.

A secret (:class:`pxbridge.settings.Secrets`) has no flag, because every user of the machine can read flags.
It comes from the environment, from a file that ``PXBRIDGE_NAME_FILE``, ``--name-file`` or ``name_file``
names, or from a systemd credential ``pxbridge_name``, in this order of precedence. It is never shown, not
even in an error. A URL may contain a password: it can come from the same places (`from_file`), and has a flag
too.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError

from pxbridge.errors import ConfigError
from pxbridge.settings.access import is_loopback
from pxbridge.settings.fields import ENVIRONMENT_PREFIX, Settings, flag, from_file, is_secret, variable
from pxbridge.settings.files import expanded, parse_toml, read_text
from pxbridge.settings.values import Right, unquoted
from pxbridge.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG = "config"  # the flag that names the TOML file; not a setting
CONFIG_VARIABLE = "PXBRIDGE_CONFIG"
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"  # the folder of systemd's LoadCredential= files

# Names of the prototype. They are still read if the new name is not set.
OLD_VARIABLES = {"BRIDGE_HOST": "host", "BRIDGE_PORT": "port"}

# Kubernetes sets these variables in every pod of a namespace with a Service named `pxbridge` or `pxbridge-…`.
# PXBRIDGE_PORT and PXBRIDGE_CONSOLE_PORT are settings of ours too: the value tells the two apart.
_KUBERNETES_LINK = re.compile(r"PXBRIDGE_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP)(_\w+)?)")
_KUBERNETES_PORT = re.compile(r"(tcp|udp)://")

FILE_SUFFIX = "_file"  # a setting's name with this ending names a file that contains the value


class Loaded(NamedTuple):
    """The settings and where they came from.

    Attributes:
        settings: The merged and checked settings.
        origins: For each setting that was given: its name as it was written, and the source.
        notes: Warnings for the operator, one sentence each, for the log.
        file: The TOML file that was read; None without one.
        personas: The file's table of personas, which `pxbridge.settings.persona_file` reads.
    """

    settings: Settings
    origins: dict[str, tuple[str, str]]
    notes: list[str]
    file: Path | None = None
    personas: Mapping[str, object] = {}


@dataclass(frozen=True)
class _Given:
    """A value as one source gives it."""

    written: str
    source: str
    value: object


def load(flags: Mapping[str, object], environ: Mapping[str, str]) -> Loaded:
    """Merges the four sources and checks the result.

    Args:
        flags: The parsed arguments of :func:`add_arguments`: settings by field name, and ``config``. Other
            keys are ignored.
        environ: The environment's variables.

    Raises:
        ConfigError: The first error, in the order of the sources and then of the settings.
    """
    notes: list[str] = []
    environ = {name: unquoted(value) for name, value in environ.items()}
    from_flags = {
        name: _Given(flag(name), "command line", _kept(name, flags[name]))
        for name in Settings.model_fields
        if name in flags
    }
    for name in filter(from_file, Settings.model_fields):
        if name + FILE_SUFFIX in flags:
            if name in flags and not is_secret(name):
                written = flag(name + FILE_SUFFIX)
                raise ConfigError(written, "command line", f"contradicts {flag(name)}; keep one of the two")
            from_flags[name] = _secret_file(
                name, flag(name + FILE_SUFFIX), "command line", Path(str(flags[name + FILE_SUFFIX]))
            )
    from_environment = _read_environment(environ, notes)
    file: Path | None = None
    table: dict[str, Any] = {}
    if CONFIG in flags:
        file, table = _read_file(str(flags[CONFIG]), flag(CONFIG), "command line")
    elif environ.get(CONFIG_VARIABLE):
        file, table = _read_file(environ[CONFIG_VARIABLE], CONFIG_VARIABLE, "environment")
    personas = table.pop("personas", {})
    if not isinstance(personas, dict):
        raise ConfigError("personas", str(file), "is not a table; write [personas.NAME] above its keys")
    from_table = _from_table(table, file) if file is not None else {}

    given = _read_credentials(environ) | from_table | from_environment | from_flags
    for one in given.values():
        if one.source == "environment" and one.written in OLD_VARIABLES:
            new = variable(OLD_VARIABLES[one.written])
            notes.append(f"{one.written} is an old name, which still works; use {new} instead")

    settings = _check(given)
    _check_trust(settings, given, notes)
    _check_token(settings, given, notes)
    if settings.tls_key_file is not None and settings.tls_cert_file is None:
        one = given["tls_key_file"]
        fix = f"set {variable('tls_cert_file')} to its certificate"
        raise ConfigError(one.written, one.source, f"TLS needs a certificate beside the key; {fix}")
    origins = {name: (one.written, one.source) for name, one in given.items()}
    return Loaded(settings, origins, notes, file, personas)


def _read_environment(environ: Mapping[str, str], notes: list[str]) -> dict[str, _Given]:
    """The settings in the environment. An empty variable counts as not set, as compose files leave them."""
    given = {}
    for old, name in OLD_VARIABLES.items():
        if environ.get(old):
            given[name] = _Given(old, "environment", environ[old])
    names = {variable(name): name for name in Settings.model_fields}
    files = {variable(name + FILE_SUFFIX): name for name in Settings.model_fields if from_file(name)}
    for written, value in sorted(environ.items()):
        if not written.startswith(ENVIRONMENT_PREFIX) or written == CONFIG_VARIABLE:
            continue
        if _KUBERNETES_LINK.fullmatch(written) or (
            written.endswith("PORT") and _KUBERNETES_PORT.match(value)
        ):
            notes.append(
                f"{written} is ignored: Kubernetes sets it for a Service whose name begins with pxbridge"
            )
        elif written in files:
            if value and environ.get(variable(files[written])):
                other = variable(files[written])
                raise ConfigError(written, "environment", f"contradicts {other}; keep one of the two")
            if value:
                given[files[written]] = _secret_file(files[written], written, "environment", Path(value))
        elif written not in names:
            raise ConfigError(written, "environment", f"no such setting; {_nearest(written, names | files)}")
        elif value:
            name = names[written]
            given[name] = _Given(written, "environment", _kept(name, value))
    return given


def _read_credentials(environ: Mapping[str, str]) -> dict[str, _Given]:
    """The secrets that systemd passes on (systemd.exec(5), LoadCredential=)."""
    folder = environ.get(CREDENTIALS_VARIABLE)
    given = {}
    for name in filter(from_file, Settings.model_fields if folder else ()):
        written = ENVIRONMENT_PREFIX.lower() + name
        file = Path(str(folder)) / written
        if file.exists():
            given[name] = _secret_file(name, written, "systemd credential", file)
    return given


def _secret_file(name: str, written: str, source: str, file: Path) -> _Given:
    try:
        text = unquoted(read_text(expanded(file)).strip())
    except ValueError as problem:
        raise ConfigError(written, source, str(problem)) from None
    if not text and is_secret(name):
        # As if it were not set, more people would come in than its author meant.
        fix = "write the secret into it, or leave this setting out"
        raise ConfigError(written, source, f"{str(file)!r} is empty; {fix}")
    return _Given(written, source, _hidden(text))


def _kept(name: str, value: object) -> object:
    """A value as it was read, hidden if it is a secret or may contain one."""
    return _hidden(value) if from_file(name) else value


def _hidden(value: object) -> object:
    """A secret in a type that prints as asterisks."""
    if isinstance(value, list):
        return [_hidden(one) for one in value]
    return SecretStr(value) if isinstance(value, str) else value


def _read_file(path: str, written: str, source: str) -> tuple[Path, dict[str, Any]]:
    """A TOML file and its table; ``written`` and ``source`` say which setting names the file."""
    try:
        file = expanded(path)
        text = read_text(file)
    except ValueError as problem:
        raise ConfigError(written, source, str(problem)) from None
    try:
        return file, parse_toml(text)
    except ValueError as problem:
        raise ConfigError(written, source, f"{path} is not a TOML file: {problem}") from None


def _from_table(table: Mapping[str, Any], file: Path) -> dict[str, _Given]:
    """The settings in a file's table."""
    path = str(file)
    given = {}
    for name, value in table.items():
        secret = name.removesuffix(FILE_SUFFIX)
        if secret != name and secret in Settings.model_fields and from_file(secret):
            if secret in table:
                raise ConfigError(name, path, f"contradicts {secret}; keep one of the two")
            given[secret] = _secret_file(secret, name, path, _beside(file, name, str(value)))
            continue
        if name not in Settings.model_fields:
            raise ConfigError(name, path, f"no such setting; {_nearest(name, Settings.model_fields)}")
        if from_file(name):
            value = _hidden(value)
        elif (name.endswith(FILE_SUFFIX) or name == "state_dir") and isinstance(value, str):
            # Relative to its file, because the working directory of a service is hard to know.
            value = str(_beside(file, name, value))
        given[name] = _Given(name, path, value)
    return given


def _beside(file: Path, name: str, path: str) -> Path:
    """A path that a setting in `file` names, relative to the folder of that file."""
    try:
        return file.parent / expanded(path)
    except ValueError as problem:
        raise ConfigError(name, str(file), str(problem)) from None


def _nearest(written: str, names: Mapping[str, object]) -> str:
    # Without the beginning that all variables share: it would make any two of them similar.
    bare = {name.removeprefix(ENVIRONMENT_PREFIX): name for name in names}
    word = written.removeprefix(ENVIRONMENT_PREFIX)
    near = difflib.get_close_matches(word, bare, n=1) or [
        name for name in bare if name.startswith(f"{word}_")
    ]
    return f"did you mean {bare[near[0]]}?" if near else "`pxbridge help settings` lists them all"


def _check(given: Mapping[str, _Given]) -> Settings:
    for name, one in given.items():
        # pydantic reads true as 1, and a port of true is a mistake.
        if isinstance(one.value, bool) and Settings.model_fields[name].annotation is not bool:
            raise ConfigError(one.written, one.source, _not_right(name, one.value))
    try:
        return Settings.model_validate({name: one.value for name, one in given.items()})
    except ValidationError as errors:
        error = errors.errors(include_url=False)[0]
        name = str(error["loc"][0])
        one = given[name]
        own_words = error["ctx"].get("error") if error["type"] == "value_error" else None
        raise ConfigError(
            one.written, one.source, str(own_words) if own_words else _not_right(name, one.value)
        ) from None


def _check_trust(settings: Settings, given: Mapping[str, _Given], notes: list[str]) -> None:
    """At most one setting says how engines' certificates are trusted; a setting without effect is noted."""
    ways = [
        name
        for name in ("engine_insecure", "engine_fingerprint", "engine_ca_file")
        if getattr(settings, name)
    ]
    if len(ways) > 1:
        one, other = given[ways[0]], given[ways[1]]
        raise ConfigError(
            one.written, one.source, f"contradicts {other.written} ({other.source}); keep one of the two"
        )
    pinned, engines = len(settings.engine_fingerprint), len(settings.engines)
    if pinned > 1 and pinned != engines:
        one = given["engine_fingerprint"]
        problem = (
            f"has {pinned} fingerprints for {counted(engines, 'engine')}; give one for all, or one for each"
        )
        raise ConfigError(one.written, one.source, problem)
    if settings.engine_insecure:
        one = given["engine_insecure"]
        notes.append(
            f"{one.written} ({one.source}): engines' TLS certificates are NOT checked; "
            f"pin the certificate with {variable('engine_fingerprint')} instead"
        )
    if ways and not any(url.startswith("wss:") for url in settings.engines):
        one = given[ways[0]]
        notes.append(f"{one.written} ({one.source}) has no effect: no engine's URL begins with wss://")


def _check_token(settings: Settings, given: Mapping[str, _Given], notes: list[str]) -> None:
    """A token without effect, and one that crosses the network in plain text, are noted."""
    if settings.engine_token is None:
        return
    one = given["engine_token"]
    parts = [urlsplit(url) for url in settings.engines]
    if not parts:
        notes.append(f"{one.written} ({one.source}) has no effect: {variable('engines')} names no engine")
    if any(url.scheme == "ws" and not is_loopback(url.hostname or "") for url in parts):
        notes.append(
            f"{one.written} ({one.source}) crosses the network unencrypted to engines at ws://; use wss://"
        )


def _not_right(name: str, value: object) -> str:
    right = next(extra.text for extra in Settings.model_fields[name].metadata if isinstance(extra, Right))
    return f"{value!r} is not {right}"
