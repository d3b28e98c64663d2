"""What the dashboards are made of: a few words for the queries that come again and again, and the JSON of Grafana's
dashboard model (schema 39, Grafana 10.1 and later) around them."""

WINDOW = "$__rate_interval"
WIDTH, HEIGHT, PER_ROW = 8, 7, 3


def rate(series, by=""):
    """Per second, summed; `by` names the labels that are kept."""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({series}[{WINDOW}]))"


def quantile(q, histogram, by=""):
    name, brace, labels = histogram.partition("{")
    grouping = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({grouping}) (rate({name}_bucket{brace}{labels}[{WINDOW}])))"


def quantiles(histogram):
    return [(f"p{round(100 * q)}", quantile(q, histogram)) for q in (0.5, 0.95, 0.99)]


def top10(query):
    return f"topk(10, {query})"


def share(part, whole, by=""):
    return f"{rate(part, by)} / {rate(whole, by)}"


def _panel(kind, title, about, queries, unit, **more):
    if isinstance(queries, str):
        queries = [("", queries)]
    targets = [{"refId": chr(ord("A") + i), "expr": expr, "legendFormat": legend or "__auto"}
               for i, (legend, expr) in enumerate(queries)]
    source = {"type": "prometheus", "uid": "${datasource}"}
    for target in targets:
        target["datasource"] = source
    panel = {"type": kind, "title": title, "description": about, "datasource": source, "targets": targets,
             "fieldConfig": {"defaults": {"unit": unit}, "overrides": []}}
    panel.update(more)
    return panel


def lines(title, about, queries, unit="short", stack=False, ceiling=None):
    panel = _panel("timeseries", title, about, queries, unit,
                   options={"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}})
    defaults = panel["fieldConfig"]["defaults"]
    defaults["min"] = 0
    defaults["custom"] = {"fillOpacity": 20 if stack else 5, "showPoints": "never"}
    if stack:
        defaults["custom"]["stacking"] = {"mode": "normal"}
    if ceiling is not None:
        defaults["max"] = ceiling
    return panel


def number(title, about, query, unit="short", good=None):
    """One figure. `good` is (direction, limit): green where it is "at least" or "at most" the limit, else red."""
    panel = _panel("stat", title, about, query, unit, options={"reduceOptions": {"calcs": ["lastNotNull"]}})
    if good:
        direction, limit = good
        below, above = ("red", "green") if direction == "at least" else ("green", "red")
        edge = limit if direction == "at least" else limit + 1e-9
        panel["fieldConfig"]["defaults"]["thresholds"] = {
            "mode": "absolute", "steps": [{"color": below, "value": None}, {"color": above, "value": edge}]}
    return panel


def heat(title, about, histogram, unit):
    """A histogram's buckets over time."""
    query = f"sum by (le) (increase({histogram}_bucket[{WINDOW}]))"
    panel = _panel("heatmap", title, about, [("{{le}}", query)], unit,
                   options={"calculate": False, "yAxis": {"unit": unit}, "color": {"scheme": "Oranges", "mode": "scheme"}})
    panel["targets"][0]["format"] = "heatmap"
    return panel


def states(title, about, queries, mappings):
    """What something is, over time: `mappings` is {value: (text, colour)}."""
    panel = _panel("state-timeline", title, about, queries, "short", options={"showValue": "never"})
    panel["fieldConfig"]["defaults"]["mappings"] = [{"type": "value", "options": {
        str(value): {"text": text, "color": color} for value, (text, color) in mappings.items()}}]
    return panel


def table(title, about, query):
    panel = _panel("table", title, about, query, "short",
                   transformations=[{"id": "labelsToFields", "options": {}}, {"id": "merge", "options": {}}])
    panel["targets"][0].update(instant=True, format="table")
    return panel


def _placed(rows):
    """Rows are (title, [panel...]); numbers are half as high and four beside each other go into one row."""
    placed, y = [], 0
    for title, panels in rows:
        placed.append({"type": "row", "title": title, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        y += 1
        small = all(p["type"] == "stat" for p in panels)
        width, height = (24 // len(panels), 4) if small else (WIDTH, HEIGHT)
        for i, panel in enumerate(panels):
            column = i % (24 // width)
            placed.append(panel | {"gridPos": {"x": column * width, "y": y, "w": width, "h": height}})
            if column == 24 // width - 1 or i == len(panels) - 1:
                y += height
    return [panel | {"id": i + 1} for i, panel in enumerate(placed)]


def dashboard(uid, title, about, rows, pick_instance_of=None):
    """`pick_instance_of`: a metric; its instances can be chosen as $instance."""
    variables = [{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}]
    if pick_instance_of:
        query = f"label_values({pick_instance_of}, instance)"
        variables.append({"name": "instance", "label": "Instance", "type": "query", "query": query,
                          "datasource": {"type": "prometheus", "uid": "${datasource}"}, "refresh": 2, "sort": 1,
                          "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}})
    epochs = {"name": "New epochs", "enable": True, "iconColor": "orange",
              "datasource": {"type": "prometheus", "uid": "${datasource}"},
              "expr": "max by (instance) (changes(choir_group_epoch[1m])) > 0"}
    return {"uid": uid, "title": title, "description": about, "tags": ["choir"], "schemaVersion": 39, "editable": True,
            "graphTooltip": 1, "refresh": "10s", "time": {"from": "now-1h", "to": "now"}, "timezone": "browser",
            "templating": {"list": variables}, "annotations": {"list": [epochs]},
            "links": [{"type": "dashboards", "title": "Choir", "tags": ["choir"], "asDropdown": True, "keepTime": True}],
            "panels": _placed(rows)}
