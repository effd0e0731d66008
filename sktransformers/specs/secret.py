"""Texts that nobody is shown."""

from typing import Any


class Secret(str):
    """A text whose repr is masked and whose pickle is that of None.

    It is otherwise the text, so that those who need it can use it.
    """

    __slots__ = ()

    @classmethod
    def of(cls, value: Any) -> Any:
        """What stands for a parameter: None and booleans as they are, anything else masked.

        What is no text becomes one that no token is, so that the repr does not show it either.
        """
        if value is None or isinstance(value, (bool, cls)):
            return value
        return cls(value if isinstance(value, str) else f"<{type(value).__name__}>")

    def __repr__(self) -> str:
        return "'***'"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(None), ()

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: Any) -> "Secret":
        return self
