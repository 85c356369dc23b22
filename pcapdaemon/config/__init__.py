# See LICENSE for details.
"""
TOML and options become frozen settings, or a list of all that is wrong.
"""

from pcapdaemon.config.buses import (
    HttpSettings,
    KafkaSettings,
    RedisSettings,
    SqsSettings,
    WebhookSettings,
)
from pcapdaemon.config.document import ConfigError
from pcapdaemon.config.reading import load, parse
from pcapdaemon.config.sections import (
    OPTIONS,
    SECTIONS,
    TABLES,
    CaptureSettings,
    EventsSettings,
    GeneralSettings,
    InterfaceSettings,
    Settings,
    SyslogSettings,
)
from pcapdaemon.config.sinks import CloudsharkSettings, S3Settings, SpoolSettings
from pcapdaemon.config.triggers import TriggerSettings

__all__ = [
    "OPTIONS",
    "SECTIONS",
    "TABLES",
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
    "TriggerSettings",
    "WebhookSettings",
    "load",
    "parse",
]
