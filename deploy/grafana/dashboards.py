"""The Grafana dashboards, from code: ``python deploy/grafana/dashboards.py`` writes the JSON files
beside it.

Every query keeps to the job that is chosen on top, so one set of dashboards shows ``csplade serve``
and Ray alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

from grafana_foundation_sdk.builders import common, heatmap, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    GraphDrawStyle,
    ScaleDistribution,
    StackingMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableOption,
    VariableRefresh,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
JOB = 'job=~"$job"'
# A SearchStream lives as long as its client likes.
REQUESTS = "Search|SearchStreamQuery|SearchBatchQuery|Encode|Verify"
HEIGHT = 8

Panel = timeseries.Panel | heatmap.Panel | stat.Panel


def rate(metric: str, by: str = "", where: str = "") -> str:
    """PromQL of a counter's rate, summed by labels."""
    selector = f"{JOB}, {where}" if where else JOB
    return f"sum by ({by}) (rate({metric}{{{selector}}}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    """PromQL of a histogram's quantile, by labels."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', labels, where)})"


def mean(metric: str, by: str = "") -> str:
    """PromQL of a histogram's mean, by labels."""
    return f"{rate(f'{metric}_sum', by)} / {rate(f'{metric}_count', by)}"


def graph(title: str, unit: str, queries: dict[str, str], text: str = "") -> timeseries.Panel:
    """Lines; ``queries`` is legend -> PromQL."""
    panel = timeseries.Panel().title(title).description(text).unit(unit).datasource(SOURCE).min(0)
    panel = panel.line_width(1).fill_opacity(5).height(HEIGHT).span(12)
    for number, (legend, query) in enumerate(queries.items()):
        panel.with_target(_target(query, number).legend_format(legend))
    return panel


def stacked(title: str, unit: str, queries: dict[str, str], text: str = "") -> timeseries.Panel:
    """Areas on top of each other."""
    panel = graph(title, unit, queries, text).draw_style(GraphDrawStyle.LINE).fill_opacity(40)
    return panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))


def logarithmic(panel: timeseries.Panel) -> timeseries.Panel:
    """The same on a logarithmic axis."""
    return panel.scale_distribution(
        common.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10)
    )


def heat(title: str, unit: str, metric: str, where: str = "", text: str = "") -> heatmap.Panel:
    """How a histogram's values spread over its buckets."""
    colours = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Turbo").steps(64)
    colours = (
        colours.scale(HeatmapColorScale.EXPONENTIAL)
        .exponent(0.5)
        .fill("dark-orange")
        .reverse(False)
    )
    query = _target(rate(f"{metric}_bucket", "le", where), 0).format(PromQueryFormat.HEATMAP)
    panel = (
        heatmap.Panel().title(title).description(text).datasource(SOURCE).height(HEIGHT).span(12)
    )
    panel = panel.calculate(False).color(colours).y_axis(heatmap.YAxisConfig().unit(unit))
    return panel.with_target(query.legend_format("{{le}}"))


def figure(title: str, unit: str, query: str, text: str = "") -> stat.Panel:
    """One number, with its course."""
    panel = (
        stat.Panel().title(title).description(text).unit(unit).datasource(SOURCE).height(4).span(4)
    )
    last = common.ReduceDataOptions().calcs(["lastNotNull"])
    return panel.reduce_options(last).with_target(_target(query, 0).legend_format(title))


def _target(query: str, number: int) -> Dataquery:
    return Dataquery().expr(query).range().ref_id(chr(ord("A") + number)).datasource(SOURCE)


def _dashboard(
    uid: str, title: str, text: str, rows: dict[str, list[Panel]], *, refresh: str
) -> Dashboard:
    everything = VariableOption(selected=True, text="All", value="$__all")
    board = Dashboard(title).uid(uid).description(text).tags(["csplade"]).refresh(refresh)
    board = board.time("now-1h", "now").tooltip(DashboardCursorSync.CROSSHAIR)
    board.with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
    board.with_variable(
        QueryVariable("job")
        .label("Job")
        .query("label_values(csplade_requests_total, job)")
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(True)
        .multi(True)
        .all_value("csplade.*")
        .current(everything)
    )
    number = count(1)
    for name, panels in rows.items():
        board.with_row(Row(name).id(next(number)))
        for panel in panels:
            board.with_panel(panel.id(next(number)))
    return board


def overview() -> Dashboard:
    """What users see, and where its time goes."""
    every = f'method=~"{REQUESTS}"'
    total = rate("csplade_requests_total", where=every)
    faults = 'code=~"INTERNAL|UNAVAILABLE|UNKNOWN|DEADLINE_EXCEEDED"'
    none = f"0 * {total}"
    stages = "csplade_stage_seconds"
    rows: dict[str, list[Panel]] = {
        "Now": [
            figure("Requests", "reqps", total),
            figure(
                "Failing", "percentunit",
                f"({rate('csplade_requests_total', where=f'{every}, {faults}')} or {none}) / "
                f"{total}",
                "Faults of the service; what callers did wrong or gave up is none.",
            ),
            figure("p50", "s", quantile(0.5, "csplade_request_seconds", where=every)),
            figure("p99", "s", quantile(0.99, "csplade_request_seconds", where=every)),
            figure("Waiting", "short", f"sum(csplade_queue_depth{{{JOB}}})"),
            figure("Documents", "short", "sum(max by (job, shard) "
                                         f"(csplade_index_documents{{{JOB}}}))"),
        ],
        "Traffic and errors": [
            stacked("Requests by "
                    "method", "reqps", {"{{method}}": rate("csplade_requests_total", "method")}),
            stacked(
                "Requests that got no result, by code", "reqps",
                {
                    "{{code}}": rate("csplade_requests_total", "code", 'code!="OK"')
                    + f" or label_replace({none}, \"code\", \"none\", \"\", \"\")"
                },
                "RESOURCE_EXHAUSTED: the queue was full. The codes of the other refusals are in "
                "the README.",
            ),
        ],
        "Latency": [
            logarithmic(
                graph(
                    "Requests, p50, p95, p99", "s",
                    {
                        f"{{{{method}}}} p{share}": quantile(
                            share / 100, "csplade_request_seconds", "method", every
                        )
                        for share in (50, 95, 99)
                    },
                )
            ),
            heat("Requests", "s", "csplade_request_seconds", every),
            logarithmic(
                graph(
                    "Stages, p99", "s", {"{{stage}}": quantile(0.99, stages, "stage")},
                    "queue and fetch per request, the others per batch.",
                )
            ),
            logarithmic(graph("Stages, p50", "s", {"{{stage}}": quantile(0.5, stages, "stage")})),
            stacked(
                "Where the time goes", "s", {"{{stage}}": rate(f"{stages}_sum", "stage")},
                "Seconds spent in each stage, per second.",
            ),
            heat("Queue", "s", stages, 'stage="queue"'),
            heat("Encode", "s", stages, 'stage="encode"'),
            heat("Score", "s", stages, 'stage="score"'),
        ],
        "Batches and queue": [
            graph(
                "Queries and texts in a batch", "short",
                {
                    "mean": mean("csplade_batch_queries"),
                    "p95": quantile(0.95, "csplade_batch_queries"),
                },
            ),
            graph(
                "Tokens in a batch", "short",
                {
                    "mean": mean("csplade_batch_tokens"),
                    "p95": quantile(0.95, "csplade_batch_tokens"),
                },
            ),
            graph("Waiting", "short", {"{{instance}}": "sum by (instance) "
                                                       f"(csplade_queue_depth{{{JOB}}})"}),
            graph("Batches", "short", {"per second": rate("csplade_batch_queries_count")}),
        ],
        "What a query costs": [
            heat("Postings read for a query", "short", "csplade_postings_scored"),
            graph(
                "Terms of a query", "short",
                {"mean": mean("csplade_query_terms"), "p99": quantile(0.99, "csplade_query_terms")},
            ),
            graph(
                "Postings scored", "short", {"per second": rate("csplade_postings_scored_sum")},
                "Of every shard.",
            ),
            graph(
                "Cut by caps", "short", {"{{what}}": rate("csplade_truncated_total", "what")},
                "Tokens, terms and impacts per second; each answer tells its own.",
            ),
            graph(
                "Filters", "short",
                {
                    # On Ray there is no such series before the first filter.
                    "found": rate("csplade_filter_cache_hits_total") + " or vector(0)",
                    "evaluated": rate("csplade_filter_cache_misses_total") + " or vector(0)",
                },
                "Per second and segment. Filters that are evaluated again and again do not fit "
                "into scoring.filter_bytes.",
            ),
            graph(
                "Evaluated filters", "bytes",
                {"{{instance}}": f"csplade_filter_cache_bytes{{{JOB}}}"},
            ),
        ],
        "Writes": [
            stacked(
                "Documents written, by what became of them", "short",
                {"{{status}}": rate("csplade_writes_total", "status")},
                "Per second. failed: each result tells why.",
            ),
            logarithmic(
                graph(
                    "Commits, p50, p99", "s",
                    {
                        f"p{share}": quantile(share / 100, "csplade_commit_seconds")
                        for share in (50, 99)
                    },
                    "From the writer's queue to the disk.",
                )
            ),
            graph(
                "Generation", "none",
                {"{{instance}}": f"max by (instance) (csplade_generation{{{JOB}}})"},
                "Grows with every commit; 0 for a process that only reads.",
            ),
            graph(
                "Documents not in segment files, and deleted", "short",
                {
                    "tail": f"sum(csplade_tail_documents{{{JOB}}})",
                    "deleted": f"sum(csplade_deleted_documents{{{JOB}}})",
                    "live": f"sum(csplade_documents{{{JOB}}})",
                },
                "Compaction makes room for deleted ones.",
            ),
            graph(
                "Compactions", "short", {"per second": rate("csplade_compactions_total")},
            ),
        ],
        "Exactness": [
            graph(
                "Ranks that Verify found to differ", "short",
                {
                    # On Ray there is no such series before the first mismatch.
                    "{{instance}}": f"sum by (instance) (csplade_verify_mismatches_total{{{JOB}}})"
                    f" or 0 * sum by (instance) (csplade_requests_total{{{JOB}}})"
                },
                "Must be 0.",
            ),
        ],
    }  # fmt: skip
    text = "Traffic, errors, latency by stage, batches, postings and what was cut."
    return _dashboard("csplade-overview", "csplade: overview", text, rows, refresh="10s")


def shards() -> Dashboard:
    """What is loaded where, and how many replicas there are."""
    replicas = 'Component=~"ray::ServeReplica.*"'
    rows: dict[str, list[Panel]] = {
        "Index": [
            graph(
                "Documents", "short",
                {"shard {{shard}}": f"max by (shard) (csplade_index_documents{{{JOB}}})"},
            ),
            graph(
                "Postings", "short",
                {"shard {{shard}}": f"max by (shard) (csplade_index_postings{{{JOB}}})"},
            ),
            graph(
                "Generation", "none",
                {
                    "shard {{shard}}, "
                    "newest": f"max by (shard) (csplade_index_generation{{{JOB}}})",
                    "shard {{shard}}, "
                    "oldest": f"min by (shard) (csplade_index_generation{{{JOB}}})",
                },
                "They differ while an update goes through, and only then.",
            ),
            graph(
                "Bytes of the segments", "bytes",
                {"shard {{shard}}": f"max by (shard) (csplade_index_bytes{{{JOB}}})"},
            ),
            graph(
                "Models", "none",
                {"{{name}} {{fingerprint}} on {{device}}":
                    f"count by (name, fingerprint, device) (csplade_model_info{{{JOB}}})"},
                "Processes that hold each.",
            ),
            graph("Processes that Prometheus "
                  "reaches", "none", {"{{job}}": f"sum by (job) (up{{{JOB}}})"}),
        ],
        "Memory": [
            graph(
                "Accelerator", "bytes",
                {
                    "{{instance}}": f"sum by (instance) (csplade_device_memory_bytes{{{JOB}}})",
                    "{{instance}}, all": "max by (instance) "
                                         f"(csplade_device_memory_limit_bytes{{{JOB}}})",
                },
            ),
            graph(
                "Processes of csplade serve", "bytes",
                {"{{instance}}": f"process_resident_memory_bytes{{{JOB}}}"},
            ),
            graph(
                "Replicas", "bytes",
                {"{{Component}}": "sum by (Component) "
                                  f"(ray_component_rss_bytes{{{JOB}, {replicas}}})"},
            ),
            graph(
                "Nodes", "bytes",
                {
                    "{{instance}}": f"sum by (instance) (ray_node_mem_used{{{JOB}}})",
                    "{{instance}}, all": f"sum by (instance) (ray_node_mem_total{{{JOB}}})",
                },
            ),
        ],
        "Replicas": [
            graph(
                "Healthy, and wanted by autoscaling", "none",
                {
                    "{{deployment}}": "sum by (deployment) "
                                      f"(ray_serve_deployment_replica_healthy{{{JOB}}})",
                    "{{deployment}}, wanted":
                        f"sum by (deployment) (ray_serve_autoscaling_target_replicas{{{JOB}}})",
                },
            ),
            graph(
                "Requests in replicas", "short",
                {"{{deployment}}": "sum by (deployment) "
                                   f"(ray_serve_replica_processing_queries{{{JOB}}})"},
                "What autoscaling goes by: target_ongoing_requests per replica.",
            ),
            graph(
                "Calls", "reqps",
                {
                    "{{deployment}}": rate(
                        "ray_serve_deployment_request_counter_total", "deployment"
                    )
                },
            ),
            graph(
                "Calls waiting for a replica", "short",
                {"{{deployment}}": "sum by (deployment) "
                                   f"(ray_serve_deployment_queued_queries{{{JOB}}})"},
            ),
            graph(
                "Replicas started", "short",
                {"{{deployment}}":
                    f"sum by (deployment) (ray_serve_deployment_replica_starts_total{{{JOB}}})"},
                "More than once without an update: replicas die.",
            ),
            graph(
                "Time in replicas, p99", "ms",
                {"{{deployment}}":
                    quantile(0.99, "ray_serve_deployment_processing_latency_ms", "deployment")},
            ),
        ],
    }  # fmt: skip
    text = "What each shard holds, memory, and the replicas of Ray Serve."
    return _dashboard("csplade-shards", "csplade: shards and replicas", text, rows, refresh="10s")


def loads() -> Dashboard:
    """What a load test does to the server: short windows, offered load beside what comes of it."""
    searches = 'method=~"Search|SearchStreamQuery|SearchBatchQuery"'
    stages = "csplade_stage_seconds"
    rows: dict[str, list[Panel]] = {
        "Offered and answered": [
            stacked(
                "Requests by code", "reqps",
                {"{{code}}": rate("csplade_requests_total", "code", f'method=~"{REQUESTS}"')},
                "Open loop: what is offered is the sum.",
            ),
            logarithmic(
                graph(
                    "Latency of searches", "s",
                    {
                        f"p{share}": quantile(
                            share / 100, "csplade_request_seconds", where=searches
                        )
                        for share in (50, 95, 99)
                    },
                    "On the server; the load generator's own figures stand in its report.",
                )
            ),
            graph("Waiting", "short", {"queries": f"sum(csplade_queue_depth{{{JOB}}})"}),
            graph(
                "Mean batch", "short", {"queries": mean("csplade_batch_queries")},
                "Grows before the queue does: the worker is busy all the time.",
            ),
        ],
        "Where it saturates": [
            stacked(
                "Stages", "percentunit",
                {"{{stage}}": rate(f"{stages}_sum", "stage", 'stage!~"queue|fetch"')},
                "Share of the worker's time; at 1 in all, one process is at its limit.",
            ),
            stacked(
                "Mean time of a stage", "s", {"{{stage}}": mean(stages, "stage")},
            ),
            graph(
                "CPU", "none",
                {"{{instance}}": rate("process_cpu_seconds_total", "instance")}, "Cores.",
            ),
            graph(
                "Memory", "bytes", {"{{instance}}": f"process_resident_memory_bytes{{{JOB}}}"},
                "Must not grow in a soak test.",
            ),
            graph(
                "Open files", "short", {"{{instance}}": f"process_open_fds{{{JOB}}}"},
                "Must come down again when clients have gone.",
            ),
            graph("Postings scored", "short", {"per second": rate("csplade_postings_scored_sum")}),
        ],
    }  # fmt: skip
    text = "For load tests: offered load, latency, queue, and the stage that is the limit."
    return _dashboard("csplade-load", "csplade: load tests", text, rows, refresh="5s")


DASHBOARDS: dict[str, Callable[[], Dashboard]] = {
    "overview": overview,
    "shards": shards,
    "loadtest": loads,
}


def render(name: str) -> str:
    """The JSON of a dashboard."""
    encoded = JSONEncoder(sort_keys=True, indent=2).encode(DASHBOARDS[name]().build())
    return json.dumps(json.loads(encoded), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(render(name), encoding="utf-8")
