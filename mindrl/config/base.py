"""What every section of the configuration shares: frozen, strict, documented by the strings under its fields."""

from typing import Annotated, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every library that is seeded takes."""


class Section(BaseModel):
    """A yaml section. Unknown keys are errors, values cannot change after loading."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _truth_values_are_no_numbers(cls, value: object, info: ValidationInfo) -> object:
        """pydantic reads `true` as 1; numbers in text stay welcome, because environment variables are text."""
        if isinstance(value, bool) and info.field_name:
            annotation = cls.model_fields[info.field_name].annotation
            kinds = (annotation, *get_args(annotation))
            if bool not in kinds and not any(isinstance(k, type) and issubclass(k, Section) for k in kinds):
                raise ValueError("something other than a truth value")
        return value
