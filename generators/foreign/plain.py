"""What convert.py gives out and that says whose it is, brought in again: plain .safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from generators.foreign.contents import Asked, Contents, Found

METADATA = "imle_lab"  # the entry of a .safetensors' metadata
FORMAT = "imle-lab-weights"


def metadata_of(path: Path) -> dict[str, Any] | None:
    """What a plain .safetensors of ours says of itself; None for any other file."""
    from safetensors import SafetensorError, safe_open

    if path.suffix.lower() != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {}).get(METADATA, "null"))
    except (SafetensorError, OSError, ValueError):
        return None
    return told if isinstance(told, dict) and told.get("format") == FORMAT else None


def find(contents: Contents, asked: Asked) -> Found | None:
    """The network in a plain .safetensors that convert.py has written; None for any other file.
    Errors: ValueError for metadata that are not whole."""
    told = metadata_of(contents.path)
    if told is None:
        return None
    kind, config, source = (told.get(key) for key in ("kind", "config", "source"))
    if not isinstance(kind, str) or not isinstance(config, dict) or not isinstance(source, dict):
        raise ValueError("its metadata do not say which network it is")
    provenance = {
        "imported": "plain weights of this toolkit",
        "file": contents.path.name,
        "source": source,
        "step": source.get("step"),
    }
    return Found("safetensors", kind, contents.value, config, provenance)
