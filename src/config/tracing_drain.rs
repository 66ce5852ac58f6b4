//! Sends log records to `tracing`, as events with fields.
//!
//! `tracing` needs the field names of an event in static metadata. A callsite in the source always logs the same keys. So
//! its metadata is created with its first record, and kept for ever: there are a few dozen callsites. Loggers with values
//! of their own add keys, so a callsite may have several metadata.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use slog::{Drain, Key, Never, OwnedKVList, Record, KV as _};
use tracing_core::{
    callsite::{self, Callsite},
    dispatcher,
    field::{FieldSet, Value},
    identify_callsite,
    metadata::{Kind, LevelFilter},
    subscriber::{Interest, NoSubscriber},
    Event, Level, Metadata,
};

/// Upper bound for the fields of an event, including its message. Further fields are dropped.
const MAX_FIELDS: usize = 16;
/// Upper bound for the metadata of one callsite. Further records use the first metadata, and lose the fields that it
/// lacks. Keys are static texts, so only a program that leaks generated keys reaches this limit.
const MAX_VARIANTS: usize = 32;

/// Sends records to the application's `tracing` subscriber, or to the drain `D` if there is no subscriber.
pub(super) struct TracingOr<D>(pub(super) D);

impl<D: Drain<Ok = (), Err = Never>> Drain for TracingOr<D> {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if dispatcher::get_default(|dispatch| dispatch.is::<NoSubscriber>()) {
            return self.0.log(record, values);
        }
        let level = level(record.level());
        if level <= LevelFilter::current() {
            send(level, record, values);
        }
        Ok(())
    }
}

fn level(level: slog::Level) -> Level {
    match level {
        slog::Level::Critical | slog::Level::Error => Level::ERROR,
        slog::Level::Warning => Level::WARN,
        slog::Level::Info => Level::INFO,
        slog::Level::Debug => Level::DEBUG,
        slog::Level::Trace => Level::TRACE,
    }
}

fn send(level: Level, record: &Record<'_>, values: &OwnedKVList) {
    let mut fields = Fields::default();
    // The event lacks a value that cannot be serialised.
    let _ = record.kv().serialize(record, &mut fields);
    let _ = values.serialize(record, &mut fields);
    // slog serialises the last value first.
    fields.0.reverse();
    let metadata = site(level, record, &fields).metadata();
    dispatcher::get_default(|dispatch| {
        if !dispatch.enabled(metadata) {
            return;
        }
        let names: Vec<_> = metadata.fields().iter().collect();
        let Some(message) = names.first() else { return };
        let mut entries = [(message, None); MAX_FIELDS];
        entries[0].1 = Some(record.msg() as &dyn Value);
        for (entry, name) in entries.iter_mut().zip(&names).skip(1) {
            let value = fields.0.iter().find(|(key, _)| *key == name.name());
            *entry = (name, value.map(|(_, value)| value.as_value()));
        }
        dispatch.event(&Event::new(metadata, &metadata.fields().value_set(&entries)));
    });
}

/// The keys and values of one record.
#[derive(Default)]
struct Fields(Vec<(Key, FieldValue)>);

impl Fields {
    /// The names of the event's fields, each once.
    fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        let is_first = |(index, (key, _)): &(usize, &(Key, FieldValue))| {
            *key != "message" && self.0[..*index].iter().all(|(before, _)| before != key)
        };
        let keys = self.0.iter().enumerate().filter(is_first).map(|(_, (key, _))| *key);
        std::iter::once("message").chain(keys).take(MAX_FIELDS)
    }

    fn fit(&self, metadata: &Metadata<'_>) -> bool {
        metadata.fields().iter().map(|field| field.name()).eq(self.names())
    }
}

enum FieldValue {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
}

impl FieldValue {
    fn as_value(&self) -> &dyn Value {
        match self {
            FieldValue::Unsigned(value) => value,
            FieldValue::Signed(value) => value,
            FieldValue::Float(value) => value,
            FieldValue::Bool(value) => value,
            FieldValue::Text(value) => value,
        }
    }
}

impl slog::Serializer for Fields {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        self.0.push((key, FieldValue::Text(value.to_string())));
        Ok(())
    }

    fn emit_u64(&mut self, key: Key, value: u64) -> slog::Result {
        self.0.push((key, FieldValue::Unsigned(value)));
        Ok(())
    }

    fn emit_usize(&mut self, key: Key, value: usize) -> slog::Result {
        self.emit_u64(key, value as u64)
    }

    fn emit_u32(&mut self, key: Key, value: u32) -> slog::Result {
        self.emit_u64(key, value.into())
    }

    fn emit_u16(&mut self, key: Key, value: u16) -> slog::Result {
        self.emit_u64(key, value.into())
    }

    fn emit_i32(&mut self, key: Key, value: i32) -> slog::Result {
        self.emit_i64(key, value.into())
    }

    fn emit_i64(&mut self, key: Key, value: i64) -> slog::Result {
        self.0.push((key, FieldValue::Signed(value)));
        Ok(())
    }

    fn emit_f64(&mut self, key: Key, value: f64) -> slog::Result {
        self.0.push((key, FieldValue::Float(value)));
        Ok(())
    }

    fn emit_bool(&mut self, key: Key, value: bool) -> slog::Result {
        self.0.push((key, FieldValue::Bool(value)));
        Ok(())
    }
}

/// A callsite: a line of the source that logs.
#[derive(Default)]
struct LogSite(OnceLock<Metadata<'static>>);

impl LogSite {
    fn metadata(&'static self) -> &'static Metadata<'static> {
        self.0.get_or_init(|| describe(self, Level::ERROR, "", "", 0, &["message"]))
    }
}

impl Callsite for LogSite {
    /// Ignored, because every event asks the subscriber whether it is enabled.
    fn set_interest(&self, _: Interest) {}

    fn metadata(&self) -> &Metadata<'_> {
        // The metadata is set before the callsite is registered.
        static UNKNOWN: LogSite = LogSite(OnceLock::new());
        self.0.get().unwrap_or_else(|| UNKNOWN.metadata())
    }
}

/// The metadata of each callsite, by file, line and column.
type LogSites = HashMap<(&'static str, u32, u32), Vec<&'static LogSite>>;

fn sites() -> MutexGuard<'static, LogSites> {
    static SITES: OnceLock<Mutex<LogSites>> = OnceLock::new();
    SITES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

fn site(level: Level, record: &Record<'_>, fields: &Fields) -> &'static LogSite {
    let at = (record.file(), record.line(), record.column());
    let mut known_sites = sites();
    let variants = known_sites.entry(at).or_default();
    let fits = |site: &&&'static LogSite| site.0.get().is_some_and(|metadata| fields.fit(metadata));
    if let Some(site) = variants.iter().find(fits).or(variants.first().filter(|_| variants.len() >= MAX_VARIANTS)) {
        return site;
    }
    let names: Vec<_> = fields.names().collect();
    let site: &'static LogSite = Box::leak(Box::default());
    let _ = site.0.set(describe(site, level, record.module(), record.file(), record.line(), names.leak()));
    variants.push(site);
    drop(known_sites);
    // Register without holding the lock, because a subscriber may log.
    callsite::register(site);
    site
}

fn describe(
    site: &'static LogSite,
    level: Level,
    module: &'static str,
    file: &'static str,
    line: u32,
    names: &'static [&'static str],
) -> Metadata<'static> {
    let fields = FieldSet::new(names, identify_callsite!(site));
    Metadata::new("log record", module, level, Some(file), Some(line), Some(module), fields, Kind::EVENT)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use slog::{info, o, trace, warn, Discard, Logger};
    use tracing_core::{
        field::{Field, Visit},
        span, Dispatch, Subscriber,
    };

    use super::*;

    /// Keeps the events at `info` and above.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<KeptEvent>>>);

    #[derive(Debug, Default, PartialEq)]
    struct KeptEvent {
        level: String,
        target: String,
        fields: Vec<(String, String)>,
    }

    impl Visit for KeptEvent {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.fields.push((field.name().into(), format!("debug {value:?}")));
        }

        fn record_str(&mut self, field: &Field, value: &str) {
            self.fields.push((field.name().into(), format!("text {value}")));
        }

        fn record_u64(&mut self, field: &Field, value: u64) {
            self.fields.push((field.name().into(), format!("number {value}")));
        }

        fn record_bool(&mut self, field: &Field, value: bool) {
            self.fields.push((field.name().into(), format!("bool {value}")));
        }
    }

    impl Subscriber for Kept {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() <= Level::INFO
        }

        fn event(&self, event: &Event<'_>) {
            let metadata = event.metadata();
            let mut kept = KeptEvent {
                level: metadata.level().to_string(),
                target: metadata.target().into(),
                ..KeptEvent::default()
            };
            event.record(&mut kept);
            self.0.lock().unwrap().push(kept);
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn a_record_is_an_event_with_its_fields_as_they_are() {
        let kept = Kept::default();
        let log = Logger::root(TracingOr(Discard), o!("application" => "shop"));
        dispatcher::with_default(&Dispatch::new(kept.clone()), || {
            for number in 0..2_u16 {
                warn!(log, "failed to fetch {} list", "service";
                    "service" => "orders", "error" => %"no \"route\"", "instances" => number, "stale" => true);
            }
            info!(log, "another site"; "server" => "192.0.2.1:8848");
            trace!(log, "not enabled");
        });
        let kept = kept.0.lock().unwrap();
        let fields = |number: u64| {
            [
                ("message", "debug failed to fetch service list".to_owned()),
                ("application", "text shop".to_owned()),
                ("service", "text orders".to_owned()),
                ("error", "text no \"route\"".to_owned()),
                ("instances", format!("number {number}")),
                ("stale", "bool true".to_owned()),
            ]
            .map(|(name, value)| (name.to_owned(), value))
        };
        assert_eq!(kept.len(), 3);
        for (number, event) in kept[..2].iter().enumerate() {
            assert_eq!((event.level.as_str(), event.target.as_str()), ("WARN", module_path!()));
            assert_eq!(event.fields, fields(number as u64));
        }
        assert_eq!(kept[2].fields[0].1, "debug another site");
    }

    /// Logs from one line of the source.
    fn log_through(log: &Logger) {
        warn!(log, "same line"; "service" => "orders");
    }

    #[test]
    fn a_loggers_own_values_are_kept_at_a_callsite_that_another_logger_has_used() {
        let kept = Kept::default();
        let plain = Logger::root(TracingOr(Discard), o!());
        let named = plain.new(o!("application" => "shop"));
        dispatcher::with_default(&Dispatch::new(kept.clone()), || {
            for log in [&plain, &named, &plain] {
                log_through(log);
            }
        });
        let kept = kept.0.lock().unwrap();
        let names = |event: &KeptEvent| event.fields.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>().join(" ");
        let logged: Vec<_> = kept.iter().map(names).collect();
        assert_eq!(logged, ["message service", "message application service", "message service"]);
    }

    #[test]
    fn without_a_subscriber_records_go_to_the_other_drain() {
        struct Counting(Arc<Mutex<usize>>);
        impl Drain for Counting {
            type Ok = ();
            type Err = Never;

            fn log(&self, _: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
                *self.0.lock().unwrap() += 1;
                Ok(())
            }
        }
        let count = Arc::default();
        let log = Logger::root(TracingOr(Counting(Arc::clone(&count))), o!());
        info!(log, "for the log crate");
        assert_eq!(*count.lock().unwrap(), 1);
    }
}
