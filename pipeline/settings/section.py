"""What every section of a configuration is: typed, frozen, without unknown names."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.settings.faults import NO_NUMBER

Share = Annotated[float, Field(ge=0, lt=1)]
TokenId = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_other_as_number(cls, raw: Any) -> Any:
        """YAML reads yes as true, and pydantic true as 1, and 1_000, which is text, as 1000."""
        for name, value in raw.items() if isinstance(raw, dict) else ():
            kinds = str(cls.model_fields[name].annotation) if name in cls.model_fields else ""
            numbers = ("int" in kinds or "float" in kinds) and "str" not in kinds
            odd = [
                each
                for each in (value if isinstance(value, list) else [value])
                if (isinstance(each, bool) and "bool" not in kinds) or (isinstance(each, str) and "_" in each)
            ]
            if numbers and odd:
                raise PydanticCustomError(NO_NUMBER, "a number is wanted", {"name": name, "value": value})
        return raw
