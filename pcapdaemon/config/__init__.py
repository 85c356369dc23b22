# See LICENSE for details.
"""
TOML and options become frozen settings, or a list of all that is wrong.
"""

from pcapdaemon.config.buses import (
    HttpSettings,
    KafkaSettings,
    RedisSettings,
    SqsSettings,
)
from pcapdaemon.config.document import ConfigError
from pcapdaemon.config.reading import load, parse
from pcapdaemon.config.sections import (
    OPTIONS,
    SECTIONS,
    CaptureSettings,
    EventsSettings,
    GeneralSettings,
    InterfaceSettings,
    Settings,
    SyslogSettings,
)
from pcapdaemon.config.sinks import CloudsharkSettings, S3Settings, SpoolSettings

__all__ = [
    "OPTIONS",
    "SECTIONS",
    "CaptureSettings",
    "CloudsharkSettings",
    "EventsSettings",
    "ConfigError",
    "GeneralSettings",
    "HttpSettings",
    "InterfaceSettings",
    "KafkaSettings",
    "RedisSettings",
    "S3Settings",
    "Settings",
    "SpoolSettings",
    "SqsSettings",
    "SyslogSettings",
    "load",
    "parse",
]
