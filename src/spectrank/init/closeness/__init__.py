"""How far each layer is from an initialisation and from noise of its stable rank."""

from spectrank.init.closeness.report import DEFAULT_LEVEL as DEFAULT_LEVEL
from spectrank.init.closeness.report import closeness as closeness
