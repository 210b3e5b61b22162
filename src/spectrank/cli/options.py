"""Arguments and options that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[
    str,
    typer.Argument(
        help="A .safetensors, .pt, .pth, .bin, .ckpt, .onnx or .gguf file, a "
        "CTranslate2 model.bin, a model.json of TensorFlow.js, or a folder with "
        "weights."
    ),
]
Select = Annotated[
    list[str] | None,
    typer.Option(help="Glob pattern on names, e.g. '*.mlp.*'. Repeatable."),
]
View = Annotated[
    list[str] | None,
    typer.Option(
        help="PATTERN=VIEW, or a VIEW for all; see `spectrank views`. Repeatable."
    ),
]
Out = Annotated[
    list[Path] | None,
    typer.Option(help="Write the table: .parquet, .json or .csv. Repeatable."),
]
Html = Annotated[Path | None, typer.Option(help="Write a self-contained HTML page.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No table, no progress bar.")
]
