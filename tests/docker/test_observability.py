"""The dashboards, rules and compose file in docker/: well formed, and about metrics that a running node has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness import Server
from tests.harness.granary import Signed

DOCKER = Path(__file__).resolve().parents[2] / "docker"
DASHBOARD = DOCKER / "grafana" / "dashboards" / "granary.json"
RULES = DOCKER / "prometheus" / "rules.yml"
# Histograms have three series each; a query names one of them.
NAME = re.compile(r"\b(granary_[a-z0-9_]+)\b")


@pytest.fixture(scope="module")
def metrics() -> dict[str, set[str]]:
    """Every series of a node with a read cache that has served something, with its label names."""
    with Server(env={"GRANARY_AI_CACHE_BYTES": str(16 << 20)}) as server:
        server.start()
        return series(server)


def series(server: Server) -> dict[str, set[str]]:
    ask = Signed(server.endpoint)
    assert ask("PUT", "/processed/metrics-probe", body=b"x" * 100_000).status == 200
    for _ in range(2):
        assert ask("GET", "/processed/metrics-probe", headers={"x-granary-run": "probe"}).status == 200
    found: dict[str, set[str]] = {}
    for line in server.admin_get("/metrics")[1].splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition("{")
            labels = set(re.findall(r'(\w+)="', rest)) if rest else set()
            found.setdefault(name.split(" ")[0], set()).update(labels)
    return found


def check(expression: str, metrics: dict[str, set[str]], where: str) -> int:
    named = NAME.findall(expression)
    for name in named:
        assert name in metrics, f"{where}: /metrics has no `{name}`"
    for name, matchers in re.findall(r"(granary_\w+)\{([^}]*)\}", expression):
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers):
            assert label in metrics[name], f"{where}: `{name}` has no label `{label}`"
    grouped = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in re.split(r",\s*", group)}
    known = set().union(*(metrics[name] for name in named), {"le"})
    assert grouped <= known, f"{where}: grouped by what is no label: {grouped - known}"
    assert expression.count("(") == expression.count(")"), where
    return len(named)


def test_every_panel_is_about_metrics_that_there_are(metrics):
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["uid"] == "granary" and dashboard["schemaVersion"] >= 36
    panels = [p for p in dashboard["panels"] if p["type"] != "row"]
    assert len({p["id"] for p in dashboard["panels"]}) == len(dashboard["panels"])
    names, places = 0, set()
    for panel in panels:
        assert panel["datasource"]["uid"] == "granary-prometheus" and panel["fieldConfig"]["defaults"]["unit"]
        grid = panel["gridPos"]
        assert 0 <= grid["x"] and grid["x"] + grid["w"] <= 24
        cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        assert not cells & places, f"{panel['title']} lies over another"
        places |= cells
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            names += check(target["expr"], metrics, panel["title"])
    assert names >= 30
    for variable in dashboard["templating"]["list"]:
        name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
        assert label in metrics[name]
    shown = {name for panel in panels for t in panel["targets"] for name in NAME.findall(t["expr"])}
    assert {name for name in metrics if name.startswith("granary_run_") and not name.endswith(("_sum", "_count"))} <= shown


def test_every_rule_is_about_metrics_that_there_are(metrics):
    yaml = pytest.importorskip("yaml")
    groups = yaml.safe_load(RULES.read_text())["groups"]
    alerts = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) >= 6
    for rule in alerts:
        assert check(rule["expr"], metrics, rule["alert"]) and rule["annotations"]["summary"] and rule["labels"]["severity"]


def test_provisioning_fits_together():
    yaml = pytest.importorskip("yaml")
    read = lambda path: yaml.safe_load((DOCKER / path).read_text())  # noqa: E731
    compose, prometheus = read("compose.dev.yml"), read("prometheus/prometheus.yml")
    services = compose["services"]
    assert services["granary"].get("profiles") is None, "`up` alone is what it was"
    assert services["prometheus"]["profiles"] == services["grafana"]["profiles"] == ["metrics"]
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (DOCKER / source).exists() if source.startswith(".") else source in compose["volumes"], volume
        assert service["cap_drop"] == ["ALL"]
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "nothing beyond loopback"
    # Prometheus is where the node is, and Grafana asks it by the node's name.
    assert services["prometheus"]["network_mode"] == "service:granary"
    assert prometheus["scrape_configs"][0]["static_configs"][0]["targets"] == ["127.0.0.1:9001"]
    (source,) = read("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert (source["uid"], source["url"]) == ("granary-prometheus", "http://granary:9090")
    (provider,) = read("grafana/provisioning/dashboards/granary.yml")["providers"]
    mounted = {v.split(":")[1]: v.split(":")[0] for v in services["grafana"]["volumes"]}
    assert (DOCKER / mounted[provider["options"]["path"]] / "granary.json").resolve() == DASHBOARD
    rules = prometheus["rule_files"][0]
    assert (DOCKER / "prometheus" / Path(rules).name).exists()


def test_promtool_agrees(server, tmp_path):
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    done = subprocess.run([promtool, "check", "rules", str(RULES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    page = server.admin_get("/metrics")[1]
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True)
    problems = [line for line in (done.stdout + done.stderr).splitlines() if "granary_run_" in line]
    assert not problems and "error while linting" not in done.stderr.lower(), problems or done.stderr
    # As rules, panels' queries are parsed too.
    queries = [t["expr"].replace("$__rate_interval", "1m") for p in json.loads(DASHBOARD.read_text())["panels"] for t in p.get("targets", [])]
    rules = [{"record": f"panel:query:{n}", "expr": query} for n, query in enumerate(queries)]
    (tmp_path / "panels.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML
    done = subprocess.run([promtool, "check", "rules", str(tmp_path / "panels.yml")], capture_output=True, text=True)
    assert done.returncode == 0 and f"{len(queries)} rules found" in done.stdout, done.stdout + done.stderr
