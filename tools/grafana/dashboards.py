#!/usr/bin/env python3
"""Writes the dashboards of deploy/grafana from what stands here, one line a query; --check only says whether the
files there are what this makes. tests/deploy/observability runs every query against a Prometheus that scrapes a
live cluster."""
import json
import pathlib
import sys

from panels import WINDOW, dashboard, heat, lines, number, quantile, quantiles, rate, share, states, table, top10

OUT = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "grafana"
HERE = 'instance=~"$instance"'
OURS = "and on (job, instance) choir_build_info"  # of all processes that Prometheus knows
YES_NO = {0: ("no", "green"), 1: ("yes", "red")}


def fleet():
    failed, asked = 'choir_http_requests_total{code=~"5.."}', "choir_http_requests_total"
    return dashboard("choir-fleet", "Choir / Fleet", "What clients get, and whether all of it is there.", [
        ("Now", [
            number("Ranks ready", "Ranks that a router may give work to.",
                   'max(sum by (instance) (choir_worker_state{state="ready"}))', good=("at least", 1)),
            number("Requests a second", "By all gateways.", rate(asked), "reqps"),
            number("Output", "Tokens a second to clients.", rate("choir_output_tokens_total"), "suffix: tok/s"),
            number("Failed", "Share of requests that ended with 5xx.", share(failed, asked), "percentunit",
                   good=("at most", 0.001)),
            number("Error budget left", "Of 0.1 % failed requests in 30 days; below 0: used up.",
                   f"1 - sum(increase({failed}[30d])) / sum(increase({asked}[30d])) / 0.001", "percentunit",
                   good=("at least", 0)),
            number("Ledgers apart", "Both sides of every ledger subtracted: anything but 0 is a bug.",
                   "sum(abs(choir_ledger_difference))", good=("at most", 0)),
        ]),
        ("Requests", [
            lines("Requests by status", "499: the client went away.", [("{{code}}", rate(asked, "code"))], "reqps", stack=True),
            lines("Requests by route", "", [("{{route}}", rate(asked, "route"))], "reqps", stack=True),
            lines("Refused", "Before any of their answer, by the error's code.",
                  [("{{reason}}", rate("choir_rejected_total", "reason"))], "reqps", stack=True),
            lines("In flight", "Admitted and not ended; streams that are open.",
                  [("admitted", "sum(choir_requests_inflight)"), ("queued", "sum(choir_queue_depth)"),
                   ("streams", "sum(choir_http_open_streams)")]),
            lines("Duration", "From arrival at the router to the end.", quantiles("choir_request_duration_seconds"), "s"),
            lines("Duration at the gateway, p95", "From the header to the end of the answer.",
                  [("{{route}}", quantile(0.95, "choir_http_request_duration_seconds", "route"))], "s"),
        ]),
        ("Time to the tokens", [
            lines("Time to first token", "From arrival at the router.", quantiles("choir_ttft_seconds"), "s"),
            heat("Time to first token, all", "", "choir_ttft_seconds", "s"),
            lines("Between tokens", "Of one choice.", quantiles("choir_itl_seconds"), "s"),
            lines("Waiting for dispatch", "From arrival to the worker's stream.", quantiles("choir_queue_seconds"), "s"),
            lines("In time", "Share of requests with a first token within 2.5 s; of tokens within 0.1 s of the last one.",
                  [("first token", share('choir_ttft_seconds_bucket{le="2.5"}', "choir_ttft_seconds_count")),
                   ("next token", share('choir_itl_seconds_bucket{le="0.1"}', "choir_itl_seconds_count"))],
                  "percentunit", ceiling=1),
            lines("Tokens a second", "Of ended requests: prompts, what of them was cached, answers.",
                  [("prompt", rate("choir_prompt_tokens_total")), ("cached", rate("choir_cached_tokens_total")),
                   ("output", rate("choir_output_tokens_total"))]),
        ]),
        ("Processes", [
            lines("Running", "Processes that answer, by part.", [("{{part}}", "count by (part) (choir_build_info)")]),
            lines("CPU", "Cores used.", [("{{instance}}", f"rate(process_cpu_seconds_total[{WINDOW}]) {OURS}")]),
            lines("Memory", "Resident.", [("{{instance}}", f"process_resident_memory_bytes {OURS}")], "bytes"),
            lines("Files open", "Share of what may be open.",
                  [("{{instance}}", f"process_open_fds / process_max_fds {OURS}")], "percentunit"),
            states("Draining", "", [("{{instance}}", "choir_draining")], YES_NO),
            table("Versions", "", "count by (part, version) (choir_build_info)"),
        ]),
    ])


def engine():
    steps = f"choir_step_seconds_count{{{HERE}}}"
    return dashboard("choir-engine", "Choir / Engine", "What each rank computes, and what it has room for.", [
        ("Work", [
            lines("Sequences running", "", [("{{instance}}", f"choir_requests_running{{{HERE}}}")], stack=True),
            lines("Sequences waiting", "For their turn in a step.", [("{{instance}}", f"choir_requests_waiting{{{HERE}}}")], stack=True),
            lines("Since the last step", "Of a rank with work this stays below a second.",
                  [("{{instance}}", f"time() - choir_last_step_timestamp_seconds{{{HERE}}}")], "s"),
            lines("Tokens a second", "Computed, prompts and answers.",
                  [("{{instance}}", rate(f"choir_step_tokens_sum{{{HERE}}}", "instance"))], stack=True),
            lines("Steps a second", "", [("{{instance}} {{phase}}", rate(steps, "instance, phase"))]),
            heat("Tokens of a step", "", "choir_step_tokens", "short"),
        ]),
        ("Time of a step", [
            lines("Decode", "Steps that compute next tokens.", quantiles(f'choir_step_seconds{{phase="decode",{HERE}}}'), "s"),
            lines("Prefill", "Steps that compute prompts.", quantiles(f'choir_step_seconds{{phase="prefill",{HERE}}}'), "s"),
            lines("Busy", "Share of the time that is spent in steps.",
                  [("{{instance}}", rate(f"choir_step_seconds_sum{{{HERE}}}", "instance"))], "percentunit", ceiling=1),
            lines("Decode steps as CUDA graphs", "Share of them that were launched as one; 0 on the CPU.",
                  [("{{instance}}", share(f"choir_graph_steps_total{{{HERE}}}", f'choir_step_seconds_count{{phase="decode",{HERE}}}', "instance"))],
                  "percentunit", ceiling=1),
            lines("CUDA graphs made", "In ten minutes: it stands still once a rank has seen its batch sizes.",
                  [("{{instance}}", f"increase(choir_graph_captures_total{{{HERE}}}[10m])")]),
        ]),
        ("KV memory", [
            lines("Held", "Share of the blocks that running sequences hold.",
                  [("{{instance}}", f"choir_kv_usage_ratio{{{HERE}}}")], "percentunit", ceiling=1),
            lines("Blocks", "Cached ones make room when they have to.",
                  [("{{state}}", f"sum by (state) (choir_kv_blocks{{{HERE}}})")], stack=True),
            lines("Preemptions", "Sequences put back to waiting for want of blocks.",
                  [("{{instance}}", rate(f"choir_preemptions_total{{{HERE}}}", "instance"))], "cps"),
            lines("Found in the prefix cache", "Share of the tokens that were looked up.",
                  [("{{instance}}", share(f"choir_prefix_hit_tokens_total{{{HERE}}}",
                                          f"choir_prefix_queries_tokens_total{{{HERE}}}", "instance"))], "percentunit", ceiling=1),
            lines("Ghosts", "Sequences cancelled because their router did not know them.",
                  [("{{instance}}", f"increase(choir_ghost_sequences_total{{{HERE}}}[{WINDOW}])")]),
            lines("Memory of the process", "", [("{{instance}}", f"process_resident_memory_bytes{{{HERE}}} and on (instance) choir_kv_usage_ratio")], "bytes"),
        ]),
    ], pick_instance_of="choir_kv_usage_ratio")


def experts():
    exchange = f"choir_a2a_seconds_sum{{{HERE}}}"
    group = "* on (instance) group_left (group, rank) choir_rank_info"
    return dashboard("choir-experts", "Choir / Expert parallelism", "Groups, their epochs, and what ranks wait for.", [
        ("Groups", [
            states("Epoch", "0: its group is not complete. A line for each rank.",
                   [("group {{group}} rank {{rank}}", f"choir_group_epoch{{{HERE}}} {group}")], {0: ("none", "red")}),
            lines("Ranks", "As the ranks see their groups.", [("{{state}}", f"sum by (state) (choir_ranks{{{HERE}}})")]),
            lines("Changes of the epoch", "In ten minutes: each loss makes two.",
                  [("{{instance}}", f"changes(choir_group_epoch{{{HERE}}}[10m])")]),
        ]),
        ("Exchange", [
            lines("Dispatch and combine, p99", "Time of one step in the exchange, waiting for the others included.",
                  [(f"{op}", quantile(0.99, f'choir_a2a_seconds{{op="{op}",{HERE}}}')) for op in ("dispatch", "combine")], "s"),
            lines("Share of the steps", "What a rank spends in the exchange. The rank that spends least is the one that the others wait for.",
                  [("{{instance}}", f"{rate(exchange, 'instance')} / {rate(f'choir_step_seconds_sum{{{HERE}}}', 'instance')}")],
                  "percentunit"),
            lines("Bytes a second", "Sent to other ranks.", [("{{op}}", rate(f"choir_a2a_bytes_total{{{HERE}}}", "op"))], "Bps"),
            lines("Ahead of the slowest", "Difference within a group of the shares above: how much of the time the others wait for one rank.",
                  [("group {{group}}", f"max by (group) ({rate(exchange, 'instance')} {group}) - min by (group) ({rate(exchange, 'instance')} {group})")],
                  "percentunit"),
        ]),
        ("Experts", [
            lines("Imbalance", "Tokens of a rank's busiest expert over their mean, averaged over the layers; 1: even.",
                  [("{{instance}}", f"choir_expert_imbalance_ratio{{{HERE}}}")]),
            lines("Tokens by neighbouring experts", "", [("{{expert_bucket}}", rate(f"choir_expert_tokens_total{{{HERE}}}", "expert_bucket"))], stack=True),
            lines("Tokens by rank", "What the experts of each rank compute.", [("{{instance}}", rate(f"choir_expert_tokens_total{{{HERE}}}", "instance"))], stack=True),
        ]),
        ("Placement of experts", [
            lines("Imbalance of ranks", "Tokens of the experts of the busiest rank over the ranks' mean, averaged over the layers; 1: even.",
                  [("group {{group}}", f"max by (group) (choir_expert_rank_imbalance_ratio{{{HERE}}} {group})")]),
            lines("Copies", "Beyond the first of each expert, and experts that one rank alone holds; of all layers.",
                  [("{{instance}} copies", f"choir_expert_copies{{{HERE}}}"), ("{{instance}} on one rank", f"choir_expert_sole_copies{{{HERE}}}")]),
            lines("Placements in force", "How many this epoch has had; 0: experts lie where they were loaded.",
                  [("{{instance}}", f"choir_expert_placement_version{{{HERE}}}")]),
            lines("Attempts and moves", "Attempts at a better placement by how they ended, and experts read for one, in ten minutes.",
                  [("{{result}}", f"sum by (result) (increase(choir_expert_placements_total{{{HERE}}}[10m]))"),
                   ("experts read", f"sum (increase(choir_expert_moves_total{{{HERE}}}[10m]))")]),
        ]),
    ], pick_instance_of="choir_group_epoch")


def router():
    return dashboard("choir-router", "Choir / Router and tenants", "Where requests go, what they survive, and whose they are.", [
        ("Tenants", [
            lines("Requests by tenant", "The ten with the most.", [("{{tenant}}", top10(rate("choir_requests_total", "tenant")))], "reqps", stack=True),
            lines("Ended other than well", "By tenant and status; 499: the client went away.",
                  [("{{tenant}} {{code}}", top10(rate('choir_requests_total{code!="200"}', "tenant, code")))], "reqps"),
            lines("Requests by model", "", [("{{model}}", rate("choir_requests_total", "model"))], "reqps", stack=True),
        ]),
        ("Routing", [
            lines("Why a rank was chosen", "", [("{{reason}}", rate("choir_route_total", "reason"))], "cps", stack=True),
            lines("Time of a decision", "To choose a rank for a sequence.", quantiles("choir_route_decision_seconds"), "s"),
            lines("Time in the router, p99", "What a request spends in each stage of the router itself.",
                  [("{{stage}}", quantile(0.99, "choir_overhead_seconds", "stage"))], "s"),
            lines("Prompt tokens cached", "Predicted and true, of placed sequences.",
                  [("{{kind}}", rate("choir_route_prefix_tokens_total", "kind"))]),
            lines("Predictions", "Of what a rank has cached, by whether it said the same.",
                  [("{{result}}", rate("choir_route_predictions_total", "result"))], "cps", stack=True),
            lines("Remembered prompt blocks", "By the policy prefix_affinity.",
                  [("{{instance}}", "choir_route_index_blocks"), ("{{instance}}: ranks not known well", "choir_route_ranks_degraded")]),
        ]),
        ("Queue", [
            lines("Waiting by class", "", [("{{class}}", "sum by (class) (choir_queue_depth)")], stack=True),
            lines("Running by class", "Sequences of requests that were let run.", [("{{class}}", "sum by (class) (choir_admission_running)")], stack=True),
            lines("Waiting work by class", "Tokens: prompts, and the most that is asked for.", [("{{class}}", "sum by (class) (choir_queue_tokens)")], stack=True),
            lines("Time in the queue, p95", "From being ready to run to being let run.",
                  [("{{class}}", quantile(0.95, "choir_admission_wait_seconds", "class"))], "s"),
            lines("Let run for having waited", "Before higher classes, as long as their class' ageing says.",
                  [("{{class}}", rate("choir_admission_aged_total", "class"))], "reqps"),
            lines("Refused by the queue", "It was full, or the wait too long.",
                  [("{{class}} {{reason}}", rate("choir_admission_refused_total", "class, reason"))], "reqps", stack=True),
        ]),
        ("Answers from before", [
            lines("Repeated questions", "Requests whose answer may be kept: whether it was known.",
                  [("{{result}}", rate("choir_result_cache_requests_total", "result"))], "reqps", stack=True),
            lines("Known", "Share of them.", [("known", share('choir_result_cache_requests_total{result="hit"}', "choir_result_cache_requests_total"))],
                  "percentunit", ceiling=1),
            lines("Kept", "Bytes of answers in each router.", [("{{instance}}", "choir_result_cache_bytes")], "bytes"),
        ]),
        ("Workers", [
            lines("Workers by state", "As the routers see them; open and half_open are their breakers.",
                  [("{{state}}", "sum by (state) (choir_worker_state) / scalar(count(choir_requests_inflight))")]),
            states("Not ready", "", [("{{worker}}", '1 - max by (worker) (choir_worker_state{state="ready"})')], YES_NO),
            lines("Run again", "Sequences, by what befell them.", [("{{cause}}", rate("choir_retries_total", "cause"))], "cps", stack=True),
            lines("Survived", "Requests that went on after a worker or a router was lost.", [("{{instance}}", f"increase(choir_resumed_streams_total[{WINDOW}])")]),
            lines("Retry budget used up", "Requests that failed because of it.", [("{{instance}}", f"increase(choir_retry_budget_exhausted_total[{WINDOW}])")]),
            lines("Ghosts", "Sequences that workers cancelled because no list of the router named them.",
                  [("{{instance}}", f"increase(choir_ghost_sequences_total[{WINDOW}]) and on (instance) choir_requests_inflight")]),
        ]),
    ])


def audit():
    return dashboard("choir-audit", "Choir / Audit and limits", "Whether everything is on record, and who is held back.", [
        ("Now", [
            number("Records given up", "Since the routers' start; only the class best-effort may.", "sum(choir_audit_dropped_total)", good=("at most", 0)),
            number("Records not yet written", "", "sum(choir_audit_backlog)"),
            number("Room for the log", "Free bytes, of the router with the least.", 'min(choir_audit_disk_bytes{state="free"})', "bytes"),
            number("Limits shared", "0: the common count cannot be reached, each router holds its share.", "1 - max(choir_limit_degraded)", good=("at least", 1)),
            number("Files in force", "0: keys, workers, limits or a certificate were replaced by something broken.",
                   "min(choir_config_reload_success)", good=("at least", 1)),
        ]),
        ("Audit log", [
            lines("Records", "By phase.", [("{{phase}}", rate("choir_audit_records_total", "phase"))], "cps", stack=True),
            lines("Time to the disk", "To write a group of records.", quantiles("choir_audit_fsync_seconds"), "s"),
            lines("Added to requests", "The wait for the intent.", quantiles('choir_overhead_seconds{stage="audit"}'), "s"),
            lines("Backlog", "", [("{{instance}}", "choir_audit_backlog")]),
            lines("Disk", "Where the log is.", [("{{instance}} {{state}}", "choir_audit_disk_bytes")], "bytes"),
            lines("Intents less outcomes", "What is open; steady growth is a loss.",
                  [("{{instance}}", 'sum by (instance) (choir_audit_records_total{phase="intent"}) - sum by (instance) (choir_audit_records_total{phase="outcome"})')]),
        ]),
        ("Limits and rights", [
            lines("Held back", "By the limit that was reached.",
                  [("{{reason}}", rate('choir_rejected_total{reason=~"requests|tokens|concurrency|insufficient_balance"}', "reason"))], "reqps", stack=True),
            lines("Turned away", "No valid key, or no right to model or address.",
                  [("{{reason}}", rate('choir_rejected_total{reason=~"invalid_api_key|permission_denied"}', "reason"))], "reqps"),
            lines("429 by tenant", "The ten with the most.", [("{{tenant}}", top10(rate('choir_requests_total{code="429"}', "tenant")))], "reqps"),
            lines("Shed", "Refused with 503, by reason.",
                  [("{{reason}}", rate('choir_rejected_total{reason=~"queue_full|deadline|draining|not_ready|audit"}', "reason"))], "reqps", stack=True),
            lines("Ledgers", "Anything but 0 is a bug.", [("{{instance}} {{ledger}}", "choir_ledger_difference")]),
            lines("Degraded", "1: the count that routers share cannot be reached.", [("{{instance}}", "choir_limit_degraded")]),
        ]),
    ])


def start():
    return dashboard("choir-start", "Choir / Start-up", "What is loading, how fast, and what keeps starting.", [
        ("Loading", [
            lines("Weights read", "Share of their bytes.",
                  [("{{instance}}", 'sum by (instance) (choir_load_bytes{state="done"}) / sum by (instance) (choir_load_bytes{state="total"})')],
                  "percentunit", ceiling=1),
            lines("Reading", "Bytes a second.", [("{{instance}}", f'deriv(choir_load_bytes{{state="done"}}[{WINDOW}])')], "Bps"),
            lines("Time of the last start", "By phase.", [("{{instance}} {{phase}}", "choir_load_seconds")], "s", stack=True),
        ]),
        ("Starts", [
            lines("Running for", "", [("{{instance}}", "time() - choir_start_time_seconds")], "s"),
            lines("Starts", "Within half an hour, beyond the first.", [("{{instance}}", "changes(choir_start_time_seconds[30m])")]),
            states("Cannot start", "Stays to say why in /readyz, and tries again.", [("{{instance}}", "choir_start_failed")], YES_NO),
            states("In an epoch", "", [("{{instance}}", "choir_group_epoch > bool 0")], {0: ("no", "red"), 1: ("yes", "green")}),
        ]),
    ])


def main():
    stale = []
    for make in (fleet, engine, experts, router, audit, start):
        made = make()
        path = OUT / (made["uid"] + ".json")
        text = json.dumps(made, indent=1, sort_keys=True) + "\n"
        if not path.exists() or path.read_text() != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(text)
    if stale and "--check" in sys.argv:
        sys.exit(f"not as tools/grafana/dashboards.py makes them: {', '.join(stale)}; run it")


if __name__ == "__main__":
    main()
