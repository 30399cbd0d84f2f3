"""Names and labels (Kubernetes API reference "Object names and IDs", "Labels and selectors"; RFC 1035, RFC 1123, RFC 6335)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator

from fairway_core.documents.errors import shown

_LABEL_1123 = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_1035 = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]+(?:-[a-z0-9]+)*")

LABEL_RULE = "lower-case letters, digits and '-', at most 63, beginning and ending with a letter or digit"


def dns_label(text: str) -> str:
    """RFC 1123 label, lower case."""
    if not _LABEL_1123.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a DNS label ({LABEL_RULE})")
    return text


def dns_label_1035(text: str) -> str:
    """RFC 1035 label: as RFC 1123, but beginning with a letter."""
    if not _LABEL_1035.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a service name ({LABEL_RULE}, and beginning with a letter)")
    return text


def dns_subdomain(text: str) -> str:
    """RFC 1123 subdomain, lower case."""
    if len(text) > 253 or not _SUBDOMAIN.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a DNS name (lower-case letters, digits, '-' and '.', at most 253)")
    return text


def external_name(text: str) -> str:
    """A DNS name, with or without the final dot."""
    dns_subdomain(text.removesuffix("."))
    return text


def label_key(text: str) -> str:
    """[prefix/]name of a label or annotation."""
    prefix, slash, name = text.rpartition("/")
    if slash:
        try:
            dns_subdomain(prefix)
        except ValueError:
            raise ValueError(f"{shown(text)} is not a label key: what stands before '/' must be a DNS name") from None
    if not _QUALIFIED.fullmatch(name):
        raise ValueError(
            f"{shown(text)} is not a label key (letters, digits, '-', '_' and '.', at most 63, after an optional 'prefix/')"
        )
    return text


def annotation_key(text: str) -> str:
    """As a label key; the prefix may be in any case."""
    label_key(text.lower())
    return text


def label_value(text: str) -> str:
    """Value of a label; may be empty."""
    if text and not _QUALIFIED.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a label value (letters, digits, '-', '_' and '.', at most 63)")
    return text


def port_name(text: str) -> str:
    """IANA service name (RFC 6335, section 5.1)."""
    if len(text) > 15 or not _PORT_NAME.fullmatch(text):
        raise ValueError(
            f"{shown(text)} is not a port name (lower-case letters, digits and single '-', at most 15, at least one letter)"
        )
    return text


def or_empty(check: Callable[[str], str]) -> Callable[[str], str]:
    """As `check`, and "" for absent, as Kubernetes reads optional text."""
    return lambda text: check(text) if text else text


DnsLabel = Annotated[str, AfterValidator(dns_label)]
DnsLabel1035 = Annotated[str, AfterValidator(dns_label_1035)]
DnsSubdomain = Annotated[str, AfterValidator(dns_subdomain)]
ExternalName = Annotated[str, AfterValidator(or_empty(external_name))]
LabelKey = Annotated[str, AfterValidator(label_key)]
LabelValue = Annotated[str, AfterValidator(label_value)]
AnnotationKey = Annotated[str, AfterValidator(annotation_key)]
DnsLabelOrEmpty = Annotated[str, AfterValidator(or_empty(dns_label))]
PortNameOrEmpty = Annotated[str, AfterValidator(or_empty(port_name))]
