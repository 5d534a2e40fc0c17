"""Writes golden JSON: one line per record where the file is a list, floats with ten significant digits."""

import json
import math


def _rounded(value):
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a golden holds a value that is not finite")
        return float(f"{value:.10g}")
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value]


def write_json(path, value) -> None:
    if isinstance(value, list):
        lines = ",\n".join(json.dumps(_rounded(entry), separators=(",", ":")) for entry in value)
        path.write_text(f"[\n{lines}\n]\n")
    else:
        path.write_text(json.dumps(_rounded(value), indent=1) + "\n")
