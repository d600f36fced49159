"""Parquet files that pandas, Polars and Hugging Face read; the labels are numbers with names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffaug.errors import require
from diffaug.export.records import Record, Records

#: Images in a row group, which is written, and read, at once.
GROUP = 100


def features_of(records: Records) -> dict[str, Any]:
    """Return the columns as Hugging Face's ``datasets`` describes them."""
    label: dict[str, Any] = {"dtype": _label_type(records), "_type": "Value"}
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if records.classes is not None:
        weights = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
        features["label"] = {"names": records.classes, "_type": "ClassLabel"}
        features["soft_label"] = weights
    else:
        listed = label["dtype"] == "list"
        number = {"dtype": "float64", "_type": "Value"}
        features["label"] = {"feature": number, "_type": "Sequence"} if listed else label
    for name, kind in records.types.items():
        value = {"dtype": kind + "64" * (kind in ("int", "float")), "_type": "Value"}
        value["dtype"] = {"str": "string"}.get(kind, value["dtype"])
        text = {"dtype": "string", "_type": "Value"}
        features[name] = {"feature": text, "_type": "Sequence"} if kind == "list" else value
    return features


def write_parquet(records: Records, start: int, stop: int, path: Path) -> None:
    """Write some images of a set to one file."""
    arrow = require("pyarrow")
    writer_of: Callable[..., Any] = require("pyarrow.parquet").ParquetWriter
    schema = _schema(arrow, records)
    with writer_of(path, schema, compression="zstd") as writer:
        for first in range(start, stop, GROUP):
            rows = [_row(record) for record in records.read(first, min(first + GROUP, stop))]
            writer.write_table(arrow.Table.from_pylist(rows, schema=schema))


def _row(record: Record) -> dict[str, Any]:
    soft = {} if record.soft_label is None else {"soft_label": record.soft_label}
    image = {"bytes": record.data, "path": record.name}
    return {"image": image, "label": record.label, **soft, **record.about}


def _label_type(records: Records) -> str:
    """Return the kind of labels that are no classes."""
    kind = records.contents.types.get("label", "str")
    return {"int": "int64", "float": "float64", "str": "string"}.get(kind, kind)


def _schema(arrow: Any, records: Records) -> Any:
    features = features_of(records)

    def type_of(feature: dict[str, Any]) -> Any:
        match feature["_type"]:
            case "Image":
                return arrow.struct({"bytes": arrow.binary(), "path": arrow.string()})
            case "ClassLabel":
                return arrow.int64()
            case "Sequence":
                return arrow.list_(type_of(feature["feature"]))
        return getattr(arrow, {"bool": "bool_"}.get(feature["dtype"], feature["dtype"]))()

    fields = [(name, type_of(feature)) for name, feature in features.items()]
    about = json.dumps({"info": {"features": features}}, ensure_ascii=False)
    return arrow.schema(fields, metadata={"huggingface": about})
