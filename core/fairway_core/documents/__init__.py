"""The strict edge: what users write is judged here, with file, line and column. Imports pydantic; import it only where needed."""

from fairway_core.documents.errors import Fault, InvalidDocuments
from fairway_core.documents.validate import Loaded, check_document, validate, with_namespace

__all__ = ["Fault", "InvalidDocuments", "Loaded", "check_document", "validate", "with_namespace"]
