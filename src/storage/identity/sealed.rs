//! Small JSON files that say their format, with a checksum over what they say.
//!
//! **Why it exists.** A flipped bit in a number of such a file still is a number: without a checksum
//! it would make another node, or another cluster, of this one in silence.
//!
//! **Guarantees.** A file is replaced whole. What is read is what was written, or is refused, also
//! where the checksum is not there: two flipped bits, one of them in the checksum's name, must not
//! pass for a file that never had one.

use std::fmt::Display;
use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FORMAT, cannot_read};
use crate::error::StartError;
use crate::storage::disk::{Disk, read_file, replace_file};

/// Where the checksum is in the file.
const CHECKSUM: &str = "checksum";

/// Read before all else of a file, which may be of a later format.
#[derive(Deserialize)]
struct Head {
    format: u32,
    checksum: Option<String>,
}

/// Reads a file of this format; `None` where there is none.
pub(super) fn read<T: DeserializeOwned + Serialize>(
    disk: &dyn Disk,
    path: &str,
) -> Result<Option<T>, StartError> {
    let Some(bytes) = read_file(disk, path).map_err(|error| cannot_read(path, &error))? else {
        return Ok(None);
    };
    let unreadable = |error: &dyn Display| {
        StartError::DataDirectory(format!(
            "{path} in this data directory is damaged ({error}): restore the data directory from \
             a copy, or replace the node"
        ))
    };
    let head: Head = serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))?;
    if head.format != FORMAT {
        return Err(StartError::DataDirectory(format!(
            "{path} in this data directory has format {}, and this version of quorate knows only \
             format {FORMAT}: run the version that made the directory",
            head.format
        )));
    }
    let contents: T = serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))?;
    let checksum = checksum(&contents).map_err(|error| unreadable(&error))?;
    if head.checksum.is_none() {
        return Err(unreadable(&"it has no checksum"));
    }
    if head.checksum.is_some_and(|written| written != checksum) {
        return Err(unreadable(&"its checksum does not match"));
    }
    Ok(Some(contents))
}

/// Replaces a file; `contents` is a JSON object with its format in it.
pub(super) fn write<T: Serialize>(disk: &dyn Disk, path: &str, contents: &T) -> io::Result<()> {
    let mut object = serde_json::to_value(contents).map_err(io::Error::other)?;
    let checksum = checksum(contents).map_err(io::Error::other)?;
    if let Value::Object(fields) = &mut object {
        fields.insert(CHECKSUM.to_owned(), Value::String(checksum));
    }
    let mut bytes = serde_json::to_vec_pretty(&object).map_err(io::Error::other)?;
    bytes.push(b'\n');
    replace_file(disk, path, &bytes)
}

/// The CRC-32C of the contents as JSON without spaces: it does not hang on how the file is laid
/// out, but on every name and value in it.
fn checksum<T: Serialize>(contents: &T) -> serde_json::Result<String> {
    Ok(format!("{:08x}", crc32c::crc32c(&serde_json::to_vec(contents)?)))
}
