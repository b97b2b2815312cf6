"""
What Prometheus and Grafana are given: every query asks for metrics that there are, every
alert fires when it should and at no other time, and every panel has something to show.

Invariant: queries are judged by Prometheus itself, over series that are made
up here.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from echod.admin.prometheus import render_metrics
from echod.connections.connection import Reason
from echod.stats.snapshot import Snapshot
from tests.support.prometheus import promtool
from tests.support.snapshots import make_snapshot

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "echod.rules.yaml"
RULES_TESTS = ROOT / "tests" / "deploy" / "prometheus" / "echod.rules.test.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "echod.json"

Series = tuple[str, dict[str, str]]
"""The name of a metric, and the labels of one of its series."""


def exposed(*snapshots: Snapshot) -> list[Series]:
    """
    The series that a daemon with these snapshots exposes.
    """
    body, _ = render_metrics(snapshots, "")
    return [
        (sample.name, dict(sample.labels))
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    ]


OTHERS: list[Series] = [("up", {}), ("probe_success", {})]
"""What Prometheus and its blackbox exporter make themselves."""

EVERYWHERE = {"job": "echod", "instance": "a"}
"""The labels that Prometheus puts on what it scrapes."""

GIVEN = {"$job": "echod|other", "$instance": ".*", "$__rate_interval": "5m"}
"""What Grafana puts in the place of its variables."""

_GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"\{([^}]*)\}")
_WORDS = {"and", "or", "unless", "bool", "offset"}


def asked_for(query: str) -> tuple[set[str], set[str]]:
    """
    What a query in PromQL asks for.

    @return: the names of metrics, and of labels.
    """
    labels = {name for group in _GROUPING.findall(query) for name in re.findall(r"\w+", group)}
    query = _GROUPING.sub(" ", query)
    for selector in _SELECTOR.findall(query):
        labels |= set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
    query = re.sub(r"\[[^\]]*\]|\"[^\"]*\"", " ", _SELECTOR.sub(" ", query))
    names = set(re.findall(r"\b([a-z]\w*)\b(?!\s*\()", query)) - _WORDS
    return names, labels


def known() -> dict[str, set[str]]:
    """
    The metrics that there are, each with the labels that it has.
    """
    labels: dict[str, set[str]] = {}
    for name, has in [*exposed(make_snapshot()), *OTHERS]:
        labels.setdefault(name, {*EVERYWHERE, "worker"}).update(has)
    return labels


def series(name: str, labels: Mapping[str, str]) -> dict[str, str]:
    """
    Half an hour of a metric, as C{promtool test rules} takes it.
    """
    every = {**EVERYWHERE, **labels}
    text = ", ".join(f'{label}="{value}"' for label, value in every.items())
    return {"series": f"{name}{{{text}}}", "values": "1+60x30"}


class RulesTests(SynchronousTestCase):
    """
    Tests for C{deploy/prometheus/echod.rules.yaml}.
    """

    def setUp(self) -> None:
        [group] = yaml.safe_load(RULES.read_text())["groups"]
        self.alerts = {rule["alert"]: rule for rule in group["rules"]}

    def test_metrics(self) -> None:
        """
        No alert waits for a metric or a label that never comes.
        """
        metrics = known()
        for alert, rule in self.alerts.items():
            names, labels = asked_for(rule["expr"])
            self.assertEqual((alert, names - metrics.keys()), (alert, set()))
            self.assertTrue(names, alert)
            had = set().union(*(metrics[name] for name in names))
            self.assertEqual((alert, labels - had), (alert, set()))

    def test_reasons(self) -> None:
        """
        The reasons that alerts tell apart are reasons that there are.
        """
        text = RULES.read_text()
        asked = re.findall(r'\breason(?:=~|!~|!=|=)"([^"]*)"', text)
        self.assertLessEqual({word for each in asked for word in each.split("|")}, set(Reason))
        self.assertEqual(len(asked), len(re.findall(r"\breason[=!]", text)))

    def test_words(self) -> None:
        """
        Each says in a line what is wrong, then what that means, and what to do; its severity says
        how soon.
        """
        for alert, rule in self.alerts.items():
            said = rule["annotations"]
            self.assertEqual(set(said), {"summary", "description", "action"}, alert)
            self.assertNotIn("\n", said["summary"])
            self.assertIn(rule["labels"]["severity"], ("warning", "critical"), alert)

    def test_check(self) -> None:
        """
        C{promtool check rules} finds no fault with them.
        """
        self.assertIn(
            f"SUCCESS: {len(self.alerts)} rules found", promtool("check", "rules", str(RULES))
        )

    def test_fire(self) -> None:
        """
        Each fires when it should and not before, and then no other does; what is said of it has
        the names and figures in their places.
        """
        text = RULES_TESTS.read_text()
        fired = set(re.findall(r'^ +-? ?\{?labels: .*alertname="(\w+)"', text, re.MULTILINE))
        self.assertEqual(fired, set(self.alerts))
        tests = yaml.safe_load(text)
        tests["rule_files"] = [str(RULES)]
        for test in tests["tests"]:
            # No annotation is expected, so promtool complains, and shows what there is.
            test["alert_rule_test"] = [
                {
                    "eval_time": each["eval_time"],
                    "alertname": alert,
                    "exp_alerts": [{"exp_labels": {}, "exp_annotations": {}}],
                }
                for each in test["promql_expr_test"]
                for sample in each["exp_samples"]
                for alert in re.findall(r'alertname="(\w+)"', sample["labels"])
            ]
        file = Path(self.mktemp())
        file.write_text(yaml.safe_dump(tests))
        with self.assertRaises(AssertionError) as failed:
            promtool("test", "rules", str(file))
        output = str(failed.exception)
        # Of an expression it says so, of an alert "alertname:".
        self.assertNotIn("expr:", output)
        said = re.findall(r'alertname="(\w+)"[^\n]*\n *Annotations:\{(action=.*)\}\n', output)
        self.assertEqual({alert for alert, _ in said}, set(self.alerts))
        for _, text in said:
            self.assertNotRegex(
                text, r"error expanding|no value|[{}%]!|  | [,;:.]|\bof (is|ends|at)\b"
            )
        summaries = re.findall(r'summary="([^"]*)"', str(said))
        self.assertIn("a has 82% of its connections", summaries)
        self.assertIn("The certificate soon.example of a ends in 13d 22h 50m 0s", summaries)


class DashboardTests(SynchronousTestCase):
    """
    Tests for C{deploy/grafana/echod.json}.
    """

    def setUp(self) -> None:
        self.board = json.loads(DASHBOARD.read_text())
        self.panels = [panel for panel in self.board["panels"] if panel["type"] != "row"]

    def queries(self) -> Iterator[tuple[str, str]]:
        """
        The title of each panel, and a query of it with Grafana's variables filled in.
        """
        every = [
            (panel["title"], target["expr"]) for panel in self.panels for target in panel["targets"]
        ]
        every += [(each["name"], each["expr"]) for each in self.board["annotations"]["list"]]
        for title, query in every:
            for name, value in GIVEN.items():
                query = query.replace(name, value)
            yield title, query

    def test_metrics(self) -> None:
        """
        No panel asks for a metric or a label that there is not, and none forgets to ask
        for the chosen job and instance alone.
        """
        metrics = known()
        for title, query in self.queries():
            names, labels = asked_for(query)
            self.assertEqual((title, names - metrics.keys()), (title, set()))
            had = set().union(*(metrics[name] for name in names))
            self.assertEqual((title, labels - had), (title, set()))
            chosen = query.count('{job=~"echod|other", instance=~".*"')
            self.assertEqual((title, chosen), (title, len(_SELECTOR.findall(query))))
            self.assertGreaterEqual((title, chosen), (title, len(names)))

    def test_legends(self) -> None:
        """
        No legend names a label that the query does not leave.
        """
        for panel in self.panels:
            for target in panel["targets"]:
                shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                _, labels = asked_for(target["expr"])
                grouped = "by (" in target["expr"]
                left = labels if grouped else {*EVERYWHERE, "worker"}
                self.assertLessEqual(shown, left, panel["title"])

    def test_words(self) -> None:
        """
        Each panel has a title of its own in its row, a description and a unit, and its
        place to itself.
        """
        places: set[tuple[int, int]] = set()
        for panel in self.panels:
            self.assertTrue(panel["title"] and panel["description"].endswith("."), panel["title"])
            self.assertTrue(panel["fieldConfig"]["defaults"]["unit"], panel["title"])
            grid = panel["gridPos"]
            cells = {
                (grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])
            }
            self.assertEqual(places & cells, set(), panel["title"])
            self.assertLessEqual(grid["x"] + grid["w"], 24)
            places |= cells
        numbers = [panel["id"] for panel in self.board["panels"]]
        self.assertEqual(len(set(numbers)), len(numbers))

    def test_data_source(self) -> None:
        """
        It is the reader who chooses where the data is from, and which jobs and instances.
        """
        variables = {each["name"]: each for each in self.board["templating"]["list"]}
        self.assertEqual(list(variables), ["datasource", "job", "instance"])
        self.assertEqual(variables["datasource"]["query"], "prometheus")
        for name in ("job", "instance"):
            [metric] = re.findall(r"label_values\((\w+)", variables[name]["definition"])
            self.assertIn(metric, known())
        found = re.findall(r'"uid": *"([^"]*)"', DASHBOARD.read_text())
        self.assertEqual(set(found), {"${datasource}", self.board["uid"]})
        self.assertEqual(found.count(self.board["uid"]), 1)

    def test_shown(self) -> None:
        """
        From an instance that exposes everything, with one process or with workers, each
        query has an answer.
        """
        for workers in ((None,), ("0", "1")):
            shown = exposed(*(make_snapshot(worker=worker) for worker in workers))
            test = {
                "interval": "1m",
                "input_series": [series(*each) for each in [*shown, *OTHERS]],
                "promql_expr_test": [
                    {
                        "expr": f"count({query}) > bool 0",
                        "eval_time": "20m",
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    }
                    for _, query in self.queries()
                ],
            }
            file = Path(self.mktemp())
            file.write_text(yaml.safe_dump({"tests": [test]}))
            promtool("test", "rules", str(file))
