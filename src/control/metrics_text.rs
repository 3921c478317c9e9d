//! `/metrics`: counters and gauges as Prometheus reads them (text format 0.0.4).

use std::fmt::Write as _;

use crate::base::counters;
use crate::control::api::Gauge;

/// The media type of the text.
pub(in crate::control) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Every counter, then `gauges`; samples of one name must stand together.
pub(in crate::control) fn render(gauges: &[Gauge]) -> String {
    let mut out = String::new();
    for counter in counters::all() {
        let name = counter.name;
        let _ = writeln!(out, "# HELP strongroom_{name} {}", counter.help);
        let _ = writeln!(out, "# TYPE strongroom_{name} counter");
        let _ = writeln!(out, "strongroom_{name} {}", counter.get());
    }
    let mut last = "";
    for gauge in gauges {
        let name = gauge.name;
        if name != last {
            let _ = writeln!(out, "# HELP strongroom_{name} {}", gauge.help);
            let _ = writeln!(out, "# TYPE strongroom_{name} gauge");
            last = name;
        }
        let labels: Vec<String> =
            gauge.labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(out, "strongroom_{name}{labels} {}", gauge.value);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_name_have_one_head_and_labels_are_escaped() {
        let gauge = |value, cluster: &str| Gauge {
            name: "cluster_mounted",
            help: "Whether it is mounted.",
            labels: vec![("cluster", cluster.to_owned())],
            value,
        };
        let text = render(&[gauge(1.0, "a\"b"), gauge(0.0, "c")]);
        assert_eq!(text.matches("# TYPE strongroom_cluster_mounted gauge").count(), 1);
        assert!(text.contains("strongroom_cluster_mounted{cluster=\"a\\\"b\"} 1\n"));
        assert!(text.contains("# TYPE strongroom_checkpoints_total counter\n"));
    }
}
