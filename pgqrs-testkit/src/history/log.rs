//! The file that an actor writes its history to: one JSON object a line.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, ErrorKind, Write},
    path::Path,
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::Event;

/// An event and when its actor wrote it down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Microseconds of the host's clock, which all actors share. It orders calls of different
    /// actors that do not touch: one had been answered before the other began.
    pub at: u64,
    /// The event.
    pub event: Event,
}

impl Record {
    /// An event of this moment.
    pub fn now(event: Event) -> Self {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Self { at: u64::try_from(since.as_micros()).unwrap_or(u64::MAX), event }
    }
}

/// One actor's history. Each actor, and each process, needs its own.
#[derive(Debug)]
pub struct Log(Sink);

#[derive(Debug)]
enum Sink {
    File(File),
    Memory(Vec<Record>),
}

impl Log {
    /// A history in a new file, which survives the end of the process at any moment.
    ///
    /// # Errors
    /// If the file exists or cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        File::create_new(path).map(|file| Self(Sink::File(file)))
    }

    /// A history in memory.
    pub fn in_memory() -> Self {
        Self(Sink::Memory(Vec::new()))
    }

    /// Writes an event down, with one write of a whole line.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&mut self, event: Event) -> io::Result<()> {
        let record = Record::now(event);
        match &mut self.0 {
            Sink::Memory(records) => {
                records.push(record);
                Ok(())
            }
            Sink::File(file) => {
                let mut line = serde_json::to_vec(&record)?;
                line.push(b'\n');
                file.write_all(&line)
            }
        }
    }

    /// The events written so far to a history in memory.
    pub fn into_records(self) -> Vec<Record> {
        match self.0 {
            Sink::Memory(records) => records,
            Sink::File(_) => Vec::new(),
        }
    }
}

/// Reads a file that a [`Log`] wrote. A last line without an end, of an actor that was killed as it
/// wrote, is left out: it had not been written down.
///
/// # Errors
/// If the file cannot be read or a whole line is not a record.
pub fn read(path: &Path) -> io::Result<Vec<Record>> {
    let mut file = BufReader::new(File::open(path)?);
    let mut records = Vec::new();
    let mut line = String::new();
    while file.read_line(&mut line)? > 0 && line.ends_with('\n') {
        let record = serde_json::from_str(&line);
        records.push(record.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?);
        line.clear();
    }
    Ok(records)
}
