"""The layouts that a configuration of log4j names."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from mooring.observability.log_output.json_templates import TemplateLayout, json_layout, named_template
from mooring.observability.log_output.log4j_tree import Node
from mooring.observability.log_output.metric_layouts import JsonMetricLayout, QLogLayout
from mooring.observability.log_output.patterns import TORCHSERVE_PATTERN, PatternLayout


class Get(Protocol):
    """Returns an attribute of the layout, with its expressions replaced."""

    def __call__(self, name: str, default: str = "") -> str: ...


def find_layout(node: Node, get: Get, environ: Mapping[str, str]) -> tuple[logging.Formatter, list[str]]:
    """Return the layout of an element, and what of it is not understood."""
    if node.kind == "jsonpatternlayout":
        return JsonMetricLayout(), []
    if node.kind == "qloglayout":
        return QLogLayout(environ), []
    if node.kind == "patternlayout":
        pattern = PatternLayout(get("pattern", "%m%n"))
        return pattern, pattern.unknown
    if node.kind == "jsonlayout":
        more = {each.get("key"): each.get("value") for each in node.find("keyvaluepair")}
        millis, context = get("includeTimeMillis").lower() == "true", get("properties").lower() == "true"
        return TemplateLayout(json_layout(millis=millis, context=context, more=more)), []
    if node.kind == "jsontemplatelayout":
        template, unknown = _read_template(node, get)
        layout = TemplateLayout(template)
        return layout, unknown + layout.unknown
    return PatternLayout(TORCHSERVE_PATTERN), [f"<{node.tag}> (its lines have TorchServe's pattern)"]


def _read_template(node: Node, get: Get) -> tuple[dict[str, Any], list[str]]:
    text, address = get("eventTemplate"), get("eventTemplateUri", "classpath:EcsLayout.json")
    more = {each.get("key"): each.get("value") for each in node.find("eventtemplateadditionalfield")}
    if not text and (template := named_template(address.removeprefix("classpath:").lstrip("/"))) is not None:
        return template | more, []
    place = address if not text else "in eventTemplate"
    try:
        document = json.loads(text or Path(address.removeprefix("file://")).read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise ValueError("no object")  # noqa: TRY004 - reported like any other fault of the template
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return json_layout(millis=False, context=True, more=more), [f"the template {place}: {reason}"]
    return document | more, []
