//! `GET /metrics`: a few numbers in Prometheus' text form.
//!
//! Owns the names: they are a contract. Counts come from the same view as `GET /queue`, so the two never differ.

use std::fmt::Write as _;
use std::sync::Arc;

use orch_actors::api::{About, AuditView, LaneView, QueueView, Slots};
use orch_domain::lane::LaneMode;
use orch_domain::task::Status;
use warp::http::{HeaderValue, header};
use warp::reply::Reply as _;

use super::Shared;
use super::reply::Answer;

/// `GET /metrics`.
pub(super) async fn metrics(shared: Arc<Shared>) -> Answer {
    let queue = shared.control.queue().await?;
    let text = render(&queue, &shared.control.about(), shared.control.ready().await.ready);
    let mut response = text.into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

fn head(out: &mut String, name: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
}

fn render(queue: &QueueView, about: &About, ready: bool) -> String {
    let mut out = String::new();
    head(&mut out, "orch_info", "Version of the supervisor.");
    let _ = writeln!(out, "orch_info{{version=\"{}\"}} 1", escaped(&about.version));
    head(&mut out, "orch_uptime_seconds", "Time since the start.");
    let _ = writeln!(out, "orch_uptime_seconds {}", about.uptime_ms.0 / 1_000);
    head(&mut out, "orch_ready", "Whether work can be taken.");
    let _ = writeln!(out, "orch_ready {}", u8::from(ready));
    head(&mut out, "orch_tasks", "Tasks by status.");
    for status in Status::ALL {
        let count = queue.by_status.get(status.as_str()).copied().unwrap_or(0);
        let _ = writeln!(out, "orch_tasks{{status=\"{}\"}} {count}", status.as_str());
    }
    head(&mut out, "orch_live_tasks", "Live tasks by stage.");
    for (stage, count) in &queue.by_stage {
        let _ = writeln!(out, "orch_live_tasks{{stage=\"{}\"}} {count}", escaped(stage));
    }
    head(&mut out, "orch_slots", "Slots by kind and use.");
    for (kind, Slots { used, total, waiting }) in [("agent", queue.agents), ("gate", queue.gates)] {
        for (state, count) in [("used", used), ("total", total), ("waiting", waiting)] {
            let _ = writeln!(out, "orch_slots{{kind=\"{kind}\",state=\"{state}\"}} {count}");
        }
    }
    head(&mut out, "orch_gate_verdicts", "Verdicts by gate and answer.");
    let tally = &queue.security.tally;
    for (verdict, count) in [("passed", tally.passed), ("failed", tally.failed), ("could_not_run", tally.could_not_run)]
    {
        let _ = writeln!(out, "orch_gate_verdicts{{gate=\"security\",verdict=\"{verdict}\"}} {count}");
    }
    if let Some(audit) = &queue.security.audit {
        head(&mut out, "orch_dependency_audits", "Dependency audits since the start, by what they came to.");
        let AuditView { whole, degraded, failed, could_not_run, .. } = audit;
        for (outcome, count) in
            [("whole", whole), ("degraded", degraded), ("failed", failed), ("could_not_run", could_not_run)]
        {
            let _ = writeln!(out, "orch_dependency_audits{{outcome=\"{outcome}\"}} {count}");
        }
    }
    lanes(&mut out, &queue.merge);
    head(
        &mut out,
        "orch_refused_stale_writes",
        "Writes of owners whose epoch is over that were refused since the start.",
    );
    let _ = writeln!(out, "orch_refused_stale_writes {}", queue.refused_stale_writes);
    head(&mut out, "orch_stopping_tasks", "STOPs being carried out.");
    let _ = writeln!(out, "orch_stopping_tasks {}", queue.stop.under_way.len());
    out
}

/// Figures of the lanes. Those over turns are gauges: they look back over the newest turns only.
fn lanes(out: &mut String, lanes: &[LaneView]) {
    type Figure = fn(&LaneView) -> u64;
    let figures: [(&str, &str, Figure); 13] = [
        ("open", "Whether the lane takes work.", |l| u64::from(l.lane.mode == LaneMode::Running)),
        ("queue", "Tasks that wait for their turn.", |l| l.lease.queue.len() as u64),
        ("held", "Whether somebody has the lease.", |l| u64::from(l.lease.holder.is_some())),
        ("deferred", "Tasks that were put off.", |l| l.deferred.len() as u64),
        ("turns", "Turns that the figures are counted from.", |l| u64::from(l.statistics.turns)),
        ("landed", "Landings among them.", |l| u64::from(l.statistics.landed)),
        ("wait_p50_milliseconds", "Median wait of what landed.", |l| l.statistics.wait_p50_ms.0),
        ("wait_p95_milliseconds", "Wait that nineteen of twenty did not exceed.", |l| l.statistics.wait_p95_ms.0),
        ("test_milliseconds", "Mean time of judging a combined tree.", |l| l.statistics.test_ms.0),
        ("tests", "Combined trees that were judged.", |l| u64::from(l.statistics.tests)),
        ("own_failures", "Turns that sent the work back for its own failure.", |l| {
            u64::from(l.statistics.own_failures)
        }),
        ("conflicts", "Turns that ended in a conflict with main.", |l| u64::from(l.statistics.conflicts)),
        ("landings_per_1000_test_times", "Landings in a thousand test times of a busy lane.", |l| {
            l.statistics.landings_per_1000_test_times
        }),
    ];
    for (name, help, figure) in figures {
        let name = format!("orch_lane_{name}");
        head(out, &name, help);
        for lane in lanes {
            let _ = writeln!(out, "{name}{{repo=\"{}\"}} {}", escaped(lane.lease.repo.as_str()), figure(lane));
        }
    }
    head(out, "orch_lane_resets", "Times that a turn began anew or was put off, by cause.");
    for lane in lanes {
        for (cause, times) in &lane.statistics.resets {
            let repo = escaped(lane.lease.repo.as_str());
            let _ = writeln!(out, "orch_lane_resets{{repo=\"{repo}\",cause=\"{}\"}} {times}", escaped(cause));
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
