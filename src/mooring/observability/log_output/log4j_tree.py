"""The configurations of log4j as one tree, whichever syntax they are in: XML, the properties of log4j 2 or those of log4j 1."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from mooring.config.properties import parse_properties
from mooring.config.settings import ConfigError

_MOST_BYTES = 1 << 20


class BrokenLogConfig(ConfigError):
    """A configuration that cannot be read; the text names the file, and of XML the line."""


@dataclass(slots=True)
class Node:
    """An element. Names of elements and attributes count in any case, as in log4j."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: "list[Node]" = field(default_factory=list)
    text: str = ""
    line: int = 0

    @property
    def kind(self) -> str:
        """The name of the plugin in lower case: the element's, or its attribute ``type`` in the strict form."""
        generic = self.tag.lower() in {"appender", "layout", "policy", "filter", "strategy", "component"}
        return (self.attributes.get("type", self.tag) if generic else self.tag).lower()

    def get(self, name: str, default: str = "") -> str:
        """Return an attribute, which may also be written as a child element with text."""
        for key, value in self.attributes.items():
            if key.lower() == name.lower():
                return value
        for child in self.children:
            if child.tag.lower() == name.lower() and not child.children:
                return child.text.strip() or child.attributes.get("value", default)
        return default

    def find(self, *kinds: str) -> "Iterator[Node]":
        """Yield the children of these kinds."""
        return (child for child in self.children if child.kind in kinds)


def read_tree(path: Path) -> Node:
    """Return the configuration of a file. Raises ``BrokenLogConfig``."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BrokenLogConfig(f"{path}: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise BrokenLogConfig(f"{path}: larger than {_MOST_BYTES} bytes, which no log configuration is")
    suffix = path.suffix.lower()
    if suffix == ".properties":
        found = parse_properties(data.decode("utf-8", "replace"))
        return _tree_of_properties(found, path)
    if suffix in {".json", ".jsn", ".yaml", ".yml"}:
        raise BrokenLogConfig(f"{path}: the {suffix[1:]} form of log4j is not read; write it as XML")
    return _parse_xml(data, path)


def _parse_xml(data: bytes, path: Path) -> Node:
    parser = expat.ParserCreate()
    root = Node("")
    open_nodes = [root]

    def refuse_entity(name: str, *_: object) -> None:
        raise BrokenLogConfig(
            f"{path}:{parser.CurrentLineNumber}: the entity '{name}' is refused: a log configuration needs none"
        )

    def start(tag: str, attributes: dict[str, str]) -> None:
        node = Node(tag.rpartition(":")[2], attributes, line=parser.CurrentLineNumber)
        open_nodes[-1].children.append(node)
        open_nodes.append(node)

    def add_text(text: str) -> None:
        open_nodes[-1].text += text

    parser.EntityDeclHandler = refuse_entity
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _tag: open_nodes.pop()
    parser.CharacterDataHandler = add_text
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise BrokenLogConfig(f"{path}:{error.lineno}: no XML: {expat.ErrorString(error.code)}") from error
    except (LookupError, ValueError) as error:  # an unknown encoding, or one with characters of several bytes
        raise BrokenLogConfig(f"{path}:{parser.CurrentLineNumber}: {error}; write it in UTF-8") from error
    (top,) = root.children
    if top.tag.lower() != "configuration":
        raise BrokenLogConfig(f"{path}:{top.line}: <{top.tag}> where <Configuration> is expected")
    return top


def _tree_of_properties(found: Mapping[str, str], path: Path) -> Node:
    if any(key.startswith("log4j.") for key in found):
        return _tree_of_log4j1(found)
    if not any(key.startswith(("appender", "logger", "rootLogger")) for key in found):
        raise BrokenLogConfig(f"{path}: neither appenders nor loggers of log4j")
    return _tree_of_log4j2(found)


def _nest(found: Mapping[str, str]) -> dict[str, object]:
    """Turn ``a.b.c = x`` into tables; the value of ``a`` itself, where it has parts, is under the empty name."""
    top: dict[str, object] = {}
    for key, value in found.items():
        table = top
        *before, last = key.split(".")
        for part in before:
            inner = table.setdefault(part, {})
            if not isinstance(inner, dict):
                inner = table[part] = {"": inner}
            table = inner
        if isinstance(there := table.get(last), dict):
            there[""] = value
        else:
            table[last] = value
    return top


def _tables(value: object) -> Iterator[tuple[str, dict[str, object]]]:
    for name, inner in value.items() if isinstance(value, dict) else ():
        yield name, inner if isinstance(inner, dict) else {"": inner}


def _to_node(name: str, table: dict[str, object]) -> Node:
    """A component: its tag is the type that it names, what has a type or parts inside is a child."""
    node = Node(str(table.get("type", name)))
    for key, value in table.items():
        if isinstance(value, dict):
            child = _to_node(key, value)
            # ``filter.threshold.type``: "filter" is only a group of them.
            node.children += [child] if "type" in value or child.attributes else child.children
        elif key not in {"type", ""}:
            node.attributes[key] = str(value)
    return node


def _tree_of_log4j2(found: Mapping[str, str]) -> Node:
    top = _nest(found)
    properties = Node("Properties")
    if isinstance(table := top.get("property"), dict):
        for name, value in found.items():
            if name.startswith("property."):
                properties.children.append(
                    Node("Property", {"name": name.removeprefix("property."), "value": value})
                )
    appenders = Node(
        "Appenders", children=[_to_node(name, each) for name, each in _tables(top.get("appender"))]
    )
    loggers = Node("Loggers")
    named = [("Logger", each) for _, each in _tables(top.get("logger"))]
    root = top.get("rootLogger")
    if root is not None:
        named.append(("Root", root if isinstance(root, dict) else {"": root}))
    for tag, table in named:
        loggers.children.append(_to_logger(tag, table))
    return Node("Configuration", children=[properties, appenders, loggers])


def _to_logger(tag: str, table: dict[str, object]) -> Node:
    """A logger with its references; ``rootLogger = INFO, STDOUT`` is the short form."""
    node = Node(tag, {key: str(value) for key, value in table.items() if key and not isinstance(value, dict)})
    level, *names = (part.strip() for part in str(table.get("", "")).split(","))
    if level:
        node.attributes["level"] = level
    node.children = [Node("AppenderRef", {"ref": name}) for name in names if name]
    for _, reference in _tables(table.get("appenderRef")):
        node.children.append(
            Node("AppenderRef", {key: str(value) for key, value in reference.items() if key})
        )
    node.children += [_to_node(name, each) for name, each in _tables(table.get("filter"))]
    return node


def _tree_of_log4j1(found: Mapping[str, str]) -> Node:
    appenders, loggers = Node("Appenders"), Node("Loggers")
    names = {key.split(".")[2] for key in found if key.startswith("log4j.appender.")}
    for name in sorted(names):
        start = f"log4j.appender.{name}"
        options = {
            key.removeprefix(f"{start}.").lower(): value
            for key, value in found.items()
            if key.startswith(f"{start}.")
        }
        appenders.children.append(_to_appender(name, found.get(start, ""), options))
    for key, value in found.items():
        for start, tag in (
            ("log4j.rootLogger", "Root"), ("log4j.rootCategory", "Root"), ("log4j.logger.", "Logger"),
            ("log4j.category.", "Logger"),
        ):  # fmt: skip
            if key == start or (start.endswith(".") and key.startswith(start)):
                name = key.removeprefix(start)
                node = _to_logger(tag, {"name": name, "": value})
                node.attributes["additivity"] = found.get(f"log4j.additivity.{name}", "true")
                loggers.children.append(node)
    return Node("Configuration", children=[appenders, loggers])


def _to_appender(name: str, kind: str, options: Mapping[str, str]) -> Node:
    """An appender of log4j 1 as log4j 2 has it."""
    kind = kind.strip().rpartition(".")[2]
    file = options.get("file", "")
    attributes = {"name": name, "fileName": file, "append": options.get("append", "true")}
    node = Node(kind.removesuffix("Appender"), attributes)
    if kind == "ConsoleAppender":
        target = options.get("target", "System.out").upper().replace(".", "_")
        node.attributes = {"name": name, "target": target}
    elif kind == "RollingFileAppender":
        node.attributes["filePattern"] = f"{file}.%i"
        node.children = [
            Node("SizeBasedTriggeringPolicy", {"size": options.get("maxfilesize", "10MB")}),
            Node("DefaultRolloverStrategy", {"max": options.get("maxbackupindex", "1")}),
        ]
    elif kind == "DailyRollingFileAppender":
        node.tag = "RollingFile"
        date = options.get("datepattern", "'.'yyyy-MM-dd")
        node.attributes["filePattern"] = f"{file}%d{{{date}}}"
        node.children = [Node("TimeBasedTriggeringPolicy")]
    layout = options.get("layout", "").strip().rpartition(".")[2]
    if layout.lower() == "simplelayout":
        node.children.append(Node("PatternLayout", {"pattern": "%level - %m%n"}))
    elif layout.lower() == "ttcclayout":
        node.children.append(Node("PatternLayout", {"pattern": "%r [%t] %level %logger - %m%n"}))
    elif layout.lower() in {"patternlayout", "enhancedpatternlayout"}:
        pattern = options.get("layout.conversionpattern", "%m%n")
        node.children.append(Node("PatternLayout", {"pattern": pattern}))
    elif layout:
        # TorchServe's own were JSONLayout and QLogLayout then.
        node.children.append(Node("JSONPatternLayout" if layout == "JSONLayout" else layout))
    if threshold := options.get("threshold"):
        node.children.append(Node("ThresholdFilter", {"level": threshold}))
    return node
