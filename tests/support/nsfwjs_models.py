"""The TensorFlow.js models of the npm package nsfwjs, unpacked from its scripts.

The package holds each file as a script: ``model.json`` as an object, the shards in
base64. ``make models`` puts it into node_modules of the environment.
"""

import base64
import json
import os
import re
import sys
from pathlib import Path

import pytest

# Strings are taken whole, so that nothing inside them is rewritten.
_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*"|(?P<before>[{,])(?P<key>[A-Za-z_$][\w$]*):|!(?P<flag>[01])'
    r"|(?<![\w.])(?P<sign>-?)\.(?P<digit>\d)"
)


def unpack_nsfwjs(model: str, folder: Path) -> Path:
    """Write model.json and shards of one model; the test is skipped without it."""
    roots = [os.environ.get("NODE_PATH", ""), f"{sys.prefix}/node_modules"]
    found = [Path(root) / "nsfwjs/dist/models" / model for root in roots if root]
    source = next((path for path in found if path.is_dir()), None)
    if source is None:
        pytest.skip("npm package nsfwjs with real weights is not installed")
    script = (source / "model.min.js").read_text()
    start = script.index(".exports={") + len(".exports=")
    text = script[start : script.rindex("},{}]},{},[1])")]
    (folder / "model.json").write_text(_TOKEN.sub(_as_json, text))
    for shard in source.glob("group1-shard*.min.js"):
        script = shard.read_text()
        start = script.index('.exports="') + len('.exports="')
        content = base64.b64decode(script[start : script.index('"', start)])
        (folder / shard.name.removesuffix(".min.js")).write_bytes(content)
    json.loads((folder / "model.json").read_text())
    return folder


def _as_json(match: re.Match[str]) -> str:
    if match["key"]:
        return f'{match["before"]}"{match["key"]}":'
    if match["flag"]:
        return "true" if match["flag"] == "0" else "false"
    if match["digit"]:
        return f"{match['sign']}0.{match['digit']}"
    return match[0]
