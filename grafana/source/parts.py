"""The parts that both dashboards are made of: one function for each kind of panel, and the flow of
panels over Grafana's grid of 24 columns.

A panel is a dict in Grafana's classic JSON. `title` and `says` (what rising and falling mean, shown
at the panel's title) are never left out.
"""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "text"
# Which daemon is asked. Everything of a run carries these two labels as well.
DAEMON = 'job=~"$job",instance=~"$instance"'


def of(name, labels=""):
    """The series of a metric, named without its prefix, of the chosen daemons; narrowed by further matchers."""
    return f"weightvane_{name}{{{','.join(part for part in (DAEMON, labels) if part)}}}"


def query(expr, legend="", *, instant=False, table=False):
    """One query of a panel; its letter is given when the panel is made."""
    target = {"datasource": DATASOURCE, "editorMode": "code", "expr": expr, "legendFormat": legend or "__auto"}
    target |= {"instant": True, "range": False} if instant else {"instant": False, "range": True}
    target["format"] = "table" if table else "time_series"
    return target


def steps(*values):
    """Thresholds: the first colour holds from below, each (value, colour) from that value on."""
    first, *rest = values
    return {"mode": "absolute", "steps": [{"color": first, "value": None}] + [{"color": c, "value": v} for v, c in rest]}


def named(values):
    """Value mappings: {value: (text, colour)}."""
    options = {str(v): {"text": text, "color": color, "index": i} for i, (v, (text, color)) in enumerate(values.items())}
    return [{"type": "value", "options": options}]


def override(names, **properties):
    """Properties for the fields with this name; `/regex/` for several."""
    matcher = "byRegexp" if names.startswith("/") else "byName"
    listed = [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()]
    return {"matcher": {"id": matcher, "options": names}, "properties": listed}


# A level to compare with: dashed and grey, whatever the colours of the others are.
CHANCE = override(
    "/chance/", custom__lineStyle={"fill": "dash", "dash": [6, 6]}, color={"mode": "fixed", "fixedColor": GREY},
    custom__lineWidth=1, custom__hideFrom={"legend": True, "tooltip": False, "viz": False},
)
# The step is told at the cursor of every panel over time, and is not drawn.
STEP = override(
    "step", unit="locale", custom__lineWidth=0, custom__axisPlacement="hidden", custom__showPoints="never",
    custom__hideFrom={"legend": True, "tooltip": False, "viz": False}, decimals=0,
)


def panel(kind, title, says, queries, *, w, h, unit, field=None, custom=None, overrides=(), **options):
    for i, target in enumerate(queries):
        target["refId"] = chr(ord("A") + i)
    defaults = {"unit": unit, "custom": custom or {}} | (field or {})
    return {
        "type": kind, "title": title, "description": says, "datasource": DATASOURCE, "targets": queries,
        "gridPos": {"w": w, "h": h, "x": 0, "y": 0},
        "fieldConfig": {"defaults": defaults, "overrides": list(overrides)},
        "options": options,
    }


def stat(title, says, expr, *, unit="none", thresholds=None, w=6, decimals=None, mappings=None, none="–"):
    """One number now, coloured by its thresholds."""
    field = {"thresholds": thresholds or steps(BLUE), "color": {"mode": "thresholds"}, "noValue": none}
    if decimals is not None:
        field["decimals"] = decimals
    if mappings:
        field["mappings"] = mappings
    return panel(
        "stat", title, says, [query(expr, instant=True)], w=w, h=3, unit=unit, field=field,
        reduceOptions={"calcs": ["lastNotNull"], "fields": "", "values": False}, colorMode="value", graphMode="none",
        justifyMode="center", orientation="auto", textMode="value", wideLayout=True, showPercentChange=False,
    )


def lines(
    title, says, queries, *, unit="none", w=12, h=8, low=None, high=None, thresholds=None, overrides=(), log=False,
    step=None, decimals=None, soft_high=None,
):
    """Values over time, held until the next save. Thresholds are drawn as dashed lines; `step` is the
    query of the step told at the cursor."""
    custom = {
        "drawStyle": "line", "lineInterpolation": "stepAfter", "lineWidth": 2, "fillOpacity": 0, "showPoints": "never",
        # A daemon that was away for a while leaves no hole in what a run did.
        "spanNulls": 3_600_000, "axisPlacement": "auto", "gradientMode": "none",
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
        "thresholdsStyle": {"mode": "dashed" if thresholds else "off"},
        "stacking": {"group": "A", "mode": "none"},
    }
    if soft_high is None and decimals == 0:
        # A count that stays at 0 is not drawn on an axis up to 100.
        soft_high = 1
    if soft_high is not None:
        custom["axisSoftMax"] = soft_high
    field = {"color": {"mode": "palette-classic"}, "thresholds": thresholds or steps(GREEN)}
    for key, value in (("min", low), ("max", high), ("decimals", decimals)):
        if value is not None:
            field[key] = value
    if step:
        queries = [*queries, query(step, "step")]
        overrides = [*overrides, STEP]
    return panel(
        "timeseries", title, says, queries, w=w, h=h, unit=unit, field=field, custom=custom, overrides=overrides,
        legend={"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
        tooltip={"mode": "multi", "sort": "desc", "hideZeros": False},
    )


def heat(title, says, expr, legend, *, low, high, scheme, reverse=False, w=16, h=9, unit="none", decimals=2):
    """Rows over time, the first series at the top, as in the state timelines and on the daemon's page."""
    return panel(
        "heatmap", title, says, [query(expr, legend)], w=w, h=h, unit=unit,
        custom={"scaleDistribution": {"type": "linear"}, "hideFrom": {"legend": False, "tooltip": False, "viz": False}},
        # Not Grafana's own buckets: each series is a row as it stands.
        calculate=False, rowsFrame={"layout": "auto"}, cellGap=0, showValue="never",
        color={
            "mode": "scheme", "scheme": scheme, "reverse": reverse, "steps": 64, "min": low, "max": high,
            "fill": "dark-orange", "exponent": 0.5, "scale": "exponential",
        },
        # By default what is not above 1e-9 is hidden, and with it every negative correlation.
        filterValues={"le": -1e9}, exemplars={"color": "rgba(255,0,255,0.7)"},
        yAxis={"axisPlacement": "left", "reverse": True, "unit": "string"}, cellValues={"unit": unit, "decimals": decimals},
        legend={"show": True}, tooltip={"mode": "single", "yHistogram": False, "showColorScale": True},
    )


def bars(title, says, expr, legend, *, low, high, thresholds, w=8, h=9, unit="none", decimals=2):
    """One bar for each series now."""
    field = {
        "min": low, "max": high, "decimals": decimals, "thresholds": thresholds, "color": {"mode": "thresholds"},
    }
    return panel(
        "bargauge", title, says, [query(expr, legend, instant=True)], w=w, h=h, unit=unit, field=field,
        reduceOptions={"calcs": ["lastNotNull"], "fields": "", "values": False}, orientation="horizontal",
        displayMode="basic", valueMode="color", showUnfilled=True, namePlacement="left", sizing="auto",
        minVizHeight=10, minVizWidth=8, maxVizHeight=28,
        legend={"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
    )


def states(title, says, queries, *, w=24, h=7, mappings=None, thresholds=None, per_page=24, unit="none"):
    """A band for each series, coloured by value."""
    field = {"color": {"mode": "thresholds"}, "thresholds": thresholds or steps(GREY)}
    if mappings:
        field["mappings"] = mappings
    return panel(
        "state-timeline", title, says, queries, w=w, h=h, unit=unit, field=field,
        custom={"fillOpacity": 80, "lineWidth": 0, "spanNulls": 3_600_000, "insertNulls": False},
        mergeValues=True, showValue="never", alignValue="left", rowHeight=0.85, perPage=per_page,
        legend={"showLegend": bool(mappings), "displayMode": "list", "placement": "bottom"},
        tooltip={"mode": "single", "sort": "none"},
    )


def table(title, says, queries, *, overrides, transformations, w=24, h=9, sort=None):
    """Rows from instant queries."""
    made = panel(
        "table", title, says, queries, w=w, h=h, unit="none", overrides=overrides,
        field={"thresholds": steps(GREY), "noValue": "–"}, custom={"align": "auto", "filterable": False},
        showHeader=True, cellHeight="sm", sortBy=[{"displayName": sort[0], "desc": sort[1]}] if sort else [],
    )
    made["transformations"] = transformations
    return made


def variable(name, label, expr, *, multi=False, sort=1, hide=0):
    """A choice from the values of a label. With `multi` also several, or all of them."""
    made = {
        "type": "query", "name": name, "label": label, "datasource": DATASOURCE, "definition": expr,
        "query": {"query": expr, "refId": f"variable-{name}", "qryType": 1}, "refresh": 2, "sort": sort, "hide": hide,
        "multi": multi, "includeAll": multi, "regex": "", "options": [],
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]} if multi else {},
    }
    if multi:
        made["allValue"] = ".+"
    return made


DATASOURCE_VARIABLE = {
    "type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "regex": "",
    "current": {}, "options": [], "refresh": 1, "hide": 0, "multi": False, "includeAll": False,
}


def annotation(name, expr, color, title, text="", *, on=True):
    """Marks in every panel over time; a region for as long as the query has a value."""
    return {
        "name": name, "datasource": DATASOURCE, "enable": on, "hide": False, "iconColor": color, "expr": expr,
        "step": "15s", "titleFormat": title, "textFormat": text, "tagKeys": "", "useValueForTime": False,
    }


def layout(sections):
    """Panels of [(title of the row or None, [panels])], placed from left to right and then below."""
    placed, y = [], 0
    for title, panels in sections:
        if title:
            placed.append({
                "type": "row", "title": title, "collapsed": False, "panels": [],
                "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
            })
            y += 1
        x, height = 0, 0
        for one in panels:
            size = one["gridPos"]
            if x + size["w"] > 24:
                x, y, height = 0, y + height, 0
            size["x"], size["y"] = x, y
            x, height = x + size["w"], max(height, size["h"])
            placed.append(one)
        y += height
    for i, one in enumerate(placed, 1):
        one["id"] = i
    return placed


def dashboard(uid, title, says, *, variables, annotations, sections, links, refresh):
    return {
        "uid": uid, "title": title, "description": says, "tags": ["weightvane"], "schemaVersion": 41, "version": 1,
        # What is provisioned cannot be saved; a copy can be changed.
        "editable": False, "graphTooltip": 1, "timezone": "", "refresh": refresh, "fiscalYearStartMonth": 0,
        "time": {"from": "now-6h", "to": "now"},
        "timepicker": {"refresh_intervals": ["5s", "15s", "30s", "1m", "5m", "15m"]}, "weekStart": "", "preload": False,
        "links": links, "annotations": {"list": annotations},
        "templating": {"list": [DATASOURCE_VARIABLE, *variables]},
        "panels": layout(sections),
    }
