//! Metrics as JSON lines, and JSON files replaced whole.

use crate::tensor::io::replace_file;
use crate::{Error, Result};
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Appends one JSON object per line to a file. Every line is written with one call and at once, so that a reader (or a
/// crash) sees whole lines only.
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Starts a new file, replacing an earlier one.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let file = File::create(&path)
            .map_err(|e| Error::file(&path, format!("cannot be written: {e}; choose another --out")))?;
        Ok(Self { path, file })
    }

    /// Continues a file, without the lines that the resumed run writes again: those whose number `step` is above `step` and,
    /// unless it is `calibrated`, evaluations (with a `phase`) and what comes between two steps (without `step`: images, blocks). A
    /// last line cut off by a crash is dropped.
    pub fn resume(path: impl AsRef<Path>, step: u64, calibrated: bool) -> Result<Self> {
        let path = path.as_ref();
        let old = match std::fs::read_to_string(path) {
            Ok(s) => s,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::file(path, format!("cannot be read: {e}"))),
        };
        let mut kept = String::new();
        for line in old.lines() {
            let Ok(value) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            let at = value.get("step").and_then(serde_json::Value::as_u64);
            let evaluation = value.get("phase").is_some();
            if at.map_or(calibrated, |at| at <= step && (calibrated || !evaluation)) {
                kept.push_str(line);
                kept.push('\n');
            }
        }
        replace_file(path, kept.as_bytes())?;
        let file = File::options()
            .append(true)
            .open(path)
            .map_err(|e| Error::file(path, format!("cannot be written: {e}; choose another --out")))?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Appends one line. Non-finite numbers become `null` (JSON has none).
    pub fn write(&mut self, record: &impl Serialize) -> Result<()> {
        let fail = |e: String| Error::file(&self.path, format!("cannot be written: {e}; is the disk full?"));
        let mut line = serde_json::to_vec(record).map_err(|e| fail(e.to_string()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|e| fail(e.to_string()))
    }
}

/// Replaces `path` by `value` as indented JSON, whole or not at all.
pub fn write_json(path: impl AsRef<Path>, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| Error::file(&path, e))?;
    text.push(b'\n');
    replace_file(path, &text)
}
