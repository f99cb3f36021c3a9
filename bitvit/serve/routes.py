"""Which handler answers which path and method."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from bitvit.messages import shown
from bitvit.serve.messages import HTTPError, Request, Response

__all__ = ["Handler", "Route", "Routes"]

Handler: TypeAlias = Callable[[Request, str], Awaitable[Response]]
"""Takes a request and the model's name in its path, or an empty text."""


@dataclass(frozen=True)
class Route:
    """A path and what answers it."""

    path: str
    """{name} stands for a model's name, {version} for a version."""
    handlers: Mapping[str, Handler]
    """By method; GET answers HEAD too."""

    @property
    def allowed(self) -> tuple[str, ...]:
        return (*self.handlers, "HEAD") if "GET" in self.handlers else tuple(self.handlers)


class Routes:
    """All routes. Those without a name in them are found by a look into a dict."""

    def __init__(self, routes: list[Route]) -> None:
        self.all = routes
        self._plain = {route.path: route for route in routes if "{" not in route.path}
        self._named = [(_pattern(route.path), route) for route in routes if "{" in route.path]

    def find(self, path: str) -> tuple[Route, str]:
        """The route, and the name in the path. Raises HTTPError 404."""
        route = self._plain.get(path)
        if route is not None:
            return route, ""
        for pattern, route in self._named:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            found = match.groupdict()
            if found.get("version", "1") != "1":
                raise HTTPError(404, f"version {shown(found['version'])}, expected '1': each model has one version")
            return route, found["name"]
        raise HTTPError(404, f"nothing is at {shown(path)}; /openapi.json lists what there is")

    def handler(self, route: Route, method: str) -> Handler:
        """Raises HTTPError 405."""
        found = route.handlers.get("GET" if method == "HEAD" else method)
        if found is None:
            allowed = ", ".join(route.allowed)
            raise HTTPError(405, f"method {shown(method)}, expected {allowed}", ((b"allow", allowed.encode()),))
        return found


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path), re.DOTALL)
