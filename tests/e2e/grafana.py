"""What Grafana does with a dashboard: values for its variables, and its queries to Prometheus."""
import json
import re
import time

from helpers import REPOSITORY


def read():
    """The dashboards of the repository."""
    return [json.loads(path.read_text()) for path in sorted((REPOSITORY / "grafana").glob("weightvane-*.json"))]


def mentions(text, name):
    """Whether a variable is used in a text."""
    return re.search(rf"\$\{{?{name}\b", text) is not None


class Grafana:
    """What Grafana puts into a query."""

    def __init__(self, prometheus, now, span):
        self.prometheus, self.now, self.span = prometheus, now, span
        self.built_in = {"__interval": "1s", "__rate_interval": "15s", "__range": f"{span}s"}

    def fill(self, text, values):
        # No form such as `${run:regex}`: it escapes a "/" as well, which PromQL does not take.
        return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: (values | self.built_in)[match[1] or match[2]], text)

    def choices(self, variables, values=None):
        """All ways to choose single values, with "all" where several may be chosen."""
        values = values or {}
        if not variables:
            yield values
            return
        first, *rest = variables
        if first["type"] == "datasource":
            yield from self.choices(rest, values | {first["name"]: "prometheus"})
            return
        found = self.label_values(first["query"]["query"], values)
        for value in [first["allValue"]] if first["multi"] and found else found or [""]:
            yield from self.choices(rest, values | {first["name"]: value})

    def label_values(self, text, values):
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", self.fill(text, values)).groups()
        return self.prometheus.data(f"label/{label}/values", **{"match[]": selector}, start=self.now - self.span, end=self.now)

    def ask(self, target, values):
        """Series with data, and seconds that the query took."""
        text = self.fill(target["expr"], values)
        began = time.monotonic()
        if target.get("instant"):
            found = self.prometheus.data("query", query=text, time=self.now)["result"]
        else:
            found = self.prometheus.data("query_range", query=text, start=self.now - self.span, end=self.now, step=1)["result"]
        return len(found), time.monotonic() - began


def queries(dashboard):
    """(panel, letter, target) of panels and annotations."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["refId"], target
    for mark in dashboard["annotations"]["list"]:
        yield f"annotation {mark['name']}", "A", {"expr": mark["expr"]}
