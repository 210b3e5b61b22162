"""What the modules around a tensor tell of it: configuration and adapter scales."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, final

from torch import nn

from spectrank.model.families import Config

_ADAPTER = re.compile(
    r"(?P<owner>(.*\.)?)lora_(embedding_)?[AB]\.(?P<adapter>[^.]+)(\.weight)?$"
)


@final
class Around:
    """Collects, module by module, what holds for the tensors inside."""

    def __init__(self) -> None:
        self._configs: dict[str, Config] = {}
        self._scales: dict[str, Mapping[str, Any]] = {}
        # transformers copies a configuration at every to_dict().
        self._read: dict[int, tuple[object, Config | None]] = {}

    def enter(self, prefix: str, module: nn.Module) -> None:
        """Note what one module tells.

        Args:
            prefix: Of the names of its tensors.
            module: The module.
        """
        config = self._of(getattr(module, "config", None))
        if config is not None:
            self._configs[prefix] = config
        scaling = getattr(module, "scaling", None)
        if isinstance(scaling, Mapping):
            self._scales[prefix] = scaling

    def config(self, prefix: str) -> Config | None:
        """Configuration of the innermost module around that has one.

        Args:
            prefix: Of a module.

        Returns:
            Plain data; None where there is none.
        """
        around = [start for start in self._configs if prefix.startswith(start)]
        return self._configs[max(around, key=len)] if around else None

    def scale(self, name: str) -> float | None:
        """What a layer of peft multiplies the product of its factors by.

        Args:
            name: Of one of the factors.

        Returns:
            The scale; None where the name is none of a factor, or no layer tells.
        """
        match = _ADAPTER.match(name)
        if match is None:
            return None
        scale = self._scales.get(match["owner"], {}).get(match["adapter"])
        return float(scale) if isinstance(scale, int | float) else None

    def _of(self, config: object) -> Config | None:
        if config is None:
            return None
        if id(config) not in self._read:
            # Kept with its object, so that the identity stays its own.
            self._read[id(config)] = (config, _plain(config))
        return self._read[id(config)][1]


def _plain(config: object) -> Config | None:
    """A configuration of transformers as plain data; None for anything else."""
    to_dict = getattr(config, "to_dict", None)
    try:
        found = to_dict() if callable(to_dict) else None
    except Exception:
        # Somebody else's idea of a configuration: the names decide.
        return None
    return found if isinstance(found, Mapping) else None
