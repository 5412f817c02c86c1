"""What every section of the configuration shares: frozen, strict, documented by the strings under its fields."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A yaml section. Unknown keys are errors, values cannot change after loading."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )
