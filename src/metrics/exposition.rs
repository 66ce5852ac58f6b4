//! The text format of Prometheus, version 0.0.4.
//!
//! A family is a `# HELP` and a `# TYPE` line, followed by its samples. All samples of a family must stand
//! together, so [`Exposition`] writes them as they come and has no map of families.
//!
//! ```text
//! # HELP actix_nacos_instances Instances that this process keeps registered, by state.
//! # TYPE actix_nacos_instances gauge
//! actix_nacos_instances{state="registered"} 2
//! ```

use std::fmt::{Display, Write as _};

use crate::model::histogram::Histogram;

/// The type of a metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Builds the text of metric families with their samples. A family without samples is left out.
///
/// The header is written with the first sample.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
    name: &'static str,
    kind: Option<Kind>,
    help: &'static str,
    has_header: bool,
}

impl Exposition {
    /// Begins a family. The samples that follow belong to it.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) {
        (self.name, self.kind, self.help, self.has_header) = (name, Some(kind), help, false);
    }

    /// Adds a sample of the current family: an integer.
    pub(super) fn count(&mut self, labels: &[(&str, &str)], value: u64) {
        self.line("", labels, None, value);
    }

    /// Adds a sample of the current family: a float, such as a time in seconds.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.line("", labels, None, value);
    }

    /// Adds the samples of a histogram. Bucket counts are cumulative in the format and in [`Histogram`], and the
    /// last bucket, `+Inf`, equals the count.
    pub(super) fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        for bucket in &histogram.buckets {
            self.line("_bucket", labels, Some(&bucket.at_most_seconds), bucket.count);
        }
        self.line("_bucket", labels, Some(&"+Inf"), histogram.count);
        self.line("_sum", labels, None, histogram.sum_seconds);
        self.line("_count", labels, None, histogram.count);
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// Writes one sample. `suffix` is added to the family's name; `at_most` is the label `le` of a bucket.
    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], at_most: Option<&dyn Display>, value: impl Display) {
        self.header();
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let mut separator = '{';
        for (name, value) in labels {
            self.text.push(separator);
            self.text.push_str(name);
            self.text.push_str("=\"");
            push_escaped(&mut self.text, value);
            self.text.push('"');
            separator = ',';
        }
        if let Some(at_most) = at_most {
            self.push(format_args!("{separator}le=\"{at_most}\""));
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
        self.push(format_args!(" {value}\n"));
    }

    fn header(&mut self) {
        if std::mem::replace(&mut self.has_header, true) {
            return;
        }
        let (name, help) = (self.name, self.help);
        let kind = match self.kind {
            Some(Kind::Counter) => "counter",
            Some(Kind::Gauge) => "gauge",
            Some(Kind::Histogram) => "histogram",
            None => "untyped",
        };
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn push(&mut self, part: std::fmt::Arguments<'_>) {
        // Writing into a String cannot fail.
        let _ = self.text.write_fmt(part);
    }
}

/// Escapes backslash, quote and line feed, as the format requires.
fn push_escaped(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            character => text.push(character),
        }
    }
}
