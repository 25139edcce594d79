"""Selectors of labels, as Kubernetes has them (k8s.io/apimachinery, pkg/apis/meta/v1, LabelSelector). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class LabelOperator(StrEnum):
    """How a label is compared."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelRequirement(BaseModel):
    """One condition on a label."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(description="The label's name.")
    operator: LabelOperator = Field(
        description="In and NotIn compare the label's value with values; Exists and DoesNotExist have none."
    )
    values: tuple[str, ...] = Field((), description="The values that In and NotIn compare with.")

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels meets it. One without the label meets NotIn."""
        match self.operator:
            case LabelOperator.IN:
                return labels.get(self.key) in self.values
            case LabelOperator.NOT_IN:
                return labels.get(self.key) not in self.values
            case LabelOperator.EXISTS:
                return self.key in labels
            case LabelOperator.DOES_NOT_EXIST:
                return self.key not in labels

    @property
    def text(self) -> str:
        """As in the query of an API server (k8s.io/apimachinery, pkg/labels)."""
        listed = ",".join(self.values)
        match self.operator:
            case LabelOperator.IN:
                return f"{self.key} in ({listed})"
            case LabelOperator.NOT_IN:
                return f"{self.key} notin ({listed})"
            case LabelOperator.EXISTS:
                return self.key
            case LabelOperator.DOES_NOT_EXIST:
                return f"!{self.key}"


class LabelSelector(BaseModel):
    """All of its conditions must hold; an empty one takes everything."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    match_labels: dict[str, str] = Field(
        default_factory=dict, alias="matchLabels", description="Labels that must have exactly these values."
    )
    match_expressions: tuple[LabelRequirement, ...] = Field(
        (), alias="matchExpressions", description="Further conditions on labels, which must all hold."
    )

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether it takes an object with these labels."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            each.holds(labels) for each in self.match_expressions
        )

    @property
    def conditions(self) -> int:
        """How many there are: of two selectors the one with more is the more specific."""
        return len(self.match_labels) + len(self.match_expressions)

    @property
    def text(self) -> str:
        """As in the query of an API server, and for ``kubectl get -l``; empty: everything."""
        labels = (f"{key}={value}" for key, value in self.match_labels.items())
        return ",".join((*labels, *(each.text for each in self.match_expressions)))
