"""Asking vendors over HTTP: politely, with a budget of retries, and with refusals that say what to do."""

from vnfleet.data.sources.web.client import WebClient, beginning_of
from vnfleet.data.sources.web.limits import (
    Politeness,
    SourceAnswerError,
    SourceError,
    SourceMissingError,
    SourceRefusedError,
    SourceUnavailableError,
)

__all__ = [
    "Politeness",
    "SourceAnswerError",
    "SourceError",
    "SourceMissingError",
    "SourceRefusedError",
    "SourceUnavailableError",
    "WebClient",
    "beginning_of",
]
