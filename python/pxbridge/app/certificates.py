"""The certificates of the ports, from the settings that name their files."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from pxbridge.errors import ConfigError
from pxbridge.settings import variable
from pxbridge.telephony.tls import ServingTls

if TYPE_CHECKING:
    from pxbridge.settings import Loaded


def telephony_tls(loaded: Loaded) -> ServingTls | None:
    """The certificate and key of the telephony port; None if it serves no TLS.

    Raises:
        ConfigError: A file cannot be read, or the two do not belong together.
    """
    return _serving_tls(loaded, "tls_cert_file", "tls_key_file")


def console_tls(loaded: Loaded) -> ServingTls | None:
    """The same for the console.

    Raises:
        ConfigError: As `telephony_tls`.
    """
    return _serving_tls(loaded, "console_tls_cert_file", "console_tls_key_file")


def _serving_tls(loaded: Loaded, cert_setting: str, key_setting: str) -> ServingTls | None:
    cert_file, key_file = getattr(loaded.settings, cert_setting), getattr(loaded.settings, key_setting)
    if cert_file is None:
        return None
    try:
        return ServingTls(cert_file, key_file)
    except ssl.SSLError:
        problem = f"holds no PEM certificate together with its key; set {variable(key_setting)} too"
        if key_file is not None:
            problem = f"and {str(key_file)!r} are no PEM certificate and key that belong together"
        raise ConfigError(*loaded.origins[cert_setting], f"{str(cert_file)!r} {problem}") from None
    except OSError as error:
        wrong = cert_setting if error.filename == str(cert_file) else key_setting
        problem = f"cannot read {error.filename!r}: {error.strerror}"
        raise ConfigError(*loaded.origins[wrong], problem) from None
