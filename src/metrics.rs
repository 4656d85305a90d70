//! F2: Prometheus text, format 0.0.4. Takes plain numbers; never measures, never names a secret or a token.

use std::fmt::Write;

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// A document being written, one metric family after the other.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Starts a family.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) -> &mut Self {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self
    }

    /// One sample of the family that was started last.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) -> &mut Self {
        self.0.push_str(name);
        self.labels(labels, None);
        let _ = writeln!(self.0, " {value}");
        self
    }

    /// A histogram: `bounds` in seconds, ascending, and as many counts plus one for what lies above; `sum` in seconds.
    pub fn histogram(&mut self, name: &str, labels: &[(&str, &str)], bounds: &[f64], counts: &[u64], sum: f64) {
        let mut total = 0;
        for (i, count) in counts.iter().enumerate() {
            total += count;
            let le = bounds.get(i).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            let _ = write!(self.0, "{name}_bucket");
            self.labels(labels, Some(&le));
            let _ = writeln!(self.0, " {total}");
        }
        let _ = write!(self.0, "{name}_sum");
        self.labels(labels, None);
        let _ = write!(self.0, " {sum}\n{name}_count");
        self.labels(labels, None);
        let _ = writeln!(self.0, " {total}");
    }

    /// Starts a histogram's family.
    pub fn histogram_family(&mut self, name: &str, help: &str) -> &mut Self {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} histogram");
        self
    }

    fn labels(&mut self, labels: &[(&str, &str)], le: Option<&str>) {
        if labels.is_empty() && le.is_none() {
            return;
        }
        self.0.push('{');
        let all = labels.iter().copied().chain(le.map(|v| ("le", v)));
        for (i, (key, value)) in all.enumerate() {
            if i > 0 {
                self.0.push(',');
            }
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{key}=\"{value}\"");
        }
        self.0.push('}');
    }

    /// The document.
    pub fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_format() {
        let mut t = Text::default();
        t.family("berth_up", Kind::Gauge, "Up.")
            .sample("berth_up", &[("a", "x\"y\n")], 1.0);
        t.histogram_family("h", "H.");
        t.histogram("h", &[("i", "1")], &[0.1, 1.0], &[2, 0, 1], 3.5);
        assert_eq!(
            t.finish(),
            "# HELP berth_up Up.\n# TYPE berth_up gauge\nberth_up{a=\"x\\\"y\\n\"} 1\n# HELP h H.\n# TYPE h histogram\n\
             h_bucket{i=\"1\",le=\"0.1\"} 2\nh_bucket{i=\"1\",le=\"1\"} 2\nh_bucket{i=\"1\",le=\"+Inf\"} 3\n\
             h_sum{i=\"1\"} 3.5\nh_count{i=\"1\"} 3\n"
        );
    }
}
