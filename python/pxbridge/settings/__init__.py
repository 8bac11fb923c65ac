"""The settings of the bridge.

A setting can be given in four places. The first place that names it wins::

    command line      --port 5060
    environment       PXBRIDGE_PORT=5060
    a TOML file       port = 5060          (--config FILE, or PXBRIDGE_CONFIG)
    the default       5050

`fields` defines the settings. `values` reads one value, and `files` reads one file. `sources` merges the four
places and makes the errors. `access` checks that somebody restricts access. `shown` makes the flags and the
tables of the documentation. `persona_file` reads the personas.
"""

from pxbridge.settings.access import check_access, is_loopback, url_host
from pxbridge.settings.fields import Settings, flag, is_secret, state_folder, variable
from pxbridge.settings.shown import add_arguments, markdown_table, sections
from pxbridge.settings.sources import Loaded, load
from pxbridge.settings.values import Network, Secrets, mask_url, unquoted

__all__ = [
    "Loaded",
    "Network",
    "Secrets",
    "Settings",
    "add_arguments",
    "check_access",
    "flag",
    "is_loopback",
    "is_secret",
    "load",
    "markdown_table",
    "mask_url",
    "sections",
    "state_folder",
    "unquoted",
    "url_host",
    "variable",
]
