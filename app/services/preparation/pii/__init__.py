"""Personal information in a text: rules with checksums, one module a family of kinds."""

from app.services.preparation.pii.find import KINDS as KINDS
from app.services.preparation.pii.find import find_pii as find_pii
from app.services.preparation.pii.find import placeholders as placeholders
from app.services.preparation.pii.find import redact as redact
from app.services.preparation.pii.span import Span as Span
