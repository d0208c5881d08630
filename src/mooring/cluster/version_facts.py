"""What the versions of the cluster are, as a node knows it that does not have them. Runs in the first process of a node server.

A node that has a version is asked once, when a routing table names it: everything that a client may ask of a version must be
told without waiting.
"""

import functools
import math
import time
from collections.abc import Callable, Mapping

from mooring.cluster.records import Key
from mooring.cluster.remote_requests import RemoteNodes, VersionFacts, Versions
from mooring.cluster.routing import Route, Routes, draw_two
from mooring.engine.engine import Engine
from mooring.engine.registry import ModelVersion

# Seconds until other nodes are asked once more.
_ASK_AGAIN = 0.5


class VersionDirectory:
    """Knows the versions of other nodes. ``on_news`` is called when more is known."""

    def __init__(self, nodes: RemoteNodes, on_news: Callable[[], None]) -> None:
        self._nodes = nodes
        self._on_news = on_news
        self._known: dict[Key, tuple[str, VersionFacts]] = {}  # with the stamp of the route
        self._asked: dict[Key, float] = {}
        self._missing: dict[Key, Route] = {}

    def find(self, key: Key) -> VersionFacts | None:
        """What a version is, as far as it is known."""
        known = self._known.get(key)
        return known[1] if known is not None else None

    @property
    def asking(self) -> bool:
        """Whether anything is still to be known; call ``ask`` a few times a second then."""
        return bool(self._missing)

    def update(self, routes: Routes) -> None:
        """Ask what is new in these routes, and forget what is in them no more."""
        by_version = routes.by_version
        for key in [key for key in self._known if key not in by_version]:
            del self._known[key]
        self._missing = {
            (model, version): route
            for (model, version), route in by_version.items()
            if version and route.others and not self._is_known(route)
        }
        self.ask()

    def ask(self) -> None:
        """Ask what is missing, each node once for all that it has."""
        now, questions = time.monotonic(), dict[str, list[Key]]()
        for key, route in self._missing.items():
            if self._asked.get(key, -math.inf) > now - _ASK_AGAIN:
                continue
            reached = [node for node in route.others if not self._nodes.is_avoided(node)]
            if reached:
                questions.setdefault(draw_two(reached)[0], []).append(key)
                self._asked[key] = now
        for node, keys in questions.items():
            stamps = {key: self._missing[key].stamp for key in keys}
            take = functools.partial(self._take, stamps)
            self._nodes.reach(node).ask_versions(keys, take, lambda: None)

    def _take(self, stamps: Mapping[Key, str], told: Versions) -> None:
        for model, version, facts in told.facts:
            key = model, version
            self._known[key] = stamps[key], facts
            self._asked.pop(key, None)
            route = self._missing.get(key)
            if route is not None and route.stamp == stamps[key]:
                del self._missing[key]
        self._on_news()

    def _is_known(self, route: Route) -> bool:
        known = self._known.get((route.model, route.version))
        return known is not None and known[0] == route.stamp


def facts_of(version: ModelVersion, engine: Engine) -> VersionFacts:
    """What a version of this node is."""
    spec = version.spec
    models = engine.registry.models
    stages = [models[stage].find_version("").spec for stage in spec.stages if stage in models]
    return VersionFacts(
        version.metadata,
        version.kind,
        not spec.function and not spec.chain,
        all(each.limits.retry and not each.sequence.enabled for each in (spec, *stages)),
        spec.sequence.headers if spec.sequence.enabled else None,
        spec.timeouts.client_timeout,
        spec.limits.queue_size,
    )
