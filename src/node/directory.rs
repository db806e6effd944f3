//! The data directory: what lies where in it, and errors that name it.

use std::path::Path;

use crate::config::Settings;
use crate::error::StartError;
use crate::storage::disk::RealDisk;

/// Where engines with files of their own keep them, under the data directory.
pub const TABLE_DIRECTORY: &str = "table";

/// Where the memory engine writes its checkpoints, under the data directory.
pub const MEMORY_TABLE_FILE: &str = "table.memory";

/// The error with the directory that it is about.
pub(super) fn within_directory(error: StartError, settings: &Settings) -> StartError {
    match error {
        StartError::DataDirectory(problem) => StartError::DataDirectory(format!(
            "data directory {}: {problem}",
            settings.data_dir.display()
        )),
        other => other,
    }
}

/// Opens a data directory, and keeps other processes out of it.
pub(super) fn open_directory(path: &Path) -> Result<RealDisk, StartError> {
    RealDisk::open(path).map_err(|error| {
        let path = path.display();
        StartError::DataDirectory(match error.kind() {
            std::io::ErrorKind::WouldBlock => {
                format!("data directory {path}: another process is using it; stop that one first")
            }
            _ => format!("data directory {path} cannot be opened: {error}"),
        })
    })
}
