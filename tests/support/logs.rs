//! Keeps log records for tests.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use slog::{o, Drain, Level, Logger, Never, OwnedKVList, Record, KV as _};

/// One record: its level, and its text with all keys and values.
#[derive(Debug, Clone)]
pub struct Line {
    pub level: Level,
    pub text: String,
}

/// All records of one logger, in order.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Line>>>);

impl Log {
    pub fn lines(&self) -> Vec<Line> {
        self.0.lock().expect("no panic").clone()
    }

    /// The texts of the lines at info and above.
    pub fn loud(&self) -> Vec<String> {
        let loud = |line: &Line| line.level.is_at_least(Level::Info);
        self.lines().into_iter().filter(loud).map(|line| line.text).collect()
    }

    /// The number of lines at info and above that contain `text`.
    pub fn count(&self, text: &str) -> usize {
        self.loud().iter().filter(|line| line.contains(text)).count()
    }
}

/// A logger of all levels, and its records.
pub fn logger() -> (Logger, Log) {
    let log = Log::default();
    (Logger::root(log.clone(), o!()), log)
}

impl Drain for Log {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        self.0.lock().expect("no panic").push(Line { level: record.level(), text: text(record, values) });
        Ok(())
    }
}

/// The message of a record with all keys and values.
pub fn text(record: &Record<'_>, values: &OwnedKVList) -> String {
    let mut text = Text(record.msg().to_string());
    // Writing to a string cannot fail.
    let _ = record.kv().serialize(record, &mut text);
    let _ = values.serialize(record, &mut text);
    text.0
}

struct Text(String);

impl slog::Serializer for Text {
    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        use fmt::Write as _;
        write!(self.0, " {key}={value}").map_err(slog::Error::from)
    }
}
